"""Narrow products on vector cores: worked by hand, chosen only where they are faster, counted as lane operations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from tests.property.test_cost import alone_s, designs, items

from worklode.cost.item_arrays import LANE_OPS_PER_MAC, NARROW_EDGE
from worklode.cost.model import CostModel, operator_costs
from worklode.cost.vector_core import vector_cycles
from worklode.graph.work import PatchOperand, Product, Work, WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset, preset_names

TPU = load_preset("tpuv2")
# A depthwise 3 x 3 convolution of 96 channels and eight images of 112 x 112.
CHANNELS, PIXELS, TAPS = 96, 8 * 112 * 112, 9


def plain(batch: int, m: int, n: int, k: int, element_bytes: int = 2) -> Product:
    a, b, c = batch * m * k, batch * k * n, batch * m * n
    return Product(batch=batch, m=m, n=n, k=k, a_elements=a, b_elements=b, c_elements=c, element_bytes=element_bytes)


def alone(product: Product, work: Work | None = None) -> WorkItem:
    """An item without transfers, so that times are those of the cores."""
    return WorkItem(work=replace(work or Work(), products=(product,)), read_bytes=0, write_bytes=0)


def depthwise(gradient: str = "") -> Product:
    """Forward, or the gradient of the input or the weights."""
    m, n, k, patch = {
        "": (PIXELS, 1, TAPS, PatchOperand.A),
        "input": (PIXELS, TAPS, 1, PatchOperand.C),
        "weights": (1, TAPS, PIXELS, PatchOperand.B),
    }[gradient]
    elements = CHANNELS * PIXELS
    sizes = {
        "": (elements, CHANNELS * TAPS, elements),
        "input": (elements, CHANNELS * TAPS, elements),
        "weights": (elements, elements, CHANNELS * TAPS),
    }[gradient]
    a, b, c = sizes
    return Product(
        batch=CHANNELS,
        m=m,
        n=n,
        k=k,
        a_elements=a,
        b_elements=b,
        c_elements=c,
        element_bytes=2,
        patch=patch,
        window=TAPS,
    )


def arrays_only(model: CostModel) -> CostModel:
    """The same items, their products on the arrays whatever it takes."""
    other = CostModel(model.items, mode=model.mode)
    other._arrays = replace(other._arrays, suits_lanes=np.zeros_like(other._arrays.suits_lanes))
    return other


@pytest.mark.parametrize("gradient", ["", "input", "weights"])
def test_a_depthwise_convolution_on_lanes_worked_by_hand(gradient: str) -> None:
    product = depthwise(gradient)
    costs = operator_costs([alone(product)], TPU)
    macs = CHANNELS * PIXELS * TAPS
    np.testing.assert_array_equal(costs.tensor_cores, 0)
    np.testing.assert_array_equal(costs.vector_cores, [1, 2])
    # Multiply and add on 2048 lanes a core, and a tree over 2048 or 4096 lanes where something is added up (k > 1).
    tree = (0, 0) if product.k == 1 else (4 * 11, 4 * 12)
    cycles = [2 * macs / 2048 + tree[0], 2 * macs / 4096 + tree[1]]
    np.testing.assert_allclose(costs.compute_s, np.array(cycles) / TPU.clock_hz)
    assert costs.macs[0] == 0
    assert costs.lane_ops[0] == 2 * macs
    # Every matrix passes once, that of patches with all its taps.
    large, small = CHANNELS * PIXELS * (TAPS + 1), CHANNELS * TAPS
    np.testing.assert_array_equal(costs.sram_bytes, 2 * (large + small))
    assert costs.tensor_core_s[0] == 0
    assert costs.vector_core_s[0] == pytest.approx(cycles[0] / TPU.clock_hz)
    on_arrays = arrays_only(CostModel([alone(product)])).on(TPU)
    assert on_arrays.macs[0] == macs
    assert on_arrays.compute_s[-1] > 5 * costs.compute_s[-1]


def test_a_fused_epilogue_follows_its_product_and_the_port_bounds_both() -> None:
    elements = CHANNELS * PIXELS
    epilogue = Work(simple_ops=3 * elements, special_ops=elements)
    costs = operator_costs([alone(depthwise(), epilogue)], TPU)
    cycles = (2 * TAPS + 3 + 4) * elements / 4096 + 4 * 12
    assert costs.compute_s[-1] == pytest.approx(cycles / TPU.clock_hz)
    assert costs.lane_ops[0] == (2 * TAPS + 3 + 1) * elements
    streaming = Work(simple_ops=elements, vector_elements=100 * elements)
    costs = operator_costs([alone(depthwise(), streaming)], TPU)
    moved = 2 * (110 * elements + CHANNELS * TAPS)
    assert costs.compute_s[-1] == pytest.approx((np.ceil(moved / 4 / 4096) + 4 * 12) / TPU.clock_hz)


@pytest.mark.parametrize("preset", preset_names())
def test_dense_products_stay_on_arrays(preset: str) -> None:
    design = load_preset(preset)
    dense = [plain(1, 4096, 1024, 1024), plain(96, 512, 64, 512), plain(1, 8192, 64, 576)]
    costs = operator_costs([alone(product) for product in dense], design)
    assert (costs.tensor_cores > 0).all()
    np.testing.assert_array_equal(costs.macs, [p.flops / 2 for p in dense])
    np.testing.assert_array_equal(costs.lane_ops, 0)


def test_what_lanes_never_compute() -> None:
    fast_lanes = replace(TPU, num_vector_cores=1000, tensor_core_rows=1, tensor_core_cols=1, num_tensor_cores=1)
    narrow, wide = plain(4, 1, 64, 512), plain(4, NARROW_EDGE + 1, 64, 512)
    masked = replace(narrow, masked_fraction=0.25)
    chained = WorkItem(work=Work(products=(narrow, narrow), chained=True), read_bytes=0, write_bytes=0)
    partly = WorkItem(work=Work(products=(narrow, wide)), read_bytes=0, write_bytes=0)
    model = CostModel([alone(narrow), alone(wide), alone(masked), chained, partly])
    costs = model.on(fast_lanes)
    assert (costs.macs > 0).tolist() == [False, True, True, True, True]
    assert np.isfinite(model.lanes_alone_s(fast_lanes)).tolist() == [True, False, False, False, False]
    without = operator_costs([alone(narrow)], replace(TPU, num_vector_cores=0))
    assert (without.tensor_cores > 0).all()


def test_the_choice_is_made_with_all_cores() -> None:
    # One of 64 arrays streams 2^20 rows, one of two vector cores needs half as many cycles; all arrays need a 64th.
    item, many = alone(plain(1, 2**20, 8, 64)), replace(TPU, num_tensor_cores=64)
    assert operator_costs([item], many, mode="split").macs[0] == 2**29
    assert operator_costs([item], many, mode="one-core").macs[0] == 0


@settings(max_examples=150, deadline=None)
@given(items(), designs())
def test_never_slower_than_either_alone_and_bounds_hold_for_both(item: WorkItem, design: Accelerator) -> None:
    model = CostModel([item])
    costs, arrays = model.on(design), arrays_only(model).on(design)
    assert alone_s(costs, design) <= alone_s(arrays, design)
    bounds = model.bounds(design)
    for each in (costs, arrays):
        assert bounds.tensor_core_s[0] <= each.tensor_core_s[0] * (1 + 1e-9)
        assert bounds.vector_core_s[0] <= each.vector_core_s[0] * (1 + 1e-9)
    if not np.isfinite(model.lanes_alone_s(design)[0]):
        np.testing.assert_array_equal(costs.compute_s, arrays.compute_s)
        return
    # The oracle counts anew what lanes would need with all cores.
    work, products = item.work, item.work.products
    macs = sum(p.batch * p.m * p.n * p.k for p in products)
    matrices = sum(p.element_bytes * p.batch * (p.m * p.k + p.k * p.n + p.m * p.n) for p in products)
    lanes = vector_cycles(
        float(work.simple_ops + LANE_OPS_PER_MAC * macs),
        float(work.special_ops),
        float(matrices + work.vector_elements * products[0].element_bytes),
        int(work.reduction_bytes > 0 or any(p.k > 1 for p in products)),
        work.serial_steps,
        design.num_vector_cores * design.vector_lanes,
        4.0,
    )
    cycles = costs.compute_s[-1] * design.clock_hz
    assert cycles == pytest.approx(min(lanes, arrays.compute_s[-1] * design.clock_hz), rel=1e-12)
    assert (costs.macs[0] == 0) == (lanes < arrays.compute_s[-1] * design.clock_hz * (1 - 1e-15))
    one = model.lanes_alone_s(design)[0] * design.clock_hz
    assert one <= lanes * design.num_vector_cores * (1 + 1e-12)
