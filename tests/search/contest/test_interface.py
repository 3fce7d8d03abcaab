"""What a problem tells of a design without scheduling it, against the limits themselves."""

from __future__ import annotations

import numpy as np
import pytest
from tests.search.contest.problems import small_contest, space_of_648
from tests.search.strategies import small_evaluator, small_limits, small_space, technology

from worklode.search.contest.interface import Problem
from worklode.search.grid import Grid
from worklode.search.objective import Limits, Objective


def problem_of(grid: Grid, limits: Limits) -> Problem:
    return Problem(
        evaluators=(small_evaluator(0),), weights=(1.0,), grid=grid, limits=limits, objective=Objective.THROUGHPUT
    )


@pytest.mark.parametrize("seed", range(30))
def test_legal_is_what_the_limits_allow(seed: int) -> None:
    """On drawn spaces and limits, some of them met exactly, or missed by the last bit."""
    space = small_space(seed)
    grid = Grid(space, technology())
    points = np.array([space.indices(position) for position in range(space.size)], np.int64)
    area, power = grid.silicon(points)
    exact = float(np.quantile(area, 0.5, method="nearest"))
    for limits in (
        small_limits(seed, space),
        Limits(area_mm2=exact),
        Limits(area_mm2=float(np.nextafter(exact, 0.0))),
    ):
        problem = problem_of(grid, limits)
        excess = problem.excess(points)
        for index, point in enumerate(points):
            capacity = grid.accelerator(tuple(map(int, point))).hbm_bytes
            allowed = limits.allow(area_mm2=float(area[index]), tdp_w=float(power[index]), hbm_bytes=capacity)
            assert (excess[index] <= 0.0) == allowed
            assert (problem.broken(tuple(map(int, point))) == ()) == allowed
        assert list(problem.legal(points)) == list(excess <= 0.0)


def test_excess_is_that_of_the_limit_broken_most() -> None:
    grid = Grid(space_of_648(), technology())
    points = np.array([[1, 2, 2, 2, 2, 1, 0]], np.int64)
    area, power = grid.silicon(points)
    capacity = float(grid.accelerator((1, 2, 2, 2, 2, 1, 0)).hbm_bytes)
    limits = Limits(area_mm2=float(area[0]) / 1.5, tdp_w=float(power[0]) * 2.0, hbm_bytes=1.25 * capacity)
    problem = problem_of(grid, limits)
    assert problem.excess(points)[0] == pytest.approx(0.5)
    broken = {one.limit: (one.value, one.allowed) for one in problem.broken((1, 2, 2, 2, 2, 1, 0))}
    assert broken == {"area_mm2": (area[0], limits.area_mm2), "hbm_bytes": (capacity, limits.hbm_bytes)}


def test_draws_are_within_the_limits_and_repeat_with_the_seed() -> None:
    problem = small_contest().problem()
    drawn = problem.draw(np.random.default_rng(3), 50)
    assert len(drawn) == 50
    assert problem.legal(np.array(drawn, np.int64)).all()
    assert problem.draw(np.random.default_rng(3), 50) == drawn
    every = problem.draw(np.random.default_rng(3), 1000, legal=False)
    assert 0.3 < problem.legal(np.array(every, np.int64)).mean() < 0.7
    assert problem.start is not None
    assert small_contest(area_share=0.01).problem().draw(np.random.default_rng(3), 1) == []


def test_points_outside_the_grid_are_not_legal() -> None:
    problem = small_contest().problem()
    assert not problem.legal(np.array([[99] * 7, [-1] * 7], np.int64)).any()
