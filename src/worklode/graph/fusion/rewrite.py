"""From groups to a graph: every group one operator, what stays on chip gone from the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import groupby

from worklode.graph.fusion.facts import ANCHORS, UPDATED_ROLES, Flow, GraphFacts
from worklode.graph.fusion.grouping import Grouping
from worklode.graph.fusion.legality import ROW_ELEMENT_BYTES, GroupFacts
from worklode.graph.fusion.options import FusionPattern
from worklode.graph.operator import Access, Operator, OperatorKind, Tensor
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Work


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewritten:
    """The fused graph, and the pattern and size of every fused operator."""

    graph: TrainingGraph
    fused: tuple[tuple[FusionPattern, int], ...]


def rewrite(facts: GraphFacts, grouping: Grouping, group_facts: dict[int, GroupFacts]) -> Rewritten:
    """The graph with one operator per group, in the order of the groups."""
    graph = facts.graph
    order = _order(grouping, group_facts)
    place_of = [0] * len(graph.operators)
    for place, group in enumerate(order):
        for member in grouping.members[group]:
            place_of[member] = place
    gone = _eliminated(facts, grouping, place_of)
    kept = [index for index in range(len(graph.tensors)) if index not in gone]
    new_index = [-1] * len(graph.tensors)
    for new, old in enumerate(kept):
        new_index[old] = new
    builder = _Builder(facts, place_of, gone, new_index)
    operators = []
    fused = []
    for group in order:
        members = grouping.members[group]
        if len(members) == 1:
            operators.append(builder.alone(members[0]))
        else:
            operator = builder.fused(members, group_facts[group].anchor)
            operators.append(operator)
            updated = [graph.tensors[kept[access.tensor]] for access in operator.writes]
            fused.append((_pattern(facts, members, group_facts[group], updated), len(members)))
    tensors = []
    for old in kept:
        tensor = graph.tensors[old]
        place = place_of[tensor.producer] if tensor.producer >= 0 else -1
        tensors.append(tensor if place == tensor.producer else _moved(tensor, place))
    rewritten = TrainingGraph(info=graph.info, tensors=tuple(tensors), operators=tuple(operators), blocks=graph.blocks)
    return Rewritten(graph=rewritten, fused=tuple(fused))


def _moved(tensor: Tensor, producer: int) -> Tensor:
    """The tensor with another producer; `dataclasses.replace` takes 1.7 times as long."""
    return Tensor(
        storage=tensor.storage,
        bytes=tensor.bytes,
        dtype=tensor.dtype,
        role=tensor.role,
        producer=producer,
        saved=tensor.saved,
        name=tensor.name,
    )


def _order(grouping: Grouping, group_facts: dict[int, GroupFacts]) -> list[int]:
    """Groups in the topological order nearest to the operators': the ready one whose anchor, or first member, leads.

    Liveness follows the order: a weight gradient stays beside the operator that makes its operand.
    """
    members = grouping.members
    place = {group: max(group_facts[group].anchor, members[group][0]) for group in members}
    missing = {group: len(grouping.sources[group]) for group in members}
    ready = [(place[group], group) for group, count in missing.items() if not count]
    heapify(ready)
    order = []
    while ready:
        _, group = heappop(ready)
        order.append(group)
        for successor in grouping.targets[group]:
            missing[successor] -= 1
            if not missing[successor]:
                heappush(ready, (place[successor], successor))
    assert len(order) == len(members), "groups form a cycle"
    return order


def _eliminated(facts: GraphFacts, grouping: Grouping, place_of: list[int]) -> set[int]:
    """Tensors that never reach HBM: read in their group only, and wanted by nobody else, or overwritten in it."""
    tensors = facts.graph.tensors
    gone = set()
    for members in grouping.members.values():
        if len(members) == 1:
            continue
        place = place_of[members[0]]
        for member in members:
            for access in facts.graph.operators[member].writes:
                tensor = access.tensor
                following = facts.following[tensor]
                overwritten = (
                    following >= 0
                    and facts.covers_storage(following)
                    and place_of[tensors[following].producer] == place
                )
                if tensors[tensor].saved or any(place_of[reader] != place for reader, _ in facts.readers[tensor]):
                    continue
                unwanted = following < 0 and facts.readers[tensor] and not facts.stays[tensor]
                if (overwritten or unwanted) and not facts.is_patch(tensor):
                    gone.add(tensor)
    return gone


class _Builder:
    """Builds operators of the fused graph; equal works, and mostly equal accesses, are one object."""

    def __init__(self, facts: GraphFacts, place_of: list[int], gone: set[int], new_index: list[int]) -> None:
        self.facts = facts
        self.place_of = place_of
        self.gone = gone
        self.new_index = new_index
        self.newest: list[Access | None] = [None] * len(new_index)
        self.works: dict[Work, Work] = {}

    def access(self, tensor: int, size: int) -> Access:
        """Access to a tensor by its old index."""
        index = self.new_index[tensor]
        found = self.newest[index]
        if found is None or found.bytes != size:
            found = self.newest[index] = Access(tensor=index, bytes=size)
        return found

    def alone(self, index: int) -> Operator:
        """An operator that was not fused, renumbered."""
        old = self.facts.graph.operators[index]
        return Operator(
            name=old.name,
            kind=old.kind,
            phase=old.phase,
            module=old.module,
            work=old.work,
            reads=tuple([self.access(a.tensor, a.bytes) for a in old.reads]),
            writes=tuple([self.access(a.tensor, a.bytes) for a in old.writes]),
            after=self.places(old.after, self.place_of[index]),
            block=old.block,
            instance=old.instance,
            gradient_of=old.gradient_of,
            members=old.members,
        )

    def places(self, operators: tuple[int, ...], own: int) -> tuple[int, ...]:
        """Groups of operators, ascending, without the own one."""
        if not operators:
            return ()
        found = {self.place_of[operator] for operator in operators}
        found.discard(own)
        return tuple(sorted(found))

    def fused(self, members: list[int], anchor: int) -> Operator:
        """One operator in place of several."""
        operators = self.facts.graph.operators
        place = self.place_of[members[0]]
        reads, writes, kept_in_lanes = self._traffic(members, place)
        leader = operators[self._leader(members, anchor)]
        block, instance = leader.block, leader.instance
        places = {(operators[member].block, operators[member].instance) for member in members}
        if len(places) > 1 and self._only_updates(writes):
            block = instance = -1  # of several repetitions, hence of none
        work = self._work(members, kept_in_lanes)
        names = tuple([operators[member].name for member in members])
        after = tuple([before for member in members for before in operators[member].after])
        return Operator(
            name=_joined(names),
            kind=self._kind(members, leader, work),
            phase=leader.phase,
            module=leader.module,
            work=self.works.setdefault(work, work),
            reads=tuple([self.access(tensor, size) for tensor, size in reads.items()]),
            writes=tuple([self.access(tensor, size) for tensor, size in writes.items()]),
            after=self.places(after, place),
            block=block,
            instance=instance,
            gradient_of=leader.gradient_of,
            members=names,
        )

    def _traffic(self, members: list[int], place: int) -> tuple[dict[int, int], dict[int, int], int]:
        """Bytes read and written by tensor, and elements that stay in the lanes instead of passing their ports."""
        facts = self.facts
        tensors, operators = facts.graph.tensors, facts.graph.operators
        reads: dict[int, int] = {}
        lane_reads: dict[int, int] = {}
        writes: dict[int, int] = {}
        kept = 0
        for member in members:
            in_lanes = facts.flow[member] not in ANCHORS
            for access in operators[member].reads:
                tensor, size = access.tensor, access.bytes
                producer = tensors[tensor].producer
                if producer >= 0 and self.place_of[producer] == place:
                    if in_lanes and facts.flow[producer] not in ANCHORS:
                        kept += size // facts.element_bytes[tensor]
                    continue
                limit = tensors[tensor].bytes
                reads[tensor] = min(reads.get(tensor, 0) + size, limit)
                if in_lanes:
                    known = lane_reads.get(tensor, 0)
                    lane_reads[tensor] = total = min(known + size, limit)
                    kept += (known + size - total) // facts.element_bytes[tensor]
            for access in operators[member].writes:
                if access.tensor not in self.gone:
                    writes[access.tensor] = access.bytes
                elif in_lanes:
                    kept += access.bytes // facts.element_bytes[access.tensor]
        return reads, writes, kept

    def _only_updates(self, writes: dict[int, int]) -> bool:
        """Is all that is written for the next iteration?"""
        return all(self.facts.graph.tensors[tensor].role in UPDATED_ROLES for tensor in writes)

    def _leader(self, members: list[int], anchor: int) -> int:
        """The member whose module, block and phase the group takes: its anchor, row-wise operator, or first."""
        if anchor >= 0:
            return anchor
        flow = self.facts.flow
        return next((member for member in members if flow[member] is Flow.ROW), members[0])

    def _kind(self, members: list[int], leader: Operator, work: Work) -> OperatorKind:
        if work.chained:
            return OperatorKind.ATTENTION
        flows = {self.facts.flow[member] for member in members}
        if not flows.isdisjoint(ANCHORS) or Flow.ROW in flows:
            return leader.kind
        kinds = {self.facts.graph.operators[member].kind for member in members}
        if len(kinds) == 1:
            return kinds.pop()
        return OperatorKind.REDUCTION if Flow.REDUCE in flows else OperatorKind.ELEMENTWISE

    def _work(self, members: list[int], kept_in_lanes: int) -> Work:
        """Sums; rows by the largest; dependent steps along the longest path."""
        works = [self.facts.graph.operators[member].work for member in members]
        products = tuple([product for work in works for product in work.products])
        accesses = sum([work.random_accesses for work in works])
        scattered = sum([work.random_accesses * work.random_access_bytes for work in works])
        return Work(
            products=products,
            chained=len(products) > 1 and (any(work.chained for work in works) or self._anchors(members) > 1),
            simple_ops=sum([work.simple_ops for work in works]),
            special_ops=sum([work.special_ops for work in works]),
            vector_elements=max(0, sum([work.vector_elements for work in works]) - kept_in_lanes),
            reduction_bytes=max(*[work.reduction_bytes for work in works], self._held_row(members)),
            random_accesses=accesses,
            random_access_bytes=-(-scattered // accesses) if accesses else 0,
            serial_steps=self._serial_steps(members),
        )

    def _anchors(self, members: list[int]) -> int:
        return sum(self.facts.flow[member] in ANCHORS for member in members)

    def _held_row(self, members: list[int]) -> int:
        """Largest row [bytes] that is reduced and read again inside the group; 0 without."""
        facts = self.facts
        inside = set(members)
        held = 0
        for member in members:
            if facts.flow[member] is not Flow.STREAM or facts.moves[member]:
                continue
            domain = facts.domain[member]
            for access in facts.graph.operators[member].reads:
                elements = access.bytes // facts.element_bytes[access.tensor]
                made_here = facts.graph.tensors[access.tensor].producer in inside
                if made_here and facts.reduced[access.tensor] and 0 < elements < domain:
                    held = max(held, domain // elements * ROW_ELEMENT_BYTES)
        return held

    def _serial_steps(self, members: list[int]) -> int:
        facts = self.facts
        longest: dict[int, int] = {}
        for member in members:
            before = max([longest.get(p, 0) for p in facts.predecessors[member]], default=0)
            longest[member] = before + facts.graph.operators[member].work.serial_steps
        return max(longest.values())


def _joined(names: tuple[str, ...]) -> str:
    """Names joined by `+`, repetitions of one counted."""
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    return "+".join(name if count == 1 else f"{name}*{count}" for name, count in runs)


def _pattern(facts: GraphFacts, members: list[int], group: GroupFacts, written: list[Tensor]) -> FusionPattern:
    operators = facts.graph.operators
    flows = {facts.flow[member] for member in members}
    if group.anchor >= 0:
        return FusionPattern.ATTENTION if group.rows else FusionPattern.PRODUCT
    if all(tensor.role in UPDATED_ROLES for tensor in written):
        return FusionPattern.UPDATES if len({tensor.name for tensor in written}) > 1 else FusionPattern.UPDATE
    if Flow.ROW in flows:
        kinds = {operators[member].kind for member in members}
        return FusionPattern.SOFTMAX if OperatorKind.SOFTMAX in kinds else FusionPattern.NORMALIZATION
    if group.rows:
        return FusionPattern.ROWS
    if Flow.SOURCE in flows:
        return FusionPattern.GATHER
    return FusionPattern.REDUCTION if Flow.REDUCE in flows else FusionPattern.ELEMENTWISE
