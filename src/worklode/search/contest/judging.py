"""The evaluations of a contest: every searcher's designs on the same cost model, each charged with its CPU time."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worklode.cost.model import CostModel
from worklode.schedule.list_scheduler import Effort
from worklode.schedule.verify import verify
from worklode.search.aggregate import aggregate_of
from worklode.search.candidate import Candidate, scheduled_candidate
from worklode.search.contest.interface import Problem, Told
from worklode.search.evaluate import Evaluator, Figures, silicon
from worklode.search.grid import Grid, Point
from worklode.search.objective import Limits, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A design that was scheduled, and the CPU time [s] that took the first time."""

    figure: float
    parts: tuple[Figures, ...]
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contest:
    """What all cells of one workload share.

    Attributes:
        name: of the workload.
        evaluators, weights, grid, limits, objective, start: as in `Problem`.
        memory: quick schedules made so far by design, whoever asked.
    """

    name: str
    evaluators: tuple[Evaluator, ...]
    weights: tuple[float, ...]
    grid: Grid
    limits: Limits
    objective: Objective
    start: Point | None
    memory: dict[Point, Evaluated]

    def problem(self) -> Problem:
        """The problem of one cell, with cost tables of its own."""
        return Problem(
            evaluators=tuple(_fresh(evaluator) for evaluator in self.evaluators),
            weights=self.weights,
            grid=self.grid,
            limits=self.limits,
            objective=self.objective,
            start=self.start,
        )


def contest(
    name: str,
    evaluators: Sequence[Evaluator],
    weights: Sequence[float],
    grid: Grid,
    limits: Limits,
    objective: Objective,
    start: Point | None = None,
) -> Contest:
    """A contest; `start` is dropped where it breaks the limits."""
    total = float(sum(weights))
    made = Contest(
        name=name,
        evaluators=tuple(evaluators),
        weights=tuple(weight / total for weight in weights),
        grid=grid,
        limits=limits,
        objective=objective,
        start=start,
        memory={},
    )
    if start is not None and not made.problem().legal(np.array([start], np.int64))[0]:
        return Contest(**{**{name: getattr(made, name) for name in Contest.__slots__}, "start": None})
    return made


def evaluated(contest: Contest, problem: Problem, point: Point) -> Evaluated:
    """The quick schedule of a design; made once in a contest, charged the same to everybody."""
    known = contest.memory.get(point)
    if known is None:
        started_s = time.process_time()
        found = _candidate(problem, point, effort="quick")
        known = Evaluated(figure=found.figure, parts=found.figures, cpu_s=time.process_time() - started_s)
        contest.memory[point] = known
    return known


def remember(contest: Contest, point: Point, figure: float, parts: Sequence[tuple[float, float]], cpu_s: float) -> None:
    """Know an evaluation again that an earlier process made, at the CPU time it was charged there."""
    if point not in contest.memory:
        found = silicon(contest.grid.accelerator(point), contest.grid.technology)
        figures = tuple(
            Figures(time_s=time_s, energy_j=energy_j, area_mm2=found.area_mm2, tdp_w=found.tdp_w)
            for time_s, energy_j in parts
        )
        contest.memory[point] = Evaluated(figure=figure, parts=figures, cpu_s=cpu_s)


def judged(contest: Contest, problem: Problem, point: Point) -> tuple[Told, float]:
    """What is told of a design, and the CPU time [s] it is charged."""
    excess = float(problem.excess(np.array([point], np.int64))[0])
    if excess > 0.0:
        return Told(point=point, figure=None, excess=excess, broken=problem.broken(point)), 0.0
    found = evaluated(contest, problem, point)
    return Told(point=point, figure=found.figure, excess=excess, parts=found.parts), found.cpu_s


def thorough_figure(problem: Problem, point: Point, *, utmost: bool = False) -> float:
    """The figure of a design on thorough schedules, or with the utmost effort, as `mine` has it of its best."""
    return _candidate(problem, point, effort="utmost" if utmost else "thorough").figure


def verify_design(problem: Problem, point: Point) -> None:
    """Verify the thorough schedules of a design.

    Raises:
        InternalError: a schedule that cannot be.
    """
    accelerator = problem.grid.accelerator(point)
    for evaluator in problem.evaluators:
        step = evaluator.reported_step(accelerator)
        verify(step.problem, step.schedule)


def _candidate(problem: Problem, point: Point, *, effort: Effort) -> Candidate:
    return scheduled_candidate(
        problem.evaluators,
        aggregate_of(problem.weights),
        problem.objective,
        problem.grid.accelerator(point),
        "contest",
        effort=effort,
    )


def _fresh(evaluator: Evaluator) -> Evaluator:
    """The same workload with empty cost tables, so that a cell pays for the tables it needs."""
    found = copy.copy(evaluator)
    found.model = CostModel(evaluator.arrays.items, mode=evaluator.model.mode)
    found._reported = {}
    return found
