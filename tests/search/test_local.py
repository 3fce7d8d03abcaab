"""Local search: against the exhaustive answer, within the limits, never worse than the budget, the same every time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph.builders import conv_bn_relu, linear_gelu_training, transformer_training

from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space
from worklode.hardware.technology import load_technology
from worklode.search.certificate import ProofOptions
from worklode.search.evaluate import Evaluator, silicon
from worklode.search.grid import Grid, moves
from worklode.search.infeasible import explain_infeasible
from worklode.search.local import ALONE, LocalSearch, LocalSearchOptions, LocalSearchResult
from worklode.search.mining import mine
from worklode.search.objective import Limits, Objective

TECHNOLOGY = load_technology()
BUDGET = load_preset("tpuv2")
# What a search without proof may miss of the exhaustive answer on the small spaces below [1]. It missed nothing in 60
# drawn cases on spaces of 648 designs; one in a hundred is kept for those not drawn.
TOLERATED_REGRET = 0.01


def small_space(**sets: tuple[int, ...]) -> DesignSpace:
    chosen: dict[str, tuple[int, ...]] = {
        "tensor_core_rows": (32, 128),
        "tensor_core_cols": (16, 64, 128),
        "vector_lanes": (128, 1024),
        "num_tensor_cores": (1, 2, 4),
        "num_vector_cores": (1, 2),
        "sram_bytes": (2**21, 2**24),
        "hbm_stacks": (2, 4),
    }
    return replace(default_space(BUDGET), **{**chosen, **sets})  # type: ignore[arg-type]


def graph_of(layers: int, tokens: int, width: int) -> TrainingGraph:
    return transformer_training(layers=layers, tokens=tokens, width=width).graph()


def budget_limits(accelerator: Accelerator, share: float = 1.0) -> Limits:
    found = silicon(accelerator, TECHNOLOGY)
    return Limits(area_mm2=share * found.area_mm2, tdp_w=share * found.tdp_w)


def search(
    evaluator: Evaluator,
    space: DesignSpace,
    limits: Limits,
    objective: Objective = Objective.THROUGHPUT,
    options: LocalSearchOptions | None = None,
) -> LocalSearchResult:
    chosen = options or ALONE
    return LocalSearch([evaluator], [1.0], Grid(space, TECHNOLOGY), limits, objective, chosen).run()


def exhaustive(evaluator: Evaluator, space: DesignSpace, limits: Limits, objective: Objective) -> float:
    best = float("inf")
    for values in itertools.product(*(getattr(space, name) for name in SEARCHED_FIELDS)):
        design = Accelerator(**dict(zip(SEARCHED_FIELDS, values, strict=True)), **space.shared)
        figures = evaluator.figures(design)
        if limits.allow(area_mm2=figures.area_mm2, tdp_w=figures.tdp_w, hbm_bytes=design.hbm_bytes):
            figure = objective.figure(time_s=figures.time_s, tdp_w=figures.tdp_w, energy_j=figures.energy_j)
            best = min(best, figure)
    return best


@settings(max_examples=8, deadline=None)
@given(
    layers=st.integers(1, 2),
    tokens=st.sampled_from((64, 256, 1024)),
    width=st.sampled_from((64, 256, 768)),
    share=st.floats(0.75, 1.2),
    objective=st.sampled_from(tuple(Objective)),
)
def test_search_comes_close_to_the_exhaustive_answer(
    layers: int, tokens: int, width: int, share: float, objective: Objective
) -> None:
    evaluator = Evaluator(graph_of(layers, tokens, width), TECHNOLOGY)
    limits = budget_limits(BUDGET, share)
    space = small_space()
    result = search(evaluator, space, limits, objective)
    best = exhaustive(evaluator, space, limits, objective)
    if not result.candidates:
        assert best == float("inf")
        return
    assert best <= result.candidates[0].figure <= best * (1 + TOLERATED_REGRET)


def test_every_candidate_keeps_the_limits_and_order() -> None:
    limits = budget_limits(BUDGET)
    result = search(Evaluator(graph_of(2, 256, 256), TECHNOLOGY), default_space(BUDGET), limits)
    assert result.evaluated >= len(result.candidates) > 10
    for candidate in result.candidates:
        found = silicon(candidate.accelerator, TECHNOLOGY)
        assert found.area_mm2 <= limits.area_mm2
        assert found.tdp_w <= limits.tdp_w
    figures = [candidate.figure for candidate in result.candidates]
    assert figures == sorted(figures)
    assert len({candidate.accelerator for candidate in result.candidates}) == len(result.candidates)


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("preset", ["tpuv2", "a100-80gb", "nvdla-small"])
def test_mined_design_is_never_worse_than_the_budget(preset: str, objective: Objective) -> None:
    budget = load_preset(preset)
    result = mine(
        [Evaluator(conv_bn_relu(pixels=784, channels=64).graph(), TECHNOLOGY)],
        default_space(budget),
        TECHNOLOGY,
        limits=budget_limits(budget),
        objective=objective,
        baseline=budget,
    )
    assert result.improvement is not None
    assert result.improvement >= 1.0


def test_a_memory_limit_removes_designs_and_not_the_search() -> None:
    space, limits = default_space(BUDGET), budget_limits(BUDGET)
    evaluator = Evaluator(graph_of(2, 256, 256), TECHNOLOGY)
    needed = replace(limits, hbm_bytes=float(BUDGET.hbm_bytes))
    free, kept = search(evaluator, space, limits), search(evaluator, space, needed)
    assert all(candidate.accelerator.hbm_bytes >= BUDGET.hbm_bytes for candidate in kept.candidates)
    with_enough = [c for c in free.candidates if c.accelerator.hbm_bytes >= BUDGET.hbm_bytes]
    assert kept.candidates[0].figure <= with_enough[0].figure
    assert kept.estimated > 1000


def test_same_answer_every_time() -> None:
    graph = linear_gelu_training(tokens=512, width=512).graph()
    results = [
        search(Evaluator(graph, TECHNOLOGY), default_space(BUDGET), budget_limits(BUDGET)).candidates for _ in range(2)
    ]
    assert results[0] == results[1]


def test_out_of_time_still_has_the_budget_itself() -> None:
    graph = linear_gelu_training().graph()
    options = LocalSearchOptions(max_time_s=0.0)
    result = mine(
        [Evaluator(graph, TECHNOLOGY)],
        default_space(BUDGET),
        TECHNOLOGY,
        limits=budget_limits(BUDGET),
        objective=Objective.THROUGHPUT,
        baseline=BUDGET,
        options=options,
        proof=ProofOptions(max_time_s=0.0),
    )
    assert result.search.out_of_time
    assert result.best is not None
    assert result.best.accelerator == BUDGET


def test_several_workloads_share_one_design() -> None:
    graphs = (graph_of(1, 1024, 512), conv_bn_relu(pixels=3136, channels=64).graph())
    evaluators = [Evaluator(graph, TECHNOLOGY) for graph in graphs]

    def best(weights: tuple[float, float]) -> tuple[float, ...]:
        result = mine(
            evaluators,
            default_space(BUDGET),
            TECHNOLOGY,
            limits=budget_limits(BUDGET),
            objective=Objective.THROUGHPUT,
            baseline=BUDGET,
            weights=weights,
        )
        assert result.best is not None
        times = tuple(evaluation.iteration_time_s for evaluation in result.best.evaluations)
        total = sum(weights)
        expected = np.prod([t ** (w / total) for t, w in zip(times, weights, strict=True)])
        assert result.best.figure == pytest.approx(float(expected))
        return times

    towards_first, towards_second = best((100.0, 1.0)), best((1.0, 100.0))
    assert towards_first[0] <= towards_second[0]
    assert towards_second[1] <= towards_first[1]


def test_moves_are_distinct_and_cover_steps_and_exchanges() -> None:
    found = moves((0, 3))
    assert len(np.unique(found, axis=0)) == len(found)
    assert not found[:, [1, 2, 4, 5, 6]].any()
    as_rows = {tuple(row) for row in found.tolist()}
    assert (1, 0, 0, 0, 0, 0, 0) in as_rows
    assert (1, 0, 0, -2, 0, 0, 0) in as_rows
    assert all(sum(step > 0 for step in row) <= 1 for row in as_rows)


# -- infeasible limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "constraints"),
    [
        (Limits(area_mm2=50.0), {"area_mm2"}),
        (Limits(tdp_w=20.0), {"tdp_w"}),
        (Limits(area_mm2=50.0, tdp_w=20.0), {"area_mm2", "tdp_w"}),
        (Limits(hbm_bytes=1e15), {"hbm_bytes"}),
    ],
)
def test_infeasible_names_the_constraint_and_a_way_out(limits: Limits, constraints: set[str]) -> None:
    space = default_space(BUDGET)
    reasons = explain_infeasible(space, TECHNOLOGY, limits)
    assert {reason.constraint for reason in reasons} == constraints
    assert all(reason.demand > reason.limit for reason in reasons)
    raised = replace(limits, **{r.constraint: r.demand if r.constraint != "hbm_bytes" else r.limit for r in reasons})
    assert explain_infeasible(space, TECHNOLOGY, raised) == ()


def test_just_below_the_demand_is_infeasible_too() -> None:
    space = default_space(BUDGET)
    reason = explain_infeasible(space, TECHNOLOGY, Limits(area_mm2=50.0))[0]
    # The demand is rounded up to four digits.
    assert explain_infeasible(space, TECHNOLOGY, Limits(area_mm2=reason.demand * 0.998)) != ()


def test_mining_within_impossible_limits_says_so() -> None:
    result = mine(
        [Evaluator(linear_gelu_training().graph(), TECHNOLOGY)],
        default_space(BUDGET),
        TECHNOLOGY,
        limits=Limits(area_mm2=10.0),
        objective=Objective.THROUGHPUT,
    )
    document = result.to_dict()
    assert result.best is None
    assert document["best"] is None
    assert document["infeasible"][0]["constraint"] == "area_mm2"
    assert document["infeasible"][0]["limit"] == 10.0
