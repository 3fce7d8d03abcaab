"""What must hold of any operator on any design: roofline, monotony, conservation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.cost.model import CostModel, operator_costs
from worklode.cost.operator_costs import OperatorCosts
from worklode.cost.vector_core import SPECIAL_OPERATION_CYCLES
from worklode.graph.work import PatchOperand, Product, Work, WorkItem
from worklode.hardware.accelerator import Accelerator

SIZES = st.one_of(
    st.just(1),
    st.sampled_from([2, 3, 7, 31, 97, 127, 509, 1021, 4093]),
    st.sampled_from([16, 64, 128, 1024, 4096]),
    st.just(10**6),
    st.integers(1, 3000),
)
SMALL = st.one_of(st.integers(1, 40), st.sampled_from([96, 192, 960]))


@st.composite
def products(draw: st.DrawFn) -> Product:
    batch, m, n, k = draw(SMALL), draw(SIZES), draw(SIZES), draw(SIZES)
    patch = draw(st.sampled_from([PatchOperand.NONE, PatchOperand.NONE, *PatchOperand]))
    window = draw(st.sampled_from([1, 9, 49])) if patch is not PatchOperand.NONE else 1
    if patch is PatchOperand.A:
        k *= window
    elif patch is not PatchOperand.NONE:
        n *= window
    a, b, c = batch * m * k, batch * k * n, batch * m * n
    shrink = draw(st.integers(1, window))
    return Product(
        batch=batch,
        m=m,
        n=n,
        k=k,
        a_elements=-(-a // shrink) if patch is PatchOperand.A else a,
        b_elements=-(-b // shrink) if patch is PatchOperand.B else b,
        c_elements=-(-c // shrink) if patch is PatchOperand.C else c,
        element_bytes=draw(st.sampled_from([1, 2, 4])),
        patch=patch,
        window=window,
        masked_fraction=draw(st.sampled_from([0.0, 0.0, 0.25, 0.499])),
    )


@st.composite
def items(draw: st.DrawFn) -> WorkItem:
    count = draw(st.sampled_from([0, 1, 1, 2]))
    made = tuple(draw(products()) for _ in range(count))
    simple = draw(st.sampled_from([0, 1, 1000, 10**6, 10**10]))
    work = Work(
        products=made,
        chained=count == 2 and draw(st.booleans()),
        simple_ops=simple,
        special_ops=draw(st.sampled_from([0, 1, 12345, 10**9])),
        vector_elements=draw(st.sampled_from([0, simple, 3 * simple])),
        reduction_bytes=draw(st.sampled_from([0, 0, 4096, 10**7])),
        random_accesses=draw(st.sampled_from([0, 1000])),
        random_access_bytes=draw(st.sampled_from([4, 100, 256])),
        serial_steps=draw(st.sampled_from([0, 0, 50])),
    )
    read = draw(st.integers(0, 10**9))
    return WorkItem(work=work, read_bytes=read, write_bytes=draw(st.integers(0, 10**9)))


@st.composite
def designs(draw: st.DrawFn) -> Accelerator:
    edge = st.one_of(st.sampled_from([1, 4, 16, 32, 128, 256]), st.integers(1, 256))
    return Accelerator(
        num_tensor_cores=draw(st.one_of(st.integers(1, 12), st.integers(1, 70))),
        tensor_core_rows=draw(edge),
        tensor_core_cols=draw(edge),
        num_vector_cores=draw(st.integers(1, 20)),
        vector_lanes=draw(st.one_of(st.sampled_from([1, 16, 128, 1024]), st.integers(1, 2000))),
        sram_bytes=draw(st.one_of(st.integers(0, 10**5), st.integers(10**5, 10**9))),
        hbm_stacks=1,
        hbm_stack_bytes=2**34,
        hbm_stack_bytes_per_s=draw(st.sampled_from([1e9, 1e12])),
        clock_hz=1e9,
        node_nm=7,
    )


def alone_s(costs: OperatorCosts, design: Accelerator) -> float:
    """Time of the only item with its best option and all of the HBM [s]."""
    return float(np.maximum(costs.compute_s, costs.hbm_bytes / design.hbm_bytes_per_s).min())


@settings(max_examples=120, deadline=None)
@given(items(), designs(), st.integers(1, 20))
def test_more_of_anything_but_rows_never_takes_longer(item: WorkItem, design: Accelerator, more: int) -> None:
    model = CostModel([item])
    before = alone_s(model.on(design), design)
    for name in ("num_tensor_cores", "num_vector_cores", "vector_lanes", "sram_bytes", "hbm_stacks"):
        larger = replace(design, **{name: getattr(design, name) + more * (997 if name == "sram_bytes" else 1)})
        assert alone_s(model.on(larger), larger) <= before, name


@settings(max_examples=120, deadline=None)
@given(items(), designs())
def test_never_above_any_roof_and_options_in_order(item: WorkItem, design: Accelerator) -> None:
    costs = operator_costs([item], design)
    cycles = costs.compute_s * design.clock_hz
    work, tolerance = item.work, 1 + 1e-9
    per_cycle = design.tensor_core_rows * design.tensor_core_cols
    assert (costs.macs[0] <= cycles * costs.tensor_cores * per_cycle * tolerance).all()
    lanes = work.simple_ops + SPECIAL_OPERATION_CYCLES * work.special_ops
    assert (costs.hbm_bytes >= item.read_bytes + item.write_bytes).all()
    assert (costs.tensor_cores <= design.num_tensor_cores).all()
    assert (costs.vector_cores <= design.num_vector_cores).all()
    on_lanes = (costs.tensor_cores == 0).all() and work.matrix_flops > 0
    assert (costs.tensor_cores > 0).all() == (work.matrix_flops > 0 and not on_lanes)
    if on_lanes:
        assert costs.macs[0] == 0
        lanes += work.matrix_flops
        assert costs.lane_ops[0] == work.simple_ops + work.special_ops + work.matrix_flops
    assert (lanes <= cycles * costs.vector_cores * design.vector_lanes * tolerance).all()
    assert (np.diff(costs.tensor_cores) >= 0).all()
    assert (np.diff(costs.vector_cores) >= 0).all()
    assert (np.diff(costs.tensor_cores + costs.vector_cores) > 0).all()
    assert (np.diff(costs.hbm_bytes) <= 0).all()
    falls = np.diff(costs.compute_s)
    assert (falls[:-1] < 0).all()
    assert (falls <= 0).all()
    assert np.isclose(costs.tensor_core_s[0], (costs.tensor_cores * costs.compute_s).min())
    assert np.isclose(costs.vector_core_s[0], (costs.vector_cores * costs.compute_s).min())


@settings(max_examples=120, deadline=None)
@given(items(), designs())
def test_splitting_conserves_work_and_bounds_hold(item: WorkItem, design: Accelerator) -> None:
    model = CostModel([item])
    costs = model.on(design)
    single = operator_costs([item], design, mode="one-core")
    # Products may be on lanes with all cores and on arrays with one of each, or the other way round.
    assert np.isclose(2 * costs.macs[0] + costs.lane_ops[0], 2 * single.macs[0] + single.lane_ops[0], rtol=1e-12)
    assert 2 * costs.macs[0] <= item.work.matrix_flops * (1 + 1e-12)
    bounds = model.bounds(design)
    assert bounds.tensor_core_s[0] <= costs.tensor_core_s[0] * (1 + 1e-9)
    assert bounds.vector_core_s[0] <= costs.vector_core_s[0] * (1 + 1e-9)
    assert bounds.hbm_bytes[0] <= costs.hbm_bytes.min() * (1 + 1e-9)
    assert bounds.tensor_core_s[0] <= single.tensor_core_s[0] * (1 + 1e-9)
    for cores in {1, design.num_tensor_cores}:
        for split in model.splits(0, design, cores):
            parts = split.batch_parts * split.m_parts * split.n_parts * split.k_parts
            assert 1 <= parts <= cores


@settings(max_examples=40, deadline=None)
@given(st.lists(items(), min_size=2, max_size=5), designs())
def test_items_do_not_influence_one_another(several: list[WorkItem], design: Accelerator) -> None:
    together = operator_costs(several, design)
    for index, (start, end) in enumerate(pairwise(together.option_start.tolist())):
        alone = operator_costs([several[index]], design)
        np.testing.assert_array_equal(together.compute_s[start:end], alone.compute_s)
        np.testing.assert_array_equal(together.hbm_bytes[start:end], alone.hbm_bytes)
        np.testing.assert_array_equal(together.sram_bytes[start:end], alone.sram_bytes)
