"""Lower bounds on the makespan of a problem: no schedule of it can be shorter. Derivations: docs/models/schedule.md."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.critical_path import longest_remaining, topological_order, trace_path
from worklode.schedule.heads import raised_heads
from worklode.schedule.options import OptionTable, option_table
from worklode.schedule.path_structure import PathStructure, path_structure
from worklode.schedule.prices import ROUNDS, best_prices, price_bound, priced_options
from worklode.schedule.problem import ScheduleProblem

# Share [1] taken off a bound: sums of 1e5 float64 terms are good to 1e-11.
ROUNDING = 1e-10
# Steps of the ascent that weighs path against work [count]. The value of every step is a bound, so this sets only how
# close to the best weights it ends. Measured (docs/models/schedule.md): 1000 steps give 0.3 % more in the mean.
ASCENT_STEPS = 64
# The same where only options are chosen by the weights [count].
WANT_STEPS = 16
# Rounds of the ascent of prices that starts from the prices of a similar design [count]; see `prices`.
GUIDED_ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBounds:
    """Lower bounds on the makespan [s].

    Attributes:
        critical_path_s: longest path, every task on its fastest option.
        tensor_core_s, vector_core_s: least core-seconds of all tasks over the number of cores.
        hbm_s: least traffic of all tasks over the bandwidth.
        heads_and_tails_s: core and bandwidth bounds between the earliest start and the longest tail of every set of
            tasks (Jackson's preemptive schedule); heads and tails themselves are raised by the work before and after.
        trade_off_s: one choice of options must serve path and work: a weighted mean of the first four.
        beside_path_s: what can run beside the critical path, and what must stretch it.
    """

    critical_path_s: float
    tensor_core_s: float
    vector_core_s: float
    hbm_s: float
    heads_and_tails_s: float
    trade_off_s: float
    beside_path_s: float

    @property
    def makespan_s(self) -> float:
        """The best of them [s], less what rounding may have added."""
        return (1.0 - ROUNDING) * max(
            self.critical_path_s,
            self.tensor_core_s,
            self.vector_core_s,
            self.hbm_s,
            self.heads_and_tails_s,
            self.trade_off_s,
            self.beside_path_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guide:
    """A path and prices that bound one design well, to begin with on others of the same workload.

    Attributes:
        structure: the path and what may run beside it.
        prices: [C, 4] see `prices`.
    """

    structure: PathStructure
    prices: Floats


def guide(problem: ScheduleProblem) -> Guide:
    """The critical path of a problem, and the best prices the ascent finds for it."""
    table = option_table(problem)
    order = topological_order(problem)
    duration_s = table.duration_s[table.fastest][problem.item_of]
    remaining_s = longest_remaining(order, problem.successor_start, problem.successor, duration_s)
    structure = path_structure(problem, order, trace_path(problem.successor_start, problem.successor, remaining_s))
    _, prices = best_prices(structure, priced_options(problem, table, option_shares(problem, table)[1]))
    return Guide(structure=structure, prices=prices)


def best_guides(problem: ScheduleProblem, guides: Sequence[Guide], count: int = 1) -> tuple[Guide, ...]:
    """The guides whose prices bound a problem best, best first; of equals the first."""
    if len(guides) == 1:
        return (guides[0],)
    table = option_table(problem)
    options = priced_options(problem, table, option_shares(problem, table)[1])
    values = [price_bound(found.structure, options, found.prices) for found in guides]
    return tuple(guides[index] for index in np.argsort(values, kind="stable")[::-1][:count])


def lower_bounds(problem: ScheduleProblem, *, guided_by: Guide | None = None, rounds: int = ROUNDS) -> LowerBounds:
    """All lower bounds of a problem.

    Args:
        problem: the problem.
        guided_by: the guide of another design; the ascent of prices starts from it. Without one it starts from nothing.
        rounds: how many rounds of the ascent to do, of `prices.ROUNDS`; with a guide few are enough.

    Raises:
        InternalError: no option of some task fits the cores, or the dependences have a cycle.
    """
    table = option_table(problem)
    order = topological_order(problem)
    duration_s = table.duration_s[table.fastest][problem.item_of]
    remaining_s = longest_remaining(order, problem.successor_start, problem.successor, duration_s)
    totals = shares_of_capacity(problem, table).sum(axis=0)
    path = trace_path(problem.successor_start, problem.successor, remaining_s)
    options = priced_options(problem, table, option_shares(problem, table)[1])
    if guided_by is None:
        beside_path_s, _ = best_prices(path_structure(problem, order, path), options, rounds=rounds)
    else:
        beside_path_s, _ = best_prices(guided_by.structure, options, guided_by.prices, rounds=rounds)
    return LowerBounds(
        critical_path_s=float(remaining_s.max(initial=0.0)),
        tensor_core_s=float(totals[0]),
        vector_core_s=float(totals[1]),
        hbm_s=float(totals[2]),
        heads_and_tails_s=heads_and_tails_bound(problem, table, order),
        trade_off_s=trade_off_bound(problem, table, path),
        beside_path_s=beside_path_s,
    )


def shares_of_capacity(problem: ScheduleProblem, table: OptionTable) -> Floats:
    """[N, 3] least time [s] each task would keep all tensor cores, all vector cores, all bandwidth busy."""
    capacities = (problem.num_tensor_cores, problem.num_vector_cores, problem.hbm_bytes_per_s)
    amounts = (table.tensor_core_s, table.vector_core_s, table.hbm_bytes)
    per_item = np.zeros((len(table.fastest), 3))
    for resource, (amount, capacity) in enumerate(zip(amounts, capacities, strict=True)):
        if capacity > 0:
            per_item[:, resource] = amount / capacity
    return per_item[problem.item_of]


def heads_and_tails_bound(problem: ScheduleProblem, table: OptionTable, order: Ints) -> float:
    """Bound [s] from heads r (no task starts before), tails q (so much follows) and work w [N, 3].

    For every set S and resource: makespan >= min r + sum w + min q over S. The best set is found by Jackson's
    preemptive schedule (Carlier 1982, "The one-machine sequencing problem", for heads, tails and one machine).
    """
    duration_s = table.duration_s[table.fastest][problem.item_of]
    work_s = shares_of_capacity(problem, table)
    reverse = order[::-1].copy()
    forward = (problem.predecessor_start, problem.predecessor, problem.successor_start, problem.successor)
    option_s, option_work_s = option_shares(problem, table)
    heads, tails = (
        raised_heads(
            tasks,
            *edges,
            problem.item_of,
            problem.option_start,
            option_s,
            option_work_s,
            duration_s,
            work_s,
            not problem.interruptible,
        )
        for tasks, edges in ((order, forward), (reverse, forward[2:] + forward[:2]))
    )
    bound = float((heads + duration_s + tails).max(initial=0.0))
    for resource in range(work_s.shape[1]):
        busy = np.flatnonzero(work_s[:, resource] > 0)
        by_head = busy[np.argsort(heads[busy], kind="stable")]
        bound = max(bound, jackson_makespan(heads[by_head], work_s[by_head, resource].copy(), tails[by_head]))
    return bound


def option_shares(problem: ScheduleProblem, table: OptionTable) -> tuple[Floats, Floats]:
    """Duration [O] and the time each option alone would keep each resource busy [O, 3], both in s."""
    work_s = np.zeros((len(table.duration_s), 3))
    for resource, (cores, capacity) in enumerate(
        ((problem.tensor_cores, problem.num_tensor_cores), (problem.vector_cores, problem.num_vector_cores))
    ):
        np.multiply(cores / max(capacity, 1), table.duration_s, out=work_s[:, resource], where=cores > 0)
    work_s[:, 2] = problem.hbm_bytes / problem.hbm_bytes_per_s
    return table.duration_s, work_s


@compiled
def jackson_makespan(heads_s: Floats, work_s: Floats, tails_s: Floats) -> float:
    """Makespan [s] of Jackson's preemptive schedule: always work on what has the longest tail. Heads must ascend."""
    n = len(heads_s)
    heap = [(0.0, np.int64(0)) for _ in range(0)]
    left_s = work_s.copy()
    now, makespan = 0.0, 0.0
    arrived = 0
    while arrived < n or len(heap) > 0:
        if len(heap) == 0:
            now = max(now, heads_s[arrived])
        while arrived < n and heads_s[arrived] <= now:
            heapq.heappush(heap, (-tails_s[arrived], np.int64(arrived)))
            arrived += 1
        task = heap[0][1]
        if arrived < n and now + left_s[task] > heads_s[arrived]:
            left_s[task] -= heads_s[arrived] - now
            now = heads_s[arrived]
        else:
            now += left_s[task]
            makespan = max(makespan, now + tails_s[task])
            heapq.heappop(heap)
    return makespan


def trade_off_bound(problem: ScheduleProblem, table: OptionTable, path: Ints) -> float:
    """Bound [s] from one choice of options for path and work together.

    The makespan is at least the length of a path, and the use of each resource over its capacity, all with the same
    options. So it is at least any weighted mean of the four, and the least mean over options splits by task:

        makespan >= sum over tasks of min over options of (m0 d [task on path] + mt tc d / Pt + mv vc d / Pv + mh b / B)

    for any weights m >= 0 that add up to 1. A multiplicative ascent looks for good ones.
    """
    return _trade_off(problem, table, path, ASCENT_STEPS)[0]


def path_wants(problem: ScheduleProblem, table: OptionTable, critical: Ints) -> Ints:
    """[K] options of critical tasks that are cheapest at the best weights of `trade_off_bound`."""
    _, weight = _trade_off(problem, table, critical, WANT_STEPS)
    d, work_s = option_shares(problem, table)
    fits = np.isfinite(d)
    cost = np.where(
        fits, weight[0] * np.where(fits, d, 0.0) + np.where(fits[:, None], work_s, 0.0) @ weight[1:], np.inf
    )
    return cheapest_of_items(problem.option_start, cost)[problem.item_of[critical]]


@compiled
def cheapest_of_items(option_start: Ints, cost: Floats) -> Ints:
    """[U] option of least cost [O]; the first that is within rounding of it."""
    chosen = np.empty(len(option_start) - 1, np.int64)
    for item in range(len(chosen)):
        least = np.inf
        for option in range(option_start[item], option_start[item + 1]):
            if cost[option] < least * (1.0 - 1e-9) or least == np.inf:
                least = cost[option]
                chosen[item] = option
    return chosen


def _trade_off(problem: ScheduleProblem, table: OptionTable, path: Ints, steps: int) -> tuple[float, Floats]:
    """`trade_off_bound` [s] after so many steps, and its weights [4]."""
    num_items = len(table.fastest)
    count = np.bincount(problem.item_of, minlength=num_items).astype(np.float64)
    on_path = np.bincount(problem.item_of[path], minlength=num_items).astype(np.float64)
    return ascend_trade_off(
        problem.option_start,
        problem.tensor_cores / max(problem.num_tensor_cores, 1),
        problem.vector_cores / max(problem.num_vector_cores, 1),
        problem.hbm_bytes / problem.hbm_bytes_per_s,
        table.duration_s,
        on_path,
        count - on_path,
        steps,
    )


@compiled
def ascend_trade_off(
    option_start: Ints,
    tensor_share: Floats,
    vector_share: Floats,
    hbm_s: Floats,
    duration_s: Floats,
    on_path: Floats,
    off_path: Floats,
    steps: int,
) -> tuple[float, Floats]:
    """Best value [s] over `steps` weights, and those; items count `on_path` and `off_path` times. Each is a bound."""
    weight = np.full(4, 0.25)
    used, chosen = np.empty(4), np.empty(4)
    best = 0.0
    best_weight = weight.copy()
    for step in range(steps):
        used[:] = 0.0
        for item in range(len(option_start) - 1):
            for on in range(2):
                times = on_path[item] if on else off_path[item]
                if times == 0.0:
                    continue
                least = np.inf
                for option in range(option_start[item], option_start[item + 1]):
                    d = duration_s[option]
                    if d == np.inf:
                        continue
                    held_tensor, held_vector = tensor_share[option] * d, vector_share[option] * d
                    cost = weight[1] * held_tensor + weight[2] * held_vector + weight[3] * hbm_s[option]
                    if on:
                        cost += weight[0] * d
                    if cost < least:
                        least = cost
                        chosen[0], chosen[1], chosen[2], chosen[3] = on * d, held_tensor, held_vector, hbm_s[option]
                used += times * chosen
        value = (weight * used).sum()
        if value > best:
            best = value
            best_weight[:] = weight
        # The derivative of the value by a weight is what that weight multiplies; steps shrink as 1/sqrt.
        largest = used.max()
        if largest <= 0.0:
            break
        weight *= np.exp(2.0 / np.sqrt(step + 1.0) * used / largest)
        weight /= weight.sum()
    return best, best_weight


def quick_bound(problem: ScheduleProblem, table: OptionTable, remaining_s: Floats) -> float:
    """Critical path, core-seconds and bytes alone [s]: enough to see that a schedule cannot be improved."""
    count = np.bincount(problem.item_of, minlength=len(table.fastest))
    return max(
        float(remaining_s.max(initial=0.0)),
        float(count @ table.tensor_core_s) / max(problem.num_tensor_cores, 1),
        float(count @ table.vector_core_s) / max(problem.num_vector_cores, 1),
        float(count @ table.hbm_bytes) / problem.hbm_bytes_per_s,
    )
