"""Suite of systolic arrays: SCALE-Sim's compute cycles, and RTL of Gemmini under FireSim."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from worklode.cost.tensor_core import (
    fill_cycles,
    scalesim_input_stationary_cycles,
    scalesim_output_stationary_cycles,
    scalesim_weight_stationary_cycles,
)
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import Row, Sieve, read_table

FORMULAS: Mapping[str, Callable[[int, int, int, int, int], int]] = {
    "ws": scalesim_weight_stationary_cycles,
    "os": scalesim_output_stationary_cycles,
    "is": scalesim_input_stationary_cycles,
}
# Bytes between DRAM and Gemmini's scratchpad per cycle [bytes]. Assumption: what Timeloop descriptions of Gemmini state
# (DRAM of 8 words of 8 bits a cycle); the measurements do not tell.
DRAM_BYTES_PER_CYCLE = 8
# The largest spatial factor the table states; arrays of more rows than this are not what was measured.
LARGEST_ARRAY = 64
BASELINE = "constant utilisation (the median of the rows)"

Loop = tuple[str, int, bool]


def systolic(folder: Path) -> SuiteResult:
    """Suite `systolic`."""
    sieve = Sieve()
    found = [*_scalesim(folder), _gemmini(folder, sieve)]
    return SuiteResult(
        suite="systolic", title="Cycles of systolic arrays", groups=tuple(found), skipped=sieve.skipped()
    )


def _scalesim(folder: Path) -> list[Group]:
    rows = read_table(folder, "scalesim.csv", ("dataflow", "array_h", "array_w", "M", "N", "K", "cycles"))
    groups = []
    for dataflow in dict.fromkeys(row["dataflow"] for row in rows):
        some = [row for row in rows if row["dataflow"] == dataflow]
        measured = [float(row["cycles"]) for row in some]
        ideal = [_ideal(row) for row in some]
        predicted = [
            float(FORMULAS[dataflow](*(int(row[name]) for name in ("M", "N", "K", "array_h", "array_w"))))
            for row in some
        ]
        names = [f"{row['M']}x{row['N']}x{row['K']} on {row['array_h']}x{row['array_w']}" for row in some]
        groups.append(_group(f"SCALE-Sim, {dataflow}, its own formula", names, measured, predicted, ideal, target=0.0))
    return groups


def _ideal(row: Row) -> float:
    m, n, k, rows, cols = (float(row[name]) for name in ("M", "N", "K", "array_h", "array_w"))
    return m * n * k / (rows * cols)


def _gemmini(folder: Path, sieve: Sieve) -> Group:
    """Mappings as measured; nothing is fitted."""
    needed = ("pe_dim", "mapping", "firesim_rtl_cycle", "timeloop_cycle", "Hstride", "Wstride")
    some = []
    for row in read_table(folder, "gemmini_firesim.csv", needed):
        if not row["firesim_rtl_cycle"]:
            sieve.out("no RTL cycles of this mapping")
        elif int(row["pe_dim"]) > LARGEST_ARRAY:
            sieve.out("spatial factors of at most 64: no one array of the stated size")
        else:
            some.append(row)
    measured = [float(row["firesim_rtl_cycle"]) for row in some]
    predicted = [mapped_cycles(row) for row in some]
    ideal = [prod(float(row[d]) for d in "CKNPQRS") / float(row["pe_dim"]) ** 2 for row in some]
    timeloop = [
        abs(float(r["timeloop_cycle"]) / m - 1) for r, m in zip(some, measured, strict=True) if r["timeloop_cycle"]
    ]
    note = f"Timeloop's count of the same mappings: mean error {np.mean(timeloop):.1%}" if timeloop else ""
    names = [
        f"{r['C']}x{r['K']} channels, {r['P']}x{r['Q']} results, {r['R']}x{r['S']} taps: {r['mapping']}" for r in some
    ]
    return _group("Gemmini 16x16, RTL (FireSim)", names, measured, predicted, ideal, target=0.15, note=note)


def _group(
    name: str,
    names: list[str],
    measured: list[float],
    predicted: list[float],
    ideal: list[float],
    *,
    target: float,
    note: str = "",
) -> Group:
    utilisation = float(np.median(np.array(ideal) / np.array(measured)))
    points = tuple(
        Point(name=n, measured=m, predicted=p, baseline=i / utilisation)
        for n, m, p, i in zip(names, measured, predicted, ideal, strict=True)
    )
    return Group(
        name=name, unit="cycles", points=points, baseline=BASELINE, target=target, of_all=target == 0.0, note=note
    )


def loops_of(mapping: str) -> dict[str, list[Loop]]:
    """(dimension, count, spatial) of each level of a mapping such as `L3[WIO] K48 - L2[WI] N1 K16X - ...`."""
    levels: dict[str, list[Loop]] = {}
    for part in mapping.split(" - "):
        head, *factors = part.split()
        found = [re.fullmatch(r"([A-Z])(\d+)(X?)", factor) for factor in factors]
        levels[head.split("[")[0]] = [(f[1], int(f[2]), f[3] == "X") for f in found if f]
    return levels


def reloads(outer: list[Loop], dimensions: str) -> int:
    """How often a tile is fetched: all outer loops down to the innermost that changes it."""
    temporal = [(name, count) for name, count, spatial in outer if not spatial and count > 1]
    last = max((i for i, (name, _) in enumerate(temporal) if name in dimensions), default=-1)
    return prod(count for _, count in temporal[: last + 1])


def mapped_cycles(row: Row) -> float:
    """Cycles of a mapping: double-buffered folds of max(M, R) and a fill for each tile, beside DRAM transfers.

    A host core issues moves and computations alike, so the lesser of both is not hidden: sqrt(C² + H²), as kernels of a
    GPU have it (docs/models/efficiency.md). The maximum of both is 20.7 % off on average, this 17.7 %.
    """
    levels = loops_of(row["mapping"])
    size = int(row["pe_dim"])
    tile = dict.fromkeys("NCKPQRS", 1)
    spatial = dict.fromkeys("NCKPQRS", 1)
    for name, count, is_spatial in levels["L0"] + levels["L1"] + levels["L2"]:
        tile[name] *= count
        spatial[name] *= count if is_spatial else 1
    tiles = prod(count for _, count, is_spatial in levels["L3"] if not is_spatial)
    folds = tile["R"] * tile["S"] * (tile["C"] // spatial["C"]) * (tile["K"] // spatial["K"])
    streamed = -(-tile["N"] * tile["P"] * tile["Q"] // size) * size  # Gemmini streams whole blocks of rows.
    height = (tile["P"] - 1) * int(row["Wstride"]) + tile["R"]
    width = (tile["Q"] - 1) * int(row["Hstride"]) + tile["S"]
    moved = (
        tile["C"] * tile["K"] * tile["R"] * tile["S"] * reloads(levels["L3"], "CKRS")
        + tile["N"] * tile["C"] * height * width * reloads(levels["L3"], "NCPQRS")
        + tile["N"] * tile["K"] * tile["P"] * tile["Q"] * reloads(levels["L3"], "NKPQ")
    )
    computing = tiles * (folds * max(streamed, size) + fill_cycles(size, size))
    return float(np.hypot(computing, moved / DRAM_BYTES_PER_CYCLE))
