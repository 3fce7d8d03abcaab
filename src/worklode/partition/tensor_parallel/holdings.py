"""What the device holds of every tensor, and the collectives that turn one form into another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from worklode.graph.operator import Access, Operator, Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Collective
from worklode.partition.tensor_parallel.builder import ShardBuilder, Written
from worklode.partition.tensor_parallel.layout import PARTIAL, WHOLE, Form, Layout, held_bytes, portion

GROUPS: dict[Phase, int] = {
    Phase.FORWARD: 0,
    Phase.LOSS: 0,
    Phase.BACKWARD: 1,
    Phase.RECOMPUTE: 1,
    Phase.ACCUMULATE: 1,
    Phase.OPTIMIZER: 2,
}
"""Phases that share gathered copies: backward gathers again what forward gathered, which is not kept."""


@dataclass(slots=True, kw_only=True)
class Holdings:
    """The new tensor behind every tensor of the graph, and its layout.

    Attributes:
        graph: the graph of one device.
        builder: writes the graph of the shard.
        sources: layouts of tensors that exist before the iteration; whole where not named.
    """

    graph: TrainingGraph
    builder: ShardBuilder
    sources: Mapping[int, Layout]
    _home: dict[int, tuple[int, Layout]] = field(default_factory=dict)
    _copies: dict[tuple[int, Layout, int], int] = field(default_factory=dict)
    _storages: dict[int, tuple[int, Layout]] = field(default_factory=dict)

    def layout(self, tensor: int) -> Layout:
        """How a tensor is held now."""
        found = self._home.get(tensor)
        return found[1] if found is not None else self.sources.get(tensor, WHOLE)

    def home(self, tensor: int) -> tuple[int, Layout]:
        """The new tensor and its layout; one that exists before the iteration is made when it is first asked for."""
        found = self._home.get(tensor)
        if found is None:
            old = self.graph.tensors[tensor]
            layout = self.sources.get(tensor, WHOLE)
            known = self._storages.get(old.storage)
            storage = known[0] if known is not None and known[1] == layout else -1
            new = self.builder.source(old, held_bytes(old.bytes, layout), storage)
            found = self._home[tensor] = (new, layout)
            self._storages[old.storage] = (self.builder.storage_of(new), layout)
        return found

    def held(self, tensor: int, wanted: Layout, operator: Operator) -> int:
        """The new tensor that holds at least what an operator needs of a tensor: as it is where that is enough.

        A whole tensor serves one that wants a part of it. Partial sums must have been reduced before.
        """
        new, layout = self.home(tensor)
        if layout == wanted or (layout == WHOLE and wanted.form is Form.DIVIDED):
            return new
        if Form.EXCHANGED in {layout.form, wanted.form}:
            return self._exchange(tensor, wanted, operator)
        assert layout.form is not Form.PARTIAL, "a partial sum is reduced, not gathered"
        return self._gather(tensor, operator)

    def reduce(self, tensor: int, wanted: Layout, operator: Operator) -> None:
        """Add the partial sums of a tensor: all of it everywhere, or scattered along a digit."""
        new, layout = self.home(tensor)
        assert layout.form is Form.PARTIAL, "only partial sums are reduced"
        old = self.graph.tensors[tensor]
        place = self._place(new, operator)
        phase = place.phase if GROUPS[place.phase] == GROUPS[operator.phase] else operator.phase
        if wanted.form is Form.DIVIDED:
            size = held_bytes(old.bytes, wanted)
            (made,) = self.builder.collective(
                Collective.REDUCE_SCATTER,
                old.bytes,
                place,
                phase,
                [(new, old.bytes)],
                [Written(bytes=size, accessed=size, like=old)],
            )
        else:
            storage = self.builder.storage_of(new)
            (made,) = self.builder.collective(
                Collective.ALL_REDUCE,
                old.bytes,
                place,
                phase,
                [(new, old.bytes)],
                [Written(bytes=old.bytes, accessed=old.bytes, like=old, storage=storage)],
            )
        self.settle(tensor, made, wanted)

    def reduce_together(self, tensors: Iterable[int], operator: Operator) -> None:
        """Add the partial sums of many small tensors in one all-reduce."""
        found = [(tensor, self.home(tensor)[0], self.graph.tensors[tensor]) for tensor in tensors]
        made = self.builder.collective(
            Collective.ALL_REDUCE,
            sum(old.bytes for _, _, old in found),
            self._place(found[0][1], operator),
            operator.phase,
            [(new, old.bytes) for _, new, old in found],
            [
                Written(bytes=old.bytes, accessed=old.bytes, like=old, storage=self.builder.storage_of(new))
                for _, new, old in found
            ],
        )
        for (tensor, _, _), new in zip(found, made, strict=True):
            self.settle(tensor, new, WHOLE)

    def written(self, access: Access, layout: Layout) -> Written:
        """The new tensor an operator writes for an old one: on the storage of the version before, if held the same."""
        old = self.graph.tensors[access.tensor]
        known = self._storages.get(old.storage)
        storage = known[0] if known is not None and known[1].held == layout.held else -1
        return Written(
            bytes=held_bytes(old.bytes, layout), accessed=portion(access.bytes, layout.held), like=old, storage=storage
        )

    def settle(self, tensor: int, new: int, layout: Layout) -> None:
        """A tensor is now held as `new`."""
        self._home[tensor] = (new, layout)
        self._storages[self.graph.tensors[tensor].storage] = (self.builder.storage_of(new), layout)

    def _gather(self, tensor: int, operator: Operator) -> int:
        """All of a divided tensor, gathered once for the operators of one pass."""
        key = (tensor, WHOLE, GROUPS[operator.phase])
        if key not in self._copies:
            new, layout = self.home(tensor)
            old = self.graph.tensors[tensor]
            size = held_bytes(old.bytes, layout)
            whole = size * self.builder.devices  # with the padding
            (self._copies[key],) = self.builder.collective(
                Collective.ALL_GATHER,
                whole,
                operator,
                operator.phase,
                [(new, size)],
                [Written(bytes=whole, accessed=whole, like=old)],
            )
        return self._copies[key]

    def _exchange(self, tensor: int, wanted: Layout, operator: Operator) -> int:
        """Own tokens for all experts to all tokens for own experts, or back; each form is kept once made."""
        new, layout = self.home(tensor)
        key = (tensor, wanted, 0)
        if key not in self._copies:
            old = self.graph.tensors[tensor]
            (made,) = self.builder.collective(
                Collective.ALL_TO_ALL,
                old.bytes,
                operator,
                operator.phase,
                [(new, old.bytes)],
                [Written(bytes=old.bytes, accessed=old.bytes, like=old)],
            )
            self._copies[key] = made
            self._copies[tensor, layout, 0] = new
            self._home[tensor] = (made, wanted)
        return self._copies[key]

    def _place(self, new: int, operator: Operator) -> Operator:
        """Where a reduction belongs: beside the operator that made the sums."""
        producer = self.builder.tensors[new].producer
        return self.builder.operators[producer] if producer >= 0 else operator


def partial_gradients(holdings: Holdings, operators: Iterable[Operator]) -> list[int]:
    """Old tensors that optimizer operators read and that are still partial sums, in order of first reading."""
    found: dict[int, None] = {}
    for operator in operators:
        if operator.phase is Phase.OPTIMIZER:
            for access in operator.reads:
                if holdings.layout(access.tensor) == PARTIAL:
                    found[access.tensor] = None
    return list(found)


def merged(accesses: Iterable[tuple[int, int]], builder: ShardBuilder) -> list[tuple[int, int]]:
    """Bytes read of every new tensor, at most all of it."""
    total: dict[int, int] = {}
    for tensor, size in accesses:
        total[tensor] = min(total.get(tensor, 0) + size, builder.tensors[tensor].bytes)
    return list(total.items())
