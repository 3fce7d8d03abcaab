"""What the convolutional networks share: convolution with batch normalisation, and the image classification step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worklode.frontend.zoo.workload import Loss, Workload, check_shape, random_ids, token_cross_entropy

IMAGENET_CLASSES = 1000


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch normalisation, activation. Pads to keep the size at stride 1.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: width and height of the kernel.
        stride: of the convolution.
        groups: of the convolution.
        padding: None for half the kernel.
        activation: None for none.
        norm_eps: epsilon of the normalisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        groups: int = 1,
        padding: int | tuple[int, int] | None = None,
        activation: nn.Module | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (height // 2, width // 2) if padding is None else padding
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=norm_eps)
        if activation is not None:
            self.activation = activation


def image_classification(
    name: str, module: nn.Module, batch: int, optimizer: str, *, image: int = 224, loss: Loss | None = None
) -> Workload:
    """Workload of one supervised step on square RGB images; `loss` replaces the plain cross-entropy."""
    check_shape(name, batch=batch)
    images = torch.randn(batch, 3, image, image)
    return module, images, loss or token_cross_entropy(random_ids(IMAGENET_CLASSES, batch)), optimizer


def global_average(x: Tensor) -> Tensor:
    """[batch, channels, height, width] -> [batch, channels]."""
    return x.mean(dim=(2, 3))
