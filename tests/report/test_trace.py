"""Trace files: the schedule's events, each with what is known of its operator."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from worklode.report.trace import trace_text
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.synthetic import problem_from_lists
from worklode.warmup import tiny_graph

TENSOR, VECTOR = [(2, 0, 1e-3, 5e5)], [(0, 1, 5e-4, 1e6)]


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    graph = tiny_graph()
    four = replace(graph, operators=graph.operators[:4])  # two layers' forward: product, activation, and again
    problem = problem_from_lists(
        [[], [0], [1], [2]],
        [TENSOR, VECTOR, TENSOR, VECTOR],
        num_tensor_cores=2,
        num_vector_cores=1,
        hbm_bytes_per_s=1e11,
    )
    document = json.loads(trace_text(four, problem, schedule(problem, segments=True)))
    assert document["otherData"] == {"workload": "warm-up"}
    return list(document["traceEvents"])


def test_every_operator_is_drawn_on_the_cores_it_holds(events: list[dict[str, Any]]) -> None:
    drawn = [(event["args"]["task"], event["pid"], event["tid"]) for event in events if event["ph"] == "X"]
    assert sorted(drawn) == [(0, 1, 0), (0, 1, 1), (1, 2, 0), (2, 1, 0), (2, 1, 1), (3, 2, 0)]


def test_events_say_what_the_operator_is(events: list[dict[str, Any]]) -> None:
    (gelu,) = [event for event in events if event["ph"] == "X" and event["args"]["task"] == 1]
    assert gelu["name"] == "tiny.elementwise"
    assert gelu["cat"] == "forward"
    assert gelu["args"]["kind"] == "elementwise"
    assert gelu["args"]["hbm_bytes"] == 1e6
    # 1 ms of the product before it; alone it lasts 0.5 ms.
    assert (gelu["ts"], gelu["dur"]) == pytest.approx((1000.0, 500.0))


def test_hbm_traffic_is_counted(events: list[dict[str, Any]]) -> None:
    used = [event["args"]["used"] for event in events if event["ph"] == "C"]
    # 0.5 MB in 1 ms and 1 MB in 0.5 ms, and nothing at the end.
    assert max(used) == pytest.approx(2.0)
    assert used[-1] == 0.0
