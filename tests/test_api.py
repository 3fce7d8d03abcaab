"""The notebook's interface: three calls, options, and bad input."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

import worklode
from worklode.errors import SpecError
from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space

pytest.importorskip("torch", reason="torch is an extra of the package")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKLODE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_three_calls_in_a_fresh_process() -> None:
    code = """
import worklode
graph = worklode.capture("resnet18", batch=2)
result = worklode.mine(graph, budget="tpuv2", top_k=3)
frame = result.to_frame()
assert callable(worklode.capture)
print(len(frame), frame["iteration_time_s"].is_monotonic_increasing, result.improvement >= 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, ordered, improved = done.stdout.split()
    assert int(count) > 3
    assert (ordered, improved) == ("True", "True")


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, worklode; print(sorted(m for m in sys.modules if m in ('numpy', 'torch', 'numba', 'pandas')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_workload_names_and_graphs_are_taken_alike() -> None:
    graph = worklode.capture("resnet18", batch=2)
    by_graph = worklode.evaluate(graph, "tpuv2")
    by_accelerator = worklode.evaluate(graph, load_preset("tpuv2"))
    assert by_graph.to_dict() == by_accelerator.to_dict()
    assert graph.info.samples == 2


def test_the_frame_holds_every_scheduled_design_with_its_units() -> None:
    result = worklode.mine(worklode.capture("resnet18", batch=2), area_mm2=400.0, tdp_w=200.0, top_k=2)
    frame = result.to_frame()
    assert len(result.top_k) == 2
    assert len(frame) == len(result.search.candidates)
    assert {"num_tensor_cores", "sram_bytes", "area_mm2", "tdp_w", "iteration_time_s", "energy_j"} <= set(frame.columns)
    assert (frame["area_mm2"] <= 400.0).all()
    assert (frame["tdp_w"] <= 200.0).all()
    assert result.budget_baseline is None
    assert result.improvement is None


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({}, "budget"),
        ({"budget": "tpu"}, "tpu"),
        ({"area_mm2": -1.0}, "-1"),
        ({"budget": "tpuv2", "objective": "speed"}, "speed"),
        ({"budget": "tpuv2", "top_k": 0}, "0"),
        ({"budget": "tpuv2", "memory": "some"}, "some"),
        ({"budget": "tpuv2", "weights": (1.0, 2.0)}, "2"),
        ({"budget": "tpuv2", "weights": (-1.0,)}, "-1"),
        ({"budget": "tpuv2", "space": "nowhere.yaml"}, "nowhere.yaml"),
        ({"budget": "tpuv2", "technology": "nowhere.yaml"}, "nowhere.yaml"),
        ({"budget": "tpuv2", "mode": "many"}, "many"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], culprit: str) -> None:
    graph = worklode.capture("resnet18", batch=2)
    with pytest.raises(SpecError) as raised:
        worklode.mine(graph, **arguments)  # type: ignore[arg-type]
    assert culprit in str(raised.value)


def test_memory_rule_keeps_what_fits() -> None:
    graph = worklode.capture("resnet18", batch=256)
    budget = load_preset("tpuv2")
    needed = worklode.evaluate(graph, budget).memory.total_peak
    assert needed <= budget.hbm_bytes
    result = worklode.mine(graph, budget=budget)
    assert all(design.evaluations[0].memory_fits for design in result.top_k)
    too_large = worklode.mine(graph, area_mm2=600.0, memory="fit", space=_one_stack())
    assert too_large.best is None or too_large.best.evaluations[0].memory_fits


def _one_stack() -> DesignSpace:
    return replace(default_space(load_preset("tpuv2")), hbm_stacks=(1,), hbm_stack_bytes=2**20)


def test_unknown_attribute_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        worklode.nothing  # noqa: B018
