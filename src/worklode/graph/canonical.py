"""The canonical form of a training graph: one numbering of its operators and tensors, however they were listed.

Schedules, fusion, memory and sums all break ties by position. A graph that was captured, edited, merged or written by
another tool may list the same operators in another topological order; in canonical form it is the same graph, so all
that is computed of it is the same to the last bit. What it is and what it costs: docs/graph-file.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from worklode.graph.canonical_order import canonical_order
from worklode.graph.collector import garbage_collector_paused
from worklode.graph.dependences import dependences
from worklode.graph.loops import OperatorLoops
from worklode.graph.operator import Access, Operator, Tensor
from worklode.graph.structure_labels import operator_labels
from worklode.graph.training_graph import TrainingGraph


@lru_cache(maxsize=8)
def canonical(graph: TrainingGraph) -> TrainingGraph:
    """The graph with operators, tensors and storages numbered canonically; itself where it is so already.

    The numbering depends on content and structure alone: names, kinds, phases, modules, work, operands and their bytes,
    dependences. Operators that all these leave level are interchangeable in every captured graph tested; where
    they were not, their order would be that of the listing (`operator_labels`).

    Args:
        graph: a sound graph. Its order counts only where two operators write one storage and nothing else orders them.

    Returns:
        A sound graph, equal but for the numbers.
    """
    with garbage_collector_paused():
        edges = dependences(graph)
        labels = operator_labels(graph, edges)
        return renumbered(graph, canonical_order(graph, edges, labels.rank))


def renumbered(graph: TrainingGraph, order: Sequence[int]) -> TrainingGraph:
    """The graph with its operators in another topological order.

    Tensors and storages are numbered as operators meet them: reads, operands of loops, writes. Those that no operator
    names come last, by content.

    Args:
        graph: a sound graph.
        order: its operators, each once, in an order that keeps every dependence.
    """
    tensors = _tensor_order(graph, order)
    if list(order) == list(range(len(order))) and tensors == list(range(len(tensors))) and _storages_in_order(graph):
        return graph
    operator_at = _places(order)
    tensor_at = _places(tensors)
    storage_at: dict[int, int] = {}
    made = tuple(
        Tensor(
            storage=storage_at.setdefault(tensor.storage, len(storage_at)),
            bytes=tensor.bytes,
            dtype=tensor.dtype,
            role=tensor.role,
            producer=operator_at[tensor.producer] if tensor.producer >= 0 else -1,
            saved=tensor.saved,
            name=tensor.name,
        )
        for tensor in map(graph.tensors.__getitem__, tensors)
    )
    known: dict[tuple[int, int], Access] = {}
    operators = tuple(_moved(graph.operators[index], operator_at, tensor_at, known) for index in order)
    loops = tuple(_moved_loops(graph.loops[index], tensor_at) for index in order) if graph.loops else ()
    return TrainingGraph(info=graph.info, tensors=made, operators=operators, blocks=graph.blocks, loops=loops)


def _places(order: Sequence[int]) -> list[int]:
    places = [0] * len(order)
    for place, index in enumerate(order):
        places[index] = place
    return places


def _tensor_order(graph: TrainingGraph, order: Sequence[int]) -> list[int]:
    """Tensors as operators in this order meet them."""
    met: dict[int, None] = {}
    for index in order:
        operator = graph.operators[index]
        for access in operator.reads:
            met[access.tensor] = None
        if graph.loops:
            met.update(dict.fromkeys(graph.loops[index].operands))
        for access in operator.writes:
            met[access.tensor] = None
        if graph.loops:
            met.update(dict.fromkeys(graph.loops[index].results))
    met.pop(-1, None)
    storage_place: dict[int, int] = {}
    for tensor in met:
        storage_place.setdefault(graph.tensors[tensor].storage, len(storage_place))
    left = [index for index in range(len(graph.tensors)) if index not in met]
    left.sort(key=lambda index: _content(graph.tensors[index], storage_place))
    return [*met, *left]


def _content(tensor: Tensor, storage_place: dict[int, int]) -> tuple[int, str, str, int, str, bool]:
    """What tells tensors that no operator names apart."""
    place = storage_place.get(tensor.storage, len(storage_place))
    return place, tensor.name, tensor.role, tensor.bytes, tensor.dtype, tensor.saved


def _storages_in_order(graph: TrainingGraph) -> bool:
    newest = -1
    for tensor in graph.tensors:
        if tensor.storage > newest + 1:
            return False
        newest = max(newest, tensor.storage)
    return True


def _moved(
    operator: Operator, operator_at: list[int], tensor_at: list[int], known: dict[tuple[int, int], Access]
) -> Operator:
    def accesses(found: tuple[Access, ...]) -> tuple[Access, ...]:
        return tuple([known.get((a.tensor, a.bytes)) or moved(a) for a in found])

    def moved(access: Access) -> Access:
        new = known[access.tensor, access.bytes] = Access(tensor=tensor_at[access.tensor], bytes=access.bytes)
        return new

    return Operator(
        name=operator.name,
        kind=operator.kind,
        phase=operator.phase,
        module=operator.module,
        work=operator.work,
        reads=accesses(operator.reads),
        writes=accesses(operator.writes),
        after=tuple(sorted([operator_at[earlier] for earlier in operator.after])) if operator.after else (),
        block=operator.block,
        instance=operator.instance,
        gradient_of=operator.gradient_of,
        members=operator.members,
    )


def _moved_loops(loops: OperatorLoops, tensor_at: list[int]) -> OperatorLoops:
    return OperatorLoops(
        nest=loops.nest,
        operands=tuple([tensor_at[tensor] if tensor >= 0 else -1 for tensor in loops.operands]),
        results=tuple([tensor_at[tensor] if tensor >= 0 else -1 for tensor in loops.results]),
    )
