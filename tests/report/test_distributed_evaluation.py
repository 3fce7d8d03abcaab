"""Sentences and tables of the evaluation on many devices, of a small document."""

from __future__ import annotations

from typing import Any

from worklode.report.distributed_evaluation import (
    charts,
    design_row,
    distributed_evaluation_report,
    distributed_lines,
    matrix,
)
from worklode.report.distributed_why import reasons

MODEL = "net"


def design(name: str, objective: str = "throughput", **changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": MODEL,
        "objective": objective,
        "design": name,
        "source": "preset",
        "iteration_time_s": 10.0,
        "samples_per_s": 1.0,
        "samples_per_s_per_w": 0.01,
        "mean_area_mm2": 600.0,
        "mean_tdp_w": 280.0,
        "within_limits": True,
        "fits": True,
        "over_budget_throughput": 1.0,
        "over_budget_throughput_per_tdp": 1.0,
        "gap": None,
        "regret": None,
        "search_cpu_s": None,
        "search_finished": True,
        "matrix_flops_utilization": 0.6,
        "peak_matrix_flops_per_s": 1e13,
        "compute_share": 0.7,
        "tensor_communication_share": 0.02,
        "point_to_point_share": 0.01,
        "pipeline_bubble_share": 0.25,
        "optimizer_share": 0.01,
        "data_parallel_share": 0.01,
        "slowest_stage": 3,
        "slowest_over_median": 1.3,
        "accelerators": "2x128x128 2x2048 32M 4H",
    }
    return {**row, **changed}


def stage(name: str, stages: str, **changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": MODEL,
        "objective": "throughput",
        "design": name,
        "stages": stages,
        "busy_s": 5.0,
        "memory_bytes": 4 << 30,
        "hbm_bytes": 16 << 30,
        "area_mm2": 600.0,
        "tdp_w": 280.0,
        "tensor_cores_tdp_w": 60.0,
        "vector_cores_tdp_w": 14.0,
        "sram_tdp_w": 50.0,
        "hbm_tdp_w": 28.0,
        "num_tensor_cores": 2,
        "tensor_core_rows": 128,
        "tensor_core_cols": 128,
        "num_vector_cores": 2,
        "vector_lanes": 2048,
        "sram_bytes": 32 << 20,
        "hbm_stacks": 4,
    }
    return {**row, **changed}


def evaluation(*designs: dict[str, Any], stages: tuple[dict[str, Any], ...] = (), **changed: Any) -> dict[str, Any]:
    search = {
        "models": [MODEL],
        "objective": "throughput",
        "gap": 0.01,
        "regret": 0.02,
        "mix_gap": 0.03,
        "hbm_bytes": float(9 << 30),
        "kept_per_stage": 10,
        "space_size": 100,
        "evaluated": 10,
        "cpu_s": 2.0,
        "wall_time_s": 1.0,
    }
    setting = {
        "model": MODEL,
        "devices": 4,
        "pipeline": 4,
        "tensor": 1,
        "sequence_parallel": False,
        "global_batch": 29,
        "microbatch": 1,
        "microbatches": 29,
        "network": None,
    }
    headline = {"name": "h", "unit": "x", "paper": 1.12, "ours": 2.0, "least": 2.0, "most": 2.0, "models": 1}
    return {
        "settings": [setting],
        "headlines": [headline],
        "searches": [search],
        "designs": list(designs),
        "stages": list(stages),
        "absent": [],
        **changed,
    }


def mined(**mix: Any) -> dict[str, Any]:
    """A budget, a design twice as fast of which the last stage is the slowest, and a mix."""
    fast: dict[str, Any] = {
        "iteration_time_s": 5.0,
        "samples_per_s": 2.0,
        "over_budget_throughput": 2.0,
        "peak_matrix_flops_per_s": 4e13,
        "matrix_flops_utilization": 0.3,
        "gap": 0.01,
        "regret": 0.0,
    }
    return evaluation(
        design("tpuv2"),
        design("individual", **fast, mean_area_mm2=300.0),
        design("heterogeneous", **{**fast, **mix}),
        design("heterogeneous, least TDP", **{**fast, "mean_tdp_w": 210.0, "iteration_time_s": 5.5}),
        design("individual of one device", samples_per_s=1.5, fits=False),
        stages=(
            stage("tpuv2", "0-3"),
            stage("individual", "0-2", memory_bytes=9 << 30),
            stage("individual", "3", busy_s=6.0, tensor_cores_tdp_w=120.0),
            stage("heterogeneous", "0-2"),
            stage("heterogeneous", "3", busy_s=4.0, hbm_stacks=1, hbm_bytes=4 << 30, memory_bytes=3 << 30),
        ),
    )


def test_reasons_are_computed_from_the_rows() -> None:
    text = "\n".join(reasons(mined()))
    assert "4.00x the matrix peak" in text and "0.500x the utilisation" in text
    assert "TDP is what limits it" in text and "50.0 % of its area" in text
    assert "SRAM 50.0 for 50.0" in text
    # (4 - 1) / (29 + 4 - 1)
    assert "Stages wait for 25.0 %" in text and "would be 9.4 %" in text
    assert "stage 3 (it has the head over the vocabulary), which works 1.30x" in text
    assert "takes 3.0 % of the iteration" in text
    assert "1.00x the throughput of one for all. Stage 3 is the slowest and sets the pace" in text
    assert "a device has 210 W in the mean instead of 280 W, at 1.10x the iteration time" in text
    assert "0.750x (net)" in text and "1 of 1 designs of one device do not hold every stage (individual on net)" in text
    assert "The HBM of tpuv2 holds every stage" in text
    assert "at most 2.0 % behind" in text and "mixes at most 3.0 %" in text


def test_a_mix_that_gains_says_by_what() -> None:
    by_memory = "\n".join(reasons(mined(iteration_time_s=4.0)))
    assert (
        "1.25x the throughput of one for all. One for all has 4 stacks of HBM, for stage 0-2 needs 9 GiB" in by_memory
    )
    assert "stage 3, the slowest, needs 3 GiB, has 1, and works 4 s instead of 6 s" in by_memory
    found = mined(iteration_time_s=4.0)
    found["stages"][-1]["hbm_stacks"] = 4
    assert "works 4 s on its own design, 6 s on that for all" in "\n".join(reasons(found))


def test_what_does_not_hold_is_not_said() -> None:
    found = mined()
    for row in found["designs"]:
        row.update(slowest_over_median=1.0, mean_tdp_w=200.0)
    found["designs"][0].update(fits=False, mean_tdp_w=280.0)
    text = "\n".join(reasons(found))
    assert "the rest is waiting" not in text
    assert "is what limits it" not in text
    assert "in the mean instead of" not in text
    assert "does not hold every stage of net" in text


def test_without_designs_there_are_no_reasons_of_designs() -> None:
    """Where no design keeps the limits the budget's own is all there is."""
    found = evaluation(design("tpuv2"), searches=[])
    assert list(reasons(found)) == [
        "The HBM of tpuv2 holds every stage of every model, so every mined design has to, too."
    ]
    assert "## Many devices" in "\n".join(distributed_lines(found))


def test_the_section_has_every_row_and_is_empty_without_models() -> None:
    found = mined()
    found["absent"] = [{"model": MODEL, "searcher": "spotlight-like"}]
    lines = list(distributed_lines(found))
    for row in found["designs"]:
        assert "| " + " | ".join(design_row(row).values()) + " |" in lines
    assert "individual of one device (a stage does not fit)" in "\n".join(lines)
    assert any("1 designs: spotlight-like (net)" in line for line in lines)
    assert list(distributed_evaluation_report(found))
    assert [title for title, rows, _ in charts(found) if rows] == [
        "Throughput over the budget's own design, many devices"
    ]
    assert matrix(found, "throughput")[0]["individual"] == "2.00x"
    assert (
        not list(distributed_lines(None)) and not list(distributed_evaluation_report(None)) and not list(charts(None))
    )
