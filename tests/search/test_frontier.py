"""The frontier against every design of small spaces, one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from tests.search.strategies import small_limits, small_space, technology

from worklode.search.evaluate import silicon
from worklode.search.frontier import Frontier, designs_within
from worklode.search.grid import Floats, Grid
from worklode.search.objective import Limits


def slow(grid: Grid, limits: Limits) -> tuple[list[tuple[int, ...]], list[float]]:
    """Designs within the limits in the order of the mesh, and their TDP."""
    points, power = [], []
    for position in range(grid.space.size):
        point = grid.space.indices(position)
        accelerator = grid.accelerator(point)
        found = silicon(accelerator, technology())
        if limits.allow(area_mm2=found.area_mm2, tdp_w=found.tdp_w, hbm_bytes=accelerator.hbm_bytes):
            points.append(point)
            power.append(found.tdp_w)
    return points, power


def position_bounds(grid: Grid) -> Floats:
    """A bound for every design of the mesh, no two alike."""
    return np.random.default_rng(0).permutation(grid.space.size).reshape(grid.space.shape).astype(np.float64)


@pytest.mark.parametrize("seed", range(12))
def test_it_holds_what_keeps_the_limits_and_no_bound_rules_out(seed: int) -> None:
    space = small_space(seed)
    grid, limits = Grid(space, technology()), small_limits(seed, space)
    points, power = slow(grid, limits)
    found, tdp_w = designs_within(grid, limits)
    assert [tuple(map(int, row)) for row in found] == points
    assert tdp_w == pytest.approx(power, rel=1e-12)
    mesh = position_bounds(grid)
    below = space.size / 3
    frontier = Frontier(grid, limits, lambda row, _: mesh[row : row + 1], below)
    assert frontier.within == len(points)
    left = [point for point in points if mesh[point] < below]
    assert [tuple(map(int, row)) for row in frontier.points] == left
    assert frontier.bound.tolist() == [mesh[point] for point in left]
    assert len(frontier) == len(left)


def test_what_is_dropped_takes_its_marks_along() -> None:
    space = small_space(1)
    grid = Grid(space, technology())
    mesh = position_bounds(grid)
    frontier = Frontier(grid, Limits(), lambda row, _: mesh[row : row + 1], np.inf)
    assert len(frontier) == space.size
    scheduled = [grid.accelerator(space.indices(position)) for position in (0, space.size - 1)]
    frontier.mark_seen(scheduled)
    assert [space.position(row) for row in frontier.points[frontier.seen].tolist()] == [0, space.size - 1]
    last = mesh[space.indices(space.size - 1)]
    frontier.drop(last + 0.5)
    assert frontier.bound.max() == last
    assert frontier.seen.sum() == 1 + (mesh.ravel()[0] <= last)
    lowest = frontier.lowest(~frontier.seen, 3)
    assert frontier.bound[lowest].tolist() == sorted(frontier.bound[~frontier.seen])[:3]
    frontier.raise_to(lowest, np.full(len(lowest), -1.0))
    assert (frontier.bound >= 0).all()
