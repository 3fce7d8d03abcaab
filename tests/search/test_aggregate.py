"""Figures of many evaluators: means, sums of maxima, and what neither may do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.search.aggregate import GeometricMean, Iterations, MaxPlus, aggregate_of
from worklode.search.objective import Objective

ROWS = st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=6)
TIMES = st.lists(st.floats(0.0, 9.0), min_size=3, max_size=3)


def no_energy(_: int) -> float:
    raise AssertionError("asked for an energy")


@settings(deadline=None, max_examples=200)
@given(first=ROWS, second=ROWS, times=TIMES)
def test_a_sum_of_maxima_is_that_of_all_rows(
    first: list[list[int]], second: list[list[int]], times: list[float]
) -> None:
    """Rows that another covers are dropped; that changes nothing."""
    found = MaxPlus.of([np.array(row, float) for row in first], [np.array(row, float) for row in second])
    expected = sum(max(float(np.dot(row[:3], times)) + row[3] for row in rows) for rows in (first, second))
    assert found.time_s(times) == pytest.approx(expected)
    assert len(found.terms[0][0]) <= len(first)
    shares = found.shares(times)
    assert all(share >= 0 for share in shares)
    assert sum(shares) <= 1 + 1e-9


def test_times_may_be_arrays_that_broadcast() -> None:
    found = MaxPlus.of([np.array([1.0, 0.0, 1.0]), np.array([0.0, 2.0, 0.0])])
    times = [np.array([[1.0], [5.0]]), np.array([[1.0, 2.0, 3.0]])]
    assert found.time_s(times).tolist() == [[2.0, 4.0, 6.0], [6.0, 6.0, 6.0]]


def test_several_iterations_are_weighed_as_a_geometric_mean() -> None:
    parts = (MaxPlus.of([np.array([2.0, 0.0, 0.0])]), MaxPlus.of([np.array([0.0, 3.0, 1.0])]))
    found = Iterations(parts=parts, weights=(0.25, 0.75))
    expected = 4.0**0.25 * 10.0**0.75
    assert found.figure(Objective.THROUGHPUT, [2.0, 3.0], 7.0, no_energy) == pytest.approx(expected)
    assert found.figure(Objective.THROUGHPUT_PER_TDP, [2.0, 3.0], 7.0, no_energy) == pytest.approx(7.0 * expected)
    assert found.shares([2.0, 3.0]) == pytest.approx((0.25, 0.75 * 0.9))


def test_energy_is_refused_for_iterations_and_asked_for_in_a_mean() -> None:
    part = MaxPlus.of([np.array([1.0, 0.0])])
    with pytest.raises(SpecError, match="energy"):
        Iterations(parts=(part,)).figure(Objective.ENERGY, [1.0], 1.0, no_energy)
    mean = aggregate_of([1.0, 3.0])
    assert mean == GeometricMean(weights=(0.25, 0.75))
    energies = (16.0, 1.0)
    assert mean.figure(Objective.ENERGY, [1.0, 1.0], 1.0, lambda k: energies[k]) == pytest.approx(2.0)
    assert aggregate_of(mean) is mean
