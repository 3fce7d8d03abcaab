"""The JSON form of mining for many devices (docs/json.md, `mine_parallel`)."""

from __future__ import annotations

from typing import Any

from worklode.hardware.technology import Technology
from worklode.search.certificate import NOTHING_PROVEN
from worklode.search.devices import JointResult
from worklode.search.distributed_result import DistributedDesign, DistributedResult, Heterogeneous
from worklode.search.evaluate import silicon
from worklode.search.evaluation import accelerator_dict, workload_summary
from worklode.search.parallel_document import accelerators_of, parallel_document, total_tdp_w
from worklode.search.parallel_evaluation import ParallelEvaluation
from worklode.search.stage_search import StageDesigns

# Settings that a document lists [count].
MOST_SETTINGS = 20
_CHOSEN = ("pipeline", "tensor", "data", "microbatch", "recompute")


def joint_document(found: JointResult) -> dict[str, Any]:
    """The document of a joint choice: that of the best setting's mining, and the other settings on its design."""
    settings = [
        {
            **{name: each.setting.to_dict()[name] for name in _CHOSEN},
            "objective_value": each.figure,
            "iteration_time_s": each.evaluation.iteration_time_s,
            "fits": each.evaluation.fits,
            "mined": each.mined,
        }
        for each in found.settings[:MOST_SETTINGS]
    ]
    return {
        **distributed_document(found.best),
        "settings": {
            "devices": found.best.tasks[0].setting.devices,
            "simulated": found.simulated,
            "compared": len(found.settings),
            "mined": sum(each.mined for each in found.settings),
            "dominated": found.dominated,
            "refused": [{"problem": problem, "count": count} for problem, count in found.refused],
            "best": settings,
        },
    }


def distributed_document(found: DistributedResult) -> dict[str, Any]:
    """The document of a result."""
    technology = found.technology
    best, certificate = found.best, found.certificate
    bound = None if certificate is None else certificate.bound
    document: dict[str, Any] = {
        "workload": [workload_summary(task.model.whole).to_dict() for task in found.tasks],
        "objective": found.objective.value,
        "constraints": {
            "area_mm2": _finite(found.limits.area_mm2),
            "tdp_w": _finite(found.limits.tdp_w),
            "hbm_bytes": found.limits.hbm_bytes or None,
        },
        "best": None if best is None else _full(found, best, technology),
        "top_k": [_brief(found, design, technology) for design in found.top_k],
        "budget_baseline": None if found.budget_baseline is None else _full(found, found.budget_baseline, technology),
        "improvement": found.improvement,
        "bound": bound,
        "optimality_gap": found.optimality_gap,
        "regret": found.regret,
        "heterogeneous": None
        if found.heterogeneous is None
        else _heterogeneous(found, found.heterogeneous, technology),
        "stages": [
            _stage_class(found, task, each, technology)
            for task, classes in enumerate(found.classes)
            for each in classes
        ],
        "pipeline": [
            {
                "workload": task.name,
                **task.setting.to_dict(),
                "network": None if task.network is None else task.network.name,
                "chunks": [{"first": first, "stop": stop} for first, stop in chunks],
            }
            for task, chunks in zip(found.tasks, found.chunks, strict=True)
        ],
        "infeasible": [reason.to_dict() for reason in found.infeasible],
        "search": {
            "space_size": found.space_size,
            "evaluated": found.evaluated,
            **(NOTHING_PROVEN if certificate is None else certificate.to_dict()),
            "wall_time_s": found.wall_time_s,
            "out_of_time": found.out_of_time,
        },
        "warnings": _warnings(found),
    }
    return document


def _finite(limit: float) -> float | None:
    return limit if limit < float("inf") else None


def _full(found: DistributedResult, design: DistributedDesign, technology: Technology) -> dict[str, Any]:
    """A design with the whole evaluation of the first workload, and of all where there are several."""
    documents = [
        parallel_document(evaluation, task.model.whole, technology)
        for task, evaluation in zip(found.tasks, design.evaluations, strict=True)
    ]
    document = {"objective_value": design.figure, "mean_tdp_w": design.tdp_w, **documents[0]}
    if len(documents) > 1:
        document["evaluations"] = documents
    return document


def _brief(found: DistributedResult, design: DistributedDesign, technology: Technology) -> dict[str, Any]:
    """A design and its figures."""
    evaluation = design.evaluations[0]
    document = {
        "objective_value": design.figure,
        "mean_tdp_w": design.tdp_w,
        "accelerator": accelerator_dict(design.accelerator, silicon(design.accelerator, technology)),
        **_figures(evaluation, technology),
    }
    if len(found.tasks) > 1:
        document["evaluations"] = [
            {"workload": task.name, **_figures(each, technology)}
            for task, each in zip(found.tasks, design.evaluations, strict=True)
        ]
    return document


def _figures(evaluation: ParallelEvaluation, technology: Technology) -> dict[str, Any]:
    return {
        "iteration_time_s": evaluation.iteration_time_s,
        "samples_per_s": evaluation.samples_per_s,
        "samples_per_s_per_w": evaluation.samples_per_s / total_tdp_w(evaluation, technology),
        "energy_j": evaluation.energy_j,
        "flops_utilization": evaluation.flops_utilization,
        "fits": evaluation.fits,
    }


def _heterogeneous(found: DistributedResult, mixed: Heterogeneous, technology: Technology) -> dict[str, Any]:
    return {
        "best": _mix(mixed.best, technology),
        "least_tdp": None if mixed.least_power is None else _mix(mixed.least_power, technology),
        "undecided": mixed.undecided,
        "bound": mixed.bound,
        "optimality_gap": mixed.gap,
        "improvement_over_one_design": None if found.best is None else found.best.figure / mixed.best.figure,
    }


def _mix(design: DistributedDesign, technology: Technology) -> dict[str, Any]:
    evaluation = design.evaluations[0]
    return {
        "objective_value": design.figure,
        "mean_tdp_w": design.tdp_w,
        "accelerators": accelerators_of(evaluation, technology),
        **_figures(evaluation, technology),
    }


def _stage_class(found: DistributedResult, task: int, each: StageDesigns, technology: Technology) -> dict[str, Any]:
    """Stages with the same passes and the designs that the local search kept for them."""
    first = each.stages[0]
    setting = found.tasks[task].setting
    chunks = found.chunks[task][first :: setting.pipeline]
    kept = each.searched.search.candidates()[: found.kept_per_stage]
    certificate = each.searched.certificate
    return {
        "workload": found.tasks[task].name,
        "stages": list(each.stages),
        "chunks": [{"first": start, "stop": stop} for start, stop in chunks],
        "hbm_bytes": each.limits.hbm_bytes or None,
        "bound_s": each.least_s if each.feasible else None,
        "optimality_gap": None if certificate is None else certificate.gap,
        "top_k": [
            {
                "microbatch_time_s": each.own_s(candidate),
                "accelerator": accelerator_dict(candidate.accelerator, silicon(candidate.accelerator, technology)),
            }
            for candidate in kept
        ],
    }


def _warnings(found: DistributedResult) -> list[str]:
    warnings: list[str] = []
    if found.best is not None:
        for task, evaluation in zip(found.tasks, found.best.evaluations, strict=True):
            warnings += parallel_document(evaluation, task.model.whole, found.technology)["warnings"]
        if found.limits.hbm_bytes == 0 and not all(each.fits for each in found.best.evaluations):
            warnings.append("memory was no limit of this search (--memory), and the design does not hold its stages")
    return list(dict.fromkeys(warnings))
