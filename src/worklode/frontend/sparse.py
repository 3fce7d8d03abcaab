"""Sparse gradients (`Embedding(sparse=True)`), written out with the dense operators that run on their entries.

Torch has no shape rules for most sparse operators, or wrong ones (a copy without entries). Here each is what its kernel
does to the lists of indices and values. How many entries are equal is in the data: `coalesce` keeps all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GROWS = "a sparse tensor in place (a momentum of sparse gradients) gains entries with every step: it is not followed"
KEEPS_ALL = "aten._coalesce: as if no two entries were equal"


def is_sparse(value: object) -> bool:
    """Whether a value is a tensor of coordinates and values."""
    return isinstance(value, Tensor) and value.layout is torch.sparse_coo


def _like(sparse: Tensor, indices: Tensor, values: Tensor, *, coalesced: bool = False) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, sparse.shape, is_coalesced=coalesced, check_invariants=False)


def _rows(sparse: Tensor) -> Tensor:
    """Row numbers of a tensor that is sparse in its first dimension alone, as gradients of embeddings are."""
    if sparse.sparse_dim() != 1:
        raise NotImplementedError("only tensors that are sparse in their first dimension alone are followed")
    return sparse._indices()[0]


def _clone(sparse: Tensor, **named: Any) -> Tensor:
    return _like(sparse, sparse._indices().clone(), sparse._values().clone())


def _detach(sparse: Tensor, **named: Any) -> Tensor:
    return _like(sparse, sparse._indices(), sparse._values())


def _coalesce(sparse: Tensor) -> Tensor:
    """Sort the rows, then add up the values of equal ones."""
    _, order = torch.sort(_rows(sparse))
    values = sparse._values()
    summed = torch.zeros_like(values).index_add_(0, order, values)
    return _like(sparse, sparse._indices()[:, order], summed, coalesced=True)


def _scaled(sparse: Tensor, factor: Any) -> Tensor:
    return _like(sparse, sparse._indices(), sparse._values() * factor)


def _negative(sparse: Tensor) -> Tensor:
    return _like(sparse, sparse._indices(), -sparse._values())


def _sum(a: Tensor, b: Tensor, *, alpha: float = 1) -> Tensor:
    """Two sparse tensors have the entries of both; a dense one takes up the rows of the other."""
    if not is_sparse(a):
        return a.clone().index_add_(0, _rows(b), b._values(), alpha=alpha)
    values = b._values() if alpha == 1 else b._values() * alpha
    return _like(a, torch.cat((a._indices(), b._indices()), 1), torch.cat((a._values(), values)))


def _add_to(dense: Tensor, sparse: Tensor, *, alpha: float = 1) -> Tensor:
    if is_sparse(dense):
        raise NotImplementedError(GROWS)
    dense.index_add_(0, _rows(sparse), sparse._values(), alpha=alpha)
    return dense


def _add_to_gradient(kept: Tensor, new: Tensor) -> Tensor:
    """The gradient of one microbatch more: the entries of both, one list behind the other.

    Torch coalesces where there would be more entries than the parameter has elements; that is left out.
    """
    if not is_sparse(kept):
        return _add_to(kept, new)
    kept.data = _sum(kept, new)
    return kept


def _at_the_entries_of(dense: Tensor, sparse: Tensor) -> Tensor:
    return _like(sparse, sparse._indices(), dense.index_select(0, _rows(sparse)), coalesced=True)


RULES: dict[str, Callable[..., Tensor]] = {
    "aten.clone": _clone,
    "aten.detach": _detach,
    "aten._coalesce": _coalesce,
    "aten.mul": _scaled,
    "aten.neg": _negative,
    "aten.add": _sum,
    "aten.add_": _add_to,
    "aten.sparse_mask": _at_the_entries_of,
}
"""Operator with a sparse argument -> the same on indices and values."""

ACCUMULATING: dict[str, Callable[..., Tensor]] = {"aten.clone": _detach, "aten.add_": _add_to_gradient}
"""What differs where autograd puts a gradient in its place.

Torch takes over a gradient that nobody else holds and clones it otherwise; fake tensors always have other holders, so
that a clone here is one that a real step does not make.
"""
