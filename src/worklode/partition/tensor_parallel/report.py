"""What was divided: counts that add up exactly to the whole, and the collectives that were added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from worklode.graph.fusion.facts import DTYPE_BYTES
from worklode.graph.operator import OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Collective
from worklode.partition.plan import TensorPlan
from worklode.partition.tensor_parallel.parameters import ParameterLayouts


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCount:
    """Collectives of one kind and phase: how many, and the bytes of their whole tensors together."""

    collective: Collective
    phase: Phase
    count: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What a pass did.

    With t devices, for parameters and for matrix FLOPs alike:

        t · (shard - replicated) + replicated = whole + padding          (axis "tensor")
        t · (shard - replicated) + replicated = whole                    (axis "expert", parameters)
        shard = whole                                                    (axis "expert", matrix FLOPs)

    Attributes:
        axis: "tensor" or "expert".
        devices: t.
        parameters, shard_parameters, replicated_parameters, padding_parameters: distinct elements of the whole model,
            of one device, of those every device holds, and of all rows of padding.
        matrix_flops, shard_matrix_flops, replicated_matrix_flops: of the whole iteration, of one device, of operators
            that every device repeats (along the axis of experts all: each has tokens of its own).
        padding_matrix_flops: added by rows of padding, on all devices together.
        collectives: what was added.
        padded: (parameter, rows, rows with padding).
    """

    axis: str
    devices: int
    parameters: int
    shard_parameters: int
    replicated_parameters: int
    padding_parameters: int
    matrix_flops: int
    shard_matrix_flops: int
    replicated_matrix_flops: int
    padding_matrix_flops: int
    collectives: tuple[CollectiveCount, ...]
    padded: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardedGraph:
    """The graph of one shard, and what the pass did."""

    graph: TrainingGraph
    report: ShardReport


class Flops(Protocol):
    """What the pass counted."""

    whole_flops: int


def shard_report(
    whole: TrainingGraph,
    made: TrainingGraph,
    plan: TensorPlan,
    devices: int,
    axis: str,
    parameters: ParameterLayouts,
    counted: Flops | None,
) -> ShardReport:
    """The report of one pass."""
    all_elements = parameter_elements(whole.tensors, whole)[0]
    own = parameter_elements(made.tensors, made)[0]
    replicated = _elements(
        whole.tensors[index]
        for index, tensor in enumerate(whole.tensors)
        if tensor.role is TensorRole.PARAMETER
        and tensor.producer == -1
        and (devices == 1 or parameters.layout[index].held == 1)
    )
    flops, shard_flops = whole.matrix_flops(), made.matrix_flops()
    repeated = counted.whole_flops if counted is not None else flops
    if axis == "expert":
        repeated = shard_flops
    return ShardReport(
        axis=axis,
        devices=devices,
        parameters=all_elements,
        shard_parameters=own,
        replicated_parameters=replicated,
        padding_parameters=devices * (own - replicated) + replicated - all_elements,
        matrix_flops=flops,
        shard_matrix_flops=shard_flops,
        replicated_matrix_flops=repeated,
        padding_matrix_flops=devices * (shard_flops - repeated) + repeated - flops,
        collectives=collective_counts(made),
        padded=tuple((name, rows, padded) for name, (rows, padded) in parameters.padded.items()),
    )


def collective_counts(graph: TrainingGraph) -> tuple[CollectiveCount, ...]:
    """The collectives of a graph, by kind and phase, in order of first appearance."""
    count: Counter[tuple[Collective, Phase]] = Counter()
    total: Counter[tuple[Collective, Phase]] = Counter()
    for operator in graph.operators:
        if operator.kind is OperatorKind.COLLECTIVE and operator.work.communication is not None:
            key = (operator.work.communication.collective, operator.phase)
            count[key] += 1
            total[key] += operator.work.communication.bytes
    return tuple(
        CollectiveCount(collective=key[0], phase=key[1], count=number, bytes=total[key])
        for key, number in count.items()
    )


def parameter_elements(tensors: Iterable[Tensor], graph: TrainingGraph) -> tuple[int, int]:
    """Elements of all parameters of a device, and of those that train, in the proportion of the graph's own."""
    found = list(tensors)
    trained = {t.name for t in found if t.role in {TensorRole.GRADIENT, TensorRole.OPTIMIZER_STATE}}
    own = [t for t in found if t.role is TensorRole.PARAMETER and t.producer == -1]
    everything = _elements(own)
    if graph.info.parameters == graph.info.trainable_parameters:
        return everything, everything
    return everything, _elements(t for t in own if t.name in trained)


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.bytes // DTYPE_BYTES.get(tensor.dtype, 1) for tensor in tensors)
