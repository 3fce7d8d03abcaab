"""A slow, separate model of pipelines for the tests: the longest path through a graph of passes and sends.

Shares nothing with the package but the order of passes, and of that only what `order_of` reads. Hypothesis strategies
for problems of all schedules.
"""

from __future__ import annotations

from itertools import pairwise

import rustworkx as rx
from hypothesis import strategies as st

from worklode.schedule.pipeline import PipelineProblem, PipelineTimeline
from worklode.schedule.pipeline_orders import PassOrder, PipelineSchedule, ScheduleKind

Pass = tuple[str, int, int]  # kind, chunk, microbatch


def order_of(problem: PipelineProblem, order: PassOrder) -> list[list[Pass]]:
    """Passes of each stage as (kind, chunk, microbatch)."""
    found = []
    for row in order.by_stage.tolist():
        stage = []
        for code in row:
            rest, microbatch = divmod(code, problem.num_microbatches)
            kind, chunk = divmod(rest, problem.num_chunks)
            stage.append(("FBW"[kind], chunk, microbatch))
        found.append(stage)
    return found


def longest_path(problem: PipelineProblem, order: list[list[Pass]]) -> dict[Pass, tuple[float, float]]:
    """Start and end of every pass: the longest way to it through passes and sends, by rustworkx.

    Nodes are passes and sends; edges go from what must have ended. A send occupies its link (one for each stage and
    direction) in the order in which its stage computes; a blocking send also holds up the stage.
    """
    chunks, stages, split = problem.num_chunks, problem.num_stages, problem.schedule.splits_backward
    graph: rx.PyDiGraph[tuple[object, float], None] = rx.PyDiGraph()
    nodes: dict[object, int] = {}

    def node(key: object, length: float) -> int:
        nodes[key] = graph.add_node((key, length))
        return nodes[key]

    def send_length(kind: str, chunk: int) -> float | None:
        """Length of the send after a pass, None where nothing is sent."""
        if stages == 1 or kind == "W" or (kind == "F" and chunk == chunks - 1) or (kind == "B" and chunk == 0):
            return None
        values = problem.send_forward_s if kind == "F" else problem.send_backward_s
        return (values[chunk] if kind == "F" else values[chunk - 1]) if values else 0.0

    for row in order:
        for kind, chunk, microbatch in row:
            backward = problem.input_gradient_s[chunk] + (0.0 if split else problem.weight_gradient_s[chunk])
            length = {"F": problem.forward_s[chunk], "B": backward, "W": problem.weight_gradient_s[chunk]}[kind]
            node((kind, chunk, microbatch), length)
            sent = send_length(kind, chunk)
            if sent is not None:
                index = node(("send", kind, chunk, microbatch), sent)
                graph.add_edge(nodes[kind, chunk, microbatch], index, None)
    for row in order:
        for first, second in pairwise(row):
            blocked = not problem.overlap and ("send", *first) in nodes
            graph.add_edge(nodes[("send", *first) if blocked else first], nodes[second], None)
        for direction in "FB":
            sends = [("send", *item) for item in row if item[0] == direction and ("send", *item) in nodes]
            for earlier, later in pairwise(sends):
                graph.add_edge(nodes[earlier], nodes[later], None)
        for kind, chunk, microbatch in row:
            needed: Pass | None = None
            if kind == "F" and chunk > 0:
                needed = ("F", chunk - 1, microbatch)
            elif kind == "B":
                needed = ("F", chunk, microbatch) if chunk == chunks - 1 else ("B", chunk + 1, microbatch)
            elif kind == "W":
                needed = ("B", chunk, microbatch)
            if needed is not None:
                sent_first = kind != "W" and ("send", *needed) in nodes
                source = nodes[("send", *needed) if sent_first else needed]
                graph.add_edge(source, nodes[kind, chunk, microbatch], None)
    end: dict[int, float] = {}
    times: dict[Pass, tuple[float, float]] = {}
    for index in rx.topological_sort(graph):
        key, length = graph[index]
        start = max((end[before] for before in graph.predecessor_indices(index)), default=0.0)
        end[index] = start + length
        if isinstance(key, tuple) and key[0] != "send":
            times[key] = (start, end[index])
    return times


def times_of(timeline: PipelineTimeline) -> dict[Pass, tuple[float, float]]:
    """What the simulation says, in the form of `longest_path`."""
    kinds, chunks, microbatches = timeline.start_s.shape
    return {
        ("FBW"[kind], chunk, microbatch): (
            float(timeline.start_s[kind, chunk, microbatch]),
            float(timeline.end_s[kind, chunk, microbatch]),
        )
        for kind in range(kinds)
        for chunk in range(chunks)
        for microbatch in range(microbatches)
    }


def schedules() -> st.SearchStrategy[PipelineSchedule]:
    simple = [kind for kind in ScheduleKind if kind is not ScheduleKind.INTERLEAVED]
    return st.one_of(
        st.sampled_from(simple).map(lambda kind: PipelineSchedule(kind=kind)),
        st.integers(1, 4).map(lambda v: PipelineSchedule(kind=ScheduleKind.INTERLEAVED, chunks_per_stage=v)),
    )


@st.composite
def problems(
    draw: st.DrawFn, of: st.SearchStrategy[PipelineSchedule] | None = None, largest: int = 6
) -> PipelineProblem:
    """Uneven stages, with and without sends and overlap; whole numbers now and then, so that times tie."""
    schedule = draw(of if of is not None else schedules())
    stages = draw(st.integers(1, largest))
    microbatches = draw(st.integers(1, 2 * largest))
    if schedule.chunks_per_stage > 1:
        microbatches = stages * draw(st.integers(1, 3))
    chunks = stages * schedule.chunks_per_stage
    whole = draw(st.booleans())
    time_s = st.integers(0, 4).map(float) if whole else st.floats(0.0, 10.0, allow_subnormal=False)

    def times(count: int) -> tuple[float, ...]:
        return tuple(draw(st.lists(time_s, min_size=count, max_size=count)))

    sends = draw(st.booleans())
    return PipelineProblem(
        num_stages=stages,
        num_microbatches=microbatches,
        schedule=schedule,
        forward_s=times(chunks),
        input_gradient_s=times(chunks),
        weight_gradient_s=times(chunks),
        send_forward_s=times(chunks - 1) if sends else (),
        send_backward_s=times(chunks - 1) if sends else (),
        overlap=draw(st.booleans()),
        activation_bytes=tuple(draw(st.lists(st.integers(0, 1000), min_size=chunks, max_size=chunks))),
    )


def equal_problem(
    schedule: PipelineSchedule, stages: int, microbatches: int, forward: float, backward: float, weight: float
) -> PipelineProblem:
    """Equal stages with times F, B, W of a stage, without sends, one byte kept per chunk and microbatch."""
    v = schedule.chunks_per_stage
    chunks = stages * v
    return PipelineProblem(
        num_stages=stages,
        num_microbatches=microbatches,
        schedule=schedule,
        forward_s=(forward / v,) * chunks,
        input_gradient_s=(backward / v,) * chunks,
        weight_gradient_s=(weight / v,) * chunks,
        activation_bytes=(1,) * chunks,
    )
