"""A part of a training graph as its own graph: what comes from outside exists before, what goes outside is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from worklode.graph.fusion.facts import DTYPE_BYTES
from worklode.graph.operator import Access, Operator, Tensor, TensorRole
from worklode.graph.training_graph import TrainingGraph


def subgraph(graph: TrainingGraph, operators: Iterable[int], name: str) -> TrainingGraph:
    """The graph of some operators, in their order.

    A tensor whose producer is left out exists before the part begins. A tensor that an operator left out reads has
    `saved` set, whatever its phase: it must be in HBM when the part is done, so fusion may not drop it. Order without
    data (`Operator.after`) holds between the operators kept.

    Args:
        graph: a sound graph.
        operators: indices of those kept.
        name: `WorkloadInfo.name` of the part.
    """
    kept = sorted(set(operators))
    place = {index: number for number, index in enumerate(kept)}
    tensor_of = _tensors_in_use(graph, kept)
    outside = _read_outside(graph, place, tensor_of)
    storage_of = _storages(graph, place, tensor_of)
    tensors = tuple(
        replace(
            tensor,
            storage=storage_of[index],
            producer=place.get(tensor.producer, -1),
            saved=tensor.saved or (tensor.producer in place and index in outside),
        )
        for index, tensor in ((index, graph.tensors[index]) for index in tensor_of)
    )
    parameters, trainable = _parameter_counts(tensors)
    return TrainingGraph(
        info=replace(graph.info, name=name, parameters=parameters, trainable_parameters=trainable),
        tensors=tensors,
        operators=tuple(_moved(graph.operators[index], place, tensor_of) for index in kept),
        blocks=graph.blocks,
    )


def _tensors_in_use(graph: TrainingGraph, kept: list[int]) -> dict[int, int]:
    """Tensors that the operators touch -> their new index, in the graph's order."""
    used = {
        a.tensor for i in kept for accesses in (graph.operators[i].reads, graph.operators[i].writes) for a in accesses
    }
    return {index: number for number, index in enumerate(sorted(used))}


def _read_outside(graph: TrainingGraph, place: dict[int, int], tensor_of: dict[int, int]) -> set[int]:
    """Tensors of the part that an operator outside of it reads."""
    return {
        access.tensor
        for index, operator in enumerate(graph.operators)
        if index not in place
        for access in operator.reads
        if access.tensor in tensor_of
    }


def _storages(graph: TrainingGraph, place: dict[int, int], tensor_of: dict[int, int]) -> dict[int, int]:
    """New storage of every tensor in use.

    Where several versions of a storage come from outside, all but the newest get storages of their own: the operators
    that turned one into the next are not here to say so.
    """
    newest: dict[int, int] = {}
    for index in tensor_of:
        tensor = graph.tensors[index]
        if tensor.producer not in place:
            best = newest.get(tensor.storage)
            if best is None or graph.tensors[best].producer < tensor.producer:
                newest[tensor.storage] = index
    numbers: dict[tuple[int, int], int] = {}
    found: dict[int, int] = {}
    for index in tensor_of:
        tensor = graph.tensors[index]
        older = tensor.producer not in place and newest[tensor.storage] != index
        key = (tensor.storage, index if older else -1)
        found[index] = numbers.setdefault(key, len(numbers))
    return found


def _moved(operator: Operator, place: dict[int, int], tensor_of: dict[int, int]) -> Operator:
    return replace(
        operator,
        reads=tuple(Access(tensor=tensor_of[a.tensor], bytes=a.bytes) for a in operator.reads),
        writes=tuple(Access(tensor=tensor_of[a.tensor], bytes=a.bytes) for a in operator.writes),
        after=tuple(place[index] for index in operator.after if index in place),
    )


def elements(tensor: Tensor) -> int:
    """Elements of a tensor's storage."""
    return tensor.bytes // DTYPE_BYTES.get(tensor.dtype, 1)


def _parameter_counts(tensors: tuple[Tensor, ...]) -> tuple[int, int]:
    """Elements of the parameters among tensors, and of those of them that have a gradient or state here."""
    sizes = {t.name: elements(t) for t in tensors if t.role is TensorRole.PARAMETER}
    trained = {t.name for t in tensors if t.role in (TensorRole.GRADIENT, TensorRole.OPTIMIZER_STATE)}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in trained)
