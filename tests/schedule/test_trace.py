"""Trace records: valid JSON, every task on as many lanes as it has cores, no lane used twice at a time."""

import json
from collections import defaultdict
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.schedule.list_scheduler import schedule
from worklode.schedule.synthetic import problem_from_lists, random_problem, training_problem
from worklode.schedule.trace import assign_cores, trace_records


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), num_tasks=st.integers(1, 40), cores=st.integers(1, 12))
def test_lanes_never_overlap(seed: int, num_tasks: int, cores: int) -> None:
    problem = random_problem(seed, num_tasks, num_tensor_cores=cores, num_vector_cores=4)
    made = schedule(problem, segments=True)
    records = trace_records(problem, made, [f"task {i}" for i in range(num_tasks)])
    json.dumps(records)
    lanes: dict[tuple[object, object], list[tuple[float, float]]] = defaultdict(list)
    count: dict[tuple[object, object], int] = defaultdict(int)
    for record in records:
        if record["ph"] == "X":
            begin, length = record["ts"], record["dur"]
            assert isinstance(begin, float)
            assert isinstance(length, float)
            lanes[record["pid"], record["tid"]].append((begin, begin + length))
            count[record["pid"], record["name"]] += 1
    for spans in lanes.values():
        spans.sort()
        for first, second in pairwise(spans):
            assert first[1] <= second[0] * (1 + 1e-12)
    for task in range(num_tasks):
        assert count[1, f"task {task}"] == problem.tensor_cores[made.option[task]]
        assert count[2, f"task {task}"] == problem.vector_cores[made.option[task]]


def test_records_of_one_task() -> None:
    problem = problem_from_lists(
        [[]], [[(2, 0, 0.5, 2e9)]], num_tensor_cores=3, num_vector_cores=1, hbm_bytes_per_s=4e9
    )
    records = trace_records(problem, schedule(problem, segments=True), ["mm"], ["forward"])
    tasks = [record for record in records if record["ph"] == "X"]
    assert tasks[0] == {
        "name": "mm",
        "cat": "forward",
        "ph": "X",
        "ts": 0.0,
        "dur": 500_000.0,
        "pid": 1,
        "tid": 0,
        "args": {"task": 0, "cores": 2, "core_numbers": "0-1"},
    }
    assert [record["tid"] for record in tasks] == [0, 1]
    counters = [(record["ts"], record["args"]) for record in records if record["ph"] == "C"]
    assert counters == [(0.0, {"used": 4.0}), (500_000.0, {"used": 0.0})]


def test_many_cores_get_one_lane_per_task() -> None:
    problem = training_problem(2, num_tensor_cores=64, num_vector_cores=64)
    records = trace_records(problem, schedule(problem), [str(i) for i in range(len(problem.item_of))])
    tasks = [record for record in records if record["ph"] == "X"]
    assert len(tasks) == len(problem.item_of)
    assert not [record for record in records if record["ph"] == "C"], "no segments, no counter"


def test_core_numbers_are_the_lowest_free() -> None:
    problem = problem_from_lists(
        [[], [], [0]],
        [[(1, 0, 1.0, 0.0)], [(1, 0, 3.0, 0.0)], [(2, 0, 1.0, 0.0)]],
        num_tensor_cores=3,
        num_vector_cores=0,
        hbm_bytes_per_s=1.0,
    )
    numbers = {task: list(found) for task, found in assign_cores(schedule(problem), problem.tensor_cores, 3)}
    assert numbers == {0: [0], 1: [1], 2: [0, 2]}
    spans = {r["name"]: r["args"] for r in trace_records(problem, schedule(problem), ["a", "b", "c"]) if r["ph"] == "X"}
    assert spans["c"] == {"task": 2, "cores": 2, "core_numbers": "0, 2"}
