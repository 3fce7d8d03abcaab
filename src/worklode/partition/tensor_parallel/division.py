"""Which loop of an operator is divided, given how its operands are held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worklode.errors import Fault
from worklode.graph.loops import LoopKind, Nest, OperatorLoops
from worklode.graph.operator import Operator, OperatorKind, Phase
from worklode.partition.tensor_parallel.layout import WHOLE, Cut, Form, Layout, is_aligned, locate
from worklode.partition.tensor_parallel.parameters import wildcards


@dataclass(slots=True, kw_only=True)
class Divider:
    """Chooses cuts.

    Attributes:
        where: name of the graph, for messages.
        devices: devices along the axis.
        parameters: layouts of parameters and of tensors that are only cast ones: they are never gathered.
        goals: layouts gradients must have.
        sequence: layouts with the sequence divided.
        sizes: bytes of every tensor.
        faults: what no layout can divide, by path.
    """

    where: str
    devices: int
    parameters: Mapping[int, Layout]
    goals: Mapping[int, Layout]
    sequence: Mapping[int, Layout]
    sizes: Sequence[int]
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)

    def division(self, operator: Operator, loops: OperatorLoops, layouts: Mapping[int, Layout]) -> Cut | None:
        """The loop to divide of an operator whose operands are held as `layouts` says, None for none.

        The cut of a divided parameter comes first (parameters are not gathered), then that of a gradient it makes, then
        the one that spares most bytes of gathering; loops that need all their iterations are not cut.
        """
        nest = loops.nest
        assert nest is not None
        read = {access.tensor: access.bytes for access in operator.reads}
        best: dict[Cut, tuple[int, int]] = {}
        for place, tensor in enumerate(loops.operands):
            layout = layouts.get(tensor)
            if tensor < 0 or layout is None or layout.form is not Form.DIVIDED:
                continue
            is_parameter = tensor in self.parameters
            if operator.phase is Phase.OPTIMIZER and not is_parameter and self._updates_parameter(loops):
                continue
            cut = self._cut(operator, nest, nest.operand(place), tensor, layout, is_parameter=is_parameter)
            if cut is not None and (is_parameter or not self._leaves_replica(nest, loops, cut)):
                rank = 3 if is_parameter else 1 if tensor in read else 0
                known = best.get(cut, (0, 0))
                best[cut] = (max(rank, known[0]), known[1] + read.get(tensor, 0))
        for number, tensor in enumerate(loops.results):
            goal = self.goals.get(tensor)
            if goal is not None and goal.form is Form.DIVIDED and operator.phase is not Phase.OPTIMIZER:
                cut = locate(nest, nest.result(number), goal, self.devices)
                if cut is not None and nest.kinds[cut.loop] in {LoopKind.FREE, LoopKind.PLACED}:
                    best[cut] = (max(2, best.get(cut, (0, 0))[0]), best.get(cut, (0, 0))[1])
        if not best:
            return None
        chosen = max(best, key=lambda cut: (*best[cut], -cut.loop))
        rank, gathered = best[chosen]
        return None if rank < 2 and self._costs_more(loops, nest, chosen, gathered) else chosen

    def _costs_more(self, loops: OperatorLoops, nest: Nest, cut: Cut, gathered: int) -> bool:
        """Would the sums a cut makes cost more to add than its operands to gather?

        An all-reduce moves every byte twice, an all-gather once. Gradients of parameters are summed at the end of all.
        """
        summed = sum(
            self.sizes[tensor]
            for number, tensor in enumerate(loops.results)
            if tensor >= 0 and tensor not in self.goals and nest.result(number)[cut.loop] == 0
        )
        return nest.kinds[cut.loop] is LoopKind.FREE and 2 * summed > gathered

    def no_rule(self, operator: Operator) -> None:
        """Note that an operator whose loops are not known reads a divided parameter."""
        module = wildcards(operator.module)
        problem = f"the plan divides a parameter of {operator.name}, which no rule can divide"
        self.faults.setdefault(
            (module, operator.name),
            Fault(where=self.where, path=module, problem=problem, allowed="a plan that replicates it"),
        )

    def _leaves_replica(self, nest: Nest, loops: OperatorLoops, cut: Cut) -> bool:
        """Would a gradient that every device must have whole be divided, to be gathered later?"""
        return any(
            tensor >= 0 and self.goals.get(tensor) == WHOLE and nest.result(number)[cut.loop] > 0
            for number, tensor in enumerate(loops.results)
        )

    def _updates_parameter(self, loops: OperatorLoops) -> bool:
        return any(tensor in self.parameters for tensor in loops.operands)

    def _cut(
        self,
        operator: Operator,
        nest: Nest,
        strides: tuple[int, ...],
        tensor: int,
        layout: Layout,
        *,
        is_parameter: bool,
    ) -> Cut | None:
        """The cut an operand asks for; None where it must be gathered (and a fault where gathering makes no sense)."""
        cut = locate(nest, strides, layout, self.devices)
        is_sequence = self.sequence.get(tensor) == layout
        if cut is None:
            if not is_sequence and (is_parameter or _overlaps(nest, strides, layout, self.devices)):
                self._fault(operator, nest, None)
            return None
        if not is_aligned(nest, cut, self.devices):
            self._fault(operator, nest, cut)
            return None
        match nest.kinds[cut.loop]:
            case LoopKind.WHOLE:
                if is_parameter or (operator.kind is OperatorKind.ATTENTION and not is_sequence):
                    self._fault(operator, nest, cut)
                return None
            case LoopKind.LOOKUP:
                return cut if is_parameter else None
            case LoopKind.ROW:
                return None if is_sequence else cut
            case LoopKind.FREE | LoopKind.PLACED:
                return cut

    def _fault(self, operator: Operator, nest: Nest, cut: Cut | None) -> None:
        """Note that the devices do not divide what an operator works on."""
        module = wildcards(operator.module)
        heads, what = "", "a dimension that has to stay together is divided"
        if operator.kind is OperatorKind.ATTENTION and len(nest.sizes) >= 3:
            groups, queries = nest.sizes[1], nest.sizes[1] * nest.sizes[2]
            heads = f"{queries} heads" + (f", {groups} of keys and values" if groups != queries else "")
            what = f"{self.devices} devices do not divide its heads"
        elif cut is not None:
            heads = f"{nest.sizes[cut.loop]} (heads or blocks)"
            what = f"{self.devices} devices do not divide it"
        problem = f"{what} ({operator.name})"
        allowed = "a number of devices that divides heads and key and value heads, or a plan that leaves them whole"
        self.faults.setdefault(
            (module, what), Fault(where=self.where, path=module, value=heads, problem=problem, allowed=allowed)
        )


def _overlaps(nest: Nest, strides: tuple[int, ...], layout: Layout, devices: int) -> bool:
    """Do loops hold a part of the digit, so that a tensor is divided across them?"""
    end = layout.digit * devices
    return any(
        s > 0 and nest.sizes[loop] > 1 and s < end and s * nest.sizes[loop] > layout.digit
        for loop, s in enumerate(strides)
    )
