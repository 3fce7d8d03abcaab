"""List scheduling of moldable tasks on two core types and a shared HBM. Method and figures: docs/models/schedule.md."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.allocation import efficient_options, leave_room_options
from worklode.schedule.bounds import quick_bound
from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.critical_path import longest_remaining, topological_order
from worklode.schedule.list_kernel import list_schedule
from worklode.schedule.options import OptionTable, option_table
from worklode.schedule.problem import Schedule, ScheduleProblem

# A schedule this close to a lower bound [1] is not tried to be improved. Choice: a tenth of the 1 % gap that a search
# has to prove.
GOOD_ENOUGH = 1e-3
# Share of the cores [1] that a task off the critical path wants in the second policy.
MOST_OFF_PATH = 0.5
# Price of cores in the last policy [1]: at 4, using all of them must make a task five times as fast as using few.
# Measured in docs/models/schedule.md.
CORE_PRICE = 4.0
# Items moved in a step of `improve` [count], and by how many options [count]: small steps, narrower more often.
# Choice; uniform, linear and square-root weights of items differed by less than runs with other seeds.
MOST_MOVED = 3
MOVES = (-3, -2, -1, 1, 2)
# Number of the policy that runs tasks one after another, tried last: list schedules have anomalies and can be longer.
SERIAL_POLICY = 3
# Makespans closer than this [1] differ by the order of sums only.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Policy:
    """One way to schedule.

    Attributes:
        name: for people.
        wanted: [N] option each task takes where its cores are free in time.
        strict: HBM bandwidth strictly by priority instead of graded.
        hold: keep tasks back that would outlast the most urgent running one for most of their duration.
        serial: one task after another, each alone on the option it wants.
    """

    name: str
    wanted: Ints
    strict: bool
    hold: bool
    serial: bool = False


def schedule(
    problem: ScheduleProblem,
    *,
    priorities: Floats | None = None,
    rank: Ints | None = None,
    segments: bool = False,
) -> Schedule:
    """Schedule a problem: the best of at most four policies, or the first that cannot be improved.

    Never longer than one task after another, each on its fastest option.

    Args:
        problem: tasks, options, capacities.
        priorities: [N] higher goes first; default the longest remaining path [s].
        rank: [N] lower goes first among tasks equal in priority and duration; give it where the result must not
            depend on the order of the tasks.
        segments: also return the progress of every task (slower; `verify` and the trace need it).

    Raises:
        InternalError: no option of some task fits the cores, or the dependences have a cycle.
    """
    setting = _setting(problem, priorities, rank)
    policy, best = _best_policy(setting)
    return run_policy(setting, policy, segments=True) if segments else best


def improve(
    problem: ScheduleProblem,
    *,
    evaluations: int,
    lower_bound_s: float = 0.0,
    priorities: Floats | None = None,
    rank: Ints | None = None,
    seed: int = 0,
    segments: bool = False,
) -> Schedule:
    """Improve on `schedule` by local search over the cores each work item wants: for the few designs that are reported.

    A step moves the tasks of one to three items to wider or narrower options, items that take long more often, and
    stays if the schedule is not longer. Never worse than `schedule`; the same seed gives the same answer.

    Args:
        problem: tasks, options, capacities.
        evaluations: schedules to try after the first.
        lower_bound_s: known lower bound of the makespan [s]; the search ends within 0.1 % of it.
        priorities: as for `schedule`.
        rank: as for `schedule`.
        seed: of the random steps.
        segments: also return the progress of every task.

    Raises:
        InternalError: no option of some task fits the cores, or the dependences have a cycle.
    """
    setting = _setting(problem, priorities, rank)
    policy, best = _best_policy(setting)
    # Nothing shortens tasks that already run alone on their fastest options: steps start from the first policy then.
    origin = _policy(0, setting) if policy.serial else policy
    goal_s = max(lower_bound_s, setting.bound_s) * (1.0 + GOOD_ENOUGH)
    item_of, duration_s = problem.item_of, setting.table.duration_s
    weight = np.sqrt(np.bincount(item_of, minlength=len(setting.table.fastest)) * duration_s[setting.table.fastest])
    steerable = len(weight) and weight.sum() > 0
    random = np.random.default_rng(seed)
    for _ in range(evaluations if steerable else 0):
        if best.makespan_s <= goal_s:
            break
        step = np.zeros(len(weight), np.int64)
        moved = random.choice(len(weight), int(random.integers(1, MOST_MOVED + 1)), p=weight / weight.sum())
        step[moved] = random.choice(MOVES, len(moved))
        wanted = origin.wanted + step[item_of]
        wanted = np.clip(wanted, problem.option_start[item_of], problem.option_start[item_of + 1] - 1)
        wanted = np.where(np.isfinite(duration_s[wanted]), wanted, origin.wanted)
        tried = replace(origin, wanted=wanted)
        found = run_policy(setting, tried)
        if found.makespan_s <= best.makespan_s:
            origin, policy, best = tried, tried, found
    return run_policy(setting, policy, segments=True) if segments else best


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """A problem with what every pass over it needs.

    Attributes:
        problem: tasks, options, capacities.
        table: derived facts of its options.
        order: tasks in a topological order.
        remaining_s: [N] longest remaining path on fastest options [s].
        priorities: [N] higher goes first.
        rank: [N] lower goes first among equals.
        bound_s: lower bound of the makespan [s]; tasks are held back before it only.
    """

    problem: ScheduleProblem
    table: OptionTable
    order: Ints
    remaining_s: Floats
    priorities: Floats
    rank: Ints
    bound_s: float


def _setting(problem: ScheduleProblem, priorities: Floats | None, rank: Ints | None) -> Setting:
    table = option_table(problem)
    order = topological_order(problem)
    fastest_s = table.duration_s[table.fastest][problem.item_of]
    remaining_s = longest_remaining(order, problem.successor_start, problem.successor, fastest_s)
    return Setting(
        problem=problem,
        table=table,
        order=order,
        remaining_s=remaining_s,
        priorities=remaining_s if priorities is None else np.asarray(priorities, np.float64),
        rank=np.zeros(len(order), np.int64) if rank is None else np.asarray(rank, np.int64),
        bound_s=quick_bound(problem, table, remaining_s),
    )


def _best_policy(setting: Setting) -> tuple[Policy, Schedule]:
    best_policy = _policy(0, setting)
    best = run_policy(setting, best_policy)
    for number in (1, 2):
        if best.makespan_s <= setting.bound_s * (1.0 + GOOD_ENOUGH):
            break
        policy = _policy(number, setting)
        found = run_policy(setting, policy)
        if found.makespan_s < best.makespan_s:
            best_policy, best = policy, found
    serial = _policy(SERIAL_POLICY, setting)
    serial_s = float(setting.table.duration_s[serial.wanted].sum())
    if serial_s < best.makespan_s * (1.0 - ROUNDING):
        best_policy, best = serial, run_policy(setting, serial)
    return best_policy, best


def _policy(number: int, setting: Setting) -> Policy:
    """The policies in the order in which they are tried, made when their turn comes."""
    problem, table = setting.problem, setting.table
    if number == 0:
        wanted = table.fastest[problem.item_of]
        return Policy(name="fastest options, graded bandwidth", wanted=wanted, strict=False, hold=True)
    if number == 1:
        wanted = leave_room_options(problem, table, setting.order, setting.remaining_s, MOST_OFF_PATH)
        return Policy(name="room beside the path, graded bandwidth", wanted=wanted, strict=False, hold=False)
    if number == SERIAL_POLICY:
        wanted = table.fastest[problem.item_of]
        return Policy(name="one after another", wanted=wanted, strict=True, hold=False, serial=True)
    wanted = efficient_options(problem, table, CORE_PRICE)[problem.item_of]
    return Policy(name="efficient options, strict bandwidth", wanted=wanted, strict=True, hold=False)


def run_policy(setting: Setting, policy: Policy, *, segments: bool = False) -> Schedule:
    """One pass of the list scheduler: a task that cannot have what it wants takes less, if that ends earlier."""
    problem = setting.problem
    tensor_cores, vector_cores = problem.tensor_cores, problem.vector_cores
    if policy.serial:  # whoever runs holds everything
        tensor_cores = np.full_like(tensor_cores, problem.num_tensor_cores)
        vector_cores = np.full_like(vector_cores, problem.num_vector_cores)
    finished, start, end, option, seg_task, seg_start, seg_end, seg_rate = list_schedule(
        problem.predecessor_start,
        problem.successor_start,
        problem.successor,
        problem.item_of,
        problem.option_start,
        tensor_cores,
        vector_cores,
        problem.hbm_bytes,
        setting.table.duration_s,
        policy.wanted,
        setting.priorities,
        setting.rank,
        problem.num_tensor_cores,
        problem.num_vector_cores,
        problem.hbm_bytes_per_s,
        policy.strict,
        setting.bound_s if policy.hold else 0.0,
        segments,
    )
    if finished < len(problem.item_of):
        raise InternalError(f"the list scheduler placed {finished} of {len(problem.item_of)} tasks")
    return Schedule(
        start_s=start,
        end_s=end,
        option=option,
        segment_task=seg_task.astype(np.int64),
        segment_start_s=seg_start,
        segment_end_s=seg_end,
        segment_rate=seg_rate,
    )
