"""Cycles of a convolution or product on Gemmini with a given mapping, as the measured program runs it.

What runs is a C program that loops over tiles and hands every tile to Gemmini's loop unroller. Facts of both are from
their public sources, read 2026: ucb-bar/gemmini-rocc-tests (`tiled_conv`, gemmini-data-collection), ucb-bar/gemmini
(Configs.scala, LoopConv.scala, ExecuteController.scala). docs/models/tensor_core.md explains the model.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import hypot, prod

from worklode.errors import Fault, SpecError
from worklode.validation.tables import Row

DIMENSIONS = "NCKPQRS"
# Fewest cycles between two blocks with the same weights: writes to one accumulator address keep this distance
# (ExecuteController.scala, `total_rows`).
FEWEST_ROWS = 4
# Cycles in which a pair of preload and compute commands is issued at best. Fitted on half of the mappings, to a quarter
# of a cycle (tests/validation/test_gemmini.py). Likely cause: the reservation station holds 16 commands, so 8 pairs,
# and a pair is about 60 cycles under way in queue and array, 46 of them to fill and drain the array.
ISSUE_CYCLES = 7.5
# DMA: bytes a cycle on the system bus, largest request and line of the L2 (Configs.scala: dma_buswidth 128 bits,
# dma_maxbytes 64).
BUS_BYTES_PER_CYCLE = 16
LINE_BYTES = 64
# Memory behind the L2, per cycle: what Timeloop descriptions of Gemmini state (ucb-bar/dosa, arch.yaml: 8 words).
DRAM_BYTES_PER_CYCLE = 8
# L2 as Gemmini's sources propose it (CustomSoCConfigs.scala: 512 KiB, 8 ways). Assumption: the image that was measured
# is not described. Anything from 256 KiB to 2 MiB changes the mean error by less than half a percent.
L2_BYTES = 512 * 1024

Extents = Counter[int]
"""Extent of a tile -> tiles of that extent."""


@dataclass(frozen=True, kw_only=True)
class GemminiRun:
    """A layer and its mapping.

    Attributes:
        sizes: channels C, kernels K, batch N, columns P and rows Q of results, columns R and rows S of taps.
        tile: extents of the same that one run of the loop unroller covers.
        outer: dimensions of the loops over tiles, outermost first.
        stride: of the convolution.
        array: rows and columns of the array, and rows of a block.
    """

    sizes: dict[str, int]
    tile: dict[str, int]
    outer: tuple[str, ...]
    stride: int
    array: int

    @cached_property
    def padding(self) -> int:
        """Zeros around the image: the program takes half of the kernel."""
        return self.sizes["R"] // 2

    @cached_property
    def image(self) -> int:
        """Side of the square image: the program takes results times stride."""
        return self.sizes["P"] * self.stride

    @cached_property
    def limits(self) -> dict[str, int]:
        """What the loops run to: `sizes`, but an even kernel yields one result more than stated with that padding."""
        if self.sizes["R"] % 2 or self.sizes["Q"] == 1:
            return self.sizes
        results = (self.image + 2 * self.padding - self.sizes["R"]) // self.stride + 1
        return self.sizes | {"P": results, "Q": results}

    def count(self, dimension: str) -> int:
        """Tiles along a dimension."""
        return -(-self.limits[dimension] // self.tile[dimension])

    def extents(self, dimension: str) -> Extents:
        """Extents of the tiles along a dimension: the last may be cut short."""
        whole, rest = divmod(self.limits[dimension], self.tile[dimension])
        return Counter({self.tile[dimension]: whole}) + Counter({rest: 1} if rest else {})


def run_of(row: Row) -> GemminiRun:
    """The run of a row of the table, mapping as in `L3[WIO] K48 - L2[WI] N1 K16X - L1[O] C48 P16 C16X - L0[W] P8`.

    L3 is the loops over tiles; what is inside, spatial (`X`) or not, is the tile.

    Raises:
        SpecError: a mapping that cannot be read.
    """
    levels: dict[str, list[re.Match[str] | None]] = {}
    for part in row["mapping"].split(" - "):
        head, *factors = part.split()
        levels[head.split("[")[0]] = [re.fullmatch(rf"([{DIMENSIONS}])(\d+)X?", factor) for factor in factors]
    if set(levels) != {"L0", "L1", "L2", "L3"} or not all(match for some in levels.values() for match in some):
        allowed = "levels L3, L2, L1, L0 of factors such as K16 or C16X"
        problem = "a mapping that cannot be read"
        raise SpecError(Fault(where="mapping", value=row["mapping"], problem=problem, allowed=allowed))
    tile = dict.fromkeys(DIMENSIONS, 1)
    for level in ("L0", "L1", "L2"):
        for match in levels[level]:
            assert match is not None
            tile[match[1]] *= int(match[2])
    return GemminiRun(
        sizes={dimension: int(row[dimension]) for dimension in DIMENSIONS},
        tile=tile,
        outer=tuple(match[1] for match in levels["L3"] if match is not None and int(match[2]) > 1),
        stride=int(row["Wstride"]),
        array=int(row["pe_dim"]),
    )


def run_cycles(run: GemminiRun) -> float:
    """Cycles of the whole layer: sqrt(array² + transfers²).

    Two tiles are under way at once, so transfers hide behind the array where either is small; where both are large they
    wait for one another: the smooth maximum that kernels of a GPU have too (docs/models/efficiency.md).
    """
    return hypot(array_cycles(run), transfer_cycles(run))


def array_cycles(run: GemminiRun) -> float:
    """Cycles in which the array streams, or waits for commands.

    Weights of `array` x `array` stay while blocks of results stream, a block of at most `array` results of *one row* of
    the image. A block takes its rows, four at least; the one beside which the next weights load takes `array`. So a
    fold of weights under q rows of images with blocks b of them takes

        max(array + Σ max(b, 4) over all blocks but one, 7.5 · number of blocks)
    """
    folds = run.count("K") * -(-run.tile["K"] // run.array) * run.sizes["R"] * run.sizes["S"]
    folds *= run.count("C") * -(-run.tile["C"] // run.array)
    cycles = 0.0
    for columns, column_tiles in run.extents("P").items():
        blocks = [run.array] * (columns // run.array) + ([columns % run.array] if columns % run.array else [])
        streaming = sum(max(block, FEWEST_ROWS) for block in blocks)
        for rows, row_tiles in run.extents("Q").items():
            lines = run.tile["N"] * rows
            fold = run.array + lines * streaming - max(blocks[-1], FEWEST_ROWS)
            cycles += column_tiles * row_tiles * max(fold, ISSUE_CYCLES * lines * len(blocks))
    return cycles * run.count("N") * folds


def transfer_cycles(run: GemminiRun) -> float:
    """Cycles of the bus for all tiles.

    Every tile fetches its inputs and its weights, whatever the tile before had; partial sums stay in the accumulators,
    results leave once. A line that the L2 does not hold takes 64/8 cycles, one that it holds its beats of 16 bytes.
    """
    pixels = run.sizes["N"] * _fetched(run, "P", "R") * _fetched(run, "Q", "S") * run.count("C") * run.count("K")
    taps = run.sizes["C"] * run.sizes["R"] * run.sizes["S"]
    rows = taps * run.count("K") * run.count("N") * run.count("P") * run.count("Q")
    results = run.sizes["N"] * run.limits["P"] * run.limits["Q"]
    inputs_missed, weights_missed = missed_bytes(run)
    return (
        _fetch_cycles(pixels, run.tile["C"], inputs_missed)
        + _fetch_cycles(rows, min(run.tile["K"], run.sizes["K"]), weights_missed)
        + max(
            results * run.count("K") * -(-run.tile["K"] // run.array),  # a row of the accumulators is one request
            results * run.sizes["K"] / DRAM_BYTES_PER_CYCLE,
        )
    )


def _fetched(run: GemminiRun, results: str, taps: str) -> int:
    """Rows or columns of the image that all tiles along one side fetch.

    A tile of n results and k taps takes n · stride + k - 1 of them, as the program does, though (n - 1) · stride + k
    would do; padding is not fetched.
    """
    total = 0
    for first in range(0, run.limits[results], run.tile[results]):
        extent = min(run.tile[results], run.limits[results] - first)
        for tap in range(0, run.sizes[taps], run.tile[taps]):
            begin = first * run.stride + tap - run.padding
            end = begin + extent * run.stride + min(run.tile[taps], run.sizes[taps] - tap) - 1
            total += max(0, min(end, run.image) - max(begin, 0))
    return total


def _fetch_cycles(rows: int, row_bytes: int, missed_bytes: float) -> float:
    """Cycles to fetch `rows` runs of contiguous bytes of which `missed_bytes` come from DRAM."""
    beats = rows * -(-row_bytes // BUS_BYTES_PER_CYCLE)
    return max(beats - missed_bytes / BUS_BYTES_PER_CYCLE, 0.0) + missed_bytes / DRAM_BYTES_PER_CYCLE


def missed_bytes(run: GemminiRun) -> tuple[float, float]:
    """Bytes of inputs and of weights that come from DRAM.

    A tile is fetched anew by a loop that changes it, and by one that does not where everything inside that loop exceeds
    the L2. Less than a line of weights per tap costs the line, unless it stays until the next kernels need it.
    """
    inside: dict[str, int] = {}
    grown = dict(run.tile)
    for dimension in reversed(run.outer):
        inside[dimension] = _footprint_bytes(run, grown)
        grown[dimension] = run.limits[dimension]

    def fetches(changed_by: str) -> int:
        again = (d for d in run.outer if d in changed_by or inside[d] > L2_BYTES)
        return prod(run.count(dimension) for dimension in again)

    inputs, _ = _operand_bytes(run, run.tile)
    taps = run.tile["C"] * run.tile["R"] * run.tile["S"]
    shared = "K" in inside and inside["K"] <= L2_BYTES
    row_bytes = run.tile["K"] if shared or run.tile["K"] >= LINE_BYTES else LINE_BYTES
    fetched = run.sizes["N"] * _fetched(run, "P", "R") * _fetched(run, "Q", "S") * run.sizes["C"] * run.count("K")
    return min(fetches("NCPQRS") * inputs, fetched), fetches("CKRS") * taps * row_bytes


def _operand_bytes(run: GemminiRun, tile: dict[str, int]) -> tuple[int, int]:
    """Bytes of inputs, and of lines with weights, of a tile."""
    columns, rows = tile["P"] * run.stride + tile["R"] - 1, tile["Q"] * run.stride + tile["S"] - 1
    return tile["N"] * tile["C"] * rows * columns, tile["C"] * tile["R"] * tile["S"] * max(tile["K"], LINE_BYTES)


def _footprint_bytes(run: GemminiRun, tile: dict[str, int]) -> int:
    """Bytes of lines with inputs, weights and results of a tile."""
    return sum(_operand_bytes(run, tile)) + tile["N"] * tile["P"] * tile["Q"] * max(tile["K"], LINE_BYTES)
