"""HBM traffic and executed share of fused attention (docs/models/attention.md).

Letters: S_q queries and S_k keys of one group of heads, d and d_v head dimensions, t_q and t_k tile sizes, e bytes of
an element.
"""

from __future__ import annotations

import numpy as np

from worklode.cost.compiled import Floats, Ints, compiled

# Bytes of one running sum kept or spilled: results accumulate in 32 bits.
PARTIAL_SUM_BYTES = 4
# Share of an operator's SRAM that the tiles may take [1]: the next ones are fetched meanwhile.
TILE_SHARE = 0.5
# Rows of the streamed side on chip at a time [count]. Source: block sizes of FlashAttention-2 are 64 or 128 (Dao,
# arXiv 2307.08691, section 3.3).
STREAMED_ROWS = 128
# Products of a forward pass: scores and context. A gradient has more (five, with the scores recomputed).
FORWARD_PRODUCTS = 2


def executed_fraction(masked_fraction: float, span: float, tile: float) -> float:
    """Share of a masked product that is executed when whole tiles are skipped [1].

    1 - masked·(1 - min(1, tile/span)). For a causal mask over S keys masked = 1/2 and T = S/tile tiles a side this is
    (T + 1)/(2T): the tiles on the diagonal are executed in full.

    Args:
        masked_fraction: share behind the mask [1].
        span: shorter edge of the masked matrix [elements].
        tile: edge of a tile that is skipped or executed as one, the longer edge of the array [elements].
    """
    return 1.0 - masked_fraction * (1.0 - min(1.0, tile / span))


@compiled("float64(float64, float64, float64, float64, float64, float64, float64, float64, float64)")
def side_bytes(
    resident_rows: float,
    streamed_rows: float,
    resident_read: float,
    resident_sum: float,
    streamed_read: float,
    streamed_sum: float,
    element_bytes: float,
    executed: float,
    room: float,
) -> float:
    """HBM traffic beyond one read of every input when one side stays on chip and the other streams past [bytes].

    passes = ceil(rows/t), t = (room - streamed tile)/(row of the resident side); every pass but the first reads the
    streamed side again and reads and writes its running sums: (passes·executed - 1)·S·(d_read·e + 8·d_sum).

    Args:
        resident_rows, streamed_rows: lengths of both sides.
        resident_read, streamed_read: elements read per row.
        resident_sum, streamed_sum: elements accumulated per row.
        element_bytes: of an element [bytes].
        executed: share of the pairs that is executed; a masked pass skips the rows it does not need.
        room: on-chip bytes for one set of tiles [bytes].
    """
    tile = min(float(STREAMED_ROWS), streamed_rows)
    streamed_row = streamed_read * element_bytes + streamed_sum * PARTIAL_SUM_BYTES
    # A row of scores is kept for the rows on chip at a time.
    resident_row = resident_read * element_bytes + (resident_sum + tile) * PARTIAL_SUM_BYTES
    rows = max(1.0, np.floor((room - tile * streamed_row) / resident_row))
    passes = np.ceil(resident_rows / rows)
    again = streamed_read * element_bytes + 2.0 * streamed_sum * PARTIAL_SUM_BYTES
    return float(max(0.0, passes * executed - 1.0)) * streamed_rows * again


@compiled("float64(float64, float64, float64, float64, float64, boolean, float64, float64)")
def attention_reread_bytes(
    queries: float,
    keys: float,
    dim_qk: float,
    dim_v: float,
    element_bytes: float,
    forward: bool,
    executed: float,
    sram_bytes: float,
) -> float:
    """Least HBM traffic of one group of heads beyond every operand once [bytes]; the scores never leave the chip.

    Either queries stay (with their running results) and keys and values stream, or the other way round:

                   queries stay                          keys stay
        forward    Q, sums of O | K, V                   K, V | Q, sums of O
        backward   Q, dO, sums of dQ | K, V, dK, dV      K, V, sums of dK, dV | Q, dO, dQ

    Source: the two loop orders of FlashAttention (arXiv 2205.14135, algorithm 1) and FlashAttention-2 (2307.08691).
    Nothing is read again where one group's operands are on chip together.
    """
    room = sram_bytes * TILE_SHARE
    both = dim_qk + dim_v
    if forward:
        whole = (queries + keys) * both * element_bytes
        queries_stay = side_bytes(queries, keys, dim_qk, dim_v, both, 0.0, element_bytes, executed, room)
        keys_stay = side_bytes(keys, queries, both, 0.0, dim_qk, dim_v, element_bytes, executed, room)
    else:
        whole = queries * (both * element_bytes + dim_qk * PARTIAL_SUM_BYTES)
        whole += keys * both * (element_bytes + PARTIAL_SUM_BYTES)
        queries_stay = side_bytes(queries, keys, both, dim_qk, both, both, element_bytes, executed, room)
        keys_stay = side_bytes(keys, queries, both, both, both, dim_qk, element_bytes, executed, room)
    return 0.0 if whole <= room else min(queries_stay, keys_stay)


@compiled(
    "void(float64[::1], float64[::1], float64[::1], float64[::1], float64[::1], float64[::1], int64[::1],"
    " float64[::1], float64, float64[::1])"
)
def attention_reread_table(
    groups: Floats,
    queries: Floats,
    keys: Floats,
    dim_qk: Floats,
    dim_v: Floats,
    element_bytes: Floats,
    products: Ints,
    visible: Floats,
    sram_bytes: float,
    reread: Floats,
) -> None:
    """Re-read bytes of [U] attentions of `groups` groups of heads under `sram_bytes`, into `reread` [U]."""
    for u in range(len(queries)):
        reread[u] = groups[u] * attention_reread_bytes(
            queries[u],
            keys[u],
            dim_qk[u],
            dim_v[u],
            element_bytes[u],
            products[u] <= FORWARD_PRODUCTS,
            visible[u],
            sram_bytes,
        )
