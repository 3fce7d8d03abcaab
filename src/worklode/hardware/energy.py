"""Energy of single events (a MAC, a lane operation, a byte moved); see docs/models/energy.md."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from worklode.errors import InternalError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_parts, mac_area_mm2, sram_area_mm2
from worklode.hardware.buffers import tensor_core_buffer_bytes, tensor_core_operand_bytes, vector_core_buffer_bytes
from worklode.hardware.design import LANE_BYTES, Design
from worklode.hardware.technology import Technology

LANE_OPERAND_WORDS = 3
"""Words a lane operation moves to and from its registers: two operands and a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyConstants:
    """Energies of one accelerator's events; energy of a run = sum of counts times these, plus static power times time.

    Attributes:
        mac_j: one multiply-accumulate in the array, its pipeline registers included [J].
        mac_operand_j: what that MAC's share of local buffer traffic costs, at a full array [J].
        lane_op_j: one lane operation, its registers and its share of the instruction included [J].
        sram_byte_j: a byte between global SRAM and a core [J/byte].
        hbm_byte_j: a byte between HBM and global SRAM [J/byte].
        link_byte_j: a byte sent to another chip, both ends' share of one end [J/byte].
        static_w: leakage and fixed power, drawn whatever runs [W].
    """

    mac_j: float
    mac_operand_j: float
    lane_op_j: float
    sram_byte_j: float
    hbm_byte_j: float
    link_byte_j: float
    static_w: float


def energy_constants(accelerator: Accelerator, technology: Technology) -> EnergyConstants:
    """Energies of the events of one accelerator.

    Raises:
        InternalError: an energy is negative or not finite.
    """
    found = event_energies(accelerator, technology)
    constants = EnergyConstants(**{name: float(value) for name, value in found.items()})
    for part in fields(constants):
        value = getattr(constants, part.name)
        if not np.isfinite(value) or value < 0:
            raise InternalError(f"energy constant {part.name} is {value}")
    return constants


def event_energies(design: Design, technology: Technology) -> dict[str, Any]:
    """Energies of `EnergyConstants` by name, also of constants that are arrays of draws; unchecked."""
    node, family = design.node_nm, design.family
    return {
        "mac_j": energy_per_mac_j(technology, node, design.mac_dtype),
        "mac_operand_j": operand_energy_per_cycle_j(design, technology)
        / (design.tensor_core_rows * design.tensor_core_cols),
        "lane_op_j": energy_per_lane_op_j(technology, node, family, lane_register_bytes(design)),
        "sram_byte_j": sram_access_energy_per_byte_j(design, technology),
        "hbm_byte_j": hbm_energy_per_byte_j(technology, design.hbm_stack_bytes_per_s),
        "link_byte_j": technology.value("link_energy_per_byte"),
        "static_w": leakage_parts_w(design, technology) + technology.at(f"fixed_power_{family}", node),
    }


def energy_per_mac_j(technology: Technology, node_nm: int, dtype: str) -> float:
    """One multiply-accumulate [J]: multiply and 32-bit add, times the overhead of pipeline registers and clock."""
    return technology.at(f"mac_energy_{dtype}", node_nm) * technology.value("datapath_energy_overhead")


def energy_per_lane_op_j(technology: Technology, node_nm: int, family: str, register_bytes: Any) -> Any:
    """One lane operation [J]: arithmetic, three words of its register file, and its share of the instruction.

    Args:
        technology: constants.
        node_nm: node [nm].
        family: decides the share of the instruction.
        register_bytes: register file of one lane [bytes].
    """
    arithmetic = technology.at("lane_op_energy", node_nm) * technology.value("datapath_energy_overhead")
    words = LANE_OPERAND_WORDS * LANE_BYTES * sram_energy_per_byte_j(technology, node_nm, register_bytes)
    return arithmetic + words + technology.at(f"instruction_energy_{family}", node_nm)


def lane_register_bytes(design: Design) -> Any:
    """Local memory of one lane [bytes]: the vector core's buffer is banked by lane."""
    return vector_core_buffer_bytes(design) / design.vector_lanes


def sram_energy_per_byte_j(technology: Technology, node_nm: int, size_bytes: Any) -> Any:
    """Reading or writing a byte of a memory of `size_bytes` [J/byte], wires to it not included.

    Bit and word lines grow with the side of the array, so energy grows with the root of the size up to one bank, and
    not below a register file:  max(e_register, e_root · sqrt(min(size, bank)))
    """
    bank = np.minimum(size_bytes, technology.value("sram_bank_bytes"))
    array = technology.at("sram_energy_per_byte_root", node_nm) * np.sqrt(bank)
    return np.maximum(array, technology.at("register_file_energy_per_byte", node_nm))


def sram_access_energy_per_byte_j(design: Design, technology: Technology) -> Any:
    """A byte between global SRAM and a core [J/byte]: a bank, and half the side of the memory that serves the core.

    A cache (`simt`) is reached whole, over one crossbar. Of a scratchpad a core's ports reach `scratchpad_reach_bytes`.
    """
    reached = design.sram_bytes
    if design.family != "simt":
        reached = np.minimum(reached, technology.value("scratchpad_reach_bytes"))
    side_mm = np.sqrt(sram_area_mm2(technology, design.node_nm, design.family, reached))
    wire = technology.value("wire_energy_per_byte_mm") * side_mm / 2
    return sram_energy_per_byte_j(technology, design.node_nm, design.sram_bytes) + wire


def operand_energy_per_cycle_j(design: Design, technology: Technology) -> Any:
    """Local buffer traffic of one tensor core at full rate [J/cycle]: what delivers operands to its array.

    Systolic arrays are fed from small banks, one per row and per column (`operand_bank_bytes`); a multiprocessor
    (`simt`) feeds its arrays from register files and shared memory that any thread may address, so every access pays
    for the whole buffer. Then half the side of the array.
    """
    bank = tensor_core_buffer_bytes(design)
    if design.family != "simt":
        bank = np.minimum(bank, technology.value("operand_bank_bytes"))
    per_byte = sram_energy_per_byte_j(technology, design.node_nm, bank)
    wire = technology.value("wire_energy_per_byte_mm") * array_side_mm(design, technology) / 2
    return tensor_core_operand_bytes(design) * (per_byte + wire)


def array_side_mm(design: Design, technology: Technology) -> Any:
    """Side of one systolic array taken as square [mm]."""
    cell = mac_area_mm2(technology, design.node_nm, design.mac_dtype, design.family)
    return np.sqrt(design.tensor_core_rows * design.tensor_core_cols * cell)


def hbm_energy_per_byte_j(technology: Technology, stack_bytes_per_s: Any) -> Any:
    """A byte between off-chip memory and the chip [J/byte].

    Device and I/O by generation, told by the stack's rate: HBM2 up to `hbm2_stack_rate`, falling linearly to HBM3 and
    HBM3e at theirs; then the controller and the way across the die. The DRAM of an `embedded` engine and the way to it
    belong to the system around it; its accesses still cost, so the energy is the same and only its power is not in TDP.
    """
    first, second, third = (technology.value(f"{generation}_stack_rate") for generation in ("hbm2", "hbm3", "hbm3e"))
    hbm2, hbm3, hbm3e = (technology.value(f"{name}_energy_per_byte") for name in ("hbm", "hbm3", "hbm3e"))
    to_hbm3 = np.clip((stack_bytes_per_s - first) / (second - first), 0.0, 1.0)
    to_hbm3e = np.clip((stack_bytes_per_s - second) / (third - second), 0.0, 1.0)
    device = hbm2 + (hbm3 - hbm2) * to_hbm3 + (hbm3e - hbm3) * to_hbm3e
    return device + technology.value("hbm_path_energy_per_byte")


def leakage_parts_w(design: Design, technology: Technology) -> Any:
    """Leakage [W] of a design or element by element: logic by area, SRAM by bits; spare cores leak too."""
    parts = area_parts(design, technology)
    cores = parts.tensor_core_macs + parts.vector_lanes + parts.core_control
    logic = cores + parts.hbm + parts.links + parts.network + parts.fixed
    made = 1.0 + design.spare_fraction
    memory_bytes = made * (
        design.sram_bytes
        + design.num_tensor_cores * tensor_core_buffer_bytes(design)
        + design.num_vector_cores * vector_core_buffer_bytes(design)
    )
    per_mib = technology.value("sram_leakage_per_mib")
    return logic * technology.value("logic_leakage_per_mm2") + memory_bytes / 2**20 * per_mib


def leakage_w(accelerator: Accelerator, technology: Technology) -> float:
    """Leakage of one accelerator [W]."""
    return float(leakage_parts_w(accelerator, technology))
