"""Mining as a whole: what an interrupt or a time limit leaves, what a result says of its proof."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.graph.builders import transformer_training

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset
from worklode.hardware.space import default_space
from worklode.hardware.technology import load_technology
from worklode.search.candidate import Candidate
from worklode.search.certificate import ProofOptions
from worklode.search.evaluate import Evaluator, silicon
from worklode.search.local import LocalSearch, LocalSearchOptions
from worklode.search.mining import MiningResult, mine
from worklode.search.objective import Limits, Objective

BUDGET = load_preset("tpuv2")
TECHNOLOGY = load_technology()
SMALL = LocalSearchOptions(shapes=6, climbs=2, max_evaluations=40, finalists=3, top_k=3)


def mined(**changes: Any) -> MiningResult:
    """A transformer mined within the TPUv2-like budget."""
    found = silicon(BUDGET, TECHNOLOGY)
    arguments: dict[str, Any] = {
        "limits": Limits(area_mm2=found.area_mm2, tdp_w=found.tdp_w),
        "objective": Objective.THROUGHPUT,
        "baseline": BUDGET,
        "options": SMALL,
        "proof": ProofOptions(guides=3, sharpened=6, max_evaluations=10, refined=2, polished=2),
    }
    graph = transformer_training(tokens=512, width=512).graph()
    return mine([Evaluator(graph, TECHNOLOGY)], default_space(BUDGET), TECHNOLOGY, **{**arguments, **changes})


def test_a_result_states_its_proof() -> None:
    result = mined()
    assert result.best is not None and result.certificate is not None
    assert result.bound is not None and 0 < result.bound <= result.best.figure
    assert result.optimality_gap == pytest.approx(result.best.figure / result.bound - 1)
    document = result.to_dict()
    search = document["search"]
    assert document["bound"] == result.bound
    assert search["space_size"] > 10**6
    within_and_scheduled = search["within_limits"] - search["pruned"] - search["undecided"]
    # The rest was scheduled; so was what breaks the limits, and the budget's own design.
    assert 0 < within_and_scheduled <= search["evaluated"]
    assert search["pruned"] > 0.9 * search["within_limits"]
    json.dumps(document, allow_nan=False)


def test_what_is_reported_is_scheduled_thoroughly() -> None:
    result = mined()
    assert result.designs[0]["schedule"] == "utmost"
    assert all(row["schedule"] in {"thorough", "utmost"} for row in result.designs[:3])
    for design in result.top_k:
        assert design.figure == design.evaluations[0].iteration_time_s
    assert [design.figure for design in result.top_k] == sorted(design.figure for design in result.top_k)


@pytest.mark.parametrize("after", [1, 15])
def test_an_interrupt_leaves_the_best_so_far_with_its_gap(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    schedule, calls = LocalSearch.schedule, []

    def interrupted(search: LocalSearch, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return schedule(search, *arguments)

    monkeypatch.setattr(LocalSearch, "schedule", interrupted)
    result = mined()
    assert result.interrupted and result.search.out_of_time
    assert result.best is not None and result.search.evaluated == after
    assert result.bound is not None and 0 < result.bound <= result.best.figure
    assert result.to_dict()["search"]["interrupted"] is True


@pytest.mark.parametrize("after", [0, 1, 9])
def test_an_interrupt_of_exploring_leaves_a_proof_of_the_best_so_far(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    schedule, explored = LocalSearch.schedule, []

    def interrupted(search: LocalSearch, accelerator: Accelerator, origin: str) -> Candidate:
        if origin == "surrogate":
            explored.append(accelerator)
            if len(explored) > after:
                raise KeyboardInterrupt
        return schedule(search, accelerator, origin)

    monkeypatch.setattr(LocalSearch, "schedule", interrupted)
    result = mined(options=replace(SMALL, climbs=0))
    found = result.certificate
    assert result.interrupted and len(explored) == after + 1
    assert result.best is not None and found is not None
    assert found.figure == result.best.figure
    assert found.gap == result.optimality_gap
    assert default_space(BUDGET).contains(BUDGET)
    assert found.within_limits == found.pruned + found.undecided + len(result.designs)


@pytest.mark.parametrize("stage", ["explore", "refine", "polish"])
def test_a_time_limit_that_cuts_the_search_is_told(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Wherever its own time ends, before the time of the proof does, the result says so."""
    method = {"explore": "schedule", "refine": "refine", "polish": "polish"}[stage]
    original = getattr(LocalSearch, method)

    def slow(search: LocalSearch, *arguments: Any) -> Any:
        if stage != "explore" or arguments[1] == "surrogate":
            search.started_s -= 1e6
        return original(search, *arguments)

    options = replace(SMALL, climbs=0, max_time_s=1e5)
    assert not mined(options=options).search.out_of_time
    monkeypatch.setattr(LocalSearch, method, slow)
    result = mined(options=options)
    assert result.search.out_of_time and not result.interrupted
    assert result.best is not None and result.bound is not None and result.bound <= result.best.figure


def test_progress_announces_no_fewer_than_there_are_and_not_many_more() -> None:
    told: list[tuple[int, int]] = []
    proof = ProofOptions(guides=3, sharpened=6, explored=5, max_evaluations=10)
    result = mined(options=replace(SMALL, climbs=0), proof=proof, progress=lambda done, most: told.append((done, most)))
    assert told[-1][0] == result.search.evaluated
    assert {most for _, most in told} == {SMALL.shapes + 2 + 5 + 10}
    assert all(done <= most for done, most in told)


def test_an_interrupt_before_any_design_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(search: LocalSearch, *arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalSearch, "schedule", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mined()


def test_no_time_at_all_still_has_the_budget_and_a_bound() -> None:
    options = LocalSearchOptions(max_time_s=0.0)
    result = mined(options=options, proof=ProofOptions(max_time_s=0.0))
    assert result.search.out_of_time and not result.interrupted
    assert result.best is not None and result.best.accelerator == BUDGET
    assert result.bound is not None and 0 < result.bound < result.best.figure


def test_the_number_of_threads_does_not_change_the_answer() -> None:
    answers = []
    for workers in (1, 2):
        document = mined(proof=ProofOptions(workers=workers, guides=3, sharpened=6)).to_dict()
        for name in ("wall_time_s", "proof_time_s"):
            document["search"].pop(name)
        answers.append(document)
    assert answers[0] == answers[1]
