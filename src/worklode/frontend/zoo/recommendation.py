"""DLRM, the Criteo Kaggle configuration of its paper (Naumov et al., arXiv 1906.00091, section 5.1)."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from worklode.frontend.zoo.workload import Workload, check_shape

# Distinct values of the 26 categorical features of the Criteo Kaggle data set.
CRITEO_KAGGLE_ROWS = (
    *(1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194),
    *(27, 14_992, 5_461_306, 10, 5652, 2173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DlrmConfig:
    """Sizes: hidden widths of both MLPs (the bottom one ends in `embedding_width`, the top one in one logit)."""

    dense_features: int = 13
    table_rows: tuple[int, ...] = CRITEO_KAGGLE_ROWS
    embedding_width: int = 16
    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 256)


DLRM_KAGGLE = DlrmConfig()


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with a ReLU after each."""
    return nn.Sequential(*(part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())))


class Dlrm(nn.Module):
    """Embedding bags and a bottom MLP, their pairwise dot products, a top MLP, one logit.

    Table gradients are sparse, as in the authors' code (facebookresearch/dlrm, dlrm_s_pytorch.py): a gradient is a row
    per id looked up, and SGD adds it to that row. Rows are counted as distinct, an upper bound: a batch repeats ids.
    """

    pairs: Tensor

    def __init__(self, config: DlrmConfig) -> None:
        super().__init__()
        vectors = len(config.table_rows) + 1
        self.bottom = perceptron((config.dense_features, *config.bottom, config.embedding_width))
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(rows, config.embedding_width, mode="sum", sparse=True) for rows in config.table_rows
        )
        row, column = torch.tril_indices(vectors, vectors, offset=-1)
        self.register_buffer("pairs", row * vectors + column, persistent=False)
        interactions = vectors * (vectors - 1) // 2
        self.top = perceptron((config.embedding_width + interactions, *config.top))
        self.head = nn.Linear(config.top[-1], 1)

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        """Click logits [batch] of dense features [batch, features] and one id per table, [tables, batch]."""
        bottom = self.bottom(dense)
        offsets = torch.arange(dense.shape[0], device=dense.device)
        looked_up = [table(ids, offsets) for table, ids in zip(self.tables, categories, strict=True)]
        vectors = torch.stack([bottom, *looked_up], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return self.head(self.top(torch.cat((bottom, products), dim=1))).squeeze(1)


def dlrm(batch: int = 2048) -> Workload:
    """DLRM on Criteo Kaggle: 13 dense and 26 categorical features per sample."""
    check_shape("dlrm", batch=batch)
    return click_prediction(DLRM_KAGGLE, batch)


def click_prediction(config: DlrmConfig, batch: int) -> Workload:
    """Workload of one training step of a DLRM of any size."""
    inputs = {
        "dense": torch.randn(batch, config.dense_features),
        "categories": torch.stack([torch.randint(rows, (batch,)) for rows in config.table_rows]),
    }
    clicks = torch.randint(2, (batch,)).float()

    def loss(logits: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, clicks.to(logits.dtype))

    return Dlrm(config), inputs, loss, "sgd"
