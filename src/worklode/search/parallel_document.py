"""The JSON form of an evaluation in a parallel setting (docs/json.md, `evaluate_parallel`)."""

from __future__ import annotations

from typing import Any

from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.technology import Technology
from worklode.search.evaluate import silicon
from worklode.search.evaluation import accelerator_dict, coverage, workload_summary
from worklode.search.parallel_evaluation import ParallelEvaluation


def parallel_document(found: ParallelEvaluation, graph: TrainingGraph, technology: Technology) -> dict[str, Any]:
    """The document of an evaluation of a captured microbatch."""
    built = silicon(found.accelerator, technology)
    time_s = found.iteration_time_s
    timeline = found.timeline
    return {
        "workload": workload_summary(graph).to_dict(),
        "accelerator": accelerator_dict(found.accelerator, built),
        "iteration_time_s": time_s,
        "samples_per_s": found.samples_per_s,
        "samples_per_s_per_w": found.samples_per_s / total_tdp_w(found, technology),
        "energy_j": found.energy_j,
        "average_power_w": found.energy_j / time_s,
        "coverage": coverage(graph).to_dict(),
        "fits": found.fits,
        "parallel": {
            **found.setting.to_dict(),
            "network": None if found.network is None else found.network.name,
            "flops_utilization": found.flops_utilization,
            "matrix_flops": found.matrix_flops,
            "time_parts_s": dict(found.parts_s),
            "communication_bytes": dict(found.communication_bytes),
        },
        "pipeline": {
            "makespan_s": timeline.makespan_s,
            "bubble_fraction": timeline.bubble_fraction,
            "chunks_per_stage": found.setting.schedule.chunks_per_stage,
        },
        "accelerators": accelerators_of(found, technology),
        "stages": [_stage(found, place) for place in range(len(found.stages))],
        "warnings": list(_warnings(found)),
    }


def total_tdp_w(found: ParallelEvaluation, technology: Technology) -> float:
    """TDP of all devices [W]."""
    replicas = found.setting.tensor * found.setting.data
    return replicas * sum(silicon(design, technology).tdp_w for design in found.accelerators)


def accelerators_of(found: ParallelEvaluation, technology: Technology) -> list[dict[str, Any]]:
    """Every distinct design and the stages that have it, in the order of the first of each."""
    stages: dict[Accelerator, list[int]] = {}
    for stage, design in enumerate(found.accelerators):
        stages.setdefault(design, []).append(stage)
    return [
        {"stages": places, "accelerator": accelerator_dict(design, silicon(design, technology))}
        for design, places in stages.items()
    ]


def _stage(found: ParallelEvaluation, place: int) -> dict[str, Any]:
    stage = found.stages[place]
    memory, shortage = stage.memory, stage.shortage
    assert memory is not None, "a captured model knows its memory"
    return {
        "segments": [{"first": first, "stop": stop} for first, stop in stage.segments],
        "parameters": stage.parameters,
        "busy_s": stage.busy_s,
        "tensor_communication_s": stage.tensor_communication_s,
        "sending_s": stage.sending_s,
        "bubble_s": stage.bubble_s,
        "data_parallel_s": stage.data_parallel_s,
        "update_s": stage.update_s,
        "in_flight": stage.in_flight,
        "stage_memory_bytes": {
            "parameters": memory.parameters,
            "gradients": memory.gradients,
            "optimizer_state": memory.optimizer_state,
            "buffers": memory.buffers,
            "activations": memory.activations,
            "working_set": memory.working_set,
            "total": memory.total,
            "limit": found.accelerators[place].hbm_bytes,
            "fits": stage.fits,
            "remedy": None if shortage is None else shortage.remedy,
        },
    }


def _warnings(found: ParallelEvaluation) -> tuple[str, ...]:
    warnings = list(found.notes)
    over = {
        place: stage.memory.total / found.accelerators[place].hbm_bytes
        for place, stage in enumerate(found.stages)
        if not stage.fits and stage.memory is not None
    }
    if over:
        place = max(over, key=lambda stage: over[stage])
        worst = found.stages[place]
        assert worst.memory is not None
        remedy = ""
        if worst.shortage is not None:
            remedy = f", most of it {worst.shortage.largest.replace('_', ' ')}: {worst.shortage.remedy}"
        warnings.append(
            f"{len(over)} of {len(found.stages)} stages do not fit; stage {place} needs "
            f"{worst.memory.total / 2**30:.1f} GiB and the HBM holds "
            f"{found.accelerators[place].hbm_bytes / 2**30:.1f} GiB{remedy}. The time assumes that it fits"
        )
    return tuple(warnings)
