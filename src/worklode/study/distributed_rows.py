"""Tables of the evaluation on many devices: designs in the stages of a model, the stages, headlines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.technology import Technology
from worklode.search.division import Chunks
from worklode.search.evaluate import silicon
from worklode.search.evaluation import Silicon
from worklode.search.objective import Limits, Objective
from worklode.search.parallel_evaluation import ParallelEvaluation
from worklode.study.reproduction import COMMON, INDIVIDUAL, OVER_TPU

OBJECTIVES = (Objective.THROUGHPUT, Objective.THROUGHPUT_PER_TDP)
HETEROGENEOUS, LEAST_TDP, ONE_DEVICE = "heterogeneous", "heterogeneous, least TDP", " of one device"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedRow:
    """Designs in the stages of a model.

    Attributes:
        model, objective, design: which; the objective is what the design was searched for, one of a single device
            under its own.
        source: the file it comes from, or the preset.
        devices: of the cluster [count].
        iteration_time_s, samples_per_s: of the cluster.
        samples_per_s_per_w: over the TDP of all devices.
        mean_area_mm2, mean_tdp_w: of a device.
        within_limits: every design keeps area and TDP.
        fits: the HBM of every stage holds it.
        over_budget_throughput, over_budget_throughput_per_tdp: over the budget's own design in all stages.
        gap: how far from the optimum it may be at most, proven [1]; None where nothing is.
        regret: how far the best of the designs kept for single stages is behind it, under the whole iteration [1].
        search_cpu_s, search_wall_s: of the search that found it; None where none did.
        search_finished: it came to its own end and was not stopped by a budget.
        matrix_flops_utilization: of the peak of all devices [1].
        peak_matrix_flops_per_s: of a device, mean over stages.
        compute_share to data_parallel_share: parts of the iteration, means over stages [1].
        slowest_stage, slowest_over_median: the stage that works longest, and how much longer than the median one.
        accelerators: stages: tensor cores x rows x columns, vector cores x lanes, SRAM [MiB], HBM stacks.
        num_tensor_cores to hbm_stacks: the design; None where stages differ.
    """

    model: str
    objective: str
    design: str
    source: str
    devices: int
    iteration_time_s: float
    samples_per_s: float
    samples_per_s_per_w: float
    mean_area_mm2: float
    mean_tdp_w: float
    within_limits: bool
    fits: bool
    over_budget_throughput: float
    over_budget_throughput_per_tdp: float
    gap: float | None
    regret: float | None
    search_cpu_s: float | None
    search_wall_s: float | None
    search_finished: bool
    matrix_flops_utilization: float
    peak_matrix_flops_per_s: float
    compute_share: float
    tensor_communication_share: float
    pipeline_bubble_share: float
    point_to_point_share: float
    optimizer_share: float
    data_parallel_share: float
    slowest_stage: int
    slowest_over_median: float
    accelerators: str
    num_tensor_cores: int | None
    tensor_core_rows: int | None
    tensor_core_cols: int | None
    num_vector_cores: int | None
    vector_lanes: int | None
    sram_bytes: int | None
    hbm_stacks: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """Stages with the same work, on the design they have in a row of `DistributedRow`.

    Attributes:
        model, objective, design: of that row.
        stages: which, such as `1-6`.
        count: their number.
        busy_s: work of such a stage in one iteration, the longest of them [s].
        memory_bytes, hbm_bytes: what the fullest needs, and what there is.
        area_mm2, tdp_w: of one device; the further ones are parts of them.
        The other fields are those of the accelerator.
    """

    model: str
    objective: str
    design: str
    stages: str
    count: int
    busy_s: float
    memory_bytes: int
    hbm_bytes: int
    area_mm2: float
    tensor_cores_area_mm2: float
    vector_cores_area_mm2: float
    sram_area_mm2: float
    hbm_area_mm2: float
    tdp_w: float
    tensor_cores_tdp_w: float
    vector_cores_tdp_w: float
    sram_tdp_w: float
    hbm_tdp_w: float
    num_tensor_cores: int
    tensor_core_rows: int
    tensor_core_cols: int
    num_vector_cores: int
    vector_lanes: int
    sram_bytes: int
    hbm_stacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedHeadline:
    """A figure of the evaluation on many devices, beside the paper's where its abstract has one.

    Attributes:
        name: what it is.
        unit: `x` for a ratio, `s` for a time, `%` for a share.
        paper: the paper's figure; None where its abstract has none.
        ours: geometric mean over the models (`%`: the greatest); None where a part is missing.
        least, most: of one model.
        models: behind it [count].
    """

    name: str
    unit: str
    paper: float | None
    ours: float | None
    least: float | None
    most: float | None
    models: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Designs to put in the stages of a model; `chunks` empty: divided as suits them."""

    name: str
    source: str
    accelerators: tuple[Accelerator, ...]
    chunks: Chunks = ()
    gap: float | None = None
    regret: float | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    finished: bool = True


def distributed_row(
    model: str, objective: Objective, placed: Placed, found: ParallelEvaluation, limits: Limits, technology: Technology
) -> DistributedRow:
    """Figures of designs in their stages; the caller sets the ratios.

    Args:
        model, objective, placed: which they are.
        found: simulated.
        limits: of area and TDP of a device.
        technology: constants of area and power.
    """
    built = {design: silicon(design, technology) for design in dict.fromkeys(found.accelerators)}
    depth, devices = len(found.stages), found.setting.devices
    mean_tdp_w = sum(built[design].tdp_w for design in found.accelerators) / depth
    keep = [
        limits.allow(area_mm2=each.area_mm2, tdp_w=each.tdp_w, hbm_bytes=design.hbm_bytes)
        for design, each in built.items()
    ]
    busy = [stage.busy_s for stage in found.stages]
    shares: dict[str, Any] = {f"{name}_share": time_s / found.iteration_time_s for name, time_s in found.parts_s}
    alike = found.accelerator if found.alike else None
    return DistributedRow(
        model=model,
        objective=objective.value,
        design=placed.name,
        source=placed.source,
        devices=devices,
        iteration_time_s=found.iteration_time_s,
        samples_per_s=found.samples_per_s,
        samples_per_s_per_w=found.samples_per_s / (devices * mean_tdp_w),
        mean_area_mm2=sum(built[design].area_mm2 for design in found.accelerators) / depth,
        mean_tdp_w=mean_tdp_w,
        within_limits=all(keep),
        fits=found.fits,
        over_budget_throughput=1.0,
        over_budget_throughput_per_tdp=1.0,
        gap=placed.gap,
        regret=placed.regret,
        search_cpu_s=placed.cpu_s,
        search_wall_s=placed.wall_s,
        search_finished=placed.finished,
        matrix_flops_utilization=found.flops_utilization,
        peak_matrix_flops_per_s=sum(design.peak_matrix_flops_per_s for design in found.accelerators) / depth,
        **shares,
        slowest_stage=busy.index(max(busy)),
        slowest_over_median=max(busy) / statistics.median(busy),
        accelerators=_mix_text(found.accelerators),
        **_fields(alike),
    )


def stage_row(
    row: DistributedRow, found: ParallelEvaluation, stages: Sequence[int], technology: Technology
) -> StageRow:
    """Stages with the same work in an evaluation, and their design."""
    design = found.accelerators[stages[0]]
    built = silicon(design, technology)
    of = [found.stages[stage] for stage in stages]
    return StageRow(
        model=row.model,
        objective=row.objective,
        design=row.design,
        stages=_runs(stages),
        count=len(stages),
        busy_s=max(stage.busy_s for stage in of),
        memory_bytes=max(0 if stage.memory is None else stage.memory.total for stage in of),
        hbm_bytes=design.hbm_bytes,
        area_mm2=built.area_mm2,
        tdp_w=built.tdp_w,
        **_parts(built),
        **_fields(design),
    )


def headlines(rows: Sequence[DistributedRow]) -> tuple[DistributedHeadline, ...]:
    """The paper's headline beside ours, what mixes add, the regret of top-k, and what searches take."""
    found: dict[tuple[str, str], dict[str, DistributedRow]] = {}
    for row in rows:
        found.setdefault((row.objective, row.design), {})[row.model] = row

    def figures(objective: Objective, design: str, name: str, over: str | None = None) -> list[float]:
        own = found.get((objective.value, design), {})
        base = found.get((objective.value, over or ""), {})
        return [
            getattr(row, name) / (1.0 if over is None else getattr(base[model], name))
            for model, row in own.items()
            if getattr(row, name) is not None and (over is None or model in base)
        ]

    made = []
    for objective, name in zip(OBJECTIVES, ("samples_per_s", "samples_per_s_per_w"), strict=True):
        ratio_name = name.replace("samples_per_s_per_w", "throughput_per_tdp").replace("samples_per_s", "throughput")
        ratios = figures(objective, INDIVIDUAL, f"over_budget_{ratio_name}")
        paper = OVER_TPU if objective is Objective.THROUGHPUT else None
        made.append(_headline(f"{objective} over the budget's own design", "x", ratios, paper))
        ratios = figures(objective, COMMON, f"over_budget_{ratio_name}")
        made.append(_headline(f"{objective} over it by one design for all models", "x", ratios))
        ratios = figures(objective, HETEROGENEOUS, name, INDIVIDUAL)
        made.append(_headline(f"{objective}, the best mix over one design for all", "x", ratios))
    ratios = figures(Objective.THROUGHPUT, LEAST_TDP, "mean_tdp_w", INDIVIDUAL)
    made.append(_headline("throughput, TDP of the mix of least TDP over one design for all", "x", ratios))
    for objective in OBJECTIVES:
        made.append(_headline(f"{objective}, regret of top-k", "%", figures(objective, INDIVIDUAL, "regret")))
        made.append(_headline(f"{objective}, proven gap", "%", figures(objective, INDIVIDUAL, "gap")))
        made.append(
            _headline(f"{objective}, CPU time of a search", "s", figures(objective, INDIVIDUAL, "search_cpu_s"))
        )
    return tuple(made)


def _headline(name: str, unit: str, found: Sequence[float], paper: float | None = None) -> DistributedHeadline:
    ours = None
    if found:
        ours = max(found) if unit == "%" else statistics.geometric_mean(found)
    least, most = (min(found), max(found)) if found else (None, None)
    return DistributedHeadline(name=name, unit=unit, paper=paper, ours=ours, least=least, most=most, models=len(found))


_FIELDS = (
    "num_tensor_cores",
    "tensor_core_rows",
    "tensor_core_cols",
    "num_vector_cores",
    "vector_lanes",
    "sram_bytes",
    "hbm_stacks",
)
# What of area and TDP is shown under one name.
_SHOWN_PARTS = {
    "tensor_cores": ("tensor_core_macs", "tensor_core_buffers"),
    "vector_cores": ("vector_lanes", "vector_core_buffers"),
    "sram": ("sram",),
    "hbm": ("hbm",),
}


def _fields(design: Accelerator | None) -> dict[str, Any]:
    """What of a design is shown; None of none."""
    return {name: getattr(design, name, None) for name in _FIELDS}


def _parts(built: Silicon) -> dict[str, Any]:
    """Area [mm2] and TDP [W] of the shown parts."""
    found = {}
    for suffix, parts in (("area_mm2", built.area_parts_mm2), ("tdp_w", built.tdp_parts_w)):
        known = dict(parts)
        for name, those in _SHOWN_PARTS.items():
            found[f"{name}_{suffix}"] = sum(known.get(one, 0.0) for one in those)
    return found


def _mix_text(accelerators: Sequence[Accelerator]) -> str:
    """`0: 2x256x96 1x512 2M 2H; 1-6: ...`; of one design for all stages without the stages."""
    places: dict[Accelerator, list[int]] = {}
    for stage, design in enumerate(accelerators):
        places.setdefault(design, []).append(stage)
    if len(places) == 1:
        return _design_text(accelerators[0])
    return "; ".join(f"{_runs(stages)}: {_design_text(design)}" for design, stages in places.items())


def _design_text(design: Accelerator) -> str:
    return (
        f"{design.num_tensor_cores}x{design.tensor_core_rows}x{design.tensor_core_cols} {design.num_vector_cores}x"
        f"{design.vector_lanes} {design.sram_bytes / 2**20:g}M {design.hbm_stacks}H"
    )


def _runs(places: Sequence[int]) -> str:
    """Ascending numbers, runs written as first-last."""
    found: list[list[int]] = []
    for place in places:
        if found and place == found[-1][1] + 1:
            found[-1][1] = place
        else:
            found.append([place, place])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
