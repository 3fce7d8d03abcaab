"""Systolic cycle counts against SCALE-Sim and against RTL of a real array (Gemmini under FireSim)."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worklode.cost.tensor_core import (
    scalesim_input_stationary_cycles,
    scalesim_output_stationary_cycles,
    scalesim_weight_stationary_cycles,
)

FORMULAS: dict[str, Callable[[int, int, int, int, int], int]] = {
    "ws": scalesim_weight_stationary_cycles,
    "os": scalesim_output_stationary_cycles,
    "is": scalesim_input_stationary_cycles,
}


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
