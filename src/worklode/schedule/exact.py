"""Exact schedules of small problems by constraint programming (OR-tools CP-SAT): the oracle of the list scheduler.

OR-tools is imported on use; it is not among the package's requirements. Never load highspy into the same process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.critical_path import topological_order
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.options import OptionTable, option_table
from worklode.schedule.problem import Schedule, ScheduleProblem

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar

# Ticks per makespan of the list schedule [count]: rounding durations up costs at most one tick per task of a chain,
# 1e-4 of the makespan for ten tasks. Finer grids make CP-SAT slower.
TICKS = 100_000
# Parts the HBM bandwidth is counted in [count].
BANDWIDTH_PARTS = 1_000_000


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


def exact_schedule(problem: ScheduleProblem, *, time_limit_s: float = 10.0, ticks: int = TICKS) -> ExactResult:
    """Schedule a small problem (some dozens of tasks) exactly.

    HBM is a cumulative resource with a fixed demand: tasks whose demands together exceed the bandwidth never overlap.
    That is a restriction of the fluid model, in which they would overlap and slow down, so a fluid schedule may be
    shorter than this optimum; without contention the two agree. Durations are rounded up to ticks.

    Raises:
        InternalError: the solver found no schedule in the time given, or some task fits no option.
    """
    from ortools.sat.python import cp_model

    n = len(problem.item_of)
    table = option_table(problem)
    upper_s = schedule(problem).makespan_s
    serial_s = float(table.duration_s[table.fastest][problem.item_of].sum())
    tick_s = upper_s / ticks if upper_s > 0 else 1.0
    horizon = int(np.ceil(serial_s / tick_s)) + n + 1
    model = cp_model.CpModel()
    ticks_of = [int(np.ceil(d / tick_s * (1 - 1e-12))) if np.isfinite(d) else 0 for d in table.duration_s]
    ends, starts, chosen, intervals, demands = [], [], [], [], []
    for task in range(n):
        start, end = model.new_int_var(0, horizon, ""), model.new_int_var(0, horizon, "")
        picks = {}
        item = problem.item_of[task]
        for number in range(problem.option_start[item], problem.option_start[item + 1]):
            duration_s = table.duration_s[number]
            if not np.isfinite(duration_s):
                continue
            size = ticks_of[int(number)]
            pick = model.new_bool_var("")
            picks[int(number)] = pick
            intervals.append(model.new_optional_interval_var(start, size, end, pick, ""))
            share = problem.hbm_bytes[number] / duration_s / problem.hbm_bytes_per_s if duration_s > 0 else 0.0
            bandwidth = min(int(np.ceil(share * BANDWIDTH_PARTS * (1 - 1e-9))), BANDWIDTH_PARTS)
            demands.append((int(problem.tensor_cores[number]), int(problem.vector_cores[number]), bandwidth))
        model.add_exactly_one(picks.values())
        starts.append(start)
        ends.append(end)
        chosen.append(picks)
    for task in range(n):
        for edge in range(problem.predecessor_start[task], problem.predecessor_start[task + 1]):
            model.add(starts[task] >= ends[problem.predecessor[edge]])
    capacities = (problem.num_tensor_cores, problem.num_vector_cores, BANDWIDTH_PARTS)
    for resource, capacity in enumerate(capacities):
        model.add_cumulative(intervals, [demand[resource] for demand in demands], capacity)
    makespan = model.new_int_var(0, horizon, "")
    if n:
        model.add_max_equality(makespan, ends)
    model.minimize(makespan)
    _hint_one_by_one(model, problem, table, ticks_of, starts, ends, chosen, makespan)

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise InternalError(f"CP-SAT found no schedule of {n} tasks in {time_limit_s} s: {solver.status_name(status)}")
    option = np.array([next(o for o, pick in picks.items() if solver.value(pick)) for picks in chosen], np.int64)
    start_s = np.array([solver.value(start) for start in starts]) * tick_s
    # Not past its last tick, which rounding of the sum could be.
    end_s = np.minimum(start_s + table.duration_s[option], np.array([solver.value(end) for end in ends]) * tick_s)
    moving = np.flatnonzero(end_s > start_s)
    return ExactResult(
        schedule=Schedule(
            start_s=start_s,
            end_s=end_s,
            option=option,
            segment_task=moving,
            segment_start_s=start_s[moving],
            segment_end_s=end_s[moving],
            segment_rate=np.ones(len(moving)),
        ),
        # A schedule with true durations becomes one with rounded ones by adding at most a tick per task of a chain.
        lower_bound_s=max(0.0, (solver.best_objective_bound - n) * tick_s),
        optimal=status == cp_model.OPTIMAL,
    )


def _hint_one_by_one(
    model: CpModel,
    problem: ScheduleProblem,
    table: OptionTable,
    ticks_of: list[int],
    starts: list[IntVar],
    ends: list[IntVar],
    chosen: list[dict[int, IntVar]],
    makespan: IntVar,
) -> None:
    """One task after the other: always possible, so that the solver has a schedule however little time it gets."""
    now = 0
    for task in topological_order(problem):
        fastest = int(table.fastest[problem.item_of[task]])
        model.add_hint(starts[task], now)
        now += ticks_of[fastest]
        model.add_hint(ends[task], now)
        for number, pick in chosen[task].items():
            model.add_hint(pick, number == fastest)
    model.add_hint(makespan, now)
