"""Allocation options of every item from the tables of its parts: which cores, how long, which traffic.

The rules are in docs/models/operator_costs.md.
"""

# Kernels are one loop nest each.
# ruff: noqa: PLR0912, PLR0915

from __future__ import annotations

import numpy as np

from worklode.cost.compiled import Floats, Ints, compiled

# Rounding allowed when a result is compared with its roofline [1].
ROUNDING = 1e-9
# What `item_options` found wrong with an item.
FINE, NOT_POSITIVE, ABOVE_TENSOR_PEAK, ABOVE_VECTOR_PEAK = 0, 1, 2, 3


def core_counts(cores: int) -> tuple[int, ...]:
    """Numbers of cores an operator may be split over: powers of two, 1.5 times those, and all of them."""
    ladder = {1, cores}
    power = 2
    while power <= cores:
        ladder.update(count for count in (power, power + power // 2) if count <= cores)
        power *= 2
    return tuple(sorted(ladder)) if cores > 0 else ()


@compiled("float64(float64, float64, float64)")
def pipelined_cycles(products: float, lanes: float, shown: float) -> float:
    """ceil(max(T, V) + min(T, V)·shown): products and lane work overlap but for a share of the shorter [cycles]."""
    return float(np.ceil(max(products, lanes) + min(products, lanes) * shown))


@compiled(
    "Tuple((int64, int64))(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], float64[:, ::1],"
    " float64[:, ::1], float64[:, ::1], float64[:, ::1], float64[::1], float64[::1], float64[::1], int64[::1],"
    " int64[::1], int64[::1], float64[:, ::1], float64[:, ::1], float64[::1], float64[::1], float64[::1], float64[::1],"
    " int64[::1], float64, float64, float64, float64,"
    " float64, boolean, float64, int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], float64[::1],"
    " float64[::1], float64[::1], float64[::1])"
)
def item_options(
    product_start: Ints,
    product: Ints,
    has_lanes: Ints,
    suits_lanes: Ints,
    attention: Ints,
    product_cycles: Floats,
    product_sram_bytes: Floats,
    fused_lane_cycles: Floats,
    lane_cycles: Floats,
    lane_sram_bytes: Floats,
    alone_sram_bytes: Floats,
    steps: Floats,
    tensor_ladder: Ints,
    fused_ladder: Ints,
    vector_ladder: Ints,
    tensor_reread: Floats,
    vector_reread: Floats,
    fixed_bytes: Floats,
    macs: Floats,
    lane_work: Floats,
    alone_work: Floats,
    reduces: Ints,
    macs_per_cycle: float,
    lanes: float,
    clock_hz: float,
    start_s: float,
    hbm_bytes_per_s: float,
    exposed: bool,
    fill_s: float,
    on_lanes: Ints,
    option_start: Ints,
    tensor_cores: Ints,
    vector_cores: Ints,
    compute_s: Floats,
    hbm_bytes: Floats,
    sram_bytes: Floats,
    tensor_core_s: Floats,
    vector_core_s: Floats,
) -> tuple[int, int]:
    """Options of U items; returns (what is wrong, item), `FINE` where nothing is.

    An item with products takes J numbers of tensor cores, with lane work too as many vector cores beside them; products
    and lanes overlap but for one step: max(T, V) + min(T, V)/steps. An item of lanes only takes L numbers of vector
    cores. Where transfers show (`exposed`), chained products and their lanes take turns, T + V, and an item takes

        sqrt(C² + H²) + min(C, H, fill)

    of the time C of its cores and H of its transfers, max(C, H) in place of the root for an item without products
    whose elements wait for no others. Later options that are not faster are left out, except that the
    last stays where its share of the SRAM saves HBM traffic.

    Lanes compute the products of an item that suits them where they need fewer cycles, all of each counted.

    Args:
        product_start, product: CSR of the products of an item.
        has_lanes: [U] 1 where there is lane work.
        suits_lanes: [U] 1 where lanes may compute the products.
        attention: [U] -1 where products are not chained.
        product_cycles, product_sram_bytes: [W, P + 1] of a product on at most p cores.
        fused_lane_cycles: [U, J] beside the tensor cores; lane_cycles: [U, L] alone.
        lane_sram_bytes, steps: [U]; alone_sram_bytes: [U] traffic of lanes alone.
        tensor_ladder, fused_ladder: [J] tensor cores and the vector cores beside them; vector_ladder: [L].
        tensor_reread: [J, U], vector_reread: [L, U] HBM bytes beyond `fixed_bytes` [U].
        macs, lane_work: [U] multiply-accumulates and lane-cycles executed, the rooflines; alone_work: [U] lane-cycles
            of lanes alone.
        reduces: [U] 1 where groups are reduced, whose threads wait for one another.
        macs_per_cycle, lanes: of one core.
        clock_hz: clock [Hz].
        start_s: added to every item that holds a core [s].
        hbm_bytes_per_s: sustained bandwidth [bytes/s].
        exposed: see `model.exposes_transfers`.
        fill_s: time in which buffers fill or empty [s].
        on_lanes: out, [U] 1 where lanes compute the products.
        option_start: out, [U + 1]; tensor_core_s, vector_core_s: out, [U]; the others: out, at least U·max(J, L).
    """
    at = 0
    for u in range(len(has_lanes)):
        option_start[u] = at
        tensor_core_s[u] = 0.0
        vector_core_s[u] = 0.0
        on_lanes[u] = 0
        first, last = product_start[u], product_start[u + 1]
        on_tensor_cores = last > first
        if not on_tensor_cores and has_lanes[u] == 0:
            tensor_cores[at] = 0
            vector_cores[at] = 0
            compute_s[at] = 0.0
            hbm_bytes[at] = fixed_bytes[u]
            sram_bytes[at] = 0.0
            at += 1
            continue
        shown = 1.0 if exposed and attention[u] >= 0 else 1.0 / steps[u]
        if on_tensor_cores and suits_lanes[u] == 1 and len(vector_ladder) > 0:
            all_cores, cycles = len(tensor_ladder) - 1, 0.0
            for index in range(first, last):
                cycles += product_cycles[product[index], tensor_ladder[all_cores]]
            if has_lanes[u] == 1:
                cycles = pipelined_cycles(cycles, fused_lane_cycles[u, all_cores], shown)
            if lane_cycles[u, len(vector_ladder) - 1] < cycles:
                on_tensor_cores = False
                on_lanes[u] = 1
        count = len(tensor_ladder) if on_tensor_cores else len(vector_ladder)
        start = at
        for j in range(count):
            cycles, moved = 0.0, lane_sram_bytes[u]
            p, q = 0, 0
            if on_tensor_cores:
                p = tensor_ladder[j]
                for index in range(first, last):
                    cycles += product_cycles[product[index], p]
                    moved += product_sram_bytes[product[index], p]
                if has_lanes[u] == 1:
                    q = fused_ladder[j]
                    cycles = pipelined_cycles(cycles, fused_lane_cycles[u, j], shown)
                traffic = fixed_bytes[u] + tensor_reread[j, u]
            else:
                q = vector_ladder[j]
                cycles, moved = lane_cycles[u, j], alone_sram_bytes[u]
                traffic = fixed_bytes[u] + vector_reread[j, u]
            if not (0.0 < cycles < np.inf) or not (0.0 <= traffic < np.inf) or not (0.0 <= moved < np.inf):
                return NOT_POSITIVE, u
            if on_tensor_cores and macs[u] > cycles * p * macs_per_cycle * (1.0 + ROUNDING):
                return ABOVE_TENSOR_PEAK, u
            if (lane_work[u] if on_tensor_cores else alone_work[u]) > cycles * q * lanes * (1.0 + ROUNDING):
                return ABOVE_VECTOR_PEAK, u
            duration = cycles / clock_hz
            if exposed:
                moving = traffic / hbm_bytes_per_s
                filling = min(duration, moving, fill_s)
                if last > first or reduces[u] == 1:
                    duration = np.sqrt(duration * duration + moving * moving) + filling
                else:
                    duration = max(duration, moving) + filling
            duration += start_s
            spares_traffic = j == count - 1 and at > start and traffic < hbm_bytes[at - 1]
            if at > start and duration >= compute_s[at - 1] and not spares_traffic:
                continue
            tensor_cores[at] = p
            vector_cores[at] = q
            compute_s[at] = duration
            hbm_bytes[at] = traffic
            sram_bytes[at] = moved
            if at == start or p * duration < tensor_core_s[u]:
                tensor_core_s[u] = p * duration
            if at == start or q * duration < vector_core_s[u]:
                vector_core_s[u] = q * duration
            at += 1
    option_start[len(has_lanes)] = at
    return FINE, at
