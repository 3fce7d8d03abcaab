"""Systolic cycle counts against SCALE-Sim and against RTL of a real array (Gemmini under FireSim)."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from worklode.cost.tensor_core import (
    fill_cycles,
    scalesim_input_stationary_cycles,
    scalesim_output_stationary_cycles,
    scalesim_weight_stationary_cycles,
)

FORMULAS: dict[str, Callable[[int, int, int, int, int], int]] = {
    "ws": scalesim_weight_stationary_cycles,
    "os": scalesim_output_stationary_cycles,
    "is": scalesim_input_stationary_cycles,
}
# Bytes between DRAM and Gemmini's scratchpad per cycle [bytes]. Assumption: what Timeloop descriptions of Gemmini state
# (DRAM of 8 words of 8 bits a cycle); the measurements do not tell.
GEMMINI_DRAM_BYTES_PER_CYCLE = 8


def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of a reference table; skips the test where the tables are absent."""
    folder = Path(os.environ.get("WORKLODE_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
    path = folder / name
    if not path.is_file():
        pytest.skip(f"reference table {name} is absent: set WORKLODE_DATA")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_equal_to_scalesim_on_every_row() -> None:
    rows = rows_of("scalesim.csv")
    assert {"ws", "os"} <= {row["dataflow"] for row in rows}
    for row in rows:
        sizes = (int(row[name]) for name in ("M", "N", "K", "array_h", "array_w"))
        assert FORMULAS[row["dataflow"]](*sizes) == int(row["cycles"]), row


@pytest.mark.parametrize(("m", "n", "k"), [(10, 3, 700), (1, 1, 1), (64, 500, 33)])
def test_input_stationary_is_the_transposed_product(m: int, n: int, k: int) -> None:
    """C^T = B^T A^T: the other operand stays in the array; SCALE-Sim counts both alike."""
    assert scalesim_input_stationary_cycles(m, n, k, 16, 8) == scalesim_weight_stationary_cycles(n, m, k, 16, 8)


def test_a_row_of_scalesim_by_hand() -> None:
    """One fold of 4 x 4 weights under 10 rows: 4 cycles to load, 10 + 3 + 3 to stream and drain, counted from 0."""
    assert scalesim_weight_stationary_cycles(10, 4, 4, 4, 4) == 4 + 10 + 3 + 3 - 1
    assert scalesim_output_stationary_cycles(4, 4, 10, 4, 4) == 10 + 3 + 3 - 1
    assert scalesim_input_stationary_cycles(4, 10, 4, 4, 4) == 4 + 10 + 3 + 3 - 1


Loop = tuple[str, int, bool]


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


def mapped_cycles(row: dict[str, str]) -> tuple[float, float]:
    """Cycles of a mapping: double-buffered folds or SCALE-Sim's, each bound by DRAM bandwidth."""
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
    dram = moved / GEMMINI_DRAM_BYTES_PER_CYCLE
    buffered = tiles * (folds * max(streamed, size) + fill_cycles(size, size))
    serial = tiles * scalesim_weight_stationary_cycles(streamed, size * folds, size, size, size)
    return max(buffered, dram), max(serial, dram)


def test_double_buffered_folds_are_nearer_to_rtl_than_simulators(
    record_property: Callable[[str, object], None],
) -> None:
    """On the 16 x 16 array; the 128 x 128 rows state spatial factors of at most 64 and cannot be one such array."""
    rows = [row for row in rows_of("gemmini_firesim.csv") if row["pe_dim"] == "16" and row["firesim_rtl_cycle"]]
    assert len(rows) > 90
    measured = [float(row["firesim_rtl_cycle"]) for row in rows]

    def mean_error(predicted: list[float]) -> float:
        return sum(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)) / len(measured)

    buffered, serial = zip(*(mapped_cycles(row) for row in rows), strict=True)
    errors = {
        "double_buffered": mean_error(list(buffered)),
        "scalesim": mean_error(list(serial)),
        "timeloop": mean_error([float(row["timeloop_cycle"]) for row in rows]),
    }
    for name, error in errors.items():
        record_property(name, error)
    assert errors["double_buffered"] < 0.22
    assert errors["double_buffered"] < errors["timeloop"]
    assert errors["double_buffered"] < errors["scalesim"]
