"""A partition of operators into groups that keeps a topological order of the groups while they merge.

The order makes the convexity test local: a path from one group back to another can only run through groups that lie
between them. Merging moves the few that have to come first, in the manner of Pearce and Kelly, "A dynamic topological
sort algorithm for directed acyclic graphs", ACM JEA 11 (2006).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LEAST_GAP = 1e-6
"""Distance of neighbouring labels below which all are renumbered: far above the rounding of a double at 10^7."""


class Grouping:
    """Groups of operators, named by one of their members (`find`), in a topological order.

    Attributes:
        members: operators of every group, ascending.
        sources, targets: groups that a group depends on directly, and that depend on it.
    """

    def __init__(self, predecessors: Sequence[Iterable[int]]) -> None:
        """Every operator alone, in the given order."""
        count = len(predecessors)
        self.members: dict[int, list[int]] = {index: [index] for index in range(count)}
        self.sources: list[set[int]] = [set(found) for found in predecessors]
        self.targets: list[set[int]] = [set() for _ in predecessors]
        for index, found in enumerate(self.sources):
            for source in found:
                self.targets[source].add(index)
        self._parent = list(range(count))
        self._label = [float(index) for index in range(count)]
        self._earlier = list(range(-1, count - 1))
        self._later = [*range(1, count), -1] if count else []

    def find(self, operator: int) -> int:
        """Group of an operator."""
        parent = self._parent
        root = operator
        while parent[root] != root:
            root = parent[root]
        while parent[operator] != root:
            parent[operator], operator = root, parent[operator]
        return root

    def in_order(self) -> list[int]:
        """All groups in a topological order."""
        return sorted(self.members, key=self._label.__getitem__)

    def hull(self, seeds: set[int]) -> tuple[set[int], list[int]]:
        """What has to join or precede `seeds` if they merge.

        Returns:
            The groups on paths between seeds, and the other groups that lie after the first seed and lead to one; the
            latter in order.
        """
        label, sources = self._label, self.sources
        low = min(map(label.__getitem__, seeds))
        waiting = [group for seed in seeds for group in sources[seed] if label[group] > low and group not in seeds]
        if not waiting:
            return set(), []
        ancestors: set[int] = set()
        while waiting:
            group = waiting.pop()
            if group not in ancestors:
                ancestors.add(group)
                waiting.extend([g for g in sources[group] if label[g] > low and g not in seeds and g not in ancestors])
        between: set[int] = set()
        others = []
        for group in sorted(ancestors, key=label.__getitem__):
            if sources[group].isdisjoint(seeds) and sources[group].isdisjoint(between):
                others.append(group)
            else:
                between.add(group)
        return between, others

    def merge(self, groups: set[int], preceding: list[int]) -> int:
        """Merge a convex set of groups at the place of the first; `preceding` (from `hull`) is moved before it."""
        label = self._label
        ordered = sorted(groups, key=label.__getitem__)
        first = ordered[0]
        if preceding:
            self._move_before(first, preceding)
        members, sources, targets = self.members, self.sources, self.targets
        merged = sorted(member for group in ordered for member in members[group])
        for group in ordered[1:]:
            self._unlink(group)
            self._parent[group] = first
            del members[group]
            for source in sources[group]:
                targets[source].discard(group)
                targets[source].add(first)
            for target in targets[group]:
                sources[target].discard(group)
                sources[target].add(first)
            sources[first] |= sources[group]
            targets[first] |= targets[group]
        sources[first] -= groups
        targets[first] -= groups
        members[first] = merged
        return first

    def _unlink(self, group: int) -> None:
        earlier, later = self._earlier[group], self._later[group]
        if earlier >= 0:
            self._later[earlier] = later
        if later >= 0:
            self._earlier[later] = earlier

    def _move_before(self, place: int, moved: list[int]) -> None:
        before = self._earlier[place]
        if self._gap(before, place, len(moved)) < LEAST_GAP:
            for position, group in enumerate(self.in_order()):
                self._label[group] = float(position)
        gap = self._gap(before, place, len(moved))
        start = self._label[place] - gap * (len(moved) + 1)
        for group in moved:
            self._unlink(group)
        for position, group in enumerate(moved, start=1):
            self._label[group] = start + position * gap
            self._earlier[group] = before
            if before >= 0:
                self._later[before] = group
            before = group
        self._later[before] = place
        self._earlier[place] = before

    def _gap(self, before: int, place: int, count: int) -> float:
        """Distance of `count` labels between those of two neighbours."""
        start = self._label[before] if before >= 0 else self._label[place] - 1.0
        return (self._label[place] - start) / (count + 1)
