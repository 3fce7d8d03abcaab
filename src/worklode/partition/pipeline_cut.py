"""Cutting a model into pipeline stages: dynamic programming over time, communication and memory.

Formulas: docs/models/pipeline_cut.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worklode.errors import Fault, SpecError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutProblem:
    """S segments in model order, to be divided into P · V chunks; chunk c runs on stage c mod P.

    Attributes:
        segment_s: [S] time of each segment for one microbatch, all its passes, or [P, S] where stages differ.
        stages: P.
        chunks_per_stage: V, above 1 for interleaved schedules.
        boundary_s: [S - 1] time the chunks on both sides of a boundary spend on what crosses it, both ways, beyond what
            is hidden behind computation; empty where all is hidden.
        memory_bytes: [P, S + 1, S + 1] memory of stage p with segments first up to stop; None where memory is no limit.
        capacity_bytes: [P] memory of each stage.
        microbatches: what the bottleneck is weighed with (see `cut`); None: the bottleneck first, then the total.
    """

    segment_s: Floats
    stages: int
    chunks_per_stage: int = 1
    boundary_s: Floats | None = None
    memory_bytes: Floats | None = None
    capacity_bytes: Sequence[float] = ()
    microbatches: int | None = None

    @property
    def segments(self) -> int:
        """S."""
        return int(self.segment_s.shape[-1])

    @property
    def chunks(self) -> int:
        """P · V."""
        return self.stages * self.chunks_per_stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The best division.

    Attributes:
        chunks: (first, stop) segments of each chunk, in model order.
        chunk_s: time of each chunk for one microbatch, with its communication [s].
        bottleneck_s, total_s: greatest and sum of them [s].
    """

    chunks: tuple[tuple[int, int], ...]
    chunk_s: tuple[float, ...]
    bottleneck_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCut:
    """No division fits the memory.

    Attributes:
        stage: the stage that misses its limit by most in the division that comes nearest.
        demand_bytes, limit_bytes: of that stage [bytes].
        chunks: that division.
        remedy: what would help, a clause.
    """

    stage: int
    demand_bytes: float
    limit_bytes: float
    chunks: tuple[tuple[int, int], ...]
    remedy: str


def cut(problem: CutProblem) -> Cut | NoCut:
    """Divide the segments so that the slowest chunk is as fast as can be, and of all such divisions the total least.

    With `microbatches` = m instead the least total + (m - 1) · bottleneck, which is what a pipeline of uneven stages
    takes. Both are exact. Every chunk has at least one segment. With several chunks a stage the memory of a stage is
    that of its chunks together, which is looked at once the division is found: `NoCut` then says that this division
    does not fit, not that none does.

    Raises:
        SpecError: more chunks than segments, times that are negative or no numbers, arrays that do not fit together.
    """
    _check(problem)
    times = _chunk_times(problem)
    limited = problem.memory_bytes is not None and problem.chunks_per_stage == 1
    if limited:
        memory = np.asarray(problem.memory_bytes)
        capacity = np.asarray(problem.capacity_bytes, np.float64)[:, None, None]
        times = np.where(memory <= capacity, times, math.inf)
        if math.isinf(least_bottleneck(times)):
            return _nearest(problem)
    found = _best_division(times, problem.microbatches)
    if problem.memory_bytes is not None and not limited:
        short = _overfull(problem, found)
        if short is not None:
            return short
    chunk_s = tuple(float(times[c, first, stop]) for c, (first, stop) in enumerate(found))
    return Cut(chunks=found, chunk_s=chunk_s, bottleneck_s=max(chunk_s), total_s=math.fsum(chunk_s))


def least_bottleneck(times: Floats) -> float:
    """Least greatest time over all divisions: B(c, j) = min over i < j of max(B(c - 1, i), times(c, i, j)).

    Args:
        times: [C, S + 1, S + 1] time of chunk c with segments i up to j; infinite where it may not be.

    Returns:
        Infinite where there is no division.
    """
    best = np.full(times.shape[1], math.inf)
    best[0] = 0.0
    for chunk in times:
        best = np.maximum(best[:, None], chunk).min(axis=0)
    return float(best[-1])


def least_total(times: Floats, limit_s: float) -> tuple[float, tuple[tuple[int, int], ...]]:
    """Least sum of times over the divisions whose chunks take at most `limit_s`, and one that has it.

    T(c, j) = min over i < j with times(c, i, j) <= limit of T(c - 1, i) + times(c, i, j). Of equal ones that with the
    earliest last cut. The division is empty where there is none.
    """
    within = np.where(times <= limit_s, times, math.inf)
    best = np.full(times.shape[1], math.inf)
    best[0] = 0.0
    origins = []
    for chunk in within:
        sums = best[:, None] + chunk
        origins.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    if math.isinf(best[-1]):
        return math.inf, ()
    division: list[tuple[int, int]] = []
    stop = times.shape[1] - 1
    for origin in reversed(origins):
        division.append((int(origin[stop]), stop))
        stop = int(origin[stop])
    return float(best[-1]), tuple(reversed(division))


def _best_division(times: Floats, microbatches: int | None) -> tuple[tuple[int, int], ...]:
    """The division of `cut`, which is known to exist."""
    bottleneck = least_bottleneck(times)
    total, best = least_total(times, bottleneck)
    if microbatches is None:
        return best
    waits = microbatches - 1
    least, _ = least_total(times, math.inf)
    value = total + waits * bottleneck
    # a looser bottleneck pays only while the least total of all could make up for it
    for limit in np.unique(times[np.isfinite(times)]):
        if limit <= bottleneck:
            continue
        if least + waits * limit >= value:
            break
        total, division = least_total(times, float(limit))
        if total + waits * limit < value:
            value, best = total + waits * limit, division
    return best


def _chunk_times(problem: CutProblem) -> Floats:
    """[C, S + 1, S + 1] time of every chunk with every run of segments; infinite for an empty run."""
    count = problem.segments
    per_stage = np.broadcast_to(np.atleast_2d(problem.segment_s), (problem.stages, count))
    prefix = np.concatenate((np.zeros((problem.stages, 1)), np.cumsum(per_stage, axis=1)), axis=1)
    edge = np.zeros(count + 1)
    if problem.boundary_s is not None and len(problem.boundary_s):
        edge[1:-1] = problem.boundary_s
    times = np.maximum(prefix[:, None, :] - prefix[:, :, None], 0.0) + edge[None, :, None] + edge[None, None, :]
    times[:, ~np.triu(np.ones((count + 1, count + 1), bool), 1)] = math.inf
    return np.tile(times, (problem.chunks_per_stage, 1, 1))


def _nearest(problem: CutProblem) -> NoCut:
    """The division whose fullest stage misses its limit by the least factor."""
    memory = np.asarray(problem.memory_bytes, np.float64)
    capacity = np.asarray(problem.capacity_bytes, np.float64)
    empty = ~np.triu(np.ones(memory.shape[1:], bool), 1)
    share = np.where(empty, math.inf, memory / capacity[:, None, None])
    _, division = least_total(share, least_bottleneck(share))
    return _no_cut(problem, division, [float(memory[s, i, j]) for s, (i, j) in enumerate(division)])


def _overfull(problem: CutProblem, division: tuple[tuple[int, int], ...]) -> NoCut | None:
    memory = np.asarray(problem.memory_bytes, np.float64)
    demand = [0.0] * problem.stages
    for chunk, (first, stop) in enumerate(division):
        demand[chunk % problem.stages] += float(memory[chunk % problem.stages, first, stop])
    if all(need <= limit for need, limit in zip(demand, problem.capacity_bytes, strict=True)):
        return None
    return _no_cut(problem, division, demand)


def _no_cut(problem: CutProblem, division: tuple[tuple[int, int], ...], demand: list[float]) -> NoCut:
    stage = max(range(problem.stages), key=lambda place: demand[place] / problem.capacity_bytes[place])
    alone = problem.stages == problem.segments
    remedy = (
        "every stage has one segment already: recomputation, more tensor-parallel width or a smaller microbatch"
        if alone
        else "more stages, recomputation, ZeRO, more tensor-parallel width or a smaller microbatch"
    )
    return NoCut(
        stage=stage,
        demand_bytes=demand[stage],
        limit_bytes=float(problem.capacity_bytes[stage]),
        chunks=division,
        remedy=remedy,
    )


def _check(problem: CutProblem) -> None:
    """Raise every fault of a problem at once."""
    faults: list[Fault] = []

    def fault(path: str, value: object, wrong: str, allowed: str) -> None:
        faults.append(Fault(where="pipeline", path=path, value=str(value), problem=wrong, allowed=allowed))

    count, stages = problem.segments, problem.stages
    for name, number in (("stages", stages), ("chunks_per_stage", problem.chunks_per_stage)):
        if number < 1:
            fault(name, number, "is not positive", "1 or more")
    if problem.microbatches is not None and problem.microbatches < 1:
        fault("microbatches", problem.microbatches, "is not positive", "1 or more")
    if faults:
        raise SpecError(*faults)
    if problem.chunks > count:
        found = f"{problem.chunks}" if problem.chunks_per_stage == 1 else f"{stages} x {problem.chunks_per_stage}"
        allowed = f"at most {count}: the model has {count - 1} cut points, between its {count} segments"
        fault("stages", found, "more chunks than the model can be cut into", allowed)
    for name, values, shapes in (
        ("segment_s", problem.segment_s, ((count,), (stages, count))),
        ("boundary_s", problem.boundary_s, ((0,), (count - 1,))),
        ("memory_bytes", problem.memory_bytes, ((stages, count + 1, count + 1),)),
    ):
        if values is None:
            continue
        if np.shape(values) not in shapes:
            fault(name, np.shape(values), "does not fit", " or ".join(map(str, shapes)))
        elif not np.isfinite(values).all() or np.min(values, initial=0.0) < 0:
            fault(name, "", "holds what is no time or size", "finite numbers, 0 or more")
    if problem.memory_bytes is not None and (
        len(problem.capacity_bytes) != stages or min(problem.capacity_bytes, default=0.0) <= 0
    ):
        fault("capacity_bytes", list(problem.capacity_bytes), "does not fit", f"{stages} positive sizes")
    if faults:
        raise SpecError(*faults)
