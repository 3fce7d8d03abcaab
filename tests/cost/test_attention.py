"""Fused attention: executed tiles counted one by one, traffic against a walk over the tiles."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from worklode.cost.attention import STREAMED_ROWS, attention_reread_bytes, executed_fraction, side_bytes


@pytest.mark.parametrize(("span", "tile"), [(1024, 128), (512, 512), (2048, 64), (128, 1)])
def test_causal_tiles_counted_one_by_one(span: int, tile: int) -> None:
    tiles = span // tile
    executed = sum(1 for row in range(tiles) for column in range(tiles) if column <= row)
    masked = 0.5 * (span - 1) / span
    assert executed_fraction(masked, span, tile) == pytest.approx(executed / tiles**2, abs=1 / span)


def test_without_a_mask_all_is_executed() -> None:
    assert executed_fraction(0.0, 1024, 128) == 1
    assert executed_fraction(0.4, 64, 128) == 1


def walked_bytes(queries: int, keys: int, dim: int, e: int, room: float) -> float:
    """Forward, queries staying: walk every tile of queries past every block of keys and values."""
    block = min(STREAMED_ROWS, keys)
    row = dim * e + (dim + block) * 4
    tile = max(1, int((room - block * 2 * dim * e) // row))
    moved = 0.0
    for first in range(0, queries, tile):
        moved += min(tile, queries - first) * dim * e
        for start in range(0, keys, block):
            moved += min(block, keys - start) * 2 * dim * e
    return moved - (queries + 2 * keys) * dim * e


@pytest.mark.parametrize("queries", [100, 4096])
@pytest.mark.parametrize("keys", [64, 1000, 4096])
def test_queries_stay_as_walked(queries: int, keys: int) -> None:
    for room in (1e5, 3e5, 1e6):
        found = side_bytes(float(queries), float(keys), 64.0, 64.0, 128.0, 0.0, 2.0, 1.0, room)
        assert found == pytest.approx(walked_bytes(queries, keys, 64, 2, room))


@pytest.mark.parametrize("forward", [True, False])
def test_less_memory_never_saves_traffic(forward: bool) -> None:
    last = -1.0
    for exponent in range(30, 8, -1):
        found = attention_reread_bytes(4096.0, 4096.0, 128.0, 128.0, 2.0, forward, 1.0, float(2**exponent))
        assert found >= last
        last = found
    assert last > 0
    assert attention_reread_bytes(4096.0, 4096.0, 128.0, 128.0, 2.0, forward, 1.0, float(2**30)) == 0


def test_a_gradient_moves_more_and_a_mask_less() -> None:
    sizes = (16384.0, 16384.0, 128.0, 128.0, 2.0)
    room = float(2**21)
    forward = attention_reread_bytes(*sizes, True, 1.0, room)
    backward = attention_reread_bytes(*sizes, False, 1.0, room)
    masked = attention_reread_bytes(*sizes, True, 0.5, room)
    assert backward > forward > masked > 0
    passes = ceil(16384 / np.floor((room / 2 - 128 * 256 * 2) / (256 + 4 * 256)))
    assert forward <= (passes - 1) * 16384 * 256 * 2
