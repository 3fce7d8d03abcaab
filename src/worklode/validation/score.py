"""Points of a comparison and what is said of them: errors, ranks, worst points, and what a naive baseline gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Points shown of every group [count].
WORST_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement beside its prediction, both in the unit of its group.

    Attributes:
        name: what was measured.
        measured, predicted: figures.
        baseline: what the group's naive baseline says; None where there is none.
        fitted: the measurement was seen by the fit of a constant.
    """

    name: str
    measured: float
    predicted: float
    baseline: float | None = None
    fitted: bool = False

    @property
    def error(self) -> float:
        """Relative error of the prediction [1]."""
        return abs(self.predicted / self.measured - 1.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            "measured": self.measured,
            "predicted": self.predicted,
            "ratio": self.predicted / self.measured,
            "baseline": self.baseline,
            "fitted": self.fitted,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Measurements that were not compared, and why."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Points of one kind.

    Attributes:
        name: what they have in common.
        unit: of the figures.
        points: at least one.
        baseline: what the naive baseline is; "" where there is none.
        target: mean relative error to stay below [1]; None where none is set.
        of_all: the target holds for every point, not for the mean.
        note: what a reader must know.
    """

    name: str
    unit: str
    points: tuple[Point, ...]
    baseline: str = ""
    target: float | None = None
    of_all: bool = False
    note: str = ""

    @property
    def mean_error(self) -> float:
        """Mean relative error [1]."""
        return _mean(self.points)

    @property
    def max_error(self) -> float:
        """Largest relative error [1]."""
        return max(point.error for point in self.points)

    @property
    def held_out_error(self) -> float | None:
        """Mean relative error of what no fit has seen [1]; None where nothing was fitted or nothing held out."""
        held = tuple(point for point in self.points if not point.fitted)
        return _mean(held) if held and len(held) < len(self.points) else None

    @property
    def fitted_error(self) -> float | None:
        """Mean relative error of what a fit has seen [1]."""
        seen = tuple(point for point in self.points if point.fitted)
        return _mean(seen) if seen else None

    @property
    def baseline_error(self) -> float | None:
        """Mean relative error of the baseline [1]."""
        errors = [abs(p.baseline / p.measured - 1.0) for p in self.points if p.baseline is not None]
        return float(np.mean(errors)) if errors else None

    @property
    def bias(self) -> float:
        """Median of predicted over measured [1]."""
        return float(np.median([point.predicted / point.measured for point in self.points]))

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's correlation of ranks [1]; None for less than three points or equal ones."""
        measured = np.array([point.measured for point in self.points])
        predicted = np.array([point.predicted for point in self.points])
        return rank_correlation(measured, predicted)

    @property
    def worst(self) -> tuple[Point, ...]:
        """The points of the largest errors, largest first."""
        ranked = sorted(self.points, key=lambda point: (-point.error, point.name))
        return tuple(ranked[:WORST_SHOWN])

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return (self.max_error if self.of_all else self.mean_error) <= self.target

    def to_dict(self) -> dict[str, Any]:
        """JSON form; errors are shares."""
        return {
            "name": self.name,
            "unit": self.unit,
            "points": len(self.points),
            "mean_error": self.mean_error,
            "max_error": self.max_error,
            "median_ratio": self.bias,
            "rank_correlation": self.rank_correlation,
            "fitted_error": self.fitted_error,
            "held_out_error": self.held_out_error,
            "baseline": self.baseline or None,
            "baseline_error": self.baseline_error,
            "target": self.target,
            "target_of": "every point" if self.of_all else "the mean",
            "met": self.met,
            "worst": [point.to_dict() for point in self.worst],
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """What a suite found: groups of points, and what it left out."""

    suite: str
    title: str
    groups: tuple[Group, ...]
    skipped: tuple[Skipped, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "suite": self.suite,
            "title": self.title,
            "groups": [group.to_dict() for group in self.groups],
            "skipped": [{"count": skipped.count, "reason": skipped.reason} for skipped in self.skipped],
        }


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's correlation: Pearson's of ranks, ties sharing their mean rank."""
    if len(a) < 3:
        return None
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[index.reshape(-1)], np.float64)


def _mean(points: tuple[Point, ...]) -> float:
    return float(np.mean([point.error for point in points]))
