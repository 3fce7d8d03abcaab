"""Setting and accelerator together: what is tried, what is refused, and that nothing simulated is better."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from tests.search.test_distributed import BUDGET, GPT, TECHNOLOGY, every_design, small_space

from worklode import api
from worklode.errors import SpecError
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.network_file import load_network
from worklode.search.devices import JointResult
from worklode.search.evaluate import silicon
from worklode.search.training_step import divided_model, evaluate_divided


@cache
def captured(microbatch: int) -> TrainingGraph:
    return api.capture(GPT, batch=microbatch, seq_len=128)


def chosen(**options: Any) -> JointResult:
    given: dict[str, Any] = {"budget": BUDGET, "space": small_space(), "workers": 1, "memory": "ignore", **options}
    return api.mine_devices(captured, 4, 16, **given)


def test_no_setting_is_better_on_the_design_found() -> None:
    """Every setting of four devices, divided anew and simulated on the design of the answer."""
    found = chosen(microbatch=1)
    best = found.best.best
    assert best is not None
    settings = [(s, t, 4 // s // t) for s in (1, 2, 4) for t in (1, 2, 4) if 4 % (s * t) == 0]
    assert found.simulated == len(settings)
    times = {}
    for pipeline, tensor, data in settings:
        setting = api.parallel_setting(pipeline=pipeline, tensor=tensor, data=data, global_batch=16, microbatch=1)
        model = divided_model(captured(1), setting, TECHNOLOGY)
        done = evaluate_divided(model, best.accelerator, setting, load_network("tpuv3"), explain=False)
        times[pipeline, tensor, data] = done.iteration_time_s
    assert best.figure <= min(times.values()) * (1 + 1e-6)
    answer = found.best.tasks[0].setting
    assert times[answer.pipeline, answer.tensor, answer.data] == pytest.approx(best.figure, rel=1e-6)
    figures = [each.figure for each in found.settings]
    assert figures == sorted(figures)
    assert any(each.mined for each in found.settings)


def test_what_is_given_is_kept() -> None:
    found = chosen(pipeline=2, tensor=1, microbatch=2, recompute="full")
    for each in found.settings:
        setting = each.setting
        assert (setting.pipeline, setting.tensor, setting.data, setting.microbatch) == (2, 1, 2, 2)
        assert setting.recompute == "full"
        assert setting.devices == 4
        assert setting.global_batch == 16


def test_recomputation_is_tried_only_where_it_is_needed() -> None:
    """Everything fits with memory ignored: no policy but the first is simulated, and the rest is counted."""
    found = chosen(pipeline=4, microbatch=1)
    assert {str(each.setting.recompute) for each in found.settings} == {"none"}
    assert found.dominated > 0


def test_settings_larger_than_any_memory_are_refused_with_their_number() -> None:
    tight = small_space(hbm_stacks=(1,))
    need = max(
        stage.memory.total
        for stage in chosen(pipeline=4, microbatch=4).settings[0].evaluation.stages
        if stage.memory is not None
    )
    space = tight.__class__(**{**_fields(tight), "hbm_stack_bytes": need - 1})
    alone: dict[str, Any] = {"budget": None, "area_mm2": 700.0, "network": "tpuv3"}
    found = chosen(pipeline=4, memory="fit", space=space, recompute="none", **alone)
    assert all(each.setting.microbatch < 4 for each in found.settings)
    reasons = dict(found.refused)
    assert reasons["a stage does not fit any design, recompute none"] >= 1


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def test_refusals_say_why() -> None:
    with pytest.raises(SpecError, match="does not divide"):
        chosen(tensor=3)
    with pytest.raises(SpecError, match="is not positive"):
        chosen(microbatch=0)
    with pytest.raises(SpecError, match="no setting can be meant"):
        api.mine_devices(captured, 16, 1, data=16, budget=BUDGET, space=small_space())


def test_a_step_that_does_not_heed_the_microbatch_is_tried_as_it_is() -> None:
    """A saved graph has the samples it was captured with, whatever is asked for."""
    graph = captured(2)
    found = api.mine_devices(
        lambda _: graph, 4, 16, budget=BUDGET, space=small_space(), workers=1, memory="ignore", tensor=1
    )
    assert {each.setting.microbatch for each in found.settings} == {2}
    assert any("captured with 2 samples" in why for why, _ in found.refused)


def test_auto_memory_compares_settings_where_nothing_fits() -> None:
    tiny = small_space(hbm_stacks=(1,))
    tiny = tiny.__class__(**{**_fields(tiny), "hbm_stack_bytes": 1 << 20})
    given: dict[str, Any] = {"area_mm2": 700.0, "network": "tpuv3", "space": tiny, "workers": 1, "microbatch": 1}
    found = api.mine_devices(captured, 2, 4, **given)
    assert found.best.best is not None
    assert not found.best.best.evaluations[0].fits
    with pytest.raises(SpecError, match="model state alone"):
        api.mine_devices(captured, 2, 4, memory="fit", **given)


def test_settings_that_need_more_than_any_legal_design_has_do_not_hide_the_others() -> None:
    """The largest HBM of the space is beyond the area limit; a setting that fits the rest is found all the same."""
    space = small_space(hbm_stacks=(1, 8))
    need = {
        each.setting.pipeline: max(s.memory.total for s in each.evaluation.stages if s.memory is not None)
        for each in chosen(tensor=1, microbatch=1).settings
    }
    stack = (need[4] + need[1]) // 2
    space = space.__class__(**{**_fields(space), "hbm_stack_bytes": stack})
    small = min(silicon(design, TECHNOLOGY).area_mm2 for design in every_design(space) if design.hbm_stacks == 8)
    found = api.mine_devices(
        captured, 4, 16, area_mm2=0.99 * small, network="tpuv3", space=space, workers=1, tensor=1, microbatch=1
    )
    assert found.best.best is not None
    assert found.best.best.evaluations[0].fits
