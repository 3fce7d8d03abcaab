"""Checks that a schedule with interruptions obeys its problem, from the pieces alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worklode.errors import InternalError
from worklode.schedule.interruptible_kernel import QUANTUM
from worklode.schedule.options import option_table
from worklode.schedule.problem import Pieces, Schedule, ScheduleProblem


def check_pieces(problem: ScheduleProblem, schedule: Schedule, pieces: Pieces, tolerance: float) -> None:
    """Pieces: options, shares that add up, what interruptions cost, no two of a task at a time, progress.

    Args:
        problem: what was scheduled.
        schedule: with segments.
        pieces: of the schedule.
        tolerance: relative error allowed [1].

    Raises:
        InternalError: naming the first task that breaks a rule.
    """
    n, task, option = len(problem.item_of), pieces.task, pieces.option
    if problem.resume_s is None:
        raise InternalError("tasks are in pieces, and may not be interrupted")
    if (np.bincount(task, minlength=n) == 0).any():
        raise InternalError(f"task {_first(np.bincount(task, minlength=n) == 0)} has no piece")
    low, high = problem.option_start[problem.item_of[task]], problem.option_start[problem.item_of[task] + 1]
    _check((option < low) | (option >= high), task, "takes an option of another item")
    share = np.bincount(task, weights=pieces.share, minlength=n)
    bad = ~(np.abs(share - 1.0) <= tolerance * 1e3)
    if bad.any():
        raise InternalError(f"the pieces of task {_first(bad)} do {share[bad][0]:.12g} of it")
    several = np.bincount(task, minlength=n)[task] > 1
    _check(several & (pieces.share < QUANTUM * (1.0 - 1e-6)), task, "has a piece that is too small")
    # One piece of a task needs no set-up, every other pays in full.
    cost_s = problem.resume_s[option]
    free = (pieces.set_up_s == 0.0) & (cost_s > 0.0)
    bad = np.bincount(task[free], minlength=n) > 1
    if bad.any():
        raise InternalError(f"task {_first(bad)} is interrupted at no cost")
    _check((pieces.set_up_s != 0.0) & (pieces.set_up_s != cost_s), task, "pays another price for an interruption")
    by_task = np.lexsort((pieces.end_s, pieces.start_s, task))
    same = task[by_task][1:] == task[by_task][:-1]
    overlap = same & (pieces.start_s[by_task][1:] < pieces.end_s[by_task][:-1])
    _check(overlap, task[by_task][1:], "runs twice at a time")
    first_s, last_s = np.full(n, np.inf), np.zeros(n)
    np.minimum.at(first_s, task, pieces.start_s)
    np.maximum.at(last_s, task, pieces.end_s)
    _check((first_s != schedule.start_s) | (last_s != schedule.end_s), np.arange(n), "runs outside its start and end")
    _check_progress(problem, schedule, pieces, tolerance)


def _check_progress(problem: ScheduleProblem, schedule: Schedule, pieces: Pieces, tolerance: float) -> None:
    """Work and set-up of every piece are what its segments do, within its time."""
    allowed_s = tolerance * schedule.makespan_s
    piece, sets_up = pieces.segment_piece, pieces.segment_sets_up
    start_s, end_s, rate = schedule.segment_start_s, schedule.segment_end_s, schedule.segment_rate
    task = pieces.task[piece]
    _check(~((rate >= 0) & (rate <= 1 + tolerance) & (end_s >= start_s)), task, "advances at an impossible rate")
    outside = (start_s < pieces.start_s[piece] - allowed_s) | (end_s > pieces.end_s[piece] + allowed_s)
    _check(outside, task, "advances outside its pieces")
    by_piece = np.lexsort((end_s, start_s, piece))
    same = piece[by_piece][1:] == piece[by_piece][:-1]
    overlap = same & (start_s[by_piece][1:] < end_s[by_piece][:-1] - allowed_s)
    _check(overlap, task[by_piece][1:], "has segments that overlap")
    done_s = rate * (end_s - start_s)
    count = len(pieces.task)
    duration_s = option_table(problem).duration_s[pieces.option]
    for what, chosen, due_s in (
        ("work", ~sets_up, pieces.share * duration_s),
        ("set-up", sets_up, pieces.set_up_s),
    ):
        progress_s = np.bincount(piece[chosen], weights=done_s[chosen], minlength=count)
        bad = ~(np.abs(progress_s - due_s) <= tolerance * due_s + allowed_s)
        if bad.any():
            worst = _first(bad)
            raise InternalError(
                f"a piece of task {pieces.task[worst]} does {progress_s[worst]:.9g} s of {what}, "
                f"not {due_s[worst]:.9g} s"
            )


def _check(bad: NDArray[np.bool_], task: NDArray[np.int64], what: str) -> None:
    if bad.any():
        raise InternalError(f"task {task[_first(bad)]} {what}")


def _first(bad: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(bad)[0])
