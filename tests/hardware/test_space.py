"""The design space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.hardware.area import area_mm2, area_parts
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.power import tdp_parts, tdp_w
from worklode.hardware.presets import load_preset, preset_names
from worklode.hardware.space import DesignSpace, default_space, load_space, space_from_mapping
from worklode.hardware.technology import load_technology

TECHNOLOGY = load_technology()


def small_space() -> DesignSpace:
    mapping = {
        "tensor_core_rows": [8, 24, 128],
        "tensor_core_cols": [16, 64],
        "vector_lanes": 256,
        "num_tensor_cores": {"from": 1, "to": 5, "step": 2},
        "num_vector_cores": [1, 4],
        "sram": ["1MiB", "48MiB"],
        "hbm_stacks": [1, 2],
    }
    return space_from_mapping(mapping, default_space(load_preset("tpuv3")))


@pytest.mark.parametrize("name", preset_names())
def test_default_space_is_large_and_holds_the_budget_preset(name: str) -> None:
    preset = load_preset(name)
    space = default_space(preset)
    assert space.size > 1_000_000
    assert space.size == int(np.prod(space.shape))
    by_rule = replace(preset, tensor_core_buffer_bytes=None, vector_core_buffer_bytes=None)
    assert space.contains(by_rule)
    assert space.clock_hz == preset.clock_hz and space.node_nm == preset.node_nm and space.family == preset.family
    assert any(rows & (rows - 1) for rows in space.tensor_core_rows), "not only powers of two"
    for field in SEARCHED_FIELDS:
        values = getattr(space, field)
        assert list(values) == sorted(set(values)) and min(values) >= 1


def test_default_space_without_a_budget() -> None:
    space = default_space()
    assert space.size > 1_000_000
    assert space.provisioned_activity == 1.0 and space.family == "systolic"


@given(st.data())
def test_position_indices_and_accelerator_agree(data: st.DataObject) -> None:
    space = default_space(load_preset("tpuv2"))
    position = data.draw(st.integers(0, space.size - 1))
    indices = space.indices(position)
    accelerator = space.accelerator(indices)
    assert space.position(indices) == position
    assert space.indices_of(accelerator) == indices
    assert space.designs(np.array([position])).accelerator(0) == accelerator


def test_foreign_designs_are_not_contained() -> None:
    space = default_space(load_preset("tpuv2"))
    inside = space.accelerator([0] * 7)
    assert space.contains(inside) and space.contains(replace(inside, name="named"))
    assert not space.contains(replace(inside, tensor_core_rows=9))
    assert not space.contains(replace(inside, clock_hz=1e9))
    assert space.including(replace(inside, tensor_core_rows=9)).contains(replace(inside, tensor_core_rows=9))


def test_arrays_and_mesh_equal_the_designs_one_by_one() -> None:
    space = small_space()
    assert space.size == 3 * 2 * 1 * 3 * 2 * 2 * 2
    designs, mesh = space.designs(), space.mesh()
    one_by_one = [space.accelerator(space.indices(position)) for position in range(space.size)]
    assert [designs.accelerator(position) for position in range(space.size)] == one_by_one
    for many, one in ((area_parts, area_mm2), (tdp_parts, tdp_w)):
        expected = [one(accelerator, TECHNOLOGY).total for accelerator in one_by_one]
        np.testing.assert_allclose(many(designs, TECHNOLOGY).total, expected, rtol=1e-12)
        total = many(mesh, TECHNOLOGY).total
        assert total.shape == space.shape
        np.testing.assert_allclose(total.ravel(), expected, rtol=1e-12)


def test_taking_some_designs() -> None:
    designs = small_space().designs()
    mask = designs.sram_bytes == 2**20
    some = designs.take(mask)
    assert len(some) == mask.sum() > 0
    assert some.accelerator(0) == designs.accelerator(int(np.flatnonzero(mask)[0]))


def test_space_from_mapping_keeps_the_rest_of_its_base() -> None:
    base = default_space(load_preset("tpuv3"))
    space = space_from_mapping({"sram": "48MiB", "clock": "1.1GHz", "tensor_core_rows": [128, 32]}, base)
    assert space == replace(base, sram_bytes=(48 * 2**20,), clock_hz=1.1e9, tensor_core_rows=(32, 128))


def test_space_files(tmp_path: Path) -> None:
    base, path = default_space(), tmp_path / "space.yaml"
    path.write_text("space: {sram: [8MiB, 16MiB]}\n")
    nested = load_space(path, base)
    path.write_text("sram: [8MiB, 16MiB]\n")
    assert load_space(str(path), base) == nested == replace(base, sram_bytes=(8 * 2**20, 16 * 2**20))
    path.write_text("- 5\n")
    with pytest.raises(SpecError, match="must be a mapping"):
        load_space(path, base)


def test_every_fault_of_a_space_is_reported() -> None:
    mapping = {
        "tensor_core_row": [8],
        "tensor_core_cols": [8, 0, "x"],
        "vector_lanes": [],
        "num_tensor_cores": {"from": 9, "to": 5},
        "num_vector_cores": [2, 2],
        "sram": ["1MiB", "3"],
        "sram_bytes": [5],
        "hbm_stacks": {"from": 1, "until": 5},
        "node_nm": 1,
        "mac_dtype": "bf16",
    }
    with pytest.raises(SpecError) as caught:
        space_from_mapping(mapping, default_space(), where="study.yaml")
    problems = {(fault.path, fault.problem) for fault in caught.value.faults}
    assert problems == {
        ("space.tensor_core_row", "unknown key"),
        ("space.tensor_core_cols[1]", "is out of range"),
        ("space.tensor_core_cols[2]", "must be a number"),
        ("space.vector_lanes", "no value is legal"),
        ("space.num_tensor_cores", "is not a range"),
        ("space.num_vector_cores", "values are repeated"),
        ("space.sram_bytes", "says the same as sram"),
        ("space.hbm_stacks.until", "unknown key"),
        ("space.hbm_stacks.to", "must be a number"),
        ("space.sram[1]", "the unit is missing"),
        ("space.node_nm", "is out of range"),
        ("space.mac_dtype", "unknown value"),
    }


def test_a_space_that_fits_no_memory_is_refused() -> None:
    wide = {"from": 1, "to": 50_000}  # which must not take time by the square
    with pytest.raises(SpecError, match=r"has too many designs \(found \d+\); allowed: 100000000 at most"):
        space_from_mapping({"tensor_core_rows": wide, "tensor_core_cols": wide}, default_space())


def test_ranges_of_quantities_are_in_keys_with_units() -> None:
    base = default_space()
    space = space_from_mapping({"sram_bytes": {"from": 2**20, "to": 3 * 2**20, "step": 2**20}}, base)
    assert space.sram_bytes == (2**20, 2 * 2**20, 3 * 2**20)
    with pytest.raises(SpecError, match=r"space.sram: a range has no units .* allowed: a list, or sram_bytes"):
        space_from_mapping({"sram": {"from": 1, "to": 3}}, base)
