"""A stage held against the HBM of a device: it fits, or what it needs, what there is, and what would help most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from worklode.graph.operator import Phase
from worklode.partition.recompute import RecomputePolicy, recompute
from worklode.partition.segments import segments
from worklode.partition.stage_memory import ZERO_LEVELS, MemoryModel, StageMemory, StateOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRemedy:
    """One change, and what the stage would need with it.

    Attributes:
        change: what to do, for people.
        total_bytes: HBM of the stage then [bytes].
        fits: whether that is within the limit.
        exact: computed from the changed graph or cut; False: estimated by halving what the change divides.
    """

    change: str
    total_bytes: int
    fits: bool
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShortage:
    """A stage that does not fit.

    Attributes:
        demand_bytes, limit_bytes: what it needs and what there is [bytes].
        memory: the parts of the demand.
        largest: name of the largest part.
        remedies: single changes, those that suffice first, the cheaper in time before the dearer; then the others,
            the most helpful first.
    """

    demand_bytes: int
    limit_bytes: int
    memory: StageMemory
    largest: str
    remedies: tuple[MemoryRemedy, ...]

    @property
    def remedy(self) -> str:
        """The most helpful change, a clause."""
        if not self.remedies:
            return "more HBM"
        best = self.remedies[0]
        return best.change if best.fits else f"{best.change}, and more: it alone does not suffice"


def memory_shortage(
    model: MemoryModel,
    chunks: Sequence[tuple[int, int]],
    in_flight: Sequence[float],
    options: StateOptions,
    hbm_bytes: int,
) -> MemoryShortage | None:
    """Why a stage does not fit a device, or None where it does.

    Args:
        model: memory of the divided graph.
        chunks, in_flight, options: as for `MemoryModel.stage`.
        hbm_bytes: capacity of the device [bytes].
    """
    memory = model.stage(chunks, in_flight, options)
    if memory.total <= hbm_bytes:
        return None
    parts = {name: getattr(memory, name) for name in StageMemory.__slots__}
    found = [
        MemoryRemedy(change=change, total_bytes=total, fits=total <= hbm_bytes, exact=exact)
        for change, total, exact in _changes(model, chunks, in_flight, options, memory)
        if total < memory.total
    ]
    enough = [remedy for remedy in found if remedy.fits]
    short = sorted((remedy for remedy in found if not remedy.fits), key=lambda remedy: remedy.total_bytes)
    return MemoryShortage(
        demand_bytes=memory.total,
        limit_bytes=hbm_bytes,
        memory=memory,
        largest=max(parts, key=lambda name: parts[name]),
        remedies=(*enough, *short),
    )


def _changes(
    model: MemoryModel,
    chunks: Sequence[tuple[int, int]],
    in_flight: Sequence[float],
    options: StateOptions,
    memory: StageMemory,
) -> Iterator[tuple[str, int, bool]]:
    """(change, total bytes, exact), from those that cost least time on."""
    if options.data_parallel > 1:
        for level in ZERO_LEVELS:
            if level > options.zero:
                yield f"ZeRO-{level}", model.stage(chunks, in_flight, replace(options, zero=level)).total, True
    for policy, other in _recomputing(model):
        yield f"{policy} recomputation", other.stage(chunks, in_flight, options).total, True
    graph = model.divided.graph
    held = memory.parameters + memory.gradients + memory.optimizer_state
    passing = memory.activations + memory.working_set
    if all(stop - first > 1 for first, stop in chunks):
        yield "twice as many pipeline stages", _halved_stage(model, chunks, in_flight, options), True
    yield "twice the tensor-parallel width", memory.buffers + (held + passing) // 2, False
    if graph.info.samples > 1:
        yield "half the microbatch", held + memory.buffers + passing // 2, False


def _recomputing(model: MemoryModel) -> tuple[tuple[RecomputePolicy, MemoryModel], ...]:
    """The model with every policy that repeats anything; none where it recomputes already. Kept: stages all ask."""
    known = _REMEMBERED.get(model)
    if known is None:
        graph, found = model.divided.graph, []
        if not any(operator.phase is Phase.RECOMPUTE for operator in graph.operators):
            for policy in (RecomputePolicy.SELECTIVE, RecomputePolicy.FULL):
                changed = recompute(graph, policy)
                if changed.operators:
                    found.append((policy, MemoryModel(segments(changed.graph))))
        known = _REMEMBERED[model] = tuple(found)
    return known


# Variants of models as long as these live.
_REMEMBERED: WeakKeyDictionary[MemoryModel, tuple[tuple[RecomputePolicy, MemoryModel], ...]] = WeakKeyDictionary()


def _halved_stage(
    model: MemoryModel, chunks: Sequence[tuple[int, int]], in_flight: Sequence[float], options: StateOptions
) -> int:
    """Bytes of the larger of two stages that share the segments of one; the first keeps twice the microbatches."""
    middles = [first + (stop - first) // 2 for first, stop in chunks]
    front = [(first, middle) for (first, _), middle in zip(chunks, middles, strict=True)]
    back = [(middle, stop) for (_, stop), middle in zip(chunks, middles, strict=True)]
    twice = [2 * count for count in in_flight]
    return max(model.stage(front, twice, options).total, model.stage(back, in_flight, options).total)
