"""The list scheduler: valid, never below a bound, exact where that is obvious, else close to exact solvers."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worklode.errors import InternalError
from worklode.schedule.bounds import lower_bounds
from worklode.schedule.list_kernel import share_bandwidth
from worklode.schedule.list_scheduler import improve, schedule
from worklode.schedule.options import option_table
from worklode.schedule.problem import ScheduleProblem
from worklode.schedule.synthetic import Options, problem_from_lists, random_problem, training_problem
from worklode.schedule.verify import verify

problems = st.builds(
    random_problem,
    st.integers(0, 10_000),
    st.integers(0, 60),
    num_tensor_cores=st.integers(1, 17),
    num_vector_cores=st.integers(1, 9),
    hbm_load=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    edges_per_task=st.sampled_from([0.3, 1.5, 3.0]),
    reach=st.integers(1, 40),
)
# Policies that start tasks early on few cores end this one 13 % later than one task after another.
ANOMALY = random_problem(639, 40, num_tensor_cores=11, num_vector_cores=1, hbm_load=3.0, edges_per_task=0.3, reach=40)
TENSOR_ONLY: Options = [(1, 0, 4.0, 0.0), (2, 0, 2.0, 0.0), (4, 0, 1.0, 0.0)]


def tensor_problem(predecessors: list[list[int]], options: list[Options], cores: int = 4) -> ScheduleProblem:
    return problem_from_lists(predecessors, options, num_tensor_cores=cores, num_vector_cores=1, hbm_bytes_per_s=1.0)


@settings(deadline=None)
@given(problem=problems)
def test_schedules_are_valid_and_never_below_a_bound(problem: ScheduleProblem) -> None:
    found = schedule(problem, segments=True)
    verify(problem, found)
    bounds = lower_bounds(problem)
    assert found.makespan_s >= bounds.makespan_s
    assert found.makespan_s == schedule(problem).makespan_s


def serial_s(problem: ScheduleProblem) -> float:
    table = option_table(problem)
    return float(table.duration_s[table.fastest][problem.item_of].sum())


@settings(deadline=None)
@given(problem=problems, seed=st.integers(0, 100))
@example(problem=ANOMALY, seed=0)
def test_schedules_are_never_longer_than_one_task_after_another(problem: ScheduleProblem, seed: int) -> None:
    most_s = serial_s(problem) * (1 + 1e-9)
    assert schedule(problem).makespan_s <= most_s
    improved = improve(problem, evaluations=5, seed=seed, segments=True)
    verify(problem, improved)
    assert improved.makespan_s <= schedule(problem).makespan_s


@settings(deadline=None)
@given(
    layers=st.integers(1, 12),
    branches=st.integers(1, 4),
    cores=st.sampled_from([1, 3, 16, 64]),
    load=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_training_shapes_are_valid(layers: int, branches: int, cores: int, load: float) -> None:
    problem = training_problem(layers, branches=branches, num_tensor_cores=cores, num_vector_cores=cores, hbm_load=load)
    found = schedule(problem, segments=True)
    verify(problem, found)
    assert found.makespan_s >= lower_bounds(problem).makespan_s


@settings(deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(1, 50))
def test_a_chain_takes_the_sum_of_its_fastest_options(seed: int, length: int) -> None:
    free = random_problem(seed, length, num_tensor_cores=5, num_vector_cores=3)
    table = option_table(free)
    chain = tensor_problem([[i - 1] if i else [] for i in range(length)], [TENSOR_ONLY] * length)
    assert schedule(chain).makespan_s == length * 1.0
    mixed = problem_from_lists(
        [[i - 1] if i else [] for i in range(length)],
        [
            [
                (
                    int(free.tensor_cores[o]),
                    int(free.vector_cores[o]),
                    float(free.compute_s[o]),
                    float(free.hbm_bytes[o]),
                )
                for o in range(free.option_start[i], free.option_start[i + 1])
            ]
            for i in range(length)
        ],
        num_tensor_cores=5,
        num_vector_cores=3,
        hbm_bytes_per_s=1.0,
    )
    total = 0.0
    for item in range(length):
        total += table.duration_s[table.fastest[item]]
    assert schedule(mixed).makespan_s == total


@settings(deadline=None)
@given(seed=st.integers(0, 1000), num_tasks=st.integers(1, 60), shuffle=st.integers(0, 1000))
def test_order_of_tasks_does_not_matter_with_a_rank(seed: int, num_tasks: int, shuffle: int) -> None:
    problem = random_problem(seed, num_tasks, num_tensor_cores=6, num_vector_cores=3)
    new_of = np.random.default_rng(shuffle).permutation(num_tasks)
    old_of = np.argsort(new_of)
    predecessors = [
        [int(new_of[b]) for b in problem.predecessor[problem.predecessor_start[t] : problem.predecessor_start[t + 1]]]
        for t in old_of
    ]
    options: list[Options] = [
        [
            (
                int(problem.tensor_cores[o]),
                int(problem.vector_cores[o]),
                float(problem.compute_s[o]),
                float(problem.hbm_bytes[o]),
            )
            for o in range(problem.option_start[t], problem.option_start[t + 1])
        ]
        for t in old_of
    ]
    moved = problem_from_lists(
        predecessors, options, num_tensor_cores=6, num_vector_cores=3, hbm_bytes_per_s=problem.hbm_bytes_per_s
    )
    first = schedule(problem, rank=np.arange(num_tasks))
    second = schedule(moved, rank=old_of)
    # Bounds add work in the order of items, which decides only whether further policies are tried.
    assert second.makespan_s == pytest.approx(first.makespan_s, rel=1e-9)
    assert second.start_s[new_of] == pytest.approx(first.start_s, rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(problem=problems)
def test_deterministic(problem: ScheduleProblem) -> None:
    first, second = schedule(problem, segments=True), schedule(problem, segments=True)
    for name in ("start_s", "end_s", "option", "segment_task", "segment_start_s", "segment_rate"):
        assert (getattr(first, name) == getattr(second, name)).all()


def test_nothing_to_do() -> None:
    assert schedule(tensor_problem([], []), segments=True).makespan_s == 0.0


def test_tasks_without_work_take_no_time() -> None:
    problem = tensor_problem([[], [0], [1]], [[(0, 0, 0.0, 0.0)], TENSOR_ONLY, [(0, 0, 0.0, 0.0)]])
    found = schedule(problem, segments=True)
    verify(problem, found)
    assert found.makespan_s == 1.0


def test_options_wider_than_the_machine_are_left_out() -> None:
    assert schedule(tensor_problem([[]], [TENSOR_ONLY], cores=3)).makespan_s == 2.0
    with pytest.raises(InternalError, match="no option of work item 0 fits 3 tensor cores"):
        schedule(tensor_problem([[]], [[(4, 0, 1.0, 0.0)]], cores=3))


def test_weight_gradient_fills_the_gap_of_the_critical_path() -> None:
    """A product of the path, a vector operation of the path, a product after it; a free product fits the gap."""
    product_options: Options = [(4, 0, 1.0, 0.0)]
    problem = tensor_problem(
        [[], [0], [1], [0]], [product_options, [(0, 1, 1.0, 0.0)], product_options, product_options]
    )
    found = schedule(problem)
    assert found.makespan_s == 3.0
    assert found.start_s[3] == 1.0


def test_equal_branches_share_the_cores_where_few_cores_are_more_efficient() -> None:
    """Four branches: one core each takes 4.0 s, all cores one after the other would take 4 x 2.0 s."""
    poor: Options = [(1, 0, 4.0, 0.0), (4, 0, 2.0, 0.0)]
    assert schedule(tensor_problem([[], [], [], []], [poor] * 4)).makespan_s == 4.0


def test_explicit_priorities_go_first() -> None:
    problem = tensor_problem([[], []], [TENSOR_ONLY, TENSOR_ONLY])
    assert schedule(problem, priorities=np.array([0.0, 1.0])).start_s.tolist() == [1.0, 0.0]
    assert schedule(problem, priorities=np.array([1.0, 0.0])).start_s.tolist() == [0.0, 1.0]


def test_bandwidth_is_shared_while_tasks_overlap() -> None:
    """Two vector tasks of 1 s that both ask for all bandwidth end after 2 s, not after 1 s."""
    problem = problem_from_lists(
        [[], []], [[(0, 1, 0.5, 10.0)]] * 2, num_tensor_cores=0, num_vector_cores=2, hbm_bytes_per_s=10.0
    )
    found = schedule(problem, segments=True)
    verify(problem, found)
    assert found.makespan_s == pytest.approx(2.0, rel=1e-12)


@settings(deadline=None)
@given(
    demand=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=8),
    strict=st.booleans(),
)
def test_shares_of_bandwidth(demand: list[float], strict: bool) -> None:
    wanted = np.array(demand)
    rate = np.empty(len(demand))
    share_bandwidth(np.arange(len(demand)), len(demand), wanted, 1.0, strict, rate)
    assert (rate >= 0).all()
    assert (rate <= 1).all()
    # All that is asked for is given, up to the capacity.
    assert (rate * wanted).sum() == pytest.approx(min(1.0, wanted.sum()), rel=1e-9, abs=1e-12)
    if strict:
        served = np.minimum(wanted, np.maximum(1.0 - (np.cumsum(wanted) - wanted), 0.0))
        assert rate * wanted == pytest.approx(served, abs=1e-9)
    else:
        assert rate[wanted <= 1.0 / len(demand)] == pytest.approx(1.0)


@settings(deadline=None, max_examples=20)
@given(problem=problems)
def test_local_search_is_valid_never_worse_and_repeatable(problem: ScheduleProblem) -> None:
    better = improve(problem, evaluations=20, segments=True)
    verify(problem, better)
    assert better.makespan_s <= schedule(problem).makespan_s
    assert better.makespan_s >= lower_bounds(problem).makespan_s
    again = improve(problem, evaluations=20)
    assert (again.start_s == better.start_s).all()


def test_local_search_helps_where_branches_compete() -> None:
    problem = training_problem(6, branches=3, num_tensor_cores=16, num_vector_cores=16, serial_share=0.05)
    bound = lower_bounds(problem).makespan_s
    before = schedule(problem).makespan_s
    after = improve(problem, evaluations=300, lower_bound_s=bound).makespan_s
    assert after < 0.97 * before
    assert after >= bound


def serial_generation(problem: ScheduleProblem, options: tuple[int, ...], order: tuple[int, ...]) -> float:
    """Makespan when tasks, in this order, start as early as cores and predecessors allow; no bandwidth."""
    duration_s = option_table(problem).duration_s
    start: dict[int, float] = {}
    end: dict[int, float] = {}
    for task in order:
        before = problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]
        if any(int(p) not in end for p in before):
            return np.inf
        ready = max((end[int(p)] for p in before), default=0.0)
        length = duration_s[options[task]]
        for at in sorted({ready, *(e for e in end.values() if e > ready)}):
            moments = [at, *(s for s in start.values() if at < s < at + length)]
            fits = all(
                sum(cores[options[t]] for t in start if start[t] <= moment < end[t]) + cores[options[task]] <= capacity
                for cores, capacity in (
                    (problem.tensor_cores, problem.num_tensor_cores),
                    (problem.vector_cores, problem.num_vector_cores),
                )
                for moment in moments
            )
            if fits:
                start[task], end[task] = at, at + length
                break
    return max(end.values(), default=0.0)


def brute_force(problem: ScheduleProblem) -> float:
    """The least makespan: every choice of options, every order (the active schedules contain an optimal one)."""
    n = len(problem.item_of)
    choices = [
        [
            o
            for o in range(problem.option_start[i], problem.option_start[i + 1])
            if problem.tensor_cores[o] <= problem.num_tensor_cores
            and problem.vector_cores[o] <= problem.num_vector_cores
        ]
        for i in problem.item_of
    ]
    return min(
        serial_generation(problem, options, order) for options in product(*choices) for order in permutations(range(n))
    )


def test_against_brute_force_without_bandwidth() -> None:
    ratios = []
    for seed in range(25):
        problem = random_problem(seed, 4, num_tensor_cores=3, num_vector_cores=2, hbm_load=0.0, reach=3)
        best = brute_force(problem)
        assert lower_bounds(problem).makespan_s <= best * (1 + 1e-12)
        found = schedule(problem).makespan_s
        assert found >= best * (1 - 1e-12)
        ratios.append(found / best)
    assert np.mean(ratios) < 1.04
    assert max(ratios) < 1.25
