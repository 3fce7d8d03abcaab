"""Earliest and latest times of tasks, slack and longest remaining path. Formulas: docs/models/schedule.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.problem import ScheduleProblem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CriticalPath:
    """Times of N tasks when cores and bandwidth are plentiful.

    Attributes:
        length_s: length of the longest path [s].
        asap_s, alap_s: [N] earliest start, and latest start that leaves the length as it is [s].
        slack_s: [N] `alap_s - asap_s`, never below 0 [s].
        remaining_s: [N] longest path from the start of a task to the end of the graph, the task included [s].
        tasks: one longest path, from a source to a sink; among equals the lowest indices.
    """

    length_s: float
    asap_s: Floats
    alap_s: Floats
    slack_s: Floats
    remaining_s: Floats
    tasks: tuple[int, ...]


def critical_path(problem: ScheduleProblem, duration_s: Floats) -> CriticalPath:
    """Critical path of the problem's dependences when task i lasts `duration_s[i]` [s].

    Raises:
        InternalError: the dependences have a cycle.
    """
    order = topological_order(problem)
    asap = earliest_start(order, problem.predecessor_start, problem.predecessor, duration_s)
    remaining = longest_remaining(order, problem.successor_start, problem.successor, duration_s)
    length = float(remaining.max(initial=0.0))
    # Sums of one path taken from the front and from the back differ in the last bits, hence the clip at zero.
    alap = np.maximum(length - remaining, asap)
    return CriticalPath(
        length_s=length,
        asap_s=asap,
        alap_s=alap,
        slack_s=alap - asap,
        remaining_s=remaining,
        tasks=tuple(int(i) for i in trace_path(problem.successor_start, problem.successor, remaining)),
    )


def topological_order(problem: ScheduleProblem) -> Ints:
    """Tasks, each after all its predecessors; the identity where the indices already are such an order.

    Raises:
        InternalError: the dependences have a cycle.
    """
    order = sorted_tasks(problem.predecessor_start, problem.successor_start, problem.successor)
    if len(order) < len(problem.item_of):
        raise InternalError(
            f"dependences have a cycle: only {len(order)} of {len(problem.item_of)} tasks can be ordered"
        )
    return order


@compiled
def sorted_tasks(predecessor_start: Ints, successor_start: Ints, successor: Ints) -> Ints:
    """Kahn's algorithm; fewer than N tasks come back where there is a cycle."""
    n = len(predecessor_start) - 1
    ascending = True
    for task in range(n):
        for edge in range(successor_start[task], successor_start[task + 1]):
            ascending = ascending and successor[edge] > task
    order = np.arange(n)
    if ascending:
        return order
    waiting_for = predecessor_start[1:] - predecessor_start[:-1]
    placed = 0
    for task in range(n):
        if waiting_for[task] == 0:
            order[placed] = task
            placed += 1
    visited = 0
    while visited < placed:
        task = order[visited]
        visited += 1
        for edge in range(successor_start[task], successor_start[task + 1]):
            follower = successor[edge]
            waiting_for[follower] -= 1
            if waiting_for[follower] == 0:
                order[placed] = follower
                placed += 1
    return order[:placed]


@compiled
def earliest_start(order: Ints, predecessor_start: Ints, predecessor: Ints, duration_s: Floats) -> Floats:
    """asap_i = max over predecessors p of asap_p + d_p [s]."""
    asap = np.zeros(len(order))
    for task in order:
        earliest = 0.0
        for edge in range(predecessor_start[task], predecessor_start[task + 1]):
            before = predecessor[edge]
            earliest = max(earliest, asap[before] + duration_s[before])
        asap[task] = earliest
    return asap


@compiled
def longest_remaining(order: Ints, successor_start: Ints, successor: Ints, duration_s: Floats) -> Floats:
    """remaining_i = d_i + max over successors s of remaining_s [s]."""
    remaining = np.zeros(len(order))
    for position in range(len(order) - 1, -1, -1):
        task = order[position]
        longest = 0.0
        for edge in range(successor_start[task], successor_start[task + 1]):
            longest = max(longest, remaining[successor[edge]])
        remaining[task] = duration_s[task] + longest
    return remaining


@compiled
def trace_path(successor_start: Ints, successor: Ints, remaining_s: Floats) -> Ints:
    """One longest path: from the task with the longest remaining path on to its longest successor, ..."""
    n = len(remaining_s)
    path = np.empty(n, np.int64)
    if n == 0:
        return path
    is_source = np.ones(n, np.bool_)
    for follower in successor:
        is_source[follower] = False
    task = -1
    for candidate in range(n):
        if is_source[candidate] and (task < 0 or remaining_s[candidate] > remaining_s[task]):
            task = candidate
    length = 0
    while task >= 0:
        path[length] = task
        length += 1
        best = -1
        for edge in range(successor_start[task], successor_start[task + 1]):
            follower = successor[edge]
            longer = best >= 0 and remaining_s[follower] > remaining_s[best]
            tied = best >= 0 and remaining_s[follower] == remaining_s[best] and follower < best
            if best < 0 or longer or tied:
                best = follower
        task = best
    return path[:length]
