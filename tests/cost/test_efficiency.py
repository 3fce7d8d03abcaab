"""What holds chips below their peaks: each constant acts where it should, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.cost.model import CostModel, bound_by_hbm, operator_costs
from worklode.graph.work import Product, Work, WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset

TPU = replace(load_preset("tpuv4"), name="")
GPU = replace(
    load_preset("a100-80gb"), name="", clock_share=1.0, hbm_share=1.0, operator_start_s=0.0, operator_fill_s=0.0
)


def matmul(m: int, n: int, k: int) -> WorkItem:
    product = Product(batch=1, m=m, n=n, k=k, a_elements=m * k, b_elements=k * n, c_elements=m * n, element_bytes=2)
    return WorkItem(work=Work(products=(product,)), read_bytes=2 * (m * k + k * n), write_bytes=2 * m * n)


def attention(seq: int, heads: int) -> WorkItem:
    sizes: dict[str, Any] = {"batch": heads, "element_bytes": 2}
    pairs, rows = heads * seq * seq, heads * seq * 128
    scores = Product(m=seq, n=seq, k=128, a_elements=rows, b_elements=rows, c_elements=pairs, **sizes)
    context = Product(m=seq, n=128, k=seq, a_elements=pairs, b_elements=rows, c_elements=rows, **sizes)
    work = Work(
        products=(scores, context), chained=True, simple_ops=4 * pairs, special_ops=pairs, vector_elements=2 * pairs
    )
    return WorkItem(work=work, read_bytes=6 * rows, write_bytes=2 * rows)


def alone_s(item: WorkItem, design: Accelerator) -> float:
    costs = operator_costs([item], design)
    return float(np.maximum(costs.compute_s, costs.hbm_bytes / design.sustained_hbm_bytes_per_s).min())


def test_clock_and_start_of_a_product_bound_by_cores() -> None:
    item = matmul(4096, 4096, 4096)
    ideal = alone_s(item, TPU)
    assert alone_s(item, replace(TPU, clock_share=0.5)) == pytest.approx(2 * ideal)
    assert alone_s(item, replace(TPU, operator_start_s=1e-5)) == pytest.approx(ideal + 1e-5)
    assert alone_s(item, replace(TPU, hbm_share=0.9)) == ideal


def test_bandwidth_of_a_product_bound_by_hbm() -> None:
    item = matmul(8, 8192, 8192)
    ideal = alone_s(item, TPU)
    assert ideal == pytest.approx((item.read_bytes + item.write_bytes) / TPU.hbm_bytes_per_s)
    assert alone_s(item, replace(TPU, hbm_share=0.5)) == pytest.approx(2 * ideal)


def test_transfers_show_on_a_multiprocessor() -> None:
    item = matmul(1024, 1024, 1024)
    costs = operator_costs([item], GPU)
    cores = operator_costs([item], replace(GPU, hbm_stack_bytes_per_s=1e30)).compute_s[-1]
    moving = costs.hbm_bytes[-1] / GPU.hbm_bytes_per_s
    assert costs.compute_s[-1] == pytest.approx(np.hypot(cores, moving))
    late = operator_costs([item], replace(GPU, operator_start_s=1e-3))
    assert late.compute_s[-1] == pytest.approx(np.hypot(cores, moving) + 1e-3)
    assert bound_by_hbm(late, replace(GPU, operator_start_s=1e-3))[-1] == (moving > cores)
    starved = replace(GPU, hbm_stack_bytes_per_s=1e9)
    assert bound_by_hbm(operator_costs([item], starved), starved).all()


def test_buffers_fill_before_and_empty_after() -> None:
    item = matmul(1024, 1024, 1024)
    without = operator_costs([item], GPU).compute_s[-1]
    assert operator_costs([item], replace(GPU, operator_fill_s=1e-6)).compute_s[-1] == pytest.approx(without + 1e-6)
    cores = operator_costs([item], replace(GPU, hbm_stack_bytes_per_s=1e30)).compute_s[-1]
    moving = operator_costs([item], GPU).hbm_bytes[-1] / GPU.hbm_bytes_per_s
    most = operator_costs([item], replace(GPU, operator_fill_s=1.0)).compute_s[-1]
    assert most == pytest.approx(without + min(cores, moving))


def test_softmax_and_products_take_turns_on_a_multiprocessor() -> None:
    item = attention(4096, 96)
    fast = replace(GPU, hbm_stack_bytes_per_s=1e30)
    serial = alone_s(item, fast)
    overlapped = alone_s(item, replace(fast, family="systolic", num_vector_cores=fast.num_vector_cores))
    lanes_s = 96 * 4096 * 4096 * 8 / (GPU.total_lanes * GPU.clock_hz)
    assert serial - overlapped == pytest.approx(lanes_s * (1 - 1 / 64), rel=1e-3)
    plain = replace(item, work=replace(item.work, chained=False))
    assert alone_s(plain, fast) == pytest.approx(alone_s(plain, replace(fast, family="systolic")))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000)),
    st.sampled_from(["num_tensor_cores", "num_vector_cores", "sram_bytes", "hbm_stacks"]),
    st.integers(1, 3),
)
def test_more_of_anything_never_takes_longer_on_a_multiprocessor(
    sizes: tuple[int, int, int], name: str, factor: int
) -> None:
    small = replace(load_preset("a100-80gb"), num_tensor_cores=32, num_vector_cores=8, sram_bytes=2**20, hbm_stacks=1)
    model = CostModel([matmul(*sizes)])
    more = replace(small, **{name: getattr(small, name) * factor})
    assert _best(model, more) <= _best(model, small) * (1 + 1e-12)


def _best(model: CostModel, design: Accelerator) -> float:
    costs = model.on(design)
    return float(np.maximum(costs.compute_s, costs.hbm_bytes / design.sustained_hbm_bytes_per_s).min())


def stream(elements: int, simple: int = 1) -> WorkItem:
    work = Work(simple_ops=simple * elements, vector_elements=2 * elements)
    return WorkItem(work=work, read_bytes=2 * elements, write_bytes=2 * elements)


@pytest.mark.parametrize("simple", [1, 1000])
def test_a_stream_hides_the_lesser_of_computation_and_transfers(simple: int) -> None:
    """Elements that wait for no others: max(C, H), where a reduction of the same size takes the root of the squares."""
    item = stream(10**8, simple)
    cores_s = max(simple * 10**8, 4e8 / 4) / (GPU.total_lanes * GPU.clock_hz)
    moving_s = 4e8 / GPU.hbm_bytes_per_s
    assert alone_s(item, GPU) == pytest.approx(max(cores_s, moving_s), rel=1e-6)
    assert bound_by_hbm(operator_costs([item], GPU), GPU)[-1] == (moving_s > cores_s)
    late = replace(GPU, operator_start_s=3e-6, operator_fill_s=2e-6)
    assert alone_s(item, late) == pytest.approx(max(cores_s, moving_s) + 5e-6, rel=1e-6)
    assert bound_by_hbm(operator_costs([item], late), late)[-1] == (moving_s > cores_s)
    waits = replace(item, work=replace(item.work, reduction_bytes=1024))
    assert alone_s(waits, GPU) == pytest.approx(np.hypot(cores_s, moving_s), rel=1e-3)
    assert alone_s(waits, replace(GPU, family="systolic")) == pytest.approx(max(cores_s, moving_s), rel=1e-3)


def row_reduction(rows: int, row_bytes: int) -> WorkItem:
    size = rows * row_bytes
    work = Work(simple_ops=size, vector_elements=size, reduction_bytes=row_bytes)
    return WorkItem(work=work, read_bytes=size, write_bytes=size)


def test_a_row_too_long_for_a_thread_block_is_read_twice() -> None:
    """256 KiB of registers, half of them for rows, eight rows at a time: 16 KiB each."""
    fits, longer = row_reduction(4096, 16384), row_reduction(4096, 16385)
    assert set(operator_costs([fits], GPU).hbm_bytes) == {2.0 * 4096 * 16384}
    assert set(operator_costs([longer], GPU).hbm_bytes) == {3.0 * 4096 * 16385}
    wider = replace(GPU, vector_core_buffer_bytes=2**19)
    assert set(operator_costs([longer], wider).hbm_bytes) == {2.0 * 4096 * 16385}
    # One program keeps a row in the memory all cores share.
    scratchpad = operator_costs([longer], replace(GPU, family="systolic"))
    assert scratchpad.hbm_bytes[-1] == 2.0 * 4096 * 16385
    # An input that stays in the shared memory is not fetched again, with all cores and so all of the memory.
    few = operator_costs([row_reduction(100, 100_000)], GPU)
    assert few.hbm_bytes[-1] == 2.0 * 100 * 100_000
    # Bounds do not know the family.
    assert CostModel([longer]).bounds(GPU).hbm_bytes[0] <= operator_costs([longer], GPU).hbm_bytes.min()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 200_000)),
    st.booleans(),
    st.sampled_from(["num_vector_cores", "vector_lanes", "sram_bytes", "hbm_stacks"]),
    st.integers(1, 3),
)
def test_more_of_anything_never_takes_longer_for_lanes_of_a_multiprocessor(
    sizes: tuple[int, int], reduces: bool, name: str, factor: int
) -> None:
    small = replace(load_preset("a100-80gb"), num_vector_cores=8, sram_bytes=2**20, vector_core_buffer_bytes=None)
    item = row_reduction(*sizes) if reduces else stream(sizes[0] * sizes[1])
    model = CostModel([item])
    more = replace(small, **{name: getattr(small, name) * factor})
    assert _best(model, more) <= _best(model, small) * (1 + 1e-12)
