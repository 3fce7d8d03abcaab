"""Exact schedules of small problems by constraint programming (OR-tools CP-SAT): the oracle of scheduler and bounds.

`exact_schedule` schedules one problem with rigid use of HBM. `choose_exactly` chooses among several problems (designs)
and encloses the optimum of the fluid problem between two proofs. Method: docs/models/exact.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.compiled import Ints
from worklode.schedule.exact_model import (
    Answer,
    Coupling,
    ExactModel,
    Variant,
)
from worklode.schedule.exact_placement import floored, options_of, place_in_order, schedule_of
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.options import option_table
from worklode.schedule.problem import Schedule, ScheduleProblem

# Ticks per figure of the best schedule known [count]: rounding costs at most one tick per task of a chain, 1e-4 of the
# figure for ten tasks. Finer grids make CP-SAT slower.
TICKS = 100_000
# The same where a variant is chosen too [count]: rounding down costs the bound at most a tick per task of a chain,
# 0.2 % of 20 tasks. Measured on a block of BERT: optimal in 0.2 s with 5 000 ticks, open after 6 s with 100 000.
CHOICE_TICKS = 10_000
# Gap [1] below which an optimum is called proven: what the rounding to ticks may leave for some dozens of tasks.
PROVEN_GAP = 1e-3
# Figures closer than this [1] differ by rounding, which lower bounds allow for.
EQUAL = 1e-9
# Shares of the time limit [1] at which the model of all variants ends, and the models of one variant: what is left over
# goes to better schedules. Choice: a bound is what only the solver can give, and one variant at a time is what closes
# gaps. Measured on drawn problems of 16 tasks, three variants without bounds of ours: 24 to 30 % open after 2 s
# together, each alone closed in 0.02 to 1.3 s (one of nine excepted).
JOINT_SHARE = 0.25
BOUND_SHARE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactResult:
    """Outcome of `exact_schedule`.

    Attributes:
        schedule: the best schedule found, valid for the problem as it is (every rate is 1).
        lower_bound_s: no schedule that never slows a task below its standalone rate is shorter [s].
        optimal: whether the solver closed the gap, up to the rounding of durations.
    """

    schedule: Schedule
    lower_bound_s: float
    optimal: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactChoice:
    """Outcome of `choose_exactly`: `lower_bound <= optimum <= figure`, the optimum over all variants and schedules.

    Attributes:
        variant: index of the best variant known.
        schedule: its schedule, with segments; valid in the fluid problem.
        figure: weight · makespan of it.
        lower_bound: no schedule of any variant has a lower figure: the least, over the variants, of the larger of what
            CP-SAT proved and the bound it carries.
        solver_bound: what CP-SAT proved of the relaxed models of the variants that their own bounds leave open.
        own_bound: the least of the bounds given with the variants.
        source: what found the schedule: `list` (the list scheduler), `malleable` (CP-SAT's placement as it is), or
            `relaxed, fluid` and `malleable, fluid` (the list scheduler with its choice of options, in its order).
        answers: (coupling, status of the solver, wall time [s]) of each run.
        finished: no run was ended by its limit; else the answer depends on the machine, unless `by_work`.
    """

    variant: int
    schedule: Schedule
    figure: float
    lower_bound: float
    solver_bound: float
    own_bound: float
    source: str
    answers: tuple[tuple[str, str, float], ...]
    finished: bool

    @property
    def gap(self) -> float:
        """How far the figure may be above the optimum [1]."""
        return self.figure / self.lower_bound - 1.0 if self.lower_bound > 0 else float(self.figure > 0)


def exact_schedule(
    problem: ScheduleProblem, *, time_limit_s: float = 10.0, ticks: int = TICKS, workers: int = 1
) -> ExactResult:
    """Schedule a small problem (some dozens of tasks) exactly.

    HBM is a cumulative resource with a fixed demand: tasks whose demands together exceed the bandwidth never overlap.
    That is a restriction of the fluid model, in which they would overlap and slow down, so a fluid schedule may be
    shorter than this optimum; without contention the two agree. Durations are rounded up to ticks.

    Raises:
        InternalError: the solver found no schedule in the time given, or some task fits no option.
    """
    n = len(problem.item_of)
    listed = schedule(problem)
    if n == 0 or listed.makespan_s <= 0:
        return ExactResult(schedule=schedule(problem, segments=True), lower_bound_s=0.0, optimal=True)
    variant = Variant(problem=problem)
    table = option_table(problem)
    tick_s = listed.makespan_s / ticks
    # Long enough for one task after another, which is always possible.
    serial = int(np.ceil(table.duration_s[table.fastest][problem.item_of] / tick_s).sum()) + n
    model = ExactModel([variant], Coupling.RIGID, tick=tick_s, most_ticks=serial, use_bounds=False)
    start = place_in_order(model.modes, [variant], 0, listed.option, listed.start_s)
    model.hint(start)
    answer = model.solve(time_limit_s=time_limit_s, workers=workers)
    if answer.placement is None:
        raise InternalError(f"CP-SAT found no schedule of {n} tasks in {time_limit_s} s: {answer.status}")
    return ExactResult(
        schedule=schedule_of(model.modes, [variant], answer.placement, tick_s),
        # A schedule with true durations becomes one with rounded ones by adding at most a tick per task of a chain.
        lower_bound_s=max(0.0, (answer.bound_ticks - n) * tick_s),
        optimal=answer.finished,
    )


def choose_exactly(
    variants: Sequence[Variant],
    *,
    schedules: Sequence[Schedule] | None = None,
    time_limit_s: float = 10.0,
    ticks: int = CHOICE_TICKS,
    workers: int = 1,
    use_bounds: bool = True,
    by_work: bool = False,
) -> ExactChoice:
    """Choose a variant and its schedule together, and prove how far from the best choice they can be.

    1. One relaxed model over all variants (HBM as cuts on traffic alone, durations rounded down): its bound is a bound,
       and its placement, run by the list scheduler, is a schedule.
    2. The same model of one variant at a time, the least bound first, until time or gap is used up: without the choice
       CP-SAT proves more in the same time. The least of their bounds is a bound too.
    3. A malleable model (constant rates per task, durations rounded up) of the variants that matter: its placements are
       schedules.

    Args:
        variants: problems with the same tasks and dependences.
        schedules: a schedule of each to start from, with segments; default those of the list scheduler.
        time_limit_s: for the solver, all models together.
        ticks: resolution of time.
        workers: threads of the solver. With several, the answer may differ from run to run.
        use_bounds: take the lower bounds that the variants carry for granted.
        by_work: count the time limit in the solver's own measure of its work (about a second each) and not by the
            clock; with one worker the answer is then the same on every machine, also where the limit ends it.

    Raises:
        InternalError: some task of some variant fits no option.
    """
    assert variants, "nothing to choose among"
    known = tuple(schedules) if schedules is not None else tuple(_listed(v.problem) for v in variants)
    proof = _Proof(
        variants,
        known,
        time_limit_s=time_limit_s,
        ticks=ticks,
        workers=workers,
        use_bounds=use_bounds,
        by_work=by_work,
    )
    if len(variants) > 1:
        proof.together(JOINT_SHARE * time_limit_s)
    proof.apart(BOUND_SHARE * time_limit_s)
    proof.look_for_schedules()
    return proof.outcome()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Incumbent:
    """The best known."""

    variant: int
    figure: float
    source: str
    schedule: Schedule


class _Proof:
    """What is known while `choose_exactly` runs: the best schedule, and a lower bound of every variant.

    Attributes:
        best: the best known.
        own: [V] bounds the variants carry, 0 where they are not to be used.
        solver: [V] what CP-SAT proved of each, in figures.
        placed: placements of relaxed models, (variant, options, starts [ticks]), the latest last.
        finished: no run was ended by its time limit.
        exhausted: the optimum of the relaxed model of all open variants is known: no relaxed model proves more.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        known: Sequence[Schedule],
        *,
        time_limit_s: float,
        ticks: int,
        workers: int,
        use_bounds: bool,
        by_work: bool,
    ) -> None:
        self.variants, self.known = tuple(variants), tuple(known)
        self.ticks, self.workers, self.use_bounds = ticks, workers, use_bounds
        self.started_s, self.time_limit_s = time.perf_counter(), time_limit_s
        self.by_work, self.work = by_work, 0.0
        figures = [v.weight * s.makespan_s for v, s in zip(variants, known, strict=True)]
        first = int(np.argmin(figures))
        self.best = _Incumbent(variant=first, figure=figures[first], source="list", schedule=known[first])
        self.own = np.array([v.weight * v.lower_bound_s for v in variants]) * float(use_bounds)
        self.solver = np.zeros(len(variants))
        self.placed: list[tuple[int, Ints, Ints]] = []
        self.answers: list[tuple[str, str, float]] = []
        self.finished = True
        self.exhausted = False

    @property
    def lower_bound(self) -> float:
        """The least bound of any variant."""
        return float(min(np.maximum(self.own, self.solver).min(), self.best.figure))

    def open(self) -> list[int]:
        """Variants that could be better than the best known, the least bound first."""
        bounds = np.maximum(self.own, self.solver)
        order = np.argsort(bounds, kind="stable")
        return [int(v) for v in order if bounds[v] < self.best.figure * (1 - EQUAL)]

    def closed(self) -> bool:
        """Whether nothing is left to prove."""
        return self.best.figure <= self.lower_bound * (1 + PROVEN_GAP)

    def left_s(self, until_s: float) -> float:
        """Time left [s] until so long after the start; by the solver's work where that is what counts."""
        return until_s - (self.work if self.by_work else time.perf_counter() - self.started_s)

    def together(self, until_s: float) -> None:
        """One relaxed model of all variants that are open."""
        if not self.closed():
            self.exhausted = self._relaxed(self.open(), self.left_s(until_s))

    def apart(self, until_s: float) -> None:
        """Relaxed models of one variant, the least bound first; what was not finished gets twice as long next time."""
        slices: dict[int, float] = {}
        done: set[int] = set()
        while not self.closed() and not self.exhausted and self.left_s(until_s) > 0:
            open_ = self.open()
            # Once the least bound is final, others could only raise what is not the least.
            if not open_ or open_[0] in done:
                return
            variant = open_[0]
            slices[variant] = 2 * slices.get(variant, self.left_s(until_s) / (2 * len(open_)))
            if self._relaxed([variant], min(slices[variant], self.left_s(until_s))):
                done.add(variant)

    def look_for_schedules(self) -> None:
        """A malleable model of the variant of the best schedule, and of the least bound."""
        if self.closed() or not self.open() or self.left_s(self.time_limit_s) <= 0:
            return
        numbers = sorted({self.best.variant, self.open()[0]})
        inside = [self.variants[number] for number in numbers]
        tick = self.best.figure / self.ticks
        model = ExactModel(inside, Coupling.MALLEABLE, tick=tick, most_ticks=self.ticks - 1, use_bounds=self.use_bounds)
        for number, option, start in self.placed[::-1]:
            if model.possible and number in numbers and numbers.index(number) in model.modes.variants:
                model.hint(place_in_order(model.modes, inside, numbers.index(number), option, start))
                break
        answer = self._timed(model, self.left_s(self.time_limit_s))
        if answer.placement is not None:
            number = numbers[answer.placement.variant]
            self._offer(number, schedule_of(model.modes, inside, answer.placement, tick), "malleable")
            start = np.array(answer.placement.start_ticks, np.int64)
            self._run_fluid(number, options_of(model.modes, answer.placement), start, "malleable, fluid")

    def outcome(self) -> ExactChoice:
        """What is known now."""
        inside = [v for v in range(len(self.variants)) if self.own[v] < self.best.figure * (1 - EQUAL)]
        return ExactChoice(
            variant=self.best.variant,
            schedule=self.best.schedule,
            figure=self.best.figure,
            lower_bound=self.lower_bound,
            solver_bound=float(min(self.solver[inside].min(initial=np.inf), self.best.figure)) if inside else 0.0,
            own_bound=float(min(self.own.min(), self.best.figure)),
            source=self.best.source,
            answers=tuple(self.answers),
            finished=self.finished,
        )

    def _relaxed(self, numbers: list[int], time_limit_s: float) -> bool:
        """Bound some variants with one relaxed model; whether the solver finished."""
        inside = [self.variants[number] for number in numbers]
        tick = self.best.figure / self.ticks
        model = ExactModel(inside, Coupling.RELAXED, tick=tick, most_ticks=self.ticks, use_bounds=self.use_bounds)
        if self.best.variant in numbers:
            start, known = numbers.index(self.best.variant), self.best.schedule
        else:
            start, known = 0, self.known[numbers[0]]
        if model.possible and start in model.modes.variants:
            model.hint(floored(model, start, known))
        answer = self._timed(model, time_limit_s)
        # None within `ticks`: then none is better than the best known.
        proven = min(answer.bound_ticks * tick, self.best.figure * (1 - EQUAL))
        self.solver[numbers] = np.maximum(self.solver[numbers], proven)
        if answer.placement is not None:
            number = numbers[answer.placement.variant]
            found = options_of(model.modes, answer.placement), np.array(answer.placement.start_ticks, np.int64)
            self.placed.append((number, *found))
            self._run_fluid(number, *found, "relaxed, fluid")
        return answer.finished

    def _timed(self, model: ExactModel, time_limit_s: float) -> Answer:
        started_s = time.perf_counter()
        answer = model.solve(time_limit_s=time_limit_s, workers=self.workers, by_work=self.by_work)
        self.work += answer.work
        self.answers.append((model.coupling.value, answer.status, time.perf_counter() - started_s))
        self.finished = self.finished and answer.finished
        return answer

    def _run_fluid(self, number: int, option: Ints, start: Ints, source: str) -> None:
        """The list scheduler on the options of a placement, in its order: HBM is shared as the fluid problem has it."""
        fixed = with_options(self.variants[number].problem, option)
        in_order = schedule(fixed, priorities=-start.astype(np.float64), segments=True)
        found = min(in_order, _listed(fixed), key=lambda tried: tried.makespan_s)
        self._offer(number, replace(found, option=option), source)

    def _offer(self, number: int, found: Schedule, source: str) -> None:
        figure = self.variants[number].weight * found.makespan_s
        if figure < self.best.figure:
            self.best = _Incumbent(variant=number, figure=figure, source=source, schedule=found)


def _listed(problem: ScheduleProblem) -> Schedule:
    """The best the list scheduler does, with segments."""
    return schedule(problem, segments=True, effort="thorough")


def with_options(problem: ScheduleProblem, option: Ints) -> ScheduleProblem:
    """The problem in which every task has one option left; task t has option t."""
    n = len(option)
    return replace(
        problem,
        item_of=np.arange(n),
        option_start=np.arange(n + 1),
        tensor_cores=problem.tensor_cores[option],
        vector_cores=problem.vector_cores[option],
        compute_s=problem.compute_s[option],
        hbm_bytes=problem.hbm_bytes[option],
    )
