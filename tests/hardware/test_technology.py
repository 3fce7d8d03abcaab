"""Technology constants, their overlay, and scaling between nodes."""

from __future__ import annotations

import csv
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worklode.errors import SpecError
from worklode.hardware import spec_file
from worklode.hardware.presets import PRESETS_FOLDER
from worklode.hardware.scaling import dynamic_energy_scale, logic_area_scale, sram_area_scale, switching_energy
from worklode.hardware.spec_file import PARSED_FILE, read_yaml
from worklode.hardware.technology import SCALES, STATUSES, TECHNOLOGY_FILE, UNITS, Technology, load_technology

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("WORKLODE_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def technology() -> Technology:
    return load_technology()


def test_every_constant_is_traceable(technology: Technology) -> None:
    assert len(technology.constants) > 50
    for constant in technology.constants:
        assert constant.source and constant.status in STATUSES and constant.status != "overlay", constant.name
        assert 2010 <= constant.date <= 2026, constant.name
        assert constant.low <= constant.value <= constant.high, constant.name
        assert (constant.node_nm is not None) or constant.scales == "none", constant.name


def test_names_used_by_the_formulas_exist_and_none_is_dead(technology: Technology) -> None:
    folder = ROOT / "src" / "worklode" / "hardware"
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    used = set(re.findall(r'technology\.(?:at|value)\(\s*f?"([^"]+)"', text))
    used |= {f"{kind}_stack_rate" for kind in ("hbm2", "hbm3", "hbm3e")}
    used |= {f"{kind}_energy_per_byte" for kind in ("hbm", "hbm3", "hbm3e")}
    used |= {"link_phy_area_per_gb_s", "link_phy_area_per_gb_s_below_7nm"}
    patterns = [re.compile(re.sub(r"\\\{[^}]*\\\}", r"\\w*", re.escape(name))) for name in used]
    names = {constant.name for constant in technology.constants}
    for pattern in patterns:
        assert any(pattern.fullmatch(name) for name in names), pattern.pattern
    dead = {name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)}
    assert not dead


@pytest.mark.parametrize("folder", [TECHNOLOGY_FILE.parent, PRESETS_FOLDER])
def test_parsed_forms_are_current(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise loading would silently be slow; benchmarks/fit_technology.py --write refreshes them."""
    shipped = {path: read_yaml(path) for path in sorted(folder.glob("*.yaml"))}
    assert shipped

    def parse(data: bytes, where: str) -> object:
        raise AssertionError(f"{where} had to be parsed: its entry in {PARSED_FILE} is stale")

    with monkeypatch.context() as patch:
        patch.setattr(spec_file, "_parse", parse)
        for path in shipped:
            read_yaml(path)
    for path, content in shipped.items():
        assert spec_file._parse(path.read_bytes(), path.name) == content


def test_a_stale_parsed_form_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\n")
    assert spec_file.write_parsed(tmp_path) and not spec_file.write_parsed(tmp_path)
    (tmp_path / "a.yaml").write_text("x: 2\n")
    assert read_yaml(tmp_path / "a.yaml") == {"x": 2}


def test_loading_does_without_the_yaml_library() -> None:
    code = (
        "import sys\n"
        "from worklode.hardware import technology\n"
        "technology.load_technology()\n"
        "print([name for name in sys.modules if name.startswith('ruamel')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_value_and_at(technology: Technology) -> None:
    assert technology.at("mac_energy_bfloat16", 7) == pytest.approx(0.59e-12)  # ISCA 2021, Table 2, in joules
    assert technology.at("mac_area_bfloat16", 45) == pytest.approx(5051e-6)  # in mm2
    assert technology.value("hbm_phy_area") == 10.45
    with pytest.raises(AssertionError, match="scales with the node"):
        technology.value("mac_energy_bfloat16")


def test_technology_survives_pickling_for_worker_processes(technology: Technology) -> None:
    copy = pickle.loads(pickle.dumps(technology))
    assert copy == technology
    assert copy.at("bit_cell_area", 16) == technology.at("bit_cell_area", 16)


# --- overlay ------------------------------------------------------------------------------------------------------


def test_overlay_changes_named_constants_only(tmp_path: Path, technology: Technology) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(
        "constants:\n  hbm_phy_area: 7.5\n"
        "  mac_energy_bfloat16: {value: 400, unit: fJ, node_nm: 5, low: 300, high: 500, source: our testchip}\n"
    )
    ours = load_technology(path)
    assert ours.overlaid == ("hbm_phy_area", "mac_energy_bfloat16") and ours.overlay == str(path)
    assert ours.value("hbm_phy_area") == 7.5
    assert ours.at("mac_energy_bfloat16", 5) == pytest.approx(0.4e-12)
    assert ours.constant("mac_energy_bfloat16").source == "our testchip"
    assert ours.constant("hbm_phy_area").status == "overlay" and str(path) in ours.constant("hbm_phy_area").source
    for constant in technology.constants:
        if constant.name not in ours.overlaid:
            assert ours.constant(constant.name) == constant
    assert load_technology().overlaid == ()


def test_plain_numbers_of_an_overlay_are_in_the_unit_of_the_shipped_file(
    tmp_path: Path, technology: Technology
) -> None:
    """Every constant written back with its number alone is itself: 0.59 pJ stays 0.59 pJ, not 0.59 J."""
    names = [constant.name for constant in technology.constants]
    written = {
        name: technology.constant(name).value / UNITS[technology.constant(name).written_unit][0] for name in names
    }
    path = tmp_path / "same.yaml"
    path.write_text("constants:\n" + "".join(f"  {name}: {value!r}\n" for name, value in written.items()))
    same = load_technology(path)
    for name in names:
        assert same.constant(name).value == pytest.approx(technology.constant(name).value), name
    assert technology.constant("mac_energy_bfloat16").written_unit == "pJ"


def test_overlay_takes_units_in_the_value(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text("constants:\n  mac_energy_bfloat16: 450 fJ\n  hbm_phy_area: 7.5mm2\n  hbm2_stack_rate: 3e11B/s\n")
    ours = load_technology(path)
    assert ours.constant("mac_energy_bfloat16").value == pytest.approx(0.45e-12)
    assert ours.value("hbm_phy_area") == 7.5
    assert ours.value("hbm2_stack_rate") == 3e11
    path.write_text(
        "constants:\n  hbm_phy_area: 5W\n  hbm2_stack_rate: 1e300\n  lane_op_energy: fast\n  sram_bank_bytes: 0\n"
    )
    with pytest.raises(SpecError) as caught:
        load_technology(path)
    said = str(caught.value)
    assert "hbm_phy_area.unit: does not fit hbm_phy_area" in said
    assert "hbm2_stack_rate.value: is out of range (found 1e+300)" in said
    assert "sram_bank_bytes.value: is out of range (found 0); allowed: above 0" in said
    assert "lane_op_energy: is no value of a constant (found 'fast'); allowed: a number in pJ" in said


def test_overlay_reports_every_fault_with_near_names(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(
        "constant: {}\nconstants:\n  hbm_phy_aera: 7.5\n  hbm_phy_area: {value: 7.5, unit: pJ}\n"
        "  wire_energy_per_byte_mm: -1\n  sram_bank_bytes: {value: many}\n  link_energy_per_byte: {unit: pJ}\n"
        "  peak_activity_simt: {value: 2, low: 3}\n  register_area_per_bit: .nan\n"
    )
    with pytest.raises(SpecError) as caught:
        load_technology(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 8
    assert all(line.startswith(f"{path}: ") for line in lines)
    expected = (
        "constant: unknown key (found 'constant'); allowed: did you mean constants? (all: constants, version)",
        "constants.hbm_phy_aera: unknown constant (found 'hbm_phy_aera'); allowed: did you mean hbm_phy_area",
        "constants.hbm_phy_area.unit: does not fit hbm_phy_area (found 'pJ'); allowed: um2, mm2",
        "constants.wire_energy_per_byte_mm.value: is out of range (found -1",
        "constants.sram_bank_bytes.value: must be a number (found 'many')",
        "constants.link_energy_per_byte.value: is missing",
        "constants.peak_activity_simt: the value is outside its own range low to high (found 2)",
        "constants.register_area_per_bit.value: must be a number (found nan)",
    )
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"{path}: {start}"), line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("constants: [1, 2", "not valid YAML"),
        ("constants: {a: 1, a: 2}", "not valid YAML"),
        ("- 1\n", "must be a mapping"),
        ("", "must be a mapping"),
    ],
)
def test_overlay_that_is_no_mapping(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=problem):
        load_technology(path)


def test_overlay_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_technology(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_technology(tmp_path / "binary.yaml")


# --- scaling ------------------------------------------------------------------------------------------------------


def test_scaling_is_one_at_seven_nm(technology: Technology) -> None:
    for rule in SCALES.values():
        if rule is not None:
            assert rule(technology.nodes, 7) == pytest.approx(1.0)


def test_scaling_follows_its_sources(technology: Technology) -> None:
    assert logic_area_scale(technology.nodes, 45) == pytest.approx(1 / 0.059)  # Stillmaker & Baas 2017, area factors
    assert logic_area_scale(technology.nodes, 5) == pytest.approx(91.2 / 138.2)  # peak logic density
    assert sram_area_scale(technology.nodes, 16) == pytest.approx(0.074 / 0.027)  # high-density cells
    assert dynamic_energy_scale(technology.nodes, 16) == pytest.approx(2.5)
    energy_45 = switching_energy((1.103, -0.362, 0.2767), 0.9)  # Stillmaker & Baas 2017, 45 nm at 0.9 V
    energy_16 = switching_energy((0.2958, -0.1241, 0.03024), 0.8)
    assert dynamic_energy_scale(technology.nodes, 45) == pytest.approx(2.5 * energy_45 / energy_16)


def test_interpolation_stays_between_neighbours(technology: Technology) -> None:
    for rule in (logic_area_scale, sram_area_scale, dynamic_energy_scale):
        assert rule(technology.nodes, 20) < rule(technology.nodes, 24) < rule(technology.nodes, 28)
        assert rule(technology.nodes, 5) < rule(technology.nodes, 6) < rule(technology.nodes, 7)


def test_node_outside_the_table_is_a_defect(technology: Technology) -> None:
    with pytest.raises(AssertionError, match="outside the table"):
        logic_area_scale(technology.nodes, 2)


@pytest.mark.skipif(
    not (DATA / "scaling_factors.csv").exists(), reason=f"no reference data in {DATA.name}/ (WORKLODE_DATA)"
)
def test_node_table_equals_the_tabulated_factors(technology: Technology) -> None:
    rows = {int(row["from_nm"]): row for row in csv.DictReader((DATA / "scaling_factors.csv").open())}
    compared = 0
    for node in technology.nodes:
        row = rows.get(node.node_nm)
        if row is None:
            continue
        assert node.area_to_7nm == float(row["area_to_7"])
        if node.energy_polynomial is not None:
            assert node.energy_polynomial == tuple(float(row[key]) for key in ("e_a", "e_b", "e_c"))
            assert switching_energy(node.energy_polynomial, 0.8) == pytest.approx(
                float(row["e_factor_at_0p8V"]), abs=6e-4
            )
            compared += 1
    assert compared >= 7


@pytest.mark.skipif(not (DATA / "tech_nodes.csv").exists(), reason=f"no reference data in {DATA.name}/ (WORKLODE_DATA)")
def test_new_nodes_equal_the_tabulated_ones(technology: Technology) -> None:
    rows = {int(row["node_nm"]): row for row in csv.DictReader((DATA / "tech_nodes.csv").open())}
    for node_nm in (16, 7, 5, 4, 3):
        node = next(node for node in technology.nodes if node.node_nm == node_nm)
        row = rows[node_nm]
        assert node.bit_cell_um2 == float(row["hd_bitcell_um2"])
        assert node.energy_to_7nm == float(row["energy_rel_to_N7"])
        if node_nm <= 7:
            assert node.logic_mtr_per_mm2 == float(row["peak_logic_mtr_mm2"])
