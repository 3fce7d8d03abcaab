"""What fusion knows of a graph: per operator and per tensor, as lists; no names of operators among it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from worklode.graph.operator import Operator, OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph

DTYPE_BYTES = {
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "complex64": 8,
    "complex128": 16,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "uint16": 2,
}
"""Size of an element [bytes] by torch's name; bool and all 8-bit types are 1."""

PERSISTENT_ROLES = frozenset(
    {TensorRole.PARAMETER, TensorRole.BUFFER, TensorRole.INPUT, TensorRole.GRADIENT, TensorRole.OPTIMIZER_STATE}
)
"""Roles whose values outlive the operators that read them: always written."""

UPDATED_ROLES = frozenset({TensorRole.PARAMETER, TensorRole.BUFFER, TensorRole.OPTIMIZER_STATE})
"""Roles whose last version is for the next iteration."""


class Flow(IntEnum):
    """How data flows through an operator."""

    STREAM = 0
    """Element by element: a part of the operands gives a part of the results."""
    REDUCE = 1
    """Operands stream in, small results come out when a group ends."""
    ROW = 2
    """A row is read, reduced, and read again to be finished: results of a row follow the row."""
    SOURCE = 3
    """Results stream out, operands are not read in the order of the results (gather, pooling)."""
    PRODUCT = 4
    """Matrix product or convolution: results stream out."""
    CHAIN = 5
    """Products chained on chip (attention): results stream out."""
    CLOSED = 6
    """Not to be fused: sort, scan, scatter, collective, fallback, and what is fused already."""


ANCHORS = frozenset({Flow.PRODUCT, Flow.CHAIN})
STREAMING_READERS = frozenset({Flow.STREAM, Flow.REDUCE, Flow.ROW})

PHASE_CLASS = {
    Phase.FORWARD: 0,
    Phase.LOSS: 0,
    Phase.BACKWARD: 1,
    Phase.ACCUMULATE: 1,
    Phase.RECOMPUTE: 2,
    Phase.OPTIMIZER: 3,
}
"""Phases that may share an operator: the loss is the end of forward, accumulation the end of a gradient's product."""

PHASE_CLASSES = 4


def is_optimizer(phase: int) -> bool:
    """Is a stretch of the iteration (`GraphFacts.phase`) one of the optimizer?"""
    return phase % PHASE_CLASSES == PHASE_CLASS[Phase.OPTIMIZER]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphFacts:
    """Facts of N operators and T tensors. Fused operators are numbered as in the graph; nothing changes here.

    Attributes:
        graph: the graph itself.
        flow: [N] how data flows through it.
        phase: [N] stretch of the iteration: microbatch and phase class. Only operators of one stretch are fused.
        domain: [N] elements of the index space the operator runs over: its largest operand or result, for anchors and
            sources all results together.
        rows: [N] independent rows of a ROW operator, 0 for others; -1 where they cannot be told.
        moves: [N] True where operands smaller than the domain are parts of it (concatenation), not broadcast.
        predecessors: [N] operators each one waits for.
        waited_for_by: operator -> operators ordered after it without data.
        element_bytes: [T] bytes of an element.
        readers: [T] operators that read it, with the bytes they read.
        written: [T] bytes its producer writes.
        previous, following: [T] version of the same storage before and after, -1 where none.
        stays: [T] must be written to HBM whoever reads it.
        depth: [N] products on the longest path that ends with the operator: how late it comes, free of any hardware.
        counts: [T] scalar computed of scalars that exist before the iteration.
        reduced: [T] small result that is complete only when a group of a reduction has ended.
    """

    graph: TrainingGraph
    flow: list[Flow]
    phase: list[int]
    domain: list[int]
    rows: list[int]
    moves: list[bool]
    predecessors: list[tuple[int, ...]]
    waited_for_by: dict[int, list[int]]
    element_bytes: list[int]
    readers: list[list[tuple[int, int]]]
    written: list[int]
    previous: list[int]
    following: list[int]
    stays: list[bool]
    depth: list[int]
    counts: list[bool]
    reduced: list[bool]

    def covers_storage(self, tensor: int) -> bool:
        """Did its producer write all of the storage?"""
        return self.written[tensor] >= self.graph.tensors[tensor].bytes

    def is_patch(self, tensor: int) -> bool:
        """Does an older version of the storage show through?"""
        return self.previous[tensor] >= 0 and not self.covers_storage(tensor)


def graph_facts(graph: TrainingGraph) -> GraphFacts:
    """Facts of a sound graph."""
    tensors, operators = graph.tensors, graph.operators
    element_bytes = [DTYPE_BYTES.get(tensor.dtype, 1) for tensor in tensors]
    producer = [tensor.producer for tensor in tensors]
    readers: list[list[tuple[int, int]]] = [[] for _ in tensors]
    written = [0] * len(tensors)
    waited_for_by: dict[int, list[int]] = {}
    predecessors: list[tuple[int, ...]] = []
    flow, domain, rows = [], [], []
    for index, operator in enumerate(operators):
        before = set(operator.after)
        for access in operator.reads:
            readers[access.tensor].append((index, access.bytes))
            before.add(producer[access.tensor])
        for access in operator.writes:
            written[access.tensor] = access.bytes
        for earlier in operator.after:
            waited_for_by.setdefault(earlier, []).append(index)
        before.discard(-1)
        predecessors.append(tuple(before))
        kind = _flow(operator)
        size = _domain(operator, kind, element_bytes)
        flow.append(kind)
        domain.append(size)
        rows.append(_rows(operator, size, element_bytes) if kind is Flow.ROW else 0)
    previous, following = _versions(graph)
    facts = GraphFacts(
        graph=graph,
        flow=flow,
        phase=_stretches(operators),
        domain=domain,
        rows=rows,
        moves=[operator.kind is OperatorKind.MOVEMENT for operator in operators],
        predecessors=predecessors,
        waited_for_by=waited_for_by,
        element_bytes=element_bytes,
        readers=readers,
        written=written,
        previous=previous,
        following=following,
        stays=[tensor.saved or tensor.role in PERSISTENT_ROLES for tensor in tensors],
        depth=_depths(operators, predecessors),
        counts=_counts(graph, flow, domain),
        reduced=[False] * len(tensors),
    )
    _mark_reduced(facts)
    return facts


def _stretches(operators: tuple[Operator, ...]) -> list[int]:
    """Phase class of each operator, plus `PHASE_CLASSES` for every time backward gave way to another forward.

    Two microbatches are independent but for their gradients; fused across, both would have to be in memory at once.
    """
    found = []
    before = PHASE_CLASS[Phase.FORWARD]
    first = 0
    for operator in operators:
        phase = PHASE_CLASS[operator.phase]
        if phase == PHASE_CLASS[Phase.FORWARD] and before != phase:
            first += PHASE_CLASSES
        before = phase
        found.append(first + phase)
    return found


_FLOW_OF_KIND = {
    OperatorKind.ELEMENTWISE: Flow.STREAM,
    OperatorKind.MOVEMENT: Flow.STREAM,
    OperatorKind.RANDOM: Flow.STREAM,
    OperatorKind.OPTIMIZER: Flow.STREAM,
    OperatorKind.NORMALIZATION: Flow.STREAM,
    OperatorKind.SOFTMAX: Flow.STREAM,
    OperatorKind.REDUCTION: Flow.REDUCE,
    OperatorKind.GATHER: Flow.SOURCE,
    OperatorKind.POOLING: Flow.SOURCE,
}


def _flow(operator: Operator) -> Flow:
    """How data flows through an operator, from its kind and its work."""
    work = operator.work
    if operator.members:
        return Flow.CLOSED
    if work.products:
        return Flow.CHAIN if work.chained else Flow.PRODUCT
    found = _FLOW_OF_KIND.get(operator.kind, Flow.CLOSED)
    if work.random_accesses and found is not Flow.SOURCE:
        return Flow.CLOSED
    if work.reduction_bytes and found is not Flow.CLOSED:
        return Flow.ROW
    return found


def _domain(operator: Operator, flow: Flow, element_bytes: list[int]) -> int:
    results = [access.bytes // element_bytes[access.tensor] for access in operator.writes]
    if flow in ANCHORS or flow is Flow.SOURCE:
        return sum(results)
    return max((*results, *(access.bytes // element_bytes[access.tensor] for access in operator.reads)), default=0)


def _rows(operator: Operator, domain: int, element_bytes: list[int]) -> int:
    """Rows of a row-wise operator: bytes of its full operands over the bytes it holds of each row."""
    full = sum(a.bytes for a in operator.reads if a.bytes // element_bytes[a.tensor] == domain)
    rows, rest = divmod(full, operator.work.reduction_bytes)
    return rows if rows and not rest else -1


def _depths(operators: tuple[Operator, ...], predecessors: list[tuple[int, ...]]) -> list[int]:
    """Products on the longest path to each operator and through it; a chain counts as two, one after the other."""
    depth: list[int] = []
    for operator, found in zip(operators, predecessors, strict=True):
        own = (2 if operator.work.chained else 1) if operator.work.products else 0
        depth.append(own + max([depth[before] for before in found], default=0))
    return depth


def _counts(graph: TrainingGraph, flow: list[Flow], domain: list[int]) -> list[bool]:
    """Which tensors are scalars that depend on nothing but scalars given at the start."""
    known = [False] * len(graph.tensors)
    for operator, kind, size in zip(graph.operators, flow, domain, strict=True):
        if size > 1 or kind is not Flow.STREAM:
            continue
        if all(known[a.tensor] or graph.tensors[a.tensor].producer < 0 for a in operator.reads):
            for access in operator.writes:
                known[access.tensor] = True
    return known


def _versions(graph: TrainingGraph) -> tuple[list[int], list[int]]:
    """The versions of each storage before and after each tensor."""
    previous, following = [-1] * len(graph.tensors), [-1] * len(graph.tensors)
    newest: dict[int, int] = {}
    for index in sorted(range(len(graph.tensors)), key=lambda i: graph.tensors[i].producer):
        storage = graph.tensors[index].storage
        older = newest.get(storage, -1)
        if older >= 0:
            previous[index], following[older] = older, index
        newest[storage] = index
    return previous, following


def _mark_reduced(facts: GraphFacts) -> None:
    """Small results of reductions, and what is computed of them element by element."""
    reduced = facts.reduced
    for index, operator in enumerate(facts.graph.operators):
        flow = facts.flow[index]
        if flow is Flow.STREAM:
            size = facts.domain[index]
            late = any(reduced[a.tensor] and a.bytes == size * facts.element_bytes[a.tensor] for a in operator.reads)
        else:
            late = flow in (Flow.REDUCE, Flow.ROW)
        if not late:
            continue
        for access in operator.writes:
            elements = access.bytes // facts.element_bytes[access.tensor]
            reduced[access.tensor] = flow is Flow.STREAM or elements < facts.domain[index]
