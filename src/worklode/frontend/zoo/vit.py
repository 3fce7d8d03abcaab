"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929), with a linear head on the class token."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worklode.frontend.zoo.attention import FeedForward, FusedSelfAttention
from worklode.frontend.zoo.workload import Workload, check_shape, random_ids, token_cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class VitConfig:
    """Sizes of table 1; dropout of table 3 (0.1 on ImageNet), none on attention weights (appendix B.1)."""

    width: int
    layers: int
    heads: int
    feed_forward_width: int
    patch: int = 16
    image: int = 224
    classes: int = 1000
    dropout: float = 0.1
    norm_eps: float = 1e-6


VIT_L16 = VitConfig(width=1024, layers=24, heads=16, feed_forward_width=4096)


class VitLayer(nn.Module):
    """Pre-norm encoder layer."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = FusedSelfAttention(config.width, config.heads)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        activation = nn.Sequential(nn.GELU(), nn.Dropout(config.dropout))
        self.feed_forward = FeedForward(config.width, config.feed_forward_width, activation)
        self.feed_forward_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [batch, tokens, width] to the same shape."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
        return x + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(x)))


class VisionTransformer(nn.Module):
    """Images to class logits."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        tokens = (config.image // config.patch) ** 2 + 1
        self.patch_embedding = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.position_embedding = nn.Parameter(nn.init.normal_(torch.empty(1, tokens, config.width), std=0.02))
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(VitLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, 3, height, width]."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(images.shape[0], -1, -1), patches), dim=1)
        x = self.embedding_dropout(x + self.position_embedding)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.final_norm(x)[:, 0])


def vit_l16(batch: int = 32) -> Workload:
    """ViT-L/16 on 224 x 224 images, supervised on ImageNet-1k classes."""
    check_shape("vit-l16", batch=batch)
    images = torch.randn(batch, 3, VIT_L16.image, VIT_L16.image)
    return VisionTransformer(VIT_L16), images, token_cross_entropy(random_ids(VIT_L16.classes, batch)), "adamw"
