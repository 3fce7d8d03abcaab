"""The proof against exhaustive search: bounds never exceed what is achieved, and pruning loses no better design."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.graph.builders import transformer_training
from tests.search.strategies import small_evaluator, small_limits, small_space, technology

from worklode.hardware.presets import load_preset
from worklode.hardware.space import default_space
from worklode.schedule.bounds import lower_bounds
from worklode.search.bounder import Bounder
from worklode.search.certificate import Certificate, ProofOptions, prove
from worklode.search.evaluate import Evaluator
from worklode.search.exhaustive import exhaustive
from worklode.search.grid import Grid
from worklode.search.local import LocalSearch, LocalSearchOptions
from worklode.search.objective import Limits, Objective
from worklode.search.tables import WorkloadTables

OBJECTIVES = tuple(Objective)
EVERYTHING = ProofOptions(max_evaluations=10**6, workers=1)
# A local search of no more than its seeds and one shape: what is left must be found by the proof.
LAZY = LocalSearchOptions(shapes=1, climbs=0, max_evaluations=1, finalists=0)


def case(seed: int) -> dict[str, Any]:
    """A drawn space, one or two workloads, limits and an objective."""
    space = small_space(seed)
    count = 1 + seed % 5 // 4
    evaluators = [small_evaluator(seed + 1000 * k) for k in range(count)]
    return {
        "evaluators": evaluators,
        "weights": tuple((1.0 + k) / sum(1.0 + j for j in range(count)) for k in range(count)),
        "grid": Grid(space, technology()),
        "limits": small_limits(seed, space),
        "objective": OBJECTIVES[seed % len(OBJECTIVES)],
    }


def search_of(drawn: dict[str, Any], options: LocalSearchOptions = LAZY) -> LocalSearch:
    """A local search that has run."""
    search = LocalSearch(
        drawn["evaluators"], drawn["weights"], drawn["grid"], drawn["limits"], drawn["objective"], options
    )
    search.run()
    return search


def proof_of(drawn: dict[str, Any], options: ProofOptions = EVERYTHING) -> tuple[LocalSearch, Certificate]:
    """A local search and its certificate."""
    search = search_of(drawn)
    return search, prove(search, options)[0]


@pytest.mark.parametrize("block", range(20))
def test_pruned_search_equals_exhaustive_search(block: int) -> None:
    """On 200 drawn spaces and graphs: the same best design, and no bound above a figure that a schedule achieves."""
    for seed in range(10 * block, 10 * block + 10):
        drawn = case(seed)
        every = exhaustive(drawn["evaluators"], drawn["weights"], drawn["grid"], drawn["limits"], drawn["objective"])
        if every.best is None:
            continue
        search, certificate = proof_of(drawn)
        best = search.candidates()[0]
        assert certificate.complete
        assert best.order() == every.best.order(), f"seed {seed}"
        assert certificate.bound <= every.best.figure * (1 + 1e-12)
        assert certificate.within_limits == len(every.candidates)
        assert 0 <= certificate.pruned <= certificate.within_limits - 1
        bound_designs(drawn, every)


def bound_designs(drawn: dict[str, Any], every: Any) -> None:
    """Every bound of every design against its schedule, with guides of other designs."""
    grid: Grid = drawn["grid"]
    space = grid.space
    points = np.array([space.indices(position) for position in range(space.size)], np.int64)
    power = grid.silicon(points)[1]
    tables = [WorkloadTables(evaluator, grid) for evaluator in drawn["evaluators"]]
    bounder = Bounder(tables, drawn["weights"], grid, drawn["objective"])
    for position in (0, space.size // 2, space.size - 1):
        bounder.add_guide(space.accelerator(space.indices(position)))
    found = {space.position(space.indices_of(c.accelerator) or ()): c.figure for c in every.candidates}
    achieved = np.array([found.get(position, np.inf) for position in range(space.size)])
    mesh = np.broadcast_to(bounder.work_bounds(power.reshape(space.shape)), space.shape).ravel()
    simple, sharp = bounder.bounds(points, power), bounder.bounds(points, power, by_options=True)
    assert (mesh <= achieved).all()
    assert (simple <= achieved).all()
    assert (sharp <= achieved).all()
    # The bound by options is the better one, up to rounding.
    assert (simple <= sharp * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(12))
def test_the_bound_by_options_is_that_of_the_scheduling_problem(seed: int) -> None:
    """For throughput, the sweep with one guide comes close to the prices on the design's own options."""
    drawn = case(seed)
    grid = drawn["grid"]
    point = np.array([grid.space.indices(grid.space.size // 2)], np.int64)
    accelerator = grid.accelerator(tuple(int(index) for index in point[0]))
    evaluator = drawn["evaluators"][0]
    bounder = Bounder([WorkloadTables(evaluator, grid)], (1.0,), grid, Objective.THROUGHPUT)
    bounder.add_guide(accelerator)
    swept = bounder.bounds(point, np.ones(1), by_options=True)[0]
    bounds = lower_bounds(evaluator.problem(accelerator))
    exact = max(bounds.beside_path_s, bounds.tensor_core_s, bounds.vector_core_s, bounds.hbm_s)
    assert 0.9 * exact <= swept <= exact * (1 + 1e-9)


def test_sweeps_know_registers() -> None:
    """Groups longer than the registers of a multiprocessor are read twice."""
    evaluator = Evaluator(transformer_training(tokens=8192, width=16384).graph(), technology())
    for preset in ("a100-80gb", "tpuv2"):
        baseline = load_preset(preset)
        grid = Grid(default_space(baseline), technology())
        accelerator = grid.accelerator(grid.below(baseline))
        bounder = Bounder([WorkloadTables(evaluator, grid)], (1.0,), grid, Objective.THROUGHPUT)
        bounder.add_guide(accelerator)
        swept = bounder.bounds(np.array([grid.below(baseline)], np.int64), np.ones(1), by_options=True)[0]
        bounds = lower_bounds(evaluator.problem(accelerator))
        exact = max(bounds.beside_path_s, bounds.tensor_core_s, bounds.vector_core_s, bounds.hbm_s)
        assert 0.9999 * exact <= swept <= exact * (1 + 1e-9), preset


def test_workers_and_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worklode.search.bounder.CHUNK", 7)
    for seed in (3, 8):
        drawn = case(seed)
        answers = []
        for workers in (1, 2):
            search, certificate = proof_of(drawn, replace(EVERYTHING, workers=workers))
            answers.append((search.candidates()[0].order(), replace(certificate, wall_time_s=0.0)))
        assert answers[0] == answers[1]


def test_little_work_leaves_a_wider_gap_that_is_still_true() -> None:
    """With no time, the sweep alone proves a bound; more work never loosens it."""
    for seed in range(0, 40, 3):
        drawn = case(seed)
        every = exhaustive(drawn["evaluators"], drawn["weights"], drawn["grid"], drawn["limits"], drawn["objective"])
        if every.best is None:
            continue
        _, hurried = proof_of(drawn, replace(EVERYTHING, max_time_s=0.0))
        _, thorough = proof_of(drawn)
        assert hurried.out_of_time
        assert hurried.bound <= every.best.figure * (1 + 1e-12)
        assert hurried.bound <= thorough.bound * (1 + 1e-9)
        assert hurried.sharpened == 0


def test_an_interrupt_keeps_what_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = case(11)
    search = search_of(drawn)
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return lower_bounds(*arguments, **options)

    monkeypatch.setattr("worklode.search.certificate.lower_bounds", interrupted)
    monkeypatch.setattr("worklode.search.certificate._Proof._best_bound", lambda proof: proof.best.figure)
    certificate, _ = prove(search, EVERYTHING)
    assert certificate.interrupted == (len(calls) > 1)
    assert 0 < certificate.bound <= certificate.figure


def test_a_seed_outside_the_space_is_part_of_the_claim() -> None:
    """The budget's own design may be the best one; then the bound covers it."""
    drawn = case(4)
    drawn["limits"] = Limits()
    grid = drawn["grid"]
    richest = grid.accelerator(tuple(int(length) - 1 for length in grid.lengths))
    outside = replace(richest, sram_bytes=richest.sram_bytes * 2, num_vector_cores=richest.num_vector_cores * 4)
    assert not grid.space.contains(outside)
    drawn["objective"] = Objective.THROUGHPUT
    search = LocalSearch(
        drawn["evaluators"], drawn["weights"], grid, drawn["limits"], drawn["objective"], LocalSearchOptions()
    )
    search.run((outside,))
    certificate, _ = prove(search, EVERYTHING, seeds=(outside,))
    assert certificate.bound <= search.candidates()[0].figure
