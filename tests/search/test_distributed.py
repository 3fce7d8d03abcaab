"""Mining for many devices against looking at every design, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import api
from worklode.errors import SpecError
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.network_file import load_network
from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space
from worklode.hardware.technology import load_technology
from worklode.search.distributed_document import distributed_document
from worklode.search.distributed_result import DistributedResult
from worklode.search.division import Division
from worklode.search.evaluate import silicon
from worklode.search.iteration_model import IterationModel
from worklode.search.objective import Objective
from worklode.search.parallel_evaluation import ParallelEvaluation
from worklode.search.training_step import divided_model, evaluate_divided

TECHNOLOGY = load_technology()
BUDGET = load_preset("tpuv3")
# A vocabulary that makes the last stage the slowest: mixes of designs have something to gain.
GPT = "gpt:layers=8,hidden=256,heads=4,vocab=8192,context=128"
SETTINGS: dict[str, dict[str, Any]] = {
    "1f1b": {"pipeline": 4, "global_batch": 16},
    "tensor": {"pipeline": 2, "tensor": 2, "data": 2, "global_batch": 16, "sequence_parallel": True},
    "interleaved": {"pipeline": 2, "global_batch": 8, "schedule": "interleaved:2"},
    "zero bubble": {"pipeline": 4, "global_batch": 16, "schedule": "zb-h1"},
    "gpipe": {"pipeline": 4, "data": 2, "global_batch": 16, "schedule": "gpipe"},
    "ZeRO-1": {"pipeline": 2, "data": 4, "global_batch": 16, "zero": 1},
    "ZeRO-2": {"pipeline": 2, "data": 2, "global_batch": 16, "zero": 2},
    "ZeRO-3": {"pipeline": 2, "data": 4, "global_batch": 16, "zero": 3},
    "zero bubble, ZeRO-2": {"pipeline": 2, "data": 4, "global_batch": 16, "zero": 2, "schedule": "zb-h1"},
    "zero bubble, ZeRO-3": {"pipeline": 2, "data": 2, "global_batch": 16, "zero": 3, "schedule": "zb-h1"},
    "zero bubble, replicas": {"pipeline": 2, "data": 4, "global_batch": 16, "schedule": "zb-h1"},
    "full": {"pipeline": 2, "tensor": 2, "global_batch": 8, "recompute": "full"},
    "uneven": {"pipeline": 3, "global_batch": 12},
    "data alone": {"data": 8, "global_batch": 16},
    "one after another": {"pipeline": 2, "data": 2, "global_batch": 8, "overlap_data": False},
}


@cache
def captured(name: str = GPT) -> TrainingGraph:
    return api.capture(name, batch=1, seq_len=128)


def small_space(**axes: tuple[int, ...]) -> DesignSpace:
    chosen: dict[str, Any] = {
        "tensor_core_rows": (64, 128),
        "tensor_core_cols": (64, 128),
        "vector_lanes": (512, 1024),
        "num_tensor_cores": (2, 4, 8),
        "num_vector_cores": (1, 2),
        "sram_bytes": (4 << 20, 16 << 20),
        "hbm_stacks": (1, 2),
    }
    return replace(default_space(BUDGET), **{**chosen, **axes})


def every_design(space: DesignSpace) -> list[Accelerator]:
    return [space.accelerator(space.indices(position)) for position in range(space.size)]


def within(design: Accelerator) -> bool:
    ours, budget = silicon(design, TECHNOLOGY), silicon(BUDGET, TECHNOLOGY)
    return ours.area_mm2 <= budget.area_mm2 and ours.tdp_w <= budget.tdp_w


def mined(setting: dict[str, Any], **options: Any) -> DistributedResult:
    made = api.parallel_setting(**setting)
    given: dict[str, Any] = {"budget": BUDGET, "space": small_space(), "memory": "ignore", "workers": 1, **options}
    return api.mine_setting(captured(), made, **given)


def simulated(setting: dict[str, Any], design: Any, chunks: Any = ()) -> ParallelEvaluation:
    made = api.parallel_setting(**setting)
    model = model_of(tuple(sorted(setting.items())))
    return evaluate_divided(model, design, made, load_network("tpuv3"), chunks=chunks, explain=False)


@cache
def model_of(setting: tuple[tuple[str, Any], ...]) -> Any:
    return divided_model(captured(), api.parallel_setting(**dict(setting)), TECHNOLOGY)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_time_of_the_search_is_a_lower_bound_of_the_simulated_one(name: str) -> None:
    """On unlike designs, and so for bounds of times too, since no time has a negative factor."""
    setting = SETTINGS[name]
    made = api.parallel_setting(**setting)
    found = simulated(setting, BUDGET)
    chunks = tuple(sorted(chunk for stage in found.stages for chunk in stage.segments))
    model = IterationModel(Division(model_of(tuple(sorted(setting.items()))), made, load_network("tpuv3"), chunks))
    assert sorted(stage for stages in model.classes for stage in stages) == list(range(made.pipeline))
    loose = 0.5 if "ZeRO" in name else {"interleaved": 0.9, "uneven": 0.95}.get(name, 0.97)
    for design in (BUDGET, *every_design(small_space())[::61]):
        times = [e.step(design, effort="thorough").schedule.makespan_s for e in model.evaluators]
        bound = model.time.time_s(times)
        exact = simulated(setting, design, chunks).iteration_time_s
        assert loose * exact <= bound <= exact * (1 + 1e-9)
    assert all((factor >= 0).all() for factor, _ in model.time.terms)


@pytest.mark.parametrize("objective", ["throughput", "throughput/tdp"])
@pytest.mark.parametrize("name", ["1f1b", "tensor", "zero bubble"])
def test_one_design_for_all_is_the_best_of_the_space(name: str, objective: str) -> None:
    """Every design of the space simulated: none is better than the one mined, and none below the bound."""
    found = mined(SETTINGS[name], objective=objective)
    assert found.best is not None
    assert found.certificate is not None
    goal = Objective.parse(objective)
    figures = {}
    for design in (BUDGET, *every_design(small_space())):
        if within(design):
            time_s = simulated(SETTINGS[name], design, found.chunks[0]).iteration_time_s
            figures[design] = goal.figure(time_s=time_s, tdp_w=silicon(design, TECHNOLOGY).tdp_w, energy_j=0.0)
    least = min(figures.values())
    assert found.best.figure == pytest.approx(figures[found.best.accelerator])
    assert found.best.figure <= least * (1 + 1e-6)
    assert found.certificate.bound <= least * (1 + 1e-12)
    assert found.regret is not None
    assert found.regret >= 0.0
    order = [design.figure for design in found.top_k]
    assert order == sorted(order)


def test_a_mix_of_designs_is_no_worse_than_any_of_a_tiny_space() -> None:
    """All mixes of three classes of stages, simulated."""
    space = small_space(
        tensor_core_rows=(128,), num_tensor_cores=(2, 4), vector_lanes=(1024,), sram_bytes=(4 << 20,), hbm_stacks=(2,)
    )
    for objective in ("throughput", "throughput/tdp"):
        found = mined(SETTINGS["1f1b"], objective=objective, space=space)
        mixed = found.heterogeneous
        assert mixed is not None
        assert found.best is not None
        designs = [design for design in (BUDGET, *every_design(space)) if within(design)]
        classes = [each.stages for each in found.classes[0]]
        assert [len(stages) for stages in classes] == [1, 2, 1]
        least = float("inf")
        for choice in product(designs, repeat=3):
            of = {stage: design for stages, design in zip(classes, choice, strict=True) for stage in stages}
            evaluation = simulated(SETTINGS["1f1b"], [of[stage] for stage in range(4)], found.chunks[0])
            power = sum(silicon(of[stage], TECHNOLOGY).tdp_w for stage in range(4)) / 4
            figure = Objective.parse(objective).figure(time_s=evaluation.iteration_time_s, tdp_w=power, energy_j=0.0)
            least = min(least, figure)
        assert mixed.bound <= least * (1 + 1e-12)
        assert mixed.best.figure <= found.best.figure
        assert mixed.best.figure <= least * (1 + (1e-6 if objective == "throughput" else 2e-3))


def test_stages_with_slack_take_designs_of_less_power() -> None:
    """No design of the space that keeps the pace of the slowest stage draws less, stage by stage."""
    found = mined(SETTINGS["1f1b"])
    mixed = found.heterogeneous
    assert mixed is not None
    assert mixed.least_power is not None
    assert mixed.undecided <= 20
    assert mixed.least_power.tdp_w <= mixed.best.tdp_w
    pace_s = max(each.own_s(each.fastest.best) for each in found.classes[0])
    accelerators = mixed.least_power.evaluations[0].accelerators
    for each in found.classes[0]:
        chosen = silicon(accelerators[each.stages[0]], TECHNOLOGY).tdp_w
        for design in every_design(small_space()):
            if within(design) and silicon(design, TECHNOLOGY).tdp_w < chosen * (1 - 1e-12):
                own_s = each.own.time_s([e.step(design).schedule.makespan_s for e in each.evaluators])
                assert own_s > pace_s


def test_memory_is_held_against_every_stage() -> None:
    """`fit` demands the HBM of the fullest stage; a model that needs more than any design has is infeasible."""
    found = mined(SETTINGS["1f1b"], memory="fit")
    assert found.best is not None
    assert found.best.evaluations[0].fits
    needs = [stage.memory.total for stage in found.best.evaluations[0].stages if stage.memory is not None]
    assert found.limits.hbm_bytes == max(needs)
    tiny = replace(small_space(), hbm_stack_bytes=1 << 20)
    alone: dict[str, Any] = {"budget": None, "area_mm2": 700.0, "network": "tpuv3", "space": tiny}
    short = mined(SETTINGS["1f1b"], memory="fit", **alone)
    assert short.best is None
    assert short.certificate is None
    assert any(reason.constraint == "hbm_bytes" for reason in short.infeasible)
    # Where the largest HBM of the space does not hold the stages, `auto` compares designs all the same, and says so.
    ignored = mined(SETTINGS["1f1b"], memory="auto", **alone)
    assert ignored.best is not None
    assert not ignored.best.evaluations[0].fits
    assert any("memory was no limit" in warning for warning in distributed_document(ignored)["warnings"])


def test_one_design_for_a_set_of_workloads() -> None:
    """The weighted geometric mean: with all the weight on one workload the design is that one's own."""
    other = "gpt:layers=4,hidden=512,heads=4,vocab=512,context=128"
    setting = api.parallel_setting(**SETTINGS["tensor"])
    given: dict[str, Any] = {"budget": BUDGET, "space": small_space(), "memory": "ignore", "workers": 1}
    both = api.mine_setting([captured(), captured(other)], setting, weights=[1.0, 1.0], **given)
    assert both.best is not None
    times = [evaluation.iteration_time_s for evaluation in both.best.evaluations]
    assert both.best.figure == pytest.approx((times[0] * times[1]) ** 0.5)
    assert both.heterogeneous is None
    alone = api.mine_setting(captured(other), setting, **given)
    leaning = api.mine_setting([captured(), captured(other)], setting, weights=[1e-9, 1.0], **given)
    assert alone.best is not None
    assert leaning.best is not None
    assert leaning.best.evaluations[1].iteration_time_s == pytest.approx(alone.best.figure, rel=1e-6)


def test_the_answer_does_not_depend_on_workers() -> None:
    def document(workers: int) -> dict[str, Any]:
        found = distributed_document(mined(SETTINGS["tensor"], objective="throughput/tdp", workers=workers))
        found["search"] = {name: value for name, value in found["search"].items() if not name.endswith("time_s")}
        return found

    assert document(1) == document(2)


def test_a_time_limit_leaves_a_design_and_a_bound_that_holds() -> None:
    hurried = mined(SETTINGS["1f1b"], max_time_s=1e-6, space=default_space(BUDGET))
    calm = mined(SETTINGS["1f1b"], space=default_space(BUDGET))
    assert hurried.out_of_time
    assert not calm.out_of_time
    assert hurried.best is not None
    assert calm.best is not None
    assert hurried.certificate is not None
    assert hurried.certificate.bound <= calm.best.figure * (1 + 1e-12)
    assert hurried.best.figure >= calm.best.figure * (1 - 1e-9)


def test_settings_that_cannot_be_meant_are_refused_with_their_reason() -> None:
    with pytest.raises(SpecError, match="more than can be cut"):
        mined({"pipeline": 11, "global_batch": 11})
    with pytest.raises(SpecError, match="do not divide"):
        mined({"tensor": 3, "global_batch": 3})
    with pytest.raises(SpecError, match="energy"):
        mined(SETTINGS["1f1b"], objective="energy")
    with pytest.raises(SpecError, match="streams"):
        mined({**SETTINGS["1f1b"], "execution": "streams"})
    with pytest.raises(SpecError, match="no silicon budget"):
        mined(SETTINGS["1f1b"], budget=None)
    with pytest.raises(SpecError, match="--network"):
        mined(SETTINGS["1f1b"], budget=None, area_mm2=600.0)


def test_stages_that_are_alike_have_no_mix() -> None:
    assert mined({"data": 2, "global_batch": 4}).heterogeneous is None
