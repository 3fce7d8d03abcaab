"""Fused attention: executed tiles counted one by one, traffic against a walk over the tiles."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from worklode.cost.attention import STREAMED_ROWS, attention_reread_bytes, executed_fraction, side_bytes
from worklode.cost.item_arrays import item_arrays
from worklode.graph.work import Product, Work, WorkItem


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


def chain(*sizes: tuple[int, int, int]) -> WorkItem:
    """An attention item of products (m, n, k), eight of each."""
    products = tuple(
        Product(
            batch=8, m=m, n=n, k=k, a_elements=8 * m * k, b_elements=8 * k * n, c_elements=8 * m * n, element_bytes=2
        )
        for m, n, k in sizes
    )
    return WorkItem(work=Work(products=products, chained=True, simple_ops=1), read_bytes=1, write_bytes=1)


@pytest.mark.parametrize("keys", [16, 48, 300])
def test_the_width_of_the_values_is_found_in_every_kind_of_chain(keys: int) -> None:
    queries, dim_qk, dim_v = 100, 32, 48
    scores, context = (queries, keys, dim_qk), (queries, dim_v, keys)
    forward = chain(scores, context)
    fused = chain(
        scores, (queries, keys, dim_v), (keys, dim_v, queries), (queries, dim_qk, keys), (keys, dim_qk, queries)
    )
    # Written out, the gradient starts from that of the context: its first product reduces over the values' width.
    written_out = chain((queries, keys, dim_v), (queries, dim_qk, keys), (keys, dim_qk, queries))
    arrays = item_arrays([forward, fused, written_out]).attentions
    assert list(arrays.dim_qk) == [dim_qk, dim_qk, dim_v]
    assert list(arrays.dim_v) == [dim_v, dim_v, dim_qk]
