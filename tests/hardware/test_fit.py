"""The committed constants are what the committed script finds; held-out chips are predicted as well as said."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from worklode.hardware.technology import load_technology

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_technology", ROOT / "benchmarks" / "fit_technology.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_technology"] = module
    spec.loader.exec_module(module)
    return module


def test_committed_values_are_the_fit(script: ModuleType) -> None:
    technology = load_technology()
    values = script.fit(technology)
    fitted = {constant.name for constant in technology.constants if constant.status == "fitted"}
    assert set(values) == fitted
    for name, value in values.items():
        assert technology.constant(name).value == pytest.approx(value, rel=2e-3), name


def test_at_most_four_constants_per_family_are_fitted() -> None:
    fitted = [constant.name for constant in load_technology().constants if constant.status == "fitted"]
    for family in ("systolic", "simt", "embedded"):
        assert 1 <= sum(name.endswith(family) for name in fitted) <= 4
    assert all(name.endswith(("systolic", "simt", "embedded")) for name in fitted)


def test_held_out_chips(script: ModuleType) -> None:
    """Predicted, not fitted: H100, A100's whole die, TPUv4's power, H200, NVDLA with 1024 and 128 MACs.

    V100 is missed by far (docs/models/area.md): its multiprocessor is a simpler one than A100's, from which the model
    of the family comes, and 12 nm scaling is coarse. The miss is pinned so that a change of it is noticed.
    """
    for what, modelled, truth in script.held_out(load_technology()):
        if what.startswith("v100"):
            assert 1.3 < modelled / truth < 1.8, what
        else:
            assert modelled == pytest.approx(truth, rel=0.13), what
