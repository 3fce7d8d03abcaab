"""Draws of constants: all at once equals one by one, common draws cancel, spreads behave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.graph.builders import transformer_training

from worklode.hardware.area import area_mm2
from worklode.hardware.energy import energy_constants, hbm_energy_per_byte_j
from worklode.hardware.power import tdp_w
from worklode.hardware.presets import load_preset, preset_names
from worklode.hardware.technology import load_technology
from worklode.search.evaluate import Evaluator
from worklode.search.uncertainty import confidence, drawn_technology, silicon_draws, time_draws, uncertainty

TECHNOLOGY = load_technology()


@pytest.mark.parametrize("preset", preset_names())
def test_all_draws_at_once_equal_one_by_one(preset: str) -> None:
    draws = 7
    drawn = drawn_technology(TECHNOLOGY, draws)
    accelerator = load_preset(preset)
    area, power = silicon_draws(accelerator, drawn, draws)
    for index in range(draws):
        values = {c.name: float(np.broadcast_to(c.value, draws)[index]) for c in drawn.constants}
        one = TECHNOLOGY.with_values(values)
        assert area[index] == pytest.approx(area_mm2(accelerator, one).total)
        assert power[index] == pytest.approx(tdp_w(accelerator, one).total)


def test_draws_keep_their_ranges_and_are_repeatable() -> None:
    drawn, again = drawn_technology(TECHNOLOGY, 100), drawn_technology(TECHNOLOGY, 100)
    moved = 0
    for constant, other in zip(drawn.constants, again.constants, strict=True):
        values = np.asarray(constant.value)
        np.testing.assert_array_equal(values, np.asarray(other.value))
        assert (values >= constant.low).all() and (values <= constant.high).all()
        moved += values.ndim
    assert moved > 40


def test_hbm_energy_is_linear_between_generations() -> None:
    rates = np.linspace(1e11, 2e12, 200)
    knots = [TECHNOLOGY.value(f"{name}_stack_rate") for name in ("hbm2", "hbm3", "hbm3e")]
    energies = [TECHNOLOGY.value(f"{name}_energy_per_byte") for name in ("hbm", "hbm3", "hbm3e")]
    expected = np.interp(rates, knots, energies) + TECHNOLOGY.value("hbm_path_energy_per_byte")
    np.testing.assert_allclose(hbm_energy_per_byte_j(TECHNOLOGY, rates), expected)


def test_spreads_of_a_workload() -> None:
    evaluator = Evaluator(transformer_training(tokens=256, width=256).graph(), TECHNOLOGY)
    gpu, tpu = load_preset("a100-80gb"), load_preset("tpuv4")
    found = uncertainty(evaluator, gpu)
    for name in ("area_mm2", "tdp_w", "energy_j", "iteration_time_s"):
        spread = found[name]
        assert 0 < spread["p5"] < spread["p50"] < spread["p95"], name
    time_s = evaluator.figures(gpu).time_s
    assert found["iteration_time_s"]["p5"] < time_s < found["iteration_time_s"]["p95"]
    assert uncertainty(evaluator, tpu)["iteration_time_s"] is None
    assert time_draws(evaluator, tpu) is None
    assert found == uncertainty(evaluator, gpu)


def test_without_ranges_nothing_moves() -> None:
    constants = tuple(replace(c, low=c.value, high=c.value) for c in TECHNOLOGY.constants)
    certain = replace(TECHNOLOGY, constants=constants)
    evaluator = Evaluator(transformer_training(tokens=64, width=64).graph(), certain)
    accelerator = load_preset("tpuv3")
    found = uncertainty(evaluator, accelerator)
    figures = evaluator.figures(accelerator)
    for name, value in (("area_mm2", figures.area_mm2), ("tdp_w", figures.tdp_w), ("energy_j", figures.energy_j)):
        assert found[name]["p5"] == pytest.approx(value) and found[name]["p95"] == pytest.approx(value)
    assert energy_constants(accelerator, certain) == energy_constants(accelerator, TECHNOLOGY)


def test_confidence_in_a_budget() -> None:
    budget = load_preset("tpuv4")
    same = confidence(budget, budget, TECHNOLOGY)
    assert (same["keeps_area"], same["keeps_tdp"], same["keeps_both"]) == (1.0, 1.0, 1.0)
    assert same["area_ratio"]["p5"] == same["area_ratio"]["p95"] == 1.0
    smaller = confidence(replace(budget, num_tensor_cores=1, sram_bytes=2**20), budget, TECHNOLOGY)
    assert smaller["keeps_both"] == 1.0 and smaller["area_ratio"]["p95"] < 1
    # More logic for less memory: which is larger depends on the draw.
    area = area_mm2(budget, TECHNOLOGY)
    per_core = area.tensor_core_macs / budget.num_tensor_cores
    saved = 3 * per_core / (area.sram / budget.sram_bytes)
    traded = replace(budget, num_tensor_cores=11, sram_bytes=int(budget.sram_bytes - saved))
    assert 0.05 < confidence(traded, budget, TECHNOLOGY)["keeps_area"] < 0.95
