"""List scheduling of moldable tasks on two core types and a shared HBM. Method and figures: docs/models/schedule.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.allocation import efficient_options, slack_options
from worklode.schedule.bounds import quick_bound
from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.critical_path import longest_remaining, topological_order
from worklode.schedule.list_kernel import list_schedule
from worklode.schedule.options import OptionTable, option_table
from worklode.schedule.problem import Schedule, ScheduleProblem

# A schedule this close to a lower bound [1] is not tried to be improved. Choice: a tenth of the 1 % gap that a search
# has to prove.
GOOD_ENOUGH = 1e-3
# Price of cores in the last policy [1]: at 4, using all of them must make a task five times as fast as using few.
# Measured in docs/models/schedule.md.
CORE_PRICE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Policy:
    """One way to schedule.

    Attributes:
        name: for people.
        wanted: [N] option each task takes where its cores are free in time.
        strict: HBM bandwidth strictly by priority instead of graded.
        hold: keep tasks back that would outlast the most urgent running one for most of their duration.
    """

    name: str
    wanted: Ints
    strict: bool
    hold: bool


def schedule(
    problem: ScheduleProblem,
    *,
    priorities: Floats | None = None,
    rank: Ints | None = None,
    segments: bool = False,
) -> Schedule:
    """Schedule a problem: the best of at most three policies, or the first that cannot be improved.

    Args:
        problem: tasks, options, capacities.
        priorities: [N] higher goes first; default the longest remaining path [s].
        rank: [N] lower goes first among tasks equal in priority and duration; give it where the result must not
            depend on the order of the tasks.
        segments: also return the progress of every task (slower; `verify` and the trace need it).

    Raises:
        InternalError: no option of some task fits the cores, or the dependences have a cycle.
    """
    table = option_table(problem)
    order = topological_order(problem)
    n = len(problem.item_of)
    fastest = table.fastest[problem.item_of]
    remaining_s = longest_remaining(order, problem.successor_start, problem.successor, table.duration_s[fastest])
    bound_s = quick_bound(problem, table, remaining_s)
    priorities = remaining_s if priorities is None else np.asarray(priorities, np.float64)
    rank = np.zeros(n, np.int64) if rank is None else np.asarray(rank, np.int64)

    best, best_policy = None, None
    for number in range(3):
        policy = _policy(number, problem, table, order, remaining_s)
        found = run_policy(problem, table, policy, priorities, rank, hold_until_s=bound_s)
        if best is None or found.makespan_s < best.makespan_s:
            best, best_policy = found, policy
        if best.makespan_s <= bound_s * (1.0 + GOOD_ENOUGH):
            break
    assert best is not None
    assert best_policy is not None
    if not segments:
        return best
    return run_policy(problem, table, best_policy, priorities, rank, hold_until_s=bound_s, segments=True)


def _policy(number: int, problem: ScheduleProblem, table: OptionTable, order: Ints, remaining_s: Floats) -> Policy:
    """The policies in the order in which they are tried, made when their turn comes."""
    fastest = table.fastest[problem.item_of]
    if number == 0:
        return Policy(name="fastest options, graded bandwidth", wanted=fastest, strict=False, hold=True)
    if number == 1:
        wanted = slack_options(problem, table, order, remaining_s)
        return Policy(name="options by slack, graded bandwidth", wanted=wanted, strict=False, hold=False)
    wanted = efficient_options(problem, table, CORE_PRICE)[problem.item_of]
    return Policy(name="efficient options, strict bandwidth", wanted=wanted, strict=True, hold=True)


def run_policy(
    problem: ScheduleProblem,
    table: OptionTable,
    policy: Policy,
    priorities: Floats,
    rank: Ints,
    *,
    hold_until_s: float,
    segments: bool = False,
) -> Schedule:
    """One pass of the list scheduler: a task that cannot have what it wants takes less, if that ends earlier."""
    finished, start, end, option, seg_task, seg_start, seg_end, seg_rate = list_schedule(
        problem.predecessor_start,
        problem.successor_start,
        problem.successor,
        problem.item_of,
        problem.option_start,
        problem.tensor_cores,
        problem.vector_cores,
        problem.hbm_bytes,
        table.duration_s,
        policy.wanted,
        priorities,
        rank,
        problem.num_tensor_cores,
        problem.num_vector_cores,
        problem.hbm_bytes_per_s,
        policy.strict,
        hold_until_s if policy.hold else 0.0,
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
