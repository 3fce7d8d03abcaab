"""Which segments are equal: the same operators on the same shapes, wired the same way."""

from __future__ import annotations

from collections.abc import Sequence

from worklode.graph.operator import TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Work

Passes = tuple[tuple[int, ...], ...]


def distinct_segments(graph: TrainingGraph, passes: Sequence[Passes]) -> tuple[int, ...]:
    """For every segment the index of the first one equal to it.

    Args:
        graph: the graph.
        passes: [S] operators of each segment, by pass.
    """
    works = _WorkNumbers()
    first: dict[object, int] = {}
    return tuple(first.setdefault(_signature(graph, operators, works), place) for place, operators in enumerate(passes))


class _WorkNumbers:
    """Equal works by number; objects that operators share are compared once."""

    def __init__(self) -> None:
        self._by_object: dict[int, int] = {}
        self._by_value: dict[Work, int] = {}

    def number(self, work: Work) -> int:
        """Number of a work."""
        found = self._by_object.get(id(work))
        if found is None:
            found = self._by_object[id(work)] = self._by_value.setdefault(work, len(self._by_value))
        return found


def _signature(graph: TrainingGraph, passes: Passes, works: _WorkNumbers) -> tuple[object, ...]:
    """All of a segment but names of modules and parameters, tensors and storages numbered from 0."""
    tensors: dict[int, int] = {}
    storages: dict[int, int] = {}
    own = {index for operators in passes for index in operators}
    facts: list[object] = []

    def number(index: int) -> int:
        if index not in tensors:
            tensor = graph.tensors[index]
            tensors[index] = len(tensors)
            # whether what comes from before is the model's input or another segment's result makes no difference
            role = TensorRole.ACTIVATION if tensor.role is TensorRole.INPUT else tensor.role
            storage = storages.setdefault(tensor.storage, len(storages))
            facts.append((storage, tensor.bytes, tensor.dtype, role, tensor.producer in own))
        return tensors[index]

    operators: list[object] = []
    place: dict[int, int] = {}
    for chosen in passes:
        for index in chosen:
            operator = graph.operators[index]
            place[index] = len(place)
            operators.append(
                (
                    operator.name,
                    operator.kind,
                    operator.phase,
                    works.number(operator.work),
                    operator.gradient_of,
                    tuple((number(a.tensor), a.bytes) for a in operator.reads),
                    tuple((number(a.tensor), a.bytes) for a in operator.writes),
                    tuple(place[before] for before in operator.after if before in place),
                )
            )
        operators.append("end of a pass")
    return (*operators, *facts)
