"""Trees of figures: parts add up, leaves name what moves them, elasticities by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.graph.builders import transformer_training

from worklode import cli
from worklode.hardware.area import area_mm2
from worklode.hardware.power import tdp_w
from worklode.hardware.presets import field_sources, load_preset, preset_names
from worklode.hardware.technology import load_technology
from worklode.search.evaluate import Evaluator
from worklode.search.explanation import Node, explain_area, explain_energy, explain_tdp, explain_time

TECHNOLOGY = load_technology()


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def leaf(tree: Node, part: str, name: str) -> Node:
    (found,) = (node for node in tree.children if node.name == part)
    (wanted,) = (node for node in found.children if node.name == name)
    return wanted


@pytest.mark.parametrize("preset", preset_names())
def test_parts_add_up_and_every_leaf_has_a_source(preset: str) -> None:
    accelerator, sources = load_preset(preset), field_sources(preset)
    area = explain_area(accelerator, TECHNOLOGY, sources)
    power = explain_tdp(accelerator, TECHNOLOGY, sources)
    assert area.value == pytest.approx(area_mm2(accelerator, TECHNOLOGY).total)
    assert power.value == pytest.approx(tdp_w(accelerator, TECHNOLOGY).total)
    for tree in (area, power):
        assert sum(part.value for part in tree.children) == pytest.approx(tree.value)
        assert sum(part.share or 0.0 for part in tree.children) == pytest.approx(1.0)
        for part in tree.children:
            assert part.children, part.name
            for node in part.children:
                assert node.elasticity is not None and node.source, node.name


def test_elasticities_by_hand() -> None:
    accelerator = load_preset("a100-80gb")
    area = explain_area(accelerator, TECHNOLOGY, {})
    assert leaf(area, "sram", "sram_bytes").elasticity == pytest.approx(1.0, abs=1e-3)
    assert leaf(area, "sram", "bit_cell_area").value == TECHNOLOGY.at("bit_cell_area", 7)
    # (1 + spare) rises with spare by spare/(1 + spare).
    spare = leaf(area, "sram", "spare_fraction")
    assert spare.elasticity == pytest.approx(0.185 / 1.185, abs=1e-3)
    power = explain_tdp(accelerator, TECHNOLOGY, {})
    assert leaf(power, "tensor_core_macs", "clock_hz").elasticity == pytest.approx(1.0, abs=1e-3)
    assert all(node.name != "clock_hz" for node in walk(area))


def test_constants_of_another_family_do_not_move_anything() -> None:
    names = {node.name for node in walk(explain_area(load_preset("tpuv4"), TECHNOLOGY, {}))}
    assert "sram_area_overhead_systolic" in names
    assert not any(name.endswith(("_simt", "_embedded")) for name in names)


def test_energy_and_time_of_a_workload() -> None:
    evaluator = Evaluator(transformer_training(tokens=256, width=256).graph(), TECHNOLOGY)
    accelerator = load_preset("a100-80gb")
    found = evaluator.evaluate(accelerator)
    energy = explain_energy(evaluator, accelerator, {})
    assert energy.value == pytest.approx(found.energy_j)
    for part in energy.children:
        product = 1.0
        for factor in part.children:
            product *= factor.value
        assert part.value == pytest.approx(product)
    time = explain_time(evaluator, accelerator, {})
    assert time.value == pytest.approx(found.iteration_time_s)
    bound, operators, depends = time.children
    assert sum(node.value for node in bound.children) == pytest.approx(time.value)
    assert 0 < operators.value <= time.value * (1 + 1e-9)
    by_name = {node.name: node.elasticity for node in depends.children}
    clock = by_name["clock_share"]
    assert clock is not None and -1.01 < clock < 0
    start = by_name["operator_start_s"]
    assert start is not None and start > 0
    ideal = replace(accelerator, operator_start_s=0.0)
    assert "operator_start_s" not in {n.name for n in explain_time(evaluator, ideal, {}).children[2].children}


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(("explain-number", "area", "--on", "tpuv4", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["figure"] == "area" and document["tree"]["unit"] == "mm2"
    assert cli.run(("explain-number", "tdp", "--on", "a100-80gb")) == 0
    assert "hbm_energy_per_byte" in capsys.readouterr().out
    assert cli.run(("explain-number", "time", "--on", "nonsense")) == 2
    err = capsys.readouterr().err
    assert "unknown preset" in err and "of a workload" in err
