"""Finalists of a run of a contest treated as `mine` treats its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.search.contest.problems import maker, small_contest

from worklode.search.contest.cell import Budget, run_cell
from worklode.search.contest.judging import thorough_figure
from worklode.search.mining import mine
from worklode.study import finals
from worklode.study.bench_directory import BenchDirectory
from worklode.study.finals import as_mine_ends, known_finals


def test_who_saw_every_design_ends_no_worse_than_mine() -> None:
    """As `mine`, it schedules more of its best with the utmost effort than a cell does, whoever asked for them."""
    made = small_contest()
    cell = run_cell(made, "exhaustive", maker("exhaustive"), 0, Budget())
    assert cell.final_figure is not None and made.start is not None
    figure = as_mine_ends(made, cell)
    result = mine(
        made.problem().evaluators,
        made.grid.space,
        made.grid.technology,
        limits=made.limits,
        objective=made.objective,
        baseline=made.grid.accelerator(made.start),
    )
    assert result.best is not None and figure is not None
    assert figure <= min(cell.final_figure, result.best.figure * (1.0 + 1e-12))


def test_a_finalist_that_only_the_utmost_effort_shows_to_be_the_best_is_found() -> None:
    made = small_contest()
    cell = run_cell(made, "random", maker("random"), 0, Budget(evaluations=60))
    assert cell.final_figure is not None
    # As if the cell had ended with the worst of its finalists.
    worst = max(thorough_figure(made.problem(), step.point) for step in cell.steps if step.figure is not None)
    figure = as_mine_ends(made, replace(cell, final_figure=worst))
    assert figure is not None and figure <= cell.final_figure < worst
    assert as_mine_ends(made, replace(cell, final_figure=None, steps=())) is None


def test_it_is_made_once_and_again_for_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, directory = small_contest(), BenchDirectory(tmp_path)
    first, second = (run_cell(made, "random", maker("random"), seed, Budget(evaluations=20)) for seed in (0, 1))
    known = known_finals(made, [first], directory)
    assert known == {("random", 0): as_mine_ends(made, first)}
    other = replace(second, seed=0)
    assert known_finals(made, [other], directory) == {("random", 0): as_mine_ends(made, other)}
    monkeypatch.setattr(finals, "as_mine_ends", None)  # not called again
    assert len(known_finals(made, [other], directory)) == 1
