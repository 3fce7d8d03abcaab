"""Who waits for whom in a training graph, with all that the order of its operators decides written out as edges."""

from __future__ import annotations

from dataclasses import dataclass

from worklode.graph.training_graph import TrainingGraph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dependences:
    """Edges of N operators and versions of T tensors, numbered as in the graph.

    Attributes:
        before: [N] operators each one waits for: producers of what it reads, `Operator.after`, and readers and writers
            of the versions it writes over.
        behind: [N] the same edges the other way round.
        version: [T] how many versions of its storage came before it.
    """

    before: tuple[tuple[int, ...], ...]
    behind: tuple[tuple[int, ...], ...]
    version: tuple[int, ...]

    def heights(self) -> list[int]:
        """[N] operators on the longest path from each one to the end, itself left out."""
        height = [0] * len(self.before)
        for index in range(len(self.before) - 1, -1, -1):
            own = height[index] + 1
            for earlier in self.before[index]:
                height[earlier] = max(height[earlier], own)
        return height


def dependences(graph: TrainingGraph) -> Dependences:
    """Dependences of a sound graph. Two writes to one storage keep their order, whether or not a value flows."""
    tensors = graph.tensors
    before = [{tensors[access.tensor].producer for access in operator.reads} for operator in graph.operators]
    version = [0] * len(tensors)
    for older, newer in _overwritten(graph):
        version[newer] = version[older] + 1
    overwritten_by = {older: tensors[newer].producer for older, newer in _overwritten(graph)}
    for older, writer in overwritten_by.items():
        before[writer].add(tensors[older].producer)
    for index, operator in enumerate(graph.operators):
        before[index].update(operator.after)
        if overwritten_by:
            for access in operator.reads:
                if access.tensor in overwritten_by:
                    before[overwritten_by[access.tensor]].add(index)
    behind: list[list[int]] = [[] for _ in before]
    for index, found in enumerate(before):
        found -= {-1, index}
        for earlier in found:
            behind[earlier].append(index)
    return Dependences(before=tuple(map(tuple, before)), behind=tuple(map(tuple, behind)), version=tuple(version))


def _overwritten(graph: TrainingGraph) -> list[tuple[int, int]]:
    """Pairs of a tensor and the next version of its storage, where an operator of the graph writes that one."""
    tensors = graph.tensors
    newest: dict[int, int] = {}
    pairs = []
    for index in sorted(range(len(tensors)), key=lambda i: tensors[i].producer):
        older = newest.get(tensors[index].storage, -1)
        if older >= 0 and tensors[index].producer >= 0:
            pairs.append((older, index))
        newest[tensors[index].storage] = index
    return pairs
