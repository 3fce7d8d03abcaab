"""What must hold of any operator on any design: roofline, monotony, conservation.

How many operators are checked in a run: 1000 drawn ones, each on a design of its own, for each of three properties
(more of anything never takes longer; never above any roof; work is conserved by splitting and tiling), 80 sets of two
to five for the fourth, and all 1029 products with M, N and K of 1, primes and 10^6 on five designs and larger ones.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from itertools import product as every

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.cost.model import CostModel, operator_costs
from worklode.cost.operator_costs import OperatorCosts
from worklode.cost.vector_core import SPECIAL_OPERATION_CYCLES
from worklode.graph.work import PatchOperand, Product, Work, WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset

SIZES = st.one_of(
    st.just(1),
    st.sampled_from([2, 3, 7, 31, 97, 127, 509, 1021, 4093]),
    st.sampled_from([16, 64, 128, 1024, 4096]),
    st.just(10**6),
    st.integers(1, 3000),
)
EXAMPLES, EXAMPLES_OF_SETS = 1000, 80
# One, primes, a power of two, and a million.
CORNERS = (1, 2, 7, 127, 1024, 4093, 10**6)
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


@settings(max_examples=EXAMPLES, deadline=None)
@given(items(), designs(), st.integers(1, 20))
def test_more_of_anything_but_rows_never_takes_longer(item: WorkItem, design: Accelerator, more: int) -> None:
    model = CostModel([item])
    before = alone_s(model.on(design), design)
    for name in ("num_tensor_cores", "num_vector_cores", "vector_lanes", "sram_bytes", "hbm_stacks"):
        larger = replace(design, **{name: getattr(design, name) + more * (997 if name == "sram_bytes" else 1)})
        assert alone_s(model.on(larger), larger) <= before, name
    faster = replace(design, hbm_stack_bytes_per_s=design.hbm_stack_bytes_per_s * (1 + more / 7))
    assert alone_s(model.on(faster), faster) <= before


@settings(max_examples=EXAMPLES, deadline=None)
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


@settings(max_examples=EXAMPLES, deadline=None)
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
    # Whatever the cores and the tiles, the same work: it is cut, neither dropped nor done twice. (What a mask skips
    # depends on the shape of the arrays.)
    other = model.on(replace(design, num_tensor_cores=3, sram_bytes=2 * design.sram_bytes + 1))
    assert np.isclose(2 * costs.macs[0] + costs.lane_ops[0], 2 * other.macs[0] + other.lane_ops[0], rtol=1e-12)
    # Tiling adds bytes where the SRAM is small, and none where all fits: then every operand moves once.
    scattered = -(-item.work.random_access_bytes // 64) * 64 - item.work.random_access_bytes
    once = item.read_bytes + item.write_bytes + item.work.random_accesses * scattered
    roomy = model.on(replace(design, sram_bytes=2**49))
    # The tables know memories up to 2^50 bytes; a share of that does not hold the largest drawn products.
    held = sum((p.a_elements + p.b_elements + p.c_elements) * p.element_bytes for p in item.work.products)
    if held < 2**40:
        np.testing.assert_allclose(roomy.hbm_bytes, once, rtol=1e-12)
    assert (costs.hbm_bytes >= once * (1 - 1e-12)).all()


@settings(max_examples=EXAMPLES_OF_SETS, deadline=None)
@given(st.lists(items(), min_size=2, max_size=5), designs())
def test_items_do_not_influence_one_another(several: list[WorkItem], design: Accelerator) -> None:
    together = operator_costs(several, design)
    for index, (start, end) in enumerate(pairwise(together.option_start.tolist())):
        alone = operator_costs([several[index]], design)
        np.testing.assert_array_equal(together.compute_s[start:end], alone.compute_s)
        np.testing.assert_array_equal(together.hbm_bytes[start:end], alone.hbm_bytes)
        np.testing.assert_array_equal(together.sram_bytes[start:end], alone.sram_bytes)


def corner_products() -> list[WorkItem]:
    """Products of every M, N and K of `CORNERS` with elements of one, two and four bytes."""
    made = []
    for m, n, k in every(CORNERS, repeat=3):
        for element_bytes in (1, 2, 4):
            a, b, c = m * k, k * n, m * n
            product = Product(
                batch=1, m=m, n=n, k=k, a_elements=a, b_elements=b, c_elements=c, element_bytes=element_bytes
            )
            moved = {"read_bytes": (a + b) * element_bytes, "write_bytes": c * element_bytes}
            made.append(WorkItem(work=Work(products=(product,)), **moved))
    return made


@pytest.mark.parametrize("preset", ["a100-80gb", "h100", "nvdla-small", "tpuv2", "tpuv4"])
def test_products_of_ones_primes_and_millions(preset: str) -> None:
    """Roofs, conservation and monotony of all corners at once, also on chips whose transfers show."""
    made, design = corner_products(), load_preset(preset)
    model = CostModel(made)

    def times(found: Accelerator) -> np.ndarray:
        costs = model.on(found)
        moving = costs.hbm_bytes / found.sustained_hbm_bytes_per_s
        option_s = np.maximum(costs.compute_s, moving)
        return np.minimum.reduceat(option_s, costs.option_start[:-1])

    costs, before = model.on(design), times(design)
    macs = np.array([float(p.m * p.n * p.k) for p in (item.work.products[0] for item in made)])
    moved = np.array([float(item.read_bytes + item.write_bytes) for item in made])
    on_arrays = costs.macs > 0
    np.testing.assert_allclose(2 * costs.macs + costs.lane_ops, 2 * macs, rtol=1e-12)
    peak = np.where(
        on_arrays,
        design.macs * design.sustained_clock_hz,
        design.num_vector_cores * design.vector_lanes * design.sustained_clock_hz / 2,
    )
    assert (before >= macs / peak * (1 - 1e-9)).all()
    assert (before >= moved / design.sustained_hbm_bytes_per_s * (1 - 1e-9)).all()
    for name in ("num_tensor_cores", "num_vector_cores", "sram_bytes", "hbm_stacks", "hbm_stack_bytes_per_s"):
        larger = replace(design, **{name: 2 * getattr(design, name)})
        assert (times(larger) <= before * (1 + 1e-12)).all(), name
