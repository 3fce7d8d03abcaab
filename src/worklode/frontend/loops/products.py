"""Nests of matrix products and of fused attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from worklode.frontend.call import Call, TensorMeta
from worklode.frontend.loops.draft import WHOLE, Draft, NestRule, Strides, argument, meta_of, place_of


def _product(a: int, b: int, addend: int | None) -> NestRule:
    """`mm`, `bmm`, `addmm`, `baddbmm` with operands in these places."""

    def rule(call: Call) -> Draft | None:
        left, right = meta_of(call, a), meta_of(call, b)
        if len(left.shape) != len(right.shape) or len(left.shape) not in {2, 3}:
            return None
        draft = Draft()
        batch = draft.loops(left.shape[:-2])
        m, n, k = draft.loops((left.shape[-2], right.shape[-1], left.shape[-1]))
        draft.operands[a] = dict(zip((*batch, m, k), left.strides, strict=True))
        draft.operands[b] = dict(zip((*batch, k, n), right.strides, strict=True))
        if addend is not None:
            strides = draft.along([*batch, m, n], meta_of(call, addend))
            if strides is None:
                return None
            draft.operands[addend] = strides
        draft.results[0] = dict(zip((*batch, m, n), call.outputs[0].strides, strict=True))
        draft.products = [(batch, [m], [n], [k])]
        return draft

    return rule


def _grouped_product(call: Call) -> Draft | None:
    """`_grouped_mm` of rows sorted by expert, taken as equally many each: a batched product over the experts."""
    left, right = meta_of(call, 0), meta_of(call, 1)
    offsets = call.args[2] if len(call.args) > 2 else None
    groups = offsets.elements if isinstance(offsets, TensorMeta) else 0
    draft = Draft()
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


def _heads(draft: Draft, query: TensorMeta, key: TensorMeta, value: TensorMeta) -> _Heads | None:
    if len(query.shape) != 4 or not key.shape[1] or query.shape[1] % key.shape[1]:
        return None
    batch, heads, queries, width = query.shape
    b, g, r, q = draft.loops((batch, key.shape[1], heads // key.shape[1], queries))
    k, dqk, dv = draft.loops((key.shape[2], width, value.shape[3]), WHOLE)
    return _Heads(b=b, g=g, r=r, q=q, k=k, dqk=dqk, dv=dv)


def _by_query_head(h: _Heads, draft: Draft, meta: TensorMeta, *rest: int) -> Strides | None:
    """Strides of a tensor [batch or 1, heads or 1, rest...]."""
    if len(meta.shape) != 2 + len(rest):
        return None
    strides = draft.along([h.b, None, *rest], meta)
    if strides is None or meta.shape[1] == 1:
        return strides
    return {**strides, h.r: meta.strides[1], h.g: meta.strides[1] * draft.sizes[h.r]}


def _attention(call: Call) -> Draft | None:
    """`_scaled_dot_product_fused_attention_overrideable(q, k, v, bias, ...)`."""
    draft = Draft()
    query, key, value = (meta_of(call, i) for i in range(3))
    h = _heads(draft, query, key, value)
    if h is None:
        return None
    placed: list[tuple[int, Strides | None]] = [
        (0, _by_query_head(h, draft, query, h.q, h.dqk)),
        (1, draft.along([h.b, h.g, h.k, h.dqk], key)),
        (2, draft.along([h.b, h.g, h.k, h.dv], value)),
    ]
    if isinstance(argument(call, 3), TensorMeta):
        placed.append((3, _by_query_head(h, draft, meta_of(call, 3), h.q, h.k)))
    results = [
        (0, _by_query_head(h, draft, call.outputs[0], h.q, h.dv)),
        (1, _by_query_head(h, draft, call.outputs[1], h.q)),
    ]
    draft.products = [([h.b, h.g], [h.r, h.q], [h.k], [h.dqk]), ([h.b, h.g], [h.r, h.q], [h.dv], [h.k])]
    return _filled(draft, placed, results)


def _attention_backward(call: Call) -> Draft | None:
    """`..._backward(g, q, k, v, bias, mask, out, logsumexp, ...)` to the gradients of q, k, v and the bias."""
    draft = Draft()
    gradient, query, key, value = (meta_of(call, i) for i in range(4))
    h = _heads(draft, query, key, value)
    if h is None:
        return None
    placed = [
        (0, _by_query_head(h, draft, gradient, h.q, h.dv)),
        (1, _by_query_head(h, draft, query, h.q, h.dqk)),
        (2, draft.along([h.b, h.g, h.k, h.dqk], key)),
        (3, draft.along([h.b, h.g, h.k, h.dv], value)),
        (place_of(call, 6), _by_query_head(h, draft, meta_of(call, 6), h.q, h.dv)),
        (place_of(call, 7), _by_query_head(h, draft, meta_of(call, 7), h.q)),
    ]
    if isinstance(argument(call, 4), TensorMeta):
        placed.append((4, _by_query_head(h, draft, meta_of(call, 4), h.q, h.k)))
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
    draft: Draft, operands: Iterable[tuple[int, Strides | None]], results: Iterable[tuple[int, Strides | None]]
) -> Draft | None:
    """The draft with these strides; None where one of them is None."""
    for found, target in ((operands, draft.operands), (results, draft.results)):
        for place, strides in found:
            if strides is None:
                return None
            target[place] = strides
    return draft


RULES: dict[str, NestRule] = {
    "mm": _product(0, 1, None),
    "bmm": _product(0, 1, None),
    "addmm": _product(1, 2, 0),
    "baddbmm": _product(1, 2, 0),
    "_grouped_mm": _grouped_product,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
}
