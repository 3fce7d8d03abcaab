"""Decoder-only transformers of the GPT-2 family: GPT-2 XL, GPT-3 175B and OPT-1.3B.

GPT-2: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019). GPT-3: Brown et al.,
arXiv 2005.14165, table 2.1. OPT: Zhang et al., arXiv 2205.01068, table 1. One architecture: pre-norm layers, learned
positions, the output head tied to the token embedding; OPT differs in the activation, in unfused projections and in a
position table that starts two rows late.
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worklode.frontend.zoo.attention import (
    FeedForward,
    FusedSelfAttention,
    MultiHeadAttention,
    WrittenOutSelfAttention,
)
from worklode.frontend.zoo.gpt_text import GptText
from worklode.frontend.zoo.workload import Workload, check_shape, random_ids, token_cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class GptConfig:
    """Sizes and the few choices in which the family differs.

    Attributes:
        position_offset: unused rows in front of the position table (2 in OPT, from its padding convention).
        fused_projection: query, key and value are one linear map.
        gelu: GELU (tanh form) or, where False, ReLU.
        dropout: after the attention and the feed-forward block; embedding_dropout, attention_dropout: there.
        inner_width: width inside the feed-forward block; 0 for four times the width.
        written_out: attention as operators of its own, the whole model sequence first (`WrittenOutSelfAttention`).
    """

    width: int
    layers: int
    heads: int
    context: int
    vocabulary: int
    position_offset: int = 0
    fused_projection: bool = True
    gelu: bool = True
    dropout: float = 0.1
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    inner_width: int = 0
    written_out: bool = False


GPT2_XL = GptConfig(width=1600, layers=48, heads=25, context=1024, vocabulary=50_257)

# The paper alternates dense and locally banded attention; here every layer is dense, as in the Megatron-LM runs that
# published times for this size. Its text gives no dropout: GPT-2's is kept, whose masks the published account of those
# runs' memory counts (arXiv 2205.05198, section 4.1).
GPT3_175B = GptConfig(width=12_288, layers=96, heads=96, context=2048, vocabulary=50_257)

# Section 2.2: dropout 0.1 throughout, none on embeddings; the released configuration has none on attention weights.
OPT_1_3B = GptConfig(
    width=2048,
    layers=24,
    heads=32,
    context=2048,
    vocabulary=50_272,
    position_offset=2,
    fused_projection=False,
    gelu=False,
    embedding_dropout=0.0,
    attention_dropout=0.0,
)


class GptLayer(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        activation = nn.GELU(approximate="tanh") if config.gelu else nn.ReLU()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = _attention(config)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.inner_width or 4 * config.width, activation)
        self.feed_forward_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map x [batch, tokens, width] (sequence first where attention is written out) to the same shape."""
        masks = () if mask is None else (mask,)
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), *masks))
        return x + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(x)))


class Gpt(nn.Module):
    """Token ids to next-token logits."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.position_offset = config.position_offset
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.position_offset + config.context, config.width)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(GptLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.head.weight = self.token_embedding.weight
        self.written_out = config.written_out
        self.later: Tensor
        if config.written_out:
            later = torch.ones(config.context, config.context, dtype=torch.bool).triu(1)
            self.register_buffer("later", later, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, tokens, vocabulary] of ids [batch, tokens]."""
        if self.written_out:
            return self._sequence_first(tokens.t()).transpose(0, 1)
        first = self.position_offset
        positions = self.position_embedding.weight[first : first + tokens.shape[1]]
        x = self.embedding_dropout(self.token_embedding(tokens) + positions)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.final_norm(x))

    def _sequence_first(self, tokens: Tensor) -> Tensor:
        """Logits [tokens, batch, vocabulary] of ids [tokens, batch]."""
        length = tokens.shape[0]
        positions = self.position_embedding.weight[self.position_offset : self.position_offset + length]
        x = self.embedding_dropout(self.token_embedding(tokens) + positions.unsqueeze(1))
        mask = self.later[:length, :length]
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.final_norm(x))


def _attention(config: GptConfig) -> nn.Module:
    if config.written_out:
        return WrittenOutSelfAttention(config.width, config.heads, dropout=config.attention_dropout)
    attention = FusedSelfAttention if config.fused_projection else MultiHeadAttention
    return attention(config.width, config.heads, dropout=config.attention_dropout, causal=True)


def gpt2_xl(batch: int = 2, seq_len: int = 1024) -> Workload:
    """GPT-2 XL, 1.5 billion parameters."""
    return language_model("gpt2-xl", GPT2_XL, batch, seq_len)


def gpt3_175b(batch: int = 1, seq_len: int = 2048) -> Workload:
    """GPT-3 175B."""
    return language_model("gpt3-175b", GPT3_175B, batch, seq_len)


def opt_1_3b(batch: int = 2, seq_len: int = 2048) -> Workload:
    """OPT-1.3B."""
    return language_model("opt-1.3b", OPT_1_3B, batch, seq_len)


def language_model(name: str, config: GptConfig, batch: int, seq_len: int) -> Workload:
    """Workload of one next-token training step of a model of the family."""
    check_shape(name, batch=batch, seq_len=seq_len, longest=config.context)
    loss = token_cross_entropy(random_ids(config.vocabulary, batch, seq_len))
    return Gpt(config), {"tokens": random_ids(config.vocabulary, batch, seq_len)}, loss, "adamw"


def gpt(name: str, sizes: GptText, batch: int, seq_len: int) -> Workload:
    """A GPT of the sizes of a text; the name is the text."""
    config = GptConfig(
        width=sizes.hidden,
        layers=sizes.layers,
        heads=sizes.heads,
        context=sizes.context,
        vocabulary=sizes.vocab,
        dropout=sizes.dropout,
        embedding_dropout=sizes.dropout,
        attention_dropout=sizes.dropout,
        inner_width=sizes.ffn,
        written_out=sizes.attention == "written-out",
    )
    return language_model(name, config, batch, seq_len)
