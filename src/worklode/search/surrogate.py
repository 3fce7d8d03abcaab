"""What a design's figure is likely to be, learned from the designs scheduled so far. Method: docs/models/search.md.

A Gaussian process over the logarithm of figure / bound: the bound follows the figure closely, by itself and from design
to design, so little is left to learn. C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning,
2006, section 2.2 and algorithm 2.1; one observation at a time, so that a further one costs one row of the factor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from worklode.search.grid import Floats, Points

# Deviations [1] of log(figure / bound) that designs share, that differ smoothly over the grid, and of a single
# schedule; and over how many steps of an axis designs resemble each other [count]. How far the estimate is above the
# bound says as much again as it is: a deviation of 1. Measured on nineteen pairs of model and budget: half or twice
# as much of any finds the same designs, a few schedules sooner or later (docs/models/search.md).
SHARED, SMOOTH, SCATTER, REACH = 0.05, 0.02, 0.003, 3.0
# Designs are looked at in the order of their mean less so many deviations [count].
OPTIMISM = 1.0
# Differences of two optimistic figures that are rounding [1].
_ROUNDING_DIGITS = 9


class Surrogate:
    """Predicted figures of [C] designs, given those of others."""

    def __init__(self, points: Points, bound: Floats, estimate: Floats, most: int) -> None:
        """Know nothing of them yet.

        Args:
            points: [C, 7] designs, as indices into the axes of a grid.
            bound: [C] lower bound of each figure.
            estimate: [C] what the estimator says of it (`search.estimator`), in the same unit.
            most: observations to learn from [count]; further ones change nothing.
        """
        self.bound = bound
        self.log_bound = np.log(bound)
        self.count = 0
        axes = points.shape[1]
        # Column for column what the kernel compares: indices in units of reach, and the estimate over the bound.
        self._at = _columns(points, self.log_bound, estimate)
        self._seen = np.empty((most, axes + 1))
        self._factor = np.zeros((most, most))
        self._whitened = np.empty(most)
        self._across = np.empty((most, len(points)))
        self._mean = np.zeros(len(points))
        self._variance = SHARED**2 + SMOOTH**2 + self._at[:, -1] ** 2

    def observe(self, points: Points, bound: Floats, estimate: Floats, figures: Floats) -> None:
        """Learn the figures of [N] scheduled designs, arguments as above; they need not be among the [C]."""
        log_bound = np.log(bound)
        for at, value in zip(_columns(points, log_bound, estimate), np.log(figures) - log_bound, strict=True):
            self._learn(at, float(value))

    def observe_one(self, index: int, figure: float) -> None:
        """Learn the figure of one of the [C] designs."""
        self._learn(self._at[index], math.log(figure) - self.log_bound[index])

    def _learn(self, at: Floats, value: float) -> None:
        if self.count == len(self._seen):
            return
        self._seen[self.count] = at
        state = (self._seen, self._factor, self._whitened, self._across, self._mean, self._variance)
        _condition(self._at, *state, self.count, value)
        self.count += 1

    def optimistic(self) -> Floats:
        """[C] figures that designs may have if all goes well: mean less `OPTIMISM` deviations, at least the bound."""
        deviation = np.sqrt(np.maximum(self._variance, 0.0))
        likely = np.round(self._mean - OPTIMISM * deviation, _ROUNDING_DIGITS)
        return np.asarray(self.bound * np.exp(np.maximum(likely, 0.0)))


def _columns(points: Points, log_bound: Floats, estimate: Floats) -> Floats:
    return np.ascontiguousarray(np.column_stack((points / REACH, np.log(estimate) - log_bound)))


@njit(cache=True, nogil=True)
def _covariance(one: Floats, other: Floats) -> float:
    """Of the values of two designs, one schedule's own scatter apart."""
    axes = len(one) - 1
    apart = 0.0
    for axis in range(axes):
        apart += (one[axis] - other[axis]) ** 2
    return float(SHARED**2 + SMOOTH**2 * math.exp(-0.5 * apart) + one[axes] * other[axes])


@njit(cache=True, nogil=True)
def _condition(
    at: Floats,
    seen: Floats,
    factor: Floats,
    whitened: Floats,
    across: Floats,
    mean: Floats,
    variance: Floats,
    count: int,
    value: float,
) -> Any:
    """Add observation `count`, whose columns are in `seen`: one row of the Cholesky factor, and of what it says of all.

    Args:
        at: [C, 8] columns of all designs.
        seen: [N, 8] of those observed; factor: [N, N], whitened: [N], across: [N, C], rows up to `count` known.
        mean, variance: [C] brought up to date.
        count: observations before this one.
        value: what was observed.
    """
    row = factor[count]
    new = seen[count]
    own = _covariance(new, new) + SCATTER**2
    rest = value
    for i in range(count):
        covered = _covariance(new, seen[i])
        for j in range(i):
            covered -= row[j] * factor[i, j]
        row[i] = covered / factor[i, i]
        own -= row[i] * row[i]
        rest -= row[i] * whitened[i]
    # What is scattered is never known before: `own` is at least that, up to rounding.
    row[count] = math.sqrt(max(own, SCATTER**2 * 0.5))
    whitened[count] = rest / row[count]
    for c in range(len(mean)):
        across[count, c] = _covariance(new, at[c])
    for i in range(count):
        for c in range(len(mean)):
            across[count, c] -= row[i] * across[i, c]
    for c in range(len(mean)):
        across[count, c] /= row[count]
        mean[c] += across[count, c] * whitened[count]
        variance[c] -= across[count, c] * across[count, c]
