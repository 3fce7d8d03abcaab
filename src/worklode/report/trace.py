"""A schedule as trace events for ui.perfetto.dev (Chrome's trace event format).

One process per resource. A core type has as many tracks as operators ever ran on it at once; an operator lies on the
lowest free one, so a track is a lane of the drawing and no particular core. Counters show cores in use and HBM traffic.

The format: docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (complete events "X", counter events
"C", metadata events "M"; times in microseconds).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worklode.graph.training_graph import TrainingGraph
    from worklode.search.evaluate import ScheduledStep

_MICROSECONDS_PER_S = 1e6
_TENSOR_PROCESS, _VECTOR_PROCESS, _MEMORY_PROCESS, _COUNTER_PROCESS = 1, 2, 3, 4
_PROCESS_NAMES = {
    _TENSOR_PROCESS: "tensor cores",
    _VECTOR_PROCESS: "vector cores",
    _MEMORY_PROCESS: "HBM only",
    _COUNTER_PROCESS: "in use",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedOperator:
    """One scheduled operator.

    Attributes:
        start_s, end_s: when it ran [s].
        tensor_cores, vector_cores: cores it held; where both are 0 it only moved data.
        hbm_bytes: what it moved to and from HBM [bytes].
        facts: more to show when it is clicked; plain values.
    """

    name: str
    phase: str
    start_s: float
    end_s: float
    tensor_cores: int
    vector_cores: int
    hbm_bytes: float
    facts: Mapping[str, Any]


def traced_operators(step: ScheduledStep, graph: TrainingGraph) -> tuple[TracedOperator, ...]:
    """The operators of a scheduled graph (the fused one the step was made from), in its order."""
    schedule, problem = step.schedule, step.problem
    found = []
    for index, operator in enumerate(graph.operators):
        option = int(schedule.option[index])
        facts: dict[str, Any] = {"module": operator.module, "kind": operator.kind.value}
        if operator.gradient_of:
            facts["gradient_of"] = operator.gradient_of
        if operator.members:
            facts["fused"] = len(operator.members)
        found.append(
            TracedOperator(
                name=operator.name,
                phase=operator.phase.value,
                start_s=float(schedule.start_s[index]),
                end_s=float(schedule.end_s[index]),
                tensor_cores=int(problem.tensor_cores[option]),
                vector_cores=int(problem.vector_cores[option]),
                hbm_bytes=float(problem.hbm_bytes[option]),
                facts=facts,
            )
        )
    return tuple(found)


def trace_text(operators: Sequence[TracedOperator], *, title: str) -> str:
    """Text of the trace file."""
    events = [
        *_names(operators),
        *_slices(operators, _TENSOR_PROCESS),
        *_slices(operators, _VECTOR_PROCESS),
        *_slices(operators, _MEMORY_PROCESS),
        *_counters(operators),
    ]
    document = {"displayTimeUnit": "ns", "otherData": {"title": title}, "traceEvents": events}
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def lanes(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """Lane of every interval [start, end): the lowest that is free when it starts, so that none overlap."""
    free: list[int] = []
    running: list[tuple[float, int]] = []
    found = [0] * len(intervals)
    used = 0
    for index in sorted(range(len(intervals)), key=lambda i: intervals[i]):
        start, end = intervals[index]
        while running and running[0][0] <= start:
            heapq.heappush(free, heapq.heappop(running)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, used = used, used + 1
        found[index] = lane
        heapq.heappush(running, (end, lane))
    return found


def _held(operator: TracedOperator, process: int) -> int:
    """Cores of the process's type; for the HBM process 1 where the operator holds no core at all."""
    if process == _TENSOR_PROCESS:
        return operator.tensor_cores
    if process == _VECTOR_PROCESS:
        return operator.vector_cores
    return int(operator.tensor_cores == 0 and operator.vector_cores == 0)


def _names(operators: Sequence[TracedOperator]) -> Iterable[dict[str, Any]]:
    for process, name in _PROCESS_NAMES.items():
        if process == _COUNTER_PROCESS or any(_held(operator, process) for operator in operators):
            yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}


def _slices(operators: Sequence[TracedOperator], process: int) -> Iterable[dict[str, Any]]:
    shown = [operator for operator in operators if _held(operator, process) and operator.end_s > operator.start_s]
    places = lanes([(operator.start_s, operator.end_s) for operator in shown])
    for operator, lane in zip(shown, places, strict=True):
        yield {
            "ph": "X",
            "name": operator.name,
            "cat": operator.phase,
            "pid": process,
            "tid": lane + 1,
            "ts": operator.start_s * _MICROSECONDS_PER_S,
            "dur": (operator.end_s - operator.start_s) * _MICROSECONDS_PER_S,
            "args": {
                "phase": operator.phase,
                "tensor_cores": operator.tensor_cores,
                "vector_cores": operator.vector_cores,
                "hbm_bytes": operator.hbm_bytes,
                **operator.facts,
            },
        }


def _counters(operators: Sequence[TracedOperator]) -> Iterable[dict[str, Any]]:
    """Steps of cores held and of HBM traffic, each operator's traffic spread evenly over the time it ran."""
    changes: dict[float, list[float]] = {}
    for operator in operators:
        duration_s = operator.end_s - operator.start_s
        if duration_s <= 0:
            continue
        rate = operator.hbm_bytes / duration_s
        for time_s, sign in ((operator.start_s, 1), (operator.end_s, -1)):
            sums = changes.setdefault(time_s, [0.0, 0.0, 0.0])
            sums[0] += sign * operator.tensor_cores
            sums[1] += sign * operator.vector_cores
            sums[2] += sign * rate
    level = [0.0, 0.0, 0.0]
    for time_s in sorted(changes):
        level = [old + change for old, change in zip(level, changes[time_s], strict=True)]
        timestamp = time_s * _MICROSECONDS_PER_S
        for name, value, unit in (
            ("tensor cores", round(level[0]), "cores"),
            ("vector cores", round(level[1]), "cores"),
            # Sums of floats that should be 0 again may be a little off, either way.
            ("HBM GB/s", max(0.0, round(level[2] / 1e9, 3)), "GB/s"),
        ):
            yield {"ph": "C", "name": name, "pid": _COUNTER_PROCESS, "ts": timestamp, "args": {unit: value}}
