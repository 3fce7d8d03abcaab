"""Every rule of a schedule is checked: each test breaks one."""

from dataclasses import replace

import numpy as np
import pytest

from worklode.errors import InternalError
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.problem import Schedule, ScheduleProblem
from worklode.schedule.synthetic import problem_from_lists, training_problem
from worklode.schedule.verify import usage, verify


@pytest.fixture
def problem() -> ScheduleProblem:
    return training_problem(3, branches=2, hbm_load=0.8)


@pytest.fixture
def good(problem: ScheduleProblem) -> Schedule:
    return schedule(problem, segments=True)


def test_a_good_schedule_passes(problem: ScheduleProblem, good: Schedule) -> None:
    verify(problem, good)
    assert (good.segment_rate < 1).any(), "the example must have contention, or the bandwidth is not tested"


def test_segments_are_needed(problem: ScheduleProblem) -> None:
    with pytest.raises(InternalError, match=r"advances by 0 s of"):
        verify(problem, schedule(problem))


def test_too_few_entries(problem: ScheduleProblem, good: Schedule) -> None:
    with pytest.raises(InternalError, match=r"schedule\.start_s has 1 entries"):
        verify(problem, replace(good, start_s=good.start_s[:1]))


def test_option_of_another_item(problem: ScheduleProblem, good: Schedule) -> None:
    option = good.option.copy()
    option[2] = len(problem.compute_s) - 1
    with pytest.raises(InternalError, match=r"task 2 takes option \d+, it has"):
        verify(problem, replace(good, option=option))


def test_dependence(problem: ScheduleProblem, good: Schedule) -> None:
    task = int(np.flatnonzero(np.diff(problem.predecessor_start))[0])
    start = good.start_s.copy()
    start[task] = 0.0
    with pytest.raises(InternalError, match=f"task {task} starts at 0 s, before its predecessor"):
        verify(problem, replace(good, start_s=start))


def test_too_short(problem: ScheduleProblem, good: Schedule) -> None:
    end = good.end_s.copy()
    end[0] = good.start_s[0]
    with pytest.raises(InternalError, match=r"task 0 takes 0 s, alone it takes"):
        verify(problem, replace(good, end_s=end))


def test_not_a_number(problem: ScheduleProblem, good: Schedule) -> None:
    end = good.end_s.copy()
    end[0] = np.nan
    with pytest.raises(InternalError, match="task 0 runs from"):
        verify(problem, replace(good, end_s=end))


@pytest.mark.parametrize(("tensor", "vector", "name"), [(1, 0, "tensor"), (0, 1, "vector")])
def test_capacity(tensor: int, vector: int, name: str) -> None:
    problem = problem_from_lists(
        [[], []], [[(tensor, vector, 1.0, 0.0)]] * 2, num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1.0
    )
    good = schedule(problem, segments=True)
    verify(problem, good)
    both_at_once = replace(
        good,
        start_s=np.zeros(2),
        end_s=np.ones(2),
        segment_start_s=np.zeros(2),
        segment_end_s=np.ones(2),
    )
    with pytest.raises(InternalError, match=f"2 {name} cores in use at 0 s, there are 1"):
        verify(problem, both_at_once)


def test_bandwidth() -> None:
    problem = problem_from_lists(
        [[], []], [[(0, 1, 1.0, 0.7)]] * 2, num_tensor_cores=0, num_vector_cores=2, hbm_bytes_per_s=1.0
    )
    flat_out = Schedule(
        start_s=np.zeros(2),
        end_s=np.ones(2),
        option=np.array([0, 1]),
        segment_task=np.array([0, 1]),
        segment_start_s=np.zeros(2),
        segment_end_s=np.ones(2),
        segment_rate=np.ones(2),
    )
    with pytest.raises(InternalError, match=r"1.4 bytes/s of HBM in use at 0 s, there are 1"):
        verify(problem, flat_out)


def test_rate_above_one(problem: ScheduleProblem, good: Schedule) -> None:
    rate = good.segment_rate.copy()
    rate[0] = 1.1
    with pytest.raises(InternalError, match=r"advances at rate 1\.1"):
        verify(problem, replace(good, segment_rate=rate))


def test_progress(problem: ScheduleProblem, good: Schedule) -> None:
    rate = good.segment_rate.copy()
    rate[-1] *= 0.9
    with pytest.raises(InternalError, match=f"task {good.segment_task[-1]} advances by"):
        verify(problem, replace(good, segment_rate=rate))


def test_segment_outside_its_task(problem: ScheduleProblem, good: Schedule) -> None:
    start, end = good.segment_start_s.copy(), good.segment_end_s.copy()
    start[0] += good.makespan_s
    end[0] += good.makespan_s
    with pytest.raises(InternalError, match="advances outside its start and end"):
        verify(problem, replace(good, segment_start_s=start, segment_end_s=end))


def test_overlapping_segments() -> None:
    problem = problem_from_lists(
        [[]], [[(0, 1, 1.0, 0.0)]], num_tensor_cores=0, num_vector_cores=1, hbm_bytes_per_s=1.0
    )
    doubled = Schedule(
        start_s=np.zeros(1),
        end_s=np.ones(1),
        option=np.zeros(1, np.int64),
        segment_task=np.zeros(2, np.int64),
        segment_start_s=np.zeros(2),
        segment_end_s=np.ones(2),
        segment_rate=np.full(2, 0.5),
    )
    with pytest.raises(InternalError, match="segments of task 0 overlap"):
        verify(problem, doubled)


def test_usage_counts_ends_before_starts() -> None:
    time_s, used = usage(np.array([0.0, 1.0, 1.0]), np.array([1.0, 3.0, 2.0]), np.array([2.0, 1.0, 1.0]))
    assert time_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert used.tolist() == [2.0, 2.0, 1.0, 0.0]


def test_a_segment_of_no_length_is_no_overlap() -> None:
    """Rounding may leave one that begins where a longer one begins, in either order."""
    problem = problem_from_lists(
        [[]], [[(1, 0, 2.0, 0.0)]], num_tensor_cores=1, num_vector_cores=1, hbm_bytes_per_s=1.0
    )
    whole = schedule(problem, segments=True)
    for order in ([0, 1], [1, 0]):
        split = replace(
            whole,
            segment_task=np.zeros(2, np.int64),
            segment_start_s=np.zeros(2),
            segment_end_s=np.array([2.0, 0.0])[order],
            segment_rate=np.ones(2),
        )
        verify(problem, split)
