"""GNMT v2, the recurrent translation model of MLPerf training v0.5 to v0.7.

Wu et al., arXiv 1609.08144, in the four-layer form with Bahdanau attention that MLPerf trains (NVIDIA
DeepLearningExamples, PyTorch/Translation/GNMT): shared embeddings, a bidirectional first encoder layer, residual
connections from the third layer, attention of the first decoder layer's output fed to all later ones.
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worklode.frontend.zoo.workload import Workload, check_shape, random_ids, token_cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class GnmtConfig:
    """Sizes; `layers` of the encoder and of the decoder each."""

    width: int = 1024
    layers: int = 4
    vocabulary: int = 32_320
    dropout: float = 0.2
    label_smoothing: float = 0.1


GNMT_V2 = GnmtConfig()


class Encoder(nn.Module):
    """LSTM layers over embedded source tokens, [tokens, batch, width]."""

    def __init__(self, config: GnmtConfig) -> None:
        super().__init__()
        width = config.width
        self.dropout = nn.Dropout(config.dropout)
        self.bidirectional = nn.LSTM(width, width, bidirectional=True)
        self.second = nn.LSTM(2 * width, width)
        self.layers = nn.ModuleList(nn.LSTM(width, width) for _ in range(config.layers - 2))

    def forward(self, x: Tensor) -> Tensor:
        """Map [tokens, batch, width] to the same shape."""
        x, _ = self.bidirectional(self.dropout(x))
        x, _ = self.second(self.dropout(x))
        for layer in self.layers:
            x = x + layer(self.dropout(x))[0]
        return x


class BahdanauAttention(nn.Module):
    """Normalised additive attention: score = g·v/|v| · tanh(query + key + b) (Bahdanau et al., arXiv 1409.0473)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.vector = nn.Parameter(nn.init.uniform_(torch.empty(width), -bound, bound))
        self.vector_gain = nn.Parameter(torch.full((1,), bound))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Context [targets, batch, width] of x [targets, batch, width] over memory [sources, batch, width]."""
        query = self.query(x).transpose(0, 1).unsqueeze(2)
        key = self.key(memory).transpose(0, 1).unsqueeze(1)
        direction = self.vector * (self.vector_gain / self.vector.norm())
        scores = (query + key + self.bias).tanh() @ direction
        return torch.bmm(scores.softmax(dim=-1), memory.transpose(0, 1)).transpose(0, 1)


class Decoder(nn.Module):
    """Teacher-forced decoder: attention after the first layer, its context joined to the input of all later layers."""

    def __init__(self, config: GnmtConfig) -> None:
        super().__init__()
        width = config.width
        self.dropout = nn.Dropout(config.dropout)
        self.first = nn.LSTM(width, width)
        self.attention = BahdanauAttention(width)
        self.layers = nn.ModuleList(nn.LSTM(2 * width, width) for _ in range(config.layers - 1))
        self.head = nn.Linear(width, config.vocabulary)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Logits [tokens, batch, vocabulary] of embedded target tokens [tokens, batch, width]."""
        x, _ = self.first(self.dropout(x))
        context = self.attention(x, memory)
        for index, layer in enumerate(self.layers):
            result, _ = layer(self.dropout(torch.cat((x, context), dim=-1)))
            x = result if index == 0 else x + result
        return self.head(x)


class Gnmt(nn.Module):
    """Source and target ids, [tokens, batch], to target logits. Sentences fill their length: nothing is masked."""

    def __init__(self, config: GnmtConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits [tokens, batch, vocabulary]."""
        return self.decoder(self.embedding(target), self.encoder(self.embedding(source)))


def gnmt(batch: int = 128, seq_len: int = 50) -> Workload:
    """GNMT v2 on sentence pairs of `seq_len` tokens each; inputs are [tokens, batch], as LSTM kernels want them."""
    check_shape("gnmt", batch=batch, seq_len=seq_len)
    config = GNMT_V2
    inputs = {
        "source": random_ids(config.vocabulary, seq_len, batch),
        "target": random_ids(config.vocabulary, seq_len, batch),
    }
    loss = token_cross_entropy(random_ids(config.vocabulary, seq_len, batch), config.label_smoothing)
    return Gnmt(config), inputs, loss, "adam"
