"""What searchers that think in layers see of a workload: forward operators with matrix products, one after the other.

The inference form of Spotlight-like and ConfuciuX-like: a design is as good as the sum of its layers' times (or
energies) on it, each with all of the chip; operators without products are not seen, nothing runs beside anything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worklode.cost.compiled import Floats, Ints
from worklode.cost.operator_costs import OperatorCosts
from worklode.graph.operator import Phase
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import energy_constants
from worklode.hardware.power import tdp_w
from worklode.search.evaluate import Evaluator
from worklode.search.objective import Objective


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layers:
    """L distinct layers of a workload, in the order of the model.

    Attributes:
        items: [L] their items.
        counts: [L] how often each occurs.
    """

    items: Ints
    counts: Floats

    def __len__(self) -> int:
        return len(self.items)


def forward_layers(evaluator: Evaluator) -> Layers:
    """The distinct forward operators with products; those of all phases where a workload has none in forward."""
    return _layers(evaluator, forward=True) or _layers(evaluator, forward=False)


def training_layers(evaluator: Evaluator) -> Layers:
    """The distinct operators with products, of every phase."""
    return _layers(evaluator, forward=False)


def _layers(evaluator: Evaluator, *, forward: bool) -> Layers:
    products = evaluator.model.has_products
    counts: dict[int, int] = {}
    for operator, item in zip(evaluator.fused.operators, evaluator.arrays.item_of, strict=True):
        if products[item] and (not forward or operator.phase is Phase.FORWARD):
            counts[int(item)] = counts.get(int(item), 0) + 1
    return Layers(items=np.array(list(counts), np.int64), counts=np.array(list(counts.values()), np.float64))


def fastest_options(costs: OperatorCosts, accelerator: Accelerator, items: Ints) -> Ints:
    """[L] option of each item that takes least alone."""
    alone_s = np.maximum(costs.compute_s, costs.hbm_bytes / accelerator.sustained_hbm_bytes_per_s)
    start = costs.option_start
    return np.array([start[i] + int(alone_s[start[i] : start[i + 1]].argmin()) for i in items], np.int64)


def layer_figures(
    evaluator: Evaluator, accelerator: Accelerator, costs: OperatorCosts, layers: Layers, chosen: Ints
) -> tuple[Floats, Floats]:
    """[L] time [s] and energy [J] of all occurrences of each layer, one after the other, by options `chosen` [L]."""
    constants = energy_constants(accelerator, evaluator.technology)
    alone_s = np.maximum(costs.compute_s, costs.hbm_bytes / accelerator.sustained_hbm_bytes_per_s)[chosen]
    energy_j = (
        costs.macs[layers.items] * (constants.mac_j + constants.mac_operand_j)
        + costs.lane_ops[layers.items] * constants.lane_op_j
        + costs.sram_bytes[chosen] * constants.sram_byte_j
        + costs.hbm_bytes[chosen] * constants.hbm_byte_j
        + alone_s * constants.static_w
    )
    return alone_s * layers.counts, energy_j * layers.counts


def objective_figure(
    objective: Objective, accelerator: Accelerator, evaluator: Evaluator, time_s: float, energy_j: float
) -> float:
    """The objective of a sum over layers."""
    power_w = float(np.asarray(tdp_w(accelerator, evaluator.technology).total))
    return float(objective.figure(time_s=time_s, tdp_w=power_w, energy_j=energy_j))
