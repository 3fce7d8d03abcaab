"""Presets against what is published, and users' accelerator files."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from worklode.errors import SpecError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_mm2
from worklode.hardware.power import tdp_w
from worklode.hardware.presets import (
    PRESETS_FOLDER,
    dump_accelerator,
    load_accelerator,
    load_preset,
    preset_names,
    published,
)
from worklode.hardware.technology import load_technology

from .strategies import accelerators

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("WORKLODE_DATA", ROOT.parent / "shared" / "data"))
TECHNOLOGY = load_technology()

# name: die area [mm2] (all published bounds), power [W]; sources beside the numbers in presets/*.yaml
PUBLISHED = {
    "tpuv2": ((611, 625), 280),  # CACM 2020 < 611, ISCA 2021 < 625; TDP
    "tpuv3": ((648, 700), 450),  # CACM 2020 < 648, ISCA 2021 < 700; TDP
    "tpuv4": ((600,), 192),  # ISCA 2023, Table 4: < 600; maximum measured in production, ASIC + HBM
    "tpuv4i": ((400,), 175),  # ISCA 2021: < 400; TDP
    "nvdla-small": ((0.55,), 0.055),  # primer: 64 MACs at 16 nm; peak power
    "nvdla-large": ((3.3,), 0.766),  # primer: 2048 MACs at 16 nm; peak power
    "a100-80gb": ((826,), 400),  # white paper 2020
    "h100": ((814,), 700),  # white paper 2022
}


def test_all_presets_are_there() -> None:
    assert preset_names() == tuple(sorted(PUBLISHED))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_modelled_area_and_power_are_within_ten_percent(name: str) -> None:
    areas, power = PUBLISHED[name]
    accelerator = load_preset(name)
    assert accelerator.name == name
    for area in areas:
        assert area_mm2(accelerator, TECHNOLOGY).total == pytest.approx(area, rel=0.10)
    assert tdp_w(accelerator, TECHNOLOGY).total == pytest.approx(power, rel=0.10)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_figures_are_recorded_with_their_source(name: str) -> None:
    known, (areas, power) = published(name), PUBLISHED[name]
    assert known.tdp_w.value == power
    assert known.area_mm2.value in areas and known.area_mm2.low <= known.area_mm2.value <= known.area_mm2.high
    for value in (known.area_mm2, known.tdp_w, *(share for _, share in known.shares)):
        assert value.source and 2014 <= value.date <= 2026
    assert known.mapping and known.title
    assert known.tdp_w.basis


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_number_of_a_preset_has_a_source(name: str) -> None:
    from ruamel.yaml import YAML

    document = YAML(typ="safe", pure=True).load((PRESETS_FOLDER / f"{name}.yaml").read_text())
    for key, entry in document["accelerator"].items():
        assert key == "family" or (set(entry) == {"value", "source"} and entry["source"]), key


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("tpuv4i", {"sram": 0.15, "tensor_core_macs": 0.05}),  # sram: 144 MiB against the published share of 128 MiB
        ("a100-80gb", {"sram": 0.05, "network": 0.05, "hbm": 0.12, "fixed": 0.05}),
    ],
)
def test_floor_plan_shares(name: str, tolerance: dict[str, float]) -> None:
    known, area = published(name), area_mm2(load_preset(name), TECHNOLOGY)
    shares = dict(known.shares)
    for part, rel in tolerance.items():
        assert getattr(area, part) == pytest.approx(shares[part].value * known.area_mm2.value, rel=rel), part


def test_peak_rates_are_the_published_ones() -> None:
    """bf16 (NVDLA: int8) peaks: TPU papers, NVIDIA white papers, NVDLA primer."""
    peaks = {
        "tpuv2": 46e12,
        "tpuv3": 123e12,
        "tpuv4": 275e12,
        "tpuv4i": 138e12,
        "a100-80gb": 312e12,
        "h100": 989e12,
        "nvdla-large": 4.096e12,
        "nvdla-small": 0.128e12,
    }
    for name, peak in peaks.items():
        assert load_preset(name).peak_matrix_flops_per_s == pytest.approx(peak, rel=0.005)


@pytest.mark.skipif(not (DATA / "chips.csv").exists(), reason=f"no reference data in {DATA.name}/ (WORKLODE_DATA)")
def test_presets_agree_with_the_reference_table() -> None:
    rows = {row["chip"]: row for row in csv.DictReader((DATA / "chips.csv").open())}
    names = {"TPUv2": "tpuv2", "TPUv3": "tpuv3", "TPUv4": "tpuv4", "TPUv4i": "tpuv4i", "A100 SXM4 80GB": "a100-80gb"}
    for chip, name in names.items():
        row, preset = rows[chip], load_preset(name)
        assert preset.clock_hz == float(row["clock_MHz"]) * 1e6
        assert preset.macs == int(row["total_MACs_per_cycle_bf16"])
        assert preset.hbm_bytes == int(row["hbm_GB"]) * 2**30
        assert preset.hbm_bytes_per_s == pytest.approx(float(row["hbm_GBps"]) * 1e9)
        assert preset.num_links == int(row["link_count"])
        assert preset.link_bytes_per_s == float(row["link_GBps_per_dir"]) * 1e9


# --- users' files -------------------------------------------------------------------------------------------------


def test_unknown_preset_offers_near_names() -> None:
    with pytest.raises(SpecError, match=r"--budget: unknown preset \(found tpu-v2\); allowed: did you mean tpuv2"):
        load_accelerator("tpu-v2", where="--budget")
    with pytest.raises(SpecError, match="unknown preset"):
        published("none")


def test_the_example_file_loads_and_can_be_costed() -> None:
    accelerator = load_accelerator(ROOT / "specs" / "my-accelerator.yaml")
    assert accelerator.name == "my-accelerator"
    assert accelerator.sram_bytes == 48 * 2**20
    assert 100 < area_mm2(accelerator, TECHNOLOGY).total < 858  # within the reticle
    assert 50 < tdp_w(accelerator, TECHNOLOGY).total < 1000


FLAT = """
num_tensor_cores: 2
tensor_core_rows: 128
tensor_core_cols: 64
num_vector_cores: 2
vector_lanes: 1024
sram_bytes: 33554432
hbm_stacks: 2
hbm_bytes: 17179869184
hbm_bytes_per_s: 7.0e+11
clock_hz: 7.0e+8
node_nm: 16
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_units_in_keys_and_in_values_say_the_same(tmp_path: Path) -> None:
    in_keys = load_accelerator(write(tmp_path, FLAT))
    in_values = load_accelerator(
        write(
            tmp_path,
            "accelerator:\n  num_tensor_cores: 2\n  tensor_core_rows: 128\n  tensor_core_cols: 64\n"
            "  num_vector_cores: 2\n  vector_lanes: {value: 1024, source: ours, note: wide}\n  sram: 32MiB\n"
            "  hbm_stacks: 2\n  hbm_stack: 8GiB\n  hbm_stack_bandwidth: 350GB/s\n  clock: 700 MHz\n  node: 16nm\n",
        )
    )
    assert in_keys == in_values
    assert in_keys.hbm_stack_bytes == 8 * 2**30 and in_keys.hbm_bytes_per_s == 7e11


def test_base_takes_what_is_missing_from_a_preset(tmp_path: Path) -> None:
    text = "name: bigger\nbase: tpuv4\naccelerator: {sram: 256MiB, clock: 1.2GHz}\n"
    expected = replace(load_preset("tpuv4"), name="bigger", sram_bytes=256 * 2**20, clock_hz=1.2e9)
    assert load_accelerator(str(write(tmp_path, text))) == expected


def test_unknown_base_is_one_fault(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_accelerator(write(tmp_path, "base: tpu2\nsram: 8MiB\n"))
    (fault,) = caught.value.faults
    assert fault.path == "base" and "did you mean tpuv2" in fault.allowed


def test_all_faults_at_once_with_place_value_and_near_names(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "accelerator:\n  num_tensor_cores: 0\n  tensor_core_rowz: 128\n  tensor_core_cols: 12.5\n"
        "  num_vector_cores: two\n  vector_lanes: true\n  sram: 32\n  sram_bytes: 5\n  hbm_stacks: 1\n"
        "  hbm_stack: 8GiX\n  hbm_stack_bandwidth: -3GB/s\n"
        "  clock: .inf\n  node_nm: 2\n  mac_dtype: bf16\n"
        "  family: tpu\n  num_links: 4\n  spare_fraction: -1\n"
        "  provisioned_activity: 0\nbase2: x\n",
    )
    with pytest.raises(SpecError) as caught:
        load_accelerator(path)
    found = {fault.path: fault for fault in caught.value.faults}
    expected = {
        "base2": "unknown key",
        "accelerator.num_tensor_cores": "is out of range",
        "accelerator.tensor_core_rowz": "unknown key",
        "accelerator.tensor_core_cols": "must be a whole number",
        "accelerator.num_vector_cores": "must be a number",
        "accelerator.vector_lanes": "must be a number",
        "accelerator.sram": "the unit is missing",
        "accelerator.sram_bytes": "says the same as sram",
        "accelerator.hbm_stack": "unknown or ambiguous unit 'GiX' of size",
        "accelerator.hbm_stack_bandwidth": "bandwidth cannot be negative",
        "accelerator.clock": "not a quantity of frequency",
        "accelerator.node_nm": "is out of range",
        "accelerator.mac_dtype": "unknown value",
        "accelerator.family": "unknown value",
        "accelerator.spare_fraction": "is out of range",
        "accelerator.provisioned_activity": "is out of range",
        "accelerator.link_bytes_per_s": "is missing: there are links",
        "accelerator.tensor_core_rows": "is missing",
    }
    assert {place: fault.problem for place, fault in found.items()} == expected
    assert "tensor_core_rows" in found["accelerator.tensor_core_rowz"].allowed
    assert found["accelerator.node_nm"].allowed == "3 to 130 nm"
    assert "bfloat16" in found["accelerator.mac_dtype"].allowed
    assert all(fault.where == str(path) for fault in found.values())


def test_plain_numbers_only_where_the_key_has_the_unit(tmp_path: Path) -> None:
    """`sram: 32` could be bytes or MiB, `clock: 940` Hz or MHz: nothing is guessed."""
    text = "base: tpuv2\naccelerator: {sram: 32, clock: 940, hbm_stack: 8, hbm_bandwidth: 700, node: 7}\n"
    with pytest.raises(SpecError) as caught:
        load_accelerator(write(tmp_path, text))
    assert [fault.problem for fault in caught.value.faults] == ["the unit is missing"] * 5
    in_base_units = "base: tpuv2\naccelerator: {sram_bytes: 1048576, clock_hz: 9.4e8, hbm_bytes_per_s: 7.0e+11}\n"
    assert load_accelerator(write(tmp_path, in_base_units)).sram_bytes == 2**20


def test_numbers_beyond_all_silicon_are_refused(tmp_path: Path) -> None:
    text = (
        "base: tpuv2\naccelerator: {sram: 9000PiB, clock: 1e200Hz, hbm_stack: 1e30B, hbm_stack_bandwidth: 1e-9B/s,"
        " operator_start: 1h, tensor_core_rows: 99999999999999999999999}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_accelerator(write(tmp_path, text))
    assert [fault.problem for fault in caught.value.faults] == ["is out of range"] * 6
    sram, *_ = caught.value.faults
    assert sram.allowed == "1 to 1.1e+12 B"


def test_a_file_of_aliases_or_brackets_ends_in_one_short_line(tmp_path: Path) -> None:
    """A hundred million entries behind nine aliases, and a hundred thousand open brackets."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(SpecError) as caught:
        load_accelerator(write(tmp_path, "\n".join(levels) + "\nbase: tpuv2\nsram: *a7\n"))
    assert max(len(str(fault)) for fault in caught.value.faults) < 2000
    with pytest.raises(SpecError, match="is nested too deeply"):
        load_accelerator(write(tmp_path, "[" * 5000 + "]" * 5000))


@pytest.mark.parametrize("text", ["", "[]\n", "just text\n", "accelerator: 5\n", "accelerator:\n"])
def test_files_without_an_accelerator(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError):
        load_accelerator(write(tmp_path, text))


def test_totals_must_divide_among_stacks(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="hbm_bytes: is not a whole number of bytes for each of 2 stacks"):
        load_accelerator(write(tmp_path, FLAT.replace("17179869184", "17179869185")))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_accelerator(tmp_path / "missing.yaml")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_dumped_preset_reads_back(tmp_path: Path, name: str) -> None:
    accelerator = load_preset(name)
    assert load_accelerator(write(tmp_path, dump_accelerator(accelerator))) == accelerator


@given(accelerator=accelerators())
def test_any_dumped_accelerator_reads_back(tmp_path_factory: pytest.TempPathFactory, accelerator: Accelerator) -> None:
    path = tmp_path_factory.mktemp("dump") / "design.yaml"
    path.write_text(dump_accelerator(accelerator))
    assert load_accelerator(path) == accelerator
