"""A simulated pipeline as records of the Chrome trace-event format, which Perfetto opens."""

from __future__ import annotations

from collections.abc import Mapping

from worklode.schedule.pipeline import PipelineTimeline, candidates_of, pass_times
from worklode.schedule.pipeline_analysis import activation_profile
from worklode.schedule.pipeline_orders import PassKind

MICROSECONDS_PER_SECOND = 1e6
BYTES_PER_GIB = 2**30

STAGES, LINKS, MEMORY = 1, 2, 3  # process numbers of the trace

NAMES = {PassKind.FORWARD: "F", PassKind.BACKWARD: "B", PassKind.WEIGHT_GRADIENT: "W"}
CATEGORIES = {
    PassKind.FORWARD: "forward",
    PassKind.BACKWARD: "backward",
    PassKind.WEIGHT_GRADIENT: "weight gradient",
}

Record = dict[str, object]


def pipeline_trace_records(timeline: PipelineTimeline) -> list[Record]:
    """Trace events: passes on one lane per stage, sends on one lane per link and direction, activations as counters.

    Returns:
        Records for the `traceEvents` list of a JSON trace; times in microseconds, as the format demands.
    """
    problem = timeline.problem
    records = [_metadata("process_name", STAGES, 0, f"pipeline, {problem.schedule}")]
    for stage in range(problem.num_stages):
        records.append(_metadata("thread_name", STAGES, stage, f"stage {stage}"))
        records.extend(_passes(timeline, stage))
    records.extend(_sends(timeline))
    if timeline.peak_activation_bytes.any():
        records.append(_metadata("process_name", MEMORY, 0, "activations"))
        for stage in range(problem.num_stages):
            records.extend(_memory(timeline, stage))
    return records


def _passes(timeline: PipelineTimeline, stage: int) -> list[Record]:
    problem = timeline.problem
    records = []
    for code in timeline.order.by_stage[stage]:
        row, microbatch = divmod(int(code), problem.num_microbatches)
        number, chunk = divmod(row, problem.num_chunks)
        kind = PassKind(number)
        name = f"{NAMES[kind]}{microbatch}"
        if problem.num_chunks > problem.num_stages:
            name += f" chunk {chunk}"
        start_s, end_s = timeline.start_s[number, chunk, microbatch], timeline.end_s[number, chunk, microbatch]
        arguments = {"microbatch": microbatch, "chunk": chunk}
        records.append(_event(name, CATEGORIES[kind], STAGES, stage, float(start_s), float(end_s), arguments))
    return records


def _sends(timeline: PipelineTimeline) -> list[Record]:
    """Sends that take time: from their start to the arrival of what they carry."""
    problem = timeline.problem
    _, send_forward, send_backward = pass_times(candidates_of(problem))
    records: list[Record] = []
    lanes: dict[int, str] = {}
    for kind, sends, step in (
        (PassKind.FORWARD, send_forward[0], 1),
        (PassKind.BACKWARD, send_backward[0], -1),
    ):
        for chunk in range(problem.num_chunks):
            if sends[chunk] <= 0:
                continue
            stage, neighbour = chunk % problem.num_stages, (chunk + step) % problem.num_stages
            lane = 2 * stage + int(kind)
            what = "activations" if kind is PassKind.FORWARD else "gradients"
            lanes[lane] = f"{what}, stage {stage} to {neighbour}"
            for microbatch in range(problem.num_microbatches):
                arrival_s = float(timeline.arrival_s[kind, chunk + step, microbatch])
                name = f"send {NAMES[kind]}{microbatch}"
                begin_s = arrival_s - float(sends[chunk])
                records.append(_event(name, "send", LINKS, lane, begin_s, arrival_s, {"chunk": chunk}))
    if records:
        records.append(_metadata("process_name", LINKS, 0, "links"))
    records.extend(_metadata("thread_name", LINKS, lane, name) for lane, name in sorted(lanes.items()))
    return records


def _memory(timeline: PipelineTimeline, stage: int) -> list[Record]:
    return [
        {
            "name": f"stage {stage} [GiB]",
            "ph": "C",
            "ts": float(at) * MICROSECONDS_PER_SECOND,
            "pid": MEMORY,
            "args": {"kept": float(amount) / BYTES_PER_GIB},
        }
        for at, amount in zip(*activation_profile(timeline, stage), strict=True)
    ]


def _event(
    name: str, category: str, process: int, lane: int, start_s: float, end_s: float, arguments: Mapping[str, object]
) -> Record:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": start_s * MICROSECONDS_PER_SECOND,
        "dur": (end_s - start_s) * MICROSECONDS_PER_SECOND,
        "pid": process,
        "tid": lane,
        "args": dict(arguments),
    }


def _metadata(kind: str, process: int, thread: int, name: str) -> Record:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
