"""Operators and tensors of a training graph."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worklode.graph.work import Work, WorkItem


class OperatorKind(StrEnum):
    """What an operator does, for people and for fusion; costs depend on `Work` alone."""

    MATMUL = "matmul"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    NORMALIZATION = "normalization"
    SOFTMAX = "softmax"
    POOLING = "pooling"
    GATHER = "gather"
    SCATTER = "scatter"
    MOVEMENT = "movement"
    SCAN = "scan"
    SORT = "sort"
    RANDOM = "random"
    OPTIMIZER = "optimizer"
    COLLECTIVE = "collective"
    FALLBACK = "fallback"


class Phase(StrEnum):
    """When an operator runs in the training iteration."""

    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    RECOMPUTE = "recompute"
    ACCUMULATE = "accumulate"
    OPTIMIZER = "optimizer"


class TensorRole(StrEnum):
    """What a tensor is to the training step; splits bytes and memory."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    INPUT = "input"
    ACTIVATION = "activation"
    ACTIVATION_GRADIENT = "activation_gradient"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One value of one storage: written once. A write in place makes a new tensor on the same `storage`.

    Attributes:
        storage: index of the memory it lives in; tensors of one storage never live side by side.
        bytes: size of that storage [bytes].
        dtype: element type, torch's name without `torch.` (`bfloat16`).
        role: what it is to the training step.
        producer: operator that wrote it, or -1 where it exists before the iteration.
        saved: made in forward, read by backward.
        name: qualified name of the parameter, buffer, or of the parameter whose gradient or state it is; else "".
    """

    storage: int
    bytes: int
    dtype: str
    role: TensorRole
    producer: int = -1
    saved: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An operator reads or writes `bytes` of `tensor` (its index). A view touches fewer bytes than the storage has."""

    tensor: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of the training iteration.

    Attributes:
        name: `aten.mm`, or the joined names of a fused operator.
        module: qualified name of the module whose forward made it (backward operators: of their forward operator).
        reads, writes: HBM traffic when every operand moves once, split by tensor.
        after: operators that must have finished though no value flows (write after read on one storage).
        block, instance: index of the repeated block it belongs to and which repetition, or -1.
        gradient_of: for a matrix product of backward, "input" or "weight", else "".
        members: names of the operators fused into this one; empty for a plain operator.
    """

    name: str
    kind: OperatorKind
    phase: Phase
    module: str
    work: Work
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    after: tuple[int, ...] = ()
    block: int = -1
    instance: int = -1
    gradient_of: str = ""
    members: tuple[str, ...] = ()

    @property
    def read_bytes(self) -> int:
        """Bytes read when every operand is read once."""
        return sum(access.bytes for access in self.reads)

    @property
    def write_bytes(self) -> int:
        """Bytes written when every result is written once."""
        return sum(access.bytes for access in self.writes)

    @property
    def item(self) -> WorkItem:
        """What decides the cost of this operator."""
        return WorkItem(work=self.work, read_bytes=self.read_bytes, write_bytes=self.write_bytes)
