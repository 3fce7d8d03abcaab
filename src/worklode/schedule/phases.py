"""A lower bound from what can run beside the critical path, phase by phase. Derivation: docs/models/schedule.md.

While a task of the path keeps all tensor cores busy, no other product advances; while it takes all the bandwidth,
nothing that needs HBM does. So the work off the path either fits into what the path leaves, or stretches it.
"""

# A kernel keeps its state in one loop:
# ruff: noqa: PLR0912, PLR0915

from __future__ import annotations

import numpy as np

from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.options import OptionTable
from worklode.schedule.problem import ScheduleProblem

# Parts of the path, equal in time, that are priced apart [count]: work cannot move to parts before or after the path
# tasks it depends on. Measured (docs/models/schedule.md): 16 give 0.1 % more in the mean at twice the time.
SEGMENTS = 8
# Kinds of phases in a part: path task busiest on tensor cores, on vector cores, on HBM; and no path task at all.
KINDS = 4
GAP = 3
# Steps of the ascent of prices, its first rate, and the width of its choice among phases relative to the least cost
# [count, 1, 1]. Every step gives a bound; measured (docs/models/schedule.md): 1000 steps give 0.4 % more in the mean.
STEPS = 200
RATE = 1.0
WIDTH = 0.1


def beside_path_bound(
    problem: ScheduleProblem, table: OptionTable, order: Ints, path: Ints, option_work_s: Floats
) -> float:
    """Lower bound [s] on the makespan from one path and everything that is not on it.

    Args:
        problem: the problem.
        table: its options.
        order: tasks in a topological order.
        path: tasks of a path, in order; the critical one gives the best bound.
        option_work_s: [O, 3] time an option alone keeps all tensor cores, all vector cores, all bandwidth busy [s].
    """
    if len(path) == 0:
        return 0.0
    fastest = table.fastest[problem.item_of[path]]
    ends_s = np.cumsum(table.duration_s[fastest])
    if ends_s[-1] <= 0:
        return 0.0
    starts_s = np.concatenate(([0.0], ends_s[:-1]))
    segment = np.minimum(starts_s / ends_s[-1] * SEGMENTS, SEGMENTS - 1).astype(np.int64)
    phase = segment * KINDS + option_work_s[fastest].argmax(axis=1)
    on_path, on_path_count = np.unique(np.stack((problem.item_of[path], phase), axis=1), axis=0, return_counts=True)
    before, after = path_neighbours(
        order, problem.predecessor_start, problem.predecessor, problem.successor_start, problem.successor, path
    )
    others = np.setdiff1d(np.arange(len(order)), path)
    before, after = before[others], after[others]
    # A task may run beside the path tasks strictly between its neighbours, and in the gaps from the one to the other.
    padded = np.concatenate((segment[:1], segment, segment[-1:], segment[-1:]))
    first_phase = padded[before + 2]
    last_phase = np.where(after - before < 2, first_phase - 1, padded[after])
    spans = (problem.item_of[others], first_phase, last_phase, padded[before + 1], padded[after + 1])
    groups, group_count = np.unique(np.stack(spans, axis=1), axis=0, return_counts=True)
    return ascend_prices(
        problem.option_start,
        table.duration_s,
        option_work_s,
        on_path,
        on_path_count.astype(np.float64),
        groups,
        group_count.astype(np.float64),
    )


@compiled
def path_neighbours(
    order: Ints, predecessor_start: Ints, predecessor: Ints, successor_start: Ints, successor: Ints, path: Ints
) -> tuple[Ints, Ints]:
    """Per task its last ancestor and its first descendant on the path, as places in it; -1 and len(path) if none."""
    n = len(order)
    place = np.full(n, -1, np.int64)
    for k in range(len(path)):
        place[path[k]] = k
    before = np.full(n, -1, np.int64)
    after = np.full(n, len(path), np.int64)
    for task in order:
        for edge in range(predecessor_start[task], predecessor_start[task + 1]):
            other = predecessor[edge]
            before[task] = max(before[task], place[other] if place[other] >= 0 else before[other])
    for position in range(n - 1, -1, -1):
        task = order[position]
        for edge in range(successor_start[task], successor_start[task + 1]):
            other = successor[edge]
            after[task] = min(after[task], place[other] if place[other] >= 0 else after[other])
    return before, after


@compiled
def ascend_prices(
    option_start: Ints,
    duration_s: Floats,
    work_s: Floats,
    on_path: Ints,
    on_path_count: Floats,
    groups: Ints,
    group_count: Floats,
) -> float:
    """The best value [s] over prices of time, tensor cores, vector cores and bandwidth in every phase.

    The prices of a phase are not negative and add up to 1 (in gaps, time costs nothing). Tasks on the path pay in their
    phase, others where it is cheapest; the sum is a lower bound, for any prices.

    Args:
        option_start: [U + 1] options of items.
        duration_s: [O] duration [s].
        work_s: [O, 3] time of each resource at full capacity [s].
        on_path: [A, 2] item and phase.
        on_path_count: [A] tasks of that kind.
        groups: [B, 5] item, first and last part for phases, first and last part for gaps.
        group_count: [B] tasks of that kind.
    """
    phases = SEGMENTS * KINDS
    exists = np.zeros(phases, np.bool_)
    for row in range(len(on_path)):
        exists[on_path[row, 1]] = True
    price = np.full((phases, 4), 0.1)
    for phase in range(phases):
        kind = phase % KINDS
        if kind == GAP:
            exists[phase] = True
            price[phase, 0] = 0.0
            price[phase, 1:] = 1.0 / 3.0
        else:
            price[phase, 1 + kind] = 0.7
    used = np.empty((phases, 4))
    cost, share = np.empty(phases), np.empty(phases)
    chosen = np.empty(phases, np.int64)
    best = 0.0
    for step in range(STEPS):
        used[:] = 0.0
        value = 0.0
        for row in range(len(on_path)):
            item, phase = on_path[row, 0], on_path[row, 1]
            least, pick = np.inf, -1
            for option in range(option_start[item], option_start[item + 1]):
                if duration_s[option] < np.inf:
                    paid = price[phase, 0] * duration_s[option]
                    for resource in range(3):
                        paid += price[phase, 1 + resource] * work_s[option, resource]
                    if paid < least:
                        least, pick = paid, option
            value += on_path_count[row] * least
            used[phase, 0] += on_path_count[row] * duration_s[pick]
            for resource in range(3):
                used[phase, 1 + resource] += on_path_count[row] * work_s[pick, resource]
        for row in range(len(groups)):
            item = groups[row, 0]
            first = KINDS * min(groups[row, 1], groups[row, 3])
            last = KINDS * (max(groups[row, 2], groups[row, 4]) + 1)
            least = np.inf
            for phase in range(first, last):
                cost[phase] = np.inf
                part = phase // KINDS
                from_part = groups[row, 3] if phase % KINDS == GAP else groups[row, 1]
                to_part = groups[row, 4] if phase % KINDS == GAP else groups[row, 2]
                if not exists[phase] or part < from_part or part > to_part:
                    continue
                for option in range(option_start[item], option_start[item + 1]):
                    if duration_s[option] < np.inf:
                        paid = 0.0
                        for resource in range(3):
                            paid += price[phase, 1 + resource] * work_s[option, resource]
                        if paid < cost[phase]:
                            cost[phase] = paid
                            chosen[phase] = option
                least = min(least, cost[phase])
            value += group_count[row] * least
            if least <= 0.0:
                continue
            # Where tasks go is spread over nearly equal phases, or they would all jump from one to another.
            total = 0.0
            for phase in range(first, last):
                share[phase] = np.exp((1.0 - cost[phase] / least) * np.sqrt(step + 1.0) / WIDTH)
                total += share[phase]
            for phase in range(first, last):
                if share[phase] > 1e-9:
                    for resource in range(3):
                        amount = work_s[chosen[phase], resource] * share[phase] / total
                        used[phase, 1 + resource] += group_count[row] * amount
        best = max(best, value)
        for phase in range(phases):
            # The derivative of the value by a price is the use of what it prices.
            largest = used[phase].max()
            if largest > 0.0:
                price[phase] *= np.exp(RATE / np.sqrt(step + 1.0) * (used[phase] / largest - 1.0))
                price[phase] /= price[phase].sum()
    return best
