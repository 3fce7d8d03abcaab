"""How the figures of several evaluators become the one figure that a search minimises.

Two ways: the weighted geometric mean over workloads, and the time of pipelined iterations whose passes are the
evaluators. Both never fall when a time rises, so a figure of lower bounds bounds the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worklode.errors import Fault, SpecError
from worklode.search.objective import Objective

Floats = NDArray[np.float64]
# Energy of one iteration of an evaluator, given by its index [J].
EnergyOf = Callable[[int], Any]


class Aggregate(Protocol):
    """One figure from the times and energies of K evaluators."""

    def figure(self, objective: Objective, times_s: Sequence[Any], tdp_w: Any, energy_j: EnergyOf) -> Any:
        """The figure to minimise; times and TDP may be numbers or arrays that broadcast.

        Args:
            objective: what is minimised.
            times_s: [K] times, or lower bounds of them [s].
            tdp_w: of the designs [W].
            energy_j: energy of one iteration of an evaluator; asked only where the objective needs it.
        """
        ...

    def shares(self, times_s: Sequence[float]) -> tuple[float, ...]:
        """[K] how much of the figure each evaluator explains; they add up to at most 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMean:
    """Weighted geometric mean of the objective over workloads.

    Attributes:
        weights: one for each workload; they add up to 1.
    """

    weights: tuple[float, ...]

    def figure(self, objective: Objective, times_s: Sequence[Any], tdp_w: Any, energy_j: EnergyOf) -> Any:
        """See `Aggregate`."""
        figures = [
            objective.figure(time_s=time_s, tdp_w=tdp_w, energy_j=energy_j(k) if objective.needs_energy else 0.0)
            for k, time_s in enumerate(times_s)
        ]
        return self.mean(figures)

    def mean(self, figures: Sequence[Any]) -> Any:
        """Of figures that are there already."""
        if len(figures) == 1:
            return figures[0]  # a mean of one is that one, without the rounding of logarithms
        with np.errstate(divide="ignore"):
            logs = [weight * np.log(figure) for weight, figure in zip(self.weights, figures, strict=True)]
        return np.exp(np.sum(logs, axis=0))

    def shares(self, times_s: Sequence[float]) -> tuple[float, ...]:
        """See `Aggregate`."""
        return self.weights


def aggregate_of(weights: Sequence[float] | Aggregate) -> Aggregate:
    """The geometric mean with weights in any unit, or an aggregate as it is."""
    if not isinstance(weights, Sequence):
        return weights
    total = float(sum(weights))
    return GeometricMean(weights=tuple(weight / total for weight in weights))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaxPlus:
    """A sum of maxima of rows that are linear in the times of K evaluators.

    T = sum over terms of max over rows r of (sum over k of factor[r, k] t_k + constant_s[r]).

    Attributes:
        terms: (factor [R, K], constant_s [R]) of each; factors are not negative.
    """

    terms: tuple[tuple[Floats, Floats], ...]

    @classmethod
    def of(cls, *terms: Sequence[Floats]) -> MaxPlus:
        """From rows [K + 1] whose last entry is the constant [s]; rows no larger than another in all entries go."""
        found = []
        for rows in terms:
            kept = _undominated(np.array(rows, np.float64))
            found.append((np.ascontiguousarray(kept[:, :-1]), kept[:, -1].copy()))
        return cls(terms=tuple(found))

    def time_s(self, times_s: Sequence[Any]) -> Any:
        """T [s]; times may be numbers or arrays that broadcast."""
        if all(isinstance(time_s, float) for time_s in times_s):
            times = np.array(times_s)
            return sum(float((factor @ times + constant_s).max()) for factor, constant_s in self.terms)
        total: Any = 0.0
        for factor, constant_s in self.terms:
            largest: Any = -np.inf
            for weights, constant in zip(factor, constant_s, strict=True):
                row: Any = constant
                for k in np.flatnonzero(weights).tolist():
                    row = row + weights[k] * times_s[k]
                largest = np.maximum(largest, row)
            total = total + largest
        return total

    def shares(self, times_s: Sequence[float]) -> tuple[float, ...]:
        """[K] share of T that each time explains through the largest rows."""
        found = np.zeros(len(times_s))
        total = 0.0
        times = np.asarray(times_s, np.float64)
        for factor, constant_s in self.terms:
            rows = factor @ times + constant_s
            largest = int(rows.argmax())
            found += factor[largest] * times
            total += float(rows[largest])
        return tuple(float(share) for share in found / max(total, np.finfo(float).tiny))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Iterations:
    """Weighted geometric mean of the times (or times x TDP) of iterations, each of which is made of many passes.

    Attributes:
        parts: time of each workload's iteration from the times of all K evaluators.
        weights: one for each workload; they add up to 1.
    """

    parts: tuple[MaxPlus, ...]
    weights: tuple[float, ...] = (1.0,)

    def figure(self, objective: Objective, times_s: Sequence[Any], tdp_w: Any, energy_j: EnergyOf) -> Any:
        """See `Aggregate`.

        Raises:
            SpecError: an objective of energy.
        """
        if objective.needs_energy:
            allowed = f"{Objective.THROUGHPUT}, {Objective.THROUGHPUT_PER_TDP}"
            problem = "is not minimised over many devices"
            raise SpecError(Fault(where="--objective", value=objective.value, problem=problem, allowed=allowed))
        figures = [objective.figure(time_s=part.time_s(times_s), tdp_w=tdp_w, energy_j=0.0) for part in self.parts]
        return GeometricMean(weights=self.weights).mean(figures)

    def shares(self, times_s: Sequence[float]) -> tuple[float, ...]:
        """See `Aggregate`."""
        found = np.zeros(len(times_s))
        for part, weight in zip(self.parts, self.weights, strict=True):
            found += weight * np.array(part.shares(times_s))
        return tuple(float(share) for share in found)


def _undominated(rows: Floats) -> Floats:
    """The rows that no other is at least as large as in every entry, in their order."""
    distinct = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    covered = np.asarray((distinct[:, None, :] <= distinct[None, :, :]).all(axis=2))
    np.fill_diagonal(covered, False)
    return np.asarray(distinct[~covered.any(axis=1)])
