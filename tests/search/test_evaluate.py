"""Figures of one design: against hand counts, in both modes, and their JSON form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.graph.builders import GraphBuilder, attention_written_out, conv_bn_relu, transformer_training

from worklode.hardware.presets import load_preset, preset_names
from worklode.hardware.technology import load_technology
from worklode.search.evaluate import Evaluator

TECHNOLOGY = load_technology()


def one_product(m: int, n: int, k: int) -> GraphBuilder:
    b = GraphBuilder()
    b.matmul(b.given(m * k), b.parameter(k * n), m, n, k)
    return b


def test_one_large_product_takes_its_macs_over_the_peak() -> None:
    # 8192^3 on two 128x128 arrays: folds are whole, 4096 rows stream through each, so only fill and drain are extra.
    size = 8192
    accelerator = load_preset("tpuv2")
    evaluation = Evaluator(one_product(size, size, size).graph(), TECHNOLOGY).evaluate(accelerator)
    ideal_s = size**3 / (2 * 128 * 128) / accelerator.clock_hz
    assert evaluation.iteration_time_s == pytest.approx(ideal_s, rel=1e-4)
    assert evaluation.utilization.macs == pytest.approx(1.0, abs=1e-4)
    assert evaluation.lower_bound_s <= evaluation.iteration_time_s
    assert dict(evaluation.bound_by)["tensor_core"] == pytest.approx(1.0, abs=1e-3)


def test_a_memory_bound_operator_takes_its_bytes_over_the_bandwidth() -> None:
    b = GraphBuilder()
    x = b.given(10**8)
    b.elementwise(x)
    graph = b.graph()
    accelerator = load_preset("tpuv4")
    evaluation = Evaluator(graph, TECHNOLOGY).evaluate(accelerator)
    assert evaluation.iteration_time_s == pytest.approx(graph.hbm_bytes() / accelerator.hbm_bytes_per_s, rel=1e-3)
    assert evaluation.utilization.hbm == pytest.approx(1.0, abs=1e-3)
    assert max(dict(evaluation.bound_by), key=dict(evaluation.bound_by).__getitem__) == "hbm"


def test_a_memory_bound_operator_of_a_gpu_takes_what_the_constants_say() -> None:
    b = GraphBuilder()
    b.elementwise(b.given(10**8))
    graph = b.graph()
    accelerator = replace(
        load_preset("a100-80gb"), clock_share=0.8, hbm_share=0.8, operator_start_s=5e-6, operator_fill_s=0
    )
    evaluation = Evaluator(graph, TECHNOLOGY).evaluate(accelerator)
    moving_s = graph.hbm_bytes() / (0.8 * accelerator.hbm_bytes_per_s)
    assert evaluation.iteration_time_s == pytest.approx(moving_s + 5e-6, rel=5e-3)
    assert evaluation.utilization.hbm == pytest.approx(0.8 * moving_s / evaluation.iteration_time_s, rel=1e-6)
    assert dict(evaluation.bound_by)["hbm"] == pytest.approx(1.0)
    assert evaluation.to_dict()["accelerator"]["efficiency"]["hbm_share"] == 0.8


@pytest.mark.parametrize("preset", preset_names())
def test_energy_and_time_have_positive_parts_that_add_up(preset: str) -> None:
    evaluation = Evaluator(transformer_training(tokens=256, width=256).graph(), TECHNOLOGY).evaluate(
        load_preset(preset)
    )
    assert evaluation.energy_j == pytest.approx(sum(energy for _, energy in evaluation.energy_parts_j))
    assert all(energy > 0 for _, energy in evaluation.energy_parts_j)
    assert sum(share for _, share in evaluation.bound_by) == pytest.approx(1.0)
    assert sum(time for _, time in evaluation.phase_time_s) == pytest.approx(evaluation.iteration_time_s)
    # Average power stays below what is provided for; the memory of an embedded engine is not part of its power.
    accelerator = evaluation.accelerator
    outside = dict(evaluation.energy_parts_j)["hbm"] if accelerator.family == "embedded" else 0.0
    provided_w = evaluation.silicon.tdp_w / accelerator.provisioned_activity
    assert (evaluation.energy_j - outside) / evaluation.iteration_time_s <= provided_w


def test_one_core_mode_is_never_faster_than_split() -> None:
    graph = transformer_training(tokens=1024, width=256).graph()
    accelerator = replace(load_preset("tpuv2"), num_tensor_cores=8, num_vector_cores=8)
    split = Evaluator(graph, TECHNOLOGY, mode="split").evaluate(accelerator)
    one = Evaluator(graph, TECHNOLOGY, mode="one-core").evaluate(accelerator)
    assert split.iteration_time_s <= one.iteration_time_s
    assert one.mode == "one-core"


def test_more_bandwidth_never_slows_a_chain() -> None:
    graph = attention_written_out(heads=8, length=256, head_width=64).graph()
    times = []
    for stacks in (1, 2, 4, 8):
        accelerator = replace(load_preset("tpuv2"), hbm_stacks=stacks)
        times.append(Evaluator(graph, TECHNOLOGY).evaluate(accelerator).lower_bound_s)
    assert times == sorted(times, reverse=True)


def test_document_has_the_keys_of_the_contract() -> None:
    evaluation = Evaluator(conv_bn_relu().graph(), TECHNOLOGY).evaluate(load_preset("tpuv2"))
    document = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    for key in [
        "workload",
        "accelerator",
        "iteration_time_s",
        "samples_per_s",
        "samples_per_s_per_w",
        "energy_j",
        "lower_bound_s",
        "critical_path_s",
        "utilization",
        "memory_bytes",
        "coverage",
    ]:
        assert key in document
    for key in [
        "num_tensor_cores",
        "tensor_core_rows",
        "tensor_core_cols",
        "num_vector_cores",
        "vector_lanes",
        "sram_bytes",
        "hbm_bytes",
        "hbm_bytes_per_s",
        "clock_hz",
        "node_nm",
        "area_mm2",
        "tdp_w",
    ]:
        assert key in document["accelerator"]
    assert set(document["utilization"]) >= {"tensor_core", "vector_core", "hbm"}
    assert set(document["coverage"]) >= {"flops_exact", "bytes_exact", "fallback_operators"}
    for key in [
        "name",
        "parameters",
        "trainable_parameters",
        "flops",
        "flops_forward",
        "matrix_flops",
        "matrix_flops_forward",
        "operators",
        "saved_bytes",
        "samples",
        "tokens",
    ]:
        assert key in document["workload"]


def test_too_little_memory_is_a_warning() -> None:
    accelerator = replace(load_preset("tpuv2"), hbm_stack_bytes=1024)
    evaluation = Evaluator(conv_bn_relu().graph(), TECHNOLOGY).evaluate(accelerator)
    assert not evaluation.memory_fits
    assert any("HBM" in warning for warning in evaluation.warnings)


def test_power_above_the_tdp_is_a_warning() -> None:
    evaluation = Evaluator(one_product(4096, 4096, 4096).graph(), TECHNOLOGY).evaluate(load_preset("tpuv2"))
    assert evaluation.average_power_w == pytest.approx(evaluation.energy_j / evaluation.iteration_time_s)
    assert not any("average" in warning for warning in evaluation.warnings)
    drawn_w = evaluation.average_power_w
    parts = tuple(
        (name, watts * 0.5 * drawn_w / evaluation.silicon.tdp_w) for name, watts in evaluation.silicon.tdp_parts_w
    )
    weaker = replace(evaluation, silicon=replace(evaluation.silicon, tdp_parts_w=parts))
    assert any("average" in warning for warning in weaker.warnings)


def test_a_narrow_product_runs_on_lanes_and_counts_as_lane_operations() -> None:
    rows, taps = 2**24, 9
    accelerator = replace(load_preset("tpuv2"), hbm_stack_bytes_per_s=1e15)
    evaluation = Evaluator(one_product(rows, 1, taps).graph(), TECHNOLOGY).evaluate(accelerator)
    # Multiply and add on two cores of 2048 lanes, and a tree over 4096 lanes.
    cycles = 2 * rows * taps / 4096 + 4 * 12
    assert evaluation.iteration_time_s == pytest.approx(cycles / accelerator.clock_hz, rel=1e-6)
    assert dict(evaluation.bound_by)["vector_core"] == pytest.approx(1.0)
    assert evaluation.utilization.macs == 0
    assert evaluation.utilization.tensor_core == 0
    energy = dict(evaluation.energy_parts_j)
    assert energy["macs"] == energy["operand_delivery"] == 0
    assert energy["vector_lanes"] > 0
