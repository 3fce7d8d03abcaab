"""Pipeline schedules: their names, and the order in which each stage runs its passes (docs/models/pipeline.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache

import numpy as np

from worklode.errors import Fault, InternalError, SpecError
from worklode.schedule.compiled import Ints
from worklode.schedule.pipeline_kernel import sequence_passes

ALLOWED_SCHEDULES = "gpipe, 1f1b, interleaved:CHUNKS (of a stage, for example interleaved:3), zb-h1"


class PassKind(IntEnum):
    """What a stage computes for one microbatch and chunk; where backward is not split there are only the first two."""

    FORWARD = 0
    BACKWARD = 1  # the gradient of the chunk's input; in schedules that do not split also those of its weights
    WEIGHT_GRADIENT = 2


class ScheduleKind(StrEnum):
    """Families of pipeline schedules."""

    GPIPE = "gpipe"
    ONE_F_ONE_B = "1f1b"
    INTERLEAVED = "interleaved"
    ZB_H1 = "zb-h1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSchedule:
    """A pipeline schedule.

    Attributes:
        kind: its family.
        chunks_per_stage: parts of the model on each stage (virtual stages); above 1 only in an interleaved schedule.
    """

    kind: ScheduleKind
    chunks_per_stage: int = 1

    @property
    def splits_backward(self) -> bool:
        """Whether weight gradients are passes of their own."""
        return self.kind is ScheduleKind.ZB_H1

    @property
    def num_kinds(self) -> int:
        """Kinds of passes: 2, or 3 where backward is split."""
        return 3 if self.splits_backward else 2

    def __str__(self) -> str:
        return f"{self.kind}:{self.chunks_per_stage}" if self.kind is ScheduleKind.INTERLEAVED else str(self.kind)


def parse_schedule(text: str, *, where: str = "--schedule") -> PipelineSchedule:
    """Read `gpipe`, `1f1b`, `interleaved:3` or `zb-h1`.

    Raises:
        SpecError: anything else; `where` says where the text came from.
    """
    name, separator, count = text.strip().lower().partition(":")

    def fault(problem: str) -> SpecError:
        return SpecError(Fault(where=where, value=text, problem=problem, allowed=ALLOWED_SCHEDULES))

    if name not in set(ScheduleKind):
        raise fault("no such pipeline schedule")
    kind = ScheduleKind(name)
    if kind is not ScheduleKind.INTERLEAVED:
        if separator:
            raise fault(f"{kind} has one chunk per stage and takes no number")
        return PipelineSchedule(kind=kind)
    if not re.fullmatch(r"[0-9]{1,6}", count) or int(count) < 1:
        raise fault("an interleaved schedule needs its number of chunks per stage, 1 or more")
    return PipelineSchedule(kind=kind, chunks_per_stage=int(count))


def schedule_faults(schedule: PipelineSchedule, num_stages: int, num_microbatches: int, where: str) -> list[Fault]:
    """What keeps a schedule from running on so many stages with so many microbatches."""
    faults = []
    for path, count in (("num_stages", num_stages), ("num_microbatches", num_microbatches)):
        if count < 1:
            faults.append(Fault(where=where, path=path, value=str(count), problem="too few", allowed="1 or more"))
    chunks = schedule.chunks_per_stage
    if chunks < 1:
        faults.append(
            Fault(where=where, path="chunks_per_stage", value=str(chunks), problem="too few", allowed="1 or more")
        )
    elif schedule.kind is not ScheduleKind.INTERLEAVED and chunks != 1:
        faults.append(
            Fault(
                where=where,
                path="chunks_per_stage",
                value=str(chunks),
                problem=f"{schedule.kind} has one chunk per stage",
                allowed="1, or an interleaved schedule",
            )
        )
    elif chunks > 1 and num_stages >= 1 and num_microbatches >= 1 and num_microbatches % num_stages:
        below = num_microbatches - num_microbatches % num_stages
        nearest = f"{below} or {below + num_stages}" if below else str(num_stages)
        faults.append(
            Fault(
                where=where,
                path="num_microbatches",
                value=str(num_microbatches),
                problem=f"an interleaved schedule needs a multiple of its {num_stages} stages",
                allowed=f"{nearest}, or 1f1b",
            )
        )
    return faults


def in_flight_limit(num_stages: int, num_microbatches: int) -> int:
    """Most microbatches a stage of ZB-H1 keeps: as many as the first stage of 1F1B."""
    return min(num_stages, num_microbatches)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassOrder:
    """In which order passes run.

    Attributes:
        by_stage: [stages, passes per stage] pass codes `(kind · chunks + chunk) · microbatches + microbatch`.
        sequence: [stages · passes per stage] the same passes such that each follows all it needs.
        rows: [stages · passes per stage] `kind · chunks + chunk` of each pass of the sequence.
    """

    by_stage: Ints
    sequence: Ints
    rows: Ints


@lru_cache(maxsize=16)
def pass_order(schedule: PipelineSchedule, num_stages: int, num_microbatches: int) -> PassOrder:
    """The order of passes of a schedule; for ZB-H1 the handcrafted one.

    Raises:
        InternalError: the order deadlocks (the tests run through the settings that are allowed).
    """
    rows = [_stage_order(schedule, stage, num_stages, num_microbatches) for stage in range(num_stages)]
    return sequenced(np.stack(rows), num_stages * schedule.chunks_per_stage, num_microbatches)


@lru_cache(maxsize=16)
def one_f_one_b_order(num_stages: int, num_microbatches: int) -> Ints:
    """[stages, 2 · microbatches] forward and backward passes of 1F1B, between which ZB-H1 puts weight gradients."""
    schedule = PipelineSchedule(kind=ScheduleKind.ONE_F_ONE_B)
    return pass_order(schedule, num_stages, num_microbatches).by_stage


def sequenced(by_stage: Ints, num_chunks: int, num_microbatches: int) -> PassOrder:
    """Add the sequence to the orders of the stages."""
    by_stage = np.ascontiguousarray(by_stage)
    sequence, rows = sequence_passes(by_stage, num_chunks, num_microbatches)
    if len(sequence) != by_stage.size:
        raise InternalError(f"the order of pipeline passes deadlocks after {len(sequence)} of {by_stage.size}")
    by_stage.flags.writeable = False  # kept and shared by the cache above
    sequence.flags.writeable = False
    rows.flags.writeable = False
    return PassOrder(by_stage=by_stage, sequence=sequence, rows=rows)


def _stage_order(schedule: PipelineSchedule, stage: int, num_stages: int, num_microbatches: int) -> Ints:
    """Pass codes of one stage."""
    chunks = num_stages * schedule.chunks_per_stage
    microbatch = np.arange(num_microbatches)
    forward = stage * num_microbatches + microbatch
    backward = forward + chunks * num_microbatches
    if schedule.kind is ScheduleKind.GPIPE:
        return np.concatenate((forward, backward))
    if schedule.chunks_per_stage == 1:
        warm_up = min(num_stages - stage - 1, num_microbatches)
    else:
        forward, backward = _interleaved_passes(schedule.chunks_per_stage, stage, num_stages, num_microbatches)
        warm_up = min((num_stages - stage - 1) * 2 + (schedule.chunks_per_stage - 1) * num_stages, len(forward))
    if schedule.splits_backward:
        return _zero_bubble_order(stage, num_stages, num_microbatches, forward, backward)
    return _alternate(forward, backward, warm_up)


def _alternate(forward: Ints, backward: Ints, warm_up: int) -> Ints:
    """Forward passes to warm up, then forward and backward in turn, then the backward passes left."""
    steady = len(forward) - warm_up
    pairs = np.stack((forward[warm_up:], backward[:steady]), axis=1).ravel()
    return np.concatenate((forward[:warm_up], pairs, backward[steady:]))


def _interleaved_passes(chunks_per_stage: int, stage: int, num_stages: int, num_microbatches: int) -> tuple[Ints, Ints]:
    """Forward and backward passes of a stage: groups of as many microbatches as stages go through chunk after chunk."""
    number = np.arange(num_microbatches * chunks_per_stage)
    group, inside = np.divmod(number, num_stages * chunks_per_stage)
    local_chunk, member = np.divmod(inside, num_stages)
    microbatch = group * num_stages + member
    forward = (local_chunk * num_stages + stage) * num_microbatches + microbatch
    backward_chunk = (chunks_per_stage - 1 - local_chunk) * num_stages + stage
    backward = (num_stages * chunks_per_stage + backward_chunk) * num_microbatches + microbatch
    return forward, backward


def _zero_bubble_order(stage: int, num_stages: int, num_microbatches: int, forward: Ints, backward: Ints) -> Ints:
    """ZB-H1: 1F1B whose weight gradient follows its input gradient, save the first `stage` ones, which come last.

    With these left over, a stage keeps as many microbatches as the first stage does. Once all forward passes have run
    nothing is put off any more.
    """
    before_first_backward = min(num_stages - stage, num_microbatches)
    number = np.arange(num_microbatches)
    # One round per input gradient: it, its weight gradient, the next forward pass.
    forward_round = np.where(number < before_first_backward, -1, number - before_first_backward)
    weight = backward + num_stages * num_microbatches
    kept = (number >= stage) | (before_first_backward + number >= num_microbatches)
    weight_round = np.full(num_microbatches, num_microbatches)
    weight_round[: kept.sum()] = np.flatnonzero(kept)  # the oldest one waiting goes first
    rounds = np.concatenate((backward, weight, forward))
    keys = np.concatenate((number * 3, weight_round * 3 + 1, forward_round * 3 + 2))
    return rounds[np.argsort(keys, kind="stable")]
