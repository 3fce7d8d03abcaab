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
from worklode.schedule.critical_path import topological_order
from worklode.schedule.exact_model import (
    BANDWIDTH_PARTS,
    Answer,
    Coupling,
    ExactModel,
    Mode,
    Modes,
    Placement,
    Variant,
    dominates,
    mode_of_option,
)
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
# Share of the time limit for the lower bound [1]; what is left over goes to better schedules. Choice: a bound is what
# only the solver can give, good schedules come from the list scheduler too.
BOUND_SHARE = 0.7


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
        lower_bound: no schedule of any variant has a lower figure: the larger of the next two.
        solver_bound: what CP-SAT proved of the relaxed model.
        own_bound: the least of the bounds given with the variants.
        source: what found the schedule: `list` (the list scheduler), `relaxed`, `malleable` (CP-SAT's placement),
            either with `, fluid` where the list scheduler ran its choice of options in its order.
        answers: (coupling, status of the solver, wall time [s]) of each run.
        finished: the solver ended by itself, not by the time limit.
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
) -> ExactChoice:
    """Choose a variant and its schedule together, and prove how far from the best choice they can be.

    Two models are solved. The relaxed one (HBM as cuts on traffic alone, durations rounded down) gives the lower bound;
    its placement, run by the list scheduler, is a schedule. The malleable one (constant rates per task, durations
    rounded up) gives schedules, and is solved where the gap is still open.

    Args:
        variants: problems with the same tasks and dependences.
        schedules: a schedule of each to start from, with segments; default those of the list scheduler.
        time_limit_s: for the solver, both models together.
        ticks: resolution of time.
        workers: threads of the solver. With several, the answer may differ from run to run.
        use_bounds: take the lower bounds that the variants carry for granted.

    Raises:
        InternalError: some task of some variant fits no option.
    """
    assert variants, "nothing to choose among"
    known = tuple(schedules) if schedules is not None else tuple(_listed(v.problem) for v in variants)
    figures = np.array([v.weight * s.makespan_s for v, s in zip(variants, known, strict=True)])
    bounds = np.array([v.weight * v.lower_bound_s for v in variants]) * float(use_bounds)
    first = int(figures.argmin())
    best = _Incumbent(
        variant=first, figure=float(figures[first]), source="list", option=known[first].option, schedule=known[first]
    )
    own = float(bounds.min())
    if best.figure <= 0:
        return _outcome(best, 0.0, 0.0, (), finished=True)
    # What cannot be better than the best known is not in the models.
    open_ = np.flatnonzero(bounds < best.figure * (1 - EQUAL))
    if len(open_) == 0:
        return _outcome(best, 0.0, min(own, best.figure), (), finished=True)
    inside = [variants[int(number)] for number in open_]
    tick = best.figure / ticks
    relaxed = ExactModel(inside, Coupling.RELAXED, tick=tick, most_ticks=ticks, use_bounds=use_bounds)
    if first in open_:
        relaxed.hint(_floored(relaxed, int(np.searchsorted(open_, first)), known[first]))
    answer, took_s = _timed(relaxed, BOUND_SHARE * time_limit_s, workers)
    # None within `ticks`: then nothing is better than the best known.
    proven = min(answer.bound_ticks * tick, best.figure * (1 - EQUAL))
    answers = [(Coupling.RELAXED.value, answer.status, took_s)]
    finished = answer.finished
    lower = max(proven, min(own, best.figure))
    if answer.placement is not None:
        best = _better(best, _fluid(inside, open_, relaxed.modes, answer.placement, "relaxed"))
        if best.figure > lower * (1 + PROVEN_GAP) and time_limit_s > took_s:
            best, found, seconds = _malleable(
                inside, open_, best, (relaxed.modes, answer.placement), time_limit_s - took_s, ticks, workers
            )
            answers.append((Coupling.MALLEABLE.value, found.status, seconds))
            finished = finished and found.finished
    return _outcome(best, proven, min(own, best.figure), tuple(answers), finished=finished)


def _listed(problem: ScheduleProblem) -> Schedule:
    """The best the list scheduler does, with segments."""
    return schedule(problem, segments=True, effort="thorough")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Incumbent:
    """The best known."""

    variant: int
    figure: float
    source: str
    option: np.ndarray[tuple[int], np.dtype[np.int64]]
    schedule: Schedule


def _better(one: _Incumbent, other: _Incumbent) -> _Incumbent:
    return other if other.figure < one.figure else one


def _timed(model: ExactModel, time_limit_s: float, workers: int) -> tuple[Answer, float]:
    started_s = time.perf_counter()
    answer = model.solve(time_limit_s=time_limit_s, workers=workers)
    return answer, time.perf_counter() - started_s


def _malleable(
    variants: Sequence[Variant],
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]],
    best: _Incumbent,
    start: tuple[Modes, Placement],
    time_limit_s: float,
    ticks: int,
    workers: int,
) -> tuple[_Incumbent, Answer, float]:
    """Look for a schedule better than the best known among those that run every task at a constant rate."""
    tick = best.figure / ticks
    model = ExactModel(variants, Coupling.MALLEABLE, tick=tick, most_ticks=ticks - 1, use_bounds=True)
    modes, placement = start
    chosen = _options(modes, placement)
    if model.possible and placement.variant in model.modes.variants:
        hint = place_in_order(model.modes, variants, placement.variant, chosen, np.array(placement.start_ticks))
        model.hint(hint)
    answer, took_s = _timed(model, time_limit_s, workers)
    if answer.placement is not None:
        found = schedule_of(model.modes, variants, answer.placement, tick)
        variant = answer.placement.variant
        rigid = _Incumbent(
            variant=int(numbers[variant]),
            figure=variants[variant].weight * found.makespan_s,
            source="malleable",
            option=found.option,
            schedule=found,
        )
        fluid = _fluid(variants, numbers, model.modes, answer.placement, "malleable")
        best = _better(_better(best, rigid), fluid)
    return best, answer, took_s


def _outcome(
    best: _Incumbent,
    solver_bound: float,
    own_bound: float,
    answers: tuple[tuple[str, str, float], ...],
    *,
    finished: bool,
) -> ExactChoice:
    return ExactChoice(
        variant=best.variant,
        schedule=best.schedule,
        figure=best.figure,
        lower_bound=max(solver_bound, own_bound),
        solver_bound=solver_bound,
        own_bound=own_bound,
        source=best.source,
        answers=answers,
        finished=finished,
    )


def _options(modes: Modes, placement: Placement) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(
        [modes.offers[task][mode][placement.variant].option for task, mode in enumerate(placement.modes)], np.int64
    )


def _fluid(
    variants: Sequence[Variant],
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]],
    modes: Modes,
    placement: Placement,
    source: str,
) -> _Incumbent:
    """The list scheduler on the options of a placement, in its order: HBM is shared as the fluid problem has it."""
    variant = variants[placement.variant]
    option = _options(modes, placement)
    fixed = with_options(variant.problem, option)
    in_order = schedule(fixed, priorities=-np.array(placement.start_ticks, np.float64), segments=True)
    found = replace(min(in_order, _listed(fixed), key=lambda tried: tried.makespan_s), option=option)
    return _Incumbent(
        variant=int(numbers[placement.variant]),
        figure=variant.weight * found.makespan_s,
        source=f"{source}, fluid",
        option=option,
        schedule=found,
    )


def with_options(problem: ScheduleProblem, option: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ScheduleProblem:
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


def _floored(model: ExactModel, variant: int, found: Schedule) -> Placement:
    """A schedule in the ticks of a relaxed model: starts rounded down keep every constraint of it."""
    weight = model.variants[variant].weight
    modes = []
    for task, option in enumerate(found.option):
        whole = mode_of_option(model.variants[variant], int(option), model.coupling, model.tick)
        offered = [mode for mode, offering in model.modes.offers[task].items() if variant in offering]
        # What is not in the model needs no less of anything than a mode that is.
        modes.append(whole if whole in offered else next((m for m in offered if dominates(m, whole)), offered[0]))
    starts = tuple(int(start * weight / model.tick) for start in found.start_s)
    return Placement(variant=variant, modes=tuple(modes), start_ticks=starts)


def place_in_order(
    modes: Modes,
    variants: Sequence[Variant],
    variant: int,
    option: np.ndarray[tuple[int], np.dtype[np.int64]],
    start: np.ndarray[tuple[int], np.dtype[np.float64]] | np.ndarray[tuple[int], np.dtype[np.int64]],
) -> Placement:
    """Every task at its earliest moment, in the order of starts, on its option where that is a mode: a valid placement.

    Serial schedule generation (Kolisch 1996): tasks are placed one by one where all resources have room throughout.
    """
    problem = variants[variant].problem
    capacity = (problem.num_tensor_cores, problem.num_vector_cores, BANDWIDTH_PARTS)
    order = topological_order(problem)
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    chosen = [_mode_of(modes, task, variant, int(number)) for task, number in enumerate(option)]
    begin, end = [0] * len(chosen), [0] * len(chosen)
    placed: list[int] = []
    for task in np.lexsort((position, start)):
        mode = chosen[task]
        before = problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]
        earliest = max((end[p] for p in before), default=0)
        moments = sorted({earliest, *(end[other] for other in placed if end[other] > earliest)})
        begin[task] = next(
            moment
            for moment in moments
            if _fits(moment, mode, [(begin[o], end[o], chosen[o]) for o in placed], capacity)
        )
        end[task] = begin[task] + mode.ticks
        placed.append(int(task))
    return Placement(variant=variant, modes=tuple(chosen), start_ticks=tuple(begin))


def _mode_of(modes: Modes, task: int, variant: int, option: int) -> Mode:
    """The mode of an option at the full rate; where it was left out, the shortest there is."""
    offered = {mode: offers[variant] for mode, offers in modes.offers[task].items() if variant in offers}
    same = [mode for mode, offer in offered.items() if offer.option == option and offer.rate == 1.0]
    return same[0] if same else min(offered, key=lambda mode: mode.ticks)


def _fits(moment: int, mode: Mode, running: list[tuple[int, int, Mode]], capacity: tuple[int, int, int]) -> bool:
    """Whether a mode fits beside others throughout: use only rises where something starts."""
    until = moment + mode.ticks
    overlapping = [(begin, end, other) for begin, end, other in running if begin < until and end > moment]
    for at in {moment, *(begin for begin, _, _ in overlapping if begin > moment)}:
        beside = [other for begin, end, other in overlapping if begin <= at < end]
        used = (
            mode.tensor_cores + sum(other.tensor_cores for other in beside),
            mode.vector_cores + sum(other.vector_cores for other in beside),
            mode.bandwidth + sum(other.bandwidth for other in beside),
        )
        if any(amount > most for amount, most in zip(used, capacity, strict=True)):
            return False
    return True


def schedule_of(modes: Modes, variants: Sequence[Variant], placement: Placement, tick: float) -> Schedule:
    """A placement of a rigid or malleable model as a schedule of its variant's problem, with segments."""
    variant = variants[placement.variant]
    tick_s = tick / variant.weight
    offers = [modes.offers[task][mode][placement.variant] for task, mode in enumerate(placement.modes)]
    option = np.array([offer.option for offer in offers], np.int64)
    rate = np.array([offer.rate for offer in offers])
    start_s = np.array(placement.start_ticks) * tick_s
    last_s = np.array([s + m.ticks for s, m in zip(placement.start_ticks, placement.modes, strict=True)]) * tick_s
    # Not past its last tick, which rounding of the sum could be.
    end_s = np.minimum(start_s + option_table(variant.problem).duration_s[option] / rate, last_s)
    moving = np.flatnonzero(end_s > start_s)
    return Schedule(
        start_s=start_s,
        end_s=end_s,
        option=option,
        segment_task=moving,
        segment_start_s=start_s[moving],
        segment_end_s=end_s[moving],
        segment_rate=rate[moving],
    )
