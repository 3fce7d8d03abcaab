"""Critical path against a graph library and against definitions."""

import numpy as np
import pytest
import rustworkx
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import InternalError
from worklode.schedule.critical_path import critical_path, topological_order
from worklode.schedule.problem import ScheduleProblem
from worklode.schedule.synthetic import problem_from_lists, random_problem

seeds = st.integers(0, 10_000)


def shuffled(problem: ScheduleProblem, seed: int) -> ScheduleProblem:
    """The same problem with its tasks in an order that is not topological."""
    n = len(problem.item_of)
    new_of = np.random.default_rng(seed).permutation(n)
    predecessors: list[list[int]] = [[] for _ in range(n)]
    for task in range(n):
        found = problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]
        predecessors[new_of[task]] = [int(new_of[before]) for before in found]
    item_of = np.empty(n, np.int64)
    item_of[new_of] = problem.item_of
    options = [[(1, 0, 1.0, 0.0)] for _ in range(n)]
    return problem_from_lists(
        predecessors, options, num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1.0, item_of=list(item_of)
    )


@settings(deadline=None)
@given(seed=seeds, num_tasks=st.integers(1, 40), edges=st.floats(0.0, 3.0))
def test_length_is_that_of_rustworkx(seed: int, num_tasks: int, edges: float) -> None:
    problem = shuffled(random_problem(seed, num_tasks, edges_per_task=edges), seed)
    duration_s = np.random.default_rng(seed).lognormal(size=num_tasks)
    graph = rustworkx.PyDiGraph()
    graph.add_nodes_from(range(num_tasks + 1))  # the last is a sink that carries the duration of the last task
    for task in range(num_tasks):
        graph.add_edge(task, num_tasks, duration_s[task])
        for edge in range(problem.successor_start[task], problem.successor_start[task + 1]):
            graph.add_edge(task, int(problem.successor[edge]), duration_s[task])
    expected = rustworkx.dag_weighted_longest_path_length(graph, lambda _source, _target, weight: weight)
    found = critical_path(problem, duration_s)
    assert found.length_s == pytest.approx(expected, rel=1e-12)
    assert sum(duration_s[list(found.tasks)]) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(seed=seeds, num_tasks=st.integers(1, 40))
def test_times_obey_their_definitions(seed: int, num_tasks: int) -> None:
    problem = random_problem(seed, num_tasks)
    duration_s = np.random.default_rng(seed).lognormal(size=num_tasks)
    found = critical_path(problem, duration_s)
    for task in range(num_tasks):
        before = problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]
        after = problem.successor[problem.successor_start[task] : problem.successor_start[task + 1]]
        assert found.asap_s[task] == max((found.asap_s[p] + duration_s[p] for p in before), default=0.0)
        latest = min((found.alap_s[s] for s in after), default=found.length_s) - duration_s[task]
        assert found.alap_s[task] == pytest.approx(latest, abs=1e-9 * found.length_s)
    assert (found.slack_s >= 0).all()
    assert found.slack_s[list(found.tasks)] == pytest.approx(0.0, abs=1e-9 * found.length_s)
    for first, second in zip(found.tasks, found.tasks[1:], strict=False):
        assert first in problem.predecessor[problem.predecessor_start[second] : problem.predecessor_start[second + 1]]


@settings(deadline=None)
@given(seed=seeds, num_tasks=st.integers(1, 40))
def test_order_is_topological(seed: int, num_tasks: int) -> None:
    problem = shuffled(random_problem(seed, num_tasks), seed)
    position = np.argsort(topological_order(problem))
    owner = np.repeat(np.arange(num_tasks), np.diff(problem.predecessor_start))
    assert (position[problem.predecessor] < position[owner]).all()


def test_cycle_is_an_error() -> None:
    option = [(1, 0, 1.0, 0.0)]
    problem = problem_from_lists(
        [[], [0, 2], [1]], [option] * 3, num_tensor_cores=1, num_vector_cores=0, hbm_bytes_per_s=1.0
    )
    with pytest.raises(InternalError, match="dependences have a cycle: only 1 of 3 tasks can be ordered"):
        critical_path(problem, np.ones(3))


def test_nothing_to_do() -> None:
    problem = problem_from_lists([], [], num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1.0)
    found = critical_path(problem, np.zeros(0))
    assert found.length_s == 0.0
    assert found.tasks == ()
