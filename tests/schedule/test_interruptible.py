"""Schedules with interruptions: valid, never below a bound, the same however tasks are listed, near the best."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import InternalError
from worklode.schedule.analysis import analyze
from worklode.schedule.bounds import lower_bounds
from worklode.schedule.interruptible import schedule_interruptible
from worklode.schedule.interruptible_kernel import QUANTUM
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.problem import Pieces, Schedule, ScheduleProblem
from worklode.schedule.synthetic import problem_from_lists, random_problem, training_problem
from worklode.schedule.trace import trace_records
from worklode.schedule.verify import verify


def interruptible(problem: ScheduleProblem, cost: float = 0.01, bytes_share: float = 0.5) -> ScheduleProblem:
    """Interruptions cost this share of the mean duration, and move that share of what the bandwidth allows."""
    resume_s = np.full(len(problem.compute_s), cost * max(float(problem.compute_s.mean()), 1e-9))
    return replace(
        problem, resume_s=resume_s, resume_bytes=bytes_share * resume_s * min(problem.hbm_bytes_per_s, 1e300)
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_tasks=st.integers(1, 40),
    cores=st.integers(1, 12),
    cost=st.sampled_from((0.0, 0.01, 0.3, 3.0)),
)
def test_valid_and_above_every_bound(seed: int, num_tasks: int, cores: int, cost: float) -> None:
    problem = interruptible(random_problem(seed, num_tasks, num_tensor_cores=cores, num_vector_cores=4), cost)
    bound_s = lower_bounds(problem).makespan_s
    quick = schedule_interruptible(problem, segments=True)
    thorough = schedule_interruptible(problem, segments=True, effort="thorough", evaluations=20)
    for found in (quick, thorough):
        verify(problem, found)
        assert found.makespan_s >= bound_s * (1 - 1e-9)
        analysis = analyze(problem, found)
        assert sum(analysis.shares.values()) == pytest.approx(1.0, abs=1e-6)
        assert max(analysis.tensor_core, analysis.vector_core, analysis.hbm) <= 1.0 + 1e-9
    assert thorough.makespan_s <= quick.makespan_s * (1 + 1e-9)
    again = schedule_interruptible(problem, segments=True, effort="thorough", evaluations=20)
    assert np.array_equal(again.start_s, thorough.start_s) and np.array_equal(again.end_s, thorough.end_s)


def chain_and_side() -> ScheduleProblem:
    """A chain of two tasks of 1 s that want all of a core, with 1 s of lanes between, beside a task of 2 s."""
    return problem_from_lists(
        [[], [0], [1], []],
        [[(2, 0, 1.0, 0.0)], [(0, 1, 1.0, 0.0)], [(2, 0, 1.0, 0.0)], [(2, 0, 1.0, 0.0)]],
        num_tensor_cores=2,
        num_vector_cores=1,
        hbm_bytes_per_s=1e9,
    )


def test_an_interruption_fills_a_gap() -> None:
    longer = problem_from_lists(
        [[], [0], [1], [2], [3], []],
        [
            [(2, 0, 1.0, 0.0)],
            [(0, 1, 1.0, 0.0)],
            [(2, 0, 1.0, 0.0)],
            [(0, 1, 1.0, 0.0)],
            [(2, 0, 1.0, 0.0)],
            [(2, 0, 2.0, 0.0)],
        ],
        num_tensor_cores=2,
        num_vector_cores=1,
        hbm_bytes_per_s=1e9,
    )
    whole = schedule(longer, effort="thorough")
    cut = interruptible(longer, cost=0.01)
    found = schedule_interruptible(cut, segments=True, effort="thorough")
    verify(cut, found)
    # The side task of 2 s fits into two gaps of 1 s but for what the interruption costs, and into none of them whole.
    assert whole.makespan_s == pytest.approx(6.0)
    assert found.interruptions == 1
    assert cut.resume_s is not None
    assert found.makespan_s == pytest.approx(5.0 + cut.resume_s[0])


def test_costly_interruptions_are_not_made() -> None:
    problem = interruptible(chain_and_side(), cost=10.0)
    found = schedule_interruptible(problem, effort="thorough")
    assert found.interruptions == 0
    assert found.makespan_s <= schedule(chain_and_side(), effort="thorough").makespan_s * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_near_the_best_preemptive_schedule_without_traffic(seed: int) -> None:
    """Oracle: one core type, no traffic, no cost, independent tasks that scale perfectly: all work over all cores."""
    random = np.random.default_rng(seed)
    work = random.uniform(0.5, 2.0, 6)
    options = [[(p, 0, w / p, 0.0) for p in (1, 2, 3, 4)] for w in work]
    problem = interruptible(
        problem_from_lists([[]] * 6, options, num_tensor_cores=4, num_vector_cores=1, hbm_bytes_per_s=1e9), 1e-9, 0.0
    )
    found = schedule_interruptible(problem, effort="thorough")
    assert work.sum() / 4 * (1 - 1e-9) <= found.makespan_s <= work.sum() / 4 * 1.01


@pytest.mark.parametrize("seed", range(8))
def test_against_all_orders_of_rigid_tasks(seed: int) -> None:
    """Oracle: every priority order, preemptive on one core at no cost: the best of them is no better than 5 %."""
    random = np.random.default_rng(seed)
    n = 6
    before = [[int(p) for p in range(i) if random.random() < 0.3] for i in range(n)]
    kind = random.random(n) < 0.5
    time_s = random.uniform(0.5, 2.0, n)
    options = [[(1, 0, t, 0.0)] if k else [(0, 1, t, 0.0)] for k, t in zip(kind, time_s, strict=True)]
    problem = problem_from_lists(before, options, num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1e9)
    best = min(_preemptive(before, kind, time_s, order) for order in permutations(range(n)))
    found = schedule_interruptible(interruptible(problem, 1e-9, 0.0), effort="thorough")
    assert lower_bounds(problem).makespan_s * (1 - 1e-9) <= best
    assert best * (1 - 1e-6) <= found.makespan_s <= best * 1.05


def _preemptive(before: list[list[int]], kind: np.ndarray, time_s: np.ndarray, order: tuple[int, ...]) -> float:
    """Makespan [s] of unit machines, one a kind, always on the first ready task of the order."""
    left, now, done = time_s.copy(), 0.0, set[int]()
    while len(done) < len(left):
        running = []
        for wanted in (True, False):
            ready = [t for t in order if t not in done and kind[t] == wanted and done.issuperset(before[t])]
            running += ready[:1]
        step = min(left[t] for t in running)
        now += step
        for t in running:
            left[t] -= step
            if left[t] <= 1e-12:
                done.add(t)
    return now


def test_listing_tasks_in_another_order_changes_nothing() -> None:
    problem = interruptible(training_problem(6, branches=2, hbm_load=0.8))
    n = len(problem.item_of)
    rank = np.random.default_rng(0).permutation(n)
    depth = np.zeros(n, np.int64)
    for task in range(n):
        for edge in range(problem.predecessor_start[task], problem.predecessor_start[task + 1]):
            depth[task] = max(depth[task], depth[problem.predecessor[edge]] + 1)
    order = np.lexsort((np.random.default_rng(1).random(n), depth))  # new place -> old task
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    other = replace(
        problem,
        item_of=problem.item_of[order],
        **_edges("predecessor", problem.predecessor_start, problem.predecessor, order, place),
        **_edges("successor", problem.successor_start, problem.successor, order, place),
    )
    for effort in ("quick", "thorough"):
        one = schedule_interruptible(problem, rank=rank, effort=effort, evaluations=60)
        two = schedule_interruptible(other, rank=rank[order], effort=effort, evaluations=60)
        assert np.array_equal(one.start_s[order], two.start_s)
        assert np.array_equal(one.end_s[order], two.end_s)


def _edges(name: str, start: np.ndarray, ends: np.ndarray, order: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    rows = [np.sort(place[ends[start[task] : start[task + 1]]]) for task in order]
    return {
        f"{name}_start": np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64),
        name: np.concatenate(rows).astype(np.int64),
    }


def test_pieces_are_seen_in_the_trace() -> None:
    problem, found = _example()
    records = trace_records(problem, found, [f"task {i}" for i in range(len(problem.item_of))])
    assert found.pieces is not None
    held = [record for record in records if record["ph"] == "X"]
    shown = {(record["args"]["task"], record["args"]["share"]) for record in held if isinstance(record["args"], dict)}
    pieces = set(zip(found.pieces.task.tolist(), found.pieces.share.tolist(), strict=True))
    assert shown == pieces and len(pieces) > len(problem.item_of)


def _example() -> tuple[ScheduleProblem, Schedule]:
    problem = interruptible(training_problem(8, branches=2, hbm_load=0.8), cost=0.001)
    found = schedule_interruptible(problem, segments=True)
    assert found.interruptions > 0 and found.pieces is not None
    return problem, found


def _changed(found: Schedule, **arrays: np.ndarray) -> Schedule:
    assert found.pieces is not None
    return replace(found, pieces=replace(found.pieces, **arrays))


def _pieces(found: Schedule) -> Pieces:
    assert found.pieces is not None
    return found.pieces


def test_the_example_passes() -> None:
    verify(*_example())


def test_work_that_is_not_done() -> None:
    problem, found = _example()
    share = _pieces(found).share.copy()
    share[0] *= 0.5
    with pytest.raises(InternalError, match=r"the pieces of task \d+ do"):
        verify(problem, _changed(found, share=share))


def test_interruptions_that_cost_nothing() -> None:
    problem, found = _example()
    with pytest.raises(InternalError, match=r"is interrupted at no cost"):
        verify(problem, _changed(found, set_up_s=np.zeros(len(_pieces(found).task))))


def test_a_discount() -> None:
    problem, found = _example()
    with pytest.raises(InternalError, match=r"pays another price"):
        verify(problem, _changed(found, set_up_s=_pieces(found).set_up_s * 0.5))


def test_too_many_cores() -> None:
    problem, found = _example()
    with pytest.raises(InternalError, match=r"tensor cores in use"):
        verify(replace(problem, num_tensor_cores=1), found)


def test_progress_too_slow() -> None:
    problem, found = _example()
    with pytest.raises(InternalError, match=r"does .* s of work"):
        verify(problem, replace(found, segment_rate=found.segment_rate * 0.9))


def test_more_bandwidth_than_there_is() -> None:
    problem, found = _example()
    with pytest.raises(InternalError, match=r"of HBM in use"):
        verify(replace(problem, resume_bytes=problem.hbm_bytes_per_s * np.ones(len(problem.hbm_bytes))), found)


def test_pieces_where_no_interruption_is_allowed() -> None:
    problem, found = _example()
    with pytest.raises(InternalError, match=r"may not be interrupted"):
        verify(replace(problem, resume_s=None, resume_bytes=None), found)


def test_pieces_are_not_too_small() -> None:
    _, found = _example()
    pieces = _pieces(found)
    several = np.bincount(pieces.task)[pieces.task] > 1
    assert (pieces.share[several] >= QUANTUM * (1 - 1e-6)).all()


def test_a_problem_must_say_what_interruptions_cost() -> None:
    with pytest.raises(InternalError, match="what an interruption costs"):
        schedule_interruptible(chain_and_side())
