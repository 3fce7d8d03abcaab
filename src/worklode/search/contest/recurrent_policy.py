"""A small recurrent policy in NumPy: an LSTM with one softmax head for every field of a design, and its gradient.

LSTM: Hochreiter and Schmidhuber, Neural Computation 9, 1997, with the forget gate of Gers et al., 2000. REINFORCE: R.
Williams, Machine Learning 8, 1992. Adam: Kingma and Ba, ICLR 2015, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Parameters = dict[str, Floats]

# Adam's decay rates and the term that keeps it from dividing by nothing [1]. Source: Adam, the defaults.
_DECAY_1, _DECAY_2, _LEAST = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What a step of an episode leaves for the gradient; x input, h and c state, gates after their functions."""

    x: Floats
    h_before: Floats
    c_before: Floats
    gates: tuple[Floats, Floats, Floats, Floats]
    c: Floats
    h: Floats
    probabilities: tuple[Floats, ...]
    actions: tuple[int, ...]


class RecurrentPolicy:
    """pi(actions of a step | steps so far). An action is one index for each of the heads."""

    def __init__(self, inputs: int, heads: Sequence[int], hidden: int, random: np.random.Generator) -> None:
        """Random weights, even probabilities: heads start at zero.

        Args:
            inputs: length of a step's features; the actions of the step before are added.
            heads: choices of every head.
            hidden: length of the state.
            random: draws the weights.
        """
        self.heads = tuple(heads)
        self.hidden = hidden
        wide = inputs + len(self.heads)
        bound = 1.0 / np.sqrt(hidden)
        self.parameters: Parameters = {
            "input": random.uniform(-bound, bound, (4 * hidden, wide)),
            "state": random.uniform(-bound, bound, (4 * hidden, hidden)),
            "bias": np.zeros(4 * hidden),
        }
        for index, choices in enumerate(self.heads):
            self.parameters[f"head{index}"] = np.zeros((choices, hidden))
            self.parameters[f"head_bias{index}"] = np.zeros(choices)

    def start(self) -> tuple[Floats, Floats, Floats]:
        """State and actions before the first step."""
        return np.zeros(self.hidden), np.zeros(self.hidden), np.zeros(len(self.heads))

    def step(
        self,
        features: Floats,
        state: tuple[Floats, Floats, Floats],
        random: np.random.Generator | None = None,
        actions: tuple[int, ...] | None = None,
    ) -> tuple[Trace, tuple[Floats, Floats, Floats]]:
        """One step: with actions drawn by `random`, or with those given; and the state after it."""
        h_before, c_before, last = state
        x = np.concatenate([features, last])
        p = self.parameters
        raw = p["input"] @ x + p["state"] @ h_before + p["bias"]
        i, f, o, g = np.split(raw, 4)
        gates = (_sigmoid(i), _sigmoid(f), _sigmoid(o), np.tanh(g))
        c = gates[1] * c_before + gates[0] * gates[3]
        h = gates[2] * np.tanh(c)
        probabilities = tuple(_softmax(p[f"head{a}"] @ h + p[f"head_bias{a}"]) for a in range(len(self.heads)))
        if actions is None:
            assert random is not None
            actions = tuple(int(random.choice(len(one), p=one)) for one in probabilities)
        trace = Trace(
            x=x,
            h_before=h_before,
            c_before=c_before,
            gates=gates,
            c=c,
            h=h,
            probabilities=probabilities,
            actions=actions,
        )
        shown = np.array([a / max(1, n - 1) for a, n in zip(actions, self.heads, strict=True)])
        return trace, (h, c, shown)

    def loss(self, traces: Sequence[Trace], advantages: Sequence[float]) -> float:
        """- sum over steps of advantage x log pi(actions)."""
        total = 0.0
        for trace, advantage in zip(traces, advantages, strict=True):
            chosen = [one[action] for one, action in zip(trace.probabilities, trace.actions, strict=True)]
            total -= advantage * float(np.log(chosen).sum())
        return total

    def gradient(self, traces: Sequence[Trace], advantages: Sequence[float]) -> Parameters:
        """Gradient of `loss`, back through time; actions are given, nothing flows through them."""
        p = self.parameters
        found = {name: np.zeros_like(value) for name, value in p.items()}
        dh, dc = np.zeros(self.hidden), np.zeros(self.hidden)
        for trace, advantage in zip(reversed(traces), reversed(advantages), strict=True):
            for a, (one, action) in enumerate(zip(trace.probabilities, trace.actions, strict=True)):
                dlogits = advantage * one
                dlogits[action] -= advantage
                found[f"head{a}"] += np.outer(dlogits, trace.h)
                found[f"head_bias{a}"] += dlogits
                dh = dh + p[f"head{a}"].T @ dlogits
            i, f, o, g = trace.gates
            tanh_c = np.tanh(trace.c)
            dc = dc + dh * o * (1.0 - tanh_c * tanh_c)
            draw = np.concatenate(
                [
                    dc * g * i * (1.0 - i),
                    dc * trace.c_before * f * (1.0 - f),
                    dh * tanh_c * o * (1.0 - o),
                    dc * i * (1.0 - g * g),
                ]
            )
            found["input"] += np.outer(draw, trace.x)
            found["state"] += np.outer(draw, trace.h_before)
            found["bias"] += draw
            dh, dc = p["state"].T @ draw, dc * f
        return found


class Adam:
    """Adam on the parameters of a policy."""

    def __init__(self, parameters: Parameters, rate: float) -> None:
        self.rate = rate
        self.steps = 0
        self.first = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: np.zeros_like(value) for name, value in parameters.items()}

    def update(self, parameters: Parameters, gradient: Parameters) -> None:
        """One step downhill, in place."""
        self.steps += 1
        scale_1, scale_2 = 1.0 - _DECAY_1**self.steps, 1.0 - _DECAY_2**self.steps
        for name, slope in gradient.items():
            self.first[name] = _DECAY_1 * self.first[name] + (1.0 - _DECAY_1) * slope
            self.second[name] = _DECAY_2 * self.second[name] + (1.0 - _DECAY_2) * slope * slope
            step = self.first[name] / scale_1 / (np.sqrt(self.second[name] / scale_2) + _LEAST)
            parameters[name] -= self.rate * step


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


def _softmax(values: Floats) -> Floats:
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum())
