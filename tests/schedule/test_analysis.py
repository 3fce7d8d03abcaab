"""Analysis of schedules: worked examples and properties."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.schedule.analysis import Resource, analyze
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.problem import ScheduleProblem
from worklode.schedule.synthetic import problem_from_lists, random_problem, training_problem


def test_two_products_that_need_the_same_core() -> None:
    """Both want the one tensor core; the longer path goes first, the other waits 2 s for it."""
    problem = problem_from_lists(
        [[], [], [0]],
        [[(1, 0, 2.0, 0.0)], [(1, 0, 3.0, 0.0)], [(0, 1, 2.0, 0.0)]],
        num_tensor_cores=1,
        num_vector_cores=1,
        hbm_bytes_per_s=1.0,
    )
    found = analyze(problem, schedule(problem))
    (conflict,) = found.conflicts
    assert (conflict.task, conflict.resource, conflict.delay_s, conflict.on_chain) == (
        1,
        Resource.TENSOR_CORE,
        2.0,
        True,
    )
    assert [(link.task, link.after_resource) for link in found.chain] == [(0, False), (1, True)]
    assert found.shares == {
        Resource.TENSOR_CORE: 1.0,
        Resource.VECTOR_CORE: 0.0,
        Resource.HBM: 0.0,
        Resource.WAITING: 0.0,
    }
    assert found.bottleneck is Resource.TENSOR_CORE
    assert found.tensor_core == 1.0
    assert found.vector_core == pytest.approx(0.4)
    assert found.hbm == 0.0


def test_memory_bound_and_slowed_time_is_blamed_on_hbm() -> None:
    """Two vector tasks of 1 s, each asking for all bandwidth, run at once for 2 s."""
    problem = problem_from_lists(
        [[], []], [[(0, 1, 0.5, 1.0)]] * 2, num_tensor_cores=0, num_vector_cores=2, hbm_bytes_per_s=1.0
    )
    found = analyze(problem, schedule(problem))
    assert found.shares[Resource.HBM] == pytest.approx(1.0)
    assert found.hbm == pytest.approx(1.0)
    (link,) = found.chain
    assert link.cause is Resource.HBM
    assert link.duration_s + link.slowed_s == pytest.approx(2.0)
    assert found.conflicts == ()


def test_vector_work_is_blamed_on_vector_cores() -> None:
    problem = problem_from_lists(
        [[], [0]],
        [[(0, 1, 3.0, 0.0)], [(1, 0, 1.0, 0.0)]],
        num_tensor_cores=1,
        num_vector_cores=1,
        hbm_bytes_per_s=1.0,
    )
    found = analyze(problem, schedule(problem))
    assert found.shares[Resource.VECTOR_CORE] == 0.75
    assert found.bottleneck is Resource.VECTOR_CORE


def test_nothing_to_do() -> None:
    empty = problem_from_lists([], [], num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1.0)
    assert analyze(empty, schedule(empty)).chain == ()


problems = st.one_of(
    st.builds(
        random_problem,
        st.integers(0, 10_000),
        st.integers(1, 60),
        num_tensor_cores=st.integers(1, 9),
        num_vector_cores=st.integers(1, 9),
        hbm_load=st.sampled_from([0.0, 1.0]),
    ),
    st.builds(training_problem, st.integers(1, 8), branches=st.integers(1, 3), hbm_load=st.sampled_from([0.1, 1.0])),
)


@settings(deadline=None)
@given(problem=problems)
def test_the_chain_explains_the_whole_makespan(problem: ScheduleProblem) -> None:
    made = schedule(problem)
    found = analyze(problem, made)
    assert sum(found.shares.values()) == pytest.approx(1.0, rel=1e-9)
    covered = sum(link.duration_s + link.slowed_s + link.waited_s for link in found.chain)
    assert covered == pytest.approx(made.makespan_s, rel=1e-9)
    assert made.end_s[found.chain[-1].task] == made.makespan_s
    for used in (found.tensor_core, found.vector_core, found.hbm):
        assert 0.0 <= used <= 1.0 + 1e-9
    for link in found.chain:
        assert link.duration_s >= 0
        assert link.slowed_s >= 0


@settings(deadline=None)
@given(problem=problems)
def test_conflicts_are_the_delayed_tasks(problem: ScheduleProblem) -> None:
    made = schedule(problem)
    found = analyze(problem, made)
    delays = {}
    for task in range(len(problem.item_of)):
        before = problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]
        delay = made.start_s[task] - max((made.end_s[p] for p in before), default=0.0)
        if delay > 1e-12 * made.makespan_s:
            delays[task] = delay
    assert {conflict.task: conflict.delay_s for conflict in found.conflicts} == pytest.approx(delays)
    for conflict in found.conflicts:
        option = made.option[conflict.task]
        if conflict.resource is Resource.TENSOR_CORE:
            assert problem.tensor_cores[option] > 0
        if conflict.resource is Resource.VECTOR_CORE:
            assert problem.vector_cores[option] > 0
