"""Which option each task wants: the fastest, the fastest on a part of the cores, or a mean of time and cores."""

from __future__ import annotations

import numpy as np

from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.critical_path import earliest_start
from worklode.schedule.options import OptionTable
from worklode.schedule.problem import ScheduleProblem

# Slack below this share of the critical path [1] is rounding.
NO_SLACK = 1e-9


def efficient_options(problem: ScheduleProblem, table: OptionTable, price: float) -> Ints:
    """[U] option of least d · (1 + price · share of the cores): price 0 gives the fastest."""
    return cheapest_by_price(problem.option_start, *_core_shares(problem), table.duration_s, price)


def leave_room_options(
    problem: ScheduleProblem, table: OptionTable, order: Ints, remaining_s: Floats, most: float
) -> Ints:
    """[N] critical tasks want their fastest option, others the fastest on at most the share `most` of the cores.

    So two tasks that are not critical run side by side, or one beside the critical path, and the path never has to wait
    for all cores at once. An item that has no option this narrow takes its first.
    """
    fastest = table.fastest[problem.item_of]
    asap_s = earliest_start(order, problem.predecessor_start, problem.predecessor, table.duration_s[fastest])
    length_s = float(remaining_s.max(initial=0.0))
    critical = length_s - remaining_s - asap_s <= NO_SLACK * length_s
    one_core = max(1 / max(problem.num_tensor_cores, 1), 1 / max(problem.num_vector_cores, 1))
    narrow = fastest_within(problem.option_start, *_core_shares(problem), table.duration_s, max(most, one_core))
    return np.where(critical, fastest, narrow[problem.item_of])


def _core_shares(problem: ScheduleProblem) -> tuple[Floats, Floats]:
    """[O] share of the tensor and of the vector cores that an option holds."""
    tensor = problem.tensor_cores / max(problem.num_tensor_cores, 1)
    vector = problem.vector_cores / max(problem.num_vector_cores, 1)
    return tensor, vector


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
def fastest_within(
    option_start: Ints, tensor_share: Floats, vector_share: Floats, duration_s: Floats, most: float
) -> Ints:
    """[U] fastest option that holds at most the share `most` of the cores of either type, else the first that fits."""
    chosen = np.full(len(option_start) - 1, -1, np.int64)
    for item in range(len(chosen)):
        least = np.inf
        for option in range(option_start[item], option_start[item + 1]):
            if duration_s[option] == np.inf:
                continue
            if chosen[item] < 0:
                chosen[item] = option
            if tensor_share[option] <= most and vector_share[option] <= most and duration_s[option] < least:
                least = duration_s[option]
                chosen[item] = option
    return chosen
