"""The constraint model of exact schedules: one of several problems is chosen, and every task placed. For CP-SAT.

Time is counted in ticks of the figure that is minimised: `figure = weight · seconds`, with one weight per variant, so
that makespans of different variants compare and a product of time and power needs no product in the model. What the
couplings leave out or restrict, and why lower and upper bounds follow, is in docs/models/exact.md.

OR-tools is imported on use; it is not among the package's requirements. Never load highspy into the same process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from worklode.schedule.compiled import Ints
from worklode.schedule.critical_path import topological_order
from worklode.schedule.options import OptionTable, option_table
from worklode.schedule.problem import ScheduleProblem

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar

# Parts the HBM bandwidth is counted in [count].
BANDWIDTH_PARTS = 1_000_000
# Rates at which the malleable coupling may run a task [1], and the share of the bandwidth [1] below which a task is
# never slowed. Choice: two tasks that both want everything share at a half each; more levels make CP-SAT slower.
RATES = (1.0, 0.75, 0.5)
SLOWED_SHARE = 0.25
# Deterministic time [CP-SAT's unit, about a second] for probing before the search. Measured on a block of Inception-v3
# with ten designs: probing without a limit took 5 s of the first 7 s and fixed 59 bounds of 9000.
PROBING = 0.1
# What rounding may add to a number of ticks [1].
ROUNDING = 1e-12


class Coupling(StrEnum):
    """How tasks share HBM in the model.

    RELAXED: not at all while they run, but no set between a fork and a join moves its bytes faster than all bandwidth;
    durations rounded down. A relaxation of the fluid problem: its bound is a bound.
    RIGID: everyone gets what it asks for or does not start; durations rounded up. Its schedules are schedules.
    MALLEABLE: as rigid, but a task may run at a lower rate of `RATES` from start to end.
    """

    RELAXED = "relaxed"
    RIGID = "rigid"
    MALLEABLE = "malleable"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """One of the problems to choose among; all have the same tasks and dependences.

    Attributes:
        problem: tasks, options, capacities.
        weight: figure of a second of its makespan [figure/s], positive.
        lower_bound_s: known lower bound of its makespan [s], 0 where none is to be used.
    """

    problem: ScheduleProblem
    weight: float = 1.0
    lower_bound_s: float = 0.0


@dataclass(frozen=True, slots=True, order=True)
class Mode:
    """One way to run a task, the same for every variant that offers it: cores, ticks, share of bandwidth, traffic.

    `traffic_ticks` is the time the traffic takes on all bandwidth, rounded down.
    """

    tensor_cores: int
    vector_cores: int
    ticks: int
    bandwidth: int
    traffic_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A variant offers a mode by an option at a rate."""

    option: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Modes:
    """Modes of every task, V variants.

    Attributes:
        offers: per task, for every mode, the variants that offer it and how.
        variants: those that are left, ascending: the others have a task that fits no mode.
    """

    offers: tuple[dict[Mode, dict[int, Offer]], ...]
    variants: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """A solution: the variant, and for every task its mode and its start [ticks]."""

    variant: int
    modes: tuple[Mode, ...]
    start_ticks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the solver says.

    Attributes:
        placement: the best found, None where none was.
        bound_ticks: no placement takes less; `most_ticks` + 1 where it proved that there is none within `most_ticks`.
        finished: optimal, or none exists.
        status: the solver's word.
        work: the solver's own count of what it did, about a second each; the same on every machine with one worker.
    """

    placement: Placement | None
    bound_ticks: int
    finished: bool
    status: str
    work: float = 0.0


def modes_of(variants: Sequence[Variant], coupling: Coupling, tick: float, most_ticks: int) -> Modes:
    """Modes of all tasks, without those that cannot end by `most_ticks` even alone, and variants left with none.

    Args:
        variants: what to choose among.
        coupling: how HBM is shared.
        tick: figure of a tick.
        most_ticks: longest schedule that is of interest.
    """
    tables = [option_table(variant.problem) for variant in variants]
    left = []
    offers: tuple[dict[Mode, dict[int, Offer]], ...] = tuple({} for _ in variants[0].problem.item_of)
    for number, (variant, table) in enumerate(zip(variants, tables, strict=True)):
        per_item = [_modes_of_item(variant, table, item, coupling, tick) for item in range(len(table.fastest))]
        shortest = np.array([min(mode.ticks for mode in modes) for modes in per_item], np.int64)
        item_of = variant.problem.item_of
        through = _ticks_through(variant.problem, shortest[item_of])
        room = most_ticks - through + shortest[item_of]
        if len(room) and (room < shortest[item_of]).any():
            continue
        left.append(number)
        for task, item in enumerate(item_of):
            for mode, offer in per_item[item].items():
                if mode.ticks <= room[task]:
                    offers[task].setdefault(mode, {})[number] = offer
    return Modes(offers=offers, variants=tuple(left))


def _modes_of_item(
    variant: Variant, table: OptionTable, item: int, coupling: Coupling, tick: float
) -> dict[Mode, Offer]:
    problem = variant.problem
    found: dict[Mode, Offer] = {}
    for number in range(problem.option_start[item], problem.option_start[item + 1]):
        if not np.isfinite(table.duration_s[number]):
            continue
        slowed = coupling is Coupling.MALLEABLE and _share(problem, number) >= SLOWED_SHARE
        for rate in RATES if slowed else (1.0,):
            mode = mode_of_option(variant, number, coupling, tick, rate)
            found.setdefault(mode, Offer(option=number, rate=rate))
    if coupling is not Coupling.RELAXED:
        return found
    # What needs no less of anything is never better, in the fluid problem too: the other may run as slowly.
    return {mode: offer for mode, offer in found.items() if not any(dominates(other, mode) for other in found)}


def mode_of_option(variant: Variant, option: int, coupling: Coupling, tick: float, rate: float = 1.0) -> Mode:
    """An option, run at a rate, in the ticks of a coupling."""
    problem = variant.problem
    moving_s = float(problem.hbm_bytes[option]) / problem.hbm_bytes_per_s
    duration_s = max(float(problem.compute_s[option]), moving_s)
    exact = duration_s / rate * variant.weight / tick * (1 - ROUNDING)
    relaxed = coupling is Coupling.RELAXED
    asked = _share(problem, option) * rate * BANDWIDTH_PARTS
    return Mode(
        int(problem.tensor_cores[option]),
        int(problem.vector_cores[option]),
        math.floor(exact) if relaxed else math.ceil(exact),
        0 if relaxed else min(math.ceil(asked * (1 - 1e-9)), BANDWIDTH_PARTS),
        math.floor(moving_s * variant.weight / tick * (1 - ROUNDING)) if relaxed else 0,
    )


def _share(problem: ScheduleProblem, option: int) -> float:
    """Share of the bandwidth that an option asks for [1]."""
    moving_s = float(problem.hbm_bytes[option]) / problem.hbm_bytes_per_s
    duration_s = max(float(problem.compute_s[option]), moving_s)
    return moving_s / duration_s if duration_s > 0 else 0.0


def dominates(one: Mode, other: Mode) -> bool:
    """Whether a mode needs no more of anything than another, different one."""
    return one != other and (
        one.tensor_cores <= other.tensor_cores
        and one.vector_cores <= other.vector_cores
        and one.ticks <= other.ticks
        and one.traffic_ticks <= other.traffic_ticks
    )


def _ticks_through(problem: ScheduleProblem, ticks: Ints) -> Ints:
    """[N] length of the longest path through each task [ticks]."""
    order = topological_order(problem)
    head, tail = np.zeros(len(ticks), np.int64), np.zeros(len(ticks), np.int64)
    for task in order:
        before = problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]
        head[task] = max((head[p] + ticks[p] for p in before), default=0)
    for task in order[::-1]:
        behind = problem.successor[problem.successor_start[task] : problem.successor_start[task + 1]]
        tail[task] = max((tail[s] + ticks[s] for s in behind), default=0)
    return head + ticks + tail


class ExactModel:
    """The CP-SAT model of one choice. Build, hint, solve."""

    def __init__(
        self, variants: Sequence[Variant], coupling: Coupling, *, tick: float, most_ticks: int, use_bounds: bool
    ) -> None:
        from ortools.sat.python import cp_model

        self.variants = tuple(variants)
        self.coupling = coupling
        self.tick = tick
        self.most_ticks = most_ticks
        self.use_bounds = use_bounds
        self.modes = modes_of(self.variants, coupling, tick, most_ticks)
        self.possible = bool(self.modes.variants)
        self.model: CpModel = cp_model.CpModel()
        self.problem = variants[0].problem
        self.closed_sets = closed_sets(self.problem)
        if not self.possible:
            return
        self.chosen = {number: self.model.new_bool_var("") for number in self.modes.variants}
        self.model.add_exactly_one(self.chosen.values())
        self.makespan = self.model.new_int_var(0, most_ticks, "")
        self.intervals: list[tuple[Mode, Any]] = []
        self.levels: list[tuple[IntVar, dict[int, int]]] = []
        self.amounts: list[dict[str, IntVar]] = []
        self.starts: list[IntVar] = []
        self.ends: list[Any] = []
        self.picks: list[dict[Mode, IntVar]] = []
        for offers in self.modes.offers:
            self._place_task(offers)
        self._order_tasks()
        self._share_cores()
        if coupling is Coupling.RELAXED:
            self._bound_work("traffic_ticks", dict.fromkeys(self.modes.variants, 1))
        else:
            self._share_bandwidth()
        if use_bounds:
            self._keep_known_bounds()
        self.model.minimize(self.makespan)

    # -- constraints ----------------------------------------------------------------------------------------------

    def _place_task(self, offers: dict[Mode, dict[int, Offer]]) -> None:
        """A start and exactly one mode for a task: one that the variant offers."""
        start = self.model.new_int_var(0, self.most_ticks, "")
        picks = {mode: self.model.new_bool_var("") for mode in sorted(offers)}
        self.model.add_exactly_one(picks.values())
        for mode, pick in picks.items():
            interval = self.model.new_optional_fixed_size_interval_var(start, mode.ticks, pick, "")
            self.intervals.append((mode, interval))
        for number, literal in self.chosen.items():
            able = [picks[mode] for mode, offering in offers.items() if number in offering]
            if len(able) < len(picks):
                self.model.add_bool_or(able).only_enforce_if(literal)
                self.model.add(sum(able) >= literal)
        for mode, pick in picks.items():
            if len(offers[mode]) < len(self.chosen):
                self.model.add(sum(self.chosen[number] for number in offers[mode]) >= pick)
        self.amounts.append({})
        self.starts.append(start)
        self.picks.append(picks)
        self.ends.append(start + self._amount(len(self.starts) - 1, "ticks"))

    def _amount(self, task: int, name: str) -> IntVar:
        """What the mode of a task has of something, as a variable: sums over it stay short."""
        known = self.amounts[task]
        if name not in known:
            of_mode = {mode: amount_of(mode, name) for mode in self.picks[task]}
            known[name] = self.model.new_int_var(min(of_mode.values()), max(of_mode.values()), "")
            self.model.add(known[name] == sum(of_mode[mode] * pick for mode, pick in self.picks[task].items()))
        return known[name]

    def _order_tasks(self) -> None:
        problem = self.problem
        for task, start in enumerate(self.starts):
            for edge in range(problem.predecessor_start[task], problem.predecessor_start[task + 1]):
                self.model.add(start >= self.ends[problem.predecessor[edge]])
            if problem.successor_start[task] == problem.successor_start[task + 1]:
                self.model.add(self.makespan >= self.ends[task])

    def _share_cores(self) -> None:
        """Cores of both types as cumulative resources whose capacities follow the variant."""
        for cores, of_problem in (("tensor_cores", "num_tensor_cores"), ("vector_cores", "num_vector_cores")):
            used = [(interval, getattr(mode, cores)) for mode, interval in self.intervals if getattr(mode, cores) > 0]
            if not used:
                continue
            capacities = {n: int(getattr(self.variants[n].problem, of_problem)) for n in self.chosen}
            level = self.model.new_int_var(min(capacities.values()), max(capacities.values()), "")
            self.model.add(level == sum(capacities[number] * literal for number, literal in self.chosen.items()))
            self.levels.append((level, capacities))
            self.model.add_cumulative([interval for interval, _ in used], [demand for _, demand in used], level)
            self._bound_work(cores, capacities)

    def _bound_work(self, amount: str, capacities: dict[int, int]) -> None:
        """What a resource has to do takes its time on all of it: everything, and all that lies between two tasks.

        Of cores it is implied by their cumulative constraint, and there for the solver's linear relaxation. Everything
        is held against the capacity of the variant, parts against the largest there is.
        """
        if not any(amount_of(mode, amount) for picks in self.picks for mode in picks):
            return
        work = sum(self._amount(task, amount) for task in range(len(self.picks)))
        largest = max(capacities.values())
        self.model.add(largest * self.makespan >= work)
        for number, count in capacities.items():
            if count < largest:
                self.model.add(count * self.makespan >= work).only_enforce_if(self.chosen[number])
        for first, last, between in self.closed_sets:
            until = self.makespan if last < 0 else self.starts[last]
            after = 0 if first < 0 else self.ends[first]
            self.model.add(largest * (until - after) >= sum(self._amount(task, amount) for task in between))

    def _share_bandwidth(self) -> None:
        used = [(interval, mode.bandwidth) for mode, interval in self.intervals if mode.bandwidth > 0]
        if used:
            self.model.add_cumulative(
                [interval for interval, _ in used], [demand for _, demand in used], BANDWIDTH_PARTS
            )

    def _keep_known_bounds(self) -> None:
        """Lower bounds known for each variant, as one cut: linear, since exactly one is chosen."""
        bounds = {
            number: math.floor(self.variants[number].lower_bound_s * self.variants[number].weight / self.tick)
            for number in self.modes.variants
        }
        for number in [number for number, bound in bounds.items() if bound > self.most_ticks]:
            self.model.add(self.chosen[number] == 0)
        self.model.add(
            self.makespan >= sum(min(bounds[n], self.most_ticks + 1) * literal for n, literal in self.chosen.items())
        )

    # -- hint and solution ----------------------------------------------------------------------------------------

    def hint(self, placement: Placement) -> None:
        """Start from a placement; modes that are not in the model are left to the solver."""
        if not self.possible or placement.variant not in self.chosen:
            return
        end = self.least_makespan(placement)
        for number, literal in self.chosen.items():
            self.model.add_hint(literal, number == placement.variant)
        for level, capacities in self.levels:
            self.model.add_hint(level, capacities[placement.variant])
        for task, (mode, start) in enumerate(zip(placement.modes, placement.start_ticks, strict=True)):
            self.model.add_hint(self.starts[task], min(start, self.most_ticks))
            if mode in self.picks[task]:
                for other, pick in self.picks[task].items():
                    self.model.add_hint(pick, other == mode)
                for name, amount in self.amounts[task].items():
                    self.model.add_hint(amount, amount_of(mode, name))
        self.model.add_hint(self.makespan, min(end, self.most_ticks))

    def least_makespan(self, placement: Placement) -> int:
        """The least makespan with which a placement keeps the cuts too [ticks]."""
        variant = self.variants[placement.variant]
        ends = [start + mode.ticks for mode, start in zip(placement.modes, placement.start_ticks, strict=True)]
        found = [max(ends), sum(mode.traffic_ticks for mode in placement.modes)]
        for first, last, between in self.closed_sets:
            if last < 0:
                found.append(ends[first] + sum(placement.modes[task].traffic_ticks for task in between))
        if self.use_bounds:
            found.append(math.floor(variant.lower_bound_s * variant.weight / self.tick))
        return max(found)

    def solve(self, *, time_limit_s: float, workers: int, by_work: bool = False) -> Answer:
        """Run CP-SAT; with one worker and enough time the answer is the same on every machine.

        `by_work` limits `Answer.work` instead of the time: then it is the same without enough of it, too.
        """
        from ortools.sat.python import cp_model

        if not self.possible:
            return Answer(placement=None, bound_ticks=self.most_ticks + 1, finished=True, status="INFEASIBLE")
        solver = cp_model.CpSolver()
        limit = max(time_limit_s, 0.01)
        if by_work:
            solver.parameters.max_deterministic_time = limit
        else:
            solver.parameters.max_time_in_seconds = limit
        solver.parameters.num_workers = workers
        solver.parameters.random_seed = 0
        solver.parameters.linearization_level = 2
        solver.parameters.presolve_probing_deterministic_time_limit = PROBING
        status = solver.solve(self.model)
        word, work = solver.status_name(status), solver.deterministic_time
        if status == cp_model.INFEASIBLE:
            return Answer(placement=None, bound_ticks=self.most_ticks + 1, finished=True, status=word, work=work)
        bound = max(0, math.ceil(solver.best_objective_bound - 1e-6))
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Answer(placement=None, bound_ticks=bound, finished=False, status=word, work=work)
        placement = Placement(
            variant=next(number for number, literal in self.chosen.items() if solver.value(literal)),
            modes=tuple(next(m for m, pick in picks.items() if solver.value(pick)) for picks in self.picks),
            start_ticks=tuple(solver.value(start) for start in self.starts),
        )
        finished = status == cp_model.OPTIMAL
        return Answer(placement=placement, bound_ticks=bound, finished=finished, status=word, work=work)


def amount_of(mode: Mode, name: str) -> int:
    """`ticks`, `traffic_ticks`, or cores of a type times the ticks a mode holds them."""
    found = int(getattr(mode, name))
    return found * mode.ticks if name.endswith("_cores") else found


def closed_sets(problem: ScheduleProblem) -> list[tuple[int, int, tuple[int, ...]]]:
    """(first, last, tasks between): all tasks on paths from a fork to a join; -1 for before or behind everything.

    Only ends that make a difference: a fork has several successors, a join several predecessors.
    """
    n = len(problem.item_of)
    descendants: list[set[int]] = [set() for _ in range(n)]
    ancestors: list[set[int]] = [set() for _ in range(n)]
    order = topological_order(problem)
    for task in order:
        for p in problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]:
            ancestors[task] |= ancestors[p] | {int(p)}
    for task in order[::-1]:
        for s in problem.successor[problem.successor_start[task] : problem.successor_start[task + 1]]:
            descendants[task] |= descendants[s] | {int(s)}
    forks = [task for task in range(n) if problem.successor_start[task + 1] - problem.successor_start[task] > 1]
    joins = [task for task in range(n) if problem.predecessor_start[task + 1] - problem.predecessor_start[task] > 1]
    found = [(-1, join, tuple(sorted(ancestors[join]))) for join in joins]
    found += [(fork, -1, tuple(sorted(descendants[fork]))) for fork in forks]
    found += [
        (fork, join, tuple(sorted(descendants[fork] & ancestors[join])))
        for fork in forks
        for join in joins
        if join in descendants[fork]
    ]
    return [(first, last, between) for first, last, between in found if len(between) > 1]
