"""Expert parallelism: every device brings tokens of its own and holds some of the experts.

Lepikhin et al., GShard, arXiv 2006.16668, section 3.2: an all-to-all takes every token to the devices of its experts
and another takes the results back; backward does both again. Routing is balanced, as capture takes it: a device sends
as much as it receives, and computes as much as it would alone, for all tokens of its own experts.
"""

from __future__ import annotations

from typing import Protocol

from worklode.graph.loops import LoopKind, Nest, OperatorLoops
from worklode.graph.operator import Operator
from worklode.partition.tensor_parallel.builder import ShardBuilder
from worklode.partition.tensor_parallel.division import Divider
from worklode.partition.tensor_parallel.holdings import Holdings, merged
from worklode.partition.tensor_parallel.layout import WHOLE, Cut, Form, Layout, divided, layout_under, locate, portion
from worklode.partition.tensor_parallel.scaled import Growth, scaled_nest, scaled_work


class Pass(Protocol):
    """What a pass over the operators has at hand."""

    @property
    def divider(self) -> Divider:
        """What parameters and gradients are held as."""

    @property
    def builder(self) -> ShardBuilder:
        """What writes the new graph."""

    @property
    def holdings(self) -> Holdings:
        """What the device holds."""


def expert_cut(state: Pass, operator: Operator, loops: OperatorLoops) -> Cut | None:
    """The loop over experts of an operator that works on exchanged tokens; None where it works on own ones.

    Such are products with a weight of the experts or with the gradient of one, and the element-wise between.
    """
    nest = loops.nest
    assert nest is not None
    devices = state.builder.devices
    own = [
        (nest.operand(place), tensor, state.holdings.layout(tensor))
        for place, tensor in enumerate(loops.operands)
        if tensor >= 0
    ]
    weights = [
        locate(nest, strides, layout, devices)
        for strides, tensor, layout in own
        if tensor in state.divider.parameters and layout.form is Form.DIVIDED
    ]
    if nest.products and weights:
        return weights[0]
    read = {access.tensor for access in operator.reads}
    exchanged = [
        (locate(nest, strides, divided(layout.digit, layout.share), devices), layout.form)
        for strides, tensor, layout in own
        if layout.form is Form.EXCHANGED or (tensor in read and any(strides))
    ]
    cuts = [cut for cut, form in exchanged if form is Form.EXCHANGED]
    if not cuts or cuts[0] is None or nest.products:
        return cuts[0] if cuts else None
    # Where tokens meet something of the device's own, they have come back first.
    together = all(
        form is Form.EXCHANGED or nest.operand(place)[cuts[0].loop] == 0
        for place, form in ((p, state.holdings.layout(t).form) for p, t in enumerate(loops.operands) if t in read)
    )
    in_place = all(nest.result(number)[cuts[0].loop] > 0 for number in range(len(loops.results)))
    return cuts[0] if together and in_place and nest.kinds[cuts[0].loop] is LoopKind.FREE else None


def write_exchanged(state: Pass, operator: Operator, loops: OperatorLoops, cut: Cut) -> None:
    """The operator on the tokens of all devices for the experts of this one: as much vector work, other products."""
    nest = loops.nest
    assert nest is not None
    builder, holdings = state.builder, state.holdings
    held: dict[int, tuple[int, Layout]] = {}
    for place, tensor in enumerate(loops.operands):
        if tensor < 0 or tensor in held:
            continue
        layout = holdings.layout(tensor)
        wanted = layout
        if layout.form is not Form.DIVIDED:
            wanted = _exchanged(cut, nest.operand(place))
        held[tensor] = (holdings.held(tensor, wanted, operator), wanted)
    made = [_result(state, nest, number, tensor, cut) for number, tensor in enumerate(loops.results)]
    layouts = {tensor: layout for tensor, layout in zip(loops.results, made, strict=True) if tensor >= 0}
    growth = _grown(nest, loops, cut, {**{t: layout for t, (_, layout) in held.items()}, **layouts})
    reads = [(held[a.tensor][0], portion(a.bytes, held[a.tensor][1].held)) for a in operator.reads]
    writes = [holdings.written(access, layouts.get(access.tensor, WHOLE)) for access in operator.writes]
    work = scaled_work(operator.work, nest, cut, growth) if growth is not None else operator.work
    for access, new in zip(operator.writes, builder.add(operator, work, merged(reads, builder), writes), strict=True):
        holdings.settle(access.tensor, new, layouts.get(access.tensor, WHOLE))
    builder.loops[-1] = OperatorLoops(
        nest=scaled_nest(nest, cut, growth) if growth is not None else nest,
        operands=tuple([held[t][0] if t in held else -1 for t in loops.operands]),
        results=tuple([holdings.home(t)[0] if t >= 0 else -1 for t in loops.results]),
    )


def _exchanged(cut: Cut, strides: tuple[int, ...]) -> Layout:
    """The exchanged layout of a tensor that runs over the experts; whole where it does not."""
    layout = layout_under(cut, strides)
    return Layout(Form.EXCHANGED, layout.digit, layout.share) if layout.form is Form.DIVIDED else WHOLE


def _result(state: Pass, nest: Nest, number: int, tensor: int, cut: Cut) -> Layout:
    """A gradient of the experts is divided like its weight; everything else stays exchanged."""
    goal = state.divider.goals.get(tensor)
    if goal is not None and goal.form is Form.DIVIDED:
        return goal
    return _exchanged(cut, nest.result(number))


def _grown(nest: Nest, loops: OperatorLoops, cut: Cut, layouts: dict[int, Layout]) -> Growth | None:
    """The loop over tokens of a product: one that exchanged tensors have and weights have not."""
    if not nest.products:
        return None
    strides = [(nest.operand(place), tensor) for place, tensor in enumerate(loops.operands)]
    strides += [(nest.result(number), tensor) for number, tensor in enumerate(loops.results)]
    tokens, fixed = set(), {cut.loop}
    for own, tensor in strides:
        form = layouts[tensor].form if tensor in layouts else Form.WHOLE
        loops_of = {loop for loop, stride in enumerate(own) if stride > 0}
        if form is Form.EXCHANGED:
            tokens |= loops_of
        elif form is Form.DIVIDED:
            fixed |= loops_of
    found = sorted(tokens - fixed)
    assert len(found) == 1, "a product of experts has one loop over tokens"
    return Growth(found[0], round(1 / cut.share))
