"""Exhaustive search: every design of a small space is scheduled. The oracle of every other search.

Method and limits: docs/models/exact.md.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from worklode.errors import Fault, SpecError
from worklode.hardware.space import DesignSpace
from worklode.search.aggregate import Aggregate, aggregate_of
from worklode.search.candidate import Candidate, scheduled_candidate
from worklode.search.evaluate import Evaluator
from worklode.search.grid import Grid
from worklode.search.local import Progress
from worklode.search.objective import Limits, Objective

# Designs of a space, at most [count]: ten minutes of a core at 30 ms a design, what the slowest workloads take.
MOST_DESIGNS = 20_000
# Designs a worker gets at a time [count]: enough to hide the start of a task, few enough to keep all busy.
CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ExhaustiveResult:
    """Every design of a space within the limits.

    Attributes:
        candidates: the designs within the limits, best first; ties are broken as the local search breaks them.
        space_size: designs of the space, all of them scheduled.
        outside_limits: those that break a limit.
        wall_time_s: of the search [s].
    """

    candidates: tuple[Candidate, ...]
    space_size: int
    outside_limits: int
    wall_time_s: float

    @property
    def best(self) -> Candidate | None:
        """The best design, None where none keeps the limits."""
        return self.candidates[0] if self.candidates else None


def exhaustive(
    evaluators: Sequence[Evaluator],
    weights: Sequence[float] | Aggregate,
    space: DesignSpace | Grid,
    limits: Limits,
    objective: Objective,
    *,
    workers: int = 1,
    most_designs: int = MOST_DESIGNS,
    progress: Progress | None = None,
) -> ExhaustiveResult:
    """Schedule every design of a space on every workload and order those within the limits.

    Nothing is estimated, bounded or skipped: designs that break a limit are scheduled as well, so that a fault in the
    arithmetic of limits cannot hide. The answer does not depend on the number of workers.

    Args:
        evaluators: one for each workload.
        weights: one for each workload, positive: the objective's weighted geometric mean is minimised; or another way
            to make one figure of the evaluators'.
        space: where to look.
        limits: what a design may cost.
        objective: what is minimised.
        workers: processes; 1 stays in this one.
        most_designs: a larger space is refused.
        progress: told how many designs are scheduled, of how many.

    Raises:
        SpecError: the space is too large, weights do not match the workloads or are not positive, no worker.
    """
    started_s = time.perf_counter()
    designs = space.space if isinstance(space, Grid) else space
    weighed = weights if isinstance(weights, Sequence) else (1.0,) * len(evaluators)
    _check(evaluators, weighed, designs, workers, most_designs)
    task = _Task(
        evaluators=tuple(evaluators),
        aggregate=aggregate_of(weights),
        space=designs,
        objective=objective,
    )
    found: list[Candidate] = []
    starts = range(0, designs.size, CHUNK)
    if workers == 1:
        for start in starts:
            found += _schedule_chunk(task, start)
            _tell(progress, len(found), designs.size)
    else:
        with ProcessPoolExecutor(workers, worker_context(), initializer=_remember, initargs=(task,)) as pool:
            for chunk in pool.map(_schedule_remembered, starts):
                found += chunk
                _tell(progress, len(found), designs.size)
    legal = [candidate for candidate in found if _legal(candidate, limits)]
    return ExhaustiveResult(
        candidates=tuple(sorted(legal, key=Candidate.order)),
        space_size=designs.size,
        outside_limits=len(found) - len(legal),
        wall_time_s=time.perf_counter() - started_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """What every worker needs."""

    evaluators: tuple[Evaluator, ...]
    aggregate: Aggregate
    space: DesignSpace
    objective: Objective


def _schedule_chunk(task: _Task, start: int) -> list[Candidate]:
    """Designs at the positions from `start` on."""
    end = min(start + CHUNK, task.space.size)
    return [
        scheduled_candidate(
            task.evaluators,
            task.aggregate,
            task.objective,
            task.space.accelerator(task.space.indices(position)),
            "exhaustive",
        )
        for position in range(start, end)
    ]


_remembered: list[_Task] = []
"""The task of a worker process; empty in the process that starts them."""


def _remember(task: _Task) -> None:
    _remembered[:] = [task]


def _schedule_remembered(start: int) -> list[Candidate]:
    return _schedule_chunk(_remembered[0], start)


def worker_context() -> multiprocessing.context.BaseContext:
    """Forked workers need not import and send everything anew; elsewhere than on Linux forking is not safe."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if methods[0] == "fork" else None)


def _legal(candidate: Candidate, limits: Limits) -> bool:
    figures = candidate.figures[0]
    return limits.allow(area_mm2=figures.area_mm2, tdp_w=figures.tdp_w, hbm_bytes=candidate.accelerator.hbm_bytes)


def _tell(progress: Progress | None, done: int, most: int) -> None:
    if progress is not None:
        progress(done, most)


def _check(
    evaluators: Sequence[Evaluator], weights: Sequence[float], space: DesignSpace, workers: int, most_designs: int
) -> None:
    faults = []
    if space.size > most_designs:
        faults.append(
            Fault(
                where="exhaustive search",
                path="space",
                value=f"{space.size} designs",
                problem="too many designs to schedule every one",
                allowed=f"{most_designs} at most: fewer values per axis, or the search that prunes",
            )
        )
    if not evaluators:
        faults.append(Fault(where="exhaustive search", path="workloads", problem="none given", allowed="at least one"))
    if len(weights) != len(evaluators):
        faults.append(
            Fault(
                where="weights", value=str(len(weights)), problem="one for each workload", allowed=str(len(evaluators))
            )
        )
    faults += [
        Fault(where="weights", path=str(index), value=f"{weight:g}", problem="a weight is positive", allowed="> 0")
        for index, weight in enumerate(weights)
        if not 0 < weight < float("inf")
    ]
    if workers < 1:
        faults.append(
            Fault(where="exhaustive search", path="workers", value=str(workers), problem="no worker", allowed=">= 1")
        )
    if faults:
        raise SpecError(*faults)
