"""The operator table: what every ATen operator of a training step computes and moves, from shapes alone.

`describe` is the entry. Each module holds a family as a table from packet name to rule; a variant in place
(`add_`) and a multi-tensor variant exploded to one tensor (`_foreach_add_`) share the entry of their base.
"""

from __future__ import annotations

from worklode.frontend.call import Call, Description
from worklode.frontend.operators import (
    attention,
    convolution,
    elementwise,
    indexing,
    loss,
    movement,
    normalization,
    optimizer,
    pooling,
    products,
    random_numbers,
    recurrent,
    reduction,
    resampling,
    scan_sort,
    spectral,
)
from worklode.frontend.operators.fallback import fallback
from worklode.frontend.operators.rule import Rule

FAMILIES = (
    products,
    convolution,
    attention,
    elementwise,
    normalization,
    reduction,
    indexing,
    movement,
    pooling,
    resampling,
    loss,
    random_numbers,
    scan_sort,
    spectral,
    optimizer,
    recurrent,
)


def _merged() -> dict[str, Rule]:
    table: dict[str, Rule] = {}
    for family in FAMILIES:
        twice = table.keys() & family.RULES.keys()
        assert not twice, f"described in two families: {sorted(twice)}"
        table.update(family.RULES)
    return table


TABLE: dict[str, Rule] = _merged()


def find(packet: str) -> Rule | None:
    """The rule of a packet, of its form out of place, or of its single-tensor form; None where there is none."""
    single = packet.removeprefix("_foreach_")
    for name in (packet, packet.rstrip("_"), single, single.rstrip("_")):
        if name in TABLE:
            return TABLE[name]
    return None


def known(packet: str) -> bool:
    """Whether calls of this packet are described exactly rather than by the fallback."""
    return find(packet) is not None


def describe(call: Call) -> tuple[Description, ...]:
    """What a call computes and moves: one description, or one for each gradient of a convolution.

    An operator without an entry, or from a namespace other than `aten`, gets the fallback with `exact=False`.
    """
    rule = find(call.packet) if call.name.startswith("aten.") else None
    return rule(call) if rule is not None else fallback(call)
