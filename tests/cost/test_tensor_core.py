"""Systolic formulas against simulations, and the split table against every split there is."""

from __future__ import annotations

from itertools import product as every
from math import ceil

import numpy as np
import pytest

from worklode.cost.tensor_core import (
    PARTIAL_SUM_BYTES,
    fill_cycles,
    least_core_cycles,
    on_chip_bytes,
    reduction_cycles,
    split_table,
    streaming_cycles,
    useful_parts,
)


def simulated_cycles(folds: int, streamed: int, rows: int, cols: int) -> int:
    """Event by event: the next weights load while a fold streams; the last wavefront leaves after R + C - 2 cycles."""
    loaded = rows
    done = 0
    for fold in range(folds):
        start = max(loaded, done)
        loaded = start + rows if fold + 1 < folds else 0
        done = start + streamed
    return done + rows + cols - 2


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 70, 9), (40, 16, 100), (200, 33, 17), (16, 16, 16)])
@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (16, 8), (8, 32)])
def test_streaming_matches_an_event_simulation(m: int, n: int, k: int, rows: int, cols: int) -> None:
    folds = ceil(k / rows) * ceil(n / cols)
    closed = streaming_cycles(1, m, n, k, rows, cols) + fill_cycles(rows, cols)
    # The closed form charges the weights of a fold that never comes, where they take longer than the last rows.
    assert closed == simulated_cycles(folds, m, rows, cols) + max(0, rows - m)


def run_pass(a: np.ndarray, b: np.ndarray, rows: int, cols: int, stacked: int, groups: int) -> tuple[np.ndarray, int]:
    """One pass of `stacked`·`groups` small products: the weights as they lie in the array, and the rows streamed."""
    together, m, k = a.shape
    n = b.shape[2]
    weights = np.zeros((rows, cols))
    for group, place in every(range(groups), range(stacked)):
        index = group * stacked + place
        if index < together:
            weights[place * k : (place + 1) * k, index * n : (index + 1) * n] = b[index]
    results = np.zeros((together, m, n))
    streamed = 0
    for group in range(groups):
        for row in range(m):
            vector = np.zeros(rows)
            for place in range(stacked):
                index = group * stacked + place
                if index < together:
                    vector[place * k : (place + 1) * k] = a[index, row]
            out = vector @ weights
            streamed += 1
            for place in range(stacked):
                index = group * stacked + place
                if index < together:
                    results[index, row] = out[index * n : (index + 1) * n]
    return results, streamed


@pytest.mark.parametrize(
    ("m", "n", "k", "stacked", "groups"), [(9, 2, 4, 4, 1), (3, 2, 4, 4, 2), (1, 3, 16, 1, 5), (2, 4, 7, 2, 2)]
)
def test_packed_products_share_a_pass_and_stay_right(m: int, n: int, k: int, stacked: int, groups: int) -> None:
    rows = cols = 16
    together = stacked * groups
    random = np.random.default_rng(7)
    a, b = random.standard_normal((together, m, k)), random.standard_normal((together, k, n))
    results, streamed = run_pass(a, b, rows, cols, stacked, groups)
    np.testing.assert_allclose(results, a @ b)
    assert streaming_cycles(together, m, n, k, rows, cols) <= max(streamed, rows)
    assert streaming_cycles(together, m, n, k, rows, cols) < together * streaming_cycles(1, m, n, k, rows, cols)


def test_products_as_wide_as_the_array_do_not_pack() -> None:
    assert streaming_cycles(12, 500, 64, 64, 128, 64) == 12 * 500


def test_reduction_moves_each_partial_sum_once_out_and_once_in() -> None:
    assert reduction_cycles(1280.0, 2, 64) == 20
    assert reduction_cycles(1280.0, 4, 64) == 30


def test_useful_parts_are_those_that_shrink_the_largest_part() -> None:
    for total in (1, 2, 7, 30, 97, 1000):
        for limit in (1, 5, 40):
            room = np.empty(limit, np.int64)
            found = room[: useful_parts(total, limit, room)].tolist()
            expected = [p for p in range(1, limit + 1) if p == 1 or ceil(total / p) < ceil(total / (p - 1))]
            assert found == expected


def brute_force_cycles(batch: int, m: int, n: int, k: int, rows: int, cols: int, cores: int) -> float:
    """Every split of a product over at most `cores`, in both roles, piece by piece."""
    best = float("inf")
    for streamed, stationary in ((m, n), (n, m)):
        k_folds, n_folds = ceil(k / rows), ceil(stationary / cols)
        for pb, pm, pn, pk in every(range(1, cores + 1), repeat=4):
            if pb * pm * pn * pk > cores or pm > ceil(streamed / rows):
                continue
            k_part = min(k, ceil(k_folds / pk) * rows)
            n_part = min(stationary, ceil(n_folds / pn) * cols)
            b_part, m_part = ceil(batch / pb), ceil(streamed / pm)
            cycles = streaming_cycles(b_part, m_part, n_part, k_part, rows, cols)
            if pk > 1:
                cycles += ceil(2 * (pk - 1) / pk * b_part * m_part * n_part / cols)
            best = min(best, cycles)
    return best + 2 * rows + cols - 2


SHAPES = [
    (1, 64, 64, 64),
    (1, 1, 1, 1),
    (1, 7, 300, 11),
    (5, 40, 3, 9),
    (24, 50, 2, 3),
    (24, 2, 2, 70),
    (3, 1, 8, 500),
    (1, 4, 4, 4000),
    (7, 33, 17, 16),
    (12, 100, 5, 16),
    (2, 1000, 16, 8),
]


def table(
    rows: int, cols: int, cores: int, executed: float = 1.0, accumulators: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch, m, n, k = (np.array([s[i] for s in SHAPES], np.int64) for i in range(4))
    cycles, sram = np.empty((len(SHAPES), cores + 1)), np.zeros((len(SHAPES), cores + 1))
    split = np.zeros((len(SHAPES), cores + 1, 5), np.int64)
    two = np.full(len(SHAPES), 2, np.int64)
    share = np.full(len(SHAPES), executed)
    split_table(batch, m, n, k, two, share, rows, cols, accumulators, cores, cycles, sram, split)
    return cycles, sram, split


@pytest.mark.parametrize(("rows", "cols"), [(8, 8), (4, 16), (16, 4)])
def test_split_table_finds_the_best_of_all_splits(rows: int, cols: int) -> None:
    cores = 10
    cycles, _, split = table(rows, cols, cores)
    for u, shape in enumerate(SHAPES):
        for p in range(1, cores + 1):
            assert cycles[u, p] == brute_force_cycles(*shape, rows, cols, p), (shape, p)
            assert split[u, p, :4].prod() <= p


def test_the_split_told_is_the_split_charged() -> None:
    rows, cols, cores = 8, 8, 12
    cycles, sram, split = table(rows, cols, cores)
    for u, (batch, m, n, k) in enumerate(SHAPES):
        for p in range(1, cores + 1):
            pb, pm, pn, pk, role = (int(x) for x in split[u, p])
            streamed, stationary, ps, pt = (m, n, pm, pn) if role == 0 else (n, m, pn, pm)
            k_part = min(k, ceil(ceil(k / rows) / pk) * rows)
            n_part = min(stationary, ceil(ceil(stationary / cols) / pt) * cols)
            b_part, m_part = ceil(batch / pb), ceil(streamed / ps)
            told = streaming_cycles(b_part, m_part, n_part, k_part, rows, cols)
            told += reduction_cycles(float(b_part * m_part * n_part), pk, cols) if pk > 1 else 0
            assert cycles[u, p] == told + fill_cycles(rows, cols)
            assert sram[u, p] == on_chip_bytes(batch, streamed, stationary, k, ps, pt, pk, cols, 64, 2)
            assert sram[u, p] >= 2 * batch * (m * k + k * n + m * n)


def test_a_long_reduction_is_split_along_k_and_pays_for_it() -> None:
    cycles, _, split = table(8, 8, 8)
    long_k = SHAPES.index((1, 4, 4, 4000))
    assert split[long_k, 8, 3] > 1
    assert cycles[long_k, 8] < cycles[long_k, 1] / 4
    assert cycles[long_k, 8] > cycles[long_k, 1] / 8


def test_skipped_tiles_shorten_streaming_but_not_the_fill() -> None:
    whole, _, _ = table(8, 8, 4)
    half, _, _ = table(8, 8, 4, executed=0.5)
    fill = fill_cycles(8, 8)
    np.testing.assert_array_equal(half[:, 1:], np.ceil((whole[:, 1:] - fill) * 0.5) + fill)


def test_on_chip_traffic_counts_every_reading() -> None:
    # 100 streamed rows in blocks of 64, 3 column folds of 8, K = 16: A three times, B twice, C once.
    assert on_chip_bytes(1, 100, 24, 16, 1, 1, 1, 8, 64, 2) == 2 * (3 * 100 * 16 + 2 * 24 * 16 + 100 * 24)
    # Two parts of K: each result is written and read once more as a partial sum.
    extra = on_chip_bytes(1, 100, 24, 16, 1, 1, 2, 8, 64, 2) - on_chip_bytes(1, 100, 24, 16, 1, 1, 1, 8, 64, 2)
    assert extra == 2 * 100 * 24 * PARTIAL_SUM_BYTES


def test_no_split_spends_less_than_the_least_core_cycles() -> None:
    rows, cols, cores = 8, 8, 40
    cycles, _, _ = table(rows, cols, cores)
    batch, m, n, k = (np.array([s[i] for s in SHAPES], np.int64) for i in range(4))
    least = np.empty(len(SHAPES))
    least_core_cycles(batch, m, n, k, np.ones(len(SHAPES)), rows, cols, least)
    for p in range(1, cores + 1):
        assert (least <= p * cycles[:, p]).all()
    assert (least >= 0.4 * cycles[:, 1]).all()
