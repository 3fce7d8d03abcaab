"""Area, power and energies: parts, totals, monotony, arrays against scalars, and formulas by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import InternalError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_mm2, area_parts, lane_area_mm2, link_area_mm2, mac_area_mm2, sram_area_mm2
from worklode.hardware.buffers import (
    tensor_core_buffer_bytes,
    tensor_core_operand_bytes,
    tensor_core_port_bytes,
    vector_core_buffer_bytes,
    vector_core_port_bytes,
)
from worklode.hardware.design_arrays import DesignArrays
from worklode.hardware.energy import (
    energy_constants,
    energy_per_mac_j,
    hbm_energy_per_byte_j,
    leakage_w,
    sram_access_energy_per_byte_j,
    sram_energy_per_byte_j,
)
from worklode.hardware.power import tdp_parts, tdp_w
from worklode.hardware.presets import load_preset
from worklode.hardware.technology import load_technology

from .strategies import accelerators

TECHNOLOGY = load_technology()
GROWING = (
    "num_tensor_cores",
    "tensor_core_rows",
    "tensor_core_cols",
    "num_vector_cores",
    "vector_lanes",
    "sram_bytes",
    "hbm_stacks",
    "hbm_stack_bytes_per_s",
    "num_links",
    "link_bytes_per_s",
    "clock_hz",
    "spare_fraction",
    "tensor_core_buffer_bytes",
    "vector_core_buffer_bytes",
)
CORES_AND_SRAM = GROWING[:6]
"""These take silicon and power in every family."""


def parts(breakdown: Any) -> dict[str, float]:
    return {part.name: getattr(breakdown, part.name) for part in fields(breakdown)}


@given(accelerators())
def test_parts_sum_to_the_total_and_are_never_negative(accelerator: Accelerator) -> None:
    for breakdown in (area_mm2(accelerator, TECHNOLOGY), tdp_w(accelerator, TECHNOLOGY)):
        assert sum(parts(breakdown).values()) == pytest.approx(breakdown.total, rel=1e-12)
        assert min(parts(breakdown).values()) >= 0
        assert breakdown.total > 0
        assert all(type(value) is float for value in parts(breakdown).values())


@settings(max_examples=400)
@given(accelerators(), st.sampled_from(GROWING), st.integers(1, 100))
def test_area_and_power_rise_with_every_part(accelerator: Accelerator, field: str, step: int) -> None:
    before = getattr(accelerator, field)
    if before is None:
        return  # the rule's buffer: nothing to raise
    after = before + step if isinstance(before, int) else before * (1 + step / 10) + (field == "spare_fraction") * 0.1
    change: dict[str, Any] = {field: after}
    larger = replace(accelerator, **change)
    small, large = area_mm2(accelerator, TECHNOLOGY).total, area_mm2(larger, TECHNOLOGY).total
    low, high = tdp_w(accelerator, TECHNOLOGY).total, tdp_w(larger, TECHNOLOGY).total
    assert large >= small * (1 - 1e-12)
    assert high >= low * (1 - 1e-12)
    noticeable = before < 1e6 * step  # a byte more in 64 GiB is lost in rounding
    if field in CORES_AND_SRAM and noticeable:
        assert large > small
        assert high > low


@given(st.lists(accelerators(), min_size=1, max_size=5))
def test_arrays_equal_one_by_one(designs: list[Accelerator]) -> None:
    shared: dict[str, Any] = {
        name: getattr(designs[0], name)
        for name in (
            "hbm_stack_bytes_per_s",
            "clock_hz",
            "node_nm",
            "mac_dtype",
            "tensor_core_buffer_bytes",
            "vector_core_buffer_bytes",
            "num_links",
            "link_bytes_per_s",
            "family",
            "spare_fraction",
            "provisioned_activity",
        )
    }
    designs = [replace(design, **shared) for design in designs]
    arrays = DesignArrays.from_accelerators(designs)
    assert len(arrays) == len(designs) and [arrays.accelerator(i) for i in range(len(arrays))] == designs
    for many, one in ((area_parts, area_mm2), (tdp_parts, tdp_w)):
        breakdown = many(arrays, TECHNOLOGY)
        for index, design in enumerate(designs):
            for name, value in parts(one(design, TECHNOLOGY)).items():
                column = np.broadcast_to(getattr(breakdown, name), len(designs))
                assert column[index] == pytest.approx(value, rel=1e-12)
        assert breakdown.total.shape == (len(designs),)


@given(accelerators(), st.floats(0.1, 10))
def test_dynamic_power_is_proportional_to_the_clock(accelerator: Accelerator, factor: float) -> None:
    slow = tdp_w(accelerator, TECHNOLOGY)
    fast = tdp_w(replace(accelerator, clock_hz=accelerator.clock_hz * factor), TECHNOLOGY)
    for name in ("tensor_core_macs", "tensor_core_buffers", "vector_lanes", "sram"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name) * factor, rel=1e-9)
    for name in ("hbm", "links", "fixed", "leakage"):
        assert getattr(fast, name) == getattr(slow, name)


def test_broken_constants_do_not_become_a_result() -> None:
    accelerator = load_preset("tpuv2")
    with pytest.raises(InternalError, match="area of hbm is -"):
        area_mm2(accelerator, TECHNOLOGY.with_values({"hbm_phy_area": -100.0}))
    with pytest.raises(InternalError, match="power of hbm is nan"):
        tdp_w(accelerator, TECHNOLOGY.with_values({"hbm_path_energy_per_byte": float("nan")}))
    with pytest.raises(InternalError, match="energy constant link_byte_j is inf"):
        energy_constants(accelerator, TECHNOLOGY.with_values({"link_energy_per_byte": float("inf")}))


# --- formulas by hand ---------------------------------------------------------------------------------------------


def test_mac_area_is_the_floor_plan_of_tpuv4i() -> None:
    """11 % of at most 400 mm2 for 65536 MACs: at most 671 um2 (ISCA 2021)."""
    assert mac_area_mm2(TECHNOLOGY, 7, "bfloat16", "systolic") * 1e6 == pytest.approx(671, rel=0.005)


def test_scratchpad_area_is_the_floor_plan_of_tpuv4i() -> None:
    """28 % of at most 400 mm2 for 128 MiB: at most 0.875 mm2/MiB (ISCA 2021)."""
    assert sram_area_mm2(TECHNOLOGY, 7, "systolic", 2**20) == pytest.approx(0.875, rel=0.005)


def test_element_types_order_the_multipliers() -> None:
    areas = [
        mac_area_mm2(TECHNOLOGY, 7, dtype, "systolic") for dtype in ("int8", "float8", "bfloat16", "float16", "float32")
    ]
    energies = [
        energy_per_mac_j(TECHNOLOGY, 7, dtype) for dtype in ("int8", "float8", "bfloat16", "float16", "float32")
    ]
    assert areas == sorted(areas) and len(set(areas)) == 5
    assert energies == sorted(energies) and len(set(energies)) == 5


def test_lane_area_by_hand() -> None:
    overhead = TECHNOLOGY.value("lane_area_overhead_systolic")
    assert lane_area_mm2(TECHNOLOGY, 7, "systolic") == pytest.approx(11884e-6 * 0.059 * overhead)


def test_link_generations() -> None:
    """18 NVLink4 in 4N and 12 NVLink3 in N7: PHYs 0.965 and 1.888 mm2 each (LLMCompass), controllers besides."""
    assert 12 * 1.888 < link_area_mm2(TECHNOLOGY, 7, 300.0) < 12 * (1.888 + 0.8)
    assert 18 * 0.965 < link_area_mm2(TECHNOLOGY, 4, 450.0) < 18 * (0.965 + 0.8)


def test_buffer_rule_by_hand() -> None:
    tpu, gpu = (
        load_preset("tpuv2"),
        replace(load_preset("h100"), tensor_core_buffer_bytes=None, vector_core_buffer_bytes=None),
    )
    assert tensor_core_buffer_bytes(tpu) == 2 * 128 * (128 * 2 + 128 * 4)
    assert vector_core_buffer_bytes(tpu) == 2048 * 32 * 4
    assert tensor_core_buffer_bytes(gpu) == 64 * 2**10  # H100: 256 KiB for four tensor cores
    assert vector_core_buffer_bytes(gpu) == 256 * 2**10
    assert tensor_core_buffer_bytes(replace(tpu, tensor_core_buffer_bytes=5)) == 5
    assert vector_core_buffer_bytes(replace(tpu, vector_core_buffer_bytes=7)) == 7
    assert tensor_core_port_bytes(tpu) == 512
    assert vector_core_port_bytes(tpu) == 8192
    assert tensor_core_operand_bytes(tpu) == 128 * 2 + 128 * (2 + 8)


def test_small_arrays_pay_more_for_their_operands() -> None:
    big = replace(load_preset("tpuv4"), num_tensor_cores=1)
    small = replace(big, num_tensor_cores=64, tensor_core_rows=16, tensor_core_cols=16)
    assert small.macs == big.macs
    assert tdp_w(small, TECHNOLOGY).tensor_core_buffers > 1.3 * tdp_w(big, TECHNOLOGY).tensor_core_buffers
    assert area_mm2(small, TECHNOLOGY).total > area_mm2(big, TECHNOLOGY).total


def test_sram_energy_at_its_sources() -> None:
    """N7 banks: 8 KiB 0.022 pJ/bit, 256 KiB 0.12 pJ/bit (kiln-phys specification); larger memories are banked."""
    assert sram_energy_per_byte_j(TECHNOLOGY, 7, 8 * 2**10) == pytest.approx(8 * 0.022e-12, rel=0.05)
    assert sram_energy_per_byte_j(TECHNOLOGY, 7, 256 * 2**10) == pytest.approx(8 * 0.12e-12, rel=0.05)
    assert sram_energy_per_byte_j(TECHNOLOGY, 7, 2**30) == sram_energy_per_byte_j(TECHNOLOGY, 7, 256 * 2**10)
    assert sram_energy_per_byte_j(TECHNOLOGY, 7, 1) == pytest.approx(8 * 0.004e-12)


def test_hbm_energy_by_generation() -> None:
    path = TECHNOLOGY.value("hbm_path_energy_per_byte")
    for rate, pj_per_bit in ((225e9, 3.92), (461e9, 3.92), (819e9, 3.2), (1.2e12, 2.8), (2e12, 2.8)):
        assert hbm_energy_per_byte_j(TECHNOLOGY, rate) == pytest.approx(8e-12 * pj_per_bit + path, rel=0.002)


@given(accelerators())
def test_energy_constants_are_what_power_is_made_of(accelerator: Accelerator) -> None:
    energies, power = energy_constants(accelerator, TECHNOLOGY), tdp_w(accelerator, TECHNOLOGY)
    activity = TECHNOLOGY.value(f"peak_activity_{accelerator.family}") * accelerator.provisioned_activity
    rate = activity * accelerator.clock_hz
    assert power.tensor_core_macs == pytest.approx(rate * accelerator.macs * energies.mac_j)
    assert power.tensor_core_buffers == pytest.approx(rate * accelerator.macs * energies.mac_operand_j)
    assert power.vector_lanes == pytest.approx(rate * accelerator.total_lanes * energies.lane_op_j)
    assert power.fixed + power.leakage == pytest.approx(energies.static_w)
    assert energies.static_w > leakage_w(accelerator, TECHNOLOGY)
    if accelerator.family != "embedded":
        assert power.hbm == pytest.approx(activity * accelerator.hbm_bytes_per_s * energies.hbm_byte_j)
    assert energies.sram_byte_j == pytest.approx(sram_access_energy_per_byte_j(accelerator, TECHNOLOGY))
    assert energies.sram_byte_j > 0


def test_moving_a_byte_costs_more_the_further_it_goes() -> None:
    for name in ("tpuv2", "tpuv4", "a100-80gb", "h100"):
        energies = energy_constants(load_preset(name), TECHNOLOGY)
        assert energies.sram_byte_j < energies.hbm_byte_j < energies.link_byte_j
