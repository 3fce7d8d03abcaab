"""WHAM's evaluation on many devices: its three distributed models in a parallel setting, every design of interest.

M. Adnan et al., Workload-Aware Hardware Accelerator Mining for Distributed Deep Learning Training, arXiv 2404.14632.
How mining for many devices works: docs/models/global_search.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.network import Network
from worklode.search.certificate import ProofOptions
from worklode.search.distributed import mine_parallel
from worklode.search.distributed_result import DistributedResult, ParallelTask
from worklode.search.local import LocalSearchOptions
from worklode.search.objective import Limits, Objective
from worklode.search.parallel import ParallelSetting
from worklode.search.training_step import evaluate_divided, prepared_model
from worklode.study.bench import BenchRequest, Progress
from worklode.study.bench_directory import BenchDirectory
from worklode.study.distributed_mined import Mined
from worklode.study.distributed_rows import (
    HETEROGENEOUS,
    LEAST_TDP,
    OBJECTIVES,
    ONE_DEVICE,
    DistributedHeadline,
    DistributedRow,
    Placed,
    StageRow,
    distributed_row,
    headlines,
    stage_row,
)
from worklode.study.reproduction import COMMON, INDIVIDUAL, NVDLA_LIKE, FoundDesign, nvdla_like
from worklode.study.sources import source_digest

# The distributed models of the paper in the settings they are given here. Assumption: the paper's full text was not at
# hand; depths divide the blocks evenly (24, 48 and 96), GPT-3 has the tensor width of Megatron-LM's runs, and sixteen
# microbatches a stage keep the share of filling and draining near 5 %. The 25 heads of GPT2-XL are divided by 5 alone.
SETTINGS: dict[str, ParallelSetting] = {
    "opt-1.3b": ParallelSetting(pipeline=8, global_batch=128),
    "gpt2-xl": ParallelSetting(pipeline=8, global_batch=128),
    "gpt3-175b": ParallelSetting(pipeline=32, tensor=8, global_batch=512, sequence_parallel=True),
}
# What of a setting is shown.
_SETTING_SHOWN = (
    "pipeline",
    "tensor",
    "data",
    "devices",
    "global_batch",
    "microbatch",
    "microbatches",
    "schedule",
    "recompute",
    "sequence_parallel",
)
# Searches so short that they load compiled code and do nothing else.
_SHORT_SEARCH = LocalSearchOptions(shapes=2, climbs=1, max_evaluations=4, finalists=1, top_k=1)
_SHORT_PROOF = ProofOptions(guides=2, sharpened=2, polished=1, max_evaluations=1, refined=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DistributedModel:
    """A model to train on many devices.

    Attributes:
        name: of the model, as in the bench.
        graph: a captured microbatch.
        setting, network: where it is trained.
        one_device: designs that were found for this model on a single device.
        absent: searchers of which the bench has no design for it.
    """

    name: str
    graph: TrainingGraph
    setting: ParallelSetting
    network: Network | None
    one_device: tuple[FoundDesign, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DistributedEvaluation:
    """All of it.

    Attributes:
        models: in the order of the bench.
        rows, stages, headlines: the tables.
        absent: (model, searcher) of which the bench has no design.
        searches: facts of every search, plain values.
    """

    models: tuple[DistributedModel, ...]
    rows: tuple[DistributedRow, ...]
    stages: tuple[StageRow, ...]
    headlines: tuple[DistributedHeadline, ...]
    absent: tuple[tuple[str, str], ...]
    searches: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form (docs/json.md, `distributed`)."""
        return {
            "settings": [
                {
                    "model": model.name,
                    **{name: model.setting.to_dict()[name] for name in _SETTING_SHOWN},
                    "network": None if model.network is None else model.network.name,
                }
                for model in self.models
            ],
            "headlines": [asdict(headline) for headline in self.headlines],
            "searches": [dict(search) for search in self.searches],
            "designs": [asdict(row) for row in self.rows],
            "stages": [asdict(row) for row in self.stages],
            "absent": [{"model": model, "searcher": searcher} for model, searcher in self.absent],
        }


def distributed_evaluation(
    models: Sequence[DistributedModel],
    request: BenchRequest,
    directory: BenchDirectory,
    progress: Progress | None = None,
) -> DistributedEvaluation:
    """Every design on every model, for both objectives.

    What the directory does not have yet is mined: each model for each objective, and one design for all models.

    Args:
        models: with their settings, at least one.
        request: the bench, with a budget; its space, constants and limits of area and TDP are those of a device.
        directory: its folder.
        progress: told what is being done.
    """
    assert request.baseline is not None, "the evaluation compares with the budget's own design"
    study = _Study(tuple(models), request, directory, progress or _silent)
    rows: list[DistributedRow] = []
    stages: list[StageRow] = []
    searches: list[Mapping[str, Any]] = []
    commons = {objective: study.common(objective) for objective in OBJECTIVES if len(models) > 1}
    searches += [_search_facts(found) for found in commons.values()]
    for model in models:
        task = study.task(model)
        for objective in OBJECTIVES:
            found = study.mined([model], objective)
            searches.append(_search_facts(found))
            made, parts = study.rows(model, task, objective, found, commons.get(objective))
            rows += made
            stages += parts
    return DistributedEvaluation(
        models=tuple(models),
        rows=tuple(rows),
        stages=tuple(stages),
        headlines=headlines(rows),
        absent=tuple((model.name, searcher) for model in models for searcher in model.absent),
        searches=tuple(searches),
    )


def _search_facts(found: Mined) -> Mapping[str, Any]:
    """A search in one row: searches of the document."""
    names = ("objective", "gap", "regret", "mix_gap", "mix_undecided", "hbm_bytes", "kept_per_stage", "space_size")
    times = ("evaluated", "cpu_s", "wall_time_s")
    return {"models": list(found.models), **{name: getattr(found, name) for name in (*names, *times)}}


class _Study:
    """The parts of one evaluation."""

    def __init__(
        self,
        models: tuple[DistributedModel, ...],
        request: BenchRequest,
        directory: BenchDirectory,
        tell: Callable[[str, int, int], None],
    ) -> None:
        self.models, self.request, self.directory, self.tell = models, request, directory, tell
        assert request.baseline is not None
        self.budget = request.baseline
        self.technology = request.grid.technology
        # Memory is held against the stages of each model, not against one device.
        self.limits: Limits = replace(request.workloads[0].limits, hbm_bytes=0.0)
        self._warm = False

    def task(self, model: DistributedModel) -> ParallelTask:
        """A model, divided; a new one for every search, so that none finds what another left."""
        divided = prepared_model(model.graph, model.setting, self.technology, network=model.network)
        return ParallelTask(name=model.name, model=divided, setting=model.setting, network=model.network)

    def common(self, objective: Objective) -> Mined:
        """One design for all models, each in its own setting, equally weighted."""
        return self.mined(self.models, objective, COMMON)

    def mined(self, models: Sequence[DistributedModel], objective: Objective, name: str = "") -> Mined:
        """What the directory knows of a search, or what it finds."""
        file = f"distributed-{name or models[0].name}-{objective.value.replace('/', '-per-')}"
        known = self.directory.reference(file, source=_source())
        found = None if known is None else Mined.from_dict(known)
        if found is None:
            self._load(models[0])
            tasks = [self.task(model) for model in models]
            started_cpu_s, started_s = time.process_time(), time.perf_counter()
            result = self._mine(tasks, objective, f"{name or models[0].name} on many devices, {objective}")
            found = Mined.of(result, time.process_time() - started_cpu_s, time.perf_counter() - started_s)
            self.directory.write_reference(file, found.to_dict(), source=_source())
        return found

    def _mine(
        self, tasks: Sequence[ParallelTask], objective: Objective, label: str, **effort: Any
    ) -> DistributedResult:
        return mine_parallel(
            tasks,
            self.request.grid.space,
            self.technology,
            limits=self.limits,
            objective=objective,
            baseline=self.budget,
            tell=lambda what, done, most: self.tell(f"{label}: {what}", done, most),
            **effort,
        )

    def _load(self, model: DistributedModel) -> None:
        """Load every compiled kernel, so that no search is charged for it."""
        if not self._warm:
            for objective in OBJECTIVES:
                effort = {"options": _SHORT_SEARCH, "proof": _SHORT_PROOF, "top_k": 1}
                self._mine([self.task(model)], objective, f"{model.name} on many devices: getting ready", **effort)
        self._warm = True

    # -------------------------------------------------------------------------------------------------- rows

    def rows(
        self, model: DistributedModel, task: ParallelTask, objective: Objective, found: Mined, common: Mined | None
    ) -> tuple[list[DistributedRow], list[StageRow]]:
        """Rows of one model and objective; the budget's own design comes first."""
        rows: list[DistributedRow] = []
        stages: list[StageRow] = []
        for placed in self._placed(model, objective, found, common):
            evaluation = evaluate_divided(
                task.model, placed.accelerators, model.setting, model.network, chunks=placed.chunks, explain=False
            )
            row = distributed_row(model.name, objective, placed, evaluation, self.limits, self.technology)
            base = rows[0] if rows else row
            rows.append(
                replace(
                    row,
                    over_budget_throughput=row.samples_per_s / base.samples_per_s,
                    over_budget_throughput_per_tdp=row.samples_per_s_per_w / base.samples_per_s_per_w,
                )
            )
            if len(rows) == 1 or placed.name in (INDIVIDUAL, HETEROGENEOUS, LEAST_TDP):
                classes = found.classes[0] or (tuple(range(model.setting.pipeline)),)
                stages += [stage_row(row, evaluation, each, self.technology) for each in classes]
        return rows, stages

    def _placed(
        self, model: DistributedModel, objective: Objective, found: Mined, common: Mined | None
    ) -> Iterator[Placed]:
        depth = model.setting.pipeline
        name = objective.value.replace("/", "-per-")
        yield Placed(name=self.budget.name or "budget", source="preset", accelerators=(self.budget,) * depth)
        chip = nvdla_like(self.budget)
        yield Placed(name=NVDLA_LIKE, source="preset nvdla-large, scaled", accelerators=(chip,) * depth)
        searched: dict[str, Any] = {"cpu_s": found.cpu_s, "wall_s": found.wall_time_s, "chunks": found.chunks[0]}
        source = f"references/distributed-{model.name}-{name}"
        if found.design is not None:
            yield Placed(
                name=INDIVIDUAL,
                source=source,
                accelerators=(found.design,) * depth,
                gap=found.gap,
                regret=found.regret,
                **searched,
            )
        if common is not None and common.design is not None:
            yield Placed(
                name=COMMON,
                source=f"references/distributed-{COMMON}-{name}",
                accelerators=(common.design,) * depth,
                chunks=common.chunks[common.models.index(model.name)],
                gap=common.gap,
                regret=common.regret,
                cpu_s=common.cpu_s,
                wall_s=common.wall_time_s,
            )
        for mix, accelerators in found.mixes.items():
            gap = found.mix_gap if mix == HETEROGENEOUS else None
            yield Placed(name=mix, source=source, accelerators=accelerators, gap=gap, **searched)
        for design in model.one_device:
            yield Placed(
                name=design.name + ONE_DEVICE,
                source=design.source,
                accelerators=(design.accelerator,) * depth,
                cpu_s=design.search_cpu_s,
                finished=design.finished,
            )


def _silent(what: str, done: int, most: int) -> None:
    """Progress that nobody watches."""


def _source() -> str:
    """Digest of the source that decides what is mined here."""
    return source_digest(__name__)
