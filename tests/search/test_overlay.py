"""Constants of an overlay that changed nothing are named, and only those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from worklode.hardware.area import area_mm2
from worklode.hardware.presets import load_preset, preset_names
from worklode.hardware.technology import load_technology
from worklode.search.overlay import idle_overlay

SHIPPED = load_technology()


def overlay(path: Path, text: str) -> Path:
    file = path / "overlay.yaml"
    file.write_text(f"constants:\n{text}")
    return file


def test_without_an_overlay_nothing_is_said() -> None:
    assert idle_overlay(SHIPPED, [load_preset("tpuv4")]) == ()


def test_a_constant_that_matters_is_not_named_and_the_rest_is(tmp_path: Path) -> None:
    text = "  hbm_phy_area: 12\n  mac_energy_bfloat16: 1pJ\n  mac_area_int8: 400um2\n  fixed_area_simt: 900mm2\n"
    technology = load_technology(overlay(tmp_path, text))
    (warning,) = idle_overlay(technology, [load_preset("tpuv4")])
    assert "mac_area_int8, fixed_area_simt: no area, power or energy" in warning
    assert "7 nm" in warning and "hbm_phy_area" not in warning and "mac_energy_bfloat16" not in warning
    # Of two designs it is enough that one depends on it.
    (both,) = idle_overlay(technology, [load_preset("tpuv4"), load_preset("a100-80gb")])
    assert "in mac_area_int8: no" in both
    assert idle_overlay(technology, [load_preset(name) for name in preset_names()]) == ()


def test_the_shipped_value_again(tmp_path: Path) -> None:
    file = overlay(tmp_path, f"  hbm_phy_area: {SHIPPED.value('hbm_phy_area')}\n")
    (warning,) = idle_overlay(load_technology(file), [load_preset("tpuv4")])
    assert warning.endswith("had no effect in hbm_phy_area: the same as the shipped value")
    # It has no range any more, which moves the spreads of --uncertainty.
    assert idle_overlay(load_technology(file), [load_preset("tpuv4")], ranges=True) == ()
    (unused,) = idle_overlay(
        load_technology(overlay(tmp_path, "  mac_area_int8: {value: 1, low: 0.5, high: 2, unit: um2}\n")),
        [load_preset("tpuv4")],
        ranges=True,
    )
    assert "mac_area_int8" in unused


def test_the_same_value_for_another_node_matters(tmp_path: Path) -> None:
    constant = SHIPPED.constant("mac_area_bfloat16")
    value = constant.value * 1e6
    file = overlay(tmp_path, f"  mac_area_bfloat16: {{value: {value!r}, unit: um2, node_nm: 7}}\n")
    technology, design = load_technology(file), load_preset("tpuv4")
    assert area_mm2(design, technology).total > area_mm2(design, SHIPPED).total
    assert idle_overlay(technology, [design]) == ()


def test_an_effect_on_any_of_many_designs_counts(tmp_path: Path) -> None:
    technology = load_technology(overlay(tmp_path, "  hbm_phy_area: 12\n"))
    design = load_preset("tpuv4")
    many = [replace(design, vector_lanes=lanes) for lanes in range(1, 500)]
    assert idle_overlay(technology, many) == ()
    # Without designs, as where the limits are infeasible, nothing is claimed of dependence.
    assert idle_overlay(technology, []) == ()


@pytest.mark.parametrize("text", ["constants: {}\n"])
def test_an_overlay_without_constants(tmp_path: Path, text: str) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text(text)
    (warning,) = idle_overlay(load_technology(file), [load_preset("tpuv4")])
    assert "no constants" in warning
