"""Small workloads of many kinds, in the form of a user's workload file: the tests capture them by path.

Dropout is left out where a test compares with a real run on the CPU, which splits it into other operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)


def mlp(batch: int = 8) -> Any:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)), torch.randn(
        batch, 16
    )


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.GroupNorm(2, 8), nn.GELU()) for _ in range(3)
        )
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = x + block(x)
        return torch.as_tensor(self.head(x.mean((2, 3))))


def convnet(batch: int = 4) -> Any:
    def loss(scores: Tensor) -> Tensor:
        return F.cross_entropy(scores, scores.new_zeros(batch, dtype=torch.long))

    return ConvNet(), torch.randn(batch, 3, 16, 16), loss


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, x: Tensor) -> Any:
        batch, length, width = x.shape
        parts = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = self.attend(*parts.unbind(0)).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class ExplicitBlock(Block):
    """Attention written out, so that a real CPU runs the same operators."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v


class LanguageModel(nn.Module):
    def __init__(self, block: Callable[..., nn.Module], length: int = 16, layers: int = 4) -> None:
        super().__init__()
        width, heads, vocabulary = 32, 2, 50
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(torch.zeros(length, width))
        self.layers = nn.ModuleList(block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight  # tied

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x = self.tokens(ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        return {"loss": F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), labels.flatten())}


def language_model(batch: int = 2, seq_len: int = 16, block: Callable[..., nn.Module] = Block) -> Any:
    ids = torch.zeros(batch, seq_len, dtype=torch.long)
    return LanguageModel(block, seq_len), {"ids": ids, "labels": ids}


def explicit_language_model(batch: int = 2, seq_len: int = 16) -> Any:
    return language_model(batch, seq_len, ExplicitBlock)


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell = kind(8, 12, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, steps: Tensor) -> Any:
        return self.head(self.cell(steps)[0])


def lstm(batch: int = 4, seq_len: int = 5) -> Any:
    return Recurrent(nn.LSTM), torch.randn(seq_len, batch, 8)


def gru(batch: int = 4, seq_len: int = 5) -> Any:
    return Recurrent(nn.GRU), torch.randn(seq_len, batch, 8)


class InPlace(nn.Module):
    """Writes in place: activations, a slice of a buffer, a running count."""

    seen: Tensor
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(8))
        self.register_buffer("table", torch.zeros(4, 8))

    def forward(self, x: Tensor) -> Any:
        h = self.first(x)
        h.relu_()
        with torch.no_grad():
            self.seen += h.mean(0)
            self.table[1:2] = self.seen
            self.table.mul_(0.5)
        out = torch.empty_like(h)
        out[:, :4] = h[:, :4] * 2
        out[:, 4:] = h[:, 4:]
        for _ in range(2):
            out = (out * 2).unsqueeze_(0).squeeze_(0)
        return self.second(out + self.table.sum())


def in_place(batch: int = 4) -> Any:
    return InPlace(), torch.randn(batch, 8)


class Frozen(nn.Module):
    """Frozen layer, unused parameter, a parameter expanded over the batch, a bias fed by an input gradient only."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.bias = nn.Parameter(torch.zeros(8))
        self.mix = nn.Parameter(torch.zeros(8, 6))
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Any:
        h = self.frozen(x) + self.bias
        return torch.bmm(h, self.mix.expand(x.shape[0], 8, 6))


def frozen(batch: int = 4) -> Any:
    return Frozen(), torch.randn(batch, 5, 8)
