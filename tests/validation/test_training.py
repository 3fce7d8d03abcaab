"""The suite of training iterations: targets where they are met, misses pinned where they are not."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode.validation import training
from worklode.validation.score import Group

from .data import folder


@pytest.fixture(scope="module")
def groups() -> dict[str, Group]:
    return {group.name: group for group in training.training(folder()).groups}


def test_targets(groups: dict[str, Group]) -> None:
    assert groups[training.KORTHIKANTI].mean_error <= training.KORTHIKANTI_TARGET
    vtrain = groups[training.MULTI_NODE]
    assert vtrain.mean_error <= training.TARGET
    assert vtrain.baseline_error is not None and vtrain.baseline_error > 1.5 * vtrain.mean_error
    assert vtrain.rank_correlation is not None and vtrain.rank_correlation > 0.95


def test_misses_get_no_worse(groups: dict[str, Group]) -> None:
    assert groups[training.ZERO_BUBBLE].mean_error <= 0.11  # the target is 10 %
    assert groups[training.KORTHIKANTI_530B].mean_error <= 0.06  # the target is 4 %
    assert groups[training.SC21].mean_error <= 0.085


def test_schedules_are_in_the_measured_order(groups: dict[str, Group]) -> None:
    assert "Of 8 pairs of schedules of one model and batch, 8 are" in groups[training.ZERO_BUBBLE].note
