"""The pass itself: for every operator a division, operands in the layout it needs, results held accordingly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction

from worklode.graph.fusion.facts import DTYPE_BYTES
from worklode.graph.loops import UNTOUCHED, LoopKind, Nest, OperatorLoops
from worklode.graph.operator import Operator, OperatorKind, Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Collective, Work
from worklode.partition.tensor_parallel.builder import ShardBuilder, Written, statistic_like
from worklode.partition.tensor_parallel.division import Divider
from worklode.partition.tensor_parallel.exchange import expert_cut, write_exchanged
from worklode.partition.tensor_parallel.holdings import GROUPS, Holdings, merged, partial_gradients
from worklode.partition.tensor_parallel.layout import PARTIAL, WHOLE, Cut, Form, Layout, layout_under, locate, portion
from worklode.partition.tensor_parallel.rows import STATISTIC_BYTES, row_parts
from worklode.partition.tensor_parallel.scaled import scaled_nest, scaled_work

_ZEROS = frozenset(("aten.zeros", "aten.new_zeros", "aten.zeros_like"))
"""Operators whose result adds nothing to a sum."""

_MASK_OPS_PER_ID = 4  # below, above, subtract the first row, select: of a look-up in a part of a table
_SUMS = (
    OperatorKind.ELEMENTWISE,
    OperatorKind.MOVEMENT,
    OperatorKind.REDUCTION,
    OperatorKind.GATHER,
    OperatorKind.SCATTER,
)

Needed = Mapping[int, tuple[int, Fraction]]
"""Old tensor -> the new tensor to be read for it, and the share of its bytes that is read."""


class Passing(Enum):
    """What becomes of partial sums at an operator.

    NO: they are added before it. THROUGH: it is linear in them, and its results are partial sums.
    INTO_SUMS: what else it adds joins them.
    """

    NO = 0
    THROUGH = 1
    INTO_SUMS = 2


@dataclass(slots=True, kw_only=True)
class Sharder:
    """State of one pass. Old tensors are those of the graph, new ones those of the device.

    Attributes:
        graph: the graph of one device.
        divider: chooses the loop of every operator.
        builder: writes the new graph.
        holdings: what the device holds.
        sequence: layouts with the sequence divided, empty without sequence parallelism.
        divided_flops, whole_flops: matrix FLOPs of operators that were divided, and of those every device repeats.
    """

    graph: TrainingGraph
    divider: Divider
    builder: ShardBuilder
    holdings: Holdings
    sequence: Mapping[int, Layout]
    divided_flops: int = 0
    whole_flops: int = 0
    _zeros: set[int] = field(default_factory=set)
    _scattered: set[int] = field(default_factory=set)
    _readers: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> None:
        """Write the graph of one device."""
        for index, operator in enumerate(self.graph.operators):
            for access in operator.reads:
                self._readers[access.tensor, GROUPS[operator.phase]].append(index)
        flushed = False
        for operator, loops in zip(self.graph.operators, self.graph.loops, strict=True):
            if operator.phase is Phase.OPTIMIZER and not flushed:
                flushed = True
                self._sum_gradients(operator)
            if loops.nest is None:
                self._whole(operator)
            elif self.builder.axis == "expert" and (expert := expert_cut(self, operator, loops)) is not None:
                write_exchanged(self, operator, loops, expert)
            else:
                self._with_loops(operator, loops, loops.nest)

    # -------------------------------------------------------------------------------------------------- operators

    def _sum_gradients(self, first: Operator) -> None:
        """Gradients of parameters that every device holds and that saw different tokens: one all-reduce a block."""
        groups: dict[tuple[int, int], list[int]] = {}
        for tensor in partial_gradients(self.holdings, self.graph.operators):
            producer = self.graph.operators[max(0, self.graph.tensors[tensor].producer)]
            groups.setdefault((producer.block, producer.instance), []).append(tensor)
        for tensors in groups.values():
            self.holdings.reduce_together(tensors, first)

    def _whole(self, operator: Operator) -> None:
        """An operator without loops: all of its operands, all of its results, on every device.

        Tokens of another axis may be exchanged before they are added.
        """
        reads = []
        communication = operator.work.communication
        exchanges = communication is not None and communication.collective is Collective.ALL_TO_ALL
        held = WHOLE
        for access in operator.reads:
            layout = self.holdings.layout(access.tensor)
            if layout.form is Form.PARTIAL:
                if exchanges and len(self._readers[access.tensor, GROUPS[operator.phase]]) == 1:
                    held = PARTIAL
                    reads.append((self.holdings.home(access.tensor)[0], access.bytes))
                    continue
                self.holdings.reduce(access.tensor, WHOLE, operator)
            elif layout.form is Form.DIVIDED and access.tensor in self.divider.parameters:
                self.divider.no_rule(operator)
            reads.append((self.holdings.held(access.tensor, WHOLE, operator), access.bytes))
        writes = [self.holdings.written(access, held) for access in operator.writes]
        made = self.builder.add(operator, operator.work, merged(reads, self.builder), writes)
        for access, new in zip(operator.writes, made, strict=True):
            self.holdings.settle(access.tensor, new, held)
        self.whole_flops += operator.work.matrix_flops

    def _with_loops(self, operator: Operator, loops: OperatorLoops, nest: Nest) -> None:
        """An operator with loops, one of which may be divided."""
        layouts = {tensor: self.holdings.layout(tensor) for tensor in loops.operands if tensor >= 0}
        cut = self.divider.division(operator, loops, layouts)
        read = {access.tensor for access in operator.reads}
        partial = [t for t in layouts if t in read and layouts[t].form is Form.PARTIAL]
        stays_partial = False
        if partial:
            passing = self._passing(operator, loops, nest, layouts, partial, cut)
            if passing is Passing.INTO_SUMS:
                self._add_into(operator, loops, nest, layouts, partial, cut)
                return
            stays_partial = passing is Passing.THROUGH
            cut = None if stays_partial else cut or self._sequence_cut(loops, nest, partial)
            for tensor in () if stays_partial else partial:
                self.holdings.reduce(tensor, _scattered_layout(nest, loops, tensor, cut), operator)
        needed = self._operands(operator, loops, nest, cut, keep_partial=stays_partial)
        if cut is not None and nest.kinds[cut.loop] is LoopKind.ROW:
            self._rows(operator, loops, nest, cut, needed)
        else:
            self._write(operator, loops, nest, cut, needed, stays_partial=stays_partial)
        if cut is None:
            self.whole_flops += operator.work.matrix_flops
        else:
            self.divided_flops += operator.work.matrix_flops

    def _write(
        self,
        operator: Operator,
        loops: OperatorLoops,
        nest: Nest,
        cut: Cut | None,
        needed: Needed,
        *,
        stays_partial: bool,
    ) -> None:
        """The operator on its share of a loop."""
        results = {
            tensor: _result_layout(nest, number, cut, stays_partial=stays_partial)
            for number, tensor in enumerate(loops.results)
            if tensor >= 0
        }
        reads = [(needed[a.tensor][0], portion(a.bytes, needed[a.tensor][1])) for a in operator.reads]
        writes = [self.holdings.written(access, results.get(access.tensor, WHOLE)) for access in operator.writes]
        work = self._streaming(operator, _work(operator, nest, cut), reads, writes)
        made = self.builder.add(operator, work, merged(reads, self.builder), writes)
        for access, new in zip(operator.writes, made, strict=True):
            self.holdings.settle(access.tensor, new, results.get(access.tensor, WHOLE))
            if operator.name in _ZEROS:
                self._zeros.add(access.tensor)
            if cut is not None and nest.kinds[cut.loop] is LoopKind.PLACED:
                self._scattered.add(access.tensor)
        self.builder.loops[-1] = OperatorLoops(
            nest=scaled_nest(nest, cut) if cut is not None else nest,
            operands=tuple([needed[t][0] if t in needed else -1 for t in loops.operands]),
            results=tuple([self.holdings.home(t)[0] if t >= 0 else -1 for t in loops.results]),
        )

    def _streaming(
        self, operator: Operator, work: Work, reads: Sequence[tuple[int, int]], writes: Sequence[Written]
    ) -> Work:
        """The work with the elements that stream through the lanes: less by what less is read and written.

        Operands that a loop leaves out (ids of a table divided by columns, a bias of divided rows) stream whole.
        """
        if work.products or not work.vector_elements:
            return work
        less = 0
        for old, new in (
            *zip(operator.reads, (size for _, size in reads), strict=True),
            *zip(operator.writes, (written.accessed for written in writes), strict=True),
        ):
            less += (old.bytes - new) // DTYPE_BYTES.get(self.graph.tensors[old.tensor].dtype, 1)
        return replace(work, vector_elements=operator.work.vector_elements - less)

    def _rows(self, operator: Operator, loops: OperatorLoops, nest: Nest, cut: Cut, needed: Needed) -> None:
        """An operator whose rows are divided: local parts, each followed by the all-reduce of its number a row."""
        work = scaled_work(operator.work, nest, cut)
        parts = row_parts(
            operator, nest, cut, work, from_scatter=any(tensor in self._scattered for tensor in loops.operands)
        )
        reads = [(needed[a.tensor][0], portion(a.bytes, needed[a.tensor][1])) for a in operator.reads]
        operands = merged(reads, self.builder)
        size = parts.rows * STATISTIC_BYTES
        numbers: list[tuple[int, int]] = []
        like = statistic_like(self.graph.tensors[operator.writes[0].tensor])
        for part in parts.parts:
            name = replace(operator, name=part.name)
            (made,) = self.builder.add(
                name, part.work, [*operands, *numbers], [Written(bytes=size, accessed=size, like=like)]
            )
            storage = self.builder.storage_of(made)
            summed = Written(bytes=size, accessed=size, like=like, storage=storage)
            (made,) = self.builder.collective(
                Collective.ALL_REDUCE, size, operator, operator.phase, [(made, size)], [summed]
            )
            numbers.append((made, size))
        layouts = {t: _result_layout(nest, n, cut, stays_partial=False) for n, t in enumerate(loops.results) if t >= 0}
        writes = [self.holdings.written(access, layouts.get(access.tensor, WHOLE)) for access in operator.writes]
        read = [*(operands if parts.last_reads_operands else ()), *numbers]
        for access, new in zip(operator.writes, self.builder.add(operator, parts.last, read, writes), strict=True):
            self.holdings.settle(access.tensor, new, layouts.get(access.tensor, WHOLE))

    # --------------------------------------------------------------------------------------------------- operands

    def _operands(
        self, operator: Operator, loops: OperatorLoops, nest: Nest, cut: Cut | None, *, keep_partial: bool
    ) -> dict[int, tuple[int, Fraction]]:
        """The new tensors to be read, gathered where the division needs more than the device holds."""
        read = {access.tensor for access in operator.reads}
        wanted: dict[int, Layout] = {}
        parts: dict[int, Fraction] = {}
        for place, tensor in enumerate(loops.operands):
            if tensor not in read:
                continue
            layout = layout_under(cut, nest.operand(place)) if cut is not None else WHOLE
            if wanted.setdefault(tensor, layout) != layout:
                wanted[tensor] = WHOLE
            looked_up = cut is not None and nest.kinds[cut.loop] is LoopKind.LOOKUP
            part = Fraction(1) if looked_up else layout.held
            parts[tensor] = max(part, parts.get(tensor, Fraction(0)))
        found: dict[int, tuple[int, Fraction]] = {}
        for access in operator.reads:
            tensor = access.tensor
            layout = self.holdings.layout(tensor)
            if keep_partial and layout.form is Form.PARTIAL:
                found[tensor] = (self.holdings.home(tensor)[0], Fraction(1))
            else:
                new = self.holdings.held(tensor, wanted.get(tensor, WHOLE), operator)
                found[tensor] = (new, parts.get(tensor, Fraction(1)))
        return found

    def _passing(
        self,
        operator: Operator,
        loops: OperatorLoops,
        nest: Nest,
        layouts: Mapping[int, Layout],
        partial: Sequence[int],
        cut: Cut | None,
    ) -> Passing:
        """May partial sums pass an operator, to be added later, and once? Only where no more bytes are added then."""
        if operator.kind not in _SUMS or operator.phase is Phase.OPTIMIZER:
            return Passing.NO
        read = {access.tensor: access.bytes for access in operator.reads}
        group = GROUPS[operator.phase]
        size = max(self.graph.tensors[tensor].bytes for tensor in partial)
        if any(len(self._readers[tensor, group]) > 1 for tensor in partial):
            return Passing.NO
        if sum(access.bytes for access in operator.writes) > size:
            return Passing.NO
        places = {place for place, tensor in enumerate(loops.operands) if tensor in partial}
        for mask in nest.linear:
            together = {place for place in range(len(loops.operands)) if mask >> place & 1}
            if not places <= together:
                continue
            others = [loops.operands[p] for p in together - places if loops.operands[p] in read]
            gathered = sum(
                self.graph.tensors[t].bytes
                for t in {loops.operands[p] for p in range(len(loops.operands))} - set(partial)
                if t in read and layouts[t].form is Form.DIVIDED
            )
            if all(tensor in self._zeros for tensor in others) and gathered < size:
                return Passing.THROUGH
            if others and all(tensor not in self._zeros for tensor in others) and self._is_summed_further(operator):
                return Passing.INTO_SUMS
        return Passing.NO

    def _is_summed_further(self, operator: Operator) -> bool:
        """Is the result read once, by another sum? Autograd adds the gradients of a tensor one after another."""
        if len(operator.writes) != 1:
            return False
        readers = self._readers[operator.writes[0].tensor, GROUPS[operator.phase]]
        if len(readers) != 1 or self.graph.operators[readers[0]].name != operator.name:
            return False
        nest = self.graph.loops[readers[0]].nest
        everything = (1 << len(self.graph.loops[readers[0]].operands)) - 1
        return nest is not None and everything in nest.linear

    def _add_into(
        self,
        operator: Operator,
        loops: OperatorLoops,
        nest: Nest,
        layouts: Mapping[int, Layout],
        partial: Sequence[int],
        cut: Cut | None,
    ) -> None:
        """A term that is no partial sum joins one: every device adds its part of the term to its own sums.

        Of a whole term one device adds all; equal devices are assumed, so each is charged the whole of it.
        """
        part = cut.share if cut is not None else Fraction(1)
        reads = []
        for access in operator.reads:
            layout = layouts[access.tensor]
            if layout.form is Form.PARTIAL:
                reads.append((self.holdings.home(access.tensor)[0], portion(access.bytes, part)))
            else:
                place = loops.operands.index(access.tensor)
                wanted = layout_under(cut, nest.operand(place)) if cut is not None else WHOLE
                new = self.holdings.held(access.tensor, wanted, operator)
                reads.append((new, portion(access.bytes, wanted.held)))
        storage = self.builder.storage_of(self.holdings.home(partial[0])[0])
        access = operator.writes[0]
        old = self.graph.tensors[access.tensor]
        size = self.builder.storage_bytes(storage)
        work = scaled_work(operator.work, nest, cut) if cut is not None else operator.work
        written = Written(bytes=size, accessed=portion(access.bytes, part), like=old, storage=storage)
        (made,) = self.builder.add(operator, work, merged(reads, self.builder), [written])
        self.holdings.settle(access.tensor, made, PARTIAL)

    def _sequence_cut(self, loops: OperatorLoops, nest: Nest, partial: Sequence[int]) -> Cut | None:
        """Under sequence parallelism sums are scattered where an operator can run on a part of the sequence."""
        for place, tensor in enumerate(loops.operands):
            if tensor in partial and tensor in self.sequence:
                cut = locate(nest, nest.operand(place), self.sequence[tensor], self.builder.devices)
                if cut is not None and nest.kinds[cut.loop] is LoopKind.FREE and not nest.products:
                    return cut
        return None


def _scattered_layout(nest: Nest, loops: OperatorLoops, tensor: int, cut: Cut | None) -> Layout:
    """The layout partial sums are reduced to: divided where every use of the tensor is cut, else whole."""
    if cut is None:
        return WHOLE
    found = {layout_under(cut, nest.operand(place)) for place, read in enumerate(loops.operands) if read == tensor}
    return found.pop() if len(found) == 1 else WHOLE


def _result_layout(nest: Nest, number: int, cut: Cut | None, *, stays_partial: bool) -> Layout:
    """How a result is held."""
    if stays_partial:
        return PARTIAL
    if cut is None:
        return WHOLE
    strides = nest.result(number)
    if strides[cut.loop] > 0:
        return layout_under(cut, strides)
    if UNTOUCHED in strides:
        return WHOLE
    return PARTIAL if nest.kinds[cut.loop] in {LoopKind.FREE, LoopKind.LOOKUP} else WHOLE


def _work(operator: Operator, nest: Nest, cut: Cut | None) -> Work:
    """Work of one device; a look-up in a part of a table masks what is elsewhere."""
    if cut is None:
        return operator.work
    work = scaled_work(operator.work, nest, cut)
    if nest.kinds[cut.loop] is not LoopKind.LOOKUP:
        return work
    # Every id is compared and shifted, every element looked up is kept or set to zero.
    moved = operator.work.simple_ops
    return replace(work, simple_ops=work.simple_ops + moved + _MASK_OPS_PER_ID * work.random_accesses)
