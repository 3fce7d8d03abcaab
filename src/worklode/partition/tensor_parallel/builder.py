"""Writes the graph of one device: operators, versions of storages, dependences, collectives one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from worklode.graph.loops import OperatorLoops
from worklode.graph.operator import Access, Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.work import Collective, Communication, Work

_FORWARD = (Phase.FORWARD, Phase.LOSS)
_SAVES = (Phase.BACKWARD, Phase.RECOMPUTE)
NO_LOOPS = OperatorLoops(nest=None, operands=(), results=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A tensor to be written.

    Attributes:
        bytes: size of its storage [bytes].
        accessed: bytes written [bytes].
        like: the tensor whose type, role and name it has.
        storage: storage it is written to, -1 for a new one.
    """

    bytes: int
    accessed: int
    like: Tensor
    storage: int = -1


class ShardBuilder:
    """Operators and tensors of one device. Tensors are named by index."""

    def __init__(self, axis: str, devices: int) -> None:
        self.axis = axis
        self.devices = devices
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self.loops: list[OperatorLoops] = []
        self._readers: list[list[int]] = []
        self._newest: list[int] = []
        self._last_collective: dict[str, int] = {}

    def source(self, like: Tensor, size: int, storage: int = -1) -> int:
        """A tensor that exists before the iteration."""
        return self._tensor(like, size, storage, -1)

    def storage_of(self, tensor: int) -> int:
        """The storage of a tensor."""
        return self.tensors[tensor].storage

    def storage_bytes(self, storage: int) -> int:
        """Size of a storage [bytes]."""
        return self.tensors[self._newest[storage]].bytes

    def add(
        self, operator: Operator, work: Work, reads: Iterable[tuple[int, int]], writes: Sequence[Written]
    ) -> tuple[int, ...]:
        """An operator like another one; returns the tensors it writes.

        Args:
            operator: where name, kind, phase, module and block come from.
            work: its work.
            reads: (tensor, bytes) of what it reads, each tensor once.
            writes: what it writes.
        """
        index = len(self.operators)
        accesses = tuple([Access(tensor=tensor, bytes=size) for tensor, size in reads])
        after: set[int] = set()
        for access in accesses:
            self._readers[access.tensor].append(index)
        made = []
        for written in writes:
            if written.storage >= 0:
                before = self._newest[written.storage]
                after.update(self._readers[before])
                after.add(self.tensors[before].producer)
            made.append(self._tensor(written.like, written.bytes, written.storage, index))
        if work.communication is not None:
            after.add(self._last_collective.get(work.communication.axis, -1))
            self._last_collective[work.communication.axis] = index
        after.difference_update(self.tensors[access.tensor].producer for access in accesses)
        after.difference_update((index, -1))
        self.operators.append(
            replace(
                operator,
                work=work,
                reads=accesses,
                writes=tuple(
                    [Access(tensor=t, bytes=min(w.accessed, w.bytes)) for t, w in zip(made, writes, strict=True)]
                ),
                after=tuple(sorted(after)),
            )
        )
        self.loops.append(NO_LOOPS)
        return tuple(made)

    def collective(
        self,
        collective: Collective,
        size: int,
        place: Operator,
        phase: Phase,
        reads: Iterable[tuple[int, int]],
        writes: Sequence[Written],
    ) -> tuple[int, ...]:
        """A collective of tensors of `size` bytes in all, beside the operator `place`."""
        communication = Communication(collective=collective, bytes=size, axis=self.axis, devices=self.devices)
        like = replace(
            place,
            name=f"collective.{collective}",
            kind=OperatorKind.COLLECTIVE,
            phase=phase,
            gradient_of="",
            members=(),
        )
        return self.add(like, Work(communication=communication), reads, writes)

    def finished(self) -> tuple[Tensor, ...]:
        """The tensors, with what forward keeps for backward marked."""
        saved = set()
        for operator in self.operators:
            if operator.phase not in _SAVES:
                continue
            for access in operator.reads:
                producer = self.tensors[access.tensor].producer
                if producer >= 0 and self.operators[producer].phase in _FORWARD:
                    saved.add(access.tensor)
        return tuple(
            replace(tensor, saved=index in saved) if tensor.saved != (index in saved) else tensor
            for index, tensor in enumerate(self.tensors)
        )

    def _tensor(self, like: Tensor, size: int, storage: int, producer: int) -> int:
        if storage < 0:
            storage = len(self._newest)
            self._newest.append(-1)
        self.tensors.append(
            Tensor(storage=storage, bytes=size, dtype=like.dtype, role=like.role, producer=producer, name=like.name)
        )
        self._readers.append([])
        self._newest[storage] = len(self.tensors) - 1
        return self._newest[storage]


def statistic_like(tensor: Tensor) -> Tensor:
    """A tensor of numbers per row, float32 as kernels keep them."""
    return replace(tensor, dtype="float32", role=TensorRole.ACTIVATION, name="", saved=False)
