"""Exhaustive search: equal to a loop written by hand, the same with any number of workers, refused where too large."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.search.strategies import small_evaluator, small_limits, small_objective, small_space, technology

from worklode.errors import SpecError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_mm2
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.power import tdp_w
from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space
from worklode.schedule.bounds import lower_bounds
from worklode.schedule.interruptible import schedule_interruptible
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.problem import ScheduleProblem
from worklode.search.evaluate import Evaluator
from worklode.search.exhaustive import exhaustive
from worklode.search.grid import Grid
from worklode.search.objective import Limits, Objective

DRAWS = 200


def scheduled_s(problem: ScheduleProblem) -> float:
    """Makespan [s] of the quick schedule of a problem."""
    return (schedule_interruptible if problem.interruptible else schedule)(problem).makespan_s


def by_hand(
    evaluators: list[Evaluator], weights: list[float], space: DesignSpace, limits: Limits, objective: Objective
) -> list[tuple[float, Accelerator]]:
    """(figure, design) of every design within the limits, in the order of the space; no function of the search."""
    found = []
    for values in itertools.product(*(getattr(space, name) for name in SEARCHED_FIELDS)):
        design = Accelerator(**dict(zip(SEARCHED_FIELDS, values, strict=True)), **space.shared)
        area, power = area_mm2(design, technology()).total, tdp_w(design, technology()).total
        if area > limits.area_mm2 or power > limits.tdp_w or design.hbm_bytes < limits.hbm_bytes:
            continue
        product = 1.0
        for evaluator, weight in zip(evaluators, weights, strict=True):
            time_s = scheduled_s(evaluator.problem(design))
            value = time_s * power if objective is Objective.THROUGHPUT_PER_TDP else time_s
            if objective in (Objective.ENERGY, Objective.ENERGY_DELAY):
                value = evaluator.figures(design).energy_j * (time_s if objective is Objective.ENERGY_DELAY else 1.0)
            product *= value ** (weight / sum(weights))
        found.append((product, design))
    return found


def test_equal_to_a_loop_written_by_hand() -> None:
    infeasible = 0
    for seed in range(DRAWS):
        space, objective = small_space(seed), small_objective(seed)
        evaluator, limits = small_evaluator(seed), small_limits(seed, small_space(seed))
        result = exhaustive([evaluator], [1.0], space, limits, objective)
        expected = by_hand([evaluator], [1.0], space, limits, objective)
        assert len(result.candidates) == len(expected), seed
        assert {c.accelerator for c in result.candidates} == {design for _, design in expected}, seed
        assert result.outside_limits == space.size - len(expected), seed
        if result.best is None:
            infeasible += 1
            continue
        assert result.best.figure == pytest.approx(min(figure for figure, _ in expected), rel=1e-12), seed
        figures = [candidate.figure for candidate in result.candidates]
        assert figures == sorted(figures), seed
    assert 0 < infeasible < DRAWS / 4, "draws of limits are expected to be infeasible now and then, not often"


def test_lower_bounds_never_exceed_an_achieved_time() -> None:
    closest = []
    for seed in range(DRAWS):
        space, evaluator = small_space(seed), small_evaluator(seed)
        # A fifth of the designs, another fifth for every seed: bounds take a few ms each.
        for position in range(seed % 5, space.size, 5):
            problem = evaluator.problem(space.accelerator(space.indices(position)))
            time_s, bound_s = scheduled_s(problem), lower_bounds(problem).makespan_s
            assert bound_s <= time_s * (1 + 1e-9), (seed, position)
            closest.append(bound_s / time_s)
    # Bounds that were always far below would pass the test above and be of no use.
    assert np.mean(closest) > 0.8


def test_several_workloads_and_ties() -> None:
    space = small_space(0)
    evaluators = [small_evaluator(seed) for seed in (0, 1)]
    result = exhaustive(evaluators, [3.0, 1.0], space, Limits(), Objective.THROUGHPUT)
    expected = by_hand(evaluators, [3.0, 1.0], space, Limits(), Objective.THROUGHPUT)
    assert result.best is not None
    assert result.best.figure == pytest.approx(min(figure for figure, _ in expected), rel=1e-12)
    for one, other in itertools.pairwise(result.candidates):
        if one.figure == other.figure:
            assert one.figures[0].area_mm2 <= other.figures[0].area_mm2


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_same_answer_with_one_and_two_workers(seed: int) -> None:
    space, evaluators = small_space(seed), [small_evaluator(seed)]
    limits, objective = small_limits(seed, space), small_objective(seed)
    told: list[tuple[int, int]] = []
    one = exhaustive(evaluators, [1.0], space, limits, objective)
    two = exhaustive(
        evaluators,
        [1.0],
        Grid(space, technology()),
        limits,
        objective,
        workers=2,
        progress=lambda done, most: told.append((done, most)),
    )
    assert one.candidates == two.candidates
    assert told[-1] == (space.size, space.size)


def test_bad_input_is_told_all_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        exhaustive(
            [small_evaluator(0)],
            [0.0, 1.0],
            default_space(load_preset("tpuv2")),
            Limits(),
            Objective.THROUGHPUT,
            workers=0,
        )
    paths = {(fault.where, fault.path) for fault in caught.value.faults}
    assert paths == {
        ("exhaustive search", "space"),
        ("exhaustive search", "workers"),
        ("weights", ""),
        ("weights", "0"),
    }
    assert "too many designs" in str(caught.value)


def test_a_space_at_the_limit_is_taken() -> None:
    space = small_space(3)
    arguments = ([small_evaluator(3)], [1.0], space, Limits(), Objective.ENERGY)
    assert exhaustive(*arguments, most_designs=space.size).space_size == space.size
    with pytest.raises(SpecError):
        exhaustive(*arguments, most_designs=space.size - 1)
