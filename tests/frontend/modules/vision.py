"""Convolutions of every kind, and what images are trained with."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from .entry import training_step


def double_convolution(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_1, self.down_2, self.bottom = (double_convolution(*w) for w in ((3, 8), (8, 16), (16, 32)))
        self.lift_2, self.lift_1 = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.up_2, self.up_1 = double_convolution(32, 16), double_convolution(16, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down_1(x)
        second = self.down_2(F.max_pool2d(first, 2))
        x = self.lift_2(self.bottom(F.max_pool2d(second, 2)))
        x = self.lift_1(self.up_2(torch.cat((second, x), 1)))
        return self.head(self.up_1(torch.cat((first, x), 1)))


@training_step("U-Net: transposed convolutions, skip connections, a class per pixel")
def unet() -> Any:
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    return UNet(), torch.randn(2, 3, 16, 16), lambda scores: F.cross_entropy(scores, labels)


@training_step("video: 3-D convolutions, one factored into space and time, 3-D pooling", options={"optimizer": "sgd"})
def video() -> Any:
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 12, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        nn.Conv3d(12, 8, (3, 1, 1), padding=(1, 0, 0)),
        nn.ReLU(),
        nn.ConvTranspose3d(8, 4, 2, stride=2),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ), torch.randn(2, 3, 4, 16, 16)


class InvertedBottleneck(nn.Module):
    """Expand, mix every channel apart, squeeze and excite, project; ReLU6, hard swish and hard sigmoid."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        wide = 4 * width
        self.expand, self.expand_norm = nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.mix = nn.Conv2d(wide, wide, 3, padding=dilation, dilation=dilation, groups=wide, bias=False)
        self.mix_norm = nn.BatchNorm2d(wide)
        self.squeeze, self.excite = nn.Conv2d(wide, width, 1), nn.Conv2d(width, wide, 1)
        self.project, self.project_norm = nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.expand_norm(self.expand(x)))
        h = F.hardswish(self.mix_norm(self.mix(h)))
        h = h * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return x + self.project_norm(self.project(h))


@training_step("depthwise, grouped and dilated convolutions; squeeze and excitation")
def grouped_convolutions() -> Any:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        InvertedBottleneck(8),
        InvertedBottleneck(8, dilation=2),
        nn.Conv2d(8, 12, 3, groups=4, padding=1),
        nn.ConvTranspose2d(12, 6, 4, stride=2, padding=1, groups=3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
    ), torch.randn(2, 4, 16, 16)


@training_step("ConvNeXt: wide depthwise kernels, channels last, layer scale, stochastic depth")
def convnext() -> Any:
    return nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), ConvNextBlock(16), ConvNextBlock(16)), torch.randn(2, 3, 32, 32)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.mix(x).permute(0, 2, 3, 1))
        h = (self.scale * self.down(F.gelu(self.up(h)))).permute(0, 3, 1, 2)
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < 0.9
        return x + torch.where(kept, h / 0.9, torch.zeros_like(h))


@training_step("super-resolution: sub-pixel upsampling, an L1 loss", options={"optimizer": "adam"})
def pixel_shuffle() -> Any:
    target = torch.rand(2, 3, 24, 24)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.PReLU(),
        nn.Conv2d(16, 27, 3, padding=1),
        nn.PixelShuffle(3),
        nn.Conv2d(3, 12, 3, padding=1, padding_mode="reflect"),
        nn.PixelUnshuffle(1),
        nn.Conv2d(12, 3, 1),
    )
    return module, torch.rand(2, 3, 8, 8), lambda image: F.l1_loss(image, target)


class SpatialTransformer(nn.Module):
    """The network chooses where it samples: an affine grid, and offsets of its own on top (deformable)."""

    def __init__(self) -> None:
        super().__init__()
        self.locate, self.offsets = nn.Linear(3 * 8 * 8, 6), nn.Conv2d(3, 2, 3, padding=1)
        self.body = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.locate(x.flatten(1)).view(-1, 2, 3), list(x.shape), align_corners=False)
        grid = grid + self.offsets(x).permute(0, 2, 3, 1).tanh()
        return F.relu(self.body(F.grid_sample(x, grid, align_corners=False, padding_mode="border")))


@training_step("deformable sampling: affine grid and learned offsets through grid_sample")
def grid_sampling() -> Any:
    return SpatialTransformer(), torch.randn(2, 3, 8, 8)


@training_step("style transfer: instance norm with affine parameters, group norm, reflection padding, Gram matrices")
def style_transfer() -> Any:
    def loss(image: Tensor) -> Tensor:
        features = image.flatten(2)
        gram = torch.einsum("bcs,bds->bcd", features, features) / features.shape[-1]
        return gram.square().mean() + F.mse_loss(image[..., 1:], image[..., :-1])

    module = nn.Sequential(
        nn.ReflectionPad2d(2),
        nn.Conv2d(3, 8, 5),
        nn.InstanceNorm2d(8, affine=True),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.GroupNorm(4, 8),
        nn.ELU(),
        nn.Conv2d(8, 3, 1),
        nn.Sigmoid(),
    )
    return module, torch.rand(2, 3, 12, 12), loss


class SegNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x, places = F.max_pool2d(F.relu(self.encode(x)), 2, return_indices=True)
        return self.decode(F.max_unpool2d(x, places, [2, 2]))


@training_step("SegNet: unpooling to the remembered places", options={"optimizer": "sgd-momentum"})
def segnet() -> Any:
    return SegNet(), torch.randn(2, 3, 8, 8)


class Detector(nn.Module):
    """A pyramid of two scales; scores and boxes of each, as nested lists and tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.lateral, self.smooth = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.score, self.box = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        fine = F.silu(self.stem(x))
        coarse = F.silu(self.deep(fine))
        fine = self.smooth(self.lateral(fine) + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        return [(self.score(level), self.box(level)) for level in (fine, coarse)]


@training_step("detection pyramid: lists of tuples as output, a focal loss and a box loss")
def detector() -> Any:
    def loss(levels: list[tuple[Tensor, Tensor]]) -> Tensor:
        total = levels[0][0].new_zeros(())
        for scores, boxes in levels:
            wanted = torch.zeros_like(scores)
            entropy = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
            total = total + (entropy * (1 - torch.exp(-entropy)) ** 2).sum()
            total = total + F.smooth_l1_loss(boxes, torch.zeros_like(boxes), beta=0.1)
        return total

    return Detector(), torch.randn(2, 3, 16, 16), loss


class Autoencoder(nn.Module):
    """A variational autoencoder: the code is sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.log_variance = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.decode = nn.Sequential(nn.Linear(4, 16), nn.Softplus(), nn.Linear(16, 20))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.tanh(self.encode(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decode(code), mean, log_variance


@training_step("variational autoencoder: random sampling in forward, a loss of a tuple")
def variational_autoencoder() -> Any:
    x = torch.rand(8, 20)

    def loss(output: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        image, mean, log_variance = output
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return F.binary_cross_entropy_with_logits(image, x) + divergence

    return Autoencoder(), x, loss


class Adversaries(nn.Module):
    """Generator and discriminator in one step; the discriminator's loss does not reach the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.generate = nn.Sequential(nn.ConvTranspose2d(8, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
        self.judge = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 16, 1))

    def forward(self, real: Tensor) -> dict[str, Tensor]:
        noise = torch.randn(real.shape[0], 8, 1, 1, device=real.device, dtype=real.dtype)
        made = self.generate(noise)
        on_real, on_made = self.judge(real), self.judge(made.detach())
        critic = F.softplus(-on_real).mean() + F.softplus(on_made).mean()
        self.judge.requires_grad_(False)
        generator = F.softplus(-self.judge(made)).mean()
        self.judge.requires_grad_(True)
        return {"loss": critic + generator, "generator": generator}


@training_step("adversarial pair: two losses, detached samples, parameters frozen for a part of the step")
def adversarial() -> Any:
    return Adversaries(), torch.randn(4, 3, 8, 8), None, lambda ps: torch.optim.Adam(ps, betas=(0.5, 0.999))


class CriticWithPenalty(nn.Module):
    """WGAN-GP: the gradient of the critic by its input is part of the loss, so backward is differentiated itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, real: Tensor, made: Tensor) -> Tensor:
        share = torch.rand(real.shape[0], 1, device=real.device, dtype=real.dtype)
        between = (share * real + (1 - share) * made).requires_grad_()
        (slope,) = torch.autograd.grad(self.layers(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return self.layers(made).mean() - self.layers(real).mean() + 10 * penalty


@training_step("gradient penalty: autograd.grad inside forward, its result differentiated again")
def gradient_penalty() -> Any:
    return CriticWithPenalty(), (torch.randn(6, 12), torch.randn(6, 12))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten()), nn.EmbeddingBag(50, 32, mode="mean")
        self.project = nn.Linear(8 * 4, 16)
        self.project_text = nn.Linear(32, 16)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        a = F.normalize(self.project(self.image(images)), dim=-1)
        b = F.normalize(self.project_text(self.text(tokens)), dim=-1)
        scores = torch.einsum("id,jd->ij", a, b) * self.temperature.exp()
        labels = torch.arange(scores.shape[0], device=scores.device)
        return (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2


@training_step("contrastive towers (CLIP): einsum of all pairs, a learned temperature that is a scalar parameter")
def contrastive() -> Any:
    return Siamese(), (torch.randn(4, 3, 8, 8), torch.zeros(4, 6, dtype=torch.long))


class Patches(nn.Module):
    """Convolution written out: unfold, a product, fold."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 3 * 4 * 4))
        self.back = nn.Parameter(torch.randn(3 * 4 * 4, 12))

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 4, stride=2, padding=1)
        return F.fold(self.back @ F.gelu(self.weight @ columns), x.shape[-2:], 4, stride=2, padding=1)


@training_step("patches by unfold and fold around plain products")
def unfolded_patches() -> Any:
    return Patches(), torch.randn(2, 3, 8, 8)
