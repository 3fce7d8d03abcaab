"""The policy's gradient against finite differences, and that REINFORCE with it learns."""

from __future__ import annotations

import numpy as np
import pytest

from worklode.search.contest.recurrent_policy import Adam, RecurrentPolicy, Trace

HEADS = (3, 2, 5)
STEPS, INPUTS = 4, 6


def walk(
    policy: RecurrentPolicy,
    features: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    random: np.random.Generator | None,
    actions: list[tuple[int, ...]] | None = None,
) -> list[Trace]:
    state, traces = policy.start(), []
    for index, row in enumerate(features):
        trace, state = policy.step(row, state, random, None if actions is None else actions[index])
        traces.append(trace)
    return traces


@pytest.mark.parametrize("seed", range(5))
def test_gradient_is_that_of_finite_differences(seed: int) -> None:
    random = np.random.default_rng(seed)
    policy = RecurrentPolicy(INPUTS, HEADS, 7, random)
    for name, value in policy.parameters.items():  # heads and biases start at zero, where parts of the gradient vanish
        policy.parameters[name] = value + random.normal(0.0, 0.3, value.shape)
    features = random.normal(size=(STEPS, INPUTS))
    advantages = list(random.normal(size=STEPS))
    traces = walk(policy, features, random)
    actions = [trace.actions for trace in traces]
    gradient = policy.gradient(traces, advantages)
    step = 1e-6
    for name, value in policy.parameters.items():
        assert np.abs(gradient[name]).max() > 0.0, name
        for place in random.integers(0, value.size, 12):
            at = np.unravel_index(int(place), value.shape)
            kept = value[at]
            value[at] = kept + step
            above = policy.loss(walk(policy, features, None, actions), advantages)
            value[at] = kept - step
            below = policy.loss(walk(policy, features, None, actions), advantages)
            value[at] = kept
            assert gradient[name][at] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7), (name, at)


def test_reinforce_finds_the_actions_that_are_rewarded() -> None:
    """One action of each head earns 1: after 400 episodes the policy takes it nearly always."""
    random = np.random.default_rng(0)
    policy = RecurrentPolicy(INPUTS, HEADS, 16, random)
    adam = Adam(policy.parameters, 1e-2)
    features = random.normal(size=(STEPS, INPUTS))
    wanted = (2, 1, 4)
    baseline = 0.0
    for _ in range(400):
        traces = walk(policy, features, random)
        earned = [sum(a == w for a, w in zip(trace.actions, wanted, strict=True)) / len(wanted) for trace in traces]
        baseline = 0.9 * baseline + 0.1 * float(np.mean(earned))
        adam.update(policy.parameters, policy.gradient(traces, [one - baseline for one in earned]))
    likely = [
        p[w] for trace in walk(policy, features, random) for p, w in zip(trace.probabilities, wanted, strict=True)
    ]
    assert min(likely) > 0.9


def test_probabilities_are_even_before_anything_is_learnt() -> None:
    policy = RecurrentPolicy(INPUTS, HEADS, 8, np.random.default_rng(3))
    trace, _ = policy.step(np.ones(INPUTS), policy.start(), np.random.default_rng(4))
    for one, choices in zip(trace.probabilities, HEADS, strict=True):
        assert one == pytest.approx(np.full(choices, 1.0 / choices))
