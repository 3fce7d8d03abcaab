"""Bounds of a pipeline that are linear in the times of its passes: (3) to (7) of docs/models/pipeline.md as rows.

A row [K + 1] holds what each of K times counts and a constant [s]. A wait that could be negative is taken only where no
factor of its row is: then the row never falls when a time rises, and bounds of times may stand for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worklode.schedule.pipeline_orders import PipelineSchedule, ScheduleKind, in_flight_limit

Row = NDArray[np.float64]
Rows = Sequence[Row]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkRows:
    """Times of the passes of C chunks as rows.

    Attributes:
        forward, backward, weight: [C] of one microbatch; `backward` is all of it unless the schedule splits it.
    """

    forward: Rows
    backward: Rows
    weight: Rows


def constant_row(like: Row, constant_s: float) -> Row:
    """A row that is a constant [s]."""
    row = np.zeros_like(like)
    row[-1] = constant_s
    return row


def pipeline_terms(
    chunks: ChunkRows,
    schedule: PipelineSchedule,
    stages: int,
    microbatches: int,
    sends_s: tuple[Sequence[float], Sequence[float]],
    *,
    overlap: bool,
) -> tuple[list[Row], ...]:
    """Terms of rows whose largest, added up, are no more than the makespan.

    Args:
        chunks: times of passes.
        schedule, stages, microbatches: the pipeline.
        sends_s: [C - 1] times of messages on and back [s].
        overlap: stages compute while they send.
    """
    on, back = (_sends(chunks.forward, found, stages) for found in sends_s)
    forward, backward = list(chunks.forward), list(chunks.backward)
    if not overlap:
        # The sender waits: its message is part of the pass before. Gradients go from a chunk to the one before it.
        forward = [row + send for row, send in zip(forward, [*on, 0.0 * forward[0]], strict=True)]
        backward = [row + send for row, send in zip(backward, [0.0 * forward[0], *back], strict=True)]
        on, back = [0.0 * row for row in on], [0.0 * row for row in back]
    if schedule.kind is ScheduleKind.GPIPE:
        weight_too = [b + w for b, w in zip(backward, chunks.weight, strict=True)]
        return _flow_shop(forward, on, microbatches), _flow_shop(weight_too, back, microbatches)
    paths = _Paths(ChunkRows(forward=forward, backward=backward, weight=chunks.weight), on, back)
    return (_stage_rows(paths, schedule, stages, microbatches),)


def _sum(rows: Rows) -> Row:
    return np.asarray(np.sum(rows, axis=0))


def _sends(like: Rows, times_s: Sequence[float], stages: int) -> list[Row]:
    """[C - 1] rows of messages; chunks on one stage hand on for nothing."""
    counted = times_s if len(times_s) and stages > 1 else [0.0] * (len(like) - 1)
    return [constant_row(like[0], time_s) for time_s in counted]


def _flow_shop(passes: Rows, sends: Rows, microbatches: int) -> list[Row]:
    """Equation (4): the way of one microbatch, and the slowest machine for the others."""
    way = _sum([*passes, *sends])
    return [way + (microbatches - 1) * machine for machine in (*passes, *sends)]


class _Paths:
    """Ways of one microbatch through C chunks."""

    def __init__(self, chunks: ChunkRows, on: Rows, back: Rows) -> None:
        self.chunks, self.on, self.back = chunks, on, back
        self.zero = 0.0 * chunks.forward[0]

    def into(self, chunk: int) -> Row:
        """From the start of the iteration to the forward pass of a chunk."""
        return _sum([self.zero, *self.chunks.forward[:chunk], *self.on[:chunk]])

    def out_of(self, chunk: int) -> Row:
        """From the end of the backward pass of a chunk to the end of the iteration, weight gradients apart."""
        return _sum([self.zero, *self.chunks.backward[:chunk], *self.back[:chunk]])

    def round_trip(self, chunk: int) -> Row:
        """From the end of the forward pass of a chunk to the start of its backward pass."""
        after = slice(chunk + 1, None)
        passes = (*self.chunks.forward[after], *self.chunks.backward[after])
        return _sum([self.zero, *passes, *self.on[chunk:], *self.back[chunk:]])


def _stage_rows(paths: _Paths, schedule: PipelineSchedule, stages: int, microbatches: int) -> list[Row]:
    rows = []
    for stage in range(stages):
        own = range(stage, stages * schedule.chunks_per_stage, stages)
        of_chunks = paths.chunks
        unsplit = _sum([of_chunks.forward[c] + of_chunks.backward[c] for c in own])
        weight = _sum([of_chunks.weight[c] for c in own])
        into, out = paths.into(stage), paths.out_of(stage)
        # Equation (3) with all passes of a stage: the first is a forward pass, the last a backward or weight pass.
        plain = into + microbatches * unsplit
        rows += [plain + out + of_chunks.weight[0], plain + microbatches * weight]
        if schedule.chunks_per_stage > 1:
            continue
        trip = paths.round_trip(stage)
        between = min(microbatches, stages - stage) - 1
        first_wait = trip - between * of_chunks.forward[stage]
        last_wait = trip - between * of_chunks.backward[stage]
        turns = -(-microbatches // (between + 1))
        waiting = [into + turns * (unsplit + trip) + out + of_chunks.weight[0]]  # (6)
        if schedule.splits_backward:  # (7)
            kept = in_flight_limit(stages, microbatches)
            before_last = plain + (microbatches - kept) * weight
            ends = (out + of_chunks.weight[0], kept * weight)
            waiting += [before_last + end + wait for end in ends for wait in (paths.zero, first_wait)]
        else:  # (5)
            waiting += [plain + out + first_wait, plain + out + last_wait]
            if between + 1 < microbatches:
                waiting.append(plain + out + first_wait + last_wait)
        rows += [row for row in waiting if (row[:-1] >= 0).all()]
    return rows
