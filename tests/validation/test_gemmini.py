"""Gemmini's runs: counts against a walk through the program's loops, the fitted constant against its rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.validation import gemmini
from worklode.validation.gemmini import GemminiRun
from worklode.validation.systolic import LARGEST_ARRAY
from worklode.validation.tables import Row, fitted_half, read_table

from .data import folder


@st.composite
def runs(draw: st.DrawFn) -> GemminiRun:
    """Small layers with tiles that need not divide them."""
    taps = draw(st.integers(1, 4))
    side = draw(st.integers(2, 9))
    channels, kernels = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    sizes = {"N": 1, "C": channels, "K": kernels, "P": side, "Q": side, "R": taps, "S": taps}
    tile = {name: draw(st.integers(1, size)) for name, size in sizes.items()}
    outer = draw(st.permutations([name for name in sizes if tile[name] < sizes[name]]))
    return GemminiRun(sizes=sizes, tile=tile, outer=tuple(outer), stride=draw(st.integers(1, 2)), array=8)


def walked(run: GemminiRun) -> tuple[float, int]:
    """Cycles of the array and pixels fetched, by the loops of the program: tiles, kernels, taps, channels, blocks."""
    limits, tile, cycles, pixels = run.limits, run.tile, 0.0, 0

    def starts(dimension: str) -> range:
        return range(0, limits[dimension], tile[dimension])

    for q0 in starts("Q"):
        for p0 in starts("P"):
            rows = range(q0, min(q0 + tile["Q"], limits["Q"]))
            columns = range(p0, min(p0 + tile["P"], limits["P"]))
            blocks = [columns[first : first + run.array] for _ in rows for first in range(0, len(columns), run.array)]
            fold = sum(
                run.array if number == 0 else max(len(block), gemmini.FEWEST_ROWS)
                for number, block in enumerate(reversed(blocks))
            )
            for s0 in starts("S"):
                for r0 in starts("R"):
                    heights = min(tile["S"], limits["S"] - s0)
                    widths = min(tile["R"], limits["R"] - r0)
                    for row in range(len(rows) * run.stride + heights - 1):
                        for column in range(len(columns) * run.stride + widths - 1):
                            y = q0 * run.stride + s0 - run.padding + row
                            x = p0 * run.stride + r0 - run.padding + column
                            if 0 <= y < run.image and 0 <= x < run.image:
                                pixels += len(starts("K")) * len(starts("C"))
                    folds = heights * widths
                    folds *= (
                        len(starts("K")) * -(-tile["K"] // run.array) * len(starts("C")) * -(-tile["C"] // run.array)
                    )
                    cycles += folds * max(fold, gemmini.ISSUE_CYCLES * len(blocks))
    return cycles, pixels


@given(runs())
def test_array_and_pixels_are_those_of_the_loops(run: GemminiRun) -> None:
    cycles, pixels = walked(run)
    assert gemmini.array_cycles(run) == pytest.approx(cycles)
    side_by_side = gemmini._fetched(run, "P", "R") * gemmini._fetched(run, "Q", "S")
    assert side_by_side * run.count("K") * run.count("C") == pixels


@given(runs())
def test_bounds(run: GemminiRun) -> None:
    """Never under the products over the multipliers, nor under what must come from DRAM at its bandwidth."""
    products = float(np.prod([run.sizes[name] for name in "NCKRS"])) * run.limits["P"] * run.limits["Q"]
    assert gemmini.array_cycles(run) * run.array**2 >= products
    inputs, weights = gemmini.missed_bytes(run)
    assert weights >= np.prod([run.sizes[name] for name in "CKRS"])
    least = inputs + weights + run.sizes["K"] * run.limits["P"] * run.limits["Q"]
    assert gemmini.transfer_cycles(run) * gemmini.DRAM_BYTES_PER_CYCLE >= least * 0.999
    total = gemmini.run_cycles(run)
    assert max(gemmini.array_cycles(run), gemmini.transfer_cycles(run)) <= total


@given(runs())
def test_a_larger_cache_never_misses_more(run: GemminiRun) -> None:
    misses = []
    for size in (0, 1000, 4000, 1 << 30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gemmini, "L2_BYTES", size)
            misses.append(gemmini.missed_bytes(run))
    for less, more in zip(misses[1:], misses, strict=False):
        assert less[0] <= more[0] and less[1] <= more[1]


def test_a_tile_by_hand() -> None:
    """Two tiles of 3 rows by 20 columns, 32 channels and 16 kernels, one tap: two folds of 6 blocks each."""
    sizes = {"N": 1, "C": 32, "K": 32, "P": 20, "Q": 3, "R": 1, "S": 1}
    run = GemminiRun(sizes=sizes, tile=sizes | {"K": 16}, outer=("K",), stride=1, array=16)
    # the last block of a fold (4 results) hides the next weights: 16 instead of 4
    assert gemmini.array_cycles(run) == 2 * 2 * (3 * (16 + 4) - 4 + 16)
    narrow = replace(run, sizes=sizes | {"P": 2}, tile=run.tile | {"P": 2})
    assert gemmini.array_cycles(narrow) == 2 * 2 * max(16 + 2 * 4, 3 * gemmini.ISSUE_CYCLES)
    # inputs: 60 pixels of 32 bytes twice, from DRAM once; weights: 32 rows of 16 bytes twice, their lines shared;
    # results: 60 rows of the accumulators twice against 60 x 32 bytes
    assert gemmini.missed_bytes(run) == (60 * 32, 2 * 32 * 16)
    assert gemmini.transfer_cycles(run) == (60 * 32 / 16 + 60 * 32 / 8) + 2 * 32 * 16 / 8 + 60 * 32 / 8


def test_an_even_kernel_yields_one_result_more() -> None:
    sizes = {"N": 1, "C": 8, "K": 8, "P": 6, "Q": 6, "R": 2, "S": 2}
    run = GemminiRun(sizes=sizes, tile=sizes, outer=(), stride=1, array=16)
    assert run.limits["P"] == 7 and dict(run.extents("P")) == {6: 1, 1: 1}
    assert replace(run, sizes=sizes | {"R": 3, "S": 3}).limits["P"] == 6


def test_a_mapping_that_cannot_be_read_is_bad_input() -> None:
    row = dict.fromkeys("NCKPQRS", "1") | {"Wstride": "1", "pe_dim": "16"}
    good = "L3[WIO] K2 C3 - L2[WI] N1 K16X - L1[O] K4 C4 Q2 P3 C16X - L0[W] P2"
    run = gemmini.run_of(row | {"mapping": good})
    assert run.tile == {"N": 1, "C": 64, "K": 64, "P": 6, "Q": 2, "R": 1, "S": 1} and run.outer == ("K", "C")
    for bad in ("L3[WIO] K2", good.replace("K16X", "Z16X"), good.replace("L0", "L9")):
        with pytest.raises(SpecError, match="cannot be read"):
            gemmini.run_of(row | {"mapping": bad})


def measured() -> list[Row]:
    rows = read_table(folder(), "gemmini_firesim.csv", ("pe_dim", "mapping", "firesim_rtl_cycle"))
    return [row for row in rows if row["firesim_rtl_cycle"] and int(row["pe_dim"]) <= LARGEST_ARRAY]


def error(rows: list[Row]) -> float:
    return float(
        np.mean([abs(gemmini.run_cycles(gemmini.run_of(row)) / float(row["firesim_rtl_cycle"]) - 1) for row in rows])
    )


def test_the_constant_is_the_best_on_its_half_and_holds_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured()
    seen, held_out = [row for row in rows if fitted_half(row)], [row for row in rows if not fitted_half(row)]
    assert min(len(seen), len(held_out)) > 40
    committed = gemmini.ISSUE_CYCLES
    assert error(seen) < 0.11 and error(held_out) < 0.11
    errors = {}
    for cycles in np.arange(4.0, 12.1, 0.25):
        monkeypatch.setattr(gemmini, "ISSUE_CYCLES", cycles)
        errors[float(cycles)] = error(seen)
    assert min(errors, key=lambda cycles: errors[cycles]) == committed


def test_every_part_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the floor of four rows, or with nothing kept in the L2, or with everything kept, the error rises."""
    rows = measured()
    whole = error(rows)
    for name, value in (("ISSUE_CYCLES", 0.0), ("L2_BYTES", 0), ("BUS_BYTES_PER_CYCLE", 64)):
        with monkeypatch.context() as patch:
            patch.setattr(gemmini, name, value)
            assert error(rows) > whole, name
