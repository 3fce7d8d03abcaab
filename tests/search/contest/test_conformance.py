"""What every searcher keeps to: designs of the grid, the budget, the seed, an end, and honest books."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests.search.contest.problems import EXAMPLE, NAMES, maker, small_contest

from worklode.search.contest.cell import Budget, Cell, run_cell
from worklode.search.contest.judging import thorough_figure
from worklode.search.contest.registry import SEEDLESS
from worklode.search.objective import Objective

EVALUATIONS = 40
ROOT = Path(__file__).resolve().parents[3]


@cache
def cell(name: str, seed: int = 0, objective: Objective = Objective.THROUGHPUT) -> Cell:
    return run_cell(small_contest(objective=objective), name, maker(name), seed, Budget(evaluations=EVALUATIONS))


def facts(found: Cell) -> list[object]:
    """All of a cell that is not measured."""
    steps = [[list(step.point), step.figure, step.best] for step in found.steps]
    final = None if found.final_point is None else list(found.final_point)
    return [found.searcher, steps, final, found.final_figure, found.finished]


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_for_designs_of_the_grid_within_its_budget(name: str) -> None:
    contest, found = small_contest(), cell(name)
    assert 0 < len(found.steps) <= EVALUATIONS
    assert found.finished or len(found.steps) == EVALUATIONS
    points = np.array([step.point for step in found.steps], np.int64)
    assert contest.grid.inside(points).all()
    legal = contest.problem().legal(points)
    assert [step.figure is not None for step in found.steps] == list(legal)
    # Optuna's and the example do not look before they ask; the chip of ConfuciuX-like's layers is looked at by asking.
    if name not in ("tpe", "nsga2", "confuciux-like", "confuciux-like-inference", EXAMPLE):
        assert legal.all()


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_with_a_design_within_the_limits_and_its_thorough_figure(name: str) -> None:
    contest, found = small_contest(), cell(name)
    assert found.final_point is not None
    assert found.final_point in {step.point for step in found.steps}
    problem = contest.problem()
    assert problem.legal(np.array([found.final_point], np.int64))[0]
    assert found.final_figure == thorough_figure(problem, found.final_point, utmost=True)


@pytest.mark.parametrize("name", NAMES)
def test_its_best_is_that_of_what_it_was_told(name: str) -> None:
    found = cell(name)
    best = [step.best for step in found.steps]
    if found.judges_itself:
        assert name.endswith("inference") or name == "spotlight-like"
        figures = {step.figure for step in found.steps}
        assert {one for one in best if one is not None} <= figures
    else:
        lowest = float("inf")
        for step in found.steps:
            lowest = min(lowest, float("inf") if step.figure is None else step.figure)
            assert step.best == (lowest if lowest < float("inf") else None)


@pytest.mark.parametrize("name", NAMES)
def test_its_time_is_booked_once(name: str) -> None:
    found = cell(name)
    assert min(found.own_cpu_s, found.mapping_cpu_s, found.evaluation_cpu_s) >= 0.0
    assert found.cpu_s == pytest.approx(found.own_cpu_s + found.mapping_cpu_s + found.evaluation_cpu_s)
    spent = [step.cpu_s for step in found.steps]
    assert spent == sorted(spent)
    # What a searcher does after its last design is in the whole, not in a step.
    assert spent[-1] + found.finalists_cpu_s <= found.cpu_s * (1.0 + 1e-9)
    charged = sum(step.evaluation_cpu_s for step in found.steps)
    expected = 0.0 if found.judges_itself else charged
    assert found.evaluation_cpu_s - found.finalists_cpu_s == pytest.approx(expected)
    assert (found.mapping_cpu_s > 0.0) == name.startswith("spotlight")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_asks_the_same_and_another_asks_otherwise(name: str) -> None:
    again = run_cell(small_contest(), name, maker(name), 0, Budget(evaluations=EVALUATIONS))
    assert facts(again) == facts(cell(name))
    other = facts(cell(name, seed=1))
    assert (other == facts(cell(name))) == (name in SEEDLESS)


def test_another_process_with_another_hash_seed_asks_the_same() -> None:
    code = (
        "import json; from tests.search.contest.test_conformance import NAMES, cell, facts;"
        "print(json.dumps([facts(cell(name)) for name in NAMES]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout) == json.loads(json.dumps([facts(cell(name)) for name in NAMES]))


@pytest.mark.parametrize("name", NAMES)
def test_where_no_design_keeps_the_limits_it_ends_without_one(name: str) -> None:
    contest = small_contest(area_share=0.01)
    assert contest.start is None
    found = run_cell(contest, name, maker(name), 0, Budget(evaluations=EVALUATIONS))
    assert found.final_point is None and found.final_figure is None
    assert len(found.steps) <= EVALUATIONS
    assert all(step.figure is None and step.best is None for step in found.steps)


@pytest.mark.parametrize("name", NAMES)
def test_time_that_is_used_up_ends_it_after_the_batch(name: str) -> None:
    found = run_cell(small_contest(), name, maker(name), 0, Budget(evaluations=EVALUATIONS, cpu_s=1e-9))
    assert len(found.steps) <= 16
    assert not found.finished or not found.steps


@pytest.mark.parametrize("name", NAMES)
def test_it_searches_for_other_objectives_too(name: str) -> None:
    found = cell(name, objective=Objective.ENERGY_DELAY)
    assert found.final_figure is not None and found.final_figure > 0.0


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_survives_its_file(name: str) -> None:
    found = cell(name)
    assert Cell.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("name", ["worklode", "hill-climbing", "genetic", "tpe"])
def test_those_that_learn_find_the_best_of_a_small_space(name: str) -> None:
    """648 designs; exhaustive search is the oracle. One per cent is what a search without proof may miss."""
    contest = small_contest()
    every = run_cell(contest, "exhaustive", maker("exhaustive"), 0, Budget(evaluations=1000))
    assert every.finished
    found = run_cell(contest, name, maker(name), 0, Budget(evaluations=300))
    assert every.steps[-1].best is not None and found.steps[-1].best is not None
    assert every.steps[-1].best <= found.steps[-1].best <= every.steps[-1].best * 1.01
