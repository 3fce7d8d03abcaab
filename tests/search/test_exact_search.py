"""Design and schedule from one model: never worse than exhaustive search, never below what it proves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.graph.builders import transformer_training
from tests.search.strategies import small_evaluator, small_limits, small_space, technology

from worklode.errors import SpecError
from worklode.graph.fusion import fuse
from worklode.graph.subgraph import block_instance
from worklode.hardware.presets import load_preset
from worklode.hardware.space import default_space
from worklode.schedule.verify import verify
from worklode.search.evaluate import Evaluator
from worklode.search.exact_search import mine_exactly
from worklode.search.exhaustive import exhaustive
from worklode.search.objective import Limits, Objective

pytest.importorskip("ortools", reason="the exact search needs OR-tools")

SEEDS = [seed for seed in range(40) if len(small_evaluator(seed).fused.operators) <= 16][:8]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("objective", [Objective.THROUGHPUT, Objective.THROUGHPUT_PER_TDP])
def test_encloses_the_exhaustive_answer(seed: int, objective: Objective) -> None:
    space, evaluator = small_space(seed), small_evaluator(seed)
    limits = small_limits(seed, space)
    # What a solver of intervals proves, it proves of uninterrupted schedules.
    every = exhaustive([evaluator.uninterrupted()], [1.0], space, limits, objective)
    # The proof rests on the solver alone; 12 designs in the model, so that some are left out.
    found = mine_exactly(
        evaluator, space, limits=limits, objective=objective, time_limit_s=0.6, use_bounds=False, most_modelled=12
    )
    ours = mine_exactly(evaluator, space, limits=limits, objective=objective, time_limit_s=0.6)
    if every.best is None:
        assert found.best is None
        assert found.infeasible
        assert found.optimality_gap is None
        return
    for result in (found, ours):
        assert result.best is not None
        assert result.problem is not None
        assert result.schedule is not None
        assert result.within_limits == len(every.candidates)
        assert result.lower_bound <= result.best.figure * (1 + 1e-9)
        assert all(result.lower_bound <= candidate.figure * (1 + 1e-9) for candidate in every.candidates)
        verify(result.problem, result.schedule)
        figures = result.best.figures[0]
        assert limits.allow(area_mm2=figures.area_mm2, tdp_w=figures.tdp_w, hbm_bytes=result.best.accelerator.hbm_bytes)
        assert figures.time_s == pytest.approx(result.schedule.makespan_s)
        expected = figures.time_s * (figures.tdp_w if objective is Objective.THROUGHPUT_PER_TDP else 1.0)
        assert result.best.figure == pytest.approx(expected)
    assert ours.best is not None
    assert ours.best.figure <= every.best.figure * (1 + 1e-9)
    assert found.lower_bound <= ours.best.figure * (1 + 1e-9)
    assert ours.lower_bound >= ours.own_bound * (1 - 1e-9)
    assert ours.ruled_out + ours.modelled <= ours.within_limits


def test_limited_by_work_the_answer_is_the_same_where_the_limit_ends_it() -> None:
    found = [
        mine_exactly(
            small_evaluator(3), small_space(3), limits=Limits(), time_limit_s=0.05, use_bounds=False, by_work=True
        )
        for _ in range(2)
    ]
    assert not any(result.finished for result in found)
    first, second = (
        {key: value for key, value in result.to_dict().items() if key not in ("wall_time_s", "solver_runs")}
        for result in found
    )
    assert first == second
    assert [run["status"] for run in found[0].to_dict()["solver_runs"]] == [
        run["status"] for run in found[1].to_dict()["solver_runs"]
    ]


def test_a_block_of_a_transformer_is_proven() -> None:
    graph = fuse(transformer_training(layers=3, tokens=1024, width=512).graph()).graph
    evaluator = Evaluator(block_instance(graph, 0, 1), technology())
    assert 10 < len(evaluator.fused.operators) < 40
    space = replace(
        default_space(load_preset("tpuv2")),
        tensor_core_rows=(128,),
        tensor_core_cols=(64, 128),
        num_tensor_cores=(1, 2),
        num_vector_cores=(1, 2),
        vector_lanes=(512, 1024),
        sram_bytes=(2**24,),
        hbm_stacks=(2, 4),
    )
    result = mine_exactly(evaluator, space, limits=Limits(tdp_w=400.0), time_limit_s=5.0)
    assert result.optimality_gap is not None
    assert result.optimality_gap <= 0.02
    document = result.to_dict()
    assert document["bound"] <= document["objective_value"]
    assert document["accelerator"]["tdp_w"] <= 400.0
    assert document["proven"] == (result.optimality_gap <= 1e-3)
    assert all(run["model"] in ("relaxed", "malleable") for run in document["solver_runs"])


def test_same_answer_every_time() -> None:
    seed = SEEDS[0]
    results = [
        mine_exactly(small_evaluator(seed), small_space(seed), limits=Limits(), time_limit_s=10.0) for _ in range(2)
    ]
    assert results[0].finished
    assert results[0].best == results[1].best
    assert results[0].lower_bound == results[1].lower_bound


def test_bad_input_is_told_all_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        mine_exactly(
            small_evaluator(0),
            default_space(load_preset("tpuv2")),
            limits=Limits(),
            objective=Objective.ENERGY,
            time_limit_s=0.0,
        )
    assert [fault.path for fault in caught.value.faults] == ["space", "objective", "time_limit_s"]
    many = Evaluator(transformer_training(layers=12).graph(), technology())
    with pytest.raises(SpecError, match="one block of it"):
        mine_exactly(many, small_space(0), limits=Limits())
