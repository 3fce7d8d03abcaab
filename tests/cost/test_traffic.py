"""HBM traffic: the best tiling against a simulation of every tiling and loop order."""

from __future__ import annotations

from itertools import permutations
from itertools import product as every
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.cost.traffic import (
    PARTIAL_SUM_BYTES,
    PATCH_A,
    PATCH_B,
    PATCH_C,
    PATCH_NONE,
    random_access_bytes,
    reread_bytes,
    tile_elements,
)


def simulated_bytes(m: int, n: int, k: int, e: int, tiles: tuple[int, ...], order: tuple[int, ...]) -> int:
    """Walk the tiles in a loop order with one tile of each operand on chip; count what moves [bytes]."""
    sizes = (m, n, k)
    counts = [ceil(size / tile) for size, tile in zip(sizes, tiles, strict=True)]

    def edge(dimension: int, index: int) -> int:
        return min(tiles[dimension], sizes[dimension] - index * tiles[dimension])

    def leave(tile: tuple[int, int]) -> int:
        done = begun[tile] == counts[2]
        return edge(0, tile[0]) * edge(1, tile[1]) * (e if done else PARTIAL_SUM_BYTES)

    moved = 0
    on_chip: dict[str, tuple[int, int]] = {}
    begun: dict[tuple[int, int], int] = {}
    for loop in every(*(range(counts[dimension]) for dimension in order)):
        at = dict(zip(order, loop, strict=True))
        for operand, rows, cols in (("a", 0, 2), ("b", 2, 1), ("c", 0, 1)):
            wanted = (at[rows], at[cols])
            if on_chip.get(operand) == wanted:
                continue
            size = edge(rows, at[rows]) * edge(cols, at[cols])
            if operand != "c":
                moved += size * e
            else:
                moved += leave(on_chip["c"]) if "c" in on_chip else 0
                moved += size * PARTIAL_SUM_BYTES if wanted in begun else 0
            on_chip[operand] = wanted
        begun[on_chip["c"]] = begun.get(on_chip["c"], 0) + 1
    return moved + leave(on_chip["c"])


def brute_force_bytes(m: int, n: int, k: int, e: int, sram_bytes: float, granule: int) -> float:
    """Least traffic beyond once over all tile sizes and all six loop orders."""
    shortest = [min(size, granule) for size in (m, n, k)]
    once = (m * k + k * n + m * n) * e
    # A tile of shortest edges always fits, with results staying while K streams.
    best = (ceil(n / shortest[1]) * m * k + ceil(m / shortest[0]) * k * n + m * n) * e
    for tiles in every(*(range(low, size + 1) for low, size in zip(shortest, (m, n, k), strict=True))):
        tm, tn, tk = tiles
        held = (tm * tk + tk * tn) * e + tm * tn * (e if tk == k else PARTIAL_SUM_BYTES)
        if held <= sram_bytes / 2:
            best = min(best, *(simulated_bytes(m, n, k, e, tiles, order) for order in permutations(range(3))))
    return best - once


def plain(m: int, n: int, k: int, e: int, sram_bytes: float, granule: int) -> float:
    return reread_bytes(m, n, k, float(m * k), float(k * n), float(m * n), e, PATCH_NONE, 1, float(sram_bytes), granule)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 200),
    st.integers(1, 2),
)
def test_best_tiling_equals_brute_force(m: int, n: int, k: int, e: int, sram_bytes: int, granule: int) -> None:
    assert plain(m, n, k, e, sram_bytes, granule) == brute_force_bytes(m, n, k, e, sram_bytes, granule)


def test_nothing_is_read_again_when_all_fits_or_one_operand_does() -> None:
    m, n, k = 4096, 1024, 1024
    weights = k * n * 2
    assert plain(m, n, k, 2, 2.0 * (m * k + k * n + m * n) * 2, 32) == 0
    assert plain(m, n, k, 2, 2.0 * (weights + 32 * (k + n) * 2), 32) == 0
    assert plain(m, n, k, 2, 2.0 * weights * 0.9, 32) > 0


def test_large_product_follows_the_square_root_law() -> None:
    """With S elements of accumulators the traffic of a large product tends to 2·M·N·K/sqrt(S) elements."""
    size = 16384
    sram = 2.0 * 4 * 1024 * 1024
    found = plain(size, size, size, 2, sram, 32) + 3 * size * size * 2
    # Tiles of C take nearly the whole half of the SRAM: 1024 x 1024 of 4 bytes less the strips of A and B.
    ideal = (2 * size**3 / 1024 + size**2) * 2
    assert ideal <= found <= 1.15 * ideal


def test_dense_and_coarse_tile_counts_agree_within_a_64th() -> None:
    m, n, k, e, room = 20011, 512, 64, 2, 40_000
    best = float("inf")
    for tm in range(32, m + 1):
        left = room / 2 - tm * 32 * e
        tn = int(min(n, left // (32 * e + tm * 4)))
        if tn >= 32:
            best = min(best, ceil(n / tn) * m * k * e + ceil(m / tm) * k * n * e)
    found = plain(m, n, k, e, room, 32) + (m * k + k * n) * e
    assert found <= best * (1 + 1 / 64)


@pytest.mark.parametrize("patch", [PATCH_A, PATCH_B, PATCH_C])
@pytest.mark.parametrize("pixels", [49, 3136, 100_352])
def test_convolution_moves_no_more_than_its_expanded_product(patch: int, pixels: int) -> None:
    channels, others, window = 64, 128, 9
    wide = channels * window
    m, n, k = {PATCH_A: (pixels, others, wide), PATCH_B: (others, wide, pixels), PATCH_C: (pixels, wide, others)}[patch]
    distinct = float(pixels * channels)
    a, b, c = float(m * k), float(k * n), float(m * n)
    a, b, c = (distinct if patch == which else x for which, x in ((PATCH_A, a), (PATCH_B, b), (PATCH_C, c)))
    last = np.inf
    for exponent in range(10, 28):
        sram = float(2**exponent)
        found = reread_bytes(m, n, k, a, b, c, 2, patch, window, sram, 32)
        moved = found + (a + b + c) * 2
        expanded = plain(m, n, k, 2, sram, 32) + (m * k + k * n + m * n) * 2.0
        assert moved <= expanded * 1.0001
        assert 0 <= found <= last
        last = found
    assert last == 0


def test_footprint_of_patches() -> None:
    # 64 pixels as 8 x 8 with a 3 x 3 window at stride 1 touch 10 x 10 inputs, of each of 4 channels.
    per_column, one_pass = tile_elements(64, 6400, 36, 6400.0 * 4, True, 9.0)
    assert per_column * 36 == pytest.approx(100 * 4)
    assert one_pass == pytest.approx(100 * 100 * 4)
    # The whole image in one tile: its distinct elements, no halo.
    assert tile_elements(6400, 6400, 36, 6400.0 * 4, True, 9.0)[1] == 6400 * 4
    # Stride 2, window 2: patches do not overlap.
    assert tile_elements(64, 6400, 16, 4 * 6400.0 * 4, True, 4.0)[1] == 4 * 6400 * 4


def test_scattered_accesses_round_up_to_bursts() -> None:
    assert random_access_bytes(10, 64) == 0
    assert random_access_bytes(10, 100) == 10 * 28
    assert random_access_bytes(3, 4) == 180
