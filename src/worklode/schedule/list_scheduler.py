"""List scheduling of moldable tasks on two core types and a shared HBM. Method and figures: docs/models/schedule.md."""

from __future__ import annotations

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.critical_path import longest_remaining, topological_order
from worklode.schedule.list_kernel import list_schedule
from worklode.schedule.options import option_table
from worklode.schedule.problem import Schedule, ScheduleProblem


def schedule(
    problem: ScheduleProblem,
    *,
    priorities: Floats | None = None,
    rank: Ints | None = None,
    segments: bool = False,
) -> Schedule:
    """Schedule a problem; the best of a few cheap policies.

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
    fastest = table.fastest[problem.item_of]
    if priorities is None:
        priorities = longest_remaining(order, problem.successor_start, problem.successor, table.duration_s[fastest])
    if rank is None:
        rank = np.zeros(len(problem.item_of), np.int64)
    return run_policy(problem, table.duration_s, fastest, priorities, rank, fair=False, segments=segments)


def run_policy(
    problem: ScheduleProblem,
    duration_s: Floats,
    wanted: Ints,
    priorities: Floats,
    rank: Ints,
    *,
    fair: bool,
    segments: bool,
) -> Schedule:
    """One pass of the list scheduler: every task wants option `wanted[i]`, a narrower one if that ends earlier."""
    finished, start, end, option, seg_task, seg_start, seg_end, seg_rate = list_schedule(
        problem.predecessor_start,
        problem.successor_start,
        problem.successor,
        problem.item_of,
        problem.option_start,
        problem.tensor_cores,
        problem.vector_cores,
        problem.hbm_bytes,
        duration_s,
        wanted,
        priorities,
        rank,
        problem.num_tensor_cores,
        problem.num_vector_cores,
        problem.hbm_bytes_per_s,
        fair,
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
