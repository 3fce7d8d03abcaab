"""Exploring: only within the limits, only what no bound rules out, and better than the order of the bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.graph.builders import transformer_training
from tests.search.strategies import technology

from worklode.hardware.presets import load_preset
from worklode.hardware.space import default_space
from worklode.search.bounder import Bounder
from worklode.search.certificate import ProofOptions, prove
from worklode.search.evaluate import Evaluator, silicon
from worklode.search.exploration import explore
from worklode.search.frontier import Frontier
from worklode.search.grid import Grid
from worklode.search.local import LocalSearch, LocalSearchOptions
from worklode.search.objective import Limits, Objective

BUDGET = load_preset("tpuv2")
QUICK = LocalSearchOptions(shapes=4, finalists=0)


def searched(objective: Objective = Objective.THROUGHPUT, options: LocalSearchOptions = QUICK) -> LocalSearch:
    """A local search over the default space under the limits of TPUv2 that has run."""
    found = silicon(BUDGET, technology())
    evaluator = Evaluator(transformer_training(tokens=1024, width=1024).graph(), technology())
    search = LocalSearch(
        [evaluator],
        [1.0],
        Grid(default_space(BUDGET), technology()),
        Limits(area_mm2=found.area_mm2, tdp_w=found.tdp_w),
        objective,
        options,
    )
    search.run((BUDGET,))
    return search


def frontier_of(search: LocalSearch) -> tuple[Frontier, Bounder]:
    """What the prices of its best design leave."""
    best = search.candidates()[0]
    bounder = Bounder(search.estimator.tables, search.aggregate, search.grid, search.objective)
    bounder.add_guide(best.accelerator)
    frontier = Frontier(
        search.grid, search.limits, lambda row, power: bounder.work_bounds(power, slice(row, row + 1)), best.figure
    )
    frontier.raise_to(slice(None), bounder.bounds(frontier.points, frontier.power))
    frontier.drop(best.figure)
    frontier.mark_seen(search.seen)
    return frontier, bounder


def test_it_schedules_what_keeps_the_limits_and_may_be_among_the_best() -> None:
    search = searched()
    before = dict(search.seen)
    frontier, bounder = frontier_of(search)
    assert len(frontier) > 50
    assert explore(search, frontier, bounder, most=20) == 20
    new = [candidate for accelerator, candidate in search.seen.items() if accelerator not in before]
    assert len(new) == 20
    assert all(search.legal(candidate) and candidate.origin == "surrogate" for candidate in new)
    assert frontier.seen.sum() >= 20
    assert {tuple(row) for row in frontier.points[frontier.seen].tolist()} >= {
        search.grid.space.indices_of(candidate.accelerator) for candidate in new
    }
    assert explore(search, frontier, bounder, most=0) == 0


def test_it_ends_where_nothing_is_left_that_may_be_among_the_best() -> None:
    """With no bound on their number, whatever could be among the best by its bound has been scheduled."""
    search = searched(options=replace(QUICK, top_k=1))
    frontier, bounder = frontier_of(search)
    points = frontier.points.copy()
    explore(search, frontier, bounder, most=10**5, modelled=10**6)
    best = search.candidates()[0].figure
    # What was swept away by its options has a bound above the best; all others are known.
    bound = bounder.bounds(points, search.grid.silicon(points)[1], by_options=True)
    left = [tuple(row) for row in points[bound < best].tolist()]
    assert all(search.grid.accelerator(point) in search.seen for point in left)


def test_it_finds_in_a_few_schedules_what_the_order_of_the_bounds_does_not() -> None:
    """As many schedules with and without: never behind by more than one schedule's scatter, and ahead on the whole."""
    ratios = []
    for objective in (Objective.THROUGHPUT, Objective.THROUGHPUT_PER_TDP, Objective.ENERGY):
        figures = []
        for explored in (12, 0):
            search = searched(objective)
            prove(search, ProofOptions(explored=explored, max_evaluations=12, guides=2, sharpened=0, workers=1))
            figures.append(search.candidates()[0].figure)
        ratios.append(figures[0] / figures[1])
    assert max(ratios) <= 1.003
    assert np.prod(ratios) < 1.0
