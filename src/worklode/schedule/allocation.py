"""Which option each task wants: the fastest, the cheapest that its slack allows, or a mean of both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.critical_path import earliest_start
from worklode.schedule.options import OptionTable
from worklode.schedule.problem import ScheduleProblem

# Slack below this share of the critical path [1] is rounding.
NO_SLACK = 1e-12


def efficient_options(problem: ScheduleProblem, table: OptionTable, price: float) -> Ints:
    """[U] option of least d · (1 + price · share of the cores): price 0 gives the fastest."""
    return cheapest_by_price(
        problem.option_start,
        problem.tensor_cores / max(problem.num_tensor_cores, 1),
        problem.vector_cores / max(problem.num_vector_cores, 1),
        table.duration_s,
        price,
    )


def slack_options(problem: ScheduleProblem, table: OptionTable, order: Ints, remaining_s: Floats) -> Ints:
    """[N] critical tasks take their fastest option; others the one of least core-seconds that their slack allows.

    The slack of a chain of tasks that are not critical is shared among them in proportion to their durations.
    """
    fastest = table.fastest[problem.item_of]
    asap_s = earliest_start(order, problem.predecessor_start, problem.predecessor, table.duration_s[fastest])
    length_s = float(remaining_s.max(initial=0.0))
    return cheapest_within_slack(
        order,
        problem.predecessor_start,
        problem.predecessor,
        problem.successor_start,
        problem.successor,
        problem.item_of,
        problem.option_start,
        problem.tensor_cores / max(problem.num_tensor_cores, 1),
        problem.vector_cores / max(problem.num_vector_cores, 1),
        table.duration_s,
        fastest,
        length_s - remaining_s,
        length_s - remaining_s - asap_s <= NO_SLACK * length_s,
    )


@compiled
def cheapest_by_price(
    option_start: Ints, tensor_share: Floats, vector_share: Floats, duration_s: Floats, price: float
) -> Ints:
    """[U] option of least d · (1 + price · max(tensor share, vector share)); among equals the first."""
    chosen = np.full(len(option_start) - 1, -1, np.int64)
    for item in range(len(chosen)):
        least = np.inf
        for option in range(option_start[item], option_start[item + 1]):
            cost = duration_s[option] * (1.0 + price * max(tensor_share[option], vector_share[option]))
            if cost < least:
                least = cost
                chosen[item] = option
    return chosen


@compiled
def cheapest_within_slack(
    order: Ints,
    predecessor_start: Ints,
    predecessor: Ints,
    successor_start: Ints,
    successor: Ints,
    item_of: Ints,
    option_start: Ints,
    tensor_share: Floats,
    vector_share: Floats,
    duration_s: Floats,
    fastest: Ints,
    alap_s: Floats,
    critical: NDArray[np.bool_],
) -> Ints:
    """[N] option of least core share · d that ends in time; `alap_s` is the latest start [s]."""
    n = len(order)
    chain_s = np.zeros(n)  # longest path of uncritical tasks from here on: those that share the slack
    for position in range(n - 1, -1, -1):
        task = order[position]
        longest = 0.0
        for edge in range(successor_start[task], successor_start[task + 1]):
            if not critical[successor[edge]]:
                longest = max(longest, chain_s[successor[edge]])
        chain_s[task] = duration_s[fastest[task]] + longest
    chosen = fastest.copy()
    end_s = np.zeros(n)
    for task in order:
        start = 0.0
        for edge in range(predecessor_start[task], predecessor_start[task + 1]):
            start = max(start, end_s[predecessor[edge]])
        shortest = duration_s[fastest[task]]
        slack = max(alap_s[task] - start, 0.0)
        allowed = shortest + (slack * shortest / chain_s[task] if chain_s[task] > 0.0 else 0.0)
        best = fastest[task]
        least = (tensor_share[best] + vector_share[best]) * shortest
        item = item_of[task]
        for option in range(option_start[item], option_start[item + 1]):
            held = (tensor_share[option] + vector_share[option]) * duration_s[option]
            if duration_s[option] <= allowed and held < least:
                least = held
                best = option
        chosen[task] = best
        end_s[task] = start + duration_s[best]
    return chosen
