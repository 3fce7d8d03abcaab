"""Errors, ranks and worst points by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklode.report.validation_page import validation_page
from worklode.validation.score import Group, Point, SuiteResult, rank_correlation


def group(*pairs: tuple[float, float], target: float | None = None, of_all: bool = False) -> Group:
    points = tuple(Point(name=str(i), measured=m, predicted=p, baseline=m / 2) for i, (m, p) in enumerate(pairs))
    return Group(name="g", unit="s", points=points, baseline="half", target=target, of_all=of_all)


def test_errors_by_hand() -> None:
    found = group((1.0, 1.1), (2.0, 1.0), (4.0, 4.0), target=0.25)
    assert found.mean_error == pytest.approx((0.1 + 0.5 + 0.0) / 3)
    assert found.max_error == pytest.approx(0.5)
    assert found.baseline_error == pytest.approx(0.5)
    assert [point.name for point in found.worst] == ["1", "0", "2"]
    assert found.met
    assert group((1.0, 1.1), (2.0, 1.0), target=0.25, of_all=True).met is False
    assert group((1.0, 1.1)).met is None


def test_halves_are_told_apart() -> None:
    points = (
        Point(name="a", measured=1.0, predicted=1.2, fitted=True),
        Point(name="b", measured=1.0, predicted=0.6, fitted=False),
    )
    found = Group(name="g", unit="s", points=points)
    assert found.fitted_error == pytest.approx(0.2)
    assert found.held_out_error == pytest.approx(0.4)
    assert Group(name="g", unit="s", points=points[1:]).held_out_error is None


def test_ranks_with_ties_by_hand() -> None:
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])) == pytest.approx(1.0)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5/sqrt(4.5·5).
    tied = rank_correlation(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert tied == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))
    assert rank_correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=30))
def test_bounds_of_the_figures(pairs: list[tuple[float, float]]) -> None:
    found = group(*pairs)
    assert 0 <= found.mean_error <= found.max_error * (1 + 1e-12)
    assert len(found.worst) == min(5, len(pairs))
    assert found.worst[0].error == found.max_error
    rank = found.rank_correlation
    assert rank is None or -1 - 1e-9 <= rank <= 1 + 1e-9


def test_the_page_names_what_misses_its_target() -> None:
    groups = (group((1.0, 2.0), target=0.25), group((1.0, 1.1), target=0.25))
    suite = SuiteResult(suite="any", title="Any", groups=groups).to_dict()
    text = validation_page({"suites": [suite], "efficiency": []})
    assert text.count("**missed**: g, 100 % against 25.0 %") == 1
    assert text.count("MISSED") == 2 and text.count("25% met") == 2
