"""A schedule as records of the Chrome trace-event format, which Perfetto opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from worklode.schedule.compiled import Ints
from worklode.schedule.problem import Schedule, ScheduleProblem
from worklode.schedule.verify import hbm_usage

# One lane per core up to this many cores of a type [count]; beyond, one lane per task that runs at the same time.
# Assumption: what fits a screen.
MOST_CORE_LANES = 32
MICROSECONDS_PER_SECOND = 1e6
BYTES_PER_GIGABYTE = 1e9

Record = dict[str, object]


def trace_records(
    problem: ScheduleProblem, schedule: Schedule, names: Sequence[str], categories: Sequence[str] | None = None
) -> list[Record]:
    """Trace events of a schedule: tasks on lanes of tensor and vector cores, and the HBM bandwidth as a counter.

    Args:
        problem: what was scheduled.
        schedule: with segments, or the counter is left out.
        names: [N] what to call the tasks.
        categories: [N] category of each task (its phase), by which Perfetto filters.

    Returns:
        Records for the `traceEvents` list of a JSON trace; times in microseconds, as the format demands.
    """
    assert len(names) == len(problem.item_of)
    records: list[Record] = []
    pieces = schedule.runs()
    types = (
        ("tensor cores", problem.tensor_cores, problem.num_tensor_cores),
        ("vector cores", problem.vector_cores, problem.num_vector_cores),
    )
    for process, (label, cores, capacity) in enumerate(types, start=1):
        records.append(_metadata("process_name", process, 0, label))
        lanes: set[int] = set()
        for piece, numbers in assign_cores(schedule, cores, capacity):
            spans, task = _spans(numbers), int(pieces.task[piece])
            arguments: Record = {"task": task, "cores": len(numbers), "core_numbers": spans}
            if schedule.pieces is not None:
                arguments |= {"option": int(pieces.option[piece]), "share": float(pieces.share[piece])}
            if capacity <= MOST_CORE_LANES:
                on_lanes: Sequence[int] = [int(number) for number in numbers]
            else:
                on_lanes = [int(numbers[0])]
            for lane in on_lanes:
                lanes.add(lane)
                records.append(
                    {
                        "name": names[task],
                        "cat": categories[task] if categories is not None else "task",
                        "ph": "X",
                        "ts": float(pieces.start_s[piece]) * MICROSECONDS_PER_SECOND,
                        "dur": float(schedule.end_s[task] - pieces.start_s[piece]) * MICROSECONDS_PER_SECOND,
                        "pid": process,
                        "tid": lane,
                        "args": arguments,
                    }
                )
        records.extend(_metadata("thread_name", process, lane, f"core {lane}") for lane in sorted(lanes))
    if len(schedule.segment_task):
        records.append(_metadata("process_name", len(types) + 1, 0, "HBM"))
        time_s, used = hbm_usage(problem, schedule)
        for at, amount in zip(time_s, used, strict=True):
            records.append(
                {
                    "name": "HBM [GB/s]",
                    "ph": "C",
                    "ts": float(at) * MICROSECONDS_PER_SECOND,
                    "pid": len(types) + 1,
                    "args": {"used": max(float(amount), 0.0) / BYTES_PER_GIGABYTE},
                }
            )
    return records


def assign_cores(schedule: Schedule, cores: Ints, capacity: int) -> Iterator[tuple[int, Ints]]:
    """Core numbers of every piece that holds cores of a type, in order of start: always the lowest that are free.

    Args:
        schedule: the schedule; where no task may be interrupted, pieces are tasks.
        cores: [O] cores of the type that each option holds.
        capacity: how many there are.
    """
    pieces = schedule.runs()
    holders = np.flatnonzero((cores[pieces.option] > 0) & (pieces.end_s > pieces.start_s))
    free_at = np.zeros(capacity)
    for piece in holders[np.argsort(pieces.start_s[holders], kind="stable")]:
        free = np.flatnonzero(free_at <= pieces.start_s[piece])
        numbers = free[: int(cores[pieces.option[piece]])]
        assert len(numbers) == cores[pieces.option[piece]], "the schedule holds more cores than there are"
        free_at[numbers] = pieces.end_s[piece]
        yield int(piece), numbers


def _spans(numbers: Ints) -> str:
    """Core numbers for people: `0-3, 6`."""
    breaks = [0, *(int(at) + 1 for at in np.flatnonzero(np.diff(numbers) > 1)), len(numbers)]
    parts = ((int(numbers[low]), int(numbers[high - 1])) for low, high in pairwise(breaks))
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _metadata(kind: str, process: int, thread: int, name: str) -> Record:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
