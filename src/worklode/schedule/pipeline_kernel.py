"""Compiled loops of the pipeline simulation; docs/models/pipeline.md describes what they compute.

A pass is coded as `row · microbatches + microbatch` with row = kind · chunks + chunk; chunk c runs on stage c mod
stages. Kinds are those of `pipeline_orders.PassKind`: 0 forward, 1 (input-gradient) backward, 2 weight gradient. Rows
are kept beside codes because integer division costs more than all the rest of a pass.
"""

from __future__ import annotations

import numpy as np

from worklode.schedule.compiled import Floats, Ints, compiled

# A gap counts as long enough for a weight gradient from this share of its length on [1]: gaps and passes of equal
# length differ in the last digits. Assumption: far above rounding, far below what matters.
GAP_TOLERANCE = 1.0 - 1e-9

# Candidates simulated side by side [count]. Measured 2026-11 on one core of a server processor, 8 to 64 stages, 32 to
# 1024 microbatches, time per pass and candidate: 4: 2.8 to 3.3 ns, 8: 2.1 to 2.9, 16: 2.0 to 3.4, 32: 1.9 to 6.9.
LANES = 8


@compiled
def sequence_passes(order: Ints, chunks: int, microbatches: int) -> tuple[Ints, Ints]:
    """Passes, and their rows, such that every pass follows all it needs; not all passes if the order deadlocks.

    Args:
        order: [stages, passes per stage] pass codes in the order in which a stage runs them.
        chunks: chunks of the model, a multiple of the stages.
        microbatches: of an iteration.
    """
    stages, per_stage = order.shape
    size = chunks * microbatches
    ready = np.zeros(2 * size, np.bool_)
    ready[:microbatches] = True
    at = np.zeros(stages, np.int64)
    sequence = np.empty(stages * per_stage, np.int64)
    rows = np.empty(stages * per_stage, np.int64)
    count = 0
    stack = np.arange(stages)[::-1].copy()
    waiting = np.ones(stages, np.bool_)
    top = stages
    while top > 0:
        top -= 1
        stage = stack[top]
        waiting[stage] = False
        while at[stage] < per_stage:
            code = order[stage, at[stage]]
            if code < 2 * size and not ready[code]:
                break
            row = int(code // microbatches)
            sequence[count] = code
            rows[count] = row
            count += 1
            at[stage] += 1
            if code >= 2 * size:
                continue
            chunk = row if row < chunks else row - chunks
            target = -1
            if code < size and chunk < chunks - 1:
                target = chunk + 1
                ready[code + microbatches] = True
            elif code < size:
                ready[code + size] = True
            elif chunk > 0:
                target = chunk - 1
                ready[code - microbatches] = True
            neighbour = target % stages if target >= 0 else stage
            if neighbour != stage and not waiting[neighbour]:
                waiting[neighbour] = True
                stack[top] = neighbour
                top += 1
    return sequence[:count], rows[:count]


@compiled
def run_sequence(
    sequence: Ints,
    rows: Ints,
    stages: int,
    microbatches: int,
    duration_s: Floats,
    send_forward_s: Floats,
    send_backward_s: Floats,
    overlap: bool,
) -> tuple[Floats, Floats, Floats]:
    """Times of all passes of one pipeline.

    Args:
        sequence, rows: as `sequence_passes` gives them.
        stages: of the pipeline.
        microbatches: of an iteration.
        duration_s: [kinds, chunks] of one pass.
        send_forward_s, send_backward_s: [chunks] time to hand on what a pass of the chunk made.
        overlap: whether a stage computes while it sends.

    Returns:
        start_s, end_s: [kinds · chunks · microbatches]; arrival_s: [2 · chunks · microbatches], when the input of a
        forward or backward pass is there.
    """
    kinds, chunks = duration_s.shape
    size = chunks * microbatches
    start = np.zeros(kinds * size)
    end = np.zeros(kinds * size)
    arrival = np.zeros(2 * size)
    free = np.zeros(stages)
    link = np.zeros((2, stages))
    kind_of, chunk_of, stage_of = _row_tables(kinds, chunks, stages)
    for place in range(len(sequence)):
        code, row = sequence[place], rows[place]
        kind, chunk, stage = kind_of[row], chunk_of[row], stage_of[row]
        begin = free[stage]
        if kind < 2:
            begin = max(begin, arrival[code])
        done = begin + duration_s[kind, chunk]
        start[code] = begin
        end[code] = done
        free[stage] = done
        if kind == 0 and chunk == chunks - 1:
            arrival[code + size] = done
        elif kind == 0:
            sent = (max(done, link[0, stage]) if overlap else done) + send_forward_s[chunk]
            link[0, stage] = sent
            arrival[code + microbatches] = sent
            free[stage] = done if overlap else sent
        elif kind == 1 and chunk > 0:
            sent = (max(done, link[1, stage]) if overlap else done) + send_backward_s[chunk]
            link[1, stage] = sent
            arrival[code - microbatches] = sent
            free[stage] = done if overlap else sent
    return start, end, arrival


@compiled
def run_many(
    sequence: Ints,
    rows: Ints,
    stages: int,
    microbatches: int,
    duration_s: Floats,
    send_forward_s: Floats,
    send_backward_s: Floats,
    overlap: bool,
) -> Floats:
    """End of the last pass of every chunk [candidates, chunks], for many durations [candidates, kinds, chunks].

    The same steps as in `run_sequence`, in the same order, so the same digits.
    """
    candidates, kinds, chunks = duration_s.shape
    size = chunks * microbatches
    last = np.zeros((candidates, chunks))
    length = np.zeros((kinds, chunks, LANES))
    send = np.zeros((2, chunks, LANES))
    arrival = np.zeros((2 * size, LANES))
    free = np.zeros((stages, LANES))
    link = np.zeros((2, stages, LANES))
    ended = np.zeros((chunks, LANES))
    kind_of, chunk_of, stage_of = _row_tables(kinds, chunks, stages)
    for first in range(0, candidates, LANES):
        lanes = min(LANES, candidates - first)
        for lane in range(lanes):
            length[:, :, lane] = duration_s[first + lane]
            send[0, :, lane] = send_forward_s[first + lane]
            send[1, :, lane] = send_backward_s[first + lane]
        arrival[:microbatches] = 0.0
        free[:] = 0.0
        link[:] = 0.0
        for place in range(len(sequence)):
            code, row = sequence[place], rows[place]
            kind, chunk, stage = kind_of[row], chunk_of[row], stage_of[row]
            target = -1
            if kind == 0:
                target = code + microbatches if chunk < chunks - 1 else code + size
            elif kind == 1 and chunk > 0:
                target = code - microbatches
            sends = target >= 0 and not (kind == 0 and chunk == chunks - 1)
            for lane in range(LANES):
                begin = free[stage, lane]
                if kind < 2:
                    begin = max(begin, arrival[code, lane])
                done = begin + length[kind, chunk, lane]
                free[stage, lane] = done
                if sends:
                    sent = (max(done, link[kind, stage, lane]) if overlap else done) + send[kind, chunk, lane]
                    link[kind, stage, lane] = sent
                    arrival[target, lane] = sent
                    free[stage, lane] = done if overlap else sent
                elif target >= 0:
                    arrival[target, lane] = done
                if kind == kinds - 1:
                    ended[chunk, lane] = done
        for lane in range(lanes):
            last[first + lane] = ended[:, lane]
    return last


@compiled
def defer_weight_gradients(  # noqa: PLR0912, PLR0915 - one event loop over shared arrays
    order: Ints,
    microbatches: int,
    limit: int,
    least_gap: float,
    duration_s: Floats,
    send_forward_s: Floats,
    send_backward_s: Floats,
    overlap: bool,
    deferred: Ints,
) -> Floats:
    """Put weight gradients into the gaps of an order of forward and input-gradient passes (one chunk per stage).

    When the next pass of a stage is known to become ready later than the stage is free, weight gradients that wait are
    run, oldest first, while the gap is longer than `least_gap` of one. A forward pass that would keep more than `limit`
    microbatches is preceded by a weight gradient. What is left comes last.

    Args:
        order: [stages, 2 · microbatches] forward and input-gradient passes.
        microbatches: of an iteration.
        limit: microbatches a stage may keep.
        least_gap: share of a weight gradient a gap must have.
        duration_s: [3, stages].
        send_forward_s, send_backward_s: [stages].
        overlap: whether a stage computes while it sends.
        deferred: [stages, 3 · microbatches] is filled with the order of all passes.

    Returns:
        [stages] end of the last pass of each stage.
    """
    stages = len(order)
    size = stages * microbatches
    arrival = np.full(2 * size, -1.0)
    arrival[:microbatches] = 0.0
    free = np.zeros(stages)
    link = np.zeros((2, stages))
    at = np.zeros(stages, np.int64)
    forwards = np.zeros(stages, np.int64)
    backwards = np.zeros(stages, np.int64)
    weights = np.zeros(stages, np.int64)
    stack = np.arange(stages)[::-1].copy()
    waiting = np.ones(stages, np.bool_)
    top = stages
    while top > 0:
        top -= 1
        stage = stack[top]
        waiting[stage] = False
        weight_s = duration_s[2, stage]
        while at[stage] < order.shape[1]:
            code = order[stage, at[stage]]
            if arrival[code] < 0.0:
                break
            place = at[stage] + weights[stage]
            while weights[stage] < backwards[stage]:
                full = code < size and forwards[stage] - weights[stage] >= limit
                gap = arrival[code] - free[stage]
                if not full and (gap <= 0.0 or gap < least_gap * weight_s * GAP_TOLERANCE):
                    break
                deferred[stage, place] = 2 * size + stage * microbatches + weights[stage]
                place += 1
                weights[stage] += 1
                free[stage] += weight_s
            deferred[stage, place] = code
            at[stage] += 1
            kind = 0 if code < size else 1
            done = max(free[stage], arrival[code]) + duration_s[kind, stage]
            free[stage] = done
            neighbour = stage
            if kind == 0:
                forwards[stage] += 1
                if stage == stages - 1:
                    arrival[code + size] = done
                else:
                    neighbour = stage + 1
                    sent = (max(done, link[0, stage]) if overlap else done) + send_forward_s[stage]
                    link[0, stage] = sent
                    arrival[code + microbatches] = sent
                    free[stage] = done if overlap else sent
            else:
                backwards[stage] += 1
                if stage > 0:
                    neighbour = stage - 1
                    sent = (max(done, link[1, stage]) if overlap else done) + send_backward_s[stage]
                    link[1, stage] = sent
                    arrival[code - microbatches] = sent
                    free[stage] = done if overlap else sent
            if neighbour != stage and not waiting[neighbour]:
                waiting[neighbour] = True
                stack[top] = neighbour
                top += 1
    for stage in range(stages):
        for weight in range(weights[stage], microbatches):
            deferred[stage, 2 * microbatches + weight] = 2 * size + stage * microbatches + weight
            free[stage] += duration_s[2, stage]
    return free


@compiled
def defer_many(
    order: Ints,
    microbatches: int,
    limit: int,
    least_gaps: Floats,
    duration_s: Floats,
    send_forward_s: Floats,
    send_backward_s: Floats,
    overlap: bool,
    last_s: Floats,
) -> None:
    """`defer_weight_gradients` for candidates [candidates, 3, stages]; what is shorter than `last_s` replaces it."""
    candidates, _, stages = duration_s.shape
    scratch = np.empty((stages, 3 * microbatches), np.int64)
    for candidate in range(candidates):
        for least_gap in least_gaps:
            ends = defer_weight_gradients(
                order,
                microbatches,
                limit,
                least_gap,
                duration_s[candidate],
                send_forward_s[candidate],
                send_backward_s[candidate],
                overlap,
                scratch,
            )
            if ends.max() < last_s[candidate].max():
                last_s[candidate] = ends


@compiled
def peaks(rows: Ints, stages: int, change_bytes: Floats) -> tuple[Ints, Floats]:
    """Most chunk-microbatches and activation bytes each stage keeps at a time [stages].

    A stage runs one pass after another, so its order alone decides. `change_bytes` [kinds, chunks] are whole numbers,
    which add up without rounding: what a pass adds at its start if forward, at its end if not.
    """
    kinds, chunks = change_bytes.shape
    kind_of, chunk_of, stage_of = _row_tables(kinds, chunks, stages)
    most = np.zeros(stages, np.int64)
    most_bytes = np.zeros(stages)
    kept = np.zeros(stages, np.int64)
    kept_bytes = np.zeros(stages)
    for row in rows:
        stage = stage_of[row]
        kept_bytes[stage] += change_bytes[kind_of[row], chunk_of[row]]
        most_bytes[stage] = max(most_bytes[stage], kept_bytes[stage])
        if kind_of[row] == 0:
            kept[stage] += 1
            most[stage] = max(most[stage], kept[stage])
        elif kind_of[row] == kinds - 1:
            kept[stage] -= 1
    return most, most_bytes


@compiled
def _row_tables(kinds: int, chunks: int, stages: int) -> tuple[Ints, Ints, Ints]:
    """Kind, chunk and stage of every row."""
    row = np.arange(kinds * chunks)
    return row // chunks, row % chunks, row % chunks % stages


@compiled
def resource_bound(resource: Ints, head_s: Floats, work_s: Floats, tail_s: Floats) -> Floats:
    """Largest of min head + sum of work + min tail over the sets of jobs that share a resource [candidates].

    For a resource that serves one job at a time no schedule is shorter. The best set is all jobs with a head of at
    least some head and a tail of at least some tail: for every head, jobs are added from the longest tail to the
    shortest. Jobs that take no time are in no set.

    Args:
        resource: [jobs] what a job occupies; jobs of one resource are neighbours.
        head_s, work_s, tail_s: [candidates, jobs] earliest start, time on the resource, what must follow.
    """
    candidates, jobs = work_s.shape
    bound = np.zeros(candidates)
    by_tail = np.empty(jobs, np.int64)
    for candidate in range(candidates):
        head, work, tail = head_s[candidate], work_s[candidate], tail_s[candidate]
        first = 0
        while first < jobs:
            stop = first
            count = 0
            while stop < jobs and resource[stop] == resource[first]:
                if work[stop] > 0.0:
                    place = count
                    while place > 0 and tail[by_tail[place - 1]] < tail[stop]:
                        by_tail[place] = by_tail[place - 1]
                        place -= 1
                    by_tail[place] = stop
                    count += 1
                stop += 1
            for a in range(count):
                earliest = head[by_tail[a]]
                total = 0.0
                for b in range(count):
                    job = by_tail[b]
                    if head[job] >= earliest:
                        total += work[job]
                        bound[candidate] = max(bound[candidate], earliest + total + tail[job])
            first = stop
    return bound
