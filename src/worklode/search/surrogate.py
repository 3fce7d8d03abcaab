"""What a design's figure is likely to be, learned from the designs scheduled so far. Method: docs/models/search.md.

A Gaussian process over the logarithm of figure / bound: the bound follows the figure closely, by itself and from design
to design, so little is left to learn. C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning,
2006, section 2.2 and algorithm 2.1; one observation at a time, so that a further one costs one row of the factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from worklode.search.grid import Floats, Points

# Designs are looked at in the order of their mean less so many deviations [count].
OPTIMISM = 1.0
# Differences of two optimistic figures that are rounding [1].
_ROUNDING_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is assumed of log(figure / bound) before anything is scheduled; measured in docs/models/search.md.

    Attributes:
        shared: deviation that all designs have in common [1].
        smooth: deviation that differs smoothly over the grid [1].
        scatter: deviation of a single schedule [1].
        reach: over how many steps of an axis designs resemble each other [count].
        slope: deviation of how much of what the estimate is above the bound the figure is above it too [1].
    """

    shared: float = 0.05
    smooth: float = 0.02
    scatter: float = 0.003
    reach: float = 3.0
    slope: float = 1.0


DEFAULT_PRIOR = Prior()


class Surrogate:
    """Predicted figures of [C] designs, given those of others."""

    def __init__(
        self, points: Points, bound: Floats, estimate: Floats, most: int, prior: Prior = DEFAULT_PRIOR
    ) -> None:
        """Know nothing of them yet.

        Args:
            points: [C, 7] designs, as indices into the axes of a grid.
            bound: [C] lower bound of each figure.
            estimate: [C] what the estimator says of it (`search.estimator`), in the same unit.
            most: observations to learn from [count]; further ones change nothing.
            prior: what is assumed.
        """
        self.bound = bound
        self.prior = prior
        self.log_bound = np.log(bound)
        self.count = 0
        axes = points.shape[1]
        # Column for column what the kernel compares: indices in units of reach, and the estimate over the bound.
        self._at = self._columns(points, self.log_bound, estimate)
        self._seen = np.empty((most, axes + 1))
        self._factor = np.zeros((most, most))
        self._whitened = np.empty(most)
        self._across = np.empty((most, len(points)))
        self._mean = np.zeros(len(points))
        self._variance = prior.shared**2 + prior.smooth**2 + self._at[:, -1] ** 2

    def observe(self, points: Points, bound: Floats, estimate: Floats, figures: Floats) -> None:
        """Learn the figures of [N] scheduled designs, arguments as above; they need not be among the [C]."""
        log_bound = np.log(bound)
        for at, value in zip(self._columns(points, log_bound, estimate), np.log(figures) - log_bound, strict=True):
            self._learn(at, float(value))

    def observe_one(self, index: int, figure: float) -> None:
        """Learn the figure of one of the [C] designs."""
        self._learn(self._at[index], math.log(figure) - self.log_bound[index])

    def _learn(self, at: Floats, value: float) -> None:
        if self.count == len(self._seen):
            return
        self._seen[self.count] = at
        state = (self._seen, self._factor, self._whitened, self._across, self._mean, self._variance)
        deviations = (self.prior.shared, self.prior.smooth, self.prior.scatter)
        _condition(self._at, *state, self.count, value, *deviations)
        self.count += 1

    def _columns(self, points: Points, log_bound: Floats, estimate: Floats) -> Floats:
        over = self.prior.slope * (np.log(estimate) - log_bound)
        return np.ascontiguousarray(np.column_stack((points / self.prior.reach, over)))

    def optimistic(self) -> Floats:
        """[C] figures that designs may have if all goes well: mean less `OPTIMISM` deviations, at least the bound."""
        deviation = np.sqrt(np.maximum(self._variance, 0.0))
        likely = np.round(self._mean - OPTIMISM * deviation, _ROUNDING_DIGITS)
        return np.asarray(self.bound * np.exp(np.maximum(likely, 0.0)))


@njit(cache=True, nogil=True)
def _covariance(one: Floats, other: Floats, shared: float, smooth: float) -> float:
    """Of the values of two designs, one schedule's own scatter apart."""
    axes = len(one) - 1
    apart = 0.0
    for axis in range(axes):
        apart += (one[axis] - other[axis]) ** 2
    return float(shared * shared + smooth * smooth * math.exp(-0.5 * apart) + one[axes] * other[axes])


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
    shared: float,
    smooth: float,
    scatter: float,
) -> Any:
    """Add observation `count`, whose columns are in `seen`: one row of the Cholesky factor, and of what it says of all.

    Args:
        at: [C, 8] columns of all designs.
        seen: [N, 8] of those observed; factor: [N, N], whitened: [N], across: [N, C], rows up to `count` known.
        mean, variance: [C] brought up to date.
        count: observations before this one.
        value: what was observed.
        shared, smooth, scatter: see `Prior`.
    """
    row = factor[count]
    new = seen[count]
    own = _covariance(new, new, shared, smooth) + scatter * scatter
    rest = value
    for i in range(count):
        covered = _covariance(new, seen[i], shared, smooth)
        for j in range(i):
            covered -= row[j] * factor[i, j]
        row[i] = covered / factor[i, i]
        own -= row[i] * row[i]
        rest -= row[i] * whitened[i]
    # What is scattered is never known before: `own` is at least that, up to rounding.
    row[count] = math.sqrt(max(own, 0.5 * scatter * scatter))
    whitened[count] = rest / row[count]
    for c in range(len(mean)):
        across[count, c] = _covariance(new, at[c], shared, smooth)
    for i in range(count):
        for c in range(len(mean)):
            across[count, c] -= row[i] * across[i, c]
    for c in range(len(mean)):
        across[count, c] /= row[count]
        mean[c] += across[count, c] * whitened[count]
        variance[c] -= across[count, c] * across[count, c]
