"""CP-SAT as oracle of the list scheduler and of the bounds on small problems."""

import numpy as np
import pytest

from worklode.schedule.bounds import lower_bounds
from worklode.schedule.exact import exact_schedule
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.synthetic import problem_from_lists, random_problem
from worklode.schedule.verify import verify

pytest.importorskip("ortools", reason="the exact scheduler needs OR-tools")

# One tick per task of a chain, of 10 000 in all.
ROUNDING = 12 / 10_000


def test_list_schedule_and_bounds_enclose_the_optimum_without_contention() -> None:
    ratios, bounds = [], []
    for seed in range(8):
        problem = random_problem(seed, 4 + seed, num_tensor_cores=3, num_vector_cores=2, hbm_load=0.0, reach=4)
        exact = exact_schedule(problem, time_limit_s=5.0, ticks=10_000)
        verify(problem, exact.schedule)
        found, bound = schedule(problem).makespan_s, lower_bounds(problem).makespan_s
        assert exact.lower_bound_s <= found
        assert bound <= exact.schedule.makespan_s * (1 + 1e-9)
        if exact.optimal:
            assert found >= exact.schedule.makespan_s * (1 - ROUNDING)
            ratios.append(found / exact.schedule.makespan_s)
            bounds.append(bound / exact.schedule.makespan_s)
    assert len(ratios) >= 6, "the solver is expected to finish most of these small problems in time"
    assert np.mean(ratios) < 1.05
    assert np.mean(bounds) > 0.9


def test_with_contention_the_fluid_schedule_is_about_as_good() -> None:
    ratios = []
    for seed in range(5):
        problem = random_problem(seed, 6, num_tensor_cores=2, num_vector_cores=2, hbm_load=1.0, reach=4)
        exact = exact_schedule(problem, time_limit_s=5.0, ticks=10_000)
        verify(problem, exact.schedule)
        ratios.append(schedule(problem).makespan_s / exact.schedule.makespan_s)
    assert np.mean(ratios) < 1.05


def test_fixed_demand_is_a_restriction_of_the_fluid_model() -> None:
    """Demands 0.6 and 0.6 of 1: never together (2 s); as fluid one at full rate, then the rest (4/3 s)."""
    problem = problem_from_lists(
        [[], []], [[(0, 1, 1.0, 0.6)]] * 2, num_tensor_cores=0, num_vector_cores=2, hbm_bytes_per_s=1.0
    )
    exact = exact_schedule(problem)
    assert exact.optimal
    assert exact.schedule.makespan_s == pytest.approx(2.0, rel=1e-4)
    assert schedule(problem).makespan_s == pytest.approx(4 / 3, rel=1e-9)


def test_nothing_to_do() -> None:
    empty = problem_from_lists([], [], num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1.0)
    assert exact_schedule(empty).schedule.makespan_s == 0.0
