"""CP-SAT over several problems at once: what it proves holds of every schedule anybody finds."""

from __future__ import annotations

import numpy as np
import pytest

from worklode.schedule.bounds import lower_bounds
from worklode.schedule.exact import choose_exactly, exact_schedule
from worklode.schedule.exact_model import Coupling, ExactModel, Variant, closed_sets
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.problem import ScheduleProblem
from worklode.schedule.synthetic import problem_from_lists, random_problem, training_problem
from worklode.schedule.verify import verify

pytest.importorskip("ortools", reason="the exact scheduler needs OR-tools")

DRAWS = 200
# What rounding of times to 10 000 ticks may leave of a gap [1], for ten tasks.
ROUNDING = 1.5e-3


def small_problem(seed: int) -> ScheduleProblem:
    random = np.random.default_rng([seed, 7])
    return random_problem(
        seed,
        int(random.integers(1, 7)),
        num_tensor_cores=int(random.integers(1, 4)),
        num_vector_cores=int(random.integers(1, 4)),
        hbm_load=float(random.choice([0.0, 0.5, 1.0, 3.0])),
        reach=4,
    )


def shared_problem(bytes_per_s: float = 1.0) -> ScheduleProblem:
    """Two tasks of 1 s that each ask for 0.6 of the bandwidth."""
    return problem_from_lists(
        [[], []], [[(0, 1, 1.0, 0.6)]] * 2, num_tensor_cores=0, num_vector_cores=2, hbm_bytes_per_s=bytes_per_s
    )


def test_what_is_proven_holds_of_every_schedule_and_own_bounds_of_every_optimum() -> None:
    proven = 0
    for seed in range(DRAWS):
        problem = small_problem(seed)
        # Nothing of ours goes into the solver's proof.
        found = choose_exactly([Variant(problem=problem)], time_limit_s=0.5, use_bounds=False)
        verify(problem, found.schedule)
        quick, thorough = schedule(problem).makespan_s, schedule(problem, effort="thorough").makespan_s
        assert found.figure == pytest.approx(found.schedule.makespan_s)
        assert found.lower_bound == found.solver_bound <= found.figure * (1 + 1e-9)
        assert found.figure <= min(quick, thorough) * (1 + 1e-9), seed
        assert lower_bounds(problem).makespan_s <= found.figure * (1 + 1e-9), seed
        proven += found.gap <= ROUNDING
    assert proven > 0.6 * DRAWS, "most of these problems are small enough to be closed"


def test_a_rigid_optimum_is_never_below_the_fluid_bound() -> None:
    for seed in range(12):
        problem = small_problem(seed)
        rigid = exact_schedule(problem, time_limit_s=2.0, ticks=10_000)
        fluid = choose_exactly([Variant(problem=problem)], time_limit_s=1.0, use_bounds=False)
        assert fluid.lower_bound <= rigid.schedule.makespan_s * (1 + 1e-9)
        if rigid.optimal:
            assert fluid.figure <= rigid.schedule.makespan_s * (1 + ROUNDING)


def test_one_model_of_all_variants_is_as_good_as_each_alone() -> None:
    """Designs differ in cores, so in options and capacities; a figure is time times a weight of the design."""
    closed = 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        variants = [
            Variant(
                problem=training_problem(
                    1, branches=1, num_tensor_cores=t, num_vector_cores=v, hbm_load=0.0, seed=seed
                ),
                weight=float(random.uniform(1.0, 1.3)) * (t + v) ** 0.5,
            )
            for t, v in ((1, 2), (2, 1), (3, 2))
        ]
        together = choose_exactly(variants, time_limit_s=1.0, use_bounds=False)
        alone = [choose_exactly([variant], time_limit_s=1.0, use_bounds=False) for variant in variants]
        best = min(found.figure for found in alone)
        # What is proven of all together holds of each, and what is proven of each bounds what all together reach.
        assert together.lower_bound <= best * (1 + 1e-9), seed
        assert min(found.lower_bound for found in alone) <= together.figure * (1 + 1e-9), seed
        verify(variants[together.variant].problem, together.schedule)
        weight = variants[together.variant].weight
        assert together.figure == pytest.approx(weight * together.schedule.makespan_s)
        if together.gap <= ROUNDING:
            closed += 1
            assert together.figure <= best * (1 + ROUNDING), seed
    assert closed >= 3


def test_the_variant_follows_the_weights() -> None:
    variants = [Variant(problem=shared_problem(), weight=weight) for weight in (2.0, 1.0, 3.0)]
    found = choose_exactly(variants, time_limit_s=2.0)
    assert found.variant == 1
    assert found.figure == pytest.approx(found.schedule.makespan_s)


def test_contention_is_enclosed() -> None:
    """Fluid optimum 1.2 s: both at 5/6. All bytes at once take 1.2 s, and together at full rate nothing runs."""
    problem = shared_problem()
    found = choose_exactly([Variant(problem=problem)], time_limit_s=2.0)
    assert found.lower_bound == pytest.approx(1.2, rel=1e-3)
    assert found.figure <= 4 / 3 + 1e-9
    assert exact_schedule(problem).schedule.makespan_s == pytest.approx(2.0, rel=1e-4)


def test_own_bounds_cut_and_rule_out() -> None:
    slow, fast = shared_problem(0.5), shared_problem(10.0)
    variants = [Variant(problem=problem, lower_bound_s=lower_bounds(problem).makespan_s) for problem in (slow, fast)]
    found = choose_exactly(variants, time_limit_s=2.0)
    assert found.variant == 1
    # The other's bound (2.4 s) is above the schedule of this one (1 s), which is its own bound too: nothing to solve.
    assert found.answers == ()
    assert found.gap <= 1e-9


def test_a_hint_is_a_solution_of_the_relaxed_model() -> None:
    """Otherwise the solver starts from nothing: every schedule, floored to ticks, keeps all constraints and cuts."""
    from ortools.sat.python import cp_model

    from worklode.schedule.exact_placement import floored

    for seed in range(40):
        problem = small_problem(seed)
        known = schedule(problem)
        if known.makespan_s <= 0:
            continue
        variant = Variant(problem=problem, lower_bound_s=lower_bounds(problem).makespan_s)
        model = ExactModel([variant], Coupling.RELAXED, tick=known.makespan_s / 5000, most_ticks=5000, use_bounds=True)
        model.hint(floored(model, 0, known))
        solver = cp_model.CpSolver()
        solver.parameters.fix_variables_to_their_hinted_value = True
        assert solver.solve(model.model) == cp_model.OPTIMAL, seed


def test_closed_sets_lie_between_forks_and_joins() -> None:
    # 0 forks to 1 and 2, which join in 3; then 4.
    problem = problem_from_lists(
        [[], [0], [0], [1, 2], [3]],
        [[(0, 1, 1.0, 0.0)]] * 5,
        num_tensor_cores=0,
        num_vector_cores=1,
        hbm_bytes_per_s=1.0,
    )
    assert set(closed_sets(problem)) == {(-1, 3, (0, 1, 2)), (0, -1, (1, 2, 3, 4)), (0, 3, (1, 2))}
