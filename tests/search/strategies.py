"""Small design spaces, training steps and limits, drawn from a seed: for oracles that look at every design.

The same seed gives the same draw in every process. Spaces have 6 to 96 designs, steps some 8 to 80 operators after
fusion: what one core can schedule on every design in a fraction of a second.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from tests.graph.builders import GraphBuilder

from worklode.graph.operator import OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Work
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space
from worklode.hardware.technology import Technology, load_technology
from worklode.search.evaluate import Evaluator, Mode
from worklode.search.grid import Grid
from worklode.search.objective import Limits, Objective

MOST_DESIGNS = 96
# A chip whose transfers hide behind computation, one whose operators have a start and show transfers, and a tiny one.
PRESETS = ("tpuv2", "tpuv4", "a100-80gb", "nvdla-small")


@cache
def technology() -> Technology:
    """The shipped constants, read once."""
    return load_technology()


def small_space(seed: int) -> DesignSpace:
    """A space of 6 to 96 designs around a preset: some axes have two to four values, the others one."""
    random = np.random.default_rng([seed, 1])
    base = load_preset(str(random.choice(PRESETS)))
    full = default_space(base)
    sets: dict[str, Any] = {}
    for axis in random.permutation(np.array(SEARCHED_FIELDS)):
        legal = getattr(full, str(axis))
        room = MOST_DESIGNS // math.prod(len(found) for found in sets.values()) if sets else MOST_DESIGNS
        wanted = min(int(random.choice((1, 2, 2, 3, 4))), room, len(legal))
        # Neighbouring values: designs that differ little are the ones that bounds confuse.
        start = int(random.integers(len(legal) - wanted + 1))
        step = int(random.choice((1, 1, 2)))
        sets[str(axis)] = legal[start : start + wanted * step : step] or (legal[start],)
    space = replace(full, **sets)
    if space.size >= 6:
        return space
    counts: dict[str, Any] = {
        axis: tuple(sorted({*getattr(space, axis), *getattr(full, axis)[:3]})) for axis in SEARCHED_FIELDS[3:5]
    }
    return replace(space, **counts)


def small_graph(seed: int) -> TrainingGraph:
    """A training step of one to three layers, each with one to three branches that fork and join.

    Branches are products with lane work; backward has input gradients (critical) and weight gradients (beside them),
    and some steps an update per parameter. Sizes are drawn so that arrays, lanes and HBM each bound some steps.
    """
    random = np.random.default_rng([seed, 2])
    b = GraphBuilder()
    tokens = int(random.choice((17, 64, 256, 1000)))
    width = int(random.choice((24, 64, 192, 512)))
    x = b.elementwise(b.given(tokens * width), name="embedding")
    layers: list[list[dict[str, int]]] = []
    for layer in range(int(random.integers(1, 4))):
        branches = []
        for branch in range(int(random.choice((1, 1, 2, 3)))):
            inner = max(8, int(width * random.choice((0.25, 1.0, 3.0))))
            weight = b.parameter(width * inner, f"l{layer}.b{branch}")
            hidden = b.matmul(x, weight, tokens, inner, width)
            shape = int(random.integers(4))
            if shape == 0:
                hidden = b.softmax(hidden, inner)
            elif shape == 1:
                hidden = b.layer_norm(hidden, inner)
            else:
                hidden = b.elementwise(hidden, name="gelu", special=shape - 2)
            back = b.parameter(width * inner, f"l{layer}.b{branch}.out")
            branches.append(
                {
                    "x": x,
                    "weight": weight,
                    "hidden": hidden,
                    "inner": inner,
                    "back": back,
                    "y": b.matmul(hidden, back, tokens, width, inner),
                }
            )
        layers.append(branches)
        x = b.elementwise(x, *(branch["y"] for branch in branches), name="join")
    b.phase = Phase.BACKWARD
    gradients: list[tuple[int, int]] = []
    dx = b.elementwise(x, name="loss_backward")
    for branches in reversed(layers):
        parts = []
        for s in branches:
            gradients.append((s["back"], b.matmul(s["hidden"], dx, s["inner"], width, tokens, gradient_of="weight")))
            dh = b.matmul(dx, s["back"], tokens, s["inner"], width, gradient_of="input")
            dh = b.elementwise(dh, s["hidden"], name="activation_backward", special=1)
            gradients.append((s["weight"], b.matmul(s["x"], dh, width, s["inner"], tokens, gradient_of="weight")))
            parts.append(b.matmul(dh, s["weight"], tokens, width, s["inner"], gradient_of="input"))
        dx = b.elementwise(dx, *parts, name="join_backward")
    b.phase = Phase.OPTIMIZER
    if random.random() < 0.5:
        for parameter, gradient in gradients:
            _update(b, parameter, gradient)
    return b.graph()


def _update(b: GraphBuilder, parameter: int, gradient: int) -> None:
    size = b.elements(parameter)
    state = b.given(size, TensorRole.OPTIMIZER_STATE, b.tensors[parameter].name)
    work = Work(simple_ops=6 * size, special_ops=size, vector_elements=5 * size)
    b.op("momentum_", OperatorKind.OPTIMIZER, (parameter, gradient, state), work=work, over=(parameter, state))


def small_evaluator(seed: int) -> Evaluator:
    """An evaluator of `small_graph`, two in three of them with operators split over cores."""
    modes: tuple[Mode, ...] = ("split", "uninterrupted", "one-core")
    mode = modes[int(np.random.default_rng([seed, 3]).integers(3))]
    return Evaluator(small_graph(seed), technology(), mode=mode)


def small_limits(seed: int, space: DesignSpace) -> Limits:
    """Limits that a drawn share of the designs keeps; at times area alone, at times a memory limit too.

    Limits may be met exactly, and one in twenty draws no design keeps them all.
    """
    random = np.random.default_rng([seed, 4])
    points = np.array([space.indices(position) for position in range(space.size)], np.int64)
    area, power = Grid(space, technology()).silicon(points)
    chosen = int(random.integers(6))
    if chosen == 0:
        return Limits()
    area_mm2 = float(np.quantile(area, random.uniform(0.1, 1.0), method="higher"))
    tdp_w = float(np.quantile(power, random.uniform(0.2, 1.0), method="higher")) if chosen > 1 else float("inf")
    if random.random() < 0.06:
        area_mm2 = 0.9 * float(area.min())
    memory = chosen == 5
    needed = float(random.choice(space.hbm_stacks) * space.hbm_stack_bytes) if memory else 0.0
    return Limits(area_mm2=area_mm2, tdp_w=tdp_w, hbm_bytes=needed)


def small_objective(seed: int) -> Objective:
    """One of the objectives."""
    return tuple(Objective)[int(np.random.default_rng([seed, 5]).integers(len(Objective)))]
