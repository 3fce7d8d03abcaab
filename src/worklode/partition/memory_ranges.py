"""Memory of every run of segments at once, as arrays, for a search over cuts (docs/models/stage_memory.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worklode.partition.stage_memory import PREFETCHED_SEGMENTS, MemoryModel, ModelState, StateOptions

Ranges = NDArray[np.int64]
"""[S + 1, S + 1]: entry (first, stop) for segments first up to stop; 0 where stop <= first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryRanges:
    """HBM of a device that holds one run of segments: `fixed + in_flight · kept` [bytes].

    Attributes:
        fixed: model state, buffers and working set of every run.
        kept: activations that every run keeps of one microbatch.
    """

    fixed: Ranges
    kept: Ranges

    def bytes(self, in_flight: Sequence[float]) -> NDArray[np.float64]:
        """[P, S + 1, S + 1] memory of every run on each of P stages with so many microbatches in flight."""
        counts = np.asarray(in_flight, np.float64)[:, None, None]
        return np.asarray(self.fixed + counts * self.kept, np.float64)


def memory_ranges(model: MemoryModel, options: StateOptions) -> MemoryRanges:
    """The same figures as `MemoryModel.stage` for every run of segments as the only chunk of a stage.

    Raises:
        SpecError: an option is out of its range.
    """
    options.check()
    count = len(model.divided.segments)
    states, users = model.parameter_states(options.rule)

    def divided(sizes: list[int], level: int) -> Ranges:
        whole = union_ranges(count, zip(sizes, users, strict=True))
        return -(-whole // options.data_parallel) if options.zero >= level else whole

    activations = model.activations
    kept = union_ranges(count, ((size, places) for size, _, places in activations.keepers))
    fixed = (
        divided([state.weights for state in states], 3)
        + divided([state.gradients for state in states], 2)
        + divided([state.optimizer for state in states], 1)
        + union_ranges(count, model.buffers)
        + _working(model, kept)
        + _undivided([model.model_state([place], options.rule) for place in range(count)], options)
    )
    return MemoryRanges(fixed=fixed, kept=kept)


def union_ranges(count: int, items: Iterable[tuple[int, Sequence[int]]]) -> Ranges:
    """Bytes of the items that a run of segments needs, each once.

    Args:
        count: segments.
        items: (bytes, segments that need it, ascending).
    """
    single = np.zeros(count, np.int64)
    twice = np.zeros((count + 1, count + 1), np.int64)
    for size, places in items:
        for place in places:
            single[place] += size
        for one, other in pairwise(places):  # a run over both has counted it twice
            twice[one, other + 1] += size
    prefix = np.concatenate(([0], np.cumsum(single)))
    # (one, other) is within (first, stop) where first <= one and other < stop
    within = np.cumsum(np.cumsum(twice[::-1], axis=0)[::-1], axis=1)
    return np.triu(prefix[None, :] - prefix[:, None] - within, 1)


def _working(model: MemoryModel, kept: Ranges) -> Ranges:
    """Working set of every run, as `ActivationMemory.working_bytes`."""
    found = model.activations.segments
    peaks = np.array([s.inputs + max(s.forward_peak, s.backward_peak) for s in found], np.int64)
    most = np.zeros_like(kept)
    for first in range(len(found)):
        most[first, first + 1 :] = np.maximum.accumulate(kept[first, first:-1] + peaks[first:])
    return np.triu(np.maximum(0, most - kept), 1)


def _undivided(by_segment: Sequence[ModelState], options: StateOptions) -> Ranges:
    """What ZeRO keeps whole while a segment is at work, for every run."""
    count = len(by_segment)
    whole = np.zeros((count + 1, count + 1), np.int64)
    if options.data_parallel == 1 or options.zero < 2:
        return whole
    for first in range(count):
        gradients, largest = 0, [0] * PREFETCHED_SEGMENTS
        for place in range(first, count):
            gradients = max(gradients, by_segment[place].gradients)
            largest = sorted([*largest, by_segment[place].weights], reverse=True)[:PREFETCHED_SEGMENTS]
            whole[first, place + 1] = gradients + (sum(largest) if options.zero >= 3 else 0)
    return whole
