"""Looking for better designs among those that no bound rules out, by what is learned of each that is scheduled.

Method: docs/models/search.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worklode.search.bounder import Bounder
from worklode.search.frontier import Frontier
from worklode.search.local import LocalSearch, point_of
from worklode.search.surrogate import Surrogate

# Designs among which the surrogate looks, and from which it learns, at most [count]: with so many of both 0.3 ms for
# each that is scheduled, and 13 MB.
MODELLED, LEARNED = 4000, 400


def explore(search: LocalSearch, frontier: Frontier, bounder: Bounder, *, most: int, modelled: int = MODELLED) -> int:
    """Schedule designs of the frontier that may be among the best that are asked for (`LocalSearchOptions.top_k`).

    Args:
        search: knows scheduled designs within the limits; knows these too afterwards.
        frontier: where to look. Those that the surrogate looks at are bounded by their options.
        bounder: with at least one guide.
        most: designs to schedule [count].
        modelled: designs to look at [count].

    Returns:
        How many were scheduled.
    """
    if most <= 0 or not len(frontier) or search.out_of_time():
        return 0
    search.estimated += len(frontier)
    # Where bounds are far from figures, estimates often are not: the mean of both leads to the better designs.
    estimate = search.estimator.figures(frontier.points, frontier.power)
    chosen = np.argsort(frontier.bound * estimate, kind="stable")[:modelled]
    frontier.sweep(chosen, bounder)
    points, bound = frontier.points[chosen], frontier.bound[chosen]
    surrogate = Surrogate(points, bound, estimate[chosen], min(len(search.seen) + most, LEARNED))
    _observe_known(surrogate, search, bounder)
    unknown = ~frontier.seen[chosen]
    scheduled = 0
    while scheduled < most:
        unknown &= bound < _last_of_best(search)
        if not unknown.any() or search.out_of_time():
            break
        index = int(np.where(unknown, surrogate.optimistic(), np.inf).argmin())
        unknown[index] = False
        candidate = search.schedule(search.grid.accelerator(point_of(points[index])), "surrogate")
        surrogate.observe_one(index, candidate.figure)
        scheduled += 1
    frontier.mark_seen(search.seen)
    return scheduled


def _observe_known(surrogate: Surrogate, search: LocalSearch, bounder: Bounder) -> None:
    """Learn the better half of what there is to learn from what the search has scheduled.

    The budget's own design may lie outside the grid.
    """
    known: dict[tuple[int, ...], float] = {}
    for accelerator, figure in sorted(search.quick_figures.items(), key=lambda pair: pair[1]):
        point = search.grid.space.indices_of(accelerator)
        if point is not None and len(known) < LEARNED // 2:
            known[point] = figure
    if not known:
        return
    points: NDArray[np.int64] = np.array(list(known), np.int64)
    power = search.grid.silicon(points)[1]
    bound = bounder.bounds(points, power, by_options=True)
    surrogate.observe(points, bound, search.estimator.figures(points, power), np.array(list(known.values())))


def _last_of_best(search: LocalSearch) -> float:
    """Figure of the last of the best designs that are asked for, by quick schedules; infinite where there are fewer."""
    figures = sorted(search.quick_figures[found.accelerator] for found in search.candidates())
    return figures[search.options.top_k - 1] if len(figures) >= search.options.top_k else float("inf")
