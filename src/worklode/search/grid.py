"""Designs of a space as rows of indices, so that thousands of them are judged at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_parts
from worklode.hardware.design_arrays import SEARCHED_FIELDS, DesignArrays
from worklode.hardware.power import tdp_parts
from worklode.hardware.space import DesignSpace
from worklode.hardware.technology import Technology

Points = NDArray[np.int64]
Floats = NDArray[np.float64]
Point = tuple[int, ...]

ROWS, COLS, LANES, TENSOR_CORES, VECTOR_CORES, SRAM, HBM = range(len(SEARCHED_FIELDS))


class Grid:
    """A design space as a grid of indices, with area and TDP of many designs at once."""

    def __init__(self, space: DesignSpace, technology: Technology) -> None:
        self.space = space
        self.technology = technology
        self.axes: tuple[NDArray[np.int64], ...] = tuple(
            np.asarray(getattr(space, axis), np.int64) for axis in SEARCHED_FIELDS
        )
        self.lengths = np.array([len(axis) for axis in self.axes], np.int64)

    def accelerator(self, point: Point) -> Accelerator:
        """The design of a point."""
        return self.space.accelerator(point)

    def inside(self, points: Points) -> NDArray[np.bool_]:
        """[D] which points are in the grid."""
        return np.asarray(((points >= 0) & (points < self.lengths)).all(axis=1))

    def designs(self, points: Points) -> DesignArrays:
        """The designs of [D] points."""
        columns: dict[str, Any] = dict(self.space.shared)
        for index, (name, axis) in enumerate(zip(SEARCHED_FIELDS, self.axes, strict=True)):
            columns[name] = axis[points[:, index]]
        return DesignArrays(**columns)

    def silicon(self, points: Points) -> tuple[Floats, Floats]:
        """[D] area [mm²] and [D] TDP [W]."""
        designs = self.designs(points)
        shape = np.zeros(len(points))
        area = area_parts(designs, self.technology).total + shape
        power = tdp_parts(designs, self.technology).total + shape
        return area, power

    def below(self, accelerator: Accelerator) -> Point:
        """The point with the largest values that are not above the accelerator's, or the least there are."""
        return tuple(
            max(0, int(np.searchsorted(axis, getattr(accelerator, name), side="right")) - 1)
            for name, axis in zip(SEARCHED_FIELDS, self.axes, strict=True)
        )

    def shapes(self) -> Points:
        """Every shape of tensor core with the least of everything else, one point each."""
        rows, cols = np.meshgrid(np.arange(self.lengths[ROWS]), np.arange(self.lengths[COLS]), indexing="ij")
        points = np.zeros((rows.size, len(SEARCHED_FIELDS)), np.int64)
        points[:, ROWS], points[:, COLS] = rows.ravel(), cols.ravel()
        return points


def moves(axes: tuple[int, ...], steps: tuple[int, ...] = (1, 2, 4)) -> Points:
    """Steps along one axis, and exchanges: up on one axis, down on another. [M, axes], every row differs.

    Args:
        axes: axes that may change.
        steps: lengths of single steps; exchanges take all but the last.
    """
    found: list[list[int]] = []

    def add(*changes: tuple[int, int]) -> None:
        row = [0] * len(SEARCHED_FIELDS)
        for axis, step in changes:
            row[axis] += step
        found.append(row)

    for axis in axes:
        for step in steps:
            add((axis, step))
            add((axis, -step))
    for up in axes:
        for down in axes:
            if up != down:
                for gain in steps[:-1]:
                    for loss in steps[:-1]:
                        add((up, gain), (down, -loss))
    return np.array(found, np.int64)
