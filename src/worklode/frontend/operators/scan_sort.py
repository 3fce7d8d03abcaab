"""Scans, sorts and searches along a dimension.

A scan is Blelloch's work-efficient one (Prefix sums and their applications, 1990): 2 combinations per element in
2·ceil(log2 n) dependent steps. A sort is least-significant-digit radix sort with 8-bit digits (Satish, Harris, Garland,
IPDPS 2009): per pass and element shift and mask for the digit, a count, and a move of key and index. Bins and
boundaries are small and stay on chip: no access to them counts as scattered.
"""

from __future__ import annotations

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    ceil_log2,
    dimension,
    in_all,
    on_lanes,
    same_rule,
    tensor,
)
from worklode.graph.operator import OperatorKind

RADIX_BITS = 8
RADIX_PASS_OPS = 5  # shift, mask, count, move key, move index
SELECT_PASS_OPS = 3  # shift, mask, count: radix select moves nothing
SEARCH_STEP_OPS = 3  # compare, select, halve
INDEX_BYTES = 8  # torch's indices are int64


def passes(key_bytes: int) -> int:
    """Radix passes over keys of that size."""
    return -(-key_bytes * 8 // RADIX_BITS)


def sort_lanes(elements: int, key_bytes: int) -> Lanes:
    """Lane operations to sort `elements` keys."""
    return Lanes(RADIX_PASS_OPS * passes(key_bytes) * elements)


def length_along(meta: TensorMeta, dim: object) -> int:
    """Length of a dimension; of the whole tensor where there is no dimension."""
    if not isinstance(dim, int):
        return meta.elements
    return meta.shape[dimension(dim, len(meta.shape))] if meta.shape else 1


def scan(per_step: Lanes) -> Rule:
    """Rule of a scan along `args[1]`."""

    def rule(call: Call) -> tuple[Description, ...]:
        x = tensor(call, 0)
        n = length_along(x, call.args[1])
        lanes = per_step.times(2 * x.elements)
        return on_lanes(call, OperatorKind.SCAN, lanes, serial_steps=2 * ceil_log2(n))

    return rule


def scan_backward(call: Call) -> tuple[Description, ...]:
    """`cummaxmin_backward(grad, x, indices, dim)`: zeros and a scattered add per element."""
    x = tensor(call, 0)
    return on_lanes(call, OperatorKind.SCATTER, Lanes(2 * x.elements), reads={1: 0})


def sort(call: Call) -> tuple[Description, ...]:
    """`sort`, `argsort`, `msort`, `unique`'s sort: radix passes over keys with their indices."""
    x = tensor(call, 0)
    return on_lanes(
        call, OperatorKind.SORT, sort_lanes(x.elements, x.element_bytes), serial_steps=passes(x.element_bytes)
    )


def top_k(call: Call) -> tuple[Description, ...]:
    """`topk(x, k, dim)`, `kthvalue`, `median`, `mode`: radix select over x, then a sort of what was selected."""
    x = tensor(call, 0)
    digits = passes(x.element_bytes)
    selected = call.outputs[0].elements if call.outputs else 0
    lanes = Lanes(SELECT_PASS_OPS * digits * x.elements + RADIX_PASS_OPS * digits * selected)
    steps = digits if call.packet != "topk" else 2 * digits
    return on_lanes(call, OperatorKind.SORT, lanes, serial_steps=steps)


def search(call: Call) -> tuple[Description, ...]:
    """`bucketize(x, boundaries)`, `searchsorted(sorted, x)`: a binary search per value."""
    values_first = call.packet == "bucketize"
    values = call.args[0 if values_first else 1]
    boundaries = tensor(call, 1 if values_first else 0)
    count = values.elements if isinstance(values, TensorMeta) else 1
    steps = ceil_log2((boundaries.shape[-1] if boundaries.shape else 0) + 1)
    return on_lanes(
        call,
        OperatorKind.GATHER,
        Lanes(SEARCH_STEP_OPS * steps * count),
        serial_steps=steps,
    )


def histogram(call: Call) -> tuple[Description, ...]:
    """`histc`: subtract, scale, convert, two bounds, a scattered add; `bincount`: the add (and weight) alone."""
    x = tensor(call, 0)
    bins = call.outputs[0]
    per_element = 1 if call.packet == "bincount" else 6
    return on_lanes(
        call,
        OperatorKind.SCATTER,
        Lanes(per_element * x.elements + bins.elements),
    )


def unique(call: Call) -> tuple[Description, ...]:
    """`_unique2`, `unique_dim`: a sort, then as `unique_consecutive`: compare neighbours, scan, move (and count)."""
    x = tensor(call, 0)
    consecutive = Lanes(5 * x.elements)
    if call.packet == "unique_consecutive":
        return on_lanes(call, OperatorKind.SCAN, consecutive, serial_steps=2 * ceil_log2(x.elements))
    lanes = in_all(sort_lanes(x.elements, x.element_bytes), consecutive)
    return on_lanes(call, OperatorKind.SORT, lanes, serial_steps=passes(x.element_bytes) + 2 * ceil_log2(x.elements))


def membership(call: Call) -> tuple[Description, ...]:
    """`isin(x, values)`: a compare with every value, or a binary search among them sorted, whichever is less."""
    count, values = (t.elements if isinstance(t, TensorMeta) else 1 for t in call.args[:2])
    steps = ceil_log2(values + 1)
    sorted_first = in_all(sort_lanes(values, INDEX_BYTES), Lanes(SEARCH_STEP_OPS * steps * count))
    return on_lanes(call, OperatorKind.GATHER, min(Lanes(2 * count * values), sorted_first))


def compaction(call: Call) -> tuple[Description, ...]:
    """`nonzero`, `masked_select`: a compare and a scan for the places, a move per element kept."""
    x = tensor(call, 0)
    kept = sum(t.elements for t in call.outputs)
    return on_lanes(call, OperatorKind.SCAN, Lanes(3 * x.elements + kept), serial_steps=2 * ceil_log2(x.elements))


def masked_select_of_gradient(call: Call) -> tuple[Description, ...]:
    """`masked_scatter_backward(g, mask, sizes)`: the gradient under the mask, packed: as `masked_select`."""
    return compaction(call)


RULES: dict[str, Rule] = {
    **same_rule(scan(Lanes(1)), "cumsum", "cumprod", "_cumsum", "_cumprod"),
    **same_rule(scan(Lanes(2)), "cummax", "cummin", "_cummax_helper", "_cummin_helper"),
    **same_rule(scan(Lanes(4, 2)), "logcumsumexp", "_logcumsumexp"),
    "cummaxmin_backward": scan_backward,
    **same_rule(sort, "sort", "argsort", "msort"),
    **same_rule(top_k, "topk", "kthvalue", "median", "nanmedian", "mode"),
    **same_rule(search, "bucketize", "searchsorted"),
    **same_rule(histogram, "histc", "bincount"),
    **same_rule(unique, "_unique", "_unique2", "unique_dim", "unique_consecutive"),
    "isin": membership,
    **same_rule(compaction, "nonzero", "masked_select", "nonzero_static"),
    "masked_scatter_backward": masked_select_of_gradient,
}
