"""WHAM's evaluation on single devices, from the cells of a bench: every design of interest on every model.

M. Adnan et al., Workload-Aware Hardware Accelerator Mining for Distributed Deep Learning Training, arXiv 2404.14632.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset
from worklode.search.evaluate import Evaluator
from worklode.search.objective import Limits
from worklode.study.bench import BenchRequest, BenchResult, Progress, mined_whole
from worklode.study.bench_directory import BenchDirectory
from worklode.study.claims import SpeedRow
from worklode.study.sources import source_digest

# Searchers whose designs the paper compares with, each as published and extended, and worklode's own.
SEARCHERS = (
    "worklode",
    "spotlight-like",
    "spotlight-like-inference",
    "confuciux-like",
    "confuciux-like-inference",
)
# Headlines of the paper's abstract [1]: search time of Spotlight over its own, throughput of its designs over those of
# Spotlight, and over TPUv2.
LESS_SEARCH_TIME, OVER_SPOTLIGHT, OVER_TPU = 31.0, 12.0, 1.12
INDIVIDUAL, COMMON, NVDLA_LIKE = "individual", "common", "nvdla-like"
_COMMON_FILE = "common"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A figure of the paper's abstract, and ours.

    Attributes:
        name: what is compared.
        paper: the paper's figure, as a ratio.
        ours: the same ratio here, geometric mean over the models; None where a part is missing.
        least, most: of one model.
        models: behind it [count].
    """

    name: str
    paper: float
    ours: float | None
    least: float | None
    most: float | None
    models: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignRow:
    """One design on one model.

    Attributes:
        model, design: which; a design is named by who made it.
        source: the file of the bench it comes from, or the preset.
        iteration_time_s, samples_per_s, samples_per_s_per_w, area_mm2, tdp_w: its figures, thorough schedule.
        within_limits: whether it keeps them; the baselines need not.
        over_budget_throughput, over_budget_throughput_per_tdp: over the budget's own design.
        gap_to_bound: of the figure of the objective over the bound that `mine` proves, less 1; None where not proven.
        search_cpu_s: CPU time its search took; None where it was not searched for.
        search_finished: the search came to its own end and was not stopped by a budget.
        The other fields are those of the accelerator.
    """

    model: str
    design: str
    source: str
    iteration_time_s: float
    samples_per_s: float
    samples_per_s_per_w: float
    area_mm2: float
    tdp_w: float
    within_limits: bool
    over_budget_throughput: float
    over_budget_throughput_per_tdp: float
    gap_to_bound: float | None
    search_cpu_s: float | None
    search_finished: bool
    num_tensor_cores: int
    tensor_core_rows: int
    tensor_core_cols: int
    num_vector_cores: int
    vector_lanes: int
    sram_bytes: int
    hbm_stacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDesign:
    """A design and who made it.

    Attributes:
        name, source: as in `DesignRow`.
        accelerator: the design.
        search_cpu_s: CPU time of its search [s]; None where it was not searched for.
        finished: the search came to its own end.
    """

    name: str
    source: str
    accelerator: Accelerator
    search_cpu_s: float | None
    finished: bool = True


def nvdla_like(budget: Accelerator) -> Accelerator:
    """NVDLA's organisation at the budget's size: nv_large with its 64 x 32 array and 32 lanes scaled to as many MACs.

    One convolution core, one vector core; edges of the array grow with the root of the MACs, lanes with the MACs; node,
    clock, SRAM and HBM are the budget's. Assumption: the paper's NVDLA-like design is not published in full.
    """
    small = load_preset("nvdla-large")
    scale = budget.macs / small.macs
    return replace(
        budget,
        name=NVDLA_LIKE,
        num_tensor_cores=1,
        tensor_core_rows=max(1, round(small.tensor_core_rows * math.sqrt(scale))),
        tensor_core_cols=max(1, round(small.tensor_core_cols * math.sqrt(scale))),
        num_vector_cores=1,
        vector_lanes=max(1, round(small.vector_lanes * scale)),
        tensor_core_buffer_bytes=None,
        vector_core_buffer_bytes=None,
    )


def design_rows(
    request: BenchRequest, result: BenchResult, directory: BenchDirectory, progress: Progress | None = None
) -> tuple[DesignRow, ...]:
    """Every design on every model, in the order of the models.

    The common design is mined here once and kept in the directory.

    Args:
        request, result: a bench with a budget, finished.
        directory: its folder.
        progress: told what is being done.
    """
    budget = request.baseline
    assert budget is not None, "the evaluation compares with the budget's own design"
    common = _common(request, directory, progress)
    rows: list[DesignRow] = []
    for index, workload in enumerate(request.workloads):
        if progress is not None:
            progress(f"{workload.name}: evaluating designs", index, len(request.workloads))
        designs = _designs(workload.name, request, result, budget, common)
        bound = next(found.bound for found in result.references if found.workload == workload.name)
        rows += _rows_of(workload.name, workload.evaluator, workload.limits, request, designs, bound)
    return tuple(rows)


def headlines(rows: Sequence[DesignRow], speed: Sequence[SpeedRow] = ()) -> tuple[Headline, ...]:
    """The paper's headlines beside ours; `speed` says when worklode's search had asked for its design."""
    by_name: dict[str, dict[str, DesignRow]] = {}
    for row in rows:
        by_name.setdefault(row.design, {})[row.model] = row
    mined = by_name.get(INDIVIDUAL, {})

    def faster(name: str) -> list[float]:
        designs = by_name.get(name, {})
        return [mined[model].samples_per_s / row.samples_per_s for model, row in designs.items() if model in mined]

    budget_ratios = [row.over_budget_throughput for row in mined.values()]
    found = [_headline("throughput over the budget's own design", OVER_TPU, budget_ratios)]
    for searcher in ("spotlight-like-inference", "spotlight-like"):
        # A search that was stopped would have taken longer by itself: nothing is said of its time.
        ended = [row for row in speed if row.opponent == searcher and row.opponent_finished and row.worklode_finished]
        whole, until = [row.times_whole for row in ended], [row.times_to_final for row in ended]
        found.append(_headline(f"search time of {searcher} over ours, proof included", LESS_SEARCH_TIME, whole))
        found.append(_headline(f"search time of {searcher} over ours until our design", LESS_SEARCH_TIME, until))
        found.append(_headline(f"throughput over the design of {searcher}", OVER_SPOTLIGHT, faster(searcher)))
    return tuple(found)


def _headline(name: str, paper: float, found: Sequence[float]) -> Headline:
    mean = statistics.geometric_mean(found) if found else None
    least, most = (min(found), max(found)) if found else (None, None)
    return Headline(name=name, paper=paper, ours=mean, least=least, most=most, models=len(found))


def _designs(
    model: str, request: BenchRequest, result: BenchResult, budget: Accelerator, common: Mapping[str, Any]
) -> Iterator[FoundDesign]:
    """Designs to put on a model; a searcher's is that of its best seed."""
    yield FoundDesign(name=budget.name or "budget", source="preset", accelerator=budget, search_cpu_s=None)
    yield FoundDesign(
        name=NVDLA_LIKE, source="preset nvdla-large, scaled", accelerator=nvdla_like(budget), search_cpu_s=None
    )
    reference = next(found for found in result.references if found.workload == model)
    if reference.design is not None:
        found = Accelerator(**reference.design)
        yield FoundDesign(name=INDIVIDUAL, source="references", accelerator=found, search_cpu_s=reference.cpu_s)
    if common.get("design") is not None:
        found = Accelerator(**common["design"])
        yield FoundDesign(
            name=COMMON, source=f"references/{_COMMON_FILE}", accelerator=found, search_cpu_s=common["cpu_s"]
        )
    for searcher in request.searchers:
        cells = [
            (cell.final_figure, cell.seed, cell)
            for cell in result.cells
            if cell.workload == model and cell.searcher == searcher and cell.final_figure is not None
        ]
        if searcher != "worklode" and cells:
            cell = min(cells)[2]
            assert cell.final_point is not None
            found = request.grid.accelerator(cell.final_point)
            yield FoundDesign(
                name=searcher,
                source=f"cells, seed {cell.seed}",
                accelerator=found,
                search_cpu_s=cell.cpu_s,
                finished=cell.finished,
            )


def one_device_designs(model: str, request: BenchRequest, result: BenchResult) -> tuple[FoundDesign, ...]:
    """Designs that were searched for on a single device for a model: that of `mine`, and every searcher's."""
    assert request.baseline is not None, "the evaluation compares with the budget's own design"
    found = _designs(model, request, result, request.baseline, {})
    return tuple(design for design in found if design.search_cpu_s is not None)


def _rows_of(
    model: str,
    evaluator: Evaluator,
    limits: Limits,
    request: BenchRequest,
    designs: Iterator[FoundDesign],
    bound: float | None,
) -> Iterator[DesignRow]:
    base: DesignRow | None = None
    for design in designs:
        chip = design.accelerator
        evaluator.figures(chip, effort="utmost")  # as `mine` has its best
        evaluation = evaluator.evaluate(chip)  # of that schedule, which is verified
        found, time_s = evaluation.silicon, evaluation.iteration_time_s
        objective = request.objective.figure(time_s=time_s, tdp_w=found.tdp_w, energy_j=evaluation.energy_j)
        row = DesignRow(
            model=model,
            design=design.name,
            source=design.source,
            iteration_time_s=time_s,
            samples_per_s=evaluation.samples_per_s,
            samples_per_s_per_w=evaluation.samples_per_s_per_w,
            area_mm2=found.area_mm2,
            tdp_w=found.tdp_w,
            within_limits=limits.allow(area_mm2=found.area_mm2, tdp_w=found.tdp_w, hbm_bytes=chip.hbm_bytes),
            over_budget_throughput=1.0,
            over_budget_throughput_per_tdp=1.0,
            gap_to_bound=None if bound is None else objective / bound - 1.0,
            search_cpu_s=design.search_cpu_s,
            search_finished=design.finished,
            num_tensor_cores=chip.num_tensor_cores,
            tensor_core_rows=chip.tensor_core_rows,
            tensor_core_cols=chip.tensor_core_cols,
            num_vector_cores=chip.num_vector_cores,
            vector_lanes=chip.vector_lanes,
            sram_bytes=chip.sram_bytes,
            hbm_stacks=chip.hbm_stacks,
        )
        if base is None:  # the budget's own design comes first
            base = row
        yield replace(
            row,
            over_budget_throughput=row.samples_per_s / base.samples_per_s,
            over_budget_throughput_per_tdp=row.samples_per_s_per_w / base.samples_per_s_per_w,
        )


def _common(request: BenchRequest, directory: BenchDirectory, progress: Progress | None) -> Mapping[str, Any]:
    """One design for all models, equally weighted, under the strictest of their limits; mined once."""
    source = source_digest("worklode.search.mining")
    known = directory.reference(_COMMON_FILE, source=source)
    if known is not None:
        return known
    if progress is not None:
        progress("one design for all models", 0, 1)
    limits = replace(request.workloads[0].limits, hbm_bytes=max(one.limits.hbm_bytes for one in request.workloads))
    started_cpu_s, started_s = time.process_time(), time.perf_counter()
    result = mined_whole(
        [one.evaluator for one in request.workloads],
        request.grid.space,
        request.grid.technology,
        limits=limits,
        objective=request.objective,
        baseline=request.baseline,
    )
    found = {
        "workload": _COMMON_FILE,
        "models": [one.name for one in request.workloads],
        "design": None if result.best is None else asdict(result.best.accelerator),
        "figure": None if result.best is None else result.best.figure,
        "bound": result.bound,
        "cpu_s": time.process_time() - started_cpu_s,
        "wall_time_s": time.perf_counter() - started_s,
    }
    directory.write_reference(_COMMON_FILE, found, source=source)
    return found
