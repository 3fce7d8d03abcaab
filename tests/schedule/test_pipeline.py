"""Pipelines: closed forms of equal stages, the longest path of uneven ones, memory, refusals."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.schedule.pipeline import (
    PipelineCandidates,
    PipelineProblem,
    candidates_of,
    simulate,
    simulate_batch,
)
from worklode.schedule.pipeline_orders import PipelineSchedule, ScheduleKind, parse_schedule, pass_order

from .pipeline_oracle import Pass, equal_problem, longest_path, order_of, problems, times_of

EXACT = 1e-12  # relative: sums of the same numbers in another order
TIMES = st.floats(0.01, 10.0)


@settings(deadline=None, max_examples=120)
@given(problem=problems())
def test_every_pass_runs_when_the_longest_path_says(problem: PipelineProblem) -> None:
    timeline = simulate(problem)
    expected = longest_path(problem, order_of(problem, timeline.order))
    found = times_of(timeline)
    assert found.keys() == expected.keys()
    for key, times in expected.items():
        assert found[key] == pytest.approx(times, rel=EXACT, abs=1e-12), key
    assert timeline.makespan_s == pytest.approx(max(end for _, end in expected.values()), rel=EXACT)
    last = "W" if problem.schedule.splits_backward else "B"
    for chunk, ready_s in enumerate(timeline.gradients_ready_s):
        ends = [end for (kind, c, _), (_, end) in expected.items() if kind == last and c == chunk]
        assert ready_s == pytest.approx(max(ends), rel=EXACT)


@settings(deadline=None, max_examples=100)
@given(problem=problems())
def test_time_of_every_stage_is_accounted_for(problem: PipelineProblem) -> None:
    timeline = simulate(problem)
    total = timeline.busy_s + timeline.sending_s + timeline.idle_s
    assert total == pytest.approx(np.full(problem.num_stages, timeline.makespan_s), rel=EXACT)
    length = timeline.end_s - timeline.start_s
    by_stage = [length[:, stage :: problem.num_stages].sum() for stage in range(problem.num_stages)]
    assert timeline.busy_s == pytest.approx(np.array(by_stage), rel=1e-9, abs=1e-9)
    assert 0.0 <= timeline.bubble_fraction <= 1.0


@settings(deadline=None, max_examples=60)
@given(data=st.data(), count=st.integers(1, 20))
def test_batch_has_the_digits_of_single_simulations(data: st.DataObject, count: int) -> None:
    problem = data.draw(problems(largest=4))
    random = np.random.default_rng(count)
    factor = random.uniform(0.5, 2.0, (3, count, problem.num_chunks))
    base = candidates_of(problem)
    candidates = replace(
        base,
        forward_s=base.forward_s * factor[0],
        input_gradient_s=base.input_gradient_s * factor[1],
        weight_gradient_s=base.weight_gradient_s * factor[2],
    )
    found = simulate_batch(candidates)
    for row in range(count):
        single = simulate(
            replace(
                problem,
                forward_s=tuple(candidates.forward_s[row]),
                input_gradient_s=tuple(candidates.input_gradient_s[row]),
                weight_gradient_s=tuple(candidates.weight_gradient_s[row]),
            )
        )
        assert found[row].tolist() == single.gradients_ready_s.tolist()


# Closed forms of equal stages; docs/models/pipeline.md, section 3.


@settings(deadline=None, max_examples=60)
@given(p=st.integers(1, 9), m=st.integers(1, 20), f=TIMES, b=TIMES, w=TIMES, kind=st.sampled_from(["gpipe", "1f1b"]))
def test_gpipe_and_1f1b_of_equal_stages(p: int, m: int, f: float, b: float, w: float, kind: str) -> None:
    timeline = simulate(equal_problem(parse_schedule(kind), p, m, f, b, w))
    assert timeline.makespan_s == pytest.approx((m + p - 1) * (f + b + w), rel=EXACT)
    assert timeline.idle_s == pytest.approx(np.full(p, (p - 1) * (f + b + w)), rel=1e-10, abs=1e-12)
    assert timeline.bubble_fraction == pytest.approx((p - 1) / (m + p - 1), rel=1e-10)
    kept = [m] * p if kind == "gpipe" else [min(m, p - stage) for stage in range(p)]
    assert timeline.peak_in_flight.tolist() == kept
    assert timeline.peak_activation_bytes.tolist() == kept


@settings(deadline=None, max_examples=60)
@given(p=st.integers(2, 8), groups=st.integers(1, 4), v=st.integers(2, 5), f=TIMES, b=TIMES, w=TIMES)
def test_interleaved_of_equal_chunks(p: int, groups: int, v: int, f: float, b: float, w: float) -> None:
    m = p * groups
    timeline = simulate(equal_problem(parse_schedule(f"interleaved:{v}"), p, m, f, b, w))
    assert timeline.idle_s == pytest.approx(np.full(p, (p - 1) * (f + b + w) / v), rel=1e-9)
    assert timeline.makespan_s == pytest.approx((m + Fraction(p - 1, v)) * (f + b + w), rel=1e-10)
    # Megatron's memory factor 1 + (p - 1) / (p v) of the first stage: p v + p - 1 chunks, where there are so many.
    assert timeline.peak_in_flight[0] == min(round(p * v * (1 + (p - 1) / (p * v))), m * v)
    assert timeline.peak_in_flight.tolist() == [min(2 * (p - stage - 1) + (v - 1) * p + 1, m * v) for stage in range(p)]


@settings(deadline=None, max_examples=100)
@given(p=st.integers(1, 8), more=st.integers(0, 12), f=TIMES, b=TIMES, w=TIMES)
def test_zero_bubble_of_equal_stages(p: int, more: int, f: float, b: float, w: float) -> None:
    m = p + more
    timeline = simulate(equal_problem(parse_schedule("zb-h1"), p, m, f, b, w))
    bubble = (p - 1) * (f + b - min(f, b, w))  # = (p - 1)(F + B - W), the published form, where W is the shortest
    assert timeline.idle_s == pytest.approx(np.full(p, bubble), rel=1e-9, abs=1e-9)
    assert timeline.peak_in_flight.max() == p


@settings(deadline=None, max_examples=60)
@given(p=st.integers(1, 8), m=st.integers(1, 8), f=TIMES, b=TIMES, share=st.floats(0.01, 0.99))
def test_zero_bubble_of_few_microbatches(p: int, m: int, f: float, b: float, share: float) -> None:
    # arXiv 2401.10241, appendix H: m <= p and W < B. Weight gradients left over must fit the way out of the last stage
    # and forward passes those of the first, which the paper's "rough analysis" takes for granted.
    m = min(m, p)
    w = share * min(f, b)
    timeline = simulate(equal_problem(parse_schedule("zb-h1"), p, m, f, b, w))
    assert timeline.makespan_s == pytest.approx((m + p - 1) * (f + b) + w, rel=1e-10)


@pytest.mark.parametrize("text", ["gpipe", "1f1b", "interleaved:1", "interleaved:2", "interleaved:3", "zb-h1"])
def test_no_setting_deadlocks(text: str) -> None:
    schedule = parse_schedule(text)
    for stages in range(1, 13):
        for microbatches in range(1, 26):
            count = stages * microbatches if schedule.chunks_per_stage > 1 else microbatches
            if schedule.chunks_per_stage > 1 and microbatches > 4:
                break
            order = pass_order(schedule, stages, count)  # raises where passes wait for one another
            assert sorted(order.sequence.tolist()) == list(
                range(schedule.num_kinds * stages * schedule.chunks_per_stage * count)
            )


def test_deep_interleaving_does_not_deadlock() -> None:
    for chunks_per_stage in (8, 24):
        pass_order(PipelineSchedule(kind=ScheduleKind.INTERLEAVED, chunks_per_stage=chunks_per_stage), 16, 48)


# Orders, written out from the published figures.


def stage_texts(text: str, stages: int, microbatches: int) -> list[str]:
    """Orders as the figures number them: microbatches from 1, in `interleaved` with the local chunk as a letter."""
    schedule = parse_schedule(text)
    problem = equal_problem(schedule, stages, microbatches, 1.0, 1.0, 1.0)

    def label(item: Pass) -> str:
        kind, chunk, microbatch = item
        letter = "abcd"[chunk // stages] if schedule.chunks_per_stage > 1 else ""
        return f"{kind}{microbatch + 1}{letter}"

    rows = order_of(problem, pass_order(schedule, stages, microbatches))
    return [" ".join(label(item) for item in row) for row in rows]


def test_order_of_1f1b_is_that_of_its_figure() -> None:
    # Narayanan et al., SC21 (arXiv 2104.04473), figure 4, top: 4 devices, 8 microbatches.
    assert stage_texts("1f1b", 4, 8) == [
        "F1 F2 F3 F4 B1 F5 B2 F6 B3 F7 B4 F8 B5 B6 B7 B8",
        "F1 F2 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 F8 B6 B7 B8",
        "F1 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 F8 B7 B8",
        "F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7 F8 B8",
    ]


def test_order_of_interleaved_is_that_of_its_figure() -> None:
    # The same figure, bottom, first and last device: two chunks, dark (a) and light (b).
    rows = stage_texts("interleaved:2", 4, 8)
    forward = "F1a F2a F3a F4a F1b F2b F3b F4b F5a F6a F7a F8a F5b F6b F7b F8b"
    backward = "B1b B2b B3b B4b B1a B2a B3a B4a B5b B6b B7b B8b B5a B6a B7a B8a"
    for row in rows:
        assert " ".join(item for item in row.split() if item[0] == "F") == forward
        assert " ".join(item for item in row.split() if item[0] == "B") == backward
    assert rows[0].startswith("F1a F2a F3a F4a F1b F2b F3b F4b F5a F6a F7a B1b F8a B2b F5b B3b")
    assert rows[3].startswith("F1a F2a F3a F4a F1b B1b F2b B2b F3b B3b F4b B4b F5a B1a")


def test_order_of_zero_bubble_is_that_of_its_figure() -> None:
    # arXiv 2401.10241, figure 3, top (ZB-H1), 4 devices, 8 microbatches, as its text describes it: 1F1B in F and B, W
    # put off by the stage's place so that all keep 4 microbatches, the rest of W last.
    assert stage_texts("zb-h1", 4, 8) == [
        "F1 F2 F3 F4 B1 W1 F5 B2 W2 F6 B3 W3 F7 B4 W4 F8 B5 W5 B6 W6 B7 W7 B8 W8",
        "F1 F2 F3 B1 F4 B2 W1 F5 B3 W2 F6 B4 W3 F7 B5 W4 F8 B6 W5 B7 W6 B8 W7 W8",
        "F1 F2 B1 F3 B2 F4 B3 W1 F5 B4 W2 F6 B5 W3 F7 B6 W4 F8 B7 W5 B8 W6 W7 W8",
        "F1 B1 F2 B2 F3 B3 F4 B4 W1 F5 B5 W2 F6 B6 W3 F7 B7 W4 F8 B8 W5 W6 W7 W8",
    ]


@settings(deadline=None, max_examples=100)
@given(problem=problems(st.just(parse_schedule("zb-h1"))))
def test_zero_bubble_keeps_its_limit_and_is_never_longer_than_handcrafted_or_1f1b(problem: PipelineProblem) -> None:
    timeline = simulate(problem)
    assert timeline.peak_in_flight.max() <= min(problem.num_stages, problem.num_microbatches)
    handcrafted = pass_order(problem.schedule, problem.num_stages, problem.num_microbatches)
    times = longest_path(problem, order_of(problem, handcrafted))
    assert timeline.makespan_s <= max(end for _, end in times.values()) * (1 + EXACT)
    for row in order_of(problem, timeline.order):
        for microbatch in range(problem.num_microbatches):
            chunk = row[0][1]
            places = [row.index((kind, chunk, microbatch)) for kind in "FBW"]
            assert places == sorted(places)


def test_weight_gradients_move_into_the_gaps_of_uneven_stages() -> None:
    # The last stage is slow: with the handcrafted order its weight gradients stand in the way of the way out.
    problem = replace(
        equal_problem(parse_schedule("zb-h1"), 4, 8, 1.0, 1.0, 1.0),
        forward_s=(1.0, 1.0, 1.0, 1.0),
        input_gradient_s=(1.0, 4.0, 1.0, 1.0),
        weight_gradient_s=(1.0, 0.5, 2.0, 1.0),
    )
    handcrafted = pass_order(problem.schedule, 4, 8)
    fixed = max(end for _, end in longest_path(problem, order_of(problem, handcrafted)).values())
    assert simulate(problem).makespan_s < fixed


# Memory


@settings(deadline=None, max_examples=150)
@given(problem=problems(), data=st.data())
def test_peak_memory_is_the_sum_over_what_is_kept_at_its_worst_moment(
    problem: PipelineProblem, data: st.DataObject
) -> None:
    if problem.schedule.splits_backward and data.draw(st.booleans()):
        kept = [data.draw(st.integers(0, 1200)) for _ in problem.activation_bytes]
        problem = replace(problem, weight_activation_bytes=tuple(kept))
    timeline = simulate(problem)
    for stage, row in enumerate(order_of(problem, timeline.order)):
        held: dict[tuple[int, int], int] = {}
        most_bytes = most = 0
        for kind, chunk, microbatch in row:
            if kind == "F":
                held[chunk, microbatch] = problem.activation_bytes[chunk]
            elif kind == "B" and problem.schedule.splits_backward:
                held[chunk, microbatch] = (problem.weight_activation_bytes or problem.activation_bytes)[chunk]
            else:
                del held[chunk, microbatch]
            most, most_bytes = max(most, len(held)), max(most_bytes, sum(held.values()))
        assert not held
        assert timeline.peak_in_flight[stage] == most
        assert timeline.peak_activation_bytes[stage] == most_bytes


def test_memory_of_zero_bubble_is_that_of_its_paper() -> None:
    # arXiv 2401.10241, section 2.3: worker i (from 1) keeps (p - i + 1) M_B + (i - 1) M_W.
    problem = equal_problem(parse_schedule("zb-h1"), 6, 20, 1.0, 1.0, 1.0)
    problem = replace(problem, activation_bytes=(34,) * 6, weight_activation_bytes=(32,) * 6)
    expected = [(6 - worker + 1) * 34 + (worker - 1) * 32 for worker in range(1, 7)]
    assert simulate(problem).peak_activation_bytes.tolist() == expected


# Sends


def test_overlapped_sends_delay_only_what_waits_for_them() -> None:
    problem = replace(
        equal_problem(parse_schedule("gpipe"), 3, 5, 2.0, 1.0, 1.0),
        send_forward_s=(0.5, 0.5),
        send_backward_s=(0.25, 0.25),
    )
    assert simulate(problem).makespan_s == pytest.approx(5 * 4 + 2 * (2 + 2) + 2 * 0.5 + 2 * 0.25)
    # Blocking: all but the last stage send after every forward pass, all but the first after every backward pass.
    blocking = simulate(replace(problem, overlap=False))
    assert blocking.makespan_s == pytest.approx((2.5 * 2 + 2) + 4 * 2.5 + (2.25 * 2 + 2) + 4 * 2.25)
    assert blocking.sending_s.tolist() == [2.5, 3.75, 1.25]


def test_a_slow_link_carries_one_send_at_a_time() -> None:
    problem = replace(equal_problem(parse_schedule("gpipe"), 2, 4, 1.0, 0.5, 0.5), send_forward_s=(3.0,))
    assert simulate(problem).makespan_s == pytest.approx(1 + 4 * 3 + 1 + 4 * 1 + 1)


def test_1f1b_pays_for_latency_although_it_overlaps() -> None:
    # The first stage keeps two microbatches, so every second one waits for a whole round trip: 4 passes and 2 sends.
    base = equal_problem(parse_schedule("1f1b"), 2, 10, 1.0, 1.0, 0.0)
    slow = replace(base, send_forward_s=(0.5,), send_backward_s=(0.5,))
    assert simulate(base).makespan_s == pytest.approx(22.0)
    assert simulate(slow).makespan_s == pytest.approx(10 / 2 * (4 + 1) + 2)  # the other of the last pair ends 2 later


def test_chunks_of_one_stage_hand_on_for_nothing() -> None:
    problem = equal_problem(parse_schedule("interleaved:3"), 1, 4, 3.0, 3.0, 3.0)
    sending = replace(problem, send_forward_s=(9.0, 9.0), send_backward_s=(9.0, 9.0), overlap=False)
    assert simulate(sending).makespan_s == simulate(problem).makespan_s == pytest.approx(36.0)


# Refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zb-h2", "--schedule: no such pipeline schedule (found zb-h2); allowed: gpipe, 1f1b, interleaved:CHUNKS"),
        ("", "no such pipeline schedule"),
        ("1f1b:2", "1f1b has one chunk per stage and takes no number (found 1f1b:2)"),
        ("gpipe:", "gpipe has one chunk per stage and takes no number"),
        ("interleaved", "an interleaved schedule needs its number of chunks per stage, 1 or more"),
        ("interleaved:0", "an interleaved schedule needs its number of chunks per stage, 1 or more"),
        ("interleaved:-1", "an interleaved schedule needs its number of chunks per stage"),
        ("interleaved:2.5", "an interleaved schedule needs its number of chunks per stage"),
        ("interleaved:²", "an interleaved schedule needs its number of chunks per stage"),
    ],
)
def test_schedules_that_are_none(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_schedule(text)
    assert message in str(caught.value)
    assert "zb-h1" in str(caught.value)


@pytest.mark.parametrize("text", ["gpipe", "1f1b", "interleaved:3", "zb-h1"])
def test_schedules_are_read_as_they_are_written(text: str) -> None:
    assert str(parse_schedule(text)) == text
    assert parse_schedule(f" {text.upper()} ") == parse_schedule(text)


def test_bad_problems_are_refused_with_every_fault() -> None:
    problem = PipelineProblem(
        num_stages=4,
        num_microbatches=6,
        schedule=parse_schedule("interleaved:2"),
        forward_s=(1.0,) * 3,
        input_gradient_s=(1.0,) * 6,
        weight_gradient_s=(1.0,) * 7 + (-1.0,),
        send_forward_s=(1.0,) * 3,
        activation_bytes=(1,) * 4,
    )
    with pytest.raises(SpecError) as caught:
        simulate(problem)
    text = str(caught.value)
    for expected in (
        "an interleaved schedule needs a multiple of its 4 stages (found 6); allowed: 4 or 8, or 1f1b",
        "forward_s: 4 stages are more than there are chunks of the model (found 3 chunks); allowed: 8 chunks",
        "input_gradient_s: not one value for each chunk of 4 stages with 2 chunks each (found 6 chunks)",
        "weight_gradient_s[7]: not a time or size (found -1.0); allowed: a finite number, 0 or more",
        "send_forward_s: not one value per boundary between chunks (found 3 values); allowed: 7 values, or none",
        "activation_bytes: not one value per chunk (found 4 values); allowed: 8 values, or none",
    ):
        assert expected in text
    assert len(caught.value.faults) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_stages": 0}, "num_stages: too few (found 0); allowed: 1 or more"),
        ({"num_microbatches": 0}, "num_microbatches: too few (found 0)"),
        ({"forward_s": (1.0, float("nan"))}, "forward_s[1]: not a time or size (found nan)"),
        ({"schedule": PipelineSchedule(kind=ScheduleKind.GPIPE, chunks_per_stage=2)}, "gpipe has one chunk per stage"),
        (
            {"schedule": PipelineSchedule(kind=ScheduleKind.INTERLEAVED, chunks_per_stage=0)},
            "chunks_per_stage: too few",
        ),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    problem = equal_problem(parse_schedule("1f1b"), 2, 3, 1.0, 1.0, 1.0)
    with pytest.raises(SpecError) as caught:
        simulate(replace(problem, **change))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_candidates_of_wrong_shape_are_refused() -> None:
    times = np.ones((3, 4))
    candidates = PipelineCandidates(
        num_stages=4,
        num_microbatches=8,
        schedule=parse_schedule("1f1b"),
        forward_s=times,
        input_gradient_s=times[:, :3],
        weight_gradient_s=-times,
        send_forward_s=np.ones((1, 4)),
    )
    with pytest.raises(SpecError) as caught:
        simulate_batch(candidates)
    text = str(caught.value)
    assert "input_gradient_s: wrong shape (found (3, 3)); allowed: (3, 4)" in text
    assert "send_forward_s: wrong shape (found (1, 4)); allowed: (3, 3) or (1, 3)" in text
    assert "weight_gradient_s[0, 0]: not a time or size (found -1.0)" in text
