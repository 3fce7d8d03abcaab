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

from torch import Tensor, nn

from worklode.frontend.zoo.attention import FeedForward, FusedSelfAttention, MultiHeadAttention
from worklode.frontend.zoo.workload import Workload, check_shape, random_ids, token_cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class GptConfig:
    """Sizes and the few choices in which the family differs.

    Attributes:
        position_offset: unused rows in front of the position table (2 in OPT, from its padding convention).
        fused_projection: query, key and value are one linear map.
        gelu: GELU (tanh form) or, where False, ReLU.
        dropout: after the attention and the feed-forward block; embedding_dropout, attention_dropout: there.
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
        attention = FusedSelfAttention if config.fused_projection else MultiHeadAttention
        activation = nn.GELU(approximate="tanh") if config.gelu else nn.ReLU()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = attention(config.width, config.heads, dropout=config.attention_dropout, causal=True)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, 4 * config.width, activation)
        self.feed_forward_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [batch, tokens, width] to the same shape."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
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

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, tokens, vocabulary] of ids [batch, tokens]."""
        first = self.position_offset
        positions = self.position_embedding.weight[first : first + tokens.shape[1]]
        x = self.embedding_dropout(self.token_embedding(tokens) + positions)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.final_norm(x))


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
