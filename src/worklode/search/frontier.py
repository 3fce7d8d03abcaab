"""The designs of a space that no bound rules out: what a proof has left to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_parts
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.power import tdp_parts
from worklode.search.bounder import Bounder
from worklode.search.grid import ROWS, Floats, Grid, Points
from worklode.search.objective import Limits

Flags = NDArray[np.bool_]
# Bounds of the mesh of one slice of the space, from its place along the first axis and its TDP.
SliceBounds = Callable[[int, Floats], Floats]


class Frontier:
    """[D] designs within the limits that no bound has ruled out yet, and what is known of each.

    Attributes:
        within: designs within the limits, those ruled out included [count].
        points: [D, 7] indices into the axes of the grid.
        power: [D] TDP [W].
        bound: [D] lower bounds of the figures.
        swept, sharp, polished: [D] bounded by their options; one by one; and by several paths.
        seen: [D] scheduled.
    """

    def __init__(self, grid: Grid, limits: Limits, bounds: SliceBounds, below: float) -> None:
        """Those whose bound is below a figure, `bounds` being told the slice and its TDP."""
        self.grid = grid
        self.within = 0
        points, power, bound = [], [], []
        for row, keeps, slice_power in _slices(grid, limits):
            self.within += int(keeps.sum())
            found = np.broadcast_to(bounds(row, slice_power), keeps.shape)
            left = keeps & (found < below)
            points.append(_points_of(row, left))
            power.append(slice_power[left])
            bound.append(found[left])
        self.points: Points = np.concatenate(points)
        self.power: Floats = np.concatenate(power)
        self.bound: Floats = np.concatenate(bound)
        self.swept, self.sharp, self.polished, self.seen = np.zeros((4, len(self.points)), np.bool_)

    def __len__(self) -> int:
        return len(self.points)

    def drop(self, below: float) -> None:
        """Keep those whose bound is below a figure."""
        left = self.bound < below
        if left.all():
            return
        names = ("points", "power", "bound", "swept", "sharp", "polished", "seen")
        kept = {name: getattr(self, name)[left] for name in names}
        self.__dict__.update(kept)  # all at once: an interrupt finds arrays of one length

    def raise_to(self, index: Any, bound: Floats | float) -> None:
        """Take the better bounds of those at an index."""
        self.bound[index] = np.maximum(self.bound[index], bound)

    def sweep(self, index: NDArray[np.intp], bounder: Bounder) -> None:
        """Bound those at an index by their options."""
        self.raise_to(index, bounder.bounds(self.points[index], self.power[index], by_options=True))
        self.swept[index] = True

    def mark_seen(self, scheduled: Iterable[Accelerator]) -> None:
        """Remember which are among the scheduled designs."""
        space = self.grid.space
        known = [space.position(point) for one in scheduled if (point := space.indices_of(one)) is not None]
        positions = np.ravel_multi_index(tuple(self.points.T), space.shape)
        self.seen = np.isin(positions, known)

    def lowest(self, which: Flags, most: int) -> NDArray[np.intp]:
        """Indices of those of least bound, at most so many, least first."""
        index = np.flatnonzero(which)
        return index[np.argsort(self.bound[index], kind="stable")[:most]]


def designs_within(grid: Grid, limits: Limits) -> tuple[Points, Floats]:
    """[D, 7] the designs of a grid that keep the limits, and [D] their TDP [W]."""
    found = [(_points_of(row, keeps), power[keeps]) for row, keeps, power in _slices(grid, limits)]
    return np.concatenate([points for points, _ in found]), np.concatenate([power for _, power in found])


def _slices(grid: Grid, limits: Limits) -> Iterator[tuple[int, Flags, Floats]]:
    """Which designs of each slice of the mesh, one place along its first axis, keep the limits, and TDP of all [W].

    A slice at a time stays in the cache: less time than the whole mesh at once, and a ninth of its memory.
    """
    space, technology = grid.space, grid.technology
    for row, rows in enumerate(space.tensor_core_rows):
        part = replace(space, tensor_core_rows=(rows,))
        mesh = part.mesh()
        area = np.asarray(area_parts(mesh, technology).total, np.float64)
        power = np.broadcast_to(np.asarray(tdp_parts(mesh, technology).total, np.float64), part.shape)
        capacity = mesh.hbm_stacks * float(space.hbm_stack_bytes)
        keeps = (area <= limits.area_mm2) & (power <= limits.tdp_w) & (capacity >= limits.hbm_bytes)
        yield row, np.broadcast_to(keeps, part.shape).copy(), power


def _points_of(row: int, keeps: Flags) -> Points:
    points = np.empty((int(keeps.sum()), len(SEARCHED_FIELDS)), np.int64)
    for axis, index in enumerate(np.nonzero(keeps)):
        points[:, axis] = index
    points[:, ROWS] = row
    return points
