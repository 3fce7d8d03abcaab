"""The committed efficiency constants are what the committed script finds on its half of the rows."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from worklode.hardware.presets import load_preset, preset_names

from .data import folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_efficiency", ROOT / "benchmarks" / "fit_efficiency.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_efficiency"] = module
    spec.loader.exec_module(module)
    return module


def test_committed_values_are_the_fit_and_hold_on_the_other_half(script: ModuleType) -> None:
    found = script.measurements(folder())
    for preset in script.PRESETS:
        values = script.fit(preset, found)
        assert 1 <= len(values) <= 4
        for name, value in values.items():
            # Within a coarse step: an operator's lane work may change a little without a new fit.
            step = script.CONSTANTS[name][1]
            assert getattr(load_preset(preset), name) == pytest.approx(value, abs=step), (preset, name)
        chip = load_preset(preset)
        for kind, target in script.TARGETS.items():
            held_out = [m for m in found[kind] if m.preset == preset and not m.fitted]
            assert len(held_out) > 50
            assert script.mean_error(script.Predictor(held_out), chip, preset) < target, (preset, kind)


def test_every_constant_is_needed(script: ModuleType) -> None:
    """Without any one of them the fitted chip predicts its own half worse."""
    found = script.measurements(folder())
    ideal: dict[str, Any] = {"clock_share": 1.0, "hbm_share": 1.0, "operator_start_s": 0.0}
    for preset in script.PRESETS:
        chip = load_preset(preset)
        seen = [m for m in found["products"] if m.preset == preset and m.fitted]
        predictor = script.Predictor(seen)
        fitted = script.mean_error(predictor, chip, preset)
        for name, value in ideal.items():
            assert script.mean_error(predictor, replace(chip, **{name: value}), preset) > fitted * 1.05, name


def test_chips_without_measurements_are_ideal(script: ModuleType) -> None:
    for name in preset_names():
        chip = load_preset(name)
        constants = (chip.clock_share, chip.hbm_share, chip.operator_start_s, chip.operator_fill_s)
        assert (constants == (1.0, 1.0, 0.0, 0.0)) == (name not in script.PRESETS), name
