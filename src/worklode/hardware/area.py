"""Die area as the sum of its parts; see docs/models/area.md.

`area_parts` works on one accelerator and, element by element, on arrays of designs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, cast

import numpy as np

from worklode.errors import InternalError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.buffers import (
    tensor_core_buffer_bytes,
    tensor_core_port_bytes,
    vector_core_buffer_bytes,
    vector_core_port_bytes,
)
from worklode.hardware.design import ACCUMULATOR_BYTES, OPERAND_BYTES, Design
from worklode.hardware.technology import Technology

Number = TypeVar("Number")
"""float, or an array of one number per design."""

FIRST_FINE_SERDES_NM = 7
"""Link PHYs below this node are of the 100 Gb/s generation (NVLink4, 4N), others of the 50 Gb/s one (NVLink3, N7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaBreakdown(Generic[Number]):
    """Area by part [mm2]; each a number, or an array of one number per design.

    Attributes:
        tensor_core_macs: multipliers, adders and pipeline registers of the systolic arrays.
        tensor_core_buffers: local operand and accumulator buffers of the tensor cores.
        vector_lanes: lanes with their special functions, permutation, load/store and sequencing.
        vector_core_buffers: register files and local memory of the vector cores.
        core_control: per-core sequencing whatever the core's size (instruction fetch, scalar unit, address generation).
        sram: global SRAM.
        hbm: HBM PHYs and controllers.
        links: PHYs and controllers of chip-to-chip links.
        network: on-chip network between cores and global SRAM.
        fixed: host interface, management, reserved and white space.
    """

    tensor_core_macs: Number
    tensor_core_buffers: Number
    vector_lanes: Number
    vector_core_buffers: Number
    core_control: Number
    sram: Number
    hbm: Number
    links: Number
    network: Number
    fixed: Number

    @property
    def total(self) -> Number:
        """Die area [mm2]."""
        return cast("Number", sum(getattr(self, part.name) for part in fields(self)))


def area_mm2(accelerator: Accelerator, technology: Technology) -> AreaBreakdown[float]:
    """Die area of one accelerator, by part [mm2].

    Raises:
        InternalError: a part is negative or not finite, or the total is not above zero.
    """
    return checked_parts(area_parts(accelerator, technology), "area")


def area_parts(design: Design, technology: Technology) -> AreaBreakdown[Any]:
    """Die area by part [mm2] of a design, or of every design of a set, element by element.

    Args:
        design: an `Accelerator` or a `DesignArrays`.
        technology: constants.

    Returns:
        Parts with the shape of the design's fields; parts that do not depend on a field stay single numbers.
    """
    node, family = design.node_nm, design.family
    made = 1.0 + design.spare_fraction
    port_bytes = network_port_bytes(design, technology)
    gigabytes_per_s = design.hbm_stacks * (design.hbm_stack_bytes_per_s / 1e9)
    link_gigabytes_per_s = design.num_links * (design.link_bytes_per_s / 1e9)
    embedded = family == "embedded"
    return AreaBreakdown(
        tensor_core_macs=made * macs(design) * mac_area_mm2(technology, node, design.mac_dtype, family),
        tensor_core_buffers=made
        * design.num_tensor_cores
        * buffer_area_mm2(technology, node, family, tensor_core_buffer_bytes(design)),
        vector_lanes=made * design.num_vector_cores * design.vector_lanes * lane_area_mm2(technology, node, family),
        vector_core_buffers=made
        * design.num_vector_cores
        * buffer_area_mm2(technology, node, family, vector_core_buffer_bytes(design)),
        core_control=made
        * (
            design.num_tensor_cores * technology.at(f"tensor_core_area_{family}", node)
            + design.num_vector_cores * technology.at(f"vector_core_area_{family}", node)
        ),
        sram=made * sram_area_mm2(technology, node, family, design.sram_bytes),
        # the SoC around an embedded engine owns the memory interface and the links
        hbm=0.0 if embedded else hbm_area_mm2(technology, node, design.hbm_stacks, gigabytes_per_s),
        links=0.0 if embedded else link_area_mm2(technology, node, link_gigabytes_per_s),
        network=made * port_bytes * technology.at(f"network_area_per_port_byte_{family}", node),
        fixed=technology.at(f"fixed_area_{family}", node),
    )


def macs(design: Design) -> Any:
    """Multiply-accumulate units of a design."""
    return design.num_tensor_cores * design.tensor_core_rows * design.tensor_core_cols


def mac_area_mm2(technology: Technology, node_nm: int, dtype: str, family: str) -> float:
    """Area of one multiply-accumulate unit [mm2].

        (multiplier + 32-bit adder + register bits · area per bit) · overhead of placement and control

    The registers of a weight-stationary cell hold the weight in use and the next one, the passing operand and the
    partial sum: 3 operands + 32 bits.
    """
    register_bits = 8 * (3 * OPERAND_BYTES[dtype] + ACCUMULATOR_BYTES)
    cell = technology.at(f"mac_area_{dtype}", node_nm) + register_bits * technology.at("register_area_per_bit", node_nm)
    return cell * technology.value(f"mac_area_overhead_{family}")


def lane_area_mm2(technology: Technology, node_nm: int, family: str) -> float:
    """Area of one vector lane [mm2]: an fp32 multiplier and adder times the family's overhead."""
    return technology.at("lane_area", node_nm) * technology.value(f"lane_area_overhead_{family}")


def buffer_area_mm2(technology: Technology, node_nm: int, family: str, size_bytes: Any) -> Any:
    """Area of a local buffer of `size_bytes` [mm2]: bit cells times the family's overhead of small memories."""
    cell = technology.at("bit_cell_area", node_nm)
    return size_bytes * (8 * cell * technology.value(f"buffer_area_overhead_{family}"))


def sram_area_mm2(technology: Technology, node_nm: int, family: str, size_bytes: Any) -> Any:
    """Area of global SRAM of `size_bytes` [mm2]: bit cells times the family's overhead (periphery, tags of a cache)."""
    cell = technology.at("bit_cell_area", node_nm)
    return size_bytes * (8 * cell * technology.value(f"sram_area_overhead_{family}"))


def hbm_area_mm2(technology: Technology, node_nm: int, stacks: Any, gigabytes_per_s: Any) -> Any:
    """Area of HBM PHYs and controllers [mm2]: a PHY per stack, controllers in proportion to bandwidth [GB/s]."""
    controller = technology.at("hbm_controller_area_per_gb_s", node_nm)
    return stacks * technology.value("hbm_phy_area") + gigabytes_per_s * controller


def link_area_mm2(technology: Technology, node_nm: int, gigabytes_per_s: Any) -> Any:
    """Area of link PHYs and controllers [mm2] for `gigabytes_per_s` of all links in one direction [GB/s]."""
    suffix = "_below_7nm" if node_nm < FIRST_FINE_SERDES_NM else ""
    phy = technology.value(f"link_phy_area_per_gb_s{suffix}")
    return gigabytes_per_s * (phy + technology.at("link_controller_area_per_gb_s", node_nm))


def network_port_bytes(design: Design, technology: Technology) -> Any:
    """Width of all core ports to global SRAM [bytes per cycle].

    Every core brings its own port; the cores of a multiprocessor (`simt`) share one, `simt_port_bytes` wide.
    """
    if design.family == "simt":
        return design.num_vector_cores * technology.value("simt_port_bytes")
    return design.num_tensor_cores * tensor_core_port_bytes(design) + design.num_vector_cores * vector_core_port_bytes(
        design
    )


Breakdown = TypeVar("Breakdown", bound=Any)


def checked_parts(parts: Breakdown, what: str) -> Breakdown:
    """The breakdown of one accelerator as plain floats, refused where it cannot be.

    Raises:
        InternalError: a part is negative or not finite, or the total is not above zero.
    """
    numbers = {part.name: float(getattr(parts, part.name)) for part in fields(parts)}
    for name, number in numbers.items():
        if not np.isfinite(number) or number < 0:
            raise InternalError(f"{what} of {name} is {number}")
    checked: Breakdown = type(parts)(**numbers)
    if not checked.total > 0:
        raise InternalError(f"total {what} is {checked.total}")
    return checked
