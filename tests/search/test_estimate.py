"""The estimate of the search: its kernel against plain arithmetic, and products on lanes as the cost model has them."""

from __future__ import annotations

from dataclasses import replace
from math import hypot
from random import Random
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph.builders import GraphBuilder, transformer_training

from worklode.hardware.presets import load_preset
from worklode.hardware.space import default_space
from worklode.hardware.technology import load_technology
from worklode.search.estimate import serial_times
from worklode.search.estimator import Estimator
from worklode.search.evaluate import Evaluator
from worklode.search.grid import Grid
from worklode.search.objective import Objective

TECHNOLOGY = load_technology()
TPU = load_preset("tpuv2")


Row = np.ndarray[tuple[int], np.dtype[np.float64]]


def plain_time(
    t: Row,
    v: Row,
    w: Row,
    b: Row,
    count: Row,
    on_path: Row,
    cores: tuple[int, int],
    bandwidth: float,
    how: dict[str, Any],
) -> float:
    """The formulas of docs/models/search.md, item by item."""

    def operator_s(u: int, held: float) -> float:
        shows = how["exposed"] and not how["streams"][u]
        lasts = (hypot(held, moving[u]) if shows else max(held, moving[u])) + float(how["start_s"])
        return max(lasts, float(how["exchanging_s"][u]))

    p, q = cores
    moving = [each / bandwidth for each in b]
    each = range(len(t))
    if how["share"]:
        return float(sum(count[u] * operator_s(u, min(max(t[u] / p, v[u] / q), w[u] / q)) for u in each))
    on_lanes = [w[u] < max(t[u], v[u]) for u in each]
    arrays = [0.0 if on_lanes[u] else t[u] for u in each]
    lanes = [w[u] if on_lanes[u] else v[u] for u in each]
    chain = sum(on_path[u] * operator_s(u, max(arrays[u], lanes[u])) for u in each)
    work = [sum(count[u] * held[u] for u in each) for held in (arrays, lanes, moving)]
    return float(max(chain, work[0] / p, work[1] / q, work[2]))


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_kernel_equals_the_formulas(random: Random, share: bool, exposed: bool) -> None:
    items = random.randint(1, 8)

    def draw(rows: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([[random.choice([0.0, random.random()]) for _ in range(items)] for _ in range(rows)])

    t, v, b, count, on_path = draw(2), draw(3), draw(2), draw()[0], draw()[0]
    w = np.array([[random.choice([np.inf, random.random() / 5]) for _ in range(items)] for _ in range(3)])
    p, q, bandwidth = random.randint(1, 9), random.randint(1, 9), random.random() + 0.1
    rows = random.randint(0, 1), random.randint(0, 2), random.randint(0, 1)
    shape, width, size = (np.array([row]) for row in rows)
    of_design = (np.array([float(figure)]) for figure in (p, q, bandwidth))
    streams = np.array([random.random() < 0.5 for _ in range(items)])
    exchanging = np.array([random.choice([0.0, 0.0, random.random()]) for _ in range(items)])
    tables = t, v, w, b, count, on_path, shape, width, size
    found = cast(Any, serial_times)(*tables, *of_design, share, streams, exposed, 0.01, exchanging)[0]
    how = {"share": share, "exposed": exposed, "streams": streams, "start_s": 0.01, "exchanging_s": exchanging}
    of_item = t[rows[0]], v[rows[1]], w[rows[1]], b[rows[2]]
    assert found == pytest.approx(plain_time(*of_item, count, on_path, (p, q), bandwidth, how))


def narrow_graph() -> GraphBuilder:
    b = GraphBuilder()
    b.matmul(b.given(10**6 * 64), b.parameter(64), 10**6, 1, 64)
    b.matmul(b.given(4096 * 512), b.parameter(512 * 512), 4096, 512, 512)
    return b


@pytest.mark.parametrize("mode", ["split", "one-core"])
@pytest.mark.parametrize("narrow", [True, False])
def test_estimate_sees_the_lanes_that_the_cost_model_chooses(mode: str, narrow: bool) -> None:
    """With plenty of bandwidth the estimate is near the chain of the cost model, whichever cores products run on."""
    graph = narrow_graph().graph() if narrow else transformer_training(tokens=2048, width=512).graph()
    budget = replace(TPU, hbm_stack_bytes_per_s=1e15)
    evaluator = Evaluator(graph, TECHNOLOGY, mode=mode)  # type: ignore[arg-type]
    grid = Grid(default_space(budget), TECHNOLOGY)
    estimator = Estimator([evaluator], [1.0], grid, Objective.THROUGHPUT)
    for design in (budget, replace(budget, vector_lanes=64, tensor_core_rows=32, tensor_core_cols=32)):
        point = grid.below(design)
        accelerator = grid.accelerator(point)
        costs = evaluator.model.on(accelerator)
        fastest = np.minimum.reduceat(costs.compute_s, costs.option_start[:-1])
        estimate = estimator.figures(np.array([point]), np.ones(1))[0]
        chain_s = fastest @ evaluator.item_counts
        assert estimate <= chain_s * (1 + 1e-9)
        # On a core each, operators that do not wait for one another run side by side.
        assert mode == "one-core" or estimate >= (0.97 if narrow else 0.5) * chain_s
        if narrow:
            assert (costs.macs > 0).tolist() == [False, True]
