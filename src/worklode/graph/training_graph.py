"""The training graph: one node per operator of one training iteration, topologically ordered and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from worklode.errors import InternalError
from worklode.graph.loops import OperatorLoops
from worklode.graph.operator import Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.work import WorkItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A run of structurally equal sibling modules: `path`.`first` to `path`.`first + count - 1`."""

    path: str
    first: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInfo:
    """Facts about the captured step that its operators do not carry.

    Attributes:
        name: zoo name, `file.py:function`, configuration file.
        parameters, trainable_parameters: distinct elements (a tied weight counts once).
        samples: samples of one iteration, over all accumulated microbatches.
        tokens: tokens of one iteration; 0 where the input is no token sequence.
        options: resolved options (batch, seq_len, dtype, optimizer, ...), as sorted pairs of text.
        notes: decisions taken on the user's behalf during capture (data-dependent branches), for people.
        versions: (package, version) pairs the capture depended on.
    """

    name: str
    parameters: int
    trainable_parameters: int
    samples: int
    tokens: int
    options: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingGraph:
    """Operators in a topological order, the tensors they exchange, and the repeated blocks they belong to.

    `loops` says how operators index their operands, one entry each: what tensor parallelism divides. It is empty
    where nobody knows (a fused graph, a part of a graph).
    """

    info: WorkloadInfo
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    blocks: tuple[Block, ...] = ()
    loops: tuple[OperatorLoops, ...] = ()

    def predecessors(self, index: int) -> tuple[int, ...]:
        """Operators that must finish before operator `index` starts, ascending."""
        operator = self.operators[index]
        producers = {self.tensors[access.tensor].producer for access in operator.reads}
        producers.update(operator.after)
        producers.discard(-1)
        producers.discard(index)
        return tuple(sorted(producers))

    def matrix_flops(self, *phases: Phase) -> int:
        """Matrix FLOPs of the given phases, or of all."""
        return sum(o.work.matrix_flops for o in self.operators if not phases or o.phase in phases)

    def flops(self, *phases: Phase) -> int:
        """FLOPs, matrix and vector, of the given phases, or of all."""
        return sum(o.work.flops for o in self.operators if not phases or o.phase in phases)

    def hbm_bytes(self) -> int:
        """Compulsory HBM traffic [bytes]: every operand of every operator moved once."""
        return sum(o.read_bytes + o.write_bytes for o in self.operators)

    def saved_bytes(self) -> int:
        """Bytes forward keeps for backward, each storage once; parameters, buffers and inputs are not counted."""
        kept = {t.storage: t.bytes for t in self.tensors if t.saved and t.role is TensorRole.ACTIVATION}
        return sum(kept.values())

    def fallback_operators(self) -> dict[str, int]:
        """Names of operators costed by the bytes-and-flops fallback, with their counts."""
        counts: dict[str, int] = {}
        for operator in self.operators:
            if operator.kind is OperatorKind.FALLBACK:
                counts[operator.name] = counts.get(operator.name, 0) + 1
        return counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphArrays:
    """A graph as arrays, for the hot paths. N operators, E edges, U distinct work items.

    Attributes:
        items: the U distinct work items, in order of first appearance.
        item_of: [N] index into `items`.
        predecessor_start, predecessor: CSR of dependences, [N + 1] and [E].
        successor_start, successor: the same edges the other way round.
    """

    items: tuple[WorkItem, ...]
    item_of: NDArray[np.int64]
    predecessor_start: NDArray[np.int64]
    predecessor: NDArray[np.int64]
    successor_start: NDArray[np.int64]
    successor: NDArray[np.int64]


@lru_cache(maxsize=8)
def graph_arrays(graph: TrainingGraph) -> GraphArrays:
    """Build the arrays of a graph once (graphs compare by identity).

    Raises:
        InternalError: the operators are not in a topological order.
    """
    items: dict[WorkItem, int] = {}
    item_of = np.fromiter(
        (items.setdefault(o.item, len(items)) for o in graph.operators), np.int64, len(graph.operators)
    )
    lists = [graph.predecessors(i) for i in range(len(graph.operators))]
    for index, found in enumerate(lists):
        if found and found[-1] >= index:
            raise InternalError(f"operator {index} ({graph.operators[index].name}) depends on operator {found[-1]}")
    counts = np.fromiter((len(found) for found in lists), np.int64, len(lists))
    predecessor_start = np.concatenate(([0], np.cumsum(counts)))
    predecessor = np.fromiter((p for found in lists for p in found), np.int64, int(counts.sum()))
    owner = np.repeat(np.arange(len(lists)), counts)
    order = np.argsort(predecessor, kind="stable")
    successor_start = np.concatenate(([0], np.cumsum(np.bincount(predecessor, minlength=len(lists)))))
    return GraphArrays(
        items=tuple(items),
        item_of=item_of,
        predecessor_start=predecessor_start.astype(np.int64),
        predecessor=predecessor,
        successor_start=successor_start.astype(np.int64),
        successor=owner[order].astype(np.int64),
    )
