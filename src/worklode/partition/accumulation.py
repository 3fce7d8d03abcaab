"""Summing the gradients of microbatches: what every backward pass of a pipeline but the first does beside its own."""

from __future__ import annotations

from dataclasses import replace

from worklode.graph.fusion.facts import DTYPE_BYTES
from worklode.graph.operator import Access, Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import require_valid
from worklode.graph.work import Work
from worklode.partition.assignment import elements


def with_accumulation(graph: TrainingGraph, dtype: str = "") -> TrainingGraph:
    """The graph of one microbatch with its gradients added to sums of earlier ones.

    Each gradient becomes a value on its way: one operator reads it and the sum and writes the sum (one addition an
    element), and whoever read the gradient before (the update) reads the sum. Fusion puts the addition behind the
    product that makes the gradient, as Megatron-LM's gradient accumulation fusion does.

    Args:
        graph: backward passes, with or without others; unfused.
        dtype: type of the sums (`float32`); "" for that of each gradient.
    """
    final = _final_gradients(graph)
    tensors, operators = list(graph.tensors), list(graph.operators)
    storages = max((tensor.storage for tensor in tensors), default=-1) + 1
    sums: dict[int, int] = {}
    added: dict[int, list[Operator]] = {}
    place = _places(graph, {graph.tensors[gradient].producer for gradient in final})
    for number, gradient in enumerate(final):
        tensor = graph.tensors[gradient]
        kind = dtype or tensor.dtype
        size = elements(tensor) * DTYPE_BYTES.get(kind, 1)
        before = Tensor(storage=storages + number, bytes=size, dtype=kind, role=TensorRole.GRADIENT, name=tensor.name)
        siblings = added.setdefault(tensor.producer, [])
        index = place[tensor.producer] + 1 + len(siblings)
        old, new = len(tensors), len(tensors) + 1
        tensors.extend((before, replace(before, producer=index)))
        tensors[gradient] = replace(tensor, role=TensorRole.ACTIVATION_GRADIENT, name="", saved=False)
        sums[gradient] = new
        siblings.append(_addition(graph, gradient, old, new, size))
    for index, tensor in enumerate(tensors[: len(graph.tensors)]):
        if tensor.producer >= 0:
            tensors[index] = replace(tensor, producer=place[tensor.producer])
    made: list[Operator] = []
    for index, operator in enumerate(operators):
        reads = tuple(_of_sum(access, sums, tensors) for access in operator.reads)
        made.append(replace(operator, reads=reads, after=tuple(place[before] for before in operator.after)))
        made.extend(added.get(index, ()))
    changed = replace(graph, tensors=tuple(tensors), operators=tuple(made), loops=())
    return require_valid(changed, "accumulation of gradients")


def _final_gradients(graph: TrainingGraph) -> list[int]:
    """The last version of every parameter's gradient that an operator here makes, in the order they are made."""
    newest: dict[str, int] = {}
    for index, tensor in enumerate(graph.tensors):
        if tensor.role is TensorRole.GRADIENT and tensor.producer >= 0:
            best = newest.get(tensor.name)
            if best is None or graph.tensors[best].producer < tensor.producer:
                newest[tensor.name] = index
    backward = (i for i in newest.values() if graph.operators[graph.tensors[i].producer].phase is not Phase.OPTIMIZER)
    return sorted(backward, key=lambda index: (graph.tensors[index].producer, index))


def _places(graph: TrainingGraph, producers: set[int]) -> list[int]:
    """New index of every operator, with an addition behind every gradient."""
    gradients: dict[int, int] = {}
    for index in _final_gradients(graph):
        producer = graph.tensors[index].producer
        gradients[producer] = gradients.get(producer, 0) + 1
    place, following = [], 0
    for index in range(len(graph.operators)):
        place.append(following)
        following += 1 + (gradients.get(index, 0) if index in producers else 0)
    return place


def _addition(graph: TrainingGraph, gradient: int, old: int, new: int, size: int) -> Operator:
    tensor = graph.tensors[gradient]
    producer = graph.operators[tensor.producer]
    count = elements(tensor)
    return Operator(
        name="accumulate",
        kind=OperatorKind.ELEMENTWISE,
        phase=Phase.ACCUMULATE,
        module=producer.module,
        work=Work(simple_ops=count, vector_elements=3 * count),
        reads=(Access(tensor=gradient, bytes=tensor.bytes), Access(tensor=old, bytes=size)),
        writes=(Access(tensor=new, bytes=size),),
        block=producer.block,
        instance=producer.instance,
    )


def _of_sum(access: Access, sums: dict[int, int], tensors: list[Tensor]) -> Access:
    """What a reader of a gradient reads instead: as much of the sum."""
    if access.tensor not in sums:
        return access
    gradient, total = tensors[access.tensor], tensors[sums[access.tensor]]
    share = access.bytes * total.bytes // gradient.bytes if gradient.bytes else 0
    return Access(tensor=sums[access.tensor], bytes=share)
