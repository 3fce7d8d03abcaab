"""Suite `memory`: closed forms and measured pipelines of Megatron-LM."""

from __future__ import annotations

from functools import cache

import pytest

from worklode.validation.memory import TRAININGS, memory
from worklode.validation.score import Group, SuiteResult

from .data import folder

GIB = 2**30


@cache
def result() -> SuiteResult:
    return memory(folder())


def group(word: str) -> Group:
    (found,) = (group for group in result().groups if word in group.name)
    return found


@pytest.mark.parametrize(
    ("word", "points", "mean_error", "max_error"),
    [
        ("first stage", 8, 0.0005, 0.001),
        ("weights, gradients", 4, 0.001, 0.001),
        ("per cent", 16, 0.003, 0.012),
        ("measured pipeline", 11, 0.05, 0.11),
    ],
)
def test_errors(word: str, points: int, mean_error: float, max_error: float) -> None:
    found = group(word)
    assert len(found.points) == points
    assert found.mean_error <= mean_error
    assert found.max_error <= max_error


def test_measured_pipelines_are_far_from_the_baseline_and_in_order() -> None:
    found = group("measured pipeline")
    assert found.baseline_error is not None and found.baseline_error > 10 * found.mean_error
    assert found.rank_correlation is not None and found.rank_correlation > 0.95
    by_name = {point.name: point.predicted for point in found.points}
    for model in ("1.5B, 8", "6.2B, 8", "14.6B, 16"):
        plain, deferred, interleaved = (by_name[f"GPT {model} stages, {name}"] for name in ("1F1B", "ZB-1p", "1F1B-I"))
        assert plain < deferred < interleaved


def test_first_stages_are_the_closed_form() -> None:
    """arXiv 2205.05198: L/p layers, p microbatches (1 + (p - 1)/(p v) times as many interleaved), equations 2 and 6."""
    predicted = {point.name: point.predicted for point in group("first stage").points}
    for name, run in TRAININGS.items():
        elements = 2048 * run.microbatch * run.hidden
        rows = 2048 * run.microbatch
        scores = 5 * run.heads * 2048 / run.hidden
        interleaved = 1 + (run.pipeline - 1) / (run.pipeline * run.chunks) if run.chunks > 1 else 1.0
        norms = 2 * 2 * 4 * rows  # mean and deviation of two norms, in 32 bits
        tensor = elements * (10 + 24 / run.tensor + scores / run.tensor) + norms
        sequence = elements * 34 / run.tensor + norms / run.tensor
        for mode, layer in (("none", tensor), ("seqsel", sequence)):
            assert predicted[f"{name}, {mode}"] == pytest.approx(layer * run.layers * interleaved / GIB, rel=1e-9)


def test_nothing_is_left_out_unsaid() -> None:
    assert {skipped.reason: skipped.count for skipped in result().skipped} == {
        "100 % by definition": 4,
        "schedule ZB-2p is not there": 6,
    }
