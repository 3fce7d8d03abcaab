"""Nests of look-ups and scatters, whose places are data, and of the losses that look a class up."""

from __future__ import annotations

from worklode.frontend.call import Call, TensorMeta
from worklode.frontend.loops.draft import (
    LOOKUP,
    PLACED,
    ROW,
    Draft,
    NestRule,
    argument,
    dimension_of,
    integers_of,
    meta_of,
)


def _embedding(call: Call) -> Draft | None:
    """`embedding(table, ids)`."""
    table, ids = meta_of(call, 0), meta_of(call, 1)
    draft = Draft()
    tokens = draft.loops(ids.shape)
    row, width = draft.loop(table.shape[0], LOOKUP), draft.loop(table.shape[1])
    draft.operands[0] = {row: table.strides[0], width: table.strides[1]}
    draft.operands[1] = dict(zip(tokens, ids.strides, strict=True))
    draft.results[0] = dict(zip((*tokens, width), call.outputs[0].strides, strict=True))
    return draft


def _embedding_backward(call: Call) -> Draft | None:
    """`embedding_dense_backward(g, ids, ...)`: rows are placed by data and summed."""
    gradient, ids, table = meta_of(call, 0), meta_of(call, 1), call.outputs[0]
    draft = Draft()
    tokens = draft.loops(ids.shape)
    row, width = draft.loop(table.shape[0], PLACED), draft.loop(table.shape[1])
    draft.operands[0] = dict(zip((*tokens, width), gradient.strides, strict=True))
    draft.operands[1] = dict(zip(tokens, ids.strides, strict=True))
    draft.results[0] = {row: table.strides[0], width: table.strides[1]}
    return draft


def _index_select(call: Call) -> Draft | None:
    """`index_select(x, dim, ids)`."""
    x, ids, result = meta_of(call, 0), meta_of(call, 2), call.outputs[0]
    if not x.shape:
        return None
    dim = dimension_of(call, 1, len(x.shape))
    draft = Draft()
    loops = draft.loops(result.shape)
    found = draft.loop(x.shape[dim], LOOKUP)
    draft.operands[0] = {found if d == dim else loops[d]: stride for d, stride in enumerate(x.strides)}
    draft.operands[1] = {loops[dim]: ids.strides[0]} if ids.strides else {}
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _index_add(call: Call) -> Draft | None:
    """`index_add(x, dim, ids, source)`: x is added to, its rows chosen by data."""
    x, ids, source = meta_of(call, 0), meta_of(call, 2), meta_of(call, 3)
    if not x.shape:
        return None
    dim = dimension_of(call, 1, len(x.shape))
    draft = Draft()
    loops = draft.loops(source.shape)
    placed = draft.loop(x.shape[dim], PLACED)
    draft.operands[0] = {placed if d == dim else loops[d]: stride for d, stride in enumerate(x.strides)}
    draft.operands[1] = {loops[dim]: ids.strides[0]} if ids.strides else {}
    draft.operands[2] = dict(zip(loops, source.strides, strict=True))
    result = call.outputs[0]
    draft.results[0] = {placed if d == dim else loops[d]: stride for d, stride in enumerate(result.strides)}
    draft.linear = [[0, 2]]
    return draft


def _gather(call: Call) -> Draft | None:
    """`gather(x, dim, ids)`: other dimensions run along."""
    x, ids, result = meta_of(call, 0), meta_of(call, 2), call.outputs[0]
    dim = dimension_of(call, 1, len(x.shape))
    draft = Draft()
    loops = draft.loops(result.shape)
    found = draft.loop(x.shape[dim] if x.shape else 1, LOOKUP)
    if any(x.shape[d] != ids.shape[d] for d in range(len(x.shape)) if d != dim):
        return None
    draft.operands[0] = {found if d == dim else loops[d]: stride for d, stride in enumerate(x.strides)}
    draft.operands[1] = dict(zip(loops, ids.strides, strict=True))
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _index(call: Call) -> Draft | None:
    """`index(x, [..., ids, ...])` with one tensor of ids: where its dimension was are those of the ids."""
    found = _one_index(call)
    if found is None:
        return None
    dim, ids = found
    x, result = meta_of(call, 0), call.outputs[0]
    draft = Draft()
    loops = draft.loops(result.shape)
    chosen = draft.loop(x.shape[dim], LOOKUP)
    rest = [*loops[:dim], chosen, *loops[dim + len(ids.shape) :]]
    draft.operands[0] = dict(zip(rest, x.strides, strict=True))
    draft.operands[1] = dict(zip(loops[dim : dim + len(ids.shape)], ids.strides, strict=True))
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _index_put(call: Call) -> Draft | None:
    """`index_put(x, [..., ids, ...], values)` with one tensor of ids."""
    found = _one_index(call)
    if found is None:
        return None
    dim, ids = found
    x, values = meta_of(call, 0), meta_of(call, 2)
    draft = Draft()
    loops = draft.loops((*x.shape[:dim], *ids.shape, *x.shape[dim + 1 :]))
    placed = draft.loop(x.shape[dim], PLACED)
    rest = [*loops[:dim], placed, *loops[dim + len(ids.shape) :]]
    strides = draft.along(loops, values)
    if strides is None:
        return None
    draft.operands[0] = dict(zip(rest, x.strides, strict=True))
    draft.operands[1] = dict(zip(loops[dim : dim + len(ids.shape)], ids.strides, strict=True))
    draft.operands[2] = strides
    draft.results[0] = dict(zip(rest, call.outputs[0].strides, strict=True))
    draft.linear = [[0, 2]]
    return draft


def _one_index(call: Call) -> tuple[int, TensorMeta] | None:
    """The dimension and the ids, where one tensor of integers indexes; masks and several tensors have no rule."""
    indices = argument(call, 1)
    if not isinstance(indices, tuple):
        return None
    found = [(dim, ids) for dim, ids in enumerate(indices) if isinstance(ids, TensorMeta)]
    if len(found) != 1 or found[0][1].dtype in {"bool", "uint8"}:
        return None
    return found[0]


def _scatter(call: Call) -> Draft | None:
    """`scatter(x, dim, ids, source)`, `scatter_add`: other dimensions run along."""
    x, ids = meta_of(call, 0), meta_of(call, 2)
    dim = dimension_of(call, 1, len(x.shape))
    if not x.shape or any(x.shape[d] != ids.shape[d] for d in range(len(x.shape)) if d != dim):
        return None
    draft = Draft()
    loops = draft.loops(ids.shape)
    placed = draft.loop(x.shape[dim], PLACED)
    rest = [placed if d == dim else loop for d, loop in enumerate(loops)]
    draft.operands[0] = dict(zip(rest, x.strides, strict=True))
    draft.operands[1] = dict(zip(loops, ids.strides, strict=True))
    if len(call.args) > 3 and isinstance(call.args[3], TensorMeta):
        if call.args[3].shape != ids.shape:
            return None
        draft.operands[2] = dict(zip(loops, call.args[3].strides, strict=True))
    draft.results[0] = dict(zip(rest, call.outputs[0].strides, strict=True))
    draft.linear = [[0, 2]] if 2 in draft.operands and "reduce" not in call.name else []
    return draft


def _token_loss(call: Call) -> Draft | None:
    """`nll_loss_forward(x, target, ...)`: one class of every row is looked up, then rows are summed."""
    x, target = meta_of(call, 0), meta_of(call, 1)
    if len(x.shape) != 2 or len(target.shape) != 1:
        return None
    draft = Draft()
    rows, classes = draft.loop(x.shape[0]), draft.loop(x.shape[1], ROW)
    draft.operands[0] = {rows: x.strides[0], classes: x.strides[1]}
    draft.operands[1] = {rows: target.strides[0]}
    if integers_of(argument(call, 3)) == (0,):  # no reduction: one loss a row
        draft.results[0] = {rows: call.outputs[0].strides[0]}
    else:
        draft.results = {0: {}, 1: {}}
    return draft


def _token_loss_backward(call: Call) -> Draft | None:
    """`nll_loss_backward(g, x, target, ...)`: one element of every row is placed by data."""
    gradient, x, target = meta_of(call, 0), meta_of(call, 1), meta_of(call, 2)
    if len(x.shape) != 2 or len(target.shape) != 1:
        return None
    draft = Draft()
    rows, classes = draft.loop(x.shape[0]), draft.loop(x.shape[1], PLACED)
    if gradient.shape:
        draft.operands[0] = {rows: gradient.strides[0]}
    draft.operands[1] = {rows: x.strides[0], classes: x.strides[1]}
    draft.operands[2] = {rows: target.strides[0]}
    draft.results[0] = {rows: call.outputs[0].strides[0], classes: call.outputs[0].strides[1]}
    return draft


RULES: dict[str, NestRule] = {
    "embedding": _embedding,
    "embedding_dense_backward": _embedding_backward,
    "index_select": _index_select,
    "index_add": _index_add,
    "gather": _gather,
    "index": _index,
    "index_put": _index_put,
    "scatter": _scatter,
    "scatter_add": _scatter,
    "nll_loss_forward": _token_loss,
    "nll_loss_backward": _token_loss_backward,
}
