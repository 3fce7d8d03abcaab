"""HBM traffic of a matrix product or convolution under the best tiling that fits on chip (docs/models/traffic.md).

Letters: i_m, i_n, i_k numbers of tiles along M, N, K; t_m, t_n, t_k their sizes; e bytes of an element; S bytes of
on-chip memory for one set of tiles.
"""

from __future__ import annotations

import numpy as np

from worklode.cost.compiled import Floats, Ints, compiled

# Bytes HBM moves at once [bytes]. Source: pseudo channels of HBM2 and HBM3 deliver 32 B a burst (JESD235: 64 bits x 4,
# JESD238: 32 bits x 8; also AMD PG313, "HBM Topology"). Assumption: controllers ask for two neighbouring bursts, as
# caches and scratchpads with lines of 64 B or more do.
HBM_ACCESS_BYTES = 64
# Bytes of one partial sum, spilled or held on chip: tensor cores accumulate in 32 bits.
PARTIAL_SUM_BYTES = 4
# Share of an operator's SRAM that one set of tiles may take [1]: the next set is fetched while this one is used.
TILE_SHARE = 0.5
# Numbers of tiles up to this one [count] are all tried, larger ones in steps of a 64th: within 1.6 % of the optimum.
DENSE_TILE_COUNTS = 64
# Operand that is the virtual matrix of patches.
PATCH_NONE = 0
PATCH_A = 1
PATCH_B = 2
PATCH_C = 3


def random_access_bytes(accesses: int, access_bytes: int) -> int:
    """HBM bytes moved beyond those asked for by scattered accesses [bytes]: each is rounded up to whole 64 B bursts."""
    return accesses * (-access_bytes % HBM_ACCESS_BYTES)


@compiled("float64(int64, float64, float64, float64, float64)")
def patch_elements(pixels: int, channels: float, window: float, density: float, most: float) -> float:
    """Distinct elements behind the patches of a square tile of output pixels [elements].

    min(t·window, (sqrt(t·density) + halo)²)·channels, at most those of the whole operand, where the window reaches over
    the edge of the tile by halo = max(0, sqrt(window) - sqrt(density)).

    Args:
        pixels: t.
        channels: elements per pixel.
        window: taps of the kernel.
        density: input pixels per output pixel, the stride squared.
        most: elements of the whole operand.
    """
    side = np.sqrt(pixels * density) + max(0.0, np.sqrt(window) - np.sqrt(density))
    return float(min(min(pixels * window, side * side) * channels, most))


@compiled("UniTuple(float64, 2)(int64, int64, int64, float64, boolean, float64)")
def tile_elements(
    tile: int, length: int, width: int, elements: float, patches: bool, window: float
) -> tuple[float, float]:
    """Elements of a tile per unit of its other edge, and elements fetched by one pass over all tiles [elements].

    Plain: (t, elements). A matrix of patches whose pixels are tiled: (f(t)/width, at least `elements` and
    floor(length/t)·f(t) + f(rest)) with f as in `patch_elements`: neighbouring tiles fetch their common edge both.

    Args:
        tile: length t of the tile along the pixels (or rows).
        length, width: of the whole matrix; width = channels·window where it is one of patches.
        elements: distinct elements of the whole matrix.
        patches: whether it is one of patches.
        window: taps of the kernel.
    """
    if not patches:
        return float(tile), elements
    channels = width / window
    density = elements / (length * channels)
    whole_tile = patch_elements(tile, channels, window, density, elements)
    rest = patch_elements(length % tile, channels, window, density, elements) if length % tile else 0.0
    return whole_tile / width, max(elements, length // tile * whole_tile + rest)


@compiled("int64(int64)")
def next_tile_count(count: int) -> int:
    """The number of tiles tried after `count`: every one up to `DENSE_TILE_COUNTS`, then a 64th more."""
    return count + max(1, count // DENSE_TILE_COUNTS)


@compiled(
    "float64(int64, int64, int64, int64, int64, float64, float64, float64, int64, int64, float64, int64, float64)"
)
def stationary_bytes(
    tm: int,
    tn: int,
    m: int,
    n: int,
    k: int,
    a_elements: float,
    b_elements: float,
    c_elements: float,
    e: int,
    patch: int,
    window: float,
    granule: int,
    room: float,
) -> float:
    """HBM traffic of a product whose A or B tile stays on chip, with the longest t_k that fits [bytes]; or infinite.

    The lesser of A + i_m·B + C + 2·(i_k - 1)·C₄ and i_n·A + B + C + 2·(i_k - 1)·C₄.
    """
    a_width, a_pass = tile_elements(tm, m, k, a_elements, patch == PATCH_A, window)
    c_width, c_pass = tile_elements(tm, m, n, c_elements, patch == PATCH_C, window)
    c_whole = c_elements * e + 2.0 * (c_pass - c_elements) * PARTIAL_SUM_BYTES
    shortest = min(k, granule)
    tk = k
    while True:
        b_width, b_pass = tile_elements(tk, k, n, b_elements, patch == PATCH_B, window)
        c_bytes = e if tk == k else PARTIAL_SUM_BYTES
        if (a_width * tk + b_width * tn) * e + c_width * tn * c_bytes <= room:
            spilled = 2.0 * (-(-k // tk) - 1) * c_elements * PARTIAL_SUM_BYTES
            once = (a_pass + b_pass) * e + c_whole + spilled
            again = min((-(-m // tm) - 1) * b_pass, (-(-n // tn) - 1) * a_pass) * e
            return once + again
        if tk == shortest:
            return np.inf
        if patch == PATCH_B:
            tk = max(shortest, tk // 2)
        else:
            fits = np.floor((room - c_width * tn * PARTIAL_SUM_BYTES) / ((a_width + tn) * e))
            if fits < shortest:
                return np.inf
            tk = int(min(k - 1.0, fits))


@compiled("float64(int64, int64, int64, float64, float64, float64, int64, int64, int64, float64, int64)")
def reread_bytes(
    m: int,
    n: int,
    k: int,
    a_elements: float,
    b_elements: float,
    c_elements: float,
    element_bytes: int,
    patch: int,
    window: int,
    sram_bytes: float,
    granule: int,
) -> float:
    """Least HBM traffic beyond moving every operand once [bytes], for one product.

    Three schedules of a tiled product, each with the tiles that suit it best:

        outputs stay   i_n·A + i_m·B + C                    C tile on chip while K streams
        A stays        A + i_m·B + C + 2·(i_k - 1)·C₄       N innermost; partial sums (C₄, 32 bits) spilled
        B stays        i_n·A + B + C + 2·(i_k - 1)·C₄       M innermost

    under t_m·t_k·e + t_k·t_n·e + t_m·t_n·(4 if i_k > 1 else e) <= S/2. They cover all six loop orders
    (tests/cost/traffic_oracle.py simulates those). An operand of patches holds and moves distinct elements.

    Args:
        m, n, k: sizes.
        a_elements, b_elements, c_elements: distinct elements behind each operand.
        element_bytes: of an element [bytes].
        patch: operand that is a matrix of patches, or `PATCH_NONE`.
        window: taps of the kernel.
        sram_bytes: on-chip memory of the operator [bytes].
        granule: shortest edge of a tile [elements]; a tile of shortest edges always fits (buffers of the cores).
    """
    e = float(element_bytes)
    taps = float(window)
    room = sram_bytes * TILE_SHARE
    once = (a_elements + b_elements + c_elements) * e
    if once <= room:
        return 0.0
    shortest_m, shortest_n, shortest_k = min(m, granule), min(n, granule), min(k, granule)

    # Outputs stay; i_n follows from i_m. Tiles of K are as short as may be, unless their halo is then read again.
    best = np.inf
    tk = shortest_k
    while True:
        b_width, b_pass = tile_elements(tk, k, n, b_elements, patch == PATCH_B, taps)
        c_bytes = e if tk == k else float(PARTIAL_SUM_BYTES)
        count = 1
        while count * b_pass * e + (a_elements + c_elements) * e < best:
            tm = max(-(-m // count), shortest_m)
            a_width, a_pass = tile_elements(tm, m, k, a_elements, patch == PATCH_A, taps)
            c_width, c_pass = tile_elements(tm, m, n, c_elements, patch == PATCH_C, taps)
            tn = np.floor((room - a_width * tk * e) / (b_width * e + c_width * c_bytes))
            if tn >= shortest_n or tm == shortest_m:
                tiles_n = np.ceil(n / max(float(shortest_n), min(tn, float(n))))
                c_whole = c_elements * e + 2.0 * (c_pass - c_elements) * PARTIAL_SUM_BYTES
                best = min(best, (tiles_n * a_pass + -(-m // tm) * b_pass) * e + c_whole)
            if tm == shortest_m:
                break
            count = next_tile_count(count)
        if patch != PATCH_B or tk == k:
            break
        tk = min(k, 4 * tk)

    # A stays: tiles of N as short as may be.
    count = 1
    while (a_elements + count * b_elements + c_elements) * e < best:
        tm = max(-(-m // count), shortest_m)
        total = stationary_bytes(
            tm, shortest_n, m, n, k, a_elements, b_elements, c_elements, element_bytes, patch, taps, granule, room
        )
        best = min(best, total)
        if tm == shortest_m:
            break
        count = next_tile_count(count)

    # B stays: tiles of M as short as may be, unless their halo is then read again.
    tm = shortest_m
    while True:
        count = 1
        while (count * a_elements + b_elements + c_elements) * e < best:
            tn = max(-(-n // count), shortest_n)
            total = stationary_bytes(
                tm, tn, m, n, k, a_elements, b_elements, c_elements, element_bytes, patch, taps, granule, room
            )
            best = min(best, total)
            if tn == shortest_n:
                break
            count = next_tile_count(count)
        if patch in (PATCH_NONE, PATCH_B) or tm == m:
            break
        tm = min(m, 4 * tm)
    return max(0.0, best - once)


@compiled(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], float64[::1], float64[::1], int64[::1],"
    " int64[::1], int64[::1], float64, float64[::1])"
)
def reread_table(
    batch: Ints,
    m: Ints,
    n: Ints,
    k: Ints,
    a_elements: Floats,
    b_elements: Floats,
    c_elements: Floats,
    element_bytes: Ints,
    patch: Ints,
    window: Ints,
    sram_bytes: float,
    reread: Floats,
) -> None:
    """Re-read bytes of [U] batches of products under `sram_bytes`, into `reread`; elements are those of one product."""
    for u in range(len(m)):
        granule = -(-HBM_ACCESS_BYTES // element_bytes[u])
        reread[u] = batch[u] * reread_bytes(
            m[u],
            n[u],
            k[u],
            a_elements[u],
            b_elements[u],
            c_elements[u],
            element_bytes[u],
            patch[u],
            window[u],
            sram_bytes,
            granule,
        )


# What stays on chip while tiles of the others come and go: the loop orders `reread_bytes` chooses from.
OUTPUTS_STAY, A_STAYS, B_STAYS = 0, 1, 2


@compiled(
    "void(int64, int64, int64, int64, float64, float64, float64, int64, int64, int64, float64, int64[:, ::1],"
    " float64[::1])"
)
def mapped_reread(
    batch: int,
    m: int,
    n: int,
    k: int,
    a_elements: float,
    b_elements: float,
    c_elements: float,
    element_bytes: int,
    patch: int,
    window: int,
    sram_bytes: float,
    tilings: Ints,
    reread: Floats,
) -> None:
    """HBM traffic beyond moving every operand once [bytes] under [S] given tilings: what `reread_bytes` minimises.

    A tiling that does not fit into its share of the SRAM is infinite; the smallest one is assumed to fit where
    outputs stay.

    Args:
        batch, m, n, k, a_elements, b_elements, c_elements, element_bytes, patch, window, sram_bytes: as in
            `reread_table`.
        tilings: [S, 4] what stays (`OUTPUTS_STAY`, `A_STAYS`, `B_STAYS`), and t_m, t_n, t_k.
        reread: out, [S].
    """
    e = float(element_bytes)
    granule = -(-HBM_ACCESS_BYTES // element_bytes)
    room = sram_bytes * TILE_SHARE
    smallest_m, smallest_n = min(m, granule), min(n, granule)
    once = (a_elements + b_elements + c_elements) * e
    for s in range(len(tilings)):
        stays, tm, tn, tk = tilings[s, 0], tilings[s, 1], tilings[s, 2], tilings[s, 3]
        a_width, a_pass = tile_elements(tm, m, k, a_elements, patch == PATCH_A, float(window))
        b_width, b_pass = tile_elements(tk, k, n, b_elements, patch == PATCH_B, float(window))
        c_width, c_pass = tile_elements(tm, m, n, c_elements, patch == PATCH_C, float(window))
        c_bytes = e if tk == k else float(PARTIAL_SUM_BYTES)
        fits = (a_width * tk + b_width * tn) * e + c_width * tn * c_bytes <= room
        if not fits and not (stays == OUTPUTS_STAY and tm == smallest_m and tn == smallest_n):
            reread[s] = np.inf
            continue
        tiles_m, tiles_n, tiles_k = -(-m // tm), -(-n // tn), -(-k // tk)
        total = (a_pass + b_pass + c_elements) * e + 2.0 * (c_pass - c_elements) * PARTIAL_SUM_BYTES
        if stays == OUTPUTS_STAY:
            total += ((tiles_n - 1) * a_pass + (tiles_m - 1) * b_pass) * e
        else:
            total += 2.0 * (tiles_k - 1) * c_elements * PARTIAL_SUM_BYTES
            total += (tiles_m - 1) * b_pass * e if stays == A_STAYS else (tiles_n - 1) * a_pass * e
        reread[s] = batch * max(0.0, total - once)


def tile_edges(length: int, element_bytes: int) -> Ints:
    """Edges a tile may have along one dimension [elements], descending: those `reread_bytes` looks at."""
    shortest = min(length, -(-HBM_ACCESS_BYTES // element_bytes))
    edges = []
    count = 1
    while True:
        edges.append(max(-(-length // count), shortest))
        if edges[-1] == shortest:
            return np.array(sorted(set(edges), reverse=True), np.int64)
        count = next_tile_count(count)


def halo_edges(length: int, element_bytes: int, *, halving: bool = False) -> Ints:
    """Edges of a tile along a dimension whose halo is fetched again [elements], descending.

    Four times the shortest and so on up to the whole; with `halving` the whole and its halves down to the shortest.
    """
    shortest = min(length, -(-HBM_ACCESS_BYTES // element_bytes))
    edges = [length if halving else shortest]
    while edges[-1] != (shortest if halving else length):
        edges.append(max(shortest, edges[-1] // 2) if halving else min(length, 4 * edges[-1]))
    return np.array(sorted(set(edges), reverse=True), np.int64)
