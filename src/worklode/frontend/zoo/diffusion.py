"""The UNet of Stable Diffusion v1 (Rombach et al., arXiv 2112.10752), trained to predict noise in latent space.

Text embeddings (CLIP, 77 tokens) and latents (the autoencoder's, 64 x 64 for 512 x 512 pixels) are inputs: both of
those networks are frozen in training and may be run ahead of it.
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worklode.frontend.zoo.attention import MultiHeadAttention
from worklode.frontend.zoo.workload import Workload, check_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetConfig:
    """Sizes of the released v1 configuration.

    Attributes:
        width: channels of the first level.
        multipliers: channels of each level over `width`; resolution halves from level to level.
        attention: which levels have transformer blocks.
        blocks: residual blocks of a level on the way down (one more on the way up).
        heads: attention heads everywhere.
        context_width, context_tokens: of the text embedding.
        latent_channels, latent_size: of the input and the output.
        norm_groups: groups of every group normalisation.
    """

    width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    attention: tuple[bool, ...] = (True, True, True, False)
    blocks: int = 2
    heads: int = 8
    context_width: int = 768
    context_tokens: int = 77
    latent_channels: int = 4
    latent_size: int = 64
    norm_groups: int = 32


STABLE_DIFFUSION_V1 = UnetConfig()


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of the diffusion step, then a two-layer perceptron."""

    frequency: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        frequency = torch.exp(-math.log(10_000.0) * torch.arange(width // 2) / (width // 2))
        self.register_buffer("frequency", frequency, persistent=False)
        self.first = nn.Linear(width, 4 * width)
        self.second = nn.Linear(4 * width, 4 * width)

    def forward(self, steps: Tensor) -> Tensor:
        """Embedding [batch, 4·width] of step numbers [batch]."""
        angle = steps.unsqueeze(1) * self.frequency
        wave = torch.cat((angle.cos(), angle.sin()), dim=1)
        return self.second(functional.silu(self.first(wave.to(self.first.weight.dtype))))


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the time embedding is added in between."""

    def __init__(self, config: UnetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(config.norm_groups, inputs)
        self.first_conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(4 * config.width, outputs)
        self.second_norm = nn.GroupNorm(config.norm_groups, outputs)
        self.second_conv = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, outputs, height, width]."""
        hidden = self.first_conv(functional.silu(self.first_norm(x)))
        hidden = hidden + self.time(functional.silu(time))[:, :, None, None]
        return self.shortcut(x) + self.second_conv(functional.silu(self.second_norm(hidden)))


class GeluGatedFeedForward(nn.Module):
    """GEGLU (arXiv 2002.05202) with four times the width inside; value and gate are one projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 8 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., width] to [..., width]."""
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * functional.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention over pixels, cross-attention to the text, feed-forward, inside 1x1 convolutions."""

    def __init__(self, config: UnetConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = MultiHeadAttention(channels, config.heads, bias=False)
        self.cross_attention_norm = nn.LayerNorm(channels)
        self.cross_attention = MultiHeadAttention(
            channels, config.heads, context_width=config.context_width, bias=False
        )
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.feed_forward = GeluGatedFeedForward(channels)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same shape."""
        pixels = self.project_in(self.norm(x)).flatten(2).transpose(1, 2)
        pixels = pixels + self.attention(self.attention_norm(pixels))
        pixels = pixels + self.cross_attention(self.cross_attention_norm(pixels), context)
        pixels = pixels + self.feed_forward(self.feed_forward_norm(pixels))
        return x + self.project_out(pixels.transpose(1, 2).unflatten(2, x.shape[2:]))


class Stage(nn.Module):
    """A residual block and, where the level has attention, a transformer block."""

    def __init__(self, config: UnetConfig, inputs: int, outputs: int, *, attention: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(config, inputs, outputs)
        self.transformer = TransformerBlock(config, outputs) if attention else None

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, outputs, height, width]."""
        x = self.residual(x, time)
        return x if self.transformer is None else self.transformer(x, context)


class Unet(nn.Module):
    """Noisy latents to predicted noise; every result on the way down is joined to an input on the way up."""

    def __init__(self, config: UnetConfig) -> None:
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        last = len(widths) - 1
        self.time_embedding = TimeEmbedding(config.width)
        self.input_conv = nn.Conv2d(config.latent_channels, config.width, 3, padding=1)
        channels, joined = config.width, [config.width]
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        for level, width in enumerate(widths):
            stages = nn.ModuleList()
            for _ in range(config.blocks):
                stages.append(Stage(config, channels, width, attention=config.attention[level]))
                channels = width
                joined.append(channels)
            self.down.append(stages)
            if level < last:
                self.downsample.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                joined.append(channels)
        self.middle_in = Stage(config, channels, channels, attention=True)
        self.middle_out = Stage(config, channels, channels, attention=False)
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level in range(last, -1, -1):
            stages = nn.ModuleList()
            for _ in range(config.blocks + 1):
                stages.append(Stage(config, channels + joined.pop(), widths[level], attention=config.attention[level]))
                channels = widths[level]
            self.up.append(stages)
            if level > 0:
                self.upsample.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.output_norm = nn.GroupNorm(config.norm_groups, channels)
        self.output_conv = nn.Conv2d(channels, config.latent_channels, 3, padding=1)

    def forward(self, latents: Tensor, steps: Tensor, context: Tensor) -> Tensor:
        """Noise [batch, channels, size, size] of latents of that shape, steps [batch], text [batch, tokens, width]."""
        time = self.time_embedding(steps)
        x = self.input_conv(latents)
        kept = [x]
        for level, stages in enumerate(self.down):
            for stage in stages:  # type: ignore[attr-defined]
                x = stage(x, time, context)
                kept.append(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
                kept.append(x)
        x = self.middle_out(self.middle_in(x, time, context), time, context)
        for level, stages in enumerate(self.up):
            for stage in stages:  # type: ignore[attr-defined]
                x = stage(torch.cat((x, kept.pop()), dim=1), time, context)
            if level < len(self.upsample):
                x = self.upsample[level](functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.output_conv(functional.silu(self.output_norm(x)))


def sd_unet(batch: int = 4) -> Workload:
    """Stable Diffusion v1 at 512 x 512 pixels: mean squared error of the predicted noise."""
    check_shape("sd-unet", batch=batch)
    return noise_prediction(STABLE_DIFFUSION_V1, batch)


def noise_prediction(config: UnetConfig, batch: int) -> Workload:
    """Workload of one training step of a UNet of any size; 1000 diffusion steps, as in the paper."""
    size = config.latent_size
    inputs = {
        "latents": torch.randn(batch, config.latent_channels, size, size),
        "steps": torch.randint(1000, (batch,)),
        "context": torch.randn(batch, config.context_tokens, config.context_width),
    }
    noise = torch.randn(batch, config.latent_channels, size, size)

    def loss(predicted: Tensor) -> Tensor:
        return functional.mse_loss(predicted, noise.to(predicted.dtype))

    return Unet(config), inputs, loss, "adamw"
