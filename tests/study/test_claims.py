"""What is claimed of worklode's search, from cells made by hand with known answers, and what the page says of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from worklode.report.claims import claims_lines, rival_sentences, speed_sentences
from worklode.search.contest.cell import Cell
from worklode.search.contest.summary import Reference
from worklode.study.bench import BenchResult
from worklode.study.claims import DESIGNS, _rival_rows, speed_rows


def cell(workload: str, searcher: str, final: float | None, cpu_s: float, final_cpu_s: float, seed: int = 0) -> Cell:
    return Cell(
        workload=workload,
        searcher=searcher,
        seed=seed,
        evaluations=7,
        steps=(),
        finished=searcher != "stopped",
        judges_itself=False,
        final_point=None if final is None else (0,),
        final_figure=final,
        final_number=None if final is None else 3,
        final_cpu_s=None if final is None else final_cpu_s,
        own_cpu_s=cpu_s,
        mapping_cpu_s=0.0,
        evaluation_cpu_s=0.0,
        finalists_cpu_s=0.0,
    )


def reference(workload: str, figure: float | None) -> Reference:
    bound = None if figure is None else 0.9
    return Reference(
        workload=workload, figure=figure, quick_figure=figure, bound=bound, cpu_s=2.0, wall_time_s=2.0, design=None
    )


def result(cells: list[Cell], *references: Reference, searchers: tuple[str, ...] = ()) -> BenchResult:
    made = SimpleNamespace(cells=tuple(cells), references=references, request=SimpleNamespace(searchers=searchers))
    return cast(BenchResult, made)


CELLS = [
    cell("a", "worklode", 1.0, 2.0, 0.1),
    cell("a", "spotlight-like", 1.2, 1000.0, 5.0),
    cell("a", "spotlight-like-inference", 4.0, 50.0, 5.0),
    cell("b", "worklode", 1.01, 4.0, 2.0),
    cell("b", "spotlight-like", 1.0, 800.0, 5.0),
]
SPEED = speed_rows(result(CELLS, reference("a", 1.0), reference("b", 1.02)), {"a": 30.0})


def document(**parts: Any) -> dict[str, Any]:
    return {"times_less": 1000.0, "times_more": 100.0, "not_run": ["tpe"], "speed": [], "rivals": [], **parts}


def test_ratios_are_of_the_whole_run_and_of_the_way_to_the_design() -> None:
    assert [(row.model, row.opponent) for row in SPEED] == [
        ("a", "spotlight-like"),
        ("a", "spotlight-like-inference"),
        ("b", "spotlight-like"),
    ]
    first, inference, second = SPEED
    assert (first.times_whole, first.times_to_final) == pytest.approx((500.0, 10_000.0))
    assert (first.opponent_over_best, first.worklode_over_best) == pytest.approx((1.2, 1.0))
    # Only the extended form is measured where it fits after every sample.
    assert first.times_sequential_whole == pytest.approx(30.0 * DESIGNS / 2.0)
    assert first.times_sequential_to_final == pytest.approx(30.0 * DESIGNS / 0.1)
    assert inference.sequential_design_cpu_s is None and inference.times_sequential_whole is None
    # The opponent's design is the best of `b`: worklode's is 1 % above it, and says so.
    assert second.worklode_over_best == pytest.approx(1.01)
    assert second.times_sequential_to_final is None


def test_where_somebody_has_no_design_or_was_stopped_nothing_is_claimed() -> None:
    assert speed_rows(result([cell("a", "spotlight-like", 1.0, 9.0, 1.0)], reference("a", 1.0))) == ()
    nothing = [cell("a", "worklode", None, 1.0, 0.0), cell("a", "spotlight-like", None, 9.0, 0.0)]
    assert speed_rows(result(nothing, reference("a", None))) == ()
    cut = replace(CELLS[0], finished=False)
    own = [asdict(row) for row in speed_rows(result([cut, *CELLS[1:3]], reference("a", 1.0)))]
    assert all("nothing is said of its time" in line for line in speed_sentences(document(speed=own)))
    stopped = [asdict(row) | {"opponent_finished": False} for row in SPEED]
    assert all("nothing is said of its time" in line for line in speed_sentences(document(speed=stopped)))


def test_sentences_say_the_least_ratio_and_on_how_many_models_it_is_reached() -> None:
    extended, often, inference = speed_sentences(document(speed=[asdict(row) for row in SPEED]))
    # On no page is the same design the best on every model, and not: `b` counts, whoever ran on it.
    assert extended.startswith("spotlight-like, 2 models: until worklode asks for its design it takes 400 times (b)")
    assert "1000 times or more on 1;" in extended and "200 times (b) or more, and 1000 times or more on 0" in extended
    assert "Worklode's design is up to 1.0 % above the best anybody found (b)" in extended
    assert "30 000 times (a)" in often and "on 1 models; with proof on 1" in often
    assert "Worklode's design is up to 1.0 % above the best anybody found (b)" in inference
    (alone, *_) = speed_sentences(document(speed=[asdict(row) for row in SPEED if row.model == "a"]))
    assert "Worklode's design is the best anybody found on every model" in alone


def test_a_design_that_a_rival_found_counts_among_the_best() -> None:
    found = _rival_rows(
        result([cell("a", "genetic", 0.8, 200.0, 5.0)], reference("a", 1.0), searchers=("genetic",)), {}
    )
    first, *_ = speed_rows(result(CELLS, reference("a", 1.0)), rivals=list(found))
    assert (first.opponent_over_best, first.worklode_over_best) == pytest.approx((1.5, 1.25))


def test_of_two_seeds_of_the_opponent_the_faster_counts() -> None:
    two = [*CELLS[:2], cell("a", "spotlight-like", 1.2, 3000.0, 5.0, seed=1)]
    assert [row.opponent_cpu_s for row in speed_rows(result(two, reference("a", 1.0)))] == [1000.0]


RIVALS = [
    cell("a", "random", 1.05, 201.0, 5.0, seed=0),
    cell("a", "random", 1.02, 202.0, 5.0, seed=1),
    cell("a", "genetic", 0.999, 203.0, 5.0),
    cell("b", "random", None, 204.0, 5.0),
]


def test_of_a_rival_the_best_seed_counts_and_one_that_is_ahead_is_named() -> None:
    found = result(RIVALS, reference("a", 1.0), reference("b", 1.0), searchers=("random", "genetic"))
    rows = list(_rival_rows(found, {}))
    assert [(row.model, row.rival, row.seed) for row in rows] == [("a", "random", 1), ("a", "genetic", 0)]
    assert [row.ahead for row in rows] == pytest.approx([-0.02, 0.001])
    assert rows[0].times == pytest.approx(101.0) and rows[0].gap == pytest.approx(1.02 / 0.9 - 1.0)
    (said,) = rival_sentences(document(rivals=[asdict(row) for row in rows]))
    assert "2 comparisons on 1 models, 100 times the time: 1 are not better" in said
    assert "genetic on a by 0.100 %" in said
    (said,) = rival_sentences(document(rivals=[asdict(rows[0])]))
    assert (
        "none is better than `mine`, and 0 are as good; of the others the nearest is random on a, 2.000 % behind"
        in said
    )


def test_the_page_has_every_row_and_says_where_nothing_ran() -> None:
    page = "\n".join(claims_lines(document(speed=[asdict(row) for row in SPEED])))
    assert "Not run here: tpe." in page
    assert page.count("| a | spotlight-like |") == page.count("| b | spotlight-like |") == 1
    assert "none was run (`--rivals`), or none found a design" in page


def test_a_rival_that_is_as_good_or_had_less_time_is_said() -> None:
    cells = [cell("a", "random", 1.0, 203.0, 5.0), cell("a", "genetic", 1.0, 6.0, 5.0)]
    rows = [asdict(row) for row in _rival_rows(result(cells, reference("a", 1.0), searchers=("random", "genetic")), {})]
    (said,) = rival_sentences(document(rivals=rows))
    assert "(1 had less; genetic on a 3.00 times)" in said
    assert said.endswith("none is better than `mine`, and 2 are as good.")


def test_of_a_rival_its_finalists_as_mine_would_have_them_count() -> None:
    found = result(RIVALS[:2], reference("a", 1.0), searchers=("random",))
    (row,) = _rival_rows(found, {("a", "random", 0): 0.99, ("a", "random", 1): 1.01})
    assert (row.seed, row.figure, row.judged_figure) == (0, 0.99, 1.05)
    assert row.ahead == pytest.approx(0.01)
