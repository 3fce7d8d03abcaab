"""From a recorded call to its loop nest: which dimension of which operand is which dimension of which result.

One rule a family. A packet without a rule has no nest: whoever divides loops must then leave it whole. Shapes alone
decide, free of torch, as in the operator table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators import elementwise, optimizer
from worklode.frontend.operators.rule import dimension, tensors_in
from worklode.graph.loops import UNTOUCHED, LoopKind, Nest

FREE, WHOLE, ROW, LOOKUP, PLACED = LoopKind
NestRule = Callable[[Call], "_Draft | None"]
Strides = Mapping[int, int]
"""Loop -> elements between neighbours along it."""


@dataclass(slots=True)
class _Draft:
    """A nest being written.

    Attributes:
        operands: place among `Call.inputs` -> its strides; those left out depend on no loop.
        results: place among `Call.outputs` -> its strides; those left out are the same however loops are divided.
        linear: sets of operands in which the results are jointly linear, by place.
    """

    sizes: list[int] = field(default_factory=list)
    kinds: list[LoopKind] = field(default_factory=list)
    operands: dict[int, Strides] = field(default_factory=dict)
    results: dict[int, Strides] = field(default_factory=dict)
    products: list[Sequence[Sequence[int]]] = field(default_factory=list)
    linear: list[Sequence[int]] = field(default_factory=list)

    def loop(self, size: int, kind: LoopKind = FREE) -> int:
        """A new loop."""
        self.sizes.append(size)
        self.kinds.append(kind)
        return len(self.sizes) - 1

    def loops(self, sizes: Iterable[int], kind: LoopKind = FREE) -> list[int]:
        """New loops of one kind."""
        return [self.loop(size, kind) for size in sizes]

    def along(self, loops: Sequence[int | None], meta: TensorMeta) -> Strides | None:
        """Strides of a tensor whose last dimensions are these loops (None: no loop); None where sizes do not fit."""
        found: dict[int, int] = {}
        if len(meta.shape) > len(loops):
            return None
        for loop, size, stride in zip(reversed(loops), reversed(meta.shape), reversed(meta.strides), strict=False):
            if loop is None or (size == 1 and self.sizes[loop] != 1):
                continue
            if size != self.sizes[loop]:
                return None
            found[loop] = stride
        return found


def nest_of(call: Call, description: Description) -> Nest | None:
    """The loop nest of one part of a call, None where no rule knows it.

    Args:
        call: the call.
        description: the part: its results are a choice of the call's.
    """
    rule = _find(call) if call.name.startswith("aten.") else None
    draft = rule(call) if rule is not None else None
    if draft is None or len(draft.products) != len(description.work.products):
        return None
    loops = range(len(draft.sizes))
    operands = [draft.operands.get(place, {}) for place in range(len(call.inputs))]
    results = [draft.results.get(place) for place in description.outputs]
    return Nest(
        sizes=tuple(draft.sizes),
        kinds=tuple(draft.kinds),
        operands=tuple(strides.get(loop, 0) for strides in operands for loop in loops),
        results=tuple(UNTOUCHED if strides is None else strides.get(loop, 0) for strides in results for loop in loops),
        products=tuple(_mask(part) for product in draft.products for part in product),
        linear=tuple(_mask(places) for places in draft.linear),
    )


def _mask(places: Iterable[int]) -> int:
    return sum(1 << place for place in set(places))


def _place(call: Call, argument: int) -> int:
    """Place among the inputs of the first tensor of positional argument `argument`."""
    return sum(1 for value in call.args[:argument] for _ in tensors_in(value))


def _meta(call: Call, argument: int) -> TensorMeta:
    value = call.args[argument]
    assert isinstance(value, TensorMeta), f"{call.name}: argument {argument} is no tensor"
    return value


def _integers(value: object) -> tuple[int, ...]:
    if isinstance(value, tuple):
        return tuple(int(v) for v in value)
    return (value,) if isinstance(value, int) else ()


# ------------------------------------------------------------------------------- operands aligned with one shape


def _aligned(
    call: Call, shape: tuple[int, ...], special: Mapping[int, LoopKind] | None = None, default: LoopKind = FREE
) -> _Draft | None:
    """Every operand and result broadcast to `shape`; dimensions of another kind are named in `special`."""
    draft = _Draft()
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


def _pointwise(call: Call) -> _Draft | None:
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


def _along_dims(argument: int, kind: LoopKind) -> NestRule:
    """Aligned with the largest operand; the dimensions that positional argument names are of `kind`."""

    def rule(call: Call) -> _Draft | None:
        shape = _largest(call)
        dims = {dimension(d, len(shape)): kind for d in _integers(call.args[argument])}
        return _aligned(call, shape, dims)

    return rule


def _largest(call: Call) -> tuple[int, ...]:
    return max((*call.inputs, *call.outputs), key=lambda meta: (len(meta.shape), meta.elements)).shape


def _normalized(shape_argument: int) -> NestRule:
    """Layer and RMS norm with their gradients: the last dimensions are one row."""

    def rule(call: Call) -> _Draft | None:
        shape = _largest(call)
        row = len(_integers(call.args[shape_argument]))
        return _aligned(call, shape, dict.fromkeys(range(len(shape) - row, len(shape)), WHOLE))

    return rule


def _moved(dims: Callable[[Call, int], Iterable[int]]) -> NestRule:
    """Elements move along `dims` (of the result's rank) only: there the whole is needed.

    Where one dimension is put together of equal parts (the gradients of query, key and value side by side), only which
    part it is must stay whole; within the parts iterations are free.
    """

    def rule(call: Call) -> _Draft | None:
        if len(call.outputs) != 1:
            return None
        result = call.outputs[0]
        moved = sorted({dimension(d, len(result.shape)) for d in dims(call, len(result.shape))})
        if any(len(meta.shape) != len(result.shape) for meta in call.inputs):
            return None
        parts = _equal_parts(call, moved[0]) if len(moved) == 1 else 1
        draft = _Draft()
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
        start, step = _integers(call.args[3]), _integers(call.args[5])
        return result // length if start and start[0] % length == 0 and step == (1,) else 1
    return result // length if call.packet == "cat" else 1


def _selected_backward(call: Call) -> _Draft | None:
    """`select_backward(g, sizes, dim, index)`: g has one dimension less."""
    result, gradient = call.outputs[0], _meta(call, 0)
    dim = dimension(int(_integers(call.args[2])[0]), len(result.shape))
    draft = _Draft()
    loops = [draft.loop(size, WHOLE if d == dim else FREE) for d, size in enumerate(result.shape)]
    draft.operands[0] = dict(zip([loop for loop in loops if loop != dim], gradient.strides, strict=True))
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _constant(call: Call) -> _Draft | None:
    """Values from nothing; operands give a shape."""
    draft = _Draft()
    if not call.outputs:
        return None
    result = call.outputs[0]
    draft.results[0] = dict(zip(draft.loops(result.shape), result.strides, strict=True))
    return draft


# ---------------------------------------------------------------------------------------------- sums and extremes


def _reduced(kind: LoopKind, linear: bool = False) -> NestRule:
    """The dimensions of argument 1 (all where none is given) are reduced; `kind` of a reduced loop."""

    def rule(call: Call) -> _Draft | None:
        x = _meta(call, 0)
        rank = len(x.shape)
        given = _integers(call.args[1]) if len(call.args) > 1 and not isinstance(call.args[1], bool) else ()
        dims = {dimension(d, rank) for d in given} or set(range(rank))
        draft = _Draft()
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


# --------------------------------------------------------------------------------------------------- products


def _product(a: int, b: int, addend: int | None) -> NestRule:
    """`mm`, `bmm`, `addmm`, `baddbmm` with operands in these places."""

    def rule(call: Call) -> _Draft | None:
        left, right = _meta(call, a), _meta(call, b)
        if len(left.shape) != len(right.shape) or len(left.shape) not in {2, 3}:
            return None
        draft = _Draft()
        batch = draft.loops(left.shape[:-2])
        m, n, k = draft.loops((left.shape[-2], right.shape[-1], left.shape[-1]))
        draft.operands[a] = dict(zip((*batch, m, k), left.strides, strict=True))
        draft.operands[b] = dict(zip((*batch, k, n), right.strides, strict=True))
        if addend is not None:
            strides = draft.along([*batch, m, n], _meta(call, addend))
            if strides is None:
                return None
            draft.operands[addend] = strides
        draft.results[0] = dict(zip((*batch, m, n), call.outputs[0].strides, strict=True))
        draft.products = [(batch, [m], [n], [k])]
        return draft

    return rule


def _grouped_product(call: Call) -> _Draft | None:
    """`_grouped_mm` of rows sorted by expert, taken as equally many each: a batched product over the experts."""
    left, right = _meta(call, 0), _meta(call, 1)
    offsets = call.args[2] if len(call.args) > 2 else None
    groups = offsets.elements if isinstance(offsets, TensorMeta) else 0
    draft = _Draft()
    if not groups:
        return None
    if len(left.shape) == 2 and len(right.shape) == 3 and left.shape[0] % groups == 0:
        e, m, n, k = draft.loops((groups, left.shape[0] // groups, right.shape[2], right.shape[1]))
        draft.operands[0] = {e: left.strides[0] * draft.sizes[m], m: left.strides[0], k: left.strides[1]}
        draft.operands[1] = dict(zip((e, k, n), right.strides, strict=True))
        result = call.outputs[0].strides
        draft.results[0] = {e: result[0] * draft.sizes[m], m: result[0], n: result[1]}
    elif len(left.shape) == 2 and len(right.shape) == 2 and left.shape[1] % groups == 0:
        e, m, n, k = draft.loops((groups, left.shape[0], right.shape[1], left.shape[1] // groups))
        draft.operands[0] = {m: left.strides[0], e: left.strides[1] * draft.sizes[k], k: left.strides[1]}
        draft.operands[1] = {e: right.strides[0] * draft.sizes[k], k: right.strides[0], n: right.strides[1]}
        draft.results[0] = dict(zip((e, m, n), call.outputs[0].strides, strict=True))
    else:
        return None
    draft.products = [([e], [m], [n], [k])]
    return draft


# -------------------------------------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heads:
    """Loops of an attention: batch, kv heads, query heads that share one, queries, keys, two head widths."""

    b: int
    g: int
    r: int
    q: int
    k: int
    dqk: int
    dv: int


def _heads(draft: _Draft, query: TensorMeta, key: TensorMeta, value: TensorMeta) -> _Heads | None:
    if len(query.shape) != 4 or not key.shape[1] or query.shape[1] % key.shape[1]:
        return None
    batch, heads, queries, width = query.shape
    b, g, r, q = draft.loops((batch, key.shape[1], heads // key.shape[1], queries))
    k, dqk, dv = draft.loops((key.shape[2], width, value.shape[3]), WHOLE)
    return _Heads(b=b, g=g, r=r, q=q, k=k, dqk=dqk, dv=dv)


def _by_query_head(h: _Heads, draft: _Draft, meta: TensorMeta, *rest: int) -> Strides | None:
    """Strides of a tensor [batch or 1, heads or 1, rest...]."""
    if len(meta.shape) != 2 + len(rest):
        return None
    strides = draft.along([h.b, None, *rest], meta)
    if strides is None or meta.shape[1] == 1:
        return strides
    return {**strides, h.r: meta.strides[1], h.g: meta.strides[1] * draft.sizes[h.r]}


def _attention(call: Call) -> _Draft | None:
    """`_scaled_dot_product_fused_attention_overrideable(q, k, v, bias, ...)`."""
    draft = _Draft()
    query, key, value = (_meta(call, i) for i in range(3))
    h = _heads(draft, query, key, value)
    if h is None:
        return None
    placed: list[tuple[int, Strides | None]] = [
        (0, _by_query_head(h, draft, query, h.q, h.dqk)),
        (1, draft.along([h.b, h.g, h.k, h.dqk], key)),
        (2, draft.along([h.b, h.g, h.k, h.dv], value)),
    ]
    if isinstance(call.args[3], TensorMeta):
        placed.append((3, _by_query_head(h, draft, call.args[3], h.q, h.k)))
    results = [
        (0, _by_query_head(h, draft, call.outputs[0], h.q, h.dv)),
        (1, _by_query_head(h, draft, call.outputs[1], h.q)),
    ]
    draft.products = [([h.b, h.g], [h.r, h.q], [h.k], [h.dqk]), ([h.b, h.g], [h.r, h.q], [h.dv], [h.k])]
    return _filled(draft, placed, results)


def _attention_backward(call: Call) -> _Draft | None:
    """`..._backward(g, q, k, v, bias, mask, out, logsumexp, ...)` to the gradients of q, k, v and the bias."""
    draft = _Draft()
    gradient, query, key, value = (_meta(call, i) for i in range(4))
    h = _heads(draft, query, key, value)
    if h is None:
        return None
    placed = [
        (0, _by_query_head(h, draft, gradient, h.q, h.dv)),
        (1, _by_query_head(h, draft, query, h.q, h.dqk)),
        (2, draft.along([h.b, h.g, h.k, h.dqk], key)),
        (3, draft.along([h.b, h.g, h.k, h.dv], value)),
        (_place(call, 6), _by_query_head(h, draft, _meta(call, 6), h.q, h.dv)),
        (_place(call, 7), _by_query_head(h, draft, _meta(call, 7), h.q)),
    ]
    if isinstance(call.args[4], TensorMeta):
        placed.append((4, _by_query_head(h, draft, call.args[4], h.q, h.k)))
    makers: list[Callable[[TensorMeta], Strides | None]] = [
        lambda meta: _by_query_head(h, draft, meta, h.q, h.dqk),
        lambda meta: draft.along([h.b, h.g, h.k, h.dqk], meta),
        lambda meta: draft.along([h.b, h.g, h.k, h.dv], meta),
        lambda meta: _by_query_head(h, draft, meta, h.q, h.k),
    ]
    made = [place for place, result in enumerate(call.results) if isinstance(result, TensorMeta)]
    results = [(number, makers[place](call.outputs[number])) for number, place in enumerate(made) if place < 4]
    rows, outer = [h.r, h.q], [h.b, h.g]
    draft.products = [
        (outer, rows, [h.k], [h.dqk]),
        (outer, rows, [h.k], [h.dv]),
        (outer, [h.k], [h.dv], rows),
        (outer, rows, [h.dqk], [h.k]),
        (outer, [h.k], [h.dqk], rows),
    ]
    return _filled(draft, placed, results)


def _filled(
    draft: _Draft, operands: Iterable[tuple[int, Strides | None]], results: Iterable[tuple[int, Strides | None]]
) -> _Draft | None:
    """The draft with these strides; None where one of them is None."""
    for found, target in ((operands, draft.operands), (results, draft.results)):
        for place, strides in found:
            if strides is None:
                return None
            target[place] = strides
    return draft


# ---------------------------------------------------------------------------------------- look-ups and scatters


def _embedding(call: Call) -> _Draft | None:
    """`embedding(table, ids)`."""
    table, ids = _meta(call, 0), _meta(call, 1)
    draft = _Draft()
    tokens = draft.loops(ids.shape)
    row, width = draft.loop(table.shape[0], LOOKUP), draft.loop(table.shape[1])
    draft.operands[0] = {row: table.strides[0], width: table.strides[1]}
    draft.operands[1] = dict(zip(tokens, ids.strides, strict=True))
    draft.results[0] = dict(zip((*tokens, width), call.outputs[0].strides, strict=True))
    return draft


def _embedding_backward(call: Call) -> _Draft | None:
    """`embedding_dense_backward(g, ids, ...)`: rows are placed by data and summed."""
    gradient, ids, table = _meta(call, 0), _meta(call, 1), call.outputs[0]
    draft = _Draft()
    tokens = draft.loops(ids.shape)
    row, width = draft.loop(table.shape[0], PLACED), draft.loop(table.shape[1])
    draft.operands[0] = dict(zip((*tokens, width), gradient.strides, strict=True))
    draft.operands[1] = dict(zip(tokens, ids.strides, strict=True))
    draft.results[0] = {row: table.strides[0], width: table.strides[1]}
    return draft


def _index_select(call: Call) -> _Draft | None:
    """`index_select(x, dim, ids)`."""
    x, ids, result = _meta(call, 0), _meta(call, 2), call.outputs[0]
    if not x.shape:
        return None
    dim = dimension(_integers(call.args[1])[0], len(x.shape))
    draft = _Draft()
    loops = draft.loops(result.shape)
    found = draft.loop(x.shape[dim], LOOKUP)
    draft.operands[0] = {found if d == dim else loops[d]: stride for d, stride in enumerate(x.strides)}
    draft.operands[1] = {loops[dim]: ids.strides[0]} if ids.strides else {}
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _index_add(call: Call) -> _Draft | None:
    """`index_add(x, dim, ids, source)`: x is added to, its rows chosen by data."""
    x, ids, source = _meta(call, 0), _meta(call, 2), _meta(call, 3)
    if not x.shape:
        return None
    dim = dimension(_integers(call.args[1])[0], len(x.shape))
    draft = _Draft()
    loops = draft.loops(source.shape)
    placed = draft.loop(x.shape[dim], PLACED)
    draft.operands[0] = {placed if d == dim else loops[d]: stride for d, stride in enumerate(x.strides)}
    draft.operands[1] = {loops[dim]: ids.strides[0]} if ids.strides else {}
    draft.operands[2] = dict(zip(loops, source.strides, strict=True))
    result = call.outputs[0]
    draft.results[0] = {placed if d == dim else loops[d]: stride for d, stride in enumerate(result.strides)}
    draft.linear = [[0, 2]]
    return draft


def _gather(call: Call) -> _Draft | None:
    """`gather(x, dim, ids)`: other dimensions run along."""
    x, ids, result = _meta(call, 0), _meta(call, 2), call.outputs[0]
    dim = dimension(_integers(call.args[1])[0], max(1, len(x.shape)))
    draft = _Draft()
    loops = draft.loops(result.shape)
    found = draft.loop(x.shape[dim] if x.shape else 1, LOOKUP)
    if any(x.shape[d] != ids.shape[d] for d in range(len(x.shape)) if d != dim):
        return None
    draft.operands[0] = {found if d == dim else loops[d]: stride for d, stride in enumerate(x.strides)}
    draft.operands[1] = dict(zip(loops, ids.strides, strict=True))
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _index(call: Call) -> _Draft | None:
    """`index(x, [..., ids, ...])` with one tensor of ids: where its dimension was are those of the ids."""
    found = _one_index(call)
    if found is None:
        return None
    dim, ids = found
    x, result = _meta(call, 0), call.outputs[0]
    draft = _Draft()
    loops = draft.loops(result.shape)
    chosen = draft.loop(x.shape[dim], LOOKUP)
    rest = [*loops[:dim], chosen, *loops[dim + len(ids.shape) :]]
    draft.operands[0] = dict(zip(rest, x.strides, strict=True))
    draft.operands[1] = dict(zip(loops[dim : dim + len(ids.shape)], ids.strides, strict=True))
    draft.results[0] = dict(zip(loops, result.strides, strict=True))
    draft.linear = [[0]]
    return draft


def _index_put(call: Call) -> _Draft | None:
    """`index_put(x, [..., ids, ...], values)` with one tensor of ids."""
    found = _one_index(call)
    if found is None:
        return None
    dim, ids = found
    x, values = _meta(call, 0), _meta(call, 2)
    draft = _Draft()
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
    indices = call.args[1]
    if not isinstance(indices, tuple):
        return None
    found = [(dim, ids) for dim, ids in enumerate(indices) if isinstance(ids, TensorMeta)]
    if len(found) != 1 or found[0][1].dtype in {"bool", "uint8"}:
        return None
    return found[0]


def _scatter(call: Call) -> _Draft | None:
    """`scatter(x, dim, ids, source)`, `scatter_add`: other dimensions run along."""
    x, ids = _meta(call, 0), _meta(call, 2)
    dim = dimension(_integers(call.args[1])[0], max(1, len(x.shape)))
    if not x.shape or any(x.shape[d] != ids.shape[d] for d in range(len(x.shape)) if d != dim):
        return None
    draft = _Draft()
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


def _token_loss(call: Call) -> _Draft | None:
    """`nll_loss_forward(x, target, ...)`: one class of every row is looked up, then rows are summed."""
    x, target = _meta(call, 0), _meta(call, 1)
    if len(x.shape) != 2 or len(target.shape) != 1:
        return None
    draft = _Draft()
    rows, classes = draft.loop(x.shape[0]), draft.loop(x.shape[1], ROW)
    draft.operands[0] = {rows: x.strides[0], classes: x.strides[1]}
    draft.operands[1] = {rows: target.strides[0]}
    if _integers(call.args[3])[0] == 0:  # no reduction: one loss a row
        draft.results[0] = {rows: call.outputs[0].strides[0]}
    else:
        draft.results = {0: {}, 1: {}}
    return draft


def _token_loss_backward(call: Call) -> _Draft | None:
    """`nll_loss_backward(g, x, target, ...)`: one element of every row is placed by data."""
    gradient, x, target = _meta(call, 0), _meta(call, 1), _meta(call, 2)
    if len(x.shape) != 2 or len(target.shape) != 1:
        return None
    draft = _Draft()
    rows, classes = draft.loop(x.shape[0]), draft.loop(x.shape[1], PLACED)
    if gradient.shape:
        draft.operands[0] = {rows: gradient.strides[0]}
    draft.operands[1] = {rows: x.strides[0], classes: x.strides[1]}
    draft.operands[2] = {rows: target.strides[0]}
    draft.results[0] = {rows: call.outputs[0].strides[0], classes: call.outputs[0].strides[1]}
    return draft


def _top_k(call: Call) -> _Draft | None:
    """`topk(x, k, dim)`: the chosen along the dimension depend on all of it."""
    x = _meta(call, 0)
    if not x.shape:
        return None
    dim = dimension(_integers(call.args[2])[0], len(x.shape))
    draft = _Draft()
    loops = [draft.loop(size, WHOLE if d == dim else FREE) for d, size in enumerate(x.shape)]
    chosen = draft.loop(call.outputs[0].shape[dim], WHOLE)
    draft.operands[0] = dict(zip(loops, x.strides, strict=True))
    for place, meta in enumerate(call.outputs):
        draft.results[place] = {chosen if d == dim else loops[d]: stride for d, stride in enumerate(meta.strides)}
    return draft


def _padded(call: Call, rank: int) -> Iterable[int]:
    """Dimensions that `constant_pad_nd` pads: pairs from the last dimension on."""
    pads = _integers(call.args[1])
    return [rank - 1 - i // 2 for i in range(0, len(pads), 2) if pads[i] or pads[i + 1]]


def _argument(index: int) -> Callable[[Call, int], Iterable[int]]:
    return lambda call, rank: _integers(call.args[index])


def _rolled(call: Call, rank: int) -> Iterable[int]:
    return _integers(call.args[2]) or range(rank)


def _last_two(call: Call, rank: int) -> Iterable[int]:
    return (rank - 2, rank - 1)


RULES: dict[str, NestRule] = {
    **dict.fromkeys((*elementwise.RULES, *optimizer.RULES, "native_dropout", "bernoulli", "copy", "clone"), _pointwise),
    **dict.fromkeys(("_to_copy", "fill", "masked_fill"), _pointwise),
    **dict.fromkeys(
        ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "arange",
         "scalar_tensor", "zero"),
        _constant,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _along_dims(1, ROW)),
    **dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), _along_dims(2, ROW)),
    **dict.fromkeys(("cumsum", "cumprod"), _along_dims(1, WHOLE)),
    "native_layer_norm": _normalized(1),
    "native_layer_norm_backward": _normalized(2),
    **dict.fromkeys(("_fused_rms_norm", "rms_norm"), _normalized(1)),
    "_fused_rms_norm_backward": _normalized(2),
    **dict.fromkeys(("sum", "mean"), _reduced(FREE, linear=True)),
    # Their squares add up; the root afterwards is a number a result.
    **dict.fromkeys(("linalg_vector_norm", "norm", "_foreach_norm"), _reduced(FREE)),
    **dict.fromkeys(("amax", "amin", "prod", "any", "all", "argmax", "argmin", "logsumexp"), _reduced(WHOLE)),
    "mm": _product(0, 1, None),
    "bmm": _product(0, 1, None),
    "addmm": _product(1, 2, 0),
    "baddbmm": _product(1, 2, 0),
    "_grouped_mm": _grouped_product,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
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
    "cat": _moved(_argument(1)),
    "slice_backward": _moved(_argument(2)),
    "constant_pad_nd": _moved(_padded),
    "roll": _moved(_rolled),
    "flip": _moved(_argument(1)),
    "triu": _moved(_last_two),
    "tril": _moved(_last_two),
    "topk": _top_k,
    "sort": _along_dims(1, WHOLE),
    "select_backward": _selected_backward,
}  # fmt: skip
"""Packet -> rule; forms in place and forms of one tensor of a multi-tensor operator share it."""


def _find(call: Call) -> NestRule | None:
    packet = call.packet
    single = packet.removeprefix("_foreach_")
    for name in (packet, packet.rstrip("_"), single, single.rstrip("_")):
        if name in RULES:
            return RULES[name]
    return None
