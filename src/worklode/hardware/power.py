"""Thermal design power as the sum of its parts; see docs/models/power.md.

`tdp_parts` works on one accelerator and, element by element, on arrays of designs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Generic, cast

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import Number, checked_parts, macs, network_port_bytes
from worklode.hardware.design import Design
from worklode.hardware.energy import (
    energy_per_lane_op_j,
    energy_per_mac_j,
    hbm_energy_per_byte_j,
    lane_register_bytes,
    leakage_parts_w,
    operand_energy_per_cycle_j,
    sram_access_energy_per_byte_j,
)
from worklode.hardware.technology import Technology

LINK_DIRECTIONS = 2
"""Links carry traffic both ways at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerBreakdown(Generic[Number]):
    """Power by part [W]; each a number, or an array of one number per design.

    Attributes:
        tensor_core_macs: arithmetic of the systolic arrays at full rate.
        tensor_core_buffers: delivery of operands and partial sums from local buffers.
        vector_lanes: lane operations with their registers and instructions.
        sram: global SRAM and on-chip network, every port at full rate.
        hbm: memory devices on the package, their interface and controllers, at full bandwidth.
        links: chip-to-chip links, both directions at full rate.
        fixed: host interface, management and chip-level clock.
        leakage: of logic and SRAM.
    """

    tensor_core_macs: Number
    tensor_core_buffers: Number
    vector_lanes: Number
    sram: Number
    hbm: Number
    links: Number
    fixed: Number
    leakage: Number

    @property
    def total(self) -> Number:
        """Power of the chip with the memory on its package [W]."""
        return cast("Number", sum(getattr(self, part.name) for part in fields(self)))


def tdp_w(accelerator: Accelerator, technology: Technology) -> PowerBreakdown[float]:
    """Thermal design power of one accelerator, by part [W].

    Raises:
        InternalError: a part is negative or not finite, or the total is not above zero.
    """
    return checked_parts(tdp_parts(accelerator, technology), "power")


def tdp_parts(design: Design, technology: Technology) -> PowerBreakdown[Any]:
    """Thermal design power by part [W] of a design, or of every design of a set, element by element.

        peak dynamic power of the parts at the clock · peak activity · provisioned activity + links + fixed + leakage

    `peak_activity` is the family's: what worst-case switching and supply losses add, and what parts that cannot all
    peak together take away. Links and the fixed part run at full power whatever is computed.

    Args:
        design: an `Accelerator` or a `DesignArrays`.
        technology: constants.

    Returns:
        Parts with the shape of the design's fields; parts that do not depend on a field stay single numbers.
    """
    node, family = design.node_nm, design.family
    activity = technology.value(f"peak_activity_{family}") * design.provisioned_activity
    per_cycle_w = design.clock_hz * activity
    lanes = design.num_vector_cores * design.vector_lanes
    lane_op_j = energy_per_lane_op_j(technology, node, family, lane_register_bytes(design))
    sram_byte_j = sram_access_energy_per_byte_j(design, technology)
    hbm_bytes_per_s = design.hbm_stacks * design.hbm_stack_bytes_per_s
    link_bytes_per_s = LINK_DIRECTIONS * design.num_links * design.link_bytes_per_s
    embedded = family == "embedded"
    return PowerBreakdown(
        tensor_core_macs=per_cycle_w * macs(design) * energy_per_mac_j(technology, node, design.mac_dtype),
        tensor_core_buffers=per_cycle_w * design.num_tensor_cores * operand_energy_per_cycle_j(design, technology),
        vector_lanes=per_cycle_w * lanes * lane_op_j,
        sram=per_cycle_w * network_port_bytes(design, technology) * sram_byte_j,
        # the SoC around an embedded engine owns memory and links
        hbm=0.0
        if embedded
        else activity * hbm_bytes_per_s * hbm_energy_per_byte_j(technology, design.hbm_stack_bytes_per_s),
        links=0.0 if embedded else link_bytes_per_s * technology.value("link_energy_per_byte"),
        fixed=technology.at(f"fixed_power_{family}", node),
        leakage=leakage_parts_w(design, technology),
    )
