"""Bounds on the time of a pipelined iteration, for many stage times at once; proofs in docs/models/pipeline.md.

`best_possible_s` holds for every schedule of the same passes on the same stages; `pipeline_time_bound` for the schedule
that was asked for, from below and from above. A search sorts and prunes by them before it simulates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from worklode.schedule.compiled import Floats
from worklode.schedule.pipeline import PipelineCandidates, check_candidates, pass_times
from worklode.schedule.pipeline_kernel import resource_bound
from worklode.schedule.pipeline_orders import ScheduleKind, in_flight_limit

# Bounds are moved apart by this share [1], because their sums are rounded in another order than the simulation's.
# Far above the rounding of some hundred thousand additions, far below what matters.
ROUNDING = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineTimeBounds:
    """What the makespan of a schedule lies between.

    Attributes:
        lower_s, upper_s: [K] seconds.
    """

    lower_s: Floats
    upper_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Paths:
    """One microbatch's way through the pipeline; arrays [K, C].

    Attributes:
        forward, backward, weight: time of passes; of blocking sends the sender's part is in it.
        send_forward, send_backward: time of sends beside computing, by the chunk that sends.
        forward_head, backward_head: earliest start of a pass.
        forward_tail, backward_tail: what must follow the end of a pass.
    """

    forward: Floats
    backward: Floats
    weight: Floats
    send_forward: Floats
    send_backward: Floats
    forward_head: Floats
    backward_head: Floats
    forward_tail: Floats
    backward_tail: Floats


def best_possible_s(candidates: PipelineCandidates) -> Floats:
    """No order of the same passes on the same stages is shorter, whatever it keeps in memory: [K] [s].

    Of every set of passes of a stage, and of sends over a link: the way in to the first, all their times, the way out
    of the last; the largest (Carlier 1982, eq. 3 of docs/models/pipeline.md).
    """
    check_candidates(candidates)
    return _any_order(candidates, _paths(candidates)) * (1 - ROUNDING)


def pipeline_time_bound(candidates: PipelineCandidates) -> PipelineTimeBounds:
    """Bounds of the makespan under the schedule of the candidates, in a small part of the time of a simulation.

    GPipe: exact. The others: docs/models/pipeline.md, section 5.
    """
    check_candidates(candidates)
    paths = _paths(candidates)
    kind = candidates.schedule.kind
    if kind is ScheduleKind.GPIPE:
        exact = _gpipe(candidates, paths)
        return PipelineTimeBounds(lower_s=exact * (1 - ROUNDING), upper_s=exact * (1 + ROUNDING))
    lower = _any_order(candidates, paths)
    if candidates.schedule.chunks_per_stage == 1:
        lower = np.maximum(lower, _one_f_one_b_lower(candidates, paths))
    upper = _equal_stages_upper(candidates)
    if candidates.schedule.num_kinds == 2 and candidates.schedule.chunks_per_stage == 1:
        upper = np.minimum(upper, _one_f_one_b_upper(candidates))
    return PipelineTimeBounds(lower_s=lower * (1 - ROUNDING), upper_s=upper * (1 + ROUNDING))


def _paths(candidates: PipelineCandidates) -> _Paths:
    """Heads and tails of all passes."""
    duration, send_forward, send_backward = pass_times(candidates)
    forward, backward = duration[:, 0], duration[:, 1]
    weight = duration[:, 2] if duration.shape[1] == 3 else np.zeros_like(forward)
    if not candidates.overlap:
        forward, backward = forward + send_forward, backward + send_backward
        send_forward, send_backward = np.zeros_like(forward), np.zeros_like(forward)
    down = forward + send_forward
    up = backward + send_backward
    forward_head = np.cumsum(down, axis=1) - down
    backward_head = down.sum(axis=1, keepdims=True) + np.cumsum(up[:, ::-1], axis=1)[:, ::-1] - up
    backward_tail = weight.copy()
    for chunk in range(1, forward.shape[1]):
        way_out = send_backward[:, chunk] + backward[:, chunk - 1] + backward_tail[:, chunk - 1]
        backward_tail[:, chunk] = np.maximum(weight[:, chunk], way_out)
    turn = backward[:, -1:] + backward_tail[:, -1:]
    forward_tail = send_forward + (np.cumsum(down[:, ::-1], axis=1)[:, ::-1] - down) + turn
    return _Paths(
        forward=forward,
        backward=backward,
        weight=weight,
        send_forward=send_forward,
        send_backward=send_backward,
        forward_head=forward_head,
        backward_head=backward_head,
        forward_tail=forward_tail,
        backward_tail=backward_tail,
    )


def _any_order(candidates: PipelineCandidates, paths: _Paths) -> Floats:
    """Equation (3): every stage and every link as a resource that serves one pass at a time."""
    stages, chunks = candidates.num_stages, candidates.num_chunks
    stage = np.arange(chunks) % stages
    groups = [
        (stage, paths.forward_head, paths.forward, paths.forward_tail),
        (stage, paths.backward_head, paths.backward, paths.backward_tail),
        (stage, paths.backward_head + paths.backward, paths.weight, np.zeros_like(paths.weight)),
        (
            stage + stages,
            paths.forward_head + paths.forward,
            paths.send_forward,
            paths.forward_tail - paths.send_forward,
        ),
        (
            stage + 2 * stages,
            paths.backward_head + paths.backward,
            paths.send_backward,
            paths.backward_tail - paths.send_backward,
        ),
    ]
    resource = np.concatenate([group[0] for group in groups])
    order = np.argsort(resource, kind="stable")
    head, work, tail = (np.concatenate([group[k] for group in groups], axis=1)[:, order] for k in (1, 2, 3))
    return resource_bound(resource[order], head, work * candidates.num_microbatches, tail)


def _gpipe(candidates: PipelineCandidates, paths: _Paths) -> Floats:
    """Equation (4): twice a permutation flow shop of equal jobs, exact."""
    rest = candidates.num_microbatches - 1
    total = np.zeros(len(paths.forward))
    for times, sends in ((paths.forward, paths.send_forward), (paths.backward, paths.send_backward)):
        total += (times + sends).sum(axis=1) + rest * np.maximum(times, sends).max(axis=1)
    return total


def _one_f_one_b_lower(candidates: PipelineCandidates, paths: _Paths) -> Floats:
    """Equations (5) to (7): what a stage waits for in the order of forward and backward passes of 1F1B."""
    stages, microbatches = candidates.num_stages, candidates.num_microbatches
    own = paths.forward + paths.backward
    way = own + paths.send_forward + paths.send_backward
    # Round trip from the end of a forward pass of a stage to the start of its backward pass.
    below = np.cumsum(way[:, ::-1], axis=1)[:, ::-1] - own - paths.send_backward
    between = np.minimum(microbatches, stages - np.arange(stages)) - 1  # forward passes in it
    first_wait = np.maximum(below - between * paths.forward, 0.0)
    into = paths.forward_head
    trips = -(-microbatches // (between + 1))
    bound = into + trips * (own + below) + paths.backward_tail
    if candidates.schedule.splits_backward:
        kept = in_flight_limit(stages, microbatches)
        before_last = (microbatches - kept) * paths.weight
        after_last = np.maximum(paths.backward_tail, kept * paths.weight)
        bound = np.maximum(bound, into + first_wait + microbatches * own + before_last + after_last)
    else:
        last_wait = np.maximum(below - between * paths.backward, 0.0)
        apart = between + 1 < microbatches
        waits = np.where(apart, first_wait + last_wait, np.maximum(first_wait, last_wait))
        bound = np.maximum(bound, into + microbatches * own + waits + paths.backward_tail)
    return np.asarray(bound.max(axis=1))


def _one_f_one_b_upper(candidates: PipelineCandidates) -> Floats:
    """Equation (8): no path through the passes of 1F1B is longer."""
    paths = _paths(replace(candidates, overlap=False))
    microbatches = candidates.num_microbatches
    both = paths.forward + paths.backward
    most = both.max(axis=1)
    apart = paths.forward.max(axis=1) + paths.backward.max(axis=1) - most
    turns = min(microbatches, candidates.num_stages) - 1
    return np.asarray(both.sum(axis=1) + (microbatches - 1) * most + turns * apart)


def _equal_stages_upper(candidates: PipelineCandidates) -> Floats:
    """The closed form of chunks that are all as slow as the slowest: longer passes never end a fixed order earlier."""
    paths = _paths(replace(candidates, overlap=False))
    forward, backward, weight = (array.max(axis=1) for array in (paths.forward, paths.backward, paths.weight))
    stages, microbatches = candidates.num_stages, candidates.num_microbatches
    if candidates.schedule.splits_backward:
        return zb_h1_time_s(stages, microbatches, forward, backward, weight)
    return np.asarray((microbatches * candidates.schedule.chunks_per_stage + stages - 1) * (forward + backward))


def zb_h1_time_s(stages: int, microbatches: int, forward_s: Floats, backward_s: Floats, weight_s: Floats) -> Floats:
    """Equation (2): time of ZB-H1 for equal stages with times F, B, W [s]; its bubble is (p - 1)(F + B - min(F, B, W)).

    The first term is what the last stage needs, the second the first stage; with m >= p microbatches kept = p.
    """
    kept = in_flight_limit(stages, microbatches)
    own = microbatches * (forward_s + backward_s)
    after_last = np.maximum((stages - 1) * backward_s + weight_s, kept * weight_s)
    last_stage = (stages - 1) * forward_s + own + (microbatches - kept) * weight_s + after_last
    first_stage = (stages - 1) * (forward_s + backward_s) - (kept - 1) * forward_s + own + microbatches * weight_s
    return np.asarray(np.maximum(last_stage, first_stage))
