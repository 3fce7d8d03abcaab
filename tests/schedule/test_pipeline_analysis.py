"""What explains a pipeline: the critical chain adds up, memory over time has the peak, traces are valid."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings

from worklode.report.pipeline_trace import pipeline_trace_text
from worklode.schedule.pipeline import PipelineProblem, candidates_of, pass_times, simulate
from worklode.schedule.pipeline_analysis import Reason, activation_profile, critical_chain, gap_to_best_possible
from worklode.schedule.pipeline_orders import PassKind, parse_schedule
from worklode.schedule.pipeline_trace import pipeline_trace_records

from .pipeline_oracle import equal_problem, problems


@settings(deadline=None, max_examples=150)
@given(problem=problems())
def test_the_critical_chain_explains_the_makespan(problem: PipelineProblem) -> None:
    timeline = simulate(problem)
    chain = critical_chain(timeline)
    duration, send_forward, send_backward = pass_times(candidates_of(problem))
    sends = (send_forward[0], send_backward[0])
    assert chain.steps[0].start_s == 0.0
    assert chain.steps[-1].end_s == timeline.makespan_s
    assert sum(chain.compute_s) + chain.transfer_s == pytest.approx(timeline.makespan_s, rel=1e-9)
    for step in chain.steps:
        length = duration[0, step.kind, step.chunk]
        assert step.end_s - step.start_s == pytest.approx(length, rel=1e-9, abs=1e-9)
    for before, step in pairwise(chain.steps):
        assert step.start_s - before.end_s == pytest.approx(step.transfer_s, abs=1e-9)
        assert step.transfer_s >= 0.0
        send_s = float(sends[before.kind][before.chunk]) if before.kind < 2 else 0.0
        if step.reason is Reason.STAGE:
            assert before.stage == step.stage
            assert step.transfer_s == pytest.approx(0.0 if problem.overlap else send_s, abs=1e-9)
        elif step.reason is Reason.DATA:
            assert before.microbatch == step.microbatch
            assert before.kind == step.kind or (before.kind, step.kind) == (PassKind.FORWARD, PassKind.BACKWARD)
            assert step.transfer_s == pytest.approx(send_s if before.stage != step.stage else 0.0, abs=1e-9)
        else:
            assert step.reason is Reason.LINK
            assert problem.overlap
            assert before.kind == step.kind
            assert step.transfer_s > 0.0


def test_the_chain_of_a_slow_stage_stays_on_it() -> None:
    problem = replace(equal_problem(parse_schedule("1f1b"), 4, 16, 1.0, 1.0, 0.0), forward_s=(1.0, 1.0, 5.0, 1.0))
    chain = critical_chain(simulate(problem))
    assert max(range(4), key=lambda stage: chain.compute_s[stage]) == 2
    assert chain.compute_s[2] >= 15 * 6.0, "almost all of its work; where paths tie the chain may go round it once"


def test_the_chain_of_a_slow_link_is_its_sends() -> None:
    problem = replace(equal_problem(parse_schedule("gpipe"), 2, 10, 1.0, 1.0, 0.0), send_forward_s=(5.0,))
    chain = critical_chain(simulate(problem))
    assert chain.transfer_s == pytest.approx(50.0)
    assert Reason.LINK in {step.reason for step in chain.steps}


@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_memory_over_time_has_the_peak_of_the_timeline(problem: PipelineProblem) -> None:
    timeline = simulate(problem)
    for stage in range(problem.num_stages):
        time_s, kept = activation_profile(timeline, stage)
        assert (time_s[1:] >= time_s[:-1]).all()
        assert kept.max() == timeline.peak_activation_bytes[stage]
        assert kept.min() == kept[-1] == 0.0


def test_gap_to_the_best_possible() -> None:
    equal = equal_problem(parse_schedule("1f1b"), 4, 8, 1.0, 1.0, 1.0)
    assert gap_to_best_possible(simulate(equal)) == pytest.approx(0.0, abs=1e-9)
    # Of the same passes with backward split, none can be shorter than the way in and the work of the last stage.
    split = simulate(replace(equal, schedule=parse_schedule("zb-h1")))
    assert split.makespan_s == pytest.approx(3 + 24)
    assert gap_to_best_possible(split) == pytest.approx(0.0, abs=1e-9)
    slower = replace(equal, schedule=parse_schedule("zb-h1"), weight_gradient_s=(0.5,) * 4)
    assert gap_to_best_possible(simulate(slower)) > 0.01
    nothing = equal_problem(parse_schedule("1f1b"), 2, 2, 0.0, 0.0, 0.0)
    assert gap_to_best_possible(simulate(nothing)) == 0.0
    assert simulate(nothing).bubble_fraction == 0.0


@settings(deadline=None, max_examples=40)
@given(problem=problems(largest=4))
def test_traces_have_every_pass_once_and_lanes_without_overlap(problem: PipelineProblem) -> None:
    timeline = simulate(problem)
    document = json.loads(pipeline_trace_text(timeline, "model"))
    assert document["otherData"]["makespan_s"] == timeline.makespan_s
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    passes = 0
    for record in document["traceEvents"]:
        if record["ph"] == "X":
            lanes[record["pid"], record["tid"]].append((record["ts"], record["ts"] + record["dur"]))
            passes += record["pid"] == 1
    assert passes == timeline.order.by_stage.size
    for spans in lanes.values():
        spans.sort()
        for first, second in pairwise(spans):
            assert first[1] <= second[0] + 1e-6 * max(1.0, second[0])
    named = {(r["pid"], r["tid"]) for r in document["traceEvents"] if r["ph"] == "M" and r["name"] == "thread_name"}
    assert set(lanes) <= named


def test_records_of_a_small_pipeline() -> None:
    problem = replace(
        equal_problem(parse_schedule("gpipe"), 2, 1, 1.0, 1.0, 1.0),
        send_forward_s=(0.5,),
        activation_bytes=(2**30, 2**31),
    )
    records = pipeline_trace_records(simulate(problem))
    passes = [(r["name"], r["cat"], r["tid"], r["ts"], r["dur"]) for r in records if r["ph"] == "X" and r["pid"] == 1]
    assert passes == [
        ("F0", "forward", 0, 0.0, 1e6),
        ("B0", "backward", 0, 4.5e6, 2e6),
        ("F0", "forward", 1, 1.5e6, 1e6),
        ("B0", "backward", 1, 2.5e6, 2e6),
    ]
    sends = [(r["name"], r["ts"], r["dur"]) for r in records if r["ph"] == "X" and r["pid"] == 2]
    assert sends == [("send F0", 1e6, 0.5e6)]
    names = [r["args"] for r in records if r["ph"] == "M" and r["pid"] == 2]
    assert names == [{"name": "links"}, {"name": "activations, stage 0 to 1"}]
    counters = [(r["name"], r["ts"], r["args"]) for r in records if r["ph"] == "C"]
    assert counters[0] == ("stage 0 [GiB]", 0.0, {"kept": 1.0})
    assert counters[-1] == ("stage 1 [GiB]", 4.5e6, {"kept": 0.0})
