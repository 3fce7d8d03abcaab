"""What explains a simulated pipeline: chain of passes behind its makespan, activations over time, gap to the best.

docs/models/pipeline.md, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from worklode.schedule.compiled import Floats
from worklode.schedule.pipeline import PipelineTimeline, candidates_of, kept_bytes, pass_times
from worklode.schedule.pipeline_bounds import best_possible_s
from worklode.schedule.pipeline_orders import PassKind


class Reason(StrEnum):
    """What a pass of the critical chain waited for."""

    START = "start"  # nothing: it starts the iteration
    STAGE = "stage"  # the pass before it on its stage, and sending its result where that blocks
    DATA = "data"  # its input, computed by the pass before it in the chain and sent
    LINK = "link"  # its input, which waited for other sends over the same link


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStep:
    """A pass of the critical chain.

    Attributes:
        kind, chunk, microbatch, stage: which pass.
        start_s, end_s: when it runs.
        reason: what it waited for.
        transfer_s: sends between the end of the step before and this start.
    """

    kind: PassKind
    chunk: int
    microbatch: int
    stage: int
    start_s: float
    end_s: float
    reason: Reason
    transfer_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalChain:
    """Passes and sends that follow one another without a gap from 0 to the makespan.

    Attributes:
        steps: in order of time.
        compute_s: [stages] time of steps on each stage.
        transfer_s: time of sends between steps. All times add up to the makespan.
    """

    steps: tuple[ChainStep, ...]
    compute_s: tuple[float, ...]
    transfer_s: float


def gap_to_best_possible(timeline: PipelineTimeline) -> float:
    """Makespan over the bound of every schedule of the same passes, less 1; 0 = no order is shorter."""
    bound = float(best_possible_s(candidates_of(timeline.problem))[0])
    return timeline.makespan_s / bound - 1 if bound > 0 else 0.0


def activation_profile(timeline: PipelineTimeline, stage: int) -> tuple[Floats, Floats]:
    """Activation bytes a stage keeps over time.

    Returns:
        time_s: [events] when the amount changes, ascending; equal times in the order in which it happens.
        kept: [events] bytes from then on. Starts with a first forward pass; ends with 0.
    """
    problem = timeline.problem
    chunks, microbatches = problem.num_chunks, problem.num_microbatches
    changes = kept_bytes(problem)
    kind, rest = np.divmod(timeline.order.by_stage[stage], chunks * microbatches)
    chunk = rest // microbatches
    codes = timeline.order.by_stage[stage]
    time_s = np.where(kind == PassKind.FORWARD, timeline.start_s.ravel()[codes], timeline.end_s.ravel()[codes])
    return time_s, np.cumsum(changes[kind, chunk])


def critical_chain(timeline: PipelineTimeline) -> CriticalChain:
    """Follow the pass that ends last back to the start, always to what it waited for."""
    problem = timeline.problem
    chunks, microbatches, stages = problem.num_chunks, problem.num_microbatches, problem.num_stages
    size = chunks * microbatches
    start, end = timeline.start_s.ravel(), timeline.end_s.ravel()
    arrival = timeline.arrival_s.ravel()
    _, send_forward, send_backward = pass_times(candidates_of(problem))
    sends = send_forward[0], send_backward[0]
    place = np.empty(timeline.order.by_stage.size, np.int64)
    for row in timeline.order.by_stage:
        place[row] = np.arange(len(row))

    def chunk_of(code: int) -> int:
        return code // microbatches % chunks

    def send_s(code: int) -> float:
        return float(sends[code // size][chunk_of(code)]) if code < 2 * size else 0.0

    def before(code: int) -> int:
        """The pass before one on its stage, or -1."""
        at = int(place[code])
        return int(timeline.order.by_stage[chunk_of(code) % stages, at - 1]) if at else -1

    def target(code: int) -> int:
        """The pass of another stage that a pass sends to, or -1."""
        last = chunks - 1 if code < size else 0
        if code >= 2 * size or chunk_of(code) == last or stages == 1:
            return -1
        return code + microbatches if code < size else code - microbatches

    def producer(code: int) -> int:
        """The pass that computes the input of one."""
        if code < size:
            return code - microbatches
        return code - size if chunk_of(code) == chunks - 1 else code + microbatches

    def sent_before(code: int) -> int:
        """The pass whose result went over the same link just before that of one, or -1."""
        other = before(code)
        while other >= 0 and (other // size != code // size or target(other) < 0):
            other = before(other)
        return other

    def cause(code: int) -> tuple[int, Reason]:
        """The pass that one waited for."""
        previous = before(code)
        blocked = 0.0 if problem.overlap or previous < 0 else send_s(previous)
        if previous >= 0 and end[previous] + blocked == start[code]:
            return previous, Reason.STAGE
        source = producer(code)
        reason = Reason.DATA
        while problem.overlap and target(source) >= 0:
            ahead = sent_before(source)
            if ahead < 0 or arrival[target(ahead)] <= end[source]:
                break
            source, reason = ahead, Reason.LINK
        return source, reason

    steps = []
    code = int(end.argmax())
    while True:
        waited = start[code] > 0.0
        source, reason = cause(code) if waited else (-1, Reason.START)
        steps.append(
            ChainStep(
                kind=PassKind(code // size),
                chunk=chunk_of(code),
                microbatch=code % microbatches,
                stage=chunk_of(code) % stages,
                start_s=float(start[code]),
                end_s=float(end[code]),
                reason=reason,
                transfer_s=float(start[code] - end[source]) if waited else 0.0,
            )
        )
        if not waited:
            break
        code = source
    compute = [0.0] * stages
    for step in steps:
        compute[step.stage] += step.end_s - step.start_s
    return CriticalChain(
        steps=tuple(reversed(steps)), compute_s=tuple(compute), transfer_s=sum(step.transfer_s for step in steps)
    )
