"""Repeating forward operators within backward: the rewrite behind recomputation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from worklode.graph.operator import Access, Operator, Phase, Tensor, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.assignment import BACKWARD_PHASES
from worklode.partition.cut_points import FORWARD_PHASES

_REPEATED_ROLES = (TensorRole.ACTIVATION, TensorRole.ACTIVATION_GRADIENT)
"""Results of a repeated operator that are made again; buffers and other state are updated once, by forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """Forward operators that run again for some backward operators.

    Attributes:
        segment: whose operators they are.
        operators: forward operators to repeat, ascending.
        readers: backward operators that read the repeated results in place of the first ones, ascending.
    """

    segment: int
    operators: tuple[int, ...]
    readers: tuple[int, ...]

    @property
    def trigger(self) -> int:
        """The operator in front of which all are repeated: the first that reads a result."""
        return self.readers[0]


def with_repetitions(graph: TrainingGraph, repetitions: Sequence[Repetition]) -> TrainingGraph:
    """The graph with repeated operators in front of their first readers.

    A repeated operator waits for the gradients its first reader waits for, so that it does not run, and keep its
    results, long before. The result has no loop nests (`TrainingGraph.loops`): divide over devices first.
    """
    return _Rewrite(graph, repetitions).graph()


class _Rewrite:
    def __init__(self, graph: TrainingGraph, repetitions: Sequence[Repetition]) -> None:
        self._old = graph
        self._tensors: list[Tensor] = list(graph.tensors)
        self._storages = max((tensor.storage for tensor in graph.tensors), default=-1) + 1
        self._versions: dict[int, list[int]] = {}
        for index, tensor in enumerate(graph.tensors):
            self._versions.setdefault(tensor.storage, []).append(index)
        self._repetitions = repetitions
        self._place, self._copy_place = self._places()
        self._last_forward = max((i for i, o in enumerate(graph.operators) if o.phase in FORWARD_PHASES), default=-1)

    def _places(self) -> tuple[list[int], list[dict[int, int]]]:
        """New index of every operator, and of the copies of every repetition."""
        in_front: dict[int, list[int]] = {}
        for number, repetition in enumerate(self._repetitions):
            in_front.setdefault(repetition.trigger, []).append(number)
        place: list[int] = []
        copies: list[dict[int, int]] = [{} for _ in self._repetitions]
        following = 0
        for index in range(len(self._old.operators)):
            for number in in_front.get(index, ()):
                for repeated in self._repetitions[number].operators:
                    copies[number][repeated] = following
                    following += 1
            place.append(following)
            following += 1
        return place, copies

    def graph(self) -> TrainingGraph:
        """The new graph."""
        old = self._old
        reads = [list(operator.reads) for operator in old.operators]
        after = [[self._place[before] for before in operator.after] for operator in old.operators]
        made: dict[int, Operator] = {}
        for index, tensor in enumerate(self._tensors):
            if tensor.producer >= 0:
                self._tensors[index] = replace(tensor, producer=self._place[tensor.producer])
        for repetition, places in zip(self._repetitions, self._copy_place, strict=True):
            copy_of = self._copied_tensors(repetition, places)
            storages = {old.tensors[index].storage: self._tensors[copy].storage for index, copy in copy_of.items()}
            made.update(self._copies(repetition, places, copy_of))
            for reader in repetition.readers:
                reads[reader] = [replace(a, tensor=copy_of.get(a.tensor, a.tensor)) for a in reads[reader]]
                after[reader].extend(self._overwritten_copies(reader, storages, places))
        for index, operator in enumerate(old.operators):
            made[self._place[index]] = replace(
                operator, reads=tuple(reads[index]), after=tuple(sorted(set(after[index])))
            )
        operators = _collectives_in_order([made[index] for index in sorted(made)])
        return replace(old, operators=operators, tensors=_with_saved(self._tensors, operators), loops=())

    def _copied_tensors(self, repetition: Repetition, places: dict[int, int]) -> dict[int, int]:
        """Tensor -> its copy, for all that the repeated operators make again."""
        copy_of: dict[int, int] = {}
        storages: dict[int, int] = {}
        for index in repetition.operators:
            for access in self._old.operators[index].writes:
                tensor = self._old.tensors[access.tensor]
                if tensor.role not in _REPEATED_ROLES:
                    continue
                if tensor.storage not in storages:
                    storages[tensor.storage] = self._new_storage()
                copy_of[access.tensor] = len(self._tensors)
                storage = storages[tensor.storage]
                self._tensors.append(replace(tensor, storage=storage, producer=places[index], saved=False))
        return copy_of

    def _copies(self, repetition: Repetition, places: dict[int, int], copy_of: dict[int, int]) -> dict[int, Operator]:
        """The repeated operators by their new index."""
        waits = self._gradients_waited_for(repetition)
        made = {}
        for index in repetition.operators:
            operator = self._old.operators[index]
            after = {places[before] for before in operator.after if before in places}
            producers = {self._old.tensors[access.tensor].producer for access in operator.reads}
            if not after and not producers & places.keys():
                after = set(waits)
            made[places[index]] = replace(
                operator,
                phase=Phase.RECOMPUTE,
                reads=tuple(replace(a, tensor=self._read_again(a.tensor, copy_of, repetition)) for a in operator.reads),
                writes=tuple(
                    Access(tensor=copy_of[a.tensor], bytes=a.bytes) for a in operator.writes if a.tensor in copy_of
                ),
                after=tuple(sorted(after)),
            )
        return made

    def _gradients_waited_for(self, repetition: Repetition) -> set[int]:
        """New indices of the backward operators that the first reader follows; the end of forward where it has none."""
        before = {
            self._place[index]
            for index in self._old.predecessors(repetition.trigger)
            if self._old.operators[index].phase in BACKWARD_PHASES
        }
        return before or {self._place[self._last_forward]}

    def _read_again(self, tensor: int, copy_of: dict[int, int], repetition: Repetition) -> int:
        """What a repeated operator reads in place of a tensor.

        State that forward has updated meanwhile is read as it is then. An activation that forward overwrites in place
        must be there once more, so its later versions move to a storage of their own.
        """
        if tensor in copy_of:
            return copy_of[tensor]
        found = self._old.tensors[tensor]
        later = [
            version
            for version in self._versions[found.storage]
            if found.producer < self._old.tensors[version].producer < repetition.trigger
        ]
        if not later:
            return tensor
        if found.role not in _REPEATED_ROLES:
            return max(later, key=lambda version: self._old.tensors[version].producer)
        if self._tensors[later[0]].storage == self._tensors[tensor].storage:
            storage = self._new_storage()
            for version in self._versions[found.storage]:
                if self._old.tensors[version].producer > found.producer:
                    self._tensors[version] = replace(self._tensors[version], storage=storage)
        return tensor

    def _overwritten_copies(self, reader: int, storages: dict[int, int], places: dict[int, int]) -> list[int]:
        """Where a reader writes over what it read, it writes over the copy, and after the copies' readers."""
        after: list[int] = []
        for access in self._old.operators[reader].writes:
            storage = storages.get(self._old.tensors[access.tensor].storage)
            if storage is not None:
                self._tensors[access.tensor] = replace(self._tensors[access.tensor], storage=storage)
                after.extend(places.values())
        return after

    def _new_storage(self) -> int:
        self._storages += 1
        return self._storages - 1


def _collectives_in_order(operators: list[Operator]) -> tuple[Operator, ...]:
    """The operators with repeated collectives of an axis in line with the others, as devices must agree on an order."""
    last: dict[str, int] = {}
    for index, operator in enumerate(operators):
        communication = operator.work.communication
        if communication is None:
            continue
        before = last.get(communication.axis, -1)
        last[communication.axis] = index
        if before >= 0 and Phase.RECOMPUTE in (operator.phase, operators[before].phase):
            operators[index] = replace(operator, after=tuple(sorted({*operator.after, before})))
    return tuple(operators)


def _with_saved(tensors: list[Tensor], operators: tuple[Operator, ...]) -> tuple[Tensor, ...]:
    """The tensors with `saved` on what forward makes and something behind it reads."""
    read_later = {
        access.tensor for operator in operators if operator.phase in BACKWARD_PHASES for access in operator.reads
    }
    return tuple(
        replace(tensor, saved=index in read_later)
        if tensor.producer >= 0 and operators[tensor.producer].phase in FORWARD_PHASES
        else tensor
        for index, tensor in enumerate(tensors)
    )
