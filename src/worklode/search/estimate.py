"""A fast estimate of the iteration time of many designs, to decide which of them deserve a schedule.

It is no bound and no result: every design that is reported was scheduled. Method: docs/models/search.md.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True, nogil=True)
def serial_times(
    tensor_core_s: Floats,
    vector_core_s: Floats,
    lanes_alone_s: Floats,
    hbm_bytes: Floats,
    count: Floats,
    on_path: Floats,
    shape_of: Ints,
    width_of: Ints,
    size_of: Ints,
    tensor_cores: Floats,
    vector_cores: Floats,
    hbm_bytes_per_s: Floats,
    share: bool,
    streams: NDArray[np.bool_],
    exposed: bool,
    start_s: float,
    exchanging_s: Floats,
) -> Floats:
    """Estimated iteration time of D designs [s].

    A training step is nearly a chain: operators follow one another, each on all cores that help. So the time is about

        split:     sum over operators of max(t/P, v/V, b/B)
        one-core:  max(sum over the path of max(t, v, b/B), sum t/P, sum v/V, sum b/B)

    with t, v core-seconds and b bytes of an operator, P, V cores and B bandwidth. Where lanes may compute the products
    too, in w core-seconds, w stands in for t and v if it is less, divided by the cores. Where transfers show it is
    sqrt(max(t, v)² + (b/B)²) in place of max(t, v, b/B); the start of an operator is added to each.

    Args:
        tensor_core_s: [shapes, U] core-seconds of each item on one tensor core of each shape [s].
        vector_core_s: [widths, U] core-seconds on one vector core of each number of lanes [s].
        lanes_alone_s: [widths, U] w, infinite where lanes may not compute the products [s].
        hbm_bytes: [sizes, U] traffic with each size of SRAM [bytes].
        count: [U] operators of each item; on_path: [U] those on the longest path.
        shape_of, width_of, size_of: [D] rows of the tables.
        tensor_cores, vector_cores, hbm_bytes_per_s: [D] of the designs.
        share: operators may be split over cores.
        streams: [U] items whose transfers hide even where others' show.
        exposed: transfers show beside computation (`cost.model.exposes_transfers`).
        start_s: `Accelerator.operator_start_s` [s].
        exchanging_s: [U] time of the items that are collectives, 0 for others [s].
    """
    designs = len(shape_of)
    items = len(count)
    time_s = np.empty(designs)
    for d in range(designs):
        tensor = tensor_core_s[shape_of[d]]
        vector = vector_core_s[width_of[d]]
        alone = lanes_alone_s[width_of[d]]
        traffic = hbm_bytes[size_of[d]]
        per_tensor, per_vector, per_byte = 1.0 / tensor_cores[d], 1.0 / vector_cores[d], 1.0 / hbm_bytes_per_s[d]
        chain, tensor_sum, vector_sum, traffic_sum = 0.0, 0.0, 0.0, 0.0
        for u in range(items):
            t, v, b = tensor[u], vector[u], traffic[u] * per_byte
            if share:
                cores = min(max(t * per_tensor, v * per_vector), alone[u] * per_vector)
                lasts = (np.sqrt(cores * cores + b * b) if exposed and not streams[u] else max(cores, b)) + start_s
                chain += count[u] * max(lasts, exchanging_s[u])
            else:
                if alone[u] < max(t, v):
                    t, v = 0.0, alone[u]
                cores = max(t, v)
                lasts = (np.sqrt(cores * cores + b * b) if exposed and not streams[u] else max(cores, b)) + start_s
                chain += on_path[u] * max(lasts, exchanging_s[u])
                tensor_sum += count[u] * t
                vector_sum += count[u] * v
                traffic_sum += count[u] * b
        time_s[d] = max(max(chain, tensor_sum * per_tensor), max(vector_sum * per_vector, traffic_sum))
    return time_s
