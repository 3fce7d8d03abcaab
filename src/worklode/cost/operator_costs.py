"""The costs of a graph's distinct work items on one accelerator, as arrays: what the scheduler consumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatorCosts:
    """Allocation options of U work items, O options in all. Options of one item ascend in cores and strictly
    descend in `compute_s` (dominated allocations are left out), except that the first is always there, and the last
    (all cores) may be no faster than the one before where its larger share of the SRAM saves HBM traffic. Neither
    `compute_s` nor `hbm_bytes` ever rises from one option of an item to the next. All options of an item hold the same
    types of cores: narrow products run on the arrays or on the lanes, whichever is faster with all cores
    (docs/models/vector_core.md).

    Attributes:
        option_start: [U + 1] options of item u are `option_start[u]` up to `option_start[u + 1]`.
        tensor_cores, vector_cores: [O] cores held while the operator runs; none of a type it has no work for.
        compute_s: [O] time [s] bound by cores and on-chip traffic, with HBM infinitely fast; where transfers show
            beside computation (`model.exposes_transfers`) the time alone on the chip.
        hbm_bytes: [O] HBM traffic [bytes] with the tiling chosen for this option.
        sram_bytes: [O] on-chip traffic between global SRAM and the cores [bytes].
        macs: [U] multiply-accumulates executed on tensor cores (after causal skipping).
        lane_ops: [U] lane operations executed, special ones and those of products on lanes included.
        tensor_core_s: [U] least tensor-core time [core-seconds] any option spends: the work bound of an item.
        vector_core_s: [U] the same for vector cores.
        streams: [U] no products and no element that waits for others: of computation and transfers the lesser hides
            behind the other, on every family.
        resume_s, resume_bytes: [O] what one interruption adds to an operator: time [s], and HBM bytes in it
            (docs/models/operator_costs.md).
    """

    option_start: NDArray[np.int64]
    tensor_cores: NDArray[np.int64]
    vector_cores: NDArray[np.int64]
    compute_s: NDArray[np.float64]
    hbm_bytes: NDArray[np.float64]
    sram_bytes: NDArray[np.float64]
    macs: NDArray[np.float64]
    lane_ops: NDArray[np.float64]
    tensor_core_s: NDArray[np.float64]
    vector_core_s: NDArray[np.float64]
    streams: NDArray[np.bool_]
    resume_s: NDArray[np.float64]
    resume_bytes: NDArray[np.float64]
