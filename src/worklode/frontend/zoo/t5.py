"""T5 v1.0 base: encoder-decoder with relative position biases (Raffel et al., arXiv 1910.10683)."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worklode.frontend.zoo.attention import FeedForward, MultiHeadAttention
from worklode.frontend.zoo.workload import Workload, check_shape, random_ids, token_cross_entropy

# Span corruption of 512 input tokens leaves targets of 114 tokens (section 3.1.4: 15 % corrupted, mean span of 3).
INPUT_TOKENS, TARGET_TOKENS = 512, 114


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Config:
    """Sizes of section 3.1.1; `layers` of the encoder and of the decoder each; buckets of section 2.1."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    head_width: int = 64
    feed_forward_width: int = 3072
    vocabulary: int = 32_128
    buckets: int = 32
    bucket_distance: int = 128
    dropout: float = 0.1
    norm_eps: float = 1e-6


T5_BASE = T5Config()


def relative_buckets(tokens: int, buckets: int, furthest: int, *, causal: bool) -> Tensor:
    """Bucket of every (query, key) pair, [tokens, tokens]: half of them exact offsets, the rest logarithmic.

    A causal table has buckets for keys at or before the query only; the other one gives half its buckets to each side.
    """
    offset = torch.arange(tokens).unsqueeze(0) - torch.arange(tokens).unsqueeze(1)
    side = torch.zeros_like(offset)
    if not causal:
        buckets //= 2
        side = (offset > 0) * buckets
    distance = (-offset).clamp(min=0) if causal else offset.abs()
    exact = buckets // 2
    ratio = (distance.clamp(min=1) / exact).log() / math.log(furthest / exact)
    logarithmic = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return side + torch.where(distance < exact, distance, logarithmic)


class RelativeBias(nn.Module):
    """One learned bias per head and bucket, added to the scores of all layers of a stack."""

    bucket: Tensor
    future: Tensor

    def __init__(self, config: T5Config, tokens: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.bias = nn.Embedding(config.buckets, config.heads)
        table = relative_buckets(tokens, config.buckets, config.bucket_distance, causal=causal)
        self.register_buffer("bucket", table, persistent=False)
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, tokens: int) -> Tensor:
        """Bias [1, heads, tokens, tokens]; minus infinity where a causal stack must not look."""
        bias: Tensor = self.bias(self.bucket[:tokens, :tokens]).permute(2, 0, 1).unsqueeze(0)
        return bias.masked_fill(self.future[:tokens, :tokens], -math.inf) if self.causal else bias


class T5Layer(nn.Module):
    """Pre-norm layer: self-attention, cross-attention in the decoder, feed-forward. No biases, scores unscaled."""

    def __init__(self, config: T5Config, *, decoder: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = self.make_attention(config)
        if decoder:
            self.cross_attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
            self.cross_attention = self.make_attention(config)
        self.decoder = decoder
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        activation = nn.Sequential(nn.ReLU(), nn.Dropout(config.dropout))
        self.feed_forward = FeedForward(config.width, config.feed_forward_width, activation, bias=False)

    @staticmethod
    def make_attention(config: T5Config) -> MultiHeadAttention:
        """Attention in T5's form."""
        return MultiHeadAttention(
            config.width,
            config.heads,
            inner_width=config.heads * config.head_width,
            bias=False,
            output_bias=False,
            dropout=config.dropout,
            scale=1.0,
        )

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None = None) -> Tensor:
        """Map x [batch, tokens, width] to the same shape; `memory` is the encoder's output."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=bias))
        if self.decoder:
            x = x + self.dropout(self.cross_attention(self.cross_attention_norm(x), memory))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class T5Stack(nn.Module):
    """The encoder or the decoder."""

    def __init__(self, config: T5Config, tokens: int, *, decoder: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.relative_bias = RelativeBias(config, tokens, causal=decoder)
        self.layers = nn.ModuleList(T5Layer(config, decoder=decoder) for _ in range(config.layers))
        self.final_norm = nn.RMSNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Map embedded tokens [batch, tokens, width] to hidden states of the same shape."""
        bias = self.relative_bias(x.shape[1])
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias, memory)
        return self.dropout(self.final_norm(x))


class T5(nn.Module):
    """Encoder-decoder; one embedding serves both stacks and, scaled by 1/sqrt(width), the head."""

    def __init__(self, config: T5Config, source_tokens: int, target_tokens: int) -> None:
        super().__init__()
        self.head_scale = config.width**-0.5
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.encoder = T5Stack(config, source_tokens, decoder=False)
        self.decoder = T5Stack(config, target_tokens, decoder=True)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.head.weight = self.token_embedding.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits [batch, target tokens, vocabulary] of source and (shifted) target ids."""
        memory = self.encoder(self.token_embedding(source))
        hidden = self.decoder(self.token_embedding(target), memory)
        return self.head(hidden * self.head_scale)


def t5_base(batch: int = 16, seq_len: int = INPUT_TOKENS) -> Workload:
    """T5 v1.0 base pre-training on span corruption; `seq_len` counts input tokens, targets follow in proportion.

    The paper's optimizer is Adafactor; torch's reads tensor values on the host, which no capture without values can
    follow, so this step uses AdamW.
    """
    return span_corruption("t5-base", T5_BASE, batch, seq_len)


def span_corruption(name: str, config: T5Config, batch: int, seq_len: int) -> Workload:
    """Workload of one pre-training step of a T5 of any size."""
    check_shape(name, batch=batch, seq_len=seq_len)
    target_tokens = max(1, seq_len * TARGET_TOKENS // INPUT_TOKENS)
    inputs = {
        "source": random_ids(config.vocabulary, batch, seq_len),
        "target": random_ids(config.vocabulary, batch, target_tokens),
    }
    loss = token_cross_entropy(random_ids(config.vocabulary, batch, target_tokens))
    return T5(config, seq_len, target_tokens), inputs, loss, "adamw"
