"""Draws of constants: all at once equals one by one, common draws cancel, spreads behave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.graph.builders import transformer_training

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_mm2
from worklode.hardware.energy import energy_constants, hbm_energy_per_byte_j
from worklode.hardware.power import tdp_w
from worklode.hardware.presets import load_preset, preset_names
from worklode.hardware.technology import load_technology
from worklode.report.table import _ranking
from worklode.search.evaluate import Evaluator
from worklode.search.objective import Objective
from worklode.search.ranking import objective_draws, ranking
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
    figures = evaluator.figures(accelerator, effort="thorough")
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


def _two_designs() -> tuple[Accelerator, Accelerator]:
    """More arrays on the one hand, more memory on the other."""
    base = load_preset("tpuv4")
    return replace(base, sram_bytes=base.sram_bytes // 4), replace(base, num_tensor_cores=base.num_tensor_cores - 1)


@pytest.mark.parametrize("objective", [Objective.THROUGHPUT_PER_TDP, Objective.ENERGY, Objective.ENERGY_DELAY])
def test_objective_of_all_draws_at_once_equals_one_by_one(objective: Objective) -> None:
    draws = 5
    graphs = [transformer_training(tokens=256, width=256).graph(), transformer_training(tokens=64, width=512).graph()]
    drawn = drawn_technology(TECHNOLOGY, draws)
    best, _ = _two_designs()
    found = objective_draws([Evaluator(g, TECHNOLOGY) for g in graphs], objective, best, drawn, (1.0, 3.0), draws)
    for index in range(draws):
        one = TECHNOLOGY.with_values({c.name: float(np.broadcast_to(c.value, draws)[index]) for c in drawn.constants})
        each = [Evaluator(graph, one).figures(best, effort="thorough") for graph in graphs]
        first, second = (objective.figure(time_s=f.time_s, tdp_w=f.tdp_w, energy_j=f.energy_j) for f in each)
        assert found[index] == pytest.approx((first * second**3) ** 0.25)


def test_ranking_under_common_draws() -> None:
    evaluator = Evaluator(transformer_training(tokens=256, width=256).graph(), TECHNOLOGY)
    best, other = _two_designs()
    found = ranking([evaluator], Objective.ENERGY, [best, best, other], load_preset("tpuv4"))
    itself, rival, budget = found["against"]
    assert [entry["rank"] for entry in found["against"]] == [2, 3, None]
    # What two designs share cancels: a design against itself never wins, whatever is drawn.
    assert (itself["beats"], itself["ties"]) == (0.0, 1.0)
    assert itself["improvement"]["p5"] == itself["improvement"]["p95"] == 1.0
    figures = [objective_draws([evaluator], Objective.ENERGY, d, drawn_technology(TECHNOLOGY)) for d in (best, other)]
    assert rival["beats"] == float((figures[0] < figures[1]).mean())
    reverse = ranking([evaluator], Objective.ENERGY, [other, best], None)["against"]
    assert reverse[0]["beats"] + rival["beats"] + rival["ties"] == pytest.approx(1.0)
    assert 0 <= budget["beats"] <= 1 and found["schedule_draws"] == 0


def test_a_ranking_may_be_open() -> None:
    """Lanes that hardly work cost leakage, little SRAM costs traffic: the draw may decide which is better."""
    evaluator = Evaluator(transformer_training(tokens=2048, width=1024).graph(), TECHNOLOGY, mode="uninterrupted")
    base = load_preset("tpuv4")
    many_lanes = replace(base, num_vector_cores=4 * base.num_vector_cores)
    shares = []
    for sram_bytes in (2**20, 10 * 2**20, 24 * 2**20):
        rival = replace(base, sram_bytes=sram_bytes)
        shares.append(ranking([evaluator], Objective.ENERGY_DELAY, [many_lanes, rival], None)["against"][0]["beats"])
    assert shares[0] > 0.99 and 0.02 < shares[1] < 0.98 and shares[2] < 0.01


def test_throughput_of_an_ideal_chip_is_not_drawn() -> None:
    evaluator = Evaluator(transformer_training(tokens=256, width=256).graph(), TECHNOLOGY)
    best, other = _two_designs()
    entry = ranking([evaluator], Objective.THROUGHPUT, [best, other], None)["against"][0]
    assert (entry["beats"], entry["ties"], entry["improvement"]) == (None, None, None)
    gpu = load_preset("a100-80gb")
    found = ranking([evaluator], Objective.THROUGHPUT, [gpu, replace(gpu, num_tensor_cores=100)], None)
    assert found["schedule_draws"] > 0
    entry = found["against"][0]
    assert 0 <= entry["beats"] <= 1 and entry["improvement"]["p5"] <= entry["improvement"]["p95"]
    document = {"uncertainty": None, "objective": "throughput", "ranking": {"draws": 1, "against": [entry]}}
    assert any("beats it in" in str(column.header) for column in _tables(document))
    none = {**document, "ranking": {"draws": 1, "against": [{**entry, "beats": None}]}}
    assert not list(_tables(none))
    assert any("does not depend on the constants" in str(part) for part in _ranking(none))


def _tables(document: dict[str, Any]) -> Iterator[Any]:
    for part in _ranking(document):
        yield from getattr(part, "columns", ())
