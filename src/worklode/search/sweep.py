"""Lower bounds of the iteration time of very many designs, from tables. Derivation: docs/models/bounds.md."""

# A kernel keeps its state in one loop:
# ruff: noqa: PLR0912, PLR0915

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True, nogil=True)
def duration(computing: float, moving: float, starts: float, exposed: bool, streams: bool, fill_s: float) -> float:
    """Time of an operator [s] from that of its cores and of its transfers, as `cost.options.item_options` has it."""
    if not exposed:
        return max(computing + starts, moving)
    filling = min(computing, min(moving, fill_s)) + starts
    if streams:
        return max(computing, moving) + filling
    return float(np.sqrt(computing * computing + moving * moving)) + filling


@njit(cache=True, nogil=True)
def least_times(
    tensor_core_s: Floats,
    vector_core_s: Floats,
    alone_core_s: Floats,
    hbm_bytes: Floats,
    tensor_s: Floats,
    vector_s: Floats,
    alone_s: Floats,
    count: Floats,
    holds_tensor: NDArray[np.bool_],
    holds_vector: NDArray[np.bool_],
    streams: NDArray[np.bool_],
    exchanging_s: Floats,
    shape_of: Ints,
    width_of: Ints,
    size_of: Ints,
    grown_shape_of: Ints,
    grown_width_of: Ints,
    tensor_cores: Floats,
    vector_cores: Floats,
    hbm_bytes_per_s: Floats,
    exposed: bool,
    start_s: float,
    fill_s: float,
    unsure_s: float,
    path_pays: Floats,
    group_start: Ints,
    group_item: Ints,
    group_count: Floats,
    price_start: Ints,
    price: Floats,
) -> Floats:
    """Lower bounds on the iteration time of D designs [s].

    For every item the least it takes: time on all cores, and each resource on the option that uses it least. Bounds
    are the work of each resource, and for each of G guides (schedule.bounds.Guide) what all tasks pay at its prices.

    Args:
        tensor_core_s: [shapes, U] core-seconds of the products on one tensor core [s].
        vector_core_s, alone_core_s: [widths, U] on one vector core beside products, and computing them too [s].
        hbm_bytes: [rows, U] traffic with all of the SRAM, by number of lanes and size [bytes].
        tensor_s: [grown shapes, U] least time of the products on all tensor cores [s].
        vector_s, alone_s: [grown widths, U] least time on all vector cores [s].
        count: [U] operators of each item.
        holds_tensor, holds_vector: [U] every option holds such a core.
        streams: [U] transfers hide behind computation, or it behind them, even where they show elsewhere.
        exchanging_s: [U] time of the items that are collectives, 0 for others [s].
        shape_of, width_of, size_of, grown_shape_of, grown_width_of: [D] rows of the tables.
        tensor_cores, vector_cores, hbm_bytes_per_s: [D] of the designs.
        exposed: transfers show beside computation (`cost.model.exposes_transfers`).
        start_s, fill_s: of every operator that holds cores [s].
        unsure_s: arrays and lanes that differ by less in the time of an item may both be what it runs on [s].
        path_pays: [G, U, 4] what the tasks of an item on the path of a guide pay for each second and each share of
            tensor cores, vector cores, bandwidth.
        group_start: [G + 1] groups of tasks off the path, of each guide.
        group_item, group_count: [B] of a group.
        price_start: [B + 1] prices a group chooses the cheapest of.
        price: [E, 3] of tensor cores, vector cores, bandwidth.
    """
    designs, items, guides = len(shape_of), len(count), len(path_pays)
    bound_s = np.empty(designs)
    least_s, used = np.empty(items), np.empty((items, 3))
    for d in range(designs):
        tensor, vector, alone = tensor_core_s[shape_of[d]], vector_core_s[width_of[d]], alone_core_s[width_of[d]]
        grown, wide, grown_alone = tensor_s[grown_shape_of[d]], vector_s[grown_width_of[d]], alone_s[grown_width_of[d]]
        traffic = hbm_bytes[size_of[d]]
        per_tensor, per_vector, per_byte = 1.0 / tensor_cores[d], 1.0 / vector_cores[d], 1.0 / hbm_bytes_per_s[d]
        tensor_sum, vector_sum, traffic_sum = 0.0, 0.0, 0.0
        for u in range(items):
            moving = traffic[u] * per_byte
            computing = min(max(grown[u], wide[u]), grown_alone[u])
            one_tensor, one_vector, starts = tensor[u], vector[u], 0.0
            on_arrays, on_lanes = holds_tensor[u], holds_vector[u]
            if alone[u] < np.inf:
                # Lanes compute the products where that is faster with all cores: then tensor cores do nothing.
                if grown_alone[u] > grown[u] + wide[u] + unsure_s:
                    on_arrays = True
                elif grown_alone[u] < max(grown[u], wide[u]) - unsure_s:
                    one_vector, on_lanes = alone[u], True
                else:
                    one_vector = min(one_vector, alone[u])
            if holds_tensor[u] or holds_vector[u] or alone[u] < np.inf:
                starts = start_s
            least_s[u] = max(duration(computing, moving, starts, exposed, streams[u], fill_s), exchanging_s[u])
            # An option on p cores holds p·d(p), and d(p) >= d(1)/p for every part of d.
            used[u, 0] = used[u, 1] = 0.0
            if on_arrays:
                used[u, 0] = duration(one_tensor, moving, starts, exposed, streams[u], 0.0) * per_tensor
            if on_lanes:
                used[u, 1] = duration(one_vector, moving, starts, exposed, streams[u], 0.0) * per_vector
            used[u, 2] = moving
            tensor_sum += count[u] * used[u, 0]
            vector_sum += count[u] * used[u, 1]
            traffic_sum += count[u] * moving
        best = max(tensor_sum, max(vector_sum, traffic_sum))
        for g in range(guides):
            value = 0.0
            for u in range(items):
                value += path_pays[g, u, 0] * least_s[u]
                value += path_pays[g, u, 1] * used[u, 0] + path_pays[g, u, 2] * used[u, 1]
                value += path_pays[g, u, 3] * used[u, 2]
            for group in range(group_start[g], group_start[g + 1]):
                u = group_item[group]
                cheapest = np.inf
                for at in range(price_start[group], price_start[group + 1]):
                    pays = price[at, 0] * used[u, 0] + price[at, 1] * used[u, 1] + price[at, 2] * used[u, 2]
                    cheapest = min(cheapest, pays)
                value += group_count[group] * cheapest
            best = max(best, value)
        bound_s[d] = best
    return bound_s


@njit(cache=True, nogil=True)
def option_bounds(
    tensor_s: Floats,
    vector_core_s: Floats,
    alone_core_s: Floats,
    hbm_bytes: Floats,
    lane_hbm_bytes: Floats,
    vector_s: Floats,
    alone_s: Floats,
    count: Floats,
    has_products: NDArray[np.bool_],
    has_lanes: NDArray[np.bool_],
    streams: NDArray[np.bool_],
    exchanging_s: Floats,
    shown: Floats,
    shape_of: Ints,
    width_of: Ints,
    grown_width_of: Ints,
    tensor_of: Ints,
    vector_of: Ints,
    size_of: Ints,
    lane_size_of: Ints,
    tensor_cores: Floats,
    vector_cores: Floats,
    hbm_bytes_per_s: Floats,
    ladder_start: Ints,
    ladder: Floats,
    shape_row: Ints,
    tensor_size_row: Ints,
    vector_ladder_start: Ints,
    vector_ladder: Floats,
    vector_size_row: Ints,
    exposed: bool,
    start_s: float,
    fill_s: float,
    unsure_s: float,
    one_core: bool,
    path_start: Ints,
    path_item: Ints,
    path_price: Floats,
    group_start: Ints,
    group_item: Ints,
    group_count: Floats,
    price_start: Ints,
    price: Floats,
) -> Floats:
    """Lower bounds on the iteration time of D designs [s], from the options of every item.

    As `least_times`, but what a task pays is least over its options: one choice of cores decides its time, the cores it
    holds and, by its share of the SRAM, its traffic. Nothing but the rounding of lane cycles is left out.

    Args:
        tensor_s: [rows, U] time of the products by shape and number of cores [s].
        vector_core_s, alone_core_s: [widths, U] on one vector core [s].
        hbm_bytes: [sizes, U] traffic by size of SRAM [bytes].
        lane_hbm_bytes: [rows, U] the same of vector cores, by number of lanes and size of SRAM [bytes].
        vector_s, alone_s: [grown widths, U] least time on all vector cores [s].
        count: [U] operators of each item.
        has_products, has_lanes: [U] what an item has; `alone_core_s` is finite where lanes may compute the products.
        streams, exchanging_s: [U] see `least_times`.
        shown: [U] share of the shorter of products and lane work that does not overlap with the other.
        shape_of, width_of, grown_width_of, tensor_of, vector_of, size_of: [D] core shape, lanes, lanes and number of
            cores, numbers of both types of cores, SRAM: rows of the tables, or indices into what follows.
        tensor_cores, vector_cores, hbm_bytes_per_s: [D] of the designs.
        ladder_start, ladder: CSR of the numbers of tensor cores an item may take, for each number there are.
        shape_row: [shapes, L] row of `tensor_s` for each entry of `ladder`.
        tensor_size_row: [sizes, L] row of `hbm_bytes` for the share of the SRAM at each entry of `ladder`.
        vector_ladder_start, vector_ladder, vector_size_row: the same for items on vector cores alone; rows of
            `lane_hbm_bytes`, [lanes · sizes, L] by `lane_size_of` [D].
        path_start: [G + 1] rows of path tasks, of each guide.
        path_item, path_price: [R], [R, 4] tasks of one item in one class, and what they pay as in `least_times`.
        one_core: an operator holds one core of a type at most.
        exposed, start_s, fill_s, unsure_s, group_start, group_item, group_count, price_start, price: see
            `least_times`.
    """
    designs, items, guides = len(shape_of), len(count), len(path_start) - 1
    bound_s = np.empty(designs)
    room = 2
    for entry in range(len(ladder_start) - 1):
        room = max(room, ladder_start[entry + 1] - ladder_start[entry])
    more = 0
    for entry in range(len(vector_ladder_start) - 1):
        more = max(more, vector_ladder_start[entry + 1] - vector_ladder_start[entry])
    takes, used = np.empty((items, room + more)), np.empty((items, room + more, 3))
    options, num_beside = np.empty(items, np.int64), np.empty(items, np.int64)
    beside = np.empty((items, room + more), np.int64)
    least = np.empty(3)
    for d in range(designs):
        vector, alone = vector_core_s[width_of[d]], alone_core_s[width_of[d]]
        wide, grown_alone = vector_s[grown_width_of[d]], alone_s[grown_width_of[d]]
        per_tensor, per_vector, per_byte = 1.0 / tensor_cores[d], 1.0 / vector_cores[d], 1.0 / hbm_bytes_per_s[d]
        first, last = ladder_start[tensor_of[d]], ladder_start[tensor_of[d] + 1]
        first_lane, last_lane = vector_ladder_start[vector_of[d]], vector_ladder_start[vector_of[d] + 1]
        sums = np.zeros(3)
        for u in range(items):
            at = 0
            on_arrays, on_lanes = has_products[u], has_lanes[u] and not has_products[u]
            if alone[u] < np.inf and last > first:
                # An item takes what is faster with all cores, and both where that is not clear here.
                products, lanes = tensor_s[shape_row[shape_of[d], last - 1], u], 0.0
                if has_lanes[u]:
                    lanes = max(vector[u] * per_vector, wide[u])
                all_arrays = max(products, lanes) + min(products, lanes) * shown[u]
                on_arrays = grown_alone[u] >= all_arrays - unsure_s
                on_lanes = grown_alone[u] <= all_arrays + unsure_s
            elif alone[u] < np.inf:
                on_lanes = True
            if on_arrays:
                for j in range(first, last):
                    cores = ladder[j]
                    products = tensor_s[shape_row[shape_of[d], j], u]
                    moving = hbm_bytes[tensor_size_row[size_of[d], j], u] * per_byte
                    lane_cores, computing = 0.0, products
                    if has_lanes[u]:
                        lane_cores = 1.0
                        if not one_core:
                            lane_cores = max(1.0, np.ceil(cores * vector_cores[d] * per_tensor - 1e-9))
                        lanes = max(vector[u] / lane_cores, wide[u])
                        computing = max(products, lanes) + min(products, lanes) * shown[u]
                    lasts = duration(computing, moving, start_s, exposed, False, fill_s)
                    takes[u, at] = lasts
                    used[u, at, 0] = cores * per_tensor * lasts
                    used[u, at, 1] = lane_cores * per_vector * lasts
                    used[u, at, 2] = moving
                    at += 1
            if on_lanes:
                for j in range(first_lane, last_lane):
                    cores = vector_ladder[j]
                    moving = lane_hbm_bytes[vector_size_row[lane_size_of[d], j], u] * per_byte
                    if has_products[u]:
                        computing = max(alone[u] / cores, grown_alone[u])
                    else:
                        computing = max(vector[u] / cores, wide[u])
                    lasts = duration(computing, moving, start_s, exposed, streams[u], fill_s)
                    takes[u, at] = lasts
                    used[u, at, 0] = 0.0
                    used[u, at, 1] = cores * per_vector * lasts
                    used[u, at, 2] = moving
                    at += 1
            if at == 0:
                moving = hbm_bytes[tensor_size_row[size_of[d], last - 1], u] * per_byte
                takes[u, 0] = max(moving, exchanging_s[u])
                used[u, 0, 0] = used[u, 0, 1] = 0.0
                used[u, 0, 2] = moving
                at = 1
            options[u] = at
            least[:] = np.inf
            for option in range(at):
                for resource in range(3):
                    least[resource] = min(least[resource], used[u, option, resource])
            for resource in range(3):
                sums[resource] += count[u] * least[resource]
            # What pays for resources only never takes an option that another one undercuts in all of them.
            few = 0
            for option in range(at):
                undercut = False
                for other in range(few):
                    kept = beside[u, other]
                    if (
                        used[u, kept, 0] <= used[u, option, 0]
                        and used[u, kept, 1] <= used[u, option, 1]
                        and used[u, kept, 2] <= used[u, option, 2]
                    ):
                        undercut = True
                        break
                if not undercut:
                    beside[u, few] = option
                    few += 1
            num_beside[u] = few
        best = max(sums[0], max(sums[1], sums[2]))
        for g in range(guides):
            value = 0.0
            for row in range(path_start[g], path_start[g + 1]):
                u, pay = path_item[row], path_price[row]
                cheapest = np.inf
                for option in range(options[u]):
                    pays = pay[0] * takes[u, option] + pay[1] * used[u, option, 0]
                    pays += pay[2] * used[u, option, 1] + pay[3] * used[u, option, 2]
                    cheapest = min(cheapest, pays)
                value += cheapest
            for group in range(group_start[g], group_start[g + 1]):
                u = group_item[group]
                cheapest = np.inf
                for at in range(price_start[group], price_start[group + 1]):
                    for place in range(num_beside[u]):
                        option = beside[u, place]
                        pays = price[at, 0] * used[u, option, 0] + price[at, 1] * used[u, option, 1]
                        pays += price[at, 2] * used[u, option, 2]
                        cheapest = min(cheapest, pays)
                value += group_count[group] * cheapest
            best = max(best, value)
        bound_s[d] = best
    return bound_s
