"""The surrogate, one observation at a time, against the normal equations solved at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.search.grid import Floats, Points
from worklode.search.surrogate import DEFAULT_PRIOR, OPTIMISM, Surrogate

SCATTER = DEFAULT_PRIOR.scatter


def covariance(points: Points, slope: Floats, others: Points, other_slope: Floats) -> Floats:
    """[A, B] what the module's docstring says, written down directly."""
    p = DEFAULT_PRIOR
    apart = ((points[:, None, :] - others[None, :, :]) / p.reach) ** 2
    smooth = p.smooth**2 * np.exp(-0.5 * apart.sum(axis=2))
    return np.asarray(p.shared**2 + smooth + p.slope**2 * np.outer(slope, other_slope))


@dataclass(frozen=True)
class Designs:
    """Designs, figures 0 to 10 % above the bound."""

    points: Points
    bound: Floats
    estimate: Floats
    figures: Floats

    @property
    def slope(self) -> Floats:
        """What the estimate says beyond the bound."""
        return np.asarray(np.log(self.estimate / self.bound))

    def surrogate(self, most: int) -> Surrogate:
        """One that knows nothing of them yet."""
        return Surrogate(self.points, self.bound, self.estimate, most)


def drawn(seed: int, count: int) -> Designs:
    """So many designs."""
    random = np.random.default_rng([seed, count])
    bound = random.uniform(1.0, 2.0, count) * 1e-3
    return Designs(
        points=random.integers(0, 10, (count, 7)),
        bound=bound,
        estimate=bound * random.uniform(0.9, 1.3, count),
        figures=bound * (1.0 + random.uniform(0.0, 0.1, count)),
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), designs=st.integers(1, 40), observed=st.integers(0, 30))
def test_it_is_the_gaussian_process_of_its_covariance(seed: int, designs: int, observed: int) -> None:
    some, seen = drawn(seed, designs), drawn(seed + 1, observed)
    surrogate = some.surrogate(observed)
    surrogate.observe(seen.points, seen.bound, seen.estimate, seen.figures)
    across = covariance(some.points, some.slope, seen.points, seen.slope)
    own = covariance(seen.points, seen.slope, seen.points, seen.slope) + SCATTER**2 * np.eye(observed)
    before = np.diag(covariance(some.points, some.slope, some.points, some.slope))
    mean = across @ np.linalg.solve(own, np.log(seen.figures / seen.bound))
    variance = before - np.einsum("ij,ji->i", across, np.linalg.solve(own, across.T))
    expected = some.bound * np.exp(np.maximum(mean - OPTIMISM * np.sqrt(np.maximum(variance, 0.0)), 0.0))
    assert surrogate.optimistic() == pytest.approx(expected, rel=1e-6)


def test_one_of_its_designs_counts_as_if_given_in_full() -> None:
    some = drawn(3, 12)
    one, all_of = some.surrogate(3), some.surrogate(3)
    told = [4, 0, 11]
    for index in told:
        one.observe_one(index, float(some.figures[index]))
    all_of.observe(some.points[told], some.bound[told], some.estimate[told], some.figures[told])
    assert one.optimistic() == pytest.approx(all_of.optimistic(), rel=1e-12)


def test_it_never_hopes_for_less_than_the_bound_and_learns_what_it_is_told() -> None:
    some = drawn(5, 30)
    surrogate = some.surrogate(30)
    assert (surrogate.optimistic() >= some.bound).all()
    for index in range(30):
        surrogate.observe_one(index, float(some.figures[index]))
    # All told: what is left of doubt is the scatter of one schedule.
    assert surrogate.optimistic() == pytest.approx(some.figures, rel=4 * SCATTER)
    before = surrogate.optimistic()
    surrogate.observe_one(0, 10.0)  # more than it was to learn from: nothing changes
    assert surrogate.optimistic().tolist() == before.tolist()


def test_told_twice_does_no_harm() -> None:
    some = drawn(6, 5)
    surrogate = some.surrogate(40)
    for _ in range(40):
        surrogate.observe_one(2, float(some.figures[2]))
    assert np.isfinite(surrogate.optimistic()).all()
    assert surrogate.optimistic()[2] == pytest.approx(some.figures[2], rel=SCATTER)
