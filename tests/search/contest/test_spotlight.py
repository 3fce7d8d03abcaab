"""Spotlight-like: its process against linear algebra, its improvement against an integral, its mappings."""

from __future__ import annotations

import numpy as np
import pytest
from tests.search.contest.problems import FEW_DESIGNS, small_contest

from worklode.graph.operator import Phase
from worklode.search.contest.gaussian import LinearProcess
from worklode.search.contest.layers import fastest_options, forward_layers, layer_figures, training_layers
from worklode.search.contest.spotlight import SpotlightInference, SpotlightTraining


def drawn(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 5)) * [1.0, 10.0, 0.1, 3.0, 0.0]
    values = features @ [0.5, -0.2, 4.0, 0.0, 7.0] + 2.0 + 0.1 * random.normal(size=count)
    return features, values


@pytest.mark.parametrize("seed", range(3))
def test_predictions_are_those_of_the_linear_kernel(seed: int) -> None:
    features, values = drawn(seed)
    process = LinearProcess(features[:30], values[:30])
    mean, deviation = process.predict(features[30:])
    product, white = process.process.kernel_.k1, process.process.kernel_.k2
    x = (features[:30] - features[:30].mean(axis=0)) / np.where(
        features[:30].std(axis=0) > 0, features[:30].std(axis=0), 1
    )
    new = (features[30:] - features[:30].mean(axis=0)) / np.where(
        features[:30].std(axis=0) > 0, features[:30].std(axis=0), 1
    )
    y, scale = values[:30].mean(), values[:30].std()
    kernel = product.sigma_0**2 + x @ x.T + white.noise_level * np.eye(30)
    across = product.sigma_0**2 + new @ x.T
    expected = y + scale * across @ np.linalg.solve(kernel, (values[:30] - y) / scale)
    assert mean == pytest.approx(expected, rel=1e-6, abs=1e-6)
    own = product.sigma_0**2 + (new * new).sum(axis=1) + white.noise_level
    variance = own - np.einsum("ij,ji->i", across, np.linalg.solve(kernel, across.T))
    assert deviation == pytest.approx(scale * np.sqrt(variance), rel=1e-4)
    # And it has learnt: errors are of the size of the noise.
    assert np.abs(mean - values[30:]).mean() < 0.3


def test_expected_improvement_is_the_mean_of_what_is_gained() -> None:
    features, values = drawn(5)
    process = LinearProcess(features, values)
    new = features + 0.3
    mean, deviation = process.predict(new)
    samples = mean + deviation * np.random.default_rng(0).normal(size=(200_000, len(mean)))
    gained = np.maximum(process.least - samples, 0.0).mean(axis=0)
    assert process.expected_improvement(new) == pytest.approx(gained, rel=0.1, abs=2e-3)


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_a_design_is_never_worth_more_than_on_the_best_mappings(seed: int) -> None:
    """In the form of the paper, whose sum over layers the enumeration minimises layer by layer."""
    problem = small_contest(seed).problem()
    searcher = SpotlightInference(problem, 0, FEW_DESIGNS)
    evaluator, layers = problem.evaluators[0], searcher.layers[0]
    for point in problem.draw(np.random.default_rng(seed), 4):
        accelerator = problem.grid.accelerator(point)
        costs = evaluator.model.on(accelerator)
        best, _ = layer_figures(
            evaluator, accelerator, costs, layers, fastest_options(costs, accelerator, layers.items)
        )
        assert searcher._value(accelerator) >= best.sum() * (1.0 - 1e-9)


def test_mapped_costs_are_options_a_scheduler_takes() -> None:
    problem = small_contest(2).problem()
    searcher = SpotlightTraining(problem, 0, FEW_DESIGNS)
    evaluator = problem.evaluators[0]
    point = problem.draw(np.random.default_rng(0), 1)[0]
    accelerator = problem.grid.accelerator(point)
    mapped = searcher._mapped(evaluator, accelerator, searcher.layers[0].items)
    plain = evaluator.model.on(accelerator)
    assert len(mapped.option_start) == len(plain.option_start)
    assert (np.diff(mapped.option_start) >= 1).all()
    assert mapped.tensor_cores.max() <= accelerator.num_tensor_cores
    time_s, energy_j = evaluator.scheduled(mapped, accelerator)
    assert time_s > 0.0 and energy_j > 0.0
    # With the enumerated costs it is the evaluator's own figure.
    own = evaluator.figures(accelerator)
    assert evaluator.scheduled(plain, accelerator) == (own.time_s, own.energy_j)


def test_layers_are_the_operators_with_products() -> None:
    evaluator = small_contest(3).problem().evaluators[0]
    operators = [operator for operator in evaluator.fused.operators if operator.work.products]
    assert training_layers(evaluator).counts.sum() == len(operators)
    forward = [operator for operator in operators if operator.phase is Phase.FORWARD]
    assert forward_layers(evaluator).counts.sum() == len(forward)
    assert 0 < len(forward) < len(operators)
