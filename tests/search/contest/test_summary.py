"""Tables and curves from cells made by hand, whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worklode.search.contest.cell import Cell, Step
from worklode.search.contest.summary import CURVE_PLACES, Reference, curves, rows

REFERENCE = Reference(workload="w", figure=1.0, quick_figure=1.1, bound=0.8, cpu_s=2.0, wall_time_s=3.0)


def step(number: int, figure: float | None, best: float | None, cpu_s: float) -> Step:
    return Step(
        number=number,
        point=(0,),
        figure=figure,
        best=best,
        cpu_s=cpu_s,
        own_cpu_s=cpu_s / 2,
        mapping_cpu_s=0.0,
        evaluation_cpu_s=0.1,
        parts=(),
    )


def cell(searcher: str, seed: int, figures: list[float | None], final: float | None) -> Cell:
    steps, best = [], None
    for index, figure in enumerate(figures, start=1):
        if figure is not None:
            best = figure if best is None else min(best, figure)
        steps.append(step(index, figure, best, float(index)))
    return Cell(
        workload="w",
        searcher=searcher,
        seed=seed,
        evaluations=len(steps),
        steps=tuple(steps),
        finished=False,
        judges_itself=False,
        final_point=None if final is None else (0,),
        final_figure=final,
        final_number=None if final is None else len(steps),
        final_cpu_s=None if final is None else float(len(steps)),
        own_cpu_s=1.0,
        mapping_cpu_s=2.0,
        evaluation_cpu_s=5.0,
        finalists_cpu_s=0.5,
    )


CELLS = [
    cell("a", 0, [None, 2.0, 1.105], 1.02),
    cell("a", 1, [1.2, 1.11, 1.3], 1.01),
    cell("a", 2, [None, None, None], None),
    replace(cell("worklode", 0, [1.1], 1.0), own_cpu_s=0.5, mapping_cpu_s=0.0, evaluation_cpu_s=0.5),
]


def test_a_row_says_what_its_cells_did() -> None:
    found = rows(CELLS, [REFERENCE], ["worklode", "a", "absent"])
    assert [row.searcher for row in found] == ["worklode", "a"]
    row = found[1]
    assert (row.seeds, row.evaluations) == (3, 3)
    assert (row.final_figure, row.final_best, row.final_worst) == (1.02, 1.01, None)
    assert row.over_best_known == pytest.approx(1.02)
    assert row.gap_to_bound == pytest.approx(1.02 / 0.8 - 1)
    # The best quick schedule known is 1.1: 1.111 and below have arrived; the third seed never does.
    assert row.arrived == pytest.approx(2 / 3)
    assert (row.evaluations_to_arrive, row.cpu_s_to_arrive) == (3, 3.0)
    assert (row.evaluations_to_final, row.cpu_s_to_final) == (3, 3.0)
    assert (row.own_share, row.mapping_share, row.evaluation_share) == pytest.approx((1 / 8, 2 / 8, 5 / 8))
    assert row.cpu_over_worklode == pytest.approx(8.0)
    assert found[0].over_best_known == 1.0


def test_curves_hold_the_median_of_the_seeds_inside_their_band() -> None:
    found = {(curve.searcher, curve.along): curve for curve in curves(CELLS, [REFERENCE], ["worklode", "a"])}
    by_count = found["a", "evaluations"]
    assert by_count.places == (1.0, 2.0, 3.0)
    # At one evaluation two of three have nothing yet; at three the values are 1.105, 1.11 and nothing.
    assert by_count.median[0] is None
    assert by_count.median[1:] == pytest.approx((2.0 / 1.1, 1.11 / 1.1))
    by_time = found["a", "cpu_s"]
    assert len(by_time.places) == CURVE_PLACES
    for curve in found.values():
        for low, median, high in zip(curve.low, curve.median, curve.high, strict=True):
            assert low is not None or median is None
            assert high is None or (median is not None and low is not None and low <= median <= high)


def test_the_order_of_the_cells_does_not_matter() -> None:
    names = ["worklode", "a"]
    assert rows(CELLS[::-1], [REFERENCE], names) == rows(CELLS, [REFERENCE], names)
    assert curves(CELLS[::-1], [REFERENCE], names) != ()


def test_without_a_design_there_is_nothing_to_compare_with() -> None:
    nothing = Reference(workload="w", figure=None, quick_figure=None, bound=None, cpu_s=1.0, wall_time_s=1.0)
    found = rows([CELLS[2]], [nothing], ["a"])[0]
    assert (found.final_figure, found.over_best_known, found.gap_to_bound, found.arrived) == (None, None, None, 0.0)
    assert curves([CELLS[2]], [nothing], ["a"]) == ()
