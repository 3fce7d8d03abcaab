"""Llama 2 and 3: RMSNorm, rotary positions, SwiGLU, grouped-query attention.

Llama 2: Touvron et al., arXiv 2307.09288 (architecture: arXiv 2302.13971). Llama 3: arXiv 2407.21783, table 3.
Rotary embedding: Su et al., arXiv 2104.09864. SwiGLU: Shazeer, arXiv 2002.05202. Grouped queries: arXiv 2305.13245.
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from worklode.frontend.zoo.attention import merge_heads, split_heads
from worklode.frontend.zoo.workload import Workload, check_shape, random_ids, token_cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Sizes; `context` is the length the model was trained at and decides only the rotary table."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward_width: int
    vocabulary: int
    context: int
    rotary_base: float = 10_000.0
    norm_eps: float = 1e-5


LLAMA2_7B = LlamaConfig(
    width=4096, layers=32, heads=32, key_value_heads=32, feed_forward_width=11_008, vocabulary=32_000, context=4096
)
LLAMA3_8B = LlamaConfig(
    width=4096,
    layers=32,
    heads=32,
    key_value_heads=8,
    feed_forward_width=14_336,
    vocabulary=128_256,
    context=8192,
    rotary_base=500_000.0,
)
LLAMA3_70B = LlamaConfig(
    width=8192,
    layers=80,
    heads=64,
    key_value_heads=8,
    feed_forward_width=28_672,
    vocabulary=128_256,
    context=8192,
    rotary_base=500_000.0,
)


class RotaryTable(nn.Module):
    """Cosines and signed sines of the rotary embedding, [tokens, head width]; not part of the parameters."""

    cosine: Tensor
    signed_sine: Tensor

    def __init__(self, tokens: int, head_width: int, base: float) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, head_width, 2) / head_width)
        angle = torch.outer(torch.arange(tokens), frequency)
        sine = angle.sin()
        self.register_buffer("cosine", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("signed_sine", torch.cat((-sine, sine), dim=-1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows for x [batch, tokens, width], in its dtype."""
        tokens = x.shape[1]
        return self.cosine[:tokens].to(x.dtype), self.signed_sine[:tokens].to(x.dtype)


def rotate(x: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + d/2]) of every head by its position's angle.

    The published form joins the negated second half and the first half; rolling by d/2 with the sign kept in the sine
    table is the same in one movement instead of two.
    """
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * signed_sine


class GroupedQueryAttention(nn.Module):
    """Causal attention with rotary positions; a group of query heads shares one key and value head."""

    def __init__(self, width: int, heads: int, key_value_heads: int) -> None:
        super().__init__()
        self.heads, self.key_value_heads = heads, key_value_heads
        key_value_width = width // heads * key_value_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, key_value_width, bias=False)
        self.value = nn.Linear(width, key_value_width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
        """Attend within x [batch, tokens, width]."""
        mixed = functional.scaled_dot_product_attention(
            rotate(split_heads(self.query(x), self.heads), cosine, signed_sine),
            rotate(split_heads(self.key(x), self.key_value_heads), cosine, signed_sine),
            split_heads(self.value(x), self.key_value_heads),
            is_causal=True,
            enable_gqa=self.heads != self.key_value_heads,
        )
        return self.output(merge_heads(mixed))


class GatedFeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner_width, bias=False)
        self.up = nn.Linear(width, inner_width, bias=False)
        self.down = nn.Linear(inner_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., width] to [..., width]."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class LlamaLayer(nn.Module):
    """Pre-norm decoder layer around any feed-forward block."""

    def __init__(self, config: LlamaConfig, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = GroupedQueryAttention(config.width, config.heads, config.key_value_heads)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
        """Map x [batch, tokens, width] to the same shape."""
        x = x + self.attention(self.attention_norm(x), cosine, signed_sine)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    """Token ids to next-token logits; the head is not tied.

    Args:
        config: sizes.
        make_feed_forward: makes the block between attentions of one layer; None for the dense SwiGLU block.
    """

    def __init__(self, config: LlamaConfig, make_feed_forward: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        make = make_feed_forward or partial(GatedFeedForward, config.width, config.feed_forward_width)
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.rotary = RotaryTable(config.context, config.width // config.heads, config.rotary_base)
        self.layers = nn.ModuleList(LlamaLayer(config, make()) for _ in range(config.layers))
        self.final_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, tokens, vocabulary] of ids [batch, tokens]."""
        x = self.token_embedding(tokens)
        cosine, signed_sine = self.rotary(x)
        for layer in self.layers:
            x = layer(x, cosine, signed_sine)
        return self.head(self.final_norm(x))


def llama2_7b(batch: int = 1, seq_len: int = 4096) -> Workload:
    """Llama 2 7B."""
    return language_model("llama2-7b", LLAMA2_7B, batch, seq_len)


def llama3_8b(batch: int = 1, seq_len: int = 8192) -> Workload:
    """Llama 3 8B."""
    return language_model("llama3-8b", LLAMA3_8B, batch, seq_len)


def llama3_70b(batch: int = 1, seq_len: int = 8192) -> Workload:
    """Llama 3 70B."""
    return language_model("llama3-70b", LLAMA3_70B, batch, seq_len)


def language_model(
    name: str,
    config: LlamaConfig,
    batch: int,
    seq_len: int,
    make_feed_forward: Callable[[], nn.Module] | None = None,
) -> Workload:
    """Workload of one next-token training step; any length, since rotary tables have no weights."""
    check_shape(name, batch=batch, seq_len=seq_len)
    loss = token_cross_entropy(random_ids(config.vocabulary, batch, seq_len))
    sized = replace(config, context=max(config.context, seq_len))
    return Llama(sized, make_feed_forward), {"tokens": random_ids(config.vocabulary, batch, seq_len)}, loss, "adamw"
