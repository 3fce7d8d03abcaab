"""Data parallelism: volumes against closed forms, buckets against backward's order, overlap against simulations."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.frontend import CaptureOptions, capture
from worklode.graph.operator import Phase
from worklode.graph.validate import graph_faults
from worklode.graph.work import Collective
from worklode.partition.data_parallel import (
    DataParallelPlan,
    GradientBucket,
    data_parallel_plan,
    divided_update,
    overlapped_gathers,
    overlapped_reductions,
    ring_sent_bytes,
    tied_reductions,
)
from worklode.partition.segments import BACKWARD, Pass, pass_graph, segments
from worklode.partition.stage_memory import MemoryModel, StateOptions, StateRule

GPT = "gpt:layers=4,hidden=64,heads=4,vocab=128,context=32"
SECONDS = st.integers(0, 20).map(float)


@cache
def model(text: str) -> MemoryModel:
    return MemoryModel(segments(capture(text, CaptureOptions(batch=2))))


def whole(text: str) -> range:
    return range(len(model(text).divided.segments))


# ------------------------------------------------------------------------------------------------------- volumes


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 512), st.integers(1, 64), st.sampled_from([StateRule.MIXED_16, StateRule.MIXED_18]))
def test_volumes_are_the_closed_forms(width: int, microbatches: int, rule: StateRule) -> None:
    """Rings send, a device and iteration, 2 (d - 1) / d of the gradients under ZeRO-0, half of it gradients and half
    weights under 1 and 2, 1.5 times as much under 3 (arXiv 1910.02054, section 7; 16-bit weights and gradients). What
    cannot be put off until all microbatches are summed goes m times.
    """
    parameters = model(GPT).divided.graph.info.parameters
    gradients = {StateRule.MIXED_16: 2, StateRule.MIXED_18: 4}[rule] * parameters
    weights = 2 * parameters
    once = (width - 1) / width
    expected = [
        2 * once * gradients,
        once * (gradients + weights),
        once * (microbatches * gradients + weights),
        once * microbatches * (gradients + 2 * weights),
    ]
    for zero in range(4):
        options = StateOptions(rule=rule, zero=zero, data_parallel=width)
        plan = data_parallel_plan(model(GPT), whole(GPT), options, microbatches=microbatches)
        # ZeRO-3 gathers segment by segment: the tied table once for each end
        table = 128 * 64 * 2
        extra = once * microbatches * 2 * table if zero == 3 else 0.0
        assert plan.sent_bytes() == pytest.approx(expected[zero] + extra)


def test_a_group_of_one_exchanges_nothing() -> None:
    plan = data_parallel_plan(model(GPT), whole(GPT), StateOptions(zero=3))
    assert plan.exchanges == ()
    assert plan.sent_bytes() == 0
    assert overlapped_reductions(plan, [1.0] * len(plan.buckets), 1.0, lambda *_: 5.0).exposed_s == 0


@pytest.mark.parametrize(("collective", "passes"), [(Collective.ALL_REDUCE, 2), (Collective.ALL_GATHER, 1)])
def test_ring_volume(collective: Collective, passes: int) -> None:
    assert ring_sent_bytes(collective, 800, 4) == passes * 600
    assert ring_sent_bytes(collective, 800, 1) == 0


# ------------------------------------------------------------------------------------------------------- buckets


@pytest.mark.parametrize("text", [GPT, "t5-base", "resnet18"])
@pytest.mark.parametrize("bucket_bytes", [1, 20_000, 25 * 2**20, 10**12])
def test_buckets_hold_every_gradient_once_in_backwards_order(text: str, bucket_bytes: int) -> None:
    found = model(text)
    options = StateOptions(data_parallel=2)
    plan = data_parallel_plan(found, whole(text), options, bucket_bytes=bucket_bytes)
    names = [name for bucket in plan.buckets for name in bucket.parameters]
    assert len(names) == len(set(names))
    assert (
        sum(bucket.gradient_bytes for bucket in plan.buckets) == found.model_state(whole(text), options.rule).gradients
    )
    operators = [bucket.operator for bucket in plan.buckets]
    assert operators == sorted(operators)
    for bucket in plan.buckets:
        assert bucket.operator in found.divided.segments[bucket.segment].operators(*BACKWARD)
    assert all(bucket.gradient_bytes >= bucket_bytes for bucket in plan.buckets[:-1])
    if bucket_bytes == 1:
        assert all(len(bucket.parameters) == 1 for bucket in plan.buckets)
    if bucket_bytes == 10**12:
        assert len(plan.buckets) == 1


def test_the_tied_table_is_reduced_with_each_end() -> None:
    found = model(GPT)
    last = len(found.divided.segments) - 1
    name = "token_embedding.weight"
    options = StateOptions(data_parallel=2)
    for place in (0, last):
        plan = data_parallel_plan(found, [place], options, bucket_bytes=1)
        (bucket,) = (bucket for bucket in plan.buckets if name in bucket.parameters)
        assert bucket.segment == place
        assert bucket.gradient_bytes == 128 * 64 * 2
    stages = [range(3), range(3, last + 1)]
    (tied,) = tied_reductions(found, stages, StateOptions(rule=StateRule.MIXED_18))
    assert (tied.parameter, tied.stages, tied.bytes) == (name, (0, 1), 128 * 64 * 4)
    assert tied_reductions(found, [whole(GPT)], options) == ()
    assert [each.stages for each in tied_reductions(model("t5-base"), [[0], range(1, 13), range(13, 27)], options)] == [
        (0, 2)
    ]


# ------------------------------------------------------------------------------------------------------- overlap


def buckets_of(count: int) -> DataParallelPlan:
    made = tuple(GradientBucket(parameters=(), gradient_bytes=i, segment=0, operator=i) for i in range(count))
    options = StateOptions(data_parallel=2)
    return DataParallelPlan(options=options, buckets=made, segments=(0,), segment_weight_bytes=(0,), exchanges=())


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=6), SECONDS)
def test_reductions_are_a_queue_stepped_second_by_second(gaps: list[tuple[float, float]], rest: float) -> None:
    ready, now = [], 0.0
    for gap, _ in gaps:
        now += gap
        ready.append(now)
    lengths = [length for _, length in gaps]
    compute_end = now + rest
    plan = buckets_of(len(gaps))
    found = overlapped_reductions(plan, ready, compute_end, lambda _, size: lengths[size])
    # one second at a time: the channel takes the first bucket that is ready and not done
    left, clock, last = list(lengths), 0, 0.0
    while any(left):
        current = next((i for i, length in enumerate(left) if length), None)
        assert current is not None
        if ready[current] <= clock:
            left[current] -= 1
            last = clock + 1.0
        clock += 1
    assert found.exposed_s == max(0.0, last - compute_end)
    assert found.finished_s == compute_end + found.exposed_s
    assert all(start >= at for start, at in zip(found.start_s, ready, strict=True))


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=7), st.integers(0, 3))
def test_gathers_against_a_simulation(segments_: list[tuple[float, float]], ahead: int) -> None:
    compute, gather = [c for c, _ in segments_], [g for _, g in segments_]
    found = overlapped_gathers(compute, gather, ahead=ahead)
    # second by second: one channel, one device, weights of at most 1 + ahead segments under way or unused
    gathered, gather_left, running, compute_left, clock = 0, list(gather), 0, list(compute), 0
    while running < len(compute):
        progressed = True
        while progressed:  # all that takes no time at this moment
            progressed = False
            if gathered < len(gather) and gathered - running <= ahead and gather_left[gathered] == 0:
                gathered, progressed = gathered + 1, True
            if running < gathered and compute_left[running] == 0:
                running, progressed = running + 1, True
        if running == len(compute):
            break
        if gathered < len(gather) and gathered - running <= ahead:
            gather_left[gathered] -= 1
        if running < gathered:
            compute_left[running] -= 1
        clock += 1
    assert found.finished_s == clock
    assert found.exposed_s == clock - sum(compute)
    assert found.finished_s >= max(sum(compute), sum(gather))
    assert overlapped_gathers(compute, gather, ahead=ahead + 1).finished_s <= found.finished_s


# -------------------------------------------------------------------------------------------------------- update


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_update_is_divided_from_zero_1_on(width: int) -> None:
    found = model(GPT)
    update = pass_graph(found.divided, whole(GPT), Pass.OPTIMIZER)
    assert divided_update(update, StateOptions(data_parallel=width)) is update
    part = divided_update(update, StateOptions(zero=1, data_parallel=width))
    assert graph_faults(part) == []
    count = len(update.operators)
    assert update.flops() <= width * part.flops() <= update.flops() + 2 * width * count
    assert update.hbm_bytes() <= width * part.hbm_bytes() <= update.hbm_bytes() + 10 * width * count
    graph = found.divided.graph
    step = divided_update(graph, StateOptions(zero=3, data_parallel=width))
    for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.LOSS):
        assert step.flops(phase) == graph.flops(phase)


def test_every_fault_is_reported() -> None:
    with pytest.raises(SpecError) as caught:
        data_parallel_plan(model(GPT), [0], StateOptions(), microbatches=0, bucket_bytes=0)
    assert [fault.path for fault in caught.value.faults] == ["microbatches", "bucket_bytes"]
    with pytest.raises(SpecError, match="no such level"):
        data_parallel_plan(model(GPT), [0], StateOptions(zero=5))
