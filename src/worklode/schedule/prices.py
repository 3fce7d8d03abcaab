"""Prices of time, cores and bandwidth in the phases of a path, and the lower bound they give.

Whatever the prices, the sum of what every task pays at least bounds the makespan from below, on any design: good prices
found on one design bound others too. Derivation: docs/models/schedule.md.
"""

# A kernel keeps its state in one loop:
# ruff: noqa: PLR0912

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.options import OptionTable
from worklode.schedule.path_structure import PathStructure
from worklode.schedule.problem import ScheduleProblem

# Rounds of the ascent and steps of each [count]. A round starts from the best prices so far with a smaller rate and a
# sharper choice among options and classes. Measured on 40 mined designs against the linear program: 99.1 to 99.9 % of
# its value; 8 rounds of 40 steps 99.1 to 99.9 % with a mean of 99.6 %.
ROUNDS, STEPS = 10, 100
FIRST_WIDTH, WIDTH_FACTOR = 0.3, 0.6
FIRST_RATE, RATE_FACTOR = 0.5, 0.7
# A choice that costs more than this many widths above the least has no share: exp(-14) is a millionth [1].
NEGLIGIBLE = 14.0
# No price starts a round below this [1], or it could never come back.
LEAST_PRICE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PricedOptions:
    """Options that can be the cheapest at some prices.

    Attributes:
        path_start, path_s, path_work_s: [U + 1], [P], [P, 3] of tasks on the path, which pay for their time too.
        beside_start, beside_work_s: [U + 1], [Q, 3] of tasks off the path, which pay for resources only.
    """

    path_start: Ints
    path_s: Floats
    path_work_s: Floats
    beside_start: Ints
    beside_work_s: Floats


def priced_options(problem: ScheduleProblem, table: OptionTable, option_work_s: Floats) -> PricedOptions:
    """Options of a problem that no other option of the item undercuts in everything that is paid for."""
    everything = np.column_stack((table.duration_s, option_work_s))
    on_path_start, on_path = undercut_by_none(problem.option_start, table.duration_s, everything)
    beside_start, beside = undercut_by_none(problem.option_start, table.duration_s, option_work_s.copy())
    return PricedOptions(
        path_start=on_path_start,
        path_s=table.duration_s[on_path],
        path_work_s=option_work_s[on_path],
        beside_start=beside_start,
        beside_work_s=option_work_s[beside],
    )


def first_prices(structure: PathStructure, options: PricedOptions) -> Floats:
    """[C, 4] prices to start from: of time, tensor cores, vector cores, bandwidth; they add up to 1."""
    price = np.full((structure.classes, 4), 0.1)
    price[structure.path_classes :] = (0.0, 1 / 3, 1 / 3, 1 / 3)
    for row in range(len(structure.row_class)):
        span = slice(*options.path_start[structure.row_item[row] : structure.row_item[row] + 2])
        fastest = options.path_work_s[span][options.path_s[span].argmin()]
        price[structure.row_class[row]] = 0.1
        price[structure.row_class[row], 1 + fastest.argmax()] = 0.7
    return price


def best_prices(
    structure: PathStructure, options: PricedOptions, start: Floats | None = None, *, rounds: int = ROUNDS
) -> tuple[float, Floats]:
    """The best bound [s] an ascent finds, and its prices [C, 4].

    Args:
        structure: a path and what may run beside it.
        options: options on the design to be bounded.
        start: prices to start from; with good ones (of a similar design) the last few rounds are enough.
        rounds: how many of the last rounds to do.
    """
    price = first_prices(structure, options) if start is None else start.copy()
    return ascend(_arguments(structure, options), price, ROUNDS - rounds, ROUNDS)


def price_bound(structure: PathStructure, options: PricedOptions, prices: Floats) -> float:
    """The bound [s] that given prices [C, 4] are on a design."""
    used = np.empty((structure.classes, 4))
    return paid(_arguments(structure, options), prices, used, 1.0)


def _arguments(structure: PathStructure, options: PricedOptions) -> tuple[Any, ...]:
    """A structure and its options as the kernels take them."""
    s, o = structure, options
    rows = (s.row_class, s.row_item, s.row_count, o.path_start, o.path_s, o.path_work_s)
    return (*rows, s.group_item, s.group_count, s.group_start, s.group_class, o.beside_start, o.beside_work_s)


@compiled
def undercut_by_none(option_start: Ints, duration_s: Floats, figures: Floats) -> tuple[Ints, Ints]:
    """CSR of the options of every item that no other option is at most as large as in all figures [O, F]."""
    items = len(option_start) - 1
    start = np.zeros(items + 1, np.int64)
    kept = np.empty(len(duration_s), np.int64)
    at = 0
    for item in range(items):
        for option in range(option_start[item], option_start[item + 1]):
            if duration_s[option] == np.inf:
                continue
            undercut = False
            for other in range(option_start[item], option_start[item + 1]):
                if other == option or duration_s[other] == np.inf:
                    continue
                least, less = True, False
                for figure in range(figures.shape[1]):
                    least = least and figures[other, figure] <= figures[option, figure]
                    less = less or figures[other, figure] < figures[option, figure]
                # Of equal ones the first stays.
                if least and (less or other < option):
                    undercut = True
                    break
            if not undercut:
                kept[at] = option
                at += 1
        start[item + 1] = at
    return start, kept[:at].copy()


@compiled
def paid(problem: tuple[Any, ...], price: Floats, used: Floats, width: float) -> float:
    """What all tasks pay at least [s], the bound; `used` [C, 4] is what they buy, choices softened by `width` [1].

    `problem` is what `_arguments` makes.
    """
    (
        row_class,
        row_item,
        row_count,
        path_start,
        path_s,
        path_work_s,
        group_item,
        group_count,
        group_start,
        group_class,
        beside_start,
        beside_work_s,
    ) = problem
    used[:] = 0.0
    value = 0.0
    classes = len(price)
    furthest = 1.0 + NEGLIGIBLE * width
    cost = np.empty(classes)
    pick = np.empty(classes, np.int64)
    for row in range(len(row_class)):
        c, item = row_class[row], row_item[row]
        least = np.inf
        for option in range(path_start[item], path_start[item + 1]):
            pays = price[c, 0] * path_s[option]
            for resource in range(3):
                pays += price[c, 1 + resource] * path_work_s[option, resource]
            least = min(least, pays)
        value += row_count[row] * least
        if least <= 0.0:
            continue
        total = 0.0
        for again in range(2):
            for option in range(path_start[item], path_start[item + 1]):
                pays = price[c, 0] * path_s[option]
                for resource in range(3):
                    pays += price[c, 1 + resource] * path_work_s[option, resource]
                if pays > furthest * least:
                    continue
                share = np.exp((1.0 - pays / least) / width)
                if again == 0:
                    total += share
                else:
                    share *= row_count[row] / total
                    used[c, 0] += share * path_s[option]
                    for resource in range(3):
                        used[c, 1 + resource] += share * path_work_s[option, resource]
    for group in range(len(group_item)):
        item, first = group_item[group], group_start[group]
        least = np.inf
        for at in range(first, group_start[group + 1]):
            c = group_class[at]
            cost[at - first] = np.inf
            for option in range(beside_start[item], beside_start[item + 1]):
                pays = 0.0
                for resource in range(3):
                    pays += price[c, 1 + resource] * beside_work_s[option, resource]
                if pays < cost[at - first]:
                    cost[at - first] = pays
                    pick[at - first] = option
            least = min(least, cost[at - first])
        value += group_count[group] * least
        if least <= 0.0:
            continue
        total = 0.0
        for at in range(group_start[group + 1] - first):
            cost[at] = np.exp((1.0 - cost[at] / least) / width) if cost[at] <= furthest * least else 0.0
            total += cost[at]
        for at in range(group_start[group + 1] - first):
            if cost[at] > 0.0:
                share = group_count[group] * cost[at] / total
                for resource in range(3):
                    used[group_class[first + at], 1 + resource] += share * beside_work_s[pick[at], resource]
    return value


@compiled
def ascend(problem: tuple[Any, ...], price: Floats, first_round: int, last_round: int) -> tuple[float, Floats]:
    """Exponentiated gradient ascent over prices that add up to 1 in every class; every iterate is a bound.

    `problem` is what `_arguments` makes.
    """
    used = np.empty(price.shape)
    best_price = price.copy()
    best = paid(problem, price, used, 1.0)
    for turn in range(first_round, last_round):
        width, rate = FIRST_WIDTH * WIDTH_FACTOR**turn, FIRST_RATE * RATE_FACTOR**turn
        price[:] = best_price
        for c in range(len(price)):
            for figure in range(4):
                if price[c, figure] > 0.0:
                    price[c, figure] = max(price[c, figure], LEAST_PRICE)
            price[c] /= price[c].sum()
        for _ in range(STEPS):
            value = paid(problem, price, used, width)
            if value > best:
                best = value
                best_price[:] = price
            for c in range(len(price)):
                # The derivative of the value by a price is the use of what it prices.
                largest = used[c].max()
                if largest > 0.0:
                    total = 0.0
                    for figure in range(4):
                        price[c, figure] *= np.exp(rate * (used[c, figure] / largest - 1.0))
                        total += price[c, figure]
                    price[c] /= total
    return best, best_price
