"""From a recording to operators and tensors: views gone, every write a new tensor, dependences explicit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worklode.frontend.call import Call, Description
from worklode.frontend.gradients import product_gradients
from worklode.frontend.loops import nest_of
from worklode.frontend.recording import Record, Recording
from worklode.graph.loops import Nest, OperatorLoops
from worklode.graph.operator import Access, Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.work import Work

Describe = Callable[[Call], tuple[Description, ...]]

_FORWARD = (Phase.FORWARD, Phase.LOSS)
_SAVES = (Phase.BACKWARD, Phase.RECOMPUTE)
_NO_TENSOR = -1


@dataclass(slots=True)
class _Draft:
    """A tensor while its readers are still being found."""

    storage: int
    producer: int
    phase: Phase | None
    saved: bool = False


class _Lowering:
    """The state of one pass over the records: which tensor each storage holds, and who read it."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.drafts: list[_Draft] = []
        self.readers: list[list[int]] = []
        self.current = [_NO_TENSOR] * len(recording.storage_bytes)
        self.operators: list[Operator] = []
        self.loops: list[OperatorLoops] = []
        self.born_in: dict[int, Phase] = {}

    def new_tensor(self, storage: int, producer: int, phase: Phase | None) -> int:
        """A new tensor becomes what `storage` holds."""
        self.drafts.append(_Draft(storage, producer, phase))
        self.readers.append([])
        self.current[storage] = len(self.drafts) - 1
        if phase is not None:
            self.born_in.setdefault(storage, phase)
        return self.current[storage]

    def add(self, record: Record, call: Call, description: Description, nest: Nest | None) -> None:
        """One operator for one description of a record."""
        index = len(self.operators)
        reads = self._reads(record, description, index)
        operands = tuple([self.current[storage] for storage in record.inputs])
        after: set[int] = set()
        writes = self._writes(record, description, index, after)
        written = {access.tensor for access in writes}
        results = [self.current[record.outputs[place]] for place in description.outputs]
        self.loops.append(
            OperatorLoops(
                nest=nest,
                operands=operands,
                results=tuple([tensor if tensor in written else _NO_TENSOR for tensor in results]),
            )
        )
        after.difference_update(self.drafts[access.tensor].producer for access in reads)
        after.difference_update((index, -1))
        namespace, packet, _ = call.name.split(".", 2)
        self.operators.append(
            Operator(
                name=f"{namespace}.{packet}",
                kind=description.kind,
                phase=record.phase,
                module=record.module,
                work=description.work,
                reads=reads,
                writes=writes,
                after=tuple(sorted(after)),
                gradient_of=description.gradient_of if record.phase is Phase.BACKWARD else "",
            )
        )

    def _reads(self, record: Record, description: Description, index: int) -> tuple[Access, ...]:
        """Bytes read of each tensor; parts of one storage add up to at most all of it."""
        touched: dict[int, int] = {}
        for storage, size in zip(record.inputs, description.read_bytes, strict=True):
            if size:
                touched[storage] = touched.get(storage, 0) + size
        accesses = []
        for storage, size in touched.items():
            tensor = self.current[storage]
            if tensor == _NO_TENSOR:
                tensor = self.new_tensor(storage, -1, None)
            self.readers[tensor].append(index)
            draft = self.drafts[tensor]
            if record.phase in _SAVES and draft.phase in _FORWARD:
                draft.saved = True
            accesses.append(Access(tensor=tensor, bytes=min(size, self.recording.storage_bytes[storage])))
        return tuple(accesses)

    def _writes(self, record: Record, description: Description, index: int, after: set[int]) -> tuple[Access, ...]:
        """New tensors for what is written; who read or wrote the storage before must have finished."""
        touched: dict[int, int] = {}
        for place in description.outputs:
            storage, size = record.outputs[place], description.write_bytes[place]
            if size or self.current[storage] == _NO_TENSOR:
                touched[storage] = touched.get(storage, 0) + size
        accesses = []
        for storage, size in touched.items():
            before = self.current[storage]
            if before != _NO_TENSOR:
                after.update(self.readers[before])
                after.add(self.drafts[before].producer)
            tensor = self.new_tensor(storage, index, record.phase)
            accesses.append(Access(tensor=tensor, bytes=min(size, self.recording.storage_bytes[storage])))
        return tuple(accesses)

    def tensors(self) -> Iterator[Tensor]:
        """The tensors, with their roles."""
        recording = self.recording
        for draft in self.drafts:
            role, name = recording.roles.get(draft.storage, (None, ""))
            yield Tensor(
                storage=draft.storage,
                bytes=recording.storage_bytes[draft.storage],
                dtype=recording.dtypes[draft.storage],
                role=role or self._role_of_birth(draft.storage),
                producer=draft.producer,
                saved=draft.saved,
                name=name,
            )

    def _role_of_birth(self, storage: int) -> TensorRole:
        """Role of a storage without a name: by the phase that first wrote it."""
        phase = self.born_in.get(storage)
        if phase is None:
            return TensorRole.BUFFER
        if phase in (Phase.BACKWARD, Phase.ACCUMULATE):
            return TensorRole.ACTIVATION_GRADIENT
        return TensorRole.ACTIVATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """Operators in the order they ran, the tensors between them, and the loops of every operator."""

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    loops: tuple[OperatorLoops, ...]


def lower(recording: Recording, describe: Describe) -> Lowered:
    """The operators of a recording; storages are numbered without gaps."""
    lowering = _Lowering(recording)
    described = [
        [(part, nest_of(call, part)) for part in describe(call) if _does_something(part)] for call in recording.calls
    ]
    for record in recording.records:
        for description, nest in described[record.call]:
            lowering.add(record, recording.calls[record.call], description, nest)
    tensors = tuple(lowering.tensors())
    return Lowered(
        operators=product_gradients(tuple(lowering.operators), tensors),
        tensors=_renumbered(tensors),
        loops=tuple(lowering.loops),
    )


def _does_something(description: Description) -> bool:
    """Whether there is anything to compute or move (an empty tensor, or attributes only, is nothing)."""
    return (
        description.work != Work()
        or any(description.read_bytes)
        or any(description.write_bytes)
        or description.kind is OperatorKind.COLLECTIVE
    )


def _renumbered(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Storages in order of first tensor: those never touched leave no gap."""
    from dataclasses import replace

    numbers: dict[int, int] = {}
    return tuple(replace(t, storage=numbers.setdefault(t.storage, len(numbers))) for t in tensors)
