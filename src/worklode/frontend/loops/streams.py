"""Nests of operators on aligned operands: element by element, normalised, moved, made from nothing, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from worklode.frontend.call import Call, TensorMeta
from worklode.frontend.loops.draft import (
    FREE,
    ROW,
    WHOLE,
    Draft,
    NestRule,
    argument,
    dimension_of,
    dimensions_of,
    integers_of,
    meta_of,
)
from worklode.frontend.operators import elementwise, optimizer
from worklode.frontend.operators.rule import dimension
from worklode.graph.loops import LoopKind


def _aligned(
    call: Call, shape: tuple[int, ...], special: Mapping[int, LoopKind] | None = None, default: LoopKind = FREE
) -> Draft | None:
    """Every operand and result broadcast to `shape`; dimensions of another kind are named in `special`."""
    draft = Draft()
    for place, size in enumerate(shape):
        draft.loop(size, (special or {}).get(place, default))
    loops = list(range(len(shape)))
    for place, meta in enumerate(call.inputs):
        strides = draft.along(loops, meta)
        if strides is None:
            return None
        draft.operands[place] = strides
    for place, meta in enumerate(call.outputs):
        strides = draft.along(loops, meta)
        if strides is None:
            return None
        if meta.elements > 1 or not any(size > 1 for size in shape):
            draft.results[place] = strides
    return draft


_SUMS = frozenset(("add", "sub", "subtract", "rsub"))
_COPIES = frozenset(("clone", "_to_copy", "alias_copy", "detach_copy", "neg", "div"))


def _pointwise(call: Call) -> Draft | None:
    """Element by element, operands broadcast."""
    if not call.outputs:
        return None
    shape = max((meta.shape for meta in call.outputs), key=lambda s: (len(s), s))
    draft = _aligned(call, shape)
    packet = call.packet.removeprefix("_foreach_").rstrip("_")
    everything = range(len(call.inputs))
    if draft is not None and packet in _SUMS and len(call.inputs) == _numbers_left_out(call):
        draft.linear = [everything]
    elif draft is not None and packet == "mul":
        draft.linear = [[place] for place in everything]
    elif draft is not None and packet in _COPIES:
        draft.linear = [[0]]
    elif draft is not None and packet == "copy":
        draft.linear = [[1]]
    elif draft is not None and packet == "where" and len(call.inputs) == 3:
        draft.linear = [[1, 2]]
    return draft


def _numbers_left_out(call: Call) -> int:
    """Operands of a sum of two if both are tensors: x + 1 is not linear in x."""
    return 2 if isinstance(call.args[1] if len(call.args) > 1 else None, TensorMeta) else -1


def _along_dims(dims_argument: int, kind: LoopKind) -> NestRule:
    """Aligned with the largest operand; the dimensions that positional argument names are of `kind`."""

    def rule(call: Call) -> Draft | None:
        shape = _largest(call)
        dims = dict.fromkeys(dimensions_of(call, dims_argument, len(shape)), kind)
        if not dims:
            return None
        return _aligned(call, shape, dims)

    return rule


def _largest(call: Call) -> tuple[int, ...]:
    return max((*call.inputs, *call.outputs), key=lambda meta: (len(meta.shape), meta.elements)).shape


def _normalized(shape_argument: int) -> NestRule:
    """Layer and RMS norm with their gradients: the last dimensions are one row."""

    def rule(call: Call) -> Draft | None:
        shape = _largest(call)
        row = len(integers_of(argument(call, shape_argument)))
        return _aligned(call, shape, dict.fromkeys(range(len(shape) - row, len(shape)), WHOLE))

    return rule


def _moved(dims: Callable[[Call, int], Iterable[int]]) -> NestRule:
    """Elements move along `dims` (of the result's rank) only: there the whole is needed.

    Where one dimension is put together of equal parts (the gradients of query, key and value side by side), only which
    part it is must stay whole; within the parts iterations are free.
    """

    def rule(call: Call) -> Draft | None:
        if len(call.outputs) != 1:
            return None
        result = call.outputs[0]
        moved = sorted({dimension(d, len(result.shape)) for d in dims(call, len(result.shape))})
        if any(len(meta.shape) != len(result.shape) for meta in call.inputs):
            return None
        parts = _equal_parts(call, moved[0]) if len(moved) == 1 else 1
        draft = Draft()
        loops = [
            draft.loop(size // parts if d in moved else size, WHOLE if d in moved and parts == 1 else FREE)
            for d, size in enumerate(result.shape)
        ]
        for place, meta in enumerate(call.inputs):
            strides = {}
            for d, (size, stride) in enumerate(zip(meta.shape, meta.strides, strict=True)):
                if (d not in moved or parts > 1) and size not in {1, draft.sizes[loops[d]]}:
                    return None
                strides[loops[d]] = stride if size > 1 or draft.sizes[loops[d]] == 1 else 0
            draft.operands[place] = strides
        draft.results[0] = dict(zip(loops, result.strides, strict=True))
        if parts > 1:
            part = draft.loop(parts, WHOLE)
            draft.results[0] = {**draft.results[0], part: result.strides[moved[0]] * (result.shape[moved[0]] // parts)}
        draft.linear = [range(len(call.inputs))]
        return draft

    return rule


def _equal_parts(call: Call, dim: int) -> int:
    """Equal parts a `cat` makes of its operands, or a `slice_backward` of its gradient and zeros; 1 where none are."""
    result = call.outputs[0].shape[dim]
    lengths = {meta.shape[dim] for meta in call.inputs}
    length = lengths.pop() if len(lengths) == 1 else 0
    if length <= 1 or result % length:
        return 1
    if call.packet == "slice_backward":
        start, step = integers_of(argument(call, 3)), integers_of(argument(call, 5))
        return result // length if start and start[0] % length == 0 and step == (1,) else 1
    return result // length if call.packet == "cat" else 1


def _selected_backward(call: Call) -> Draft | None:
    """`select_backward(g, sizes, dim, index)`: g has one dimension less."""
    result, gradient = call.outputs[0], meta_of(call, 0)
    dim = dimension_of(call, 2, len(result.shape))
    draft = Draft()
    loops = [draft.loop(size, WHOLE if d == dim else FREE) for d, size in enumerate(result.shape)]
    draft.operands[0] = dict(zip([loop for loop in loops if loop != dim], gradient.strides, strict=True))
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _constant(call: Call) -> Draft | None:
    """Values from nothing; operands give a shape."""
    draft = Draft()
    if not call.outputs:
        return None
    result = call.outputs[0]
    draft.results[0] = dict(zip(draft.loops(result.shape), result.strides, strict=True))
    return draft


def _reduced(kind: LoopKind, *, dims_argument: int = 1, linear: bool = False) -> NestRule:
    """The dimensions an argument names (all where it names none) are reduced; `kind` of a reduced loop."""

    def rule(call: Call) -> Draft | None:
        x = meta_of(call, 0)
        rank = len(x.shape)
        dims = set(dimensions_of(call, dims_argument, rank)) or set(range(rank))
        draft = Draft()
        loops = [draft.loop(size, kind if d in dims else FREE) for d, size in enumerate(x.shape)]
        draft.operands[0] = dict(zip(loops, x.strides, strict=True))
        kept = [loop for loop in loops if loop not in dims]
        for place, meta in enumerate(call.outputs):
            where: list[int | None] = [None if loop in dims else loop for loop in loops]
            strides = draft.along(where if len(meta.shape) == rank else kept, meta)
            if strides is None:
                return None
            draft.results[place] = strides
        draft.linear = [[0]] if linear else []
        return draft

    return rule


def _top_k(call: Call) -> Draft | None:
    """`topk(x, k, dim)`: the chosen along the dimension depend on all of it."""
    x = meta_of(call, 0)
    if not x.shape:
        return None
    dim = dimension_of(call, 2, len(x.shape))
    draft = Draft()
    loops = [draft.loop(size, WHOLE if d == dim else FREE) for d, size in enumerate(x.shape)]
    chosen = draft.loop(call.outputs[0].shape[dim], WHOLE)
    draft.operands[0] = dict(zip(loops, x.strides, strict=True))
    for place, meta in enumerate(call.outputs):
        draft.results[place] = {chosen if d == dim else loops[d]: stride for d, stride in enumerate(meta.strides)}
    return draft


def _padded(call: Call, rank: int) -> Iterable[int]:
    """Dimensions that `constant_pad_nd` pads: pairs from the last dimension on."""
    pads = integers_of(argument(call, 1))
    return [rank - 1 - i // 2 for i in range(0, len(pads), 2) if pads[i] or pads[i + 1]]


def _argument(index: int) -> Callable[[Call, int], Iterable[int]]:
    return lambda call, rank: integers_of(argument(call, index))


def _rolled(call: Call, rank: int) -> Iterable[int]:
    return integers_of(argument(call, 2)) or range(rank)


def _last_two(call: Call, rank: int) -> Iterable[int]:
    return (rank - 2, rank - 1)


NO_ARGUMENT = 1 << 16  # where an operator always reduces everything
_ALIGNED = {*elementwise.RULES, *optimizer.RULES} - {"linalg_cross"}  # whose three components meet
RULES: dict[str, NestRule] = {
    **dict.fromkeys(sorted(_ALIGNED), _pointwise),
    **dict.fromkeys(("native_dropout", "bernoulli", "copy", "clone", "_to_copy", "fill"), _pointwise),
    **dict.fromkeys(
        ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "arange",
         "scalar_tensor", "zero"),
        _constant,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _along_dims(1, ROW)),
    **dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), _along_dims(2, ROW)),
    **dict.fromkeys(("cumsum", "cumprod", "sort"), _along_dims(1, WHOLE)),
    "native_layer_norm": _normalized(1),
    "native_layer_norm_backward": _normalized(2),
    **dict.fromkeys(("_fused_rms_norm", "rms_norm"), _normalized(1)),
    "_fused_rms_norm_backward": _normalized(2),
    **dict.fromkeys(("sum", "mean"), _reduced(FREE, linear=True)),
    # Their squares add up; the root afterwards is a number a result.
    **dict.fromkeys(("linalg_vector_norm", "norm"), _reduced(FREE, dims_argument=2)),
    "_foreach_norm": _reduced(FREE, dims_argument=NO_ARGUMENT),
    **dict.fromkeys(("amax", "amin", "prod", "any", "all", "argmax", "argmin", "logsumexp"), _reduced(WHOLE)),
    "cat": _moved(_argument(1)),
    "slice_backward": _moved(_argument(2)),
    "constant_pad_nd": _moved(_padded),
    "roll": _moved(_rolled),
    "flip": _moved(_argument(1)),
    "triu": _moved(_last_two),
    "tril": _moved(_last_two),
    "topk": _top_k,
    "select_backward": _selected_backward,
}  # fmt: skip
