"""Which groups may become one operator: decided by data flow, never by names.

A group is one kernel. What its members hand on stays on chip, so it must stream: element by element, or a row at a time
behind a reduction. docs/models/fusion.md states every rule with its reason.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from worklode.graph.fusion.facts import ANCHORS, STREAMING_READERS, Flow, GraphFacts
from worklode.graph.fusion.grouping import Grouping
from worklode.graph.fusion.options import FusionOptions

ILLEGAL = -1
MOST_RESULTS = 4
"""Results that operators behind an anchor may make of one of its results [1]: upsampling by 2 x 2, the gradients of
both halves of a gated layer. Assumption: beyond it the anchor would be the smaller part of its operator."""

ROW_ELEMENT_BYTES = 4
"""Bytes of an element held between a reduction and its readers [bytes]: results of lanes are float32."""


class Verdict(Enum):
    """What became of an attempt to merge."""

    MERGED = auto()
    NOT_NOW = auto()
    """Something on a path between stands in the way; it may join later."""
    NEVER = auto()
    """The groups do not go together, and groups only grow."""


class GroupFacts(NamedTuple):
    """What legality has to know of a group.

    Attributes:
        phase: stretch of the iteration of all members.
        anchor: its product or chained operator, -1 without.
        anchor_domain: results of the anchor.
        domain: largest domain of the other members.
        rows: rows it runs through where results follow a row, 0 where everything streams.
        depth: of its deepest member other than the anchor; of the anchor where there is one.
        closed: holds an operator that must not be fused.
    """

    phase: int
    anchor: int
    anchor_domain: int
    domain: int
    rows: int
    depth: int
    closed: bool


class Legality:
    """Rules over one graph and its present groups."""

    def __init__(self, facts: GraphFacts, grouping: Grouping, options: FusionOptions) -> None:
        """All operators alone at first."""
        self.facts = facts
        self.grouping = grouping
        self.options = options
        self.group: dict[int, GroupFacts] = {i: self._alone(i) for i in range(len(facts.flow))}

    def _alone(self, operator: int) -> GroupFacts:
        facts = self.facts
        flow, domain = facts.flow[operator], facts.domain[operator]
        anchored = flow in ANCHORS
        return GroupFacts(
            phase=facts.phase[operator],
            anchor=operator if anchored else -1,
            anchor_domain=domain if anchored else 0,
            domain=0 if anchored else domain,
            rows=facts.rows[operator],
            depth=facts.depth[operator],
            closed=flow is Flow.CLOSED or facts.rows[operator] < 0,
        )

    def merge_streaming(self, one: int, other: int) -> Verdict:
        """Merge two groups and what lies on paths between them into one that streams, where that is legal."""
        seeds = {one, other}
        merged = self._streaming_union(seeds)
        if merged is None:
            return Verdict.NEVER
        between, preceding = self.grouping.hull(seeds)
        if between:
            seeds |= between
            merged = self._streaming_union(seeds)
        if merged is None or self._makes_early_wait(seeds, merged.depth):
            return Verdict.NOT_NOW
        self.replace(seeds, preceding, merged)
        return Verdict.MERGED

    def _streaming_union(self, parts: set[int]) -> GroupFacts | None:
        """Facts of the parts as one group that streams; None where they cannot, which no later merge mends."""
        merged = self.union(parts)
        if merged is None or not self._one_kernel(parts):
            return None
        rows = self._rows_of_union(parts, merged.rows)
        if rows == merged.rows:
            return merged
        return None if rows == ILLEGAL or merged.anchor >= 0 else merged._replace(rows=rows)

    def _one_kernel(self, parts: set[int]) -> bool:
        """Whether the program has a kernel of these operators, where its kernels are given."""
        if not self.options.kernels:
            return True
        operators = self.facts.graph.operators
        names = {operators[member].name for part in parts for member in self.grouping.members[part]}
        return any(names <= kernel for kernel in self.options.kernels)

    def replace(self, parts: set[int], preceding: list[int], merged: GroupFacts) -> int:
        """Make the parts one group."""
        group = self.grouping.merge(parts, preceding)
        for part in parts:
            del self.group[part]
        self.group[group] = merged
        return group

    def union(self, parts: set[int]) -> GroupFacts | None:
        """Facts of the parts together where they go together, edges between them not yet considered; else None."""
        phase, anchor, anchor_domain, domain, rows, depth = -1, -1, 0, 0, 0, 0
        for part in parts:
            facts = self.group[part]
            if facts.closed or (phase >= 0 and facts.phase != phase):
                return None
            phase = facts.phase
            domain = max(domain, facts.domain)
            depth = max(depth, facts.depth)
            if facts.anchor >= 0:
                if anchor >= 0:
                    return None
                anchor, anchor_domain = facts.anchor, facts.anchor_domain
            if facts.rows:
                if rows and rows != facts.rows:
                    return None
                rows = facts.rows
        if not (self.options.epilogues if anchor >= 0 else self.options.streaming):
            return None
        if anchor >= 0 and (rows or domain > MOST_RESULTS * anchor_domain):
            return None
        return GroupFacts(
            phase=phase, anchor=anchor, anchor_domain=anchor_domain, domain=domain, rows=rows, depth=depth, closed=False
        )

    def _rows_of_union(self, parts: set[int], rows: int) -> int:
        """Rows of the union once the edges between its parts are on chip; ILLEGAL where one of them cannot be."""
        members = self.grouping.members
        smaller = sorted(parts, key=lambda part: (len(members[part]), part))[:-1]
        for part in smaller:
            for operator in members[part]:
                for tensor, reader, size in self.crossing(operator, part, parts):
                    found = self.edge_rows(tensor, reader, size)
                    if found == ILLEGAL or (found and rows and found != rows):
                        return ILLEGAL
                    rows = rows or found
                if not self.ordered(operator, part, parts):
                    return ILLEGAL
        return rows

    def _makes_early_wait(self, parts: set[int], depth: int) -> bool:
        """Would a product, or results somebody else reads, have to wait for operands that come later?

        A weight gradient that is ready early must not wait for what is added to it at the end of backward. Readers of a
        later phase are in no hurry.
        """
        if not self.options.wait_for_siblings and self._waits_for_sibling(parts):
            return True
        early = [part for part in parts if self.group[part].depth != depth]
        return any(self.group[part].anchor >= 0 or self.is_read_in_phase(part, parts) for part in early)

    def _waits_for_sibling(self, parts: set[int]) -> bool:
        """Would a product have to wait for another one that could run beside it?"""
        facts, find = self.facts, self.grouping.find
        anchor = max(self.group[part].anchor for part in parts)
        if anchor < 0:
            return False
        depth = facts.depth
        for part in parts:
            if self.group[part].anchor >= 0:
                continue
            for operator in self.grouping.members[part]:
                for source in facts.predecessors[operator]:
                    if depth[source] >= depth[anchor] and find(source) not in parts:
                        return True
        return False

    def is_read_in_phase(self, part: int, parts: set[int]) -> bool:
        """Is anything a part makes read in its own phase by an operator outside the parts?"""
        facts, find = self.facts, self.grouping.find
        phase = facts.phase
        for operator in self.grouping.members[part]:
            for access in facts.graph.operators[operator].writes:
                for reader, _ in facts.readers[access.tensor]:
                    if phase[reader] == phase[operator] and find(reader) not in parts:
                        return True
        return False

    def crossing(self, operator: int, part: int, parts: set[int]) -> list[tuple[int, int, int]]:
        """Tensors (with reader and bytes) that pass between `operator` of `part` and another of the parts."""
        facts, find = self.facts, self.grouping.find
        found = []
        for access in facts.graph.operators[operator].reads:
            producer = facts.graph.tensors[access.tensor].producer
            if producer >= 0:
                other = find(producer)
                if other != part and other in parts:
                    found.append((access.tensor, operator, access.bytes))
        for access in facts.graph.operators[operator].writes:
            for reader, size in facts.readers[access.tensor]:
                other = find(reader)
                if other != part and other in parts:
                    found.append((access.tensor, reader, size))
        return found

    def edge_rows(self, tensor: int, reader: int, size: int) -> int:
        """May `reader` take `size` bytes of `tensor` on chip from its producer? 0, the rows it makes, or ILLEGAL."""
        facts = self.facts
        flow = facts.flow[reader]
        if flow not in STREAMING_READERS or facts.is_patch(tensor):
            return ILLEGAL
        elements, domain = size // facts.element_bytes[tensor], facts.domain[reader]
        if elements == domain or facts.moves[reader]:
            return 0
        if facts.counts[tensor] and len(facts.readers[tensor]) == 1:
            return 0  # such as the step count of one parameter's update
        # Read by every element of a row: legal only where the value is a row's own, found by reducing that row.
        if flow is not Flow.STREAM or not facts.reduced[tensor] or elements <= 1 or domain % elements:
            return ILLEGAL
        row_bytes = domain // elements * ROW_ELEMENT_BYTES
        return elements if row_bytes <= self.options.max_row_bytes else ILLEGAL

    def ordered(self, operator: int, part: int, parts: set[int]) -> bool:
        """Are the orders without data between `operator` and the other parts kept when all of them stream?"""
        facts, find = self.facts, self.grouping.find
        for before in facts.graph.operators[operator].after:
            other = find(before)
            if other != part and other in parts and not self._overwrites_in_step(before, operator):
                return False
        for later in facts.waited_for_by.get(operator, ()):
            other = find(later)
            if other != part and other in parts and not self._overwrites_in_step(operator, later):
                return False
        return True

    def _overwrites_in_step(self, first: int, second: int) -> bool:
        """Does `second` overwrite only elements that `first` has finished with when both stream together?"""
        facts = self.facts
        if facts.flow[second] is not Flow.STREAM or facts.flow[first] not in STREAMING_READERS:
            return False
        graph = facts.graph
        found = False
        for access in graph.operators[second].writes:
            older = facts.previous[access.tensor]
            if older < 0:
                continue
            for read in graph.operators[first].reads:
                if read.tensor == older:
                    if read.bytes != access.bytes:
                        return False
                    found = True
            found = found or graph.tensors[older].producer == first
        return found
