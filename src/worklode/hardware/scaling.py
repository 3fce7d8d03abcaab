"""Scaling of area and energy between technology nodes, by cited rules; see docs/models/technology.md.

Nodes between two rows of the table are interpolated in the logarithms of node and factor. Nodes outside it are refused
where files are read (`NODE_RANGE_NM`), so here they are a defect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

NODE_RANGE_NM = (3, 130)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What scaling rests on at one node; None where the source has no value and neighbours are interpolated.

    Attributes:
        node_nm: name of the node [nm].
        bit_cell_um2: high-density 6T SRAM cell [um2].
        supply_v: nominal supply [V].
        area_to_7nm: area of a logic block at 7 nm over its area here (Stillmaker & Baas 2017).
        energy_polynomial: (a, b, c) of the switching energy a V^2 + b V + c (Stillmaker & Baas 2017, relative units).
        logic_mtr_per_mm2: peak logic density [million transistors / mm2]; decides area below 7 nm.
        energy_to_7nm: switching energy here over that at 7 nm; decides energy from 16 nm down.
    """

    node_nm: int
    bit_cell_um2: float
    supply_v: float
    area_to_7nm: float | None
    energy_polynomial: tuple[float, float, float] | None
    logic_mtr_per_mm2: float | None
    energy_to_7nm: float | None


def switching_energy(polynomial: tuple[float, float, float], supply_v: float) -> float:
    """Relative switching energy a V^2 + b V + c at `supply_v` [V] (Stillmaker & Baas 2017, equation of table 5)."""
    a, b, c = polynomial
    return (a * supply_v + b) * supply_v + c


def logic_area_scale(nodes: Sequence[Node], node_nm: float) -> float:
    """Area of a logic block at `node_nm` over its area at 7 nm.

    7 nm and above: 1 / area_to_7nm (Stillmaker & Baas 2017, table of area factors). Below: peak density at 7 nm over
    peak density there.
    """
    density_at_7nm = _row(nodes, 7).logic_mtr_per_mm2
    assert density_at_7nm is not None

    def at(node: Node) -> float | None:
        if node.area_to_7nm is not None:
            return 1.0 / node.area_to_7nm
        return None if node.logic_mtr_per_mm2 is None else density_at_7nm / node.logic_mtr_per_mm2

    return _interpolated([(node.node_nm, at(node)) for node in nodes], node_nm)


def sram_area_scale(nodes: Sequence[Node], node_nm: float) -> float:
    """Area of an SRAM at `node_nm` over its area at 7 nm: the ratio of high-density bit cells."""
    cell_at_7nm = _row(nodes, 7).bit_cell_um2
    return _interpolated([(node.node_nm, node.bit_cell_um2 / cell_at_7nm) for node in nodes], node_nm)


def dynamic_energy_scale(nodes: Sequence[Node], node_nm: float) -> float:
    """Switching energy at `node_nm` over that at 7 nm, each at its nominal supply.

    Where `energy_to_7nm` is tabulated (FinFET nodes, 16 nm and below), that. Above the largest such node: the ratio of
    the polynomials of Stillmaker & Baas 2017 to that node's, times its `energy_to_7nm`.
    """
    oldest = max((node for node in nodes if node.energy_to_7nm is not None), key=lambda node: node.node_nm)
    assert oldest.energy_polynomial is not None and oldest.energy_to_7nm is not None
    relative_to = switching_energy(oldest.energy_polynomial, oldest.supply_v) / oldest.energy_to_7nm

    def at(node: Node) -> float | None:
        if node.node_nm <= oldest.node_nm or node.energy_polynomial is None:
            return node.energy_to_7nm
        return switching_energy(node.energy_polynomial, node.supply_v) / relative_to

    return _interpolated([(node.node_nm, at(node)) for node in nodes], node_nm)


def _row(nodes: Sequence[Node], node_nm: int) -> Node:
    return next(node for node in nodes if node.node_nm == node_nm)


def _interpolated(points: Sequence[tuple[int, float | None]], node_nm: float) -> float:
    """Factor at `node_nm`, straight in log-log between the nearest points that have a value."""
    known = sorted((nm, factor) for nm, factor in points if factor is not None)
    assert known[0][0] <= node_nm <= known[-1][0], f"node {node_nm} nm is outside the table"
    for (low_nm, low), (high_nm, high) in pairwise(known):
        if low_nm <= node_nm <= high_nm:
            share = math.log(node_nm / low_nm) / math.log(high_nm / low_nm)
            return float(low * (high / low) ** share)
    raise AssertionError("unreachable: the node is within the table")
