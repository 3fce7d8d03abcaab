"""Heuristic against exact: no search beats the exhaustive one, pruning equals it, finished rows are only read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.graph.builders import transformer_training
from tests.search.strategies import small_evaluator, small_limits, small_space, technology

from worklode.graph.fusion import fuse
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.presets import load_preset
from worklode.hardware.space import default_space
from worklode.schedule.exact import PROVEN_GAP
from worklode.search.contest.cell import Budget
from worklode.search.evaluate import Evaluator
from worklode.search.grid import Grid
from worklode.search.objective import Limits, Objective
from worklode.study import exactness
from worklode.study.bench import BenchRequest, BenchWorkload
from worklode.study.bench_directory import BenchDirectory
from worklode.study.exactness import coarse_space, exactness_rows, part_of
from worklode.study.exactness_rows import ExactnessRow, csv_rows

SEEDS = (0, 1, 2, 5)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "SOLVER_WORK", 0.5)


def fused() -> TrainingGraph:
    """A transformer of three layers, fused."""
    return fuse(transformer_training(layers=3, tokens=256, width=128).graph()).graph


def request_of(seed: int, *, limits: Limits | None = None) -> BenchRequest:
    """One drawn step on one drawn space."""
    space = small_space(seed)
    workload = BenchWorkload(
        name=f"step {seed}", evaluator=small_evaluator(seed), limits=limits or small_limits(seed, space)
    )
    return BenchRequest(
        workloads=(workload,),
        searchers=("worklode",),
        seeds=1,
        budget=Budget(evaluations=1, cpu_s=float("inf")),
        grid=Grid(space, technology()),
        objective=Objective.THROUGHPUT,
        baseline=None,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_no_search_beats_the_exhaustive_one_and_pruning_equals_it(seed: int, tmp_path: Path) -> None:
    request = request_of(seed)
    (row,) = exactness_rows(request, BenchDirectory(tmp_path))
    coarse, space = row.coarse, row.space
    assert coarse.space_size == coarse.exhaustive.scheduled == request.grid.space.size
    assert coarse.within_limits <= coarse.space_size
    if coarse.exhaustive.figure is None:
        assert coarse.heuristic.figure is None and space.mined.figure is None and row.schedule is None
        return
    assert coarse.heuristic_over_exhaustive is not None
    assert coarse.heuristic_over_exhaustive >= 1.0
    assert coarse.complete
    assert (coarse.pruned.figure, coarse.pruned.design) == (coarse.exhaustive.figure, coarse.exhaustive.design)
    assert coarse.pruned_over_exhaustive == 1.0
    assert max(coarse.heuristic.scheduled, coarse.pruned.scheduled) <= coarse.within_limits
    assert space.heuristic.figure is not None and space.mined.figure is not None and space.bound is not None
    assert space.bound <= space.mined.figure <= space.heuristic.figure * (1 + 1e-9)
    assert space.heuristic_over_mined == space.heuristic.figure / space.mined.figure
    assert space.within_limits == coarse.within_limits
    # The whole space is the coarse one here, and its figures are of more thorough schedules.
    assert space.mined.figure <= coarse.exhaustive.figure * (1 + 1e-9)
    assert row.schedule is not None
    assert row.schedule.design == space.mined.design
    assert row.schedule.gap >= 0.0
    assert row.schedule.iteration_time_s == pytest.approx(space.mined.figure)


def test_the_exact_schedule_encloses_the_optimum(tmp_path: Path) -> None:
    pytest.importorskip("ortools", reason="the exact search needs OR-tools")
    (row,) = exactness_rows(request_of(0, limits=Limits()), BenchDirectory(tmp_path))
    assert row.schedule is not None and row.schedule.skipped is None
    exact = row.schedule.exact
    assert exact is not None
    assert exact.bound_s <= exact.exact_s <= exact.listed_s * (1 + 1e-9)
    assert exact.listed_over_exact == exact.listed_s / exact.exact_s
    assert exact.proven == (exact.exact_gap <= PROVEN_GAP)


def test_without_or_tools_the_exact_schedule_is_skipped_and_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exactness, "find_spec", lambda name: None)
    request, directory = request_of(0, limits=Limits()), BenchDirectory(tmp_path)
    (row,) = exactness_rows(request, directory)
    assert row.schedule is not None
    assert (row.schedule.exact, row.schedule.skipped) == (None, exactness.NO_SOLVER)
    assert csv_rows([row])[0]["schedule_skipped"] == exactness.NO_SOLVER
    assert exactness_rows(request, directory) == (row,)
    monkeypatch.undo()
    pytest.importorskip("ortools")
    (again,) = exactness_rows(request, directory)
    assert again.schedule is not None and again.schedule.exact is not None


def test_a_finished_row_is_read_and_a_damaged_one_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, directory = request_of(1), BenchDirectory(tmp_path)
    told: list[str] = []
    first = exactness_rows(request, directory, lambda label, done, total: told.append(label))
    assert told == ["step 1: heuristic against exact"]
    (file,) = (tmp_path / "references").iterdir()
    kept = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(exactness, "_row", lambda *_: pytest.fail("was made again"))
        assert exactness_rows(request, directory) == first
    assert file.read_bytes() == kept
    for damage in (kept[: len(kept) // 2], b"{}", kept.replace(b'"figure"', b'"shape"')):
        file.write_bytes(damage)
        (again,) = exactness_rows(request, directory)
        assert _answers(again) == _answers(first[0])
        written = json.loads(file.read_bytes())
        assert len(written.pop("source_sha256")) == 64
        assert written == asdict(again)


def test_rows_survive_json_and_a_csv_row_has_every_figure(tmp_path: Path) -> None:
    rows = [*exactness_rows(request_of(1), BenchDirectory(tmp_path)), *_infeasible(tmp_path / "none")]
    assert [ExactnessRow.from_dict(json.loads(json.dumps(asdict(row)))) for row in rows] == rows
    found = csv_rows(rows)
    assert [list(row) for row in found] == [list(found[0])] * len(rows)
    assert found[0]["coarse_heuristic_figure"] == rows[0].coarse.heuristic.figure
    assert found[0]["schedule_design"] == rows[0].space.mined.design
    assert found[1]["space_mined_figure"] is None and found[1]["schedule_design"] is None


def test_where_no_design_keeps_the_limits_there_is_no_figure(tmp_path: Path) -> None:
    (row,) = _infeasible(tmp_path)
    assert row.schedule is None
    assert row.coarse.within_limits == row.space.within_limits == 0
    assert row.coarse.exhaustive.figure is row.space.mined.figure is row.space.heuristic_over_mined is None


def test_a_coarse_space_is_a_part_of_the_space_and_no_larger_than_asked() -> None:
    for preset in ("tpuv2", "a100-80gb", "nvdla-large"):
        space = default_space(load_preset(preset))
        sizes = []
        for most in (space.size, 5000, 100, 1):
            coarse = coarse_space(space, most)
            sizes.append(coarse.size)
            assert coarse.size <= most
            assert coarse.shared == space.shared
            for name in SEARCHED_FIELDS:
                assert set(getattr(coarse, name)) <= set(getattr(space, name))
                assert getattr(coarse, name)[0] == getattr(space, name)[0]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == space.size and sizes[-1] == 1
        # No axis loses more than the rule takes: a step less is too many.
        assert coarse_space(space, 5000).size > 5000 / 4


def test_the_part_is_the_largest_block_that_is_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = fused()
    name, part = part_of(graph)
    assert name == f"{graph.blocks[0].path}.{graph.blocks[0].first + 1}"
    assert len(part.operators) == sum(1 for one in graph.operators if (one.block, one.instance) == (0, 1))
    monkeypatch.setattr(exactness, "MOST_BLOCK", len(part.operators) - 1)
    name, part = part_of(graph)
    assert (name, len(part.operators)) == ("first 40 operators", 40)
    Evaluator(part, technology())  # it is a graph like others
    small = small_evaluator(1).fused
    assert not small.blocks
    name, part = part_of(small)
    assert len(part.operators) == min(40, len(small.operators))


def _infeasible(place: Path) -> tuple[ExactnessRow, ...]:
    return exactness_rows(request_of(1, limits=Limits(area_mm2=0.1)), BenchDirectory(place))


def _answers(row: ExactnessRow) -> dict[str, object]:
    """What is not measured."""
    return {name: value for name, value in csv_rows([row])[0].items() if not name.endswith("cpu_s")}
