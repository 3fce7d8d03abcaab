"""VGG-16 (Simonyan and Zisserman, arXiv 1409.1556, table 1, configuration D)."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from worklode.frontend.zoo.convolution import IMAGENET_CLASSES, image_classification
from worklode.frontend.zoo.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class VggConfig:
    """(convolutions, channels) of each stage, width of the hidden classifier layers."""

    stages: tuple[tuple[int, int], ...] = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
    image: int = 224
    hidden: int = 4096
    classes: int = IMAGENET_CLASSES
    dropout: float = 0.5


VGG16 = VggConfig()


class Vgg(nn.Module):
    """3x3 convolutions with ReLU, a pooling after each stage, three linear layers."""

    def __init__(self, config: VggConfig) -> None:
        super().__init__()
        channels = 3
        self.stages = nn.ModuleList()
        for count, outputs in config.stages:
            parts: list[nn.Module] = []
            for _ in range(count):
                parts += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                channels = outputs
            self.stages.append(nn.Sequential(*parts, nn.MaxPool2d(2)))
        flat = channels * (config.image // 2 ** len(config.stages)) ** 2
        self.classifier = nn.Sequential(
            nn.Linear(flat, config.hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, 3, height, width]."""
        x = images
        for stage in self.stages:
            x = stage(x)
        return self.classifier(x.flatten(1))


def vgg16(batch: int = 64) -> Workload:
    """VGG-16 on ImageNet."""
    return image_classification("vgg16", Vgg(VGG16), batch, "sgd-momentum", image=VGG16.image)
