"""The committed constants of networks are what the committed script finds on its half of the rows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from worklode.hardware.network_file import load_network, network_names

from .data import folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_network", ROOT / "benchmarks" / "fit_network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_network"] = module
    spec.loader.exec_module(module)
    return module


def test_committed_values_are_the_fit_and_machines_with_the_same_links_share_them(script: ModuleType) -> None:
    found = script.measurements(folder())
    for preset, others in script.SHARED.items():
        values = script.fit(preset, found)
        assert len(values) <= 7
        for name in (preset, *others):
            committed = load_network(name)
            assert script.with_constants(committed, values) == committed, name


def test_every_constant_is_needed(script: ModuleType) -> None:
    """Without any one of them the rows that a fit may see are predicted worse, by a hundredth of the error at least."""
    found = script.measurements(folder())
    without = {"start": 0.0, "latency": 0.0, "eager_share": 1.0, "bulk_start": 0.0, "sustained_share": 1.0, "copy": 1e9}
    for preset, others in script.SHARED.items():
        seen = [m for m in found if m.network in (preset, *others) and m.by_script]
        values = script.fit(preset, found)
        best = script.mean_error(seen, load_network(preset))
        adding = {"reduction_share": 0.0} if "reduction_share" in values else {}
        for name, value in {**without, **adding}.items():
            changed = script.with_constants(load_network(preset), {**values, name: value})
            assert script.mean_error(seen, changed) > best * 1.01, (preset, name)


def test_networks_without_measurements_have_one_protocol(script: ModuleType) -> None:
    fitted = {name for preset, others in script.SHARED.items() for name in (preset, *others)}
    for name in network_names():
        network = load_network(name)
        bare = (network.start_s, network.bulk_start_s, network.eager_share, network.copy_bytes_per_s)
        assert (bare == (0.0, 0.0, 1.0, None)) == (name not in fitted), name
