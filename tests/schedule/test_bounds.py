"""Lower bounds: against exhaustive search over subsets, against a linear program, against worked examples."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.schedule.bounds import guide, jackson_makespan, lower_bounds, option_shares
from worklode.schedule.critical_path import critical_path, topological_order
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.options import option_table
from worklode.schedule.path_structure import path_neighbours, path_structure
from worklode.schedule.prices import best_prices, price_bound, priced_options
from worklode.schedule.problem import ScheduleProblem
from worklode.schedule.synthetic import problem_from_lists, random_problem, training_problem

jobs = st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 3), st.floats(0, 5)), min_size=1, max_size=7)


@settings(deadline=None)
@given(jobs=jobs)
def test_jackson_is_the_best_subset_bound(jobs: list[tuple[float, float, float]]) -> None:
    jobs = sorted(jobs)
    best = max(
        min(r for r, _, _ in chosen) + sum(w for _, w, _ in chosen) + min(q for _, _, q in chosen)
        for size in range(1, len(jobs) + 1)
        for chosen in combinations(jobs, size)
    )
    heads, work, tails = (np.array(column) for column in zip(*jobs, strict=True))
    assert jackson_makespan(heads, work, tails) == pytest.approx(best, rel=1e-12)


def test_a_single_task_is_bounded_exactly() -> None:
    problem = problem_from_lists(
        [[]], [[(1, 0, 4.0, 1.0), (4, 0, 2.0, 1.0)]], num_tensor_cores=4, num_vector_cores=1, hbm_bytes_per_s=2.0
    )
    bounds = lower_bounds(problem)
    assert bounds.critical_path_s == 2.0
    assert bounds.tensor_core_s == 1.0
    assert bounds.vector_core_s == 0.0
    assert bounds.hbm_s == 0.5
    assert bounds.makespan_s == pytest.approx(2.0)


def test_nothing_to_do() -> None:
    empty = problem_from_lists([], [], num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1.0)
    assert lower_bounds(empty).makespan_s == 0.0


def test_heads_and_tails_see_work_that_cannot_start_early() -> None:
    """A vector operation of 5 s, then four products of 1 s on the one core: 9 s, though path and work are 6 and 4."""
    product = [(1, 0, 1.0, 0.0)]
    problem = problem_from_lists(
        [[], [0], [0], [0], [0]],
        [[(0, 1, 5.0, 0.0)], *[product] * 4],
        num_tensor_cores=1,
        num_vector_cores=1,
        hbm_bytes_per_s=1.0,
    )
    bounds = lower_bounds(problem)
    assert bounds.critical_path_s == 6.0
    assert bounds.tensor_core_s == 4.0
    assert bounds.heads_and_tails_s == 9.0


def test_work_between_fork_and_join_raises_the_head_of_the_join() -> None:
    """Twice fork, three products, join on one core: heads add up to 2 x 3 s, more than any path (2 x 1 s)."""
    product, join = [(1, 0, 1.0, 0.0)], [(0, 0, 0.0, 0.0)]
    problem = problem_from_lists(
        [[], [0], [0], [0], [1, 2, 3], [4], [4], [4], [5, 6, 7], [8]],
        [join, product, product, product, join, product, product, product, join, [(0, 1, 1.0, 0.0)]],
        num_tensor_cores=1,
        num_vector_cores=1,
        hbm_bytes_per_s=1.0,
    )
    assert lower_bounds(problem).heads_and_tails_s == 7.0


def test_branches_cannot_all_take_their_fastest_and_their_cheapest_option() -> None:
    """Between fork and join, three tasks of 1 core · 4 s or 4 cores · 2 s on 4 cores: in less than 4 s every task needs
    all cores for 2 s, 6 s in all; so 4 s, where path and work alone give 2 s and 3 s."""
    poor, join = [(1, 0, 4.0, 0.0), (4, 0, 2.0, 0.0)], [(0, 0, 0.0, 0.0)]
    problem = problem_from_lists(
        [[], [0], [0], [0], [1, 2, 3]],
        [join, poor, poor, poor, join],
        num_tensor_cores=4,
        num_vector_cores=1,
        hbm_bytes_per_s=1.0,
    )
    bounds = lower_bounds(problem)
    assert bounds.critical_path_s == 2.0
    assert bounds.tensor_core_s == 3.0
    assert 3.98 <= bounds.heads_and_tails_s <= 4.0


def beside_path_example() -> ScheduleProblem:
    """A path of products and of vector operations that take all bandwidth, each 1 s; one free product of 1 s that asks
    for 0.3 of the bandwidth."""
    product = [(1, 0, 1.0, 0.0)]
    return problem_from_lists(
        [[], [0], [1], [2], []],
        [product, [(0, 1, 0.1, 1.0)], product, [(0, 1, 0.1, 1.0)], [(1, 0, 1.0, 0.3)]],
        num_tensor_cores=1,
        num_vector_cores=2,
        hbm_bytes_per_s=1.0,
    )


def test_work_beside_the_path_stretches_it_by_what_it_takes() -> None:
    """The free product cannot run beside the path's products, and beside its vector operations takes 0.3 s of HBM."""
    bounds = lower_bounds(beside_path_example())
    assert bounds.critical_path_s == 4.0
    assert 4.28 <= bounds.beside_path_s <= 4.3 + 1e-9


def linear_program(problem: ScheduleProblem, *, by_phase: bool) -> float:
    """The relaxation behind the prices as a linear program: phases stretch, work is spread over them.

    Args:
        problem: the problem.
        by_phase: every phase for itself, as in the derivation; else phases by class, as the prices have them.
    """
    from ortools.linear_solver import pywraplp  # type: ignore[import-untyped]

    table, order = option_table(problem), topological_order(problem)
    work_s = option_shares(problem, table)[1]
    path = np.array(critical_path(problem, table.duration_s[table.fastest[problem.item_of]]).tasks)
    before, after = path_neighbours(
        order, problem.predecessor_start, problem.predecessor, problem.successor_start, problem.successor, path
    )
    structure = path_structure(problem, order, path)
    solver = pywraplp.Solver.CreateSolver("GLOP")
    length: dict[Any, Any] = {}
    time: dict[Any, list[Any]] = {}
    use: dict[Any, list[list[Any]]] = {}

    def phase(name: Any) -> Any:
        if name not in length:
            length[name], time[name] = solver.NumVar(0, solver.infinity(), ""), []
            use[name] = [[], [], []]
        return name

    def place(item: int, count: float, phases: list[Any], *, on_path: bool) -> None:
        span = range(problem.option_start[item], problem.option_start[item + 1])
        picks = [
            (p, o, solver.NumVar(0, solver.infinity(), ""))
            for p in phases
            for o in span
            if np.isfinite(table.duration_s[o])
        ]
        solver.Add(sum(pick for _, _, pick in picks) == count)
        for p, o, pick in picks:
            if on_path:
                time[p].append(pick * table.duration_s[o])
            for r in range(3):
                use[p][r].append(pick * work_s[o, r])

    if by_phase:
        for k, task in enumerate(path):
            place(problem.item_of[task], 1, [phase(("run", k))], on_path=True)
        for task in set(range(len(order))) - set(path.tolist()):
            inside = [("run", k) for k in range(before[task] + 1, after[task])]
            gaps = [("gap", k) for k in range(before[task] + 1, after[task] + 1)]
            place(problem.item_of[task], 1, [phase(p) for p in inside + gaps], on_path=False)
    else:
        for c, item, count in zip(structure.row_class, structure.row_item, structure.row_count, strict=True):
            place(item, count, [phase(int(c))], on_path=True)
        for g, item in enumerate(structure.group_item):
            classes = structure.group_class[structure.group_start[g] : structure.group_start[g + 1]]
            place(item, structure.group_count[g], [phase(int(c)) for c in classes], on_path=False)
    for p, takes in length.items():
        for needed in (time[p], *use[p]):
            solver.Add(takes >= sum(needed))
    solver.Minimize(sum(length.values()))
    assert solver.Solve() == pywraplp.Solver.OPTIMAL
    return float(solver.Objective().Value())


def test_prices_come_close_to_the_linear_program_and_never_above() -> None:
    pytest.importorskip("ortools", reason="the linear program is solved by OR-tools")
    by_class: list[float] = []
    by_phase: list[float] = []
    problems = [random_problem(seed, 25, num_tensor_cores=4, num_vector_cores=4) for seed in range(6)]
    problems += [training_problem(4, hbm_load=load, vector_share=0.2) for load in (0.0, 0.3, 1.0)]
    for problem in [*problems, beside_path_example()]:
        found = lower_bounds(problem).beside_path_s
        for ratios, exact in (
            (by_class, linear_program(problem, by_phase=False)),
            (by_phase, linear_program(problem, by_phase=True)),
        ):
            assert found <= exact * (1 + 1e-6)
            ratios.append(found / exact)
    assert min(by_class) > 0.98
    assert np.mean(by_class) > 0.995
    assert np.mean(by_phase) > 0.95


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), num_tasks=st.integers(1, 30))
def test_prices_of_one_design_bound_others(seed: int, num_tasks: int) -> None:
    """Any prices are a bound: those found on one problem never exceed a schedule of another of the same structure."""
    here = random_problem(seed, num_tasks, num_tensor_cores=4, num_vector_cores=4)
    found = guide(here)
    scale = np.random.default_rng(seed).uniform(0.3, 3.0, len(here.compute_s))
    there = replace(here, compute_s=here.compute_s * scale, hbm_bytes_per_s=2.0 * here.hbm_bytes_per_s)
    table = option_table(there)
    value = price_bound(found.structure, priced_options(there, table, option_shares(there, table)[1]), found.prices)
    makespan_s = schedule(there).makespan_s
    assert value <= makespan_s * (1 + 1e-9)
    guided = lower_bounds(there, guided_by=found, rounds=3)
    assert value <= guided.beside_path_s * (1 + 1e-12)
    assert guided.makespan_s <= makespan_s * (1 + 1e-9)


def test_a_guide_gives_what_the_ascent_found() -> None:
    problem = training_problem(4, hbm_load=0.5, vector_share=0.2)
    table = option_table(problem)
    options = priced_options(problem, table, option_shares(problem, table)[1])
    found = guide(problem)
    assert price_bound(found.structure, options, found.prices) == pytest.approx(
        best_prices(found.structure, options)[0]
    )


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), num_tasks=st.integers(1, 40))
def test_more_of_everything_never_raises_the_simple_bounds(seed: int, num_tasks: int) -> None:
    problem = random_problem(seed, num_tasks)
    options = [
        [
            (int(problem.tensor_cores[o]), int(problem.vector_cores[o]), float(problem.compute_s[o]), 0.0)
            for o in range(problem.option_start[i], problem.option_start[i + 1])
        ]
        for i in range(num_tasks)
    ]
    predecessors = [
        [int(p) for p in problem.predecessor[problem.predecessor_start[i] : problem.predecessor_start[i + 1]]]
        for i in range(num_tasks)
    ]
    small = lower_bounds(
        problem_from_lists(predecessors, options, num_tensor_cores=4, num_vector_cores=4, hbm_bytes_per_s=1.0)
    )
    large = lower_bounds(
        problem_from_lists(predecessors, options, num_tensor_cores=8, num_vector_cores=8, hbm_bytes_per_s=1.0)
    )
    assert large.critical_path_s <= small.critical_path_s
    assert large.tensor_core_s <= small.tensor_core_s
    assert large.vector_core_s <= small.vector_core_s
