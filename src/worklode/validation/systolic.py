"""Suite of systolic arrays: SCALE-Sim's compute cycles, and RTL of Gemmini under FireSim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from worklode.cost.tensor_core import (
    scalesim_input_stationary_cycles,
    scalesim_output_stationary_cycles,
    scalesim_weight_stationary_cycles,
)
from worklode.validation.gemmini import DIMENSIONS, run_cycles, run_of
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import Row, Sieve, fitted_half, read_table

FORMULAS: Mapping[str, Callable[[int, int, int, int, int], int]] = {
    "ws": scalesim_weight_stationary_cycles,
    "os": scalesim_output_stationary_cycles,
    "is": scalesim_input_stationary_cycles,
}
# The largest spatial factor the table states; arrays of more rows than this are not what was measured.
LARGEST_ARRAY = 64
BASELINE = "constant utilisation (the median of the rows)"


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
        groups.append(
            _group(
                f"SCALE-Sim, {dataflow}, its own formula",
                names,
                measured,
                predicted,
                ideal,
                [False] * len(some),
                target=0.0,
            )
        )
    return groups


def _ideal(row: Row) -> float:
    m, n, k, rows, cols = (float(row[name]) for name in ("M", "N", "K", "array_h", "array_w"))
    return m * n * k / (rows * cols)


def _gemmini(folder: Path, sieve: Sieve) -> Group:
    """Mappings as measured; half of them were seen by the fit of one constant (worklode.validation.gemmini)."""
    needed = ("pe_dim", "mapping", "firesim_rtl_cycle", "timeloop_cycle", "Wstride", *DIMENSIONS)
    some = []
    for row in read_table(folder, "gemmini_firesim.csv", needed):
        if not row["firesim_rtl_cycle"]:
            sieve.out("no RTL cycles of this mapping")
        elif int(row["pe_dim"]) > LARGEST_ARRAY:
            sieve.out("spatial factors of at most 64: no one array of the stated size")
        else:
            some.append(row)
    measured = [float(row["firesim_rtl_cycle"]) for row in some]
    predicted = [run_cycles(run_of(row)) for row in some]
    ideal = [prod(float(row[d]) for d in "CKNPQRS") / float(row["pe_dim"]) ** 2 for row in some]
    timeloop = [
        abs(float(r["timeloop_cycle"]) / m - 1) for r, m in zip(some, measured, strict=True) if r["timeloop_cycle"]
    ]
    note = f"Timeloop's count of the same mappings: mean error {np.mean(timeloop):.1%}" if timeloop else ""
    names = [
        f"{r['C']}x{r['K']} channels, {r['P']}x{r['Q']} results, {r['R']}x{r['S']} taps: {r['mapping']}" for r in some
    ]
    name, seen = "Gemmini 16x16, RTL (FireSim)", [fitted_half(row) for row in some]
    return _group(name, names, measured, predicted, ideal, seen, target=0.15, note=note)


def _group(
    name: str,
    names: list[str],
    measured: list[float],
    predicted: list[float],
    ideal: list[float],
    seen: list[bool],
    *,
    target: float,
    note: str = "",
) -> Group:
    utilisation = float(np.median(np.array(ideal) / np.array(measured)))
    points = tuple(
        Point(name=n, measured=m, predicted=p, baseline=i / utilisation, fitted=f)
        for n, m, p, i, f in zip(names, measured, predicted, ideal, seen, strict=True)
    )
    return Group(
        name=name, unit="cycles", points=points, baseline=BASELINE, target=target, of_all=target == 0.0, note=note
    )
