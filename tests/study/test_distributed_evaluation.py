"""The evaluation on many devices: its rows against evaluations of their own, its files, its common design."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import api
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.network_file import load_network
from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space
from worklode.hardware.technology import load_technology
from worklode.search.contest.cell import Budget
from worklode.search.distributed import mine_parallel
from worklode.search.evaluate import silicon
from worklode.search.grid import Grid
from worklode.search.objective import Objective
from worklode.search.parallel import ParallelSetting
from worklode.study import distributed_evaluation as module
from worklode.study.bench import BenchRequest, BenchResult, BenchWorkload, run_bench
from worklode.study.bench_directory import BenchDirectory
from worklode.study.distributed_evaluation import DistributedEvaluation, DistributedModel, distributed_evaluation
from worklode.study.distributed_rows import HETEROGENEOUS, LEAST_TDP, OBJECTIVES, ONE_DEVICE, DistributedRow
from worklode.study.reproduction import COMMON, INDIVIDUAL, nvdla_like, one_device_designs

TECHNOLOGY = load_technology()
BUDGET = load_preset("tpuv2")
# Vocabularies that make the last stage the slowest: mixes have something to gain; and two depths and widths.
SETTINGS = {
    "gpt:layers=8,hidden=256,heads=4,vocab=8192,context=128": ParallelSetting(pipeline=4, global_batch=16),
    "gpt:layers=4,hidden=512,heads=4,vocab=4096,context=128": ParallelSetting(
        pipeline=2, tensor=2, global_batch=8, sequence_parallel=True
    ),
}
FIRST, SECOND = SETTINGS
MEASURED = ("cpu_s", "wall_time_s", "search_cpu_s", "search_wall_s")


def space() -> DesignSpace:
    """24 designs, the budget's limits and none."""
    axes: dict[str, Any] = {
        "tensor_core_rows": (128,),
        "tensor_core_cols": (64, 128),
        "vector_lanes": (512, 1024),
        "num_tensor_cores": (2, 4, 8),
        "num_vector_cores": (1,),
        "sram_bytes": (4 << 20,),
        "hbm_stacks": (1, 2),
    }
    return replace(default_space(BUDGET), **axes)


@cache
def captured(name: str) -> TrainingGraph:
    return api.capture(name, batch=1, seq_len=128)


@cache
def request() -> BenchRequest:
    made = space()
    workloads = []
    for name in SETTINGS:
        evaluator = api.evaluator(captured(name))
        limits = api.workload_limits([evaluator], made, TECHNOLOGY, budget=BUDGET)
        workloads.append(BenchWorkload(name=name, evaluator=evaluator, limits=limits))
    return BenchRequest(
        workloads=tuple(workloads),
        searchers=("worklode", "random"),
        seeds=2,
        budget=Budget(evaluations=5),
        grid=Grid(made, TECHNOLOGY),
        objective=Objective.THROUGHPUT,
        baseline=BUDGET,
    )


def benched(directory: BenchDirectory) -> BenchResult:
    directory.open({})
    return run_bench(request(), directory)


def begun(folder: Path, place: Path) -> BenchDirectory:
    """The same bench, with nothing of many devices in it."""
    shutil.copytree(folder, place)
    for file in (place / "references").glob("distributed-*"):
        file.unlink()
    return BenchDirectory(place)


def models(result: BenchResult, names: tuple[str, ...] = (FIRST, SECOND)) -> list[DistributedModel]:
    return [
        DistributedModel(
            name=name,
            graph=captured(name),
            setting=SETTINGS[name],
            network=load_network("tpuv2"),
            one_device=one_device_designs(name, request(), result),
            absent=("spotlight-like",),
        )
        for name in names
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation") / "out"


@pytest.fixture(scope="module")
def result(folder: Path) -> BenchResult:
    return benched(BenchDirectory(folder))


@pytest.fixture(scope="module")
def found(folder: Path, result: BenchResult) -> DistributedEvaluation:
    return distributed_evaluation(models(result), request(), BenchDirectory(folder))


def simulated(name: str, design: Accelerator) -> Any:
    return api.evaluate_setting(captured(name), design, SETTINGS[name], network="tpuv2")


def row_of(found: DistributedEvaluation, name: str, objective: Objective, design: str) -> DistributedRow:
    rows = [row for row in found.rows if (row.model, row.objective, row.design) == (name, objective.value, design)]
    assert len(rows) == 1
    return rows[0]


def unmeasured(found: DistributedEvaluation) -> dict[str, Any]:
    document = found.to_dict()
    for table in ("searches", "designs"):
        document[table] = [{name: row[name] for name in row if name not in MEASURED} for row in document[table]]
    document["headlines"] = [row for row in document["headlines"] if row["unit"] != "s"]
    return document


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", SETTINGS)
def test_rows_are_what_evaluate_and_mine_say(
    found: DistributedEvaluation, result: BenchResult, name: str, objective: Objective
) -> None:
    mined = api.mine_setting(
        captured(name), SETTINGS[name], budget=BUDGET, space=space(), objective=objective, network="tpuv2"
    )
    assert mined.best is not None
    base = simulated(name, BUDGET)
    tdp_w = silicon(BUDGET, TECHNOLOGY).tdp_w
    designs = {
        "tpuv2": BUDGET,
        "nvdla-like": nvdla_like(BUDGET),
        INDIVIDUAL: mined.best.accelerator,
        **{each.name + ONE_DEVICE: each.accelerator for each in one_device_designs(name, request(), result)},
    }
    assert {"individual of one device", "random of one device"} <= designs.keys()
    for label, design in designs.items():
        row, own = row_of(found, name, objective, label), simulated(name, design)
        watts = silicon(design, TECHNOLOGY).tdp_w
        assert row.iteration_time_s == own.iteration_time_s
        assert row.samples_per_s == own.samples_per_s
        assert row.over_budget_throughput == pytest.approx(base.iteration_time_s / own.iteration_time_s)
        assert row.over_budget_throughput_per_tdp == pytest.approx(row.over_budget_throughput * tdp_w / watts)
        assert row.samples_per_s_per_w == pytest.approx(own.samples_per_s / (SETTINGS[name].devices * watts))
        assert row.devices == SETTINGS[name].devices
        assert row.fits == own.fits
        parts = dict(own.parts_s)
        assert row.pipeline_bubble_share == pytest.approx(parts["pipeline_bubble"] / own.iteration_time_s)
        assert row.num_tensor_cores == design.num_tensor_cores
        assert f"{design.num_tensor_cores}x{design.tensor_core_rows}x{design.tensor_core_cols} " in row.accelerators
        # What the page explains a gain with: the peak and how it is used make up the throughput.
        peak = design.peak_matrix_flops_per_s / BUDGET.peak_matrix_flops_per_s
        use = row.matrix_flops_utilization / row_of(found, name, objective, "tpuv2").matrix_flops_utilization
        assert row.over_budget_throughput == pytest.approx(peak * use)
    individual = row_of(found, name, objective, INDIVIDUAL)
    assert (individual.gap, individual.regret) == (mined.optimality_gap, mined.regret)
    assert individual.within_limits


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_mixes_are_those_of_the_search_and_their_stages_add_up(
    found: DistributedEvaluation, objective: Objective
) -> None:
    setting = SETTINGS[FIRST]
    mined = api.mine_setting(
        captured(FIRST), setting, budget=BUDGET, space=space(), objective=objective, network="tpuv2"
    )
    assert mined.heterogeneous is not None
    mixes = {HETEROGENEOUS: mined.heterogeneous.best}
    if mined.heterogeneous.least_power is not None:
        mixes[LEAST_TDP] = mined.heterogeneous.least_power
    assert len(mixes) == (2 if objective is Objective.THROUGHPUT else 1)
    for label, mix in mixes.items():
        row = row_of(found, FIRST, objective, label)
        assert row.iteration_time_s == mix.evaluations[0].iteration_time_s
        assert row.mean_tdp_w == pytest.approx(mix.tdp_w)
        stages = [
            each for each in found.stages if (each.model, each.objective, each.design) == (FIRST, objective, label)
        ]
        assert [each.stages for each in stages] == ["0", "1-2", "3"]
        assert sum(each.count for each in stages) == setting.pipeline
        assert sum(each.count * each.tdp_w for each in stages) / setting.pipeline == pytest.approx(mix.tdp_w)
        for each, at in zip(stages, (0, 1, 3), strict=True):
            evaluation = mix.evaluations[0]
            assert each.num_tensor_cores == evaluation.accelerators[at].num_tensor_cores
            assert each.busy_s == pytest.approx(evaluation.stages[at].busy_s)
            parts = each.tensor_cores_area_mm2 + each.vector_cores_area_mm2 + each.sram_area_mm2 + each.hbm_area_mm2
            assert 0.0 < parts < each.area_mm2
    assert row_of(found, FIRST, objective, HETEROGENEOUS).gap == mined.heterogeneous.gap


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_common_design_is_the_best_of_the_space_over_models_in_their_own_settings(
    found: DistributedEvaluation, objective: Objective
) -> None:
    """Every design of the space simulated on both models: none has a smaller geometric mean."""
    made = space()
    figures = {}
    limits = silicon(BUDGET, TECHNOLOGY)
    for design in (BUDGET, *(made.accelerator(made.indices(position)) for position in range(made.size))):
        built = silicon(design, TECHNOLOGY)
        evaluations = [simulated(name, design) for name in SETTINGS]
        if built.area_mm2 <= limits.area_mm2 and built.tdp_w <= limits.tdp_w and all(e.fits for e in evaluations):
            product = evaluations[0].iteration_time_s * evaluations[1].iteration_time_s
            figures[design] = objective.figure(time_s=product**0.5, tdp_w=built.tdp_w, energy_j=0.0)
    assert len(figures) > 5
    rows = [row_of(found, name, objective, COMMON) for name in SETTINGS]
    reached = objective.figure(
        time_s=(rows[0].iteration_time_s * rows[1].iteration_time_s) ** 0.5, tdp_w=rows[0].mean_tdp_w, energy_j=0.0
    )
    assert reached == pytest.approx(min(figures.values()))
    assert rows[0].accelerators == rows[1].accelerators


def test_headlines_are_means_of_the_rows(found: DistributedEvaluation) -> None:
    named = {headline.name: headline for headline in found.headlines}
    ratios = [row_of(found, name, Objective.THROUGHPUT, INDIVIDUAL).over_budget_throughput for name in SETTINGS]
    headline = named["throughput over the budget's own design"]
    assert headline.ours == pytest.approx((ratios[0] * ratios[1]) ** 0.5)
    assert (headline.least, headline.most, headline.models, headline.paper) == (min(ratios), max(ratios), 2, 1.12)
    regrets = [row_of(found, name, Objective.THROUGHPUT_PER_TDP, INDIVIDUAL).regret for name in SETTINGS]
    assert named["throughput/tdp, regret of top-k"].ours == max(regret for regret in regrets if regret is not None)


def test_it_goes_on_from_its_files_and_says_the_same(
    found: DistributedEvaluation, folder: Path, result: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = BenchDirectory(folder)
    files = sorted((folder / "references").glob("distributed-*"))
    assert len(files) == 2 * (len(SETTINGS) + 1)
    before = {path: path.read_bytes() for path in files}
    with monkeypatch.context() as patch:
        patch.setattr(module, "mine_parallel", None)  # would be noticed
        again = distributed_evaluation(models(result), request(), directory)
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())
    # One lost, one cut short, one of another version: these are made again, with the same designs.
    files[0].unlink()
    files[2].write_bytes(before[files[2]][:200])
    damaged = json.loads(before[files[4]])
    del damaged["classes"]
    files[4].write_text(json.dumps(damaged))
    mined: list[Any] = []
    whole = mine_parallel

    def counted(tasks: Any, *arguments: Any, **options: Any) -> Any:
        if "proof" not in options:  # the short ones get compiled code ready
            mined.append([task.name for task in tasks])
        return whole(tasks, *arguments, **options)

    monkeypatch.setattr(module, "mine_parallel", counted)
    third = distributed_evaluation(models(result), request(), directory)
    assert len(mined) == 3
    assert unmeasured(third) == unmeasured(found)
    assert {path: path.read_bytes() for path in (files[1], files[3], files[5])} == {
        path: before[path] for path in (files[1], files[3], files[5])
    }


def test_an_interrupt_keeps_what_is_finished(
    tmp_path: Path,
    folder: Path,
    result: BenchResult,
    found: DistributedEvaluation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = begun(folder, tmp_path / "out")
    whole = mine_parallel
    calls = 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += "proof" not in options
        if calls > 3:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "mine_parallel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            distributed_evaluation(models(result), request(), directory)
    kept = {path: path.read_bytes() for path in (tmp_path / "out" / "references").glob("distributed-*")}
    assert len(kept) == 3
    finished = distributed_evaluation(models(result), request(), directory)
    assert {path: path.read_bytes() for path in kept} == kept
    assert unmeasured(finished) == unmeasured(found)


def test_one_model_has_no_common_design(tmp_path: Path, folder: Path, result: BenchResult) -> None:
    directory = begun(folder, tmp_path / "out")
    alone = distributed_evaluation(models(result, (SECOND,)), request(), directory)
    assert {row.design for row in alone.rows}.isdisjoint({COMMON})
    assert {row.model for row in alone.rows} == {SECOND}
    assert [asdict(row)["models"] for row in alone.headlines if "one design for all models" in row.name] == [0, 0]
    assert alone.absent == ((SECOND, "spotlight-like"),)


def test_the_settings_can_be_meant() -> None:
    assert list(module.SETTINGS) == ["opt-1.3b", "gpt2-xl", "gpt3-175b"]
    for setting in module.SETTINGS.values():
        setting.check()
        assert setting.devices <= 256  # a pod of TPUv2
