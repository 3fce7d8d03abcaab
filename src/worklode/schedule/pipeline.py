"""Pipeline-parallel training iterations, pass by pass: times, idle time, activations kept (docs/models/pipeline.md).

    timeline = simulate(PipelineProblem(num_stages=4, num_microbatches=8, schedule=parse_schedule("1f1b"), ...))

A model of `num_stages · chunks_per_stage` chunks in model order; chunk c runs on stage c mod num_stages. `simulate`
gives one pipeline in full, `simulate_batch` the ends of its chunks for many stage times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worklode.errors import Fault, SpecError
from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.pipeline_kernel import defer_many, defer_weight_gradients, peaks, run_many, run_sequence
from worklode.schedule.pipeline_orders import (
    PassOrder,
    PipelineSchedule,
    in_flight_limit,
    one_f_one_b_order,
    pass_order,
    schedule_faults,
    sequenced,
)

# ZB-H1 beside its handcrafted order: weight gradients fill gaps of at least these shares of their length [1]; the
# shortest result is taken. Measured 2026-11 on 3600 uneven pipelines of 4 to 16 stages: without the handcrafted order
# results are up to 0.07 % longer in the mean of a kind of pipeline, without 0.5 0.07 %, without 0 0.22 %; a third rule,
# 1 (only gaps it fits), would shorten them by at most 0.01 %.
LEAST_GAPS = np.array((0.5, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineProblem:
    """One iteration of a pipeline; C = num_stages · chunks per stage.

    Attributes:
        num_stages: devices (or groups of them) in a row.
        num_microbatches: of the iteration.
        schedule: order of the passes.
        forward_s: [C] time of forward of one microbatch.
        input_gradient_s: [C] of the gradient of the input, with whatever is recomputed for it.
        weight_gradient_s: [C] of the gradients of weights; part of backward unless the schedule splits it.
        send_forward_s: [C - 1] time to hand activations from chunk c to chunk c + 1; empty = none. Chunks on one stage
            (a pipeline of one stage) hand on for nothing.
        send_backward_s: [C - 1] time to hand gradients from chunk c + 1 to chunk c; empty = none.
        overlap: a stage computes while it sends. If not, it sends first and computes its next pass after.
        activation_bytes: [C] kept of one microbatch from the start of forward to the end of backward; empty = none.
        weight_activation_bytes: [C] kept of it between input gradient and weight gradient, where the schedule splits
            backward; empty = all of it.
    """

    num_stages: int
    num_microbatches: int
    schedule: PipelineSchedule
    forward_s: tuple[float, ...]
    input_gradient_s: tuple[float, ...]
    weight_gradient_s: tuple[float, ...]
    send_forward_s: tuple[float, ...] = ()
    send_backward_s: tuple[float, ...] = ()
    overlap: bool = True
    activation_bytes: tuple[int, ...] = ()
    weight_activation_bytes: tuple[int, ...] = ()

    @property
    def num_chunks(self) -> int:
        """Chunks of the model."""
        return self.num_stages * self.schedule.chunks_per_stage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineCandidates:
    """Many pipelines of one shape; K candidates, C chunks. Meanings as in `PipelineProblem`.

    Attributes:
        num_stages, num_microbatches, schedule, overlap: common to all.
        forward_s, input_gradient_s, weight_gradient_s: [K, C].
        send_forward_s, send_backward_s: [K, C - 1] or [1, C - 1] for all; None = none.
    """

    num_stages: int
    num_microbatches: int
    schedule: PipelineSchedule
    forward_s: Floats
    input_gradient_s: Floats
    weight_gradient_s: Floats
    send_forward_s: Floats | None = None
    send_backward_s: Floats | None = None
    overlap: bool = True

    @property
    def num_chunks(self) -> int:
        """Chunks of the model."""
        return self.num_stages * self.schedule.chunks_per_stage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineTimeline:
    """When every pass of a pipeline runs.

    Attributes:
        problem: what was simulated.
        order: in which the stages run their passes.
        start_s, end_s: [kinds, C, microbatches] times of passes; kinds as in `PassKind`, two or three of them.
        arrival_s: [2, C, microbatches] when the input of a forward or backward pass is there.
        busy_s: [stages] time a stage computes.
        sending_s: [stages] time a stage sends and so cannot compute; 0 with overlap.
        idle_s: [stages] the rest of the makespan.
        peak_in_flight: [stages] most chunk-microbatches whose activations a stage keeps at a time.
        peak_activation_bytes: [stages] most bytes of activations at a time.
        gradients_ready_s: [C] when the last microbatch's gradients of the weights of a chunk are there, from where on
            they can be reduced over data-parallel replicas.
    """

    problem: PipelineProblem
    order: PassOrder
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    arrival_s: NDArray[np.float64]
    busy_s: Floats
    sending_s: Floats
    idle_s: Floats
    peak_in_flight: Ints
    peak_activation_bytes: Floats
    gradients_ready_s: Floats

    @property
    def makespan_s(self) -> float:
        """From the start of the first pass to the end of the last [s]."""
        return float(self.gradients_ready_s.max())

    @property
    def bubble_fraction(self) -> float:
        """Idle time over the time of all stages; (p - 1) / (m + p - 1) for equal stages under 1F1B."""
        total = self.makespan_s * self.problem.num_stages
        return float(self.idle_s.sum()) / total if total > 0 else 0.0


def simulate(problem: PipelineProblem) -> PipelineTimeline:
    """Simulate one iteration.

    Raises:
        SpecError: settings that do not fit together, with every fault.
    """
    faults = problem_faults(problem)
    if faults:
        raise SpecError(*faults)
    stages, microbatches = problem.num_stages, problem.num_microbatches
    chunks, kinds = problem.num_chunks, problem.schedule.num_kinds
    duration, send_forward, send_backward = pass_times(candidates_of(problem))
    times = duration[0], send_forward[0], send_backward[0]
    order = pass_order(problem.schedule, stages, microbatches)
    start, end, arrival = run_sequence(order.sequence, order.rows, stages, microbatches, *times, problem.overlap)
    if problem.schedule.splits_backward:
        better = _deferred_order(stages, microbatches, *times, problem.overlap, float(end.max()))
        if better is not None:
            order = better
            start, end, arrival = run_sequence(
                order.sequence, order.rows, stages, microbatches, *times, problem.overlap
            )
    shape = (kinds, chunks, microbatches)
    gradients_ready_s = end.reshape(shape)[-1, :, -1].copy()
    in_flight, peak_bytes = peaks(order.rows, stages, kept_bytes(problem))
    busy = _per_stage(duration[0].sum(axis=0) * microbatches, stages)
    sending = np.zeros(stages)
    if not problem.overlap:
        sending = _per_stage((send_forward[0] + send_backward[0]) * microbatches, stages)
    return PipelineTimeline(
        problem=problem,
        order=order,
        start_s=start.reshape(shape),
        end_s=end.reshape(shape),
        arrival_s=arrival.reshape((2, chunks, microbatches)),
        busy_s=busy,
        sending_s=sending,
        idle_s=np.maximum(gradients_ready_s.max() - busy - sending, 0.0),
        peak_in_flight=in_flight,
        peak_activation_bytes=peak_bytes,
        gradients_ready_s=gradients_ready_s,
    )


def simulate_batch(candidates: PipelineCandidates) -> Floats:
    """When the gradients of every chunk are complete, for many stage times: [K, C] [s].

    The makespan is the largest of a row. The numbers are those of `simulate`, to the last digit.

    Raises:
        SpecError: settings that do not fit together, with every fault.
    """
    check_candidates(candidates)
    stages, microbatches = candidates.num_stages, candidates.num_microbatches
    duration, send_forward, send_backward = pass_times(candidates)
    order = pass_order(candidates.schedule, stages, microbatches)
    last = run_many(
        order.sequence, order.rows, stages, microbatches, duration, send_forward, send_backward, candidates.overlap
    )
    if candidates.schedule.splits_backward:
        defer_many(
            one_f_one_b_order(stages, microbatches),
            microbatches,
            in_flight_limit(stages, microbatches),
            LEAST_GAPS,
            duration,
            send_forward,
            send_backward,
            candidates.overlap,
            last,
        )
    return last


def candidates_of(problem: PipelineProblem) -> PipelineCandidates:
    """A problem as the only one of its candidates."""
    boundaries = problem.num_chunks - 1
    return PipelineCandidates(
        num_stages=problem.num_stages,
        num_microbatches=problem.num_microbatches,
        schedule=problem.schedule,
        forward_s=np.array([problem.forward_s], dtype=np.float64),
        input_gradient_s=np.array([problem.input_gradient_s], dtype=np.float64),
        weight_gradient_s=np.array([problem.weight_gradient_s], dtype=np.float64),
        send_forward_s=_filled(problem.send_forward_s, boundaries)[None],
        send_backward_s=_filled(problem.send_backward_s, boundaries)[None],
        overlap=problem.overlap,
    )


def pass_times(candidates: PipelineCandidates) -> tuple[Floats, Floats, Floats]:
    """Durations [K, kinds, C] and sends [K, C], by the chunk that sends: 0 where nothing is sent."""
    count, chunks = candidates.forward_s.shape
    kinds = [candidates.forward_s, candidates.input_gradient_s, candidates.weight_gradient_s]
    if not candidates.schedule.splits_backward:
        kinds[1:] = [candidates.input_gradient_s + candidates.weight_gradient_s]
    duration = np.stack(kinds, axis=1).astype(np.float64)
    send_forward, send_backward = np.zeros((count, chunks)), np.zeros((count, chunks))
    if candidates.num_stages > 1 and candidates.send_forward_s is not None:
        send_forward[:, :-1] = candidates.send_forward_s
    if candidates.num_stages > 1 and candidates.send_backward_s is not None:
        send_backward[:, 1:] = candidates.send_backward_s
    return duration, send_forward, send_backward


def kept_bytes(problem: PipelineProblem) -> Floats:
    """Activation bytes a pass adds [kinds, C]: forward at its start, the others (less than none) at their end."""
    chunks = problem.num_chunks
    kept = _filled(problem.activation_bytes, chunks)
    if not problem.schedule.splits_backward:
        return np.stack((kept, -kept))
    for_weights = _filled(problem.weight_activation_bytes or problem.activation_bytes, chunks)
    return np.stack((kept, for_weights - kept, -for_weights))


def problem_faults(problem: PipelineProblem, *, where: str = "pipeline") -> tuple[Fault, ...]:
    """Everything wrong with a problem."""
    faults = schedule_faults(problem.schedule, problem.num_stages, problem.num_microbatches, where)
    chunks = problem.num_chunks
    required = {
        "forward_s": problem.forward_s,
        "input_gradient_s": problem.input_gradient_s,
        "weight_gradient_s": problem.weight_gradient_s,
    }
    optional = {
        "send_forward_s": (problem.send_forward_s, chunks - 1),
        "send_backward_s": (problem.send_backward_s, chunks - 1),
        "activation_bytes": (problem.activation_bytes, chunks),
        "weight_activation_bytes": (problem.weight_activation_bytes, chunks),
    }
    for path, values in required.items():
        faults.extend(_length_faults(where, path, len(values), problem))
    for path, (values, length) in optional.items():
        if len(values) not in {0, max(length, 0)}:
            allowed = f"{length} values, or none"
            problem_text = (
                "not one value per chunk" if length == chunks else "not one value per boundary between chunks"
            )
            faults.append(
                Fault(where=where, path=path, value=f"{len(values)} values", problem=problem_text, allowed=allowed)
            )
    for path, values in (required | {path: values for path, (values, _) in optional.items()}).items():
        faults.extend(_value_faults(where, path, np.array(values, dtype=np.float64)))
    return tuple(faults)


def check_candidates(candidates: PipelineCandidates, *, where: str = "pipeline") -> None:
    """Refuse candidates whose settings or shapes do not fit together.

    Raises:
        SpecError: with every fault.
    """
    faults = schedule_faults(candidates.schedule, candidates.num_stages, candidates.num_microbatches, where)
    count, chunks = len(candidates.forward_s), candidates.num_chunks
    arrays = (
        ("forward_s", candidates.forward_s, {(count, chunks)}),
        ("input_gradient_s", candidates.input_gradient_s, {(count, chunks)}),
        ("weight_gradient_s", candidates.weight_gradient_s, {(count, chunks)}),
        ("send_forward_s", candidates.send_forward_s, {(count, chunks - 1), (1, chunks - 1)}),
        ("send_backward_s", candidates.send_backward_s, {(count, chunks - 1), (1, chunks - 1)}),
    )
    for path, values, shapes in arrays:
        if values is None:
            continue
        if values.shape not in shapes:
            allowed = " or ".join(str(shape) for shape in sorted(shapes, reverse=True))
            faults.append(
                Fault(where=where, path=path, value=str(values.shape), problem="wrong shape", allowed=allowed)
            )
        faults.extend(_value_faults(where, path, values))
    if faults:
        raise SpecError(*faults)


def _deferred_order(
    stages: int,
    microbatches: int,
    duration: Floats,
    send_forward: Floats,
    send_backward: Floats,
    overlap: bool,
    makespan_s: float,
) -> PassOrder | None:
    """The best order of ZB-H1 with weight gradients in gaps, or None where none is shorter than `makespan_s`."""
    forward_backward = one_f_one_b_order(stages, microbatches)
    best = None
    for least_gap in LEAST_GAPS:
        by_stage = np.empty((stages, 3 * microbatches), np.int64)
        ends = defer_weight_gradients(
            forward_backward,
            microbatches,
            in_flight_limit(stages, microbatches),
            least_gap,
            duration,
            send_forward,
            send_backward,
            overlap,
            by_stage,
        )
        if ends.max() < makespan_s:
            makespan_s, best = float(ends.max()), by_stage
    return None if best is None else sequenced(best, stages, microbatches)


def _filled(values: tuple[float, ...], length: int) -> Floats:
    return np.array(values, dtype=np.float64) if values else np.zeros(length)


def _per_stage(by_chunk: Floats, stages: int) -> Floats:
    return np.asarray(by_chunk.reshape(-1, stages).sum(axis=0))


def _length_faults(where: str, path: str, found: int, problem: PipelineProblem) -> list[Fault]:
    stages, per_stage = problem.num_stages, problem.schedule.chunks_per_stage
    if stages < 1 or per_stage < 1 or found == stages * per_stage:
        return []
    if found < stages:
        text = f"{stages} stages are more than there are chunks of the model"
    else:
        text = f"not one value for each chunk of {stages} stages with {per_stage} chunks each"
    return [
        Fault(where=where, path=path, value=f"{found} chunks", problem=text, allowed=f"{stages * per_stage} chunks")
    ]


def _value_faults(where: str, path: str, values: Floats) -> list[Fault]:
    bad = np.argwhere(~(np.isfinite(values) & (values >= 0)))
    return [
        Fault(
            where=where,
            path=f"{path}[{', '.join(str(int(index)) for index in at)}]",
            value=str(values[tuple(at)]),
            problem="not a time or size",
            allowed="a finite number, 0 or more",
        )
        for at in bad[:8]  # a whole array of one mistake would hide the other faults
    ]
