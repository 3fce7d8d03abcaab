"""Given mappings against the enumerated optimum: none is better, and on small products one is as good."""

from __future__ import annotations

from itertools import product as every

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.property.test_cost import designs, items, products

from worklode.cost.mapping import A_STAYS, B_STAYS, OUTPUTS_STAY, ItemMapper, Mappings, pipelined
from worklode.cost.model import CostModel
from worklode.cost.options import ROUNDING, pipelined_cycles
from worklode.cost.tensor_core import split_table
from worklode.cost.traffic import mapped_reread, reread_table
from worklode.graph.work import Product, Work, WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset
from worklode.search.contest.mapping_search import draw, features

DRAWN = 60
# Transfers hide behind computation, show beside it, and next to none fits on chip.
PRESETS = tuple(load_preset(name) for name in ("tpuv2", "a100-80gb", "nvdla-small"))


@settings(max_examples=300, deadline=None)
@given(items(), st.one_of(designs(), st.sampled_from(PRESETS)), st.integers(0, 2**32 - 1))
def test_no_mapping_beats_the_enumerated_optimum(item: WorkItem, design: Accelerator, seed: int) -> None:
    model = CostModel([item])
    costs = model.on(design)
    assume(costs.tensor_cores[0] > 0)  # products on the arrays, which is what is mapped
    mapper = ItemMapper(model, 0, design)
    mappings = draw(mapper, DRAWN, np.random.default_rng(seed))
    found = mapper.costs(mappings)
    assert found.legal.all()
    assert np.isfinite(features(mapper, mappings)).all()
    best_s = np.maximum(costs.compute_s, costs.hbm_bytes / design.sustained_hbm_bytes_per_s).min()
    assert found.alone_s.min() >= best_s * (1.0 - ROUNDING)
    # On each number of cores, too, in computation and in traffic.
    for option in range(len(costs.compute_s)):
        same = found.tensor_cores == costs.tensor_cores[option]
        assert (found.compute_s[same] >= costs.compute_s[option] * (1.0 - ROUNDING)).all()
        assert (found.hbm_bytes[same] >= costs.hbm_bytes[option] * (1.0 - ROUNDING)).all()


@settings(max_examples=150, deadline=None)
@given(products(), st.integers(3, 9), st.integers(3, 9), st.integers(1, 12))
def test_the_best_split_is_among_those_one_may_choose(made: Product, rows: int, cols: int, cores: int) -> None:
    m, n, k, batch = min(made.m, 40), min(made.n, 40), min(made.k, 40), min(made.batch, 6)
    cycles, moved = np.empty((1, cores + 1)), np.empty((1, cores + 1))
    split = np.zeros((1, cores + 1, 5), np.int64)
    b_, m_, n_, k_, e_ = (np.array([size], np.int64) for size in (batch, m, n, k, 2))
    split_table(b_, m_, n_, k_, e_, np.ones(1), rows, cols, rows, cores, cycles, moved, split)
    model, design = CostModel([plain(batch, m, n, k)]), chip(rows, cols, cores)
    mapper = ItemMapper(model, 0, design)
    parts = np.array([p for p in every(range(1, cores + 1), repeat=4) if np.prod(p) <= cores], np.int64)
    splits = np.concatenate([np.column_stack([parts, np.full(len(parts), role)]) for role in (0, 1)])
    mappings = Mappings(
        step=np.full(len(splits), len(mapper.ladder) - 1),
        splits=splits[:, None, :].astype(np.int64),
        tilings=np.tile(np.array([OUTPUTS_STAY, 1, 1, 1], np.int64), (len(splits), 1, 1)),
    )
    found, _ = mapper._products(mappings)
    assert found.min() == cycles[0, cores]


@settings(max_examples=150, deadline=None)
@given(products(), st.integers(0, 300_000))
def test_the_best_tiling_is_among_those_one_may_choose(made: Product, sram_bytes: int) -> None:
    model = CostModel([WorkItem(work=Work(products=(made,)), read_bytes=1, write_bytes=1)])
    arrays = model._arrays.products
    assume(max(arrays.m[0], arrays.n[0], arrays.k[0]) <= 4096)
    best = np.empty(1)
    sizes = (arrays.batch, arrays.m, arrays.n, arrays.k, arrays.a_elements, arrays.b_elements, arrays.c_elements)
    reread_table(*sizes, arrays.element_bytes, arrays.patch, arrays.window, float(sram_bytes), best)
    shape = ItemMapper(model, 0, chip(8, 8, 1)).shapes[0]
    chosen, complete = [], True
    for stays, coarse in every((OUTPUTS_STAY, A_STAYS, B_STAYS), (False, True)):
        sets = shape.edges(stays, coarse=coarse)
        complete = complete and all(len(edges) <= THIN for edges in sets)
        chosen += [(stays, *edges) for edges in every(*(thinned(edges) for edges in sets))]
    found = np.empty(len(chosen))
    mapped_reread(
        int(arrays.batch[0]),
        int(arrays.m[0]),
        int(arrays.n[0]),
        int(arrays.k[0]),
        float(arrays.a_elements[0]),
        float(arrays.b_elements[0]),
        float(arrays.c_elements[0]),
        int(arrays.element_bytes[0]),
        int(arrays.patch[0]),
        int(arrays.window[0]),
        float(sram_bytes),
        np.array(chosen, np.int64),
        found,
    )
    assert found.min() >= best[0] * (1.0 - ROUNDING)
    if complete:
        assert found.min() == pytest.approx(best[0], rel=1e-9)


# Edges along one dimension of which all combinations are tried [count].
THIN = 20


def thinned(edges: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    if len(edges) <= THIN:
        return [int(edge) for edge in edges]
    return [int(edges[i]) for i in np.unique(np.linspace(0, len(edges) - 1, THIN).astype(int))]


def plain(batch: int, m: int, n: int, k: int) -> WorkItem:
    made = Product(
        batch=batch,
        m=m,
        n=n,
        k=k,
        a_elements=batch * m * k,
        b_elements=batch * k * n,
        c_elements=batch * m * n,
        element_bytes=2,
    )
    return WorkItem(work=Work(products=(made,)), read_bytes=1, write_bytes=1)


def chip(rows: int, cols: int, cores: int) -> Accelerator:
    return Accelerator(
        num_tensor_cores=cores,
        tensor_core_rows=rows,
        tensor_core_cols=cols,
        num_vector_cores=1,
        vector_lanes=1,
        sram_bytes=2**20,
        hbm_stacks=1,
        hbm_stack_bytes=2**34,
        hbm_stack_bytes_per_s=1e12,
        clock_hz=1e9,
        node_nm=7,
    )


def test_what_cannot_be_carried_out_is_infinite() -> None:
    mapper = ItemMapper(CostModel([plain(1, 4096, 4096, 4096)]), 0, load_preset("tpuv2"))
    assert list(mapper.ladder) == [1, 2]
    good = [[1, 1, 1, 1, 0]], [[OUTPUTS_STAY, 64, 64, 64]]
    too_many_cores = [[1, 2, 1, 1, 0]], [[OUTPUTS_STAY, 64, 64, 64]]
    too_large_tiles = [[1, 1, 1, 1, 0]], [[OUTPUTS_STAY, 4096, 4096, 4096]]
    more_parts_than_folds = [[2, 1, 1, 1, 0]], [[OUTPUTS_STAY, 64, 64, 64]]
    made = [good, too_many_cores, too_large_tiles, more_parts_than_folds]
    mappings = Mappings(
        step=np.zeros(4, np.int64),
        splits=np.array([splits for splits, _ in made], np.int64),
        tilings=np.array([tilings for _, tilings in made], np.int64),
    )
    assert list(mapper.costs(mappings).legal) == [True, False, False, False]


@given(st.floats(1, 1e9), st.floats(1, 1e9), st.floats(0, 1))
def test_overlap_of_products_and_lanes_is_that_of_the_options(products: float, lanes: float, shown: float) -> None:
    products, lanes = float(np.ceil(products)), float(np.ceil(lanes))
    assert pipelined(np.array([products]), np.array([lanes]), shown)[0] == pipelined_cycles(products, lanes, shown)
