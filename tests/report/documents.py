"""Documents in the form of the JSON contract with made-up figures: what tables are tested on."""

from __future__ import annotations

from typing import Any

WORKLOAD: dict[str, Any] = {
    "name": "bert-large",
    "parameters": 336_226_108,
    "trainable_parameters": 336_226_108,
    "flops": 5_100_000_000_000,
    "flops_forward": 1_700_000_000_000,
    "matrix_flops": 5_000_000_000_000,
    "matrix_flops_forward": 1_660_000_000_000,
    "operators": 4213,
    "saved_bytes": 6_200_000_000,
    "samples": 8,
    "tokens": 4096,
    "options": {"batch": "8", "dtype": "bf16"},
    "notes": [],
}

COVERAGE: dict[str, Any] = {
    "flops_exact": 0.99987,
    "bytes_exact": 0.983,
    "fallback_operators": [{"name": "aten.roll", "count": 3}],
}


def evaluation(*, name: str = "", cores: int = 4, rows: int = 128, time_s: float = 0.0831) -> dict[str, Any]:
    """Document of `evaluate`."""
    return {
        "workload": WORKLOAD,
        "accelerator": {
            "name": name,
            "num_tensor_cores": cores,
            "tensor_core_rows": rows,
            "tensor_core_cols": rows,
            "num_vector_cores": 16,
            "vector_lanes": 256,
            "sram_bytes": 48 * 2**20,
            "hbm_stacks": 2,
            "hbm_bytes": 16 * 2**30,
            "hbm_bytes_per_s": 700e9,
            "clock_hz": 700e6,
            "node_nm": 16,
            "area_mm2": 588.4,
            "tdp_w": 271.3,
            "area_parts_mm2": {"macs": 120.1, "sram": 98.2, "vector_lanes": 60.0, "hbm_phy": 70.0, "fixed": 240.1},
            "tdp_parts_w": {"macs": 110.1, "sram": 30.0, "vector_lanes": 41.2, "hbm_phy": 50.0, "leakage": 40.0},
        },
        "mode": "split",
        "iteration_time_s": time_s,
        "samples_per_s": 8 / time_s,
        "samples_per_s_per_w": 8 / time_s / 271.3,
        "energy_j": 14.2,
        "energy_parts_j": {"macs": 9.0, "hbm": 5.2},
        "lower_bound_s": time_s * 0.97,
        "critical_path_s": time_s * 0.9,
        "utilization": {"tensor_core": 0.83, "vector_core": 0.31, "hbm": 0.44, "macs": 0.71},
        "bound_by": {"tensor_core": 0.71, "hbm": 0.19, "vector_core": 0.096, "waiting": 0.004},
        "phase_time_s": {"forward": time_s * 0.3, "backward": time_s * 0.6, "optimizer": time_s * 0.1},
        "memory_bytes": {"parameters": 2**30, "activations": 6 * 2**30, "total": 7 * 2**30, "fits": True},
        "coverage": COVERAGE,
        "fused_operators": 1803,
        "warnings": ["costed by bytes and FLOPs alone: aten.roll"],
    }


def mining(*, gap: float = 0.0031) -> dict[str, Any]:
    """Document of `mine`."""
    best = evaluation(time_s=0.0512)
    return {
        "objective": "throughput",
        "constraints": {"area_mm2": 611.0, "tdp_w": 280.0},
        "best": best,
        "top_k": [best, evaluation(cores=8, rows=64, time_s=0.0533)],
        "budget_baseline": evaluation(name="tpuv2", cores=2),
        "improvement": 0.0831 / 0.0512,
        "bound": 0.0510,
        "optimality_gap": gap,
        "infeasible": [],
        "search": {
            "space_size": 1_204_224,
            "estimated": 31_220,
            "evaluated": 812,
            "within_limits": 640_000,
            "pruned": 639_000,
            "undecided": 188,
            "wall_time_s": 1.42,
            "out_of_time": False,
        },
        "warnings": [],
    }
