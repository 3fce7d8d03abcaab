"""Inception-v3 with its auxiliary classifier (Szegedy et al., arXiv 1512.00567, table 1 and figures 5 to 10)."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worklode.frontend.zoo.convolution import IMAGENET_CLASSES, ConvNorm, global_average, image_classification
from worklode.frontend.zoo.workload import Workload, check_shape, random_ids

NORM_EPS = 1e-3
# Weight of the auxiliary loss in the reference training recipe of torchvision; the first Inception paper has 0.3.
AUXILIARY_WEIGHT = 0.4
# The auxiliary head normalises a 1x1 grid: over a single image there is no variance to train on.
SMALLEST_BATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionConfig:
    """Published sizes are fixed in the blocks; `divide` divides every width, for tests of the wiring."""

    divide: int = 1
    image: int = 299
    classes: int = IMAGENET_CLASSES
    dropout: float = 0.5


INCEPTION_V3 = InceptionConfig()


def conv(
    inputs: int, outputs: int, kernel: int | tuple[int, int], *, stride: int = 1, padding: int | None = None
) -> ConvNorm:
    """Convolution, normalisation, ReLU."""
    relu = nn.ReLU(inplace=True)
    return ConvNorm(inputs, outputs, kernel, stride=stride, padding=padding, activation=relu, norm_eps=NORM_EPS)


class Parallel(nn.ModuleList):
    """Branches over one input, joined along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, ...] to [batch, sum of the branches' outputs, ...]."""
        return torch.cat([branch(x) for branch in self], dim=1)


def pooled(inputs: int, outputs: int) -> nn.Sequential:
    """Average pooling of 3x3 windows, then a 1x1 convolution."""
    return nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), conv(inputs, outputs, 1))


def block_35(inputs: int, pool: int, d: int) -> Parallel:
    """Figure 5: 1x1, 5x5, double 3x3 and pooling branches on the 35x35 grid; `pool` channels from pooling."""
    return Parallel(
        [
            conv(inputs, 64 // d, 1),
            nn.Sequential(conv(inputs, 48 // d, 1), conv(48 // d, 64 // d, 5)),
            nn.Sequential(conv(inputs, 64 // d, 1), conv(64 // d, 96 // d, 3), conv(96 // d, 96 // d, 3)),
            pooled(inputs, pool),
        ]
    )


def reduction_35(inputs: int, d: int) -> Parallel:
    """Figure 10: grid from 35x35 to 17x17."""
    return Parallel(
        [
            conv(inputs, 384 // d, 3, stride=2, padding=0),
            nn.Sequential(
                conv(inputs, 64 // d, 1),
                conv(64 // d, 96 // d, 3),
                conv(96 // d, 96 // d, 3, stride=2, padding=0),
            ),
            nn.MaxPool2d(3, stride=2),
        ]
    )


def block_17(inputs: int, w: int, d: int) -> Parallel:
    """Figure 6 with n = 7: factorised 7x7 branches of inner width `w` on the 17x17 grid."""
    out = 192 // d
    return Parallel(
        [
            conv(inputs, out, 1),
            nn.Sequential(conv(inputs, w, 1), conv(w, w, (1, 7)), conv(w, out, (7, 1))),
            nn.Sequential(
                conv(inputs, w, 1),
                conv(w, w, (7, 1)),
                conv(w, w, (1, 7)),
                conv(w, w, (7, 1)),
                conv(w, out, (1, 7)),
            ),
            pooled(inputs, out),
        ]
    )


def reduction_17(inputs: int, d: int) -> Parallel:
    """Grid from 17x17 to 8x8."""
    w = 192 // d
    return Parallel(
        [
            nn.Sequential(conv(inputs, w, 1), conv(w, 320 // d, 3, stride=2, padding=0)),
            nn.Sequential(
                conv(inputs, w, 1), conv(w, w, (1, 7)), conv(w, w, (7, 1)), conv(w, w, 3, stride=2, padding=0)
            ),
            nn.MaxPool2d(3, stride=2),
        ]
    )


def block_8(inputs: int, d: int) -> Parallel:
    """Figure 7: branches that end in a 1x3 and a 3x1 side by side, on the 8x8 grid."""
    w = 384 // d

    def split() -> Parallel:
        return Parallel([conv(w, w, (1, 3)), conv(w, w, (3, 1))])

    return Parallel(
        [
            conv(inputs, 320 // d, 1),
            nn.Sequential(conv(inputs, w, 1), split()),
            nn.Sequential(conv(inputs, 448 // d, 1), conv(448 // d, w, 3), split()),
            pooled(inputs, 192 // d),
        ]
    )


class AuxiliaryHead(nn.Module):
    """Classifier on the last 17x17 grid, for training only."""

    def __init__(self, inputs: int, config: InceptionConfig) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=3)
        self.reduce = conv(inputs, 128 // config.divide, 1)
        self.conv = conv(128 // config.divide, 768 // config.divide, 5, padding=0)
        self.head = nn.Linear(768 // config.divide, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        return self.head(global_average(self.conv(self.reduce(self.pool(x)))))


class InceptionV3(nn.Module):
    """Images to logits and auxiliary logits."""

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__()
        d = config.divide
        self.stem = nn.Sequential(
            conv(3, 32 // d, 3, stride=2, padding=0),
            conv(32 // d, 32 // d, 3, padding=0),
            conv(32 // d, 64 // d, 3),
            nn.MaxPool2d(3, stride=2),
            conv(64 // d, 80 // d, 1),
            conv(80 // d, 192 // d, 3, padding=0),
            nn.MaxPool2d(3, stride=2),
        )
        self.grid_35 = nn.Sequential(
            block_35(192 // d, 32 // d, d), block_35(256 // d, 64 // d, d), block_35(288 // d, 64 // d, d)
        )
        self.grid_17 = nn.Sequential(
            reduction_35(288 // d, d), *(block_17(768 // d, w // d, d) for w in (128, 160, 160, 192))
        )
        self.auxiliary = AuxiliaryHead(768 // d, config)
        self.grid_8 = nn.Sequential(reduction_17(768 // d, d), block_8(1280 // d, d), block_8(2048 // d, d))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2048 // d, config.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Logits and, in training, auxiliary logits, [batch, classes] each, of images [batch, 3, height, width]."""
        x = self.grid_17(self.grid_35(self.stem(images)))
        logits: Tensor = self.head(self.dropout(global_average(self.grid_8(x))))
        return (logits, self.auxiliary(x)) if self.training else logits


def inception_v3(batch: int = 32) -> Workload:
    """Inception-v3 on ImageNet, 299 x 299 pixels."""
    check_shape("inception-v3", batch=batch, smallest_batch=SMALLEST_BATCH)
    targets = random_ids(IMAGENET_CLASSES, batch)

    def loss(outputs: tuple[Tensor, Tensor]) -> Tensor:
        logits, auxiliary_logits = outputs
        return functional.cross_entropy(logits, targets) + AUXILIARY_WEIGHT * functional.cross_entropy(
            auxiliary_logits, targets
        )

    module = InceptionV3(INCEPTION_V3)
    return image_classification("inception-v3", module, batch, "sgd-momentum", image=INCEPTION_V3.image, loss=loss)
