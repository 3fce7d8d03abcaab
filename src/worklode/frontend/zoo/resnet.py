"""Residual networks: ResNet-18, ResNet-50 (arXiv 1512.03385) and ResNeXt-101 32x8d (arXiv 1611.05431).

Bottlenecks carry their stride in the 3x3 convolution, as every training benchmark does ("v1.5").
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from worklode.frontend.zoo.convolution import IMAGENET_CLASSES, ConvNorm, global_average, image_classification
from worklode.frontend.zoo.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetConfig:
    """Depth and width.

    Attributes:
        blocks: residual blocks of each stage; a stage has twice the channels of the one before.
        bottleneck: three convolutions per block and four times the channels at its end, instead of two.
        groups, group_width: of the 3x3 convolution in a bottleneck, group width at the first stage.
        stem: channels of the first convolution and of the first stage.
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    groups: int = 1
    group_width: int = 64
    stem: int = 64
    classes: int = IMAGENET_CLASSES


RESNET18 = ResNetConfig(blocks=(2, 2, 2, 2), bottleneck=False)
RESNET50 = ResNetConfig(blocks=(3, 4, 6, 3), bottleneck=True)
RESNEXT101_32X8D = ResNetConfig(blocks=(3, 4, 23, 3), bottleneck=True, groups=32, group_width=8)


class ResidualBlock(nn.Module):
    """relu(branch(x) + shortcut(x)); the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, branch: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        changes = stride != 1 or inputs != outputs
        self.shortcut = ConvNorm(inputs, outputs, 1, stride=stride) if changes else nn.Identity()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, outputs, height / stride, width / stride]."""
        return self.activation(self.branch(x) + self.shortcut(x))


def make_block(config: ResNetConfig, inputs: int, width: int, stride: int) -> tuple[ResidualBlock, int]:
    """One block of a stage `width` channels wide, and its output channels."""
    if not config.bottleneck:
        branch = nn.Sequential(
            ConvNorm(inputs, width, 3, stride=stride, activation=nn.ReLU(inplace=True)), ConvNorm(width, width, 3)
        )
        return ResidualBlock(branch, inputs, width, stride), width
    inner, outputs = width * config.group_width // 64 * config.groups, 4 * width
    branch = nn.Sequential(
        ConvNorm(inputs, inner, 1, activation=nn.ReLU(inplace=True)),
        ConvNorm(inner, inner, 3, stride=stride, groups=config.groups, activation=nn.ReLU(inplace=True)),
        ConvNorm(inner, outputs, 1),
    )
    return ResidualBlock(branch, inputs, outputs, stride), outputs


class ResNet(nn.Module):
    """Stem, stages of residual blocks, linear classifier."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(3, config.stem, 7, stride=2, activation=nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        channels = config.stem
        for stage, count in enumerate(config.blocks):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                block, channels = make_block(config, channels, config.stem * 2**stage, stride)
                blocks.append(block)
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Linear(channels, config.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, 3, height, width]."""
        x = self.pool(self.stem(images))
        for stage in self.stages:
            x = stage(x)
        return self.head(global_average(x))


def resnet18(batch: int = 32) -> Workload:
    """ResNet-18 on ImageNet."""
    return image_classification("resnet18", ResNet(RESNET18), batch, "sgd-momentum")


def resnet50(batch: int = 32) -> Workload:
    """ResNet-50 on ImageNet."""
    return image_classification("resnet50", ResNet(RESNET50), batch, "sgd-momentum")


def resnext101_32x8d(batch: int = 32) -> Workload:
    """ResNeXt-101 32x8d on ImageNet."""
    return image_classification("resnext101-32x8d", ResNet(RESNEXT101_32X8D), batch, "sgd-momentum")
