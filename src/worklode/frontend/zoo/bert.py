"""BERT pre-training: masked language model and next-sentence heads (Devlin et al., arXiv 1810.04805)."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from worklode.frontend.zoo.attention import FeedForward, MultiHeadAttention
from worklode.frontend.zoo.workload import Workload, check_shape, random_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """Sizes of section 3 of the paper; `norm_eps` and the vocabulary are those of the released code."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward_width: int = 3072
    vocabulary: int = 30_522
    positions: int = 512
    segments: int = 2
    dropout: float = 0.1
    norm_eps: float = 1e-12


BERT_BASE = BertConfig()
BERT_LARGE = replace(BERT_BASE, width=1024, layers=24, heads=16, feed_forward_width=4096)


class BertEmbedding(nn.Module):
    """Sum of token, position and segment embeddings, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.segment = nn.Embedding(config.segments, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """Embed ids [batch, tokens]."""
        x = self.token(tokens) + self.segment(segments) + self.position.weight[: tokens.shape[1]]
        return self.dropout(self.norm(x))


class BertLayer(nn.Module):
    """Post-norm encoder layer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config.width, config.heads, dropout=config.dropout)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.feed_forward = FeedForward(config.width, config.feed_forward_width, nn.GELU())
        self.feed_forward_dropout = nn.Dropout(config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [batch, tokens, width] to the same shape."""
        x = self.attention_norm(x + self.attention_dropout(self.attention(x)))
        return self.feed_forward_norm(x + self.feed_forward_dropout(self.feed_forward(x)))


class MaskedTokenHead(nn.Module):
    """Dense, GELU, norm, then the decoder, whose weight is the token embedding's and whose bias is its own."""

    def __init__(self, config: BertConfig, token_embedding: nn.Embedding) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.decoder = nn.Linear(config.width, config.vocabulary)
        self.decoder.weight = token_embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, tokens, vocabulary] of every position."""
        return self.decoder(self.norm(functional.gelu(self.dense(x))))


class BertForPreTraining(nn.Module):
    """Encoder with both pre-training heads.

    Sequences are full, so attention has no padding mask. The token head runs over all positions, as in the published
    code of the transformers library; implementations that first gather the 15 % of masked positions do less there.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embedding = BertEmbedding(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))
        self.pooler = nn.Linear(config.width, config.width)
        self.masked_token_head = MaskedTokenHead(config, self.embedding.token)
        self.next_sentence_head = nn.Linear(config.width, 2)

    def forward(self, tokens: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Token logits [batch, tokens, vocabulary] and next-sentence logits [batch, 2]."""
        x = self.embedding(tokens, segments)
        for layer in self.layers:
            x = layer(x)
        return self.masked_token_head(x), self.next_sentence_head(self.pooler(x[:, 0]).tanh())


def bert_base(batch: int = 16, seq_len: int = 512) -> Workload:
    """BERT-Base pre-training."""
    return pre_training("bert-base", BERT_BASE, batch, seq_len)


def bert_large(batch: int = 4, seq_len: int = 512) -> Workload:
    """BERT-Large pre-training."""
    return pre_training("bert-large", BERT_LARGE, batch, seq_len)


def pre_training(name: str, config: BertConfig, batch: int, seq_len: int) -> Workload:
    """Workload of one pre-training step of a BERT of any size."""
    check_shape(name, batch=batch, seq_len=seq_len, longest=config.positions)
    inputs = {
        "tokens": random_ids(config.vocabulary, batch, seq_len),
        "segments": random_ids(config.segments, batch, seq_len),
    }
    token_targets = random_ids(config.vocabulary, batch, seq_len)
    sentence_targets = random_ids(2, batch)

    def loss(outputs: tuple[Tensor, Tensor]) -> Tensor:
        token_logits, sentence_logits = outputs
        token_loss = functional.cross_entropy(token_logits.flatten(0, 1), token_targets.flatten())
        return token_loss + functional.cross_entropy(sentence_logits, sentence_targets)

    return BertForPreTraining(config), inputs, loss, "adamw"
