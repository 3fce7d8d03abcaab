"""Checks that a schedule obeys its problem: run on every schedule that is reported."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worklode.errors import InternalError
from worklode.schedule.compiled import Floats
from worklode.schedule.options import option_table
from worklode.schedule.problem import Schedule, ScheduleProblem
from worklode.schedule.verify_pieces import check_pieces

# Relative error allowed in times, progress and bandwidth: float64 sums over up to 1e5 events keep 1e-11; a real fault
# is a missing task or a wrong rate, never this small. Choice, not measured.
TOLERANCE = 1e-9


def verify(problem: ScheduleProblem, schedule: Schedule) -> None:
    """Check dependences, options, capacities of both core types, bandwidth in every segment, and progress.

    Raises:
        InternalError: naming the first task or time that breaks a rule; also where segments were not asked for.
    """
    n = len(problem.item_of)
    for name in ("start_s", "end_s", "option"):
        if len(getattr(schedule, name)) != n:
            raise InternalError(f"schedule.{name} has {len(getattr(schedule, name))} entries for {n} tasks")
    if n == 0:
        return
    allowed_s = TOLERANCE * schedule.makespan_s
    _check_options(problem, schedule)
    duration_s = option_table(problem).duration_s[schedule.option]
    _check_dependences(problem, schedule)
    pieces = schedule.runs()
    if schedule.pieces is not None:
        check_pieces(problem, schedule, schedule.pieces, TOLERANCE)
    else:
        _check_durations(schedule, duration_s, allowed_s)
    for what, cores, capacity in (
        ("tensor cores", problem.tensor_cores[pieces.option], problem.num_tensor_cores),
        ("vector cores", problem.vector_cores[pieces.option], problem.num_vector_cores),
    ):
        time_s, used = usage(pieces.start_s, pieces.end_s, cores.astype(np.float64))
        if len(used) and used.max() > capacity:
            worst = int(used.argmax())
            raise InternalError(f"{used[worst]:.0f} {what} in use at {time_s[worst]:.9g} s, there are {capacity}")
    if schedule.pieces is None:
        _check_segments(schedule, duration_s, allowed_s)
    time_s, used = hbm_usage(problem, schedule)
    if len(used) and used.max() > problem.hbm_bytes_per_s * (1 + TOLERANCE):
        worst = int(used.argmax())
        raise InternalError(
            f"{used[worst]:.6g} bytes/s of HBM in use at {time_s[worst]:.9g} s, there are {problem.hbm_bytes_per_s:.6g}"
        )


def usage(start_s: Floats, end_s: Floats, amount: Floats) -> tuple[Floats, Floats]:
    """What intervals [start, end) hold together: times [s] at which the sum may change, and the sum from then on."""
    time_s = np.concatenate((end_s, start_s))
    change = np.concatenate((-amount, amount))
    order = np.argsort(time_s, kind="stable")  # stable: at equal times ends come before starts
    held = np.cumsum(change[order])
    time_s = time_s[order]
    last_of_moment = np.append(time_s[1:] > time_s[:-1], True)
    return time_s[last_of_moment], held[last_of_moment]


def _first(bad: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(bad)[0])


def _check_options(problem: ScheduleProblem, schedule: Schedule) -> None:
    low = problem.option_start[problem.item_of]
    high = problem.option_start[problem.item_of + 1]
    bad = (schedule.option < low) | (schedule.option >= high)
    if bad.any():
        task = _first(bad)
        raise InternalError(
            f"task {task} takes option {schedule.option[task]}, it has {low[task]} up to {high[task] - 1}"
        )


def _check_durations(schedule: Schedule, duration_s: Floats, allowed_s: float) -> None:
    elapsed_s = schedule.end_s - schedule.start_s
    bad = ~(elapsed_s >= duration_s - allowed_s)
    if bad.any():
        task = _first(bad)
        raise InternalError(f"task {task} takes {elapsed_s[task]:.9g} s, alone it takes {duration_s[task]:.9g} s")


def _check_dependences(problem: ScheduleProblem, schedule: Schedule) -> None:
    bad = ~(np.isfinite(schedule.start_s) & np.isfinite(schedule.end_s)) | (schedule.start_s < 0)
    if bad.any():
        task = _first(bad)
        raise InternalError(f"task {task} runs from {schedule.start_s[task]} s to {schedule.end_s[task]} s")
    task_of_edge = np.repeat(np.arange(len(problem.item_of)), np.diff(problem.predecessor_start))
    bad = schedule.start_s[task_of_edge] < schedule.end_s[problem.predecessor]
    if bad.any():
        edge = _first(bad)
        before, task = problem.predecessor[edge], task_of_edge[edge]
        raise InternalError(
            f"task {task} starts at {schedule.start_s[task]:.9g} s, before its predecessor {before} ends at "
            f"{schedule.end_s[before]:.9g} s"
        )


def _check_segments(schedule: Schedule, duration_s: Floats, allowed_s: float) -> None:
    task, rate = schedule.segment_task, schedule.segment_rate
    start_s, end_s = schedule.segment_start_s, schedule.segment_end_s
    bad = ~((rate >= 0) & (rate <= 1 + TOLERANCE) & (end_s >= start_s))
    if bad.any():
        worst = _first(bad)
        raise InternalError(
            f"task {task[worst]} advances at rate {rate[worst]} from {start_s[worst]} s to {end_s[worst]} s"
        )
    bad = (start_s < schedule.start_s[task] - allowed_s) | (end_s > schedule.end_s[task] + allowed_s)
    if bad.any():
        raise InternalError(f"task {task[_first(bad)]} advances outside its start and end")
    by_task = np.lexsort((end_s, start_s, task))
    same = task[by_task][1:] == task[by_task][:-1]
    bad = same & (start_s[by_task][1:] < end_s[by_task][:-1] - allowed_s)
    if bad.any():
        raise InternalError(f"segments of task {task[by_task][1:][_first(bad)]} overlap")
    progress_s = np.bincount(task, weights=rate * (end_s - start_s), minlength=len(duration_s))
    bad = np.abs(progress_s - duration_s) > TOLERANCE * duration_s + allowed_s
    if bad.any():
        worst = _first(bad)
        raise InternalError(f"task {worst} advances by {progress_s[worst]:.9g} s of {duration_s[worst]:.9g} s")


def hbm_usage(problem: ScheduleProblem, schedule: Schedule) -> tuple[Floats, Floats]:
    """HBM traffic of a schedule with segments: times [s] at which it may change, and bytes/s from then on."""
    pieces = schedule.runs()
    demand = np.zeros(len(pieces.task))
    duration_s = option_table(problem).duration_s[pieces.option]
    np.divide(problem.hbm_bytes[pieces.option], duration_s, out=demand, where=duration_s > 0)
    asked = demand[pieces.segment_piece]
    if problem.resume_s is not None and problem.resume_bytes is not None and len(asked):
        option = pieces.option[pieces.segment_piece]
        in_set_up = np.zeros(len(asked))
        np.divide(problem.resume_bytes[option], problem.resume_s[option], out=in_set_up, where=pieces.segment_sets_up)
        asked = np.where(pieces.segment_sets_up, in_set_up, asked)
    return usage(schedule.segment_start_s, schedule.segment_end_s, asked * schedule.segment_rate)
