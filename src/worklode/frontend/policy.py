"""What is done where Python asks for a value that fake tensors do not have. Every answer is noted.

A truth value: `x.all()` is True, every other test is False (the branch of the healthy step: no overflow, no padding).
A floating-point number (`loss.item()`, a norm): 1. Selections by a mask (`nonzero`, `x[mask]`): everything is selected,
an upper bound. An integer could become a size or an index, so no answer would be honest: the capture is refused.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch._ops import OpOverload

aten = torch.ops.aten

SCALAR = aten._local_scalar_dense.default
_MASK_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
SELECTIONS = frozenset((aten.nonzero.default, aten.masked_select.default, *_MASK_INDEXING))

REFUSED = {
    "aten._ctc_loss.Tensor": "ctc_loss (the length of its alignments is in the data)",
    "aten._ctc_loss.default": "ctc_loss (the length of its alignments is in the data)",
    "aten._pack_padded_sequence.default": "pack_padded_sequence (the number of steps is in the data)",
    "aten._unique2.default": "unique (the number of values is in the data)",
    "aten.unique_dim.default": "unique (the number of values is in the data)",
    "aten.unique_consecutive.default": "unique_consecutive (the number of values is in the data)",
    "aten.repeat_interleave.Tensor": "repeat_interleave with a tensor of counts (the size is in the data)",
    "aten.bincount.default": "bincount (the number of bins is in the data)",
    "aten.equal.default": "torch.equal (the answer is in the data)",
}
"""Operators whose shapes or answers lie in the data, by name, and how to call them to the user."""


INTEGER = "an integer read from a tensor (.item(), int(), .tolist(), or a size, index or loop bound)"

HOST_READS = {
    torch.Tensor.__int__: INTEGER,
    torch.Tensor.__index__: INTEGER,
    torch.Tensor.numpy: "values as a NumPy array (.numpy())",
    torch.Tensor.__array__: "values as a NumPy array",
}
"""Ways a tensor's values leave torch that are refused even where its element type is floating-point."""


_ALL_TRUE = ("aten.all", "aten._is_all_true")
"""Tests that a healthy step passes (the second is what torch.distributions asks of its arguments)."""


class DataDependentError(Exception):
    """A construct that cannot be followed without values. `construct` names it to the user."""

    def __init__(self, construct: str) -> None:
        super().__init__(construct)
        self.construct = construct


def scalar(tensor: torch.Tensor, writer: str) -> tuple[bool | float, str]:
    """The answer to `bool(tensor)`, `float(tensor)` or `tensor.item()`, and the note to leave.

    Args:
        tensor: the tensor asked.
        writer: name of the operator that made it, "" where it is not known.

    Raises:
        DataDependentError: an integer was asked for.
    """
    origin = f" of {writer}" if writer else ""
    if tensor.dtype == torch.bool:
        answer = writer in _ALL_TRUE
        return answer, f"truth value{origin} taken as {answer}"
    if tensor.dtype.is_floating_point:
        return 1.0, f"number{origin} taken as 1.0"
    raise DataDependentError(INTEGER)


def selects(func: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether a call in `SELECTIONS` makes a shape that depends on values."""
    if func not in _MASK_INDEXING:
        return True
    return any(isinstance(index, torch.Tensor) and _is_mask(index) for index in args[1])


def selection(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Run a selection as if every element were selected: the arguments it now has, and its result."""
    if func is aten.nonzero.default:
        source = args[0]
        return args, source.new_empty((source.numel(), source.dim()), dtype=torch.long)
    if func is aten.masked_select.default:
        shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
        return args, args[0].new_empty((prod(shape),))
    replaced = (args[0], _all_indices(args[1]), *args[2:])
    return replaced, func(*replaced, **kwargs)


def _is_mask(index: torch.Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _all_indices(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Index lists where masks became the positions they would have if all of them were set."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if index is None or not _is_mask(index):
            found.append(index)
        else:
            found.extend(index.new_empty((index.numel(),), dtype=torch.long) for _ in range(index.dim()))
    return found
