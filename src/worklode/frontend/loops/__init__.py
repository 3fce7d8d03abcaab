"""From a recorded call to its loop nest: which dimension of which operand is which dimension of which result.

One rule a family. A packet without a rule has no nest: whoever divides loops must then leave it whole. Shapes alone
decide, free of torch, as in the operator table.
"""

from __future__ import annotations

from collections.abc import Iterable

from worklode.frontend.call import Call, Description
from worklode.frontend.loops import lookups, products, streams
from worklode.frontend.loops.draft import NestRule, NotCoveredError
from worklode.graph.loops import UNTOUCHED, Nest

RULES: dict[str, NestRule] = {**streams.RULES, **products.RULES, **lookups.RULES}
"""Packet -> rule; forms in place and forms of one tensor of a multi-tensor operator share it."""


def nest_of(call: Call, description: Description) -> Nest | None:
    """The loop nest of one part of a call, None where no rule knows it.

    Args:
        call: the call.
        description: the part: its results are a choice of the call's.
    """
    rule = _find(call) if call.name.startswith("aten.") else None
    try:
        draft = rule(call) if rule is not None else None
    except NotCoveredError:
        return None
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


def _find(call: Call) -> NestRule | None:
    packet = call.packet
    single = packet.removeprefix("_foreach_")
    for name in (packet, packet.rstrip("_"), single, single.rstrip("_")):
        if name in RULES:
            return RULES[name]
    return None
