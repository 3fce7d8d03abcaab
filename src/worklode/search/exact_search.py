"""Configuration and schedule in one exact model: the best design of a small space for a small graph, with a proof.

For blocks of models (some dozens of operators; `worklode.graph.subgraph` cuts them out) and spaces of dozens to some
thousands of designs. Needs OR-tools (`pip install worklode[exact]`). Method and what is proven: docs/models/exact.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from worklode.errors import Fault, SpecError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import energy_constants
from worklode.hardware.space import DesignSpace
from worklode.schedule.bounds import lower_bounds
from worklode.schedule.exact import PROVEN_GAP, choose_exactly
from worklode.schedule.exact_model import Variant
from worklode.schedule.problem import Schedule, ScheduleProblem
from worklode.schedule.verify import verify
from worklode.search.candidate import Candidate
from worklode.search.evaluate import Evaluator, Figures, ScheduledStep, silicon
from worklode.search.evaluation import Silicon, accelerator_dict
from worklode.search.infeasible import Infeasible, explain_infeasible
from worklode.search.objective import Limits, Objective

WHERE = "exact search"
# Designs of a space [count]: each is scheduled and bounded, some 5 ms for dozens of operators.
MOST_DESIGNS = 2_000
# Operators after fusion [count]: beyond some dozens CP-SAT proves little in minutes; beyond this the model is large.
MOST_OPERATORS = 200
# Designs in one model [count], those of the least bound: each brings its own durations, some hundred intervals.
MOST_MODELLED = 64
# Objectives that are a constant of the design times the makespan; energy depends on the options chosen as well.
OBJECTIVES = (Objective.THROUGHPUT, Objective.THROUGHPUT_PER_TDP)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactMiningResult:
    """The best design and schedule of a space, and what is proven of them: `lower_bound <= optimum <= figure`.

    The optimum is that of the fluid problem (docs/models/schedule.md) over all designs within the limits and all
    schedules. All figures are in the unit of the objective: s, or s·W.

    Attributes:
        objective, limits: what was asked.
        best: the best design known, None where the limits are infeasible; its time is that of `schedule`.
        silicon: its area and power by part.
        problem, schedule: its problem and verified schedule, with segments.
        lower_bound: proven for every design within the limits and every schedule.
        solver_bound: CP-SAT's own bound over the designs in its model.
        own_bound: the least bound by `schedule.bounds` over all designs within the limits.
        listed_figure: the best figure before CP-SAT: every design within the limits, by the list scheduler.
        source, answers: where the schedule comes from, and what the solver said; see `schedule.exact.ExactChoice`.
        space_size, within_limits, ruled_out, modelled: designs of the space; within the limits; of these ruled out
            by a bound that is no better than a known figure; in CP-SAT's model.
        infeasible: why there is no design; empty where there is one.
        finished: the solver ended by itself, not by the time limit.
        wall_time_s: of all [s].
    """

    objective: Objective
    limits: Limits
    best: Candidate | None
    silicon: Silicon | None
    problem: ScheduleProblem | None
    schedule: Schedule | None
    lower_bound: float
    solver_bound: float
    own_bound: float
    listed_figure: float
    source: str
    answers: tuple[tuple[str, str, float], ...]
    space_size: int
    within_limits: int
    ruled_out: int
    modelled: int
    infeasible: tuple[Infeasible, ...]
    finished: bool
    wall_time_s: float

    @property
    def optimality_gap(self) -> float | None:
        """How far the best figure may be above the optimum [1]; None without a design."""
        if self.best is None or self.lower_bound <= 0:
            return None
        return self.best.figure / self.lower_bound - 1.0

    @property
    def proven(self) -> bool:
        """Whether design and schedule are optimal, up to the rounding of times to ticks."""
        gap = self.optimality_gap
        return gap is not None and gap <= PROVEN_GAP

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        best = self.best
        return {
            "objective": self.objective.value,
            "accelerator": None
            if best is None or self.silicon is None
            else accelerator_dict(best.accelerator, self.silicon),
            "objective_value": None if best is None else best.figure,
            "iteration_time_s": None if best is None else best.figures[0].time_s,
            "bound": None if best is None else self.lower_bound,
            "optimality_gap": self.optimality_gap,
            "proven": self.proven,
            "solver_bound": None if best is None else self.solver_bound,
            "own_bound": None if best is None else self.own_bound,
            "listed_objective_value": None if best is None else self.listed_figure,
            "source": self.source,
            "solver_runs": [
                {"model": model, "status": status, "wall_time_s": took_s} for model, status, took_s in self.answers
            ],
            "space_size": self.space_size,
            "within_limits": self.within_limits,
            "ruled_out": self.ruled_out,
            "modelled": self.modelled,
            "infeasible": [reason.to_dict() for reason in self.infeasible],
            "finished": self.finished,
            "wall_time_s": self.wall_time_s,
        }


def mine_exactly(
    evaluator: Evaluator,
    space: DesignSpace,
    *,
    limits: Limits,
    objective: Objective = Objective.THROUGHPUT,
    time_limit_s: float = 60.0,
    workers: int = 1,
    most_modelled: int = MOST_MODELLED,
    use_bounds: bool = True,
    by_work: bool = False,
) -> ExactMiningResult:
    """The best design of a space together with its best uninterrupted schedule, by one model over both, and a proof.

    Every design within the limits is scheduled by the list scheduler and bounded, which is where the solver starts:
    designs whose bound is no better than the best of these schedules are ruled out, and the others go into one CP-SAT
    model with a literal each. Area, power and memory are kept by leaving out the designs that break them.

    Args:
        evaluator: the workload, small: a block of a model.
        space: where to look, small.
        limits: what a design may cost.
        objective: `throughput` or `throughput/tdp`.
        time_limit_s: for the solver [s].
        workers: threads of the solver; with several the answer may differ from run to run.
        most_modelled: designs in the model; the bounds of those left out still count.
        use_bounds: use bounds of `schedule.bounds` to rule out designs and in the model; without them the proof
            rests on CP-SAT alone.
        by_work: count `time_limit_s` in the solver's own measure of its work, about a second each, and not by the
            clock: with one worker the answer is the same on every machine, also where the limit ends it.

    Raises:
        SpecError: too many designs or operators, an objective that is not the makespan times a constant of the design,
            or no OR-tools.
    """
    started_s = time.perf_counter()
    _check(evaluator, space, objective, time_limit_s, workers, most_modelled)
    evaluator = evaluator.uninterrupted()
    designs = [_Design.of(evaluator, found, objective, use_bounds) for found in _within(space, evaluator, limits)]
    if not designs:
        return _none(space, evaluator, limits, objective, time.perf_counter() - started_s)
    quick = min(design.figure for design in designs)
    better = [design.thoroughly(evaluator) for design in designs if design.bound < quick or design.figure == quick]
    listed = min(design.figure for design in better)
    left = sorted((d for d in better if d.bound < listed or d.figure == listed), key=lambda d: (d.bound, d.figure))
    inside = left[:most_modelled]
    if all(design.figure > listed for design in inside):
        inside[-1] = next(design for design in left if design.figure == listed)
    outside = min((design.bound for design in left if design not in inside), default=float("inf"))
    choice = choose_exactly(
        [Variant(problem=d.step.problem, weight=d.weight, lower_bound_s=d.bound / d.weight) for d in inside],
        schedules=[design.step.schedule for design in inside],
        time_limit_s=time_limit_s,
        workers=workers,
        use_bounds=use_bounds,
        by_work=by_work,
    )
    best = inside[choice.variant]
    verify(best.step.problem, choice.schedule)
    return ExactMiningResult(
        objective=objective,
        limits=limits,
        best=_candidate(evaluator, best, choice.schedule, objective),
        silicon=best.silicon,
        problem=best.step.problem,
        schedule=choice.schedule,
        lower_bound=min(choice.lower_bound, outside),
        solver_bound=choice.solver_bound,
        own_bound=min(choice.figure, *(design.bound for design in designs)),
        listed_figure=listed,
        source=choice.source,
        answers=choice.answers,
        space_size=space.size,
        within_limits=len(designs),
        ruled_out=len(designs) - len(left),
        modelled=len(inside),
        infeasible=(),
        finished=choice.finished,
        wall_time_s=time.perf_counter() - started_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Design:
    """A design within the limits, scheduled and bounded; figures in the unit of the objective."""

    accelerator: Accelerator
    silicon: Silicon
    step: ScheduledStep
    weight: float
    figure: float
    bound: float

    @classmethod
    def of(
        cls, evaluator: Evaluator, found: tuple[Accelerator, Silicon], objective: Objective, use_bounds: bool
    ) -> _Design:
        accelerator, parts = found
        step = evaluator.step(accelerator)
        weight = parts.tdp_w if objective is Objective.THROUGHPUT_PER_TDP else 1.0
        bound_s = min(lower_bounds(step.problem).makespan_s, step.schedule.makespan_s) if use_bounds else 0.0
        return cls(
            accelerator=accelerator,
            silicon=parts,
            step=step,
            weight=weight,
            figure=weight * step.schedule.makespan_s,
            bound=weight * bound_s,
        )

    def thoroughly(self, evaluator: Evaluator) -> _Design:
        """With the schedule of the list scheduler's best effort, which is what is reported of a design."""
        step = evaluator.step(self.accelerator, segments=True, effort="thorough")
        return replace(self, step=step, figure=self.weight * step.schedule.makespan_s)


def _within(space: DesignSpace, evaluator: Evaluator, limits: Limits) -> list[tuple[Accelerator, Silicon]]:
    """Designs within the limits, with their silicon, in the order of the space."""
    found = []
    for position in range(space.size):
        accelerator = space.accelerator(space.indices(position))
        parts = silicon(accelerator, evaluator.technology)
        if limits.allow(area_mm2=parts.area_mm2, tdp_w=parts.tdp_w, hbm_bytes=accelerator.hbm_bytes):
            found.append((accelerator, parts))
    return found


def _candidate(evaluator: Evaluator, design: _Design, schedule: Schedule, objective: Objective) -> Candidate:
    """The record of the local search, with time and energy of the exact schedule."""
    step = ScheduledStep(costs=design.step.costs, problem=design.step.problem, schedule=schedule)
    constants = energy_constants(design.accelerator, evaluator.technology)
    figures = Figures(
        time_s=schedule.makespan_s,
        energy_j=sum(count * getattr(constants, event) for _, count, event in evaluator.event_counts(step)),
        area_mm2=design.silicon.area_mm2,
        tdp_w=design.silicon.tdp_w,
    )
    figure = objective.figure(time_s=figures.time_s, tdp_w=figures.tdp_w, energy_j=figures.energy_j)
    return Candidate(accelerator=design.accelerator, figure=figure, figures=(figures,), origin="exact")


def _none(
    space: DesignSpace, evaluator: Evaluator, limits: Limits, objective: Objective, wall_time_s: float
) -> ExactMiningResult:
    """The result where no design keeps the limits."""
    return ExactMiningResult(
        objective=objective,
        limits=limits,
        best=None,
        silicon=None,
        problem=None,
        schedule=None,
        lower_bound=float("inf"),
        solver_bound=float("inf"),
        own_bound=float("inf"),
        listed_figure=float("inf"),
        source="",
        answers=(),
        space_size=space.size,
        within_limits=0,
        ruled_out=0,
        modelled=0,
        infeasible=explain_infeasible(space, evaluator.technology, limits),
        finished=True,
        wall_time_s=wall_time_s,
    )


def _check(
    evaluator: Evaluator,
    space: DesignSpace,
    objective: Objective,
    time_limit_s: float,
    workers: int,
    most_modelled: int,
) -> None:
    faults = []
    if find_spec("ortools") is None:
        faults.append(Fault(where=WHERE, problem="OR-tools is not installed", allowed='pip install "worklode[exact]"'))
    if space.size > MOST_DESIGNS:
        faults.append(
            Fault(
                where=WHERE,
                path="space",
                value=f"{space.size} designs",
                problem="too many for one exact model",
                allowed=f"{MOST_DESIGNS} at most: fewer values per axis, or the local search",
            )
        )
    if len(evaluator.fused.operators) > MOST_OPERATORS:
        faults.append(
            Fault(
                where=WHERE,
                path="workload",
                value=f"{len(evaluator.fused.operators)} operators after fusion",
                problem="too many for one exact model",
                allowed=f"{MOST_OPERATORS} at most: one block of it (worklode.graph.subgraph.block_instance)",
            )
        )
    if objective not in OBJECTIVES:
        faults.append(
            Fault(
                where=WHERE,
                path="objective",
                value=objective.value,
                problem="is not the makespan times a constant of the design",
                allowed=", ".join(known.value for known in OBJECTIVES),
            )
        )
    positive = (("time_limit_s", time_limit_s), ("workers", workers), ("most_modelled", most_modelled))
    faults += [
        Fault(where=WHERE, path=path, value=f"{value:g}", problem="is not positive", allowed="> 0")
        for path, value in positive
        if not value > 0
    ]
    if faults:
        raise SpecError(*faults)
