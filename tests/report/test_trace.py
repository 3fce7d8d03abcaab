"""Trace files: every operator once per resource it holds, no overlap on a track, counters that end at nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from worklode.report.trace import TracedOperator, lanes, trace_text

INTERVALS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda pair: (float(pair[0]), float(sum(pair)))), max_size=40
)


@given(INTERVALS)
def test_lanes_never_overlap_and_are_as_few_as_can_be(intervals: list[tuple[float, float]]) -> None:
    found = lanes(intervals)
    for i, (start, end) in enumerate(intervals):
        for j in range(i):
            if found[i] == found[j]:
                assert end <= intervals[j][0] or intervals[j][1] <= start
    most = max((sum(a <= start < b for a, b in intervals) for start, _ in intervals), default=0)
    assert len(set(found)) == most


def operator(name: str, start_s: float, end_s: float, *, tensor: int = 0, vector: int = 0) -> TracedOperator:
    return TracedOperator(
        name=name,
        phase="forward",
        start_s=start_s,
        end_s=end_s,
        tensor_cores=tensor,
        vector_cores=vector,
        hbm_bytes=1e6,
        facts={"module": "encoder.0"},
    )


def test_trace_holds_each_operator_on_its_resource() -> None:
    schedule = [
        operator("mm", 0.0, 1e-3, tensor=2),
        operator("gelu", 1e-3, 1.5e-3, vector=4),
        operator("attention", 1e-3, 3e-3, tensor=1, vector=1),
        operator("copy", 0.0, 2e-3),
    ]
    document = json.loads(trace_text(schedule, title="test"))
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert sorted((event["name"], event["pid"]) for event in slices) == [
        ("attention", 1),
        ("attention", 2),
        ("copy", 3),
        ("gelu", 2),
        ("mm", 1),
    ]
    (mm,) = [event for event in slices if event["name"] == "mm"]
    assert (mm["ts"], mm["dur"]) == (0.0, 1000.0)
    assert mm["args"]["module"] == "encoder.0"
    # The two vector operators overlap, so they lie on different tracks.
    assert len({event["tid"] for event in slices if event["pid"] == 2}) == 2
    counters = [event for event in document["traceEvents"] if event["ph"] == "C"]
    last = {event["name"]: next(iter(event["args"].values())) for event in sorted(counters, key=lambda e: e["ts"])}
    assert last == {"tensor cores": 0, "vector cores": 0, "HBM GB/s": 0.0}
    at_1ms = {e["name"]: next(iter(e["args"].values())) for e in counters if abs(e["ts"] - 1000.0) < 1e-6}
    assert at_1ms["tensor cores"] == 1
    assert at_1ms["vector cores"] == 5


def test_operators_without_duration_do_not_break_the_file() -> None:
    assert json.loads(trace_text([operator("view", 1.0, 1.0)], title="t"))["traceEvents"]
