"""Parallel settings: closed forms, one device, counts that add up, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import api
from worklode.errors import SpecError
from worklode.graph.fusion import FusionOptions
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.network import Network
from worklode.hardware.network_file import load_network
from worklode.hardware.presets import load_preset
from worklode.hardware.technology import load_technology
from worklode.partition.stage_memory import StateRule
from worklode.search.evaluate import Evaluator
from worklode.search.parallel import ParallelSetting, with_nodes_of
from worklode.search.streams import in_streams_s
from worklode.search.training_step import ParallelEvaluation, divided_model, evaluate_divided, evaluate_parallel

LAYERS = 8
GPT = f"gpt:layers={LAYERS},hidden=512,heads=8,vocab=1024,context=256"


@cache
def captured(batch: int = 1) -> TrainingGraph:
    return api.capture(GPT, batch=batch, seq_len=256)


def network() -> Network:
    return load_network("dgx-a100")


def evaluated(batch: int = 1, **options: Any) -> ParallelEvaluation:
    setting = api.parallel_setting(microbatch=batch, **options)
    return evaluate_parallel(
        captured(batch), load_preset("a100-80gb"), setting, load_technology(None), network=network()
    )


def test_one_device_takes_what_a_single_evaluation_says_but_for_the_boundaries_of_blocks() -> None:
    alone = Evaluator(captured(), load_technology(None)).step(load_preset("a100-80gb")).schedule.makespan_s
    found = evaluated(global_batch=1)
    # Segments wait for one another and are fused apart, which costs time; schedules are made by lists, within 5 %.
    assert 0.95 * alone <= found.iteration_time_s <= 1.45 * alone
    assert dict(found.parts_s)["pipeline_bubble"] == 0.0
    assert dict(found.parts_s)["data_parallel"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"pipeline": 4, "global_batch": 8},
        {"pipeline": 2, "global_batch": 8, "schedule": "interleaved:2"},
        {"pipeline": 4, "global_batch": 8, "schedule": "zb-h1"},
        {"pipeline": 2, "tensor": 2, "data": 2, "global_batch": 8, "recompute": "full"},
        {"tensor": 4, "data": 2, "global_batch": 4, "sequence_parallel": True, "zero": 1},
        {"pipeline": 2, "data": 4, "global_batch": 16, "zero": 3},
        {"data": 4, "global_batch": 16, "zero": 2, "overlap_data": False},
    ],
)
def test_parts_add_up_and_devices_do_all_the_work(options: dict[str, Any]) -> None:
    found = evaluated(**options)
    assert sum(time_s for _, time_s in found.parts_s) == pytest.approx(found.iteration_time_s)
    whole = captured().matrix_flops() * found.setting.global_batch
    if found.setting.recompute == "none":
        assert found.matrix_flops == whole  # 1024 rows of vocabulary need no padding
    else:
        assert whole < found.matrix_flops < 4 / 3 * whole
    assert 0 < found.flops_utilization < 1
    stages = [sum(stop - first for first, stop in stage.segments) for stage in found.stages]
    assert sum(stages) == LAYERS + 2
    for stage in found.stages:
        assert stage.memory is not None and stage.shortage is None
        total = stage.busy_s + stage.sending_s + stage.bubble_s
        assert total == pytest.approx(found.timeline.makespan_s)


def test_equal_stages_take_the_closed_form() -> None:
    """(m + p - 1)(t_F + t_B) for 1F1B and GPipe without sends; m microbatches on one device take m times as long."""
    setting = api.parallel_setting(pipeline=4, global_batch=12, overlap_sends=True)
    model = divided_model(captured(), setting, load_technology(None))
    layer = model.units[1]
    quiet = replace(
        network(), start_s=0.0, bulk_start_s=0.0, levels=tuple(_instant(level) for level in network().levels)
    )
    for schedule in ("1f1b", "gpipe"):
        changed = api.parallel_setting(pipeline=4, global_batch=12, overlap_sends=True, schedule=schedule)
        found = evaluate_divided(model, load_preset("a100-80gb"), changed, quiet, places=[layer] * 8)
        adding = replace(api.parallel_setting(global_batch=1), add_first=True)
        one = evaluate_divided(model, load_preset("a100-80gb"), adding, None, places=[layer] * 2)
        expected = (12 + 4 - 1) * one.timeline.makespan_s
        assert found.timeline.makespan_s == pytest.approx(expected, rel=1e-3)
        assert found.timeline.bubble_fraction == pytest.approx(3 / 15, rel=2e-3)


def _instant(level: Any) -> Any:
    return replace(
        level,
        latency_s=0.0,
        bulk_latency_s=0.0,
        bandwidth_bytes_per_s=1e15,
        burst_bytes_per_s=1e15,
        sustained_share=1.0,
    )


def test_time_never_falls_with_a_slower_network() -> None:
    setting = api.parallel_setting(pipeline=2, tensor=2, data=2, global_batch=8)
    times = []
    for factor in (1.0, 0.5, 0.1):
        levels = tuple(
            replace(
                level,
                bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * factor,
                burst_bytes_per_s=level.burst_bytes_per_s * factor,
            )
            for level in network().levels
        )
        slower = replace(network(), levels=levels)
        chip = load_preset("a100-80gb")
        times.append(
            evaluate_parallel(captured(), chip, setting, load_technology(None), network=slower).iteration_time_s
        )
    assert times == sorted(times)
    assert times[0] < times[2]


def test_kernels_in_line_take_the_sum_of_their_times() -> None:
    chip = load_preset("a100-80gb")
    evaluator = Evaluator(captured(), load_technology(None))
    step = evaluator.step(chip)
    problem, total = step.problem, 0.0
    for item in problem.item_of:  # the slow way: each operator's fastest option, added up
        options = range(problem.option_start[item], problem.option_start[item + 1])
        total += min(max(problem.compute_s[o], problem.hbm_bytes[o] / problem.hbm_bytes_per_s) for o in options)
    for blocking in (False, True):
        assert np.allclose(in_streams_s(evaluator, step, blocking=blocking), total)


def test_gradients_are_added_in_kernels_of_their_own_or_in_products() -> None:
    chip, technology, model_bytes = load_preset("a100-80gb"), load_technology(None), 0
    took = {}
    for epilogues in (False, True):
        fusion = FusionOptions(attention=False, epilogues=epilogues, prologues=False)
        for add_first in (False, True):
            setting = replace(api.parallel_setting(), execution="one-stream", add_first=add_first)
            found = evaluate_parallel(captured(), chip, setting, technology, fusion=fusion)
            took[epilogues, add_first] = found.timeline.makespan_s
        model = divided_model(captured(), api.parallel_setting(), technology, fusion=fusion)
        places = range(len(model.divided.segments))
        model_bytes = model.memory.model_state(places, StateRule.CAPTURED).gradients
    names = {name for segment in model.divided.segments for name in segment.parameters}
    alone_s = took[False, True] - took[False, False]
    least_s = 3 * model_bytes / chip.sustained_hbm_bytes_per_s  # read the gradient, read and write the sum
    start_s = chip.operator_start_s + chip.operator_fill_s
    # A tied table makes two gradients, each read and written once more.
    assert least_s < alone_s < 1.5 * least_s + 2 * start_s * len(names)
    assert 0 < took[True, True] - took[True, False] < 0.7 * alone_s


@pytest.mark.parametrize(
    ("zero", "state", "expected"), [(0, "captured", ""), (1, "mixed-18", "float32"), (2, "captured", None)]
)
def test_what_gradients_are_added_in(zero: int, state: str, expected: str | None) -> None:
    setting = ParallelSetting(global_batch=2, zero=zero, state=StateRule(state))
    assert setting.sums == expected
    alone = ParallelSetting(zero=zero, state=StateRule(state))
    assert alone.sums is None
    assert replace(alone, add_first=True).sums == expected


def test_gradients_beside_computation_take_no_longer() -> None:
    for zero in (0, 1, 2, 3):
        beside = evaluated(data=8, global_batch=16, zero=zero)
        after = evaluated(data=8, global_batch=16, zero=zero, overlap_data=False)
        assert beside.iteration_time_s <= after.iteration_time_s * 1.02  # one piece starts fewer exchanges


def test_too_little_memory_is_a_value_with_a_remedy() -> None:
    chip = replace(load_preset("a100-80gb"), hbm_stack_bytes=2**24)
    setting = api.parallel_setting(pipeline=2, global_batch=4)
    found = evaluate_parallel(captured(), chip, setting, load_technology(None), network=network())
    assert not found.fits
    assert all(stage.shortage is not None and stage.shortage.remedy for stage in found.stages)


def test_faults_name_option_value_and_what_is_allowed() -> None:
    with pytest.raises(SpecError) as caught:
        api.parallel_setting(pipeline=0, data=3, global_batch=7, zero=5, recompute="some", sequence_parallel=True)
    assert {fault.where for fault in caught.value.faults} == {
        "--pipeline",
        "--zero",
        "--recompute",
        "--sequence-parallel",
    }
    with pytest.raises(SpecError, match="data 3 x microbatch 1 = 3 samples") as caught:
        api.parallel_setting(data=3, global_batch=7)
    assert caught.value.faults[0].allowed == "6 or 9"
    with pytest.raises(SpecError, match="multiple of its 4 stages"):
        api.parallel_setting(pipeline=4, global_batch=6, schedule="interleaved:2")
    with pytest.raises(SpecError, match="at most 10"):
        evaluated(pipeline=11, global_batch=11)
    with pytest.raises(SpecError, match="does not divide 8 blocks"):
        evaluated(pipeline=3, global_batch=3, cut="even")
    with pytest.raises(SpecError):
        evaluated(tensor=3, global_batch=1)
    with pytest.raises(SpecError, match="no network"):
        setting = ParallelSetting(tensor=2)
        evaluate_parallel(captured(), load_preset("a100-80gb"), setting, load_technology(None))
    with pytest.raises(SpecError, match="captured with 1 samples"):
        setting = api.parallel_setting(microbatch=2, global_batch=2)
        evaluate_parallel(captured(), load_preset("a100-80gb"), setting, load_technology(None))


def test_nodes_of_changes_the_innermost_level() -> None:
    assert with_nodes_of(network(), 4).levels[0].devices == 4
    with pytest.raises(SpecError):
        with_nodes_of(network(), 0)
    with pytest.raises(SpecError):
        with_nodes_of(load_network("tpuv4"), 8)
