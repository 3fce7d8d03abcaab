"""MobileNetV3-Large (Howard et al., arXiv 1905.02244, table 1)."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from worklode.frontend.zoo.convolution import IMAGENET_CLASSES, ConvNorm, global_average, image_classification
from worklode.frontend.zoo.workload import Workload

NORM_EPS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockConfig:
    """A row of table 1: kernel, expanded and output channels, squeeze-excite, hard swish (else ReLU), stride."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    hard_swish: bool
    stride: int


def rows(*table: tuple[int, int, int, bool, bool, int]) -> tuple[BlockConfig, ...]:
    """Records of the rows of table 1."""
    return tuple(
        BlockConfig(kernel=k, expanded=e, outputs=o, squeeze=se, hard_swish=hs, stride=s)
        for k, e, o, se, hs, s in table
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetConfig:
    """Rows of table 1 between the first and the last convolution, and the widths around them."""

    stem: int = 16
    blocks: tuple[BlockConfig, ...] = rows(
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )
    last: int = 960
    hidden: int = 1280
    classes: int = IMAGENET_CLASSES
    dropout: float = 0.2


MOBILENET_V3_LARGE = MobileNetConfig()


def round_to_eight(channels: float) -> int:
    """Nearest multiple of 8, at least 8, never more than 10 % below (the published code's rule for widths)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def activation(*, hard_swish: bool) -> nn.Module:
    """Hard swish or ReLU, in place."""
    return nn.Hardswish(inplace=True) if hard_swish else nn.ReLU(inplace=True)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_to_eight(channels / 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same shape."""
        return x * self.gate(self.expand(self.relu(self.reduce(x.mean(dim=(2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze-excite, project; residual where the shape stays."""

    def __init__(self, inputs: int, config: BlockConfig) -> None:
        super().__init__()
        width, swish = config.expanded, config.hard_swish
        parts: list[nn.Module] = []
        if width != inputs:
            parts.append(ConvNorm(inputs, width, 1, activation=activation(hard_swish=swish), norm_eps=NORM_EPS))
        parts.append(
            ConvNorm(
                width,
                width,
                config.kernel,
                stride=config.stride,
                groups=width,
                activation=activation(hard_swish=swish),
                norm_eps=NORM_EPS,
            )
        )
        if config.squeeze:
            parts.append(SqueezeExcite(width))
        parts.append(ConvNorm(width, config.outputs, 1, norm_eps=NORM_EPS))
        self.branch = nn.Sequential(*parts)
        self.residual = config.stride == 1 and inputs == config.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, outputs, height / stride, width / stride]."""
        return x + self.branch(x) if self.residual else self.branch(x)


class MobileNetV3(nn.Module):
    """Stem, inverted residuals, last convolution, two-layer classifier."""

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(3, config.stem, 3, stride=2, activation=activation(hard_swish=True), norm_eps=NORM_EPS)
        channels = config.stem
        self.blocks = nn.ModuleList()
        for block in config.blocks:
            self.blocks.append(InvertedResidual(channels, block))
            channels = block.outputs
        self.last = ConvNorm(channels, config.last, 1, activation=activation(hard_swish=True), norm_eps=NORM_EPS)
        self.classifier = nn.Sequential(
            nn.Linear(config.last, config.hidden),
            activation(hard_swish=True),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, 3, height, width]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(global_average(self.last(x)))


def mobilenet_v3_large(batch: int = 128) -> Workload:
    """MobileNetV3-Large on ImageNet."""
    return image_classification("mobilenet-v3-large", MobileNetV3(MOBILENET_V3_LARGE), batch, "sgd-momentum")
