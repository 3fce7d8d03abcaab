"""Costs of items on accelerators: worked examples, options, refusals."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from worklode.cost import model as cost_model
from worklode.cost import tensor_core, vector_core
from worklode.cost.model import CostModel, accumulator_rows, operator_costs
from worklode.cost.operator_costs import OperatorCosts
from worklode.cost.options import core_counts
from worklode.errors import InternalError, SpecError
from worklode.graph.work import Collective, Communication, PatchOperand, Product, Work, WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.problem import ScheduleProblem
from worklode.schedule.verify import verify

DESIGN = Accelerator(
    num_tensor_cores=4,
    tensor_core_rows=128,
    tensor_core_cols=128,
    num_vector_cores=2,
    vector_lanes=1024,
    sram_bytes=32 * 2**20,
    hbm_stacks=2,
    hbm_stack_bytes=8 * 2**30,
    hbm_stack_bytes_per_s=350e9,
    clock_hz=1e9,
    node_nm=16,
)


def product(batch: int, m: int, n: int, k: int, **changes: Any) -> Product:
    sizes = {"a_elements": batch * m * k, "b_elements": batch * k * n, "c_elements": batch * m * n}
    return Product(**{"batch": batch, "m": m, "n": n, "k": k, "element_bytes": 2, **sizes, **changes})


def matmul(batch: int, m: int, n: int, k: int, **work: Any) -> WorkItem:
    p = product(batch, m, n, k)
    moved = 2 * (p.a_elements + p.b_elements), 2 * p.c_elements
    return WorkItem(work=Work(products=(p,), **work), read_bytes=moved[0], write_bytes=moved[1])


def elementwise(elements: int, **work: Any) -> WorkItem:
    counts = {"simple_ops": elements, "vector_elements": 2 * elements, **work}
    return WorkItem(work=Work(**counts), read_bytes=2 * elements, write_bytes=2 * elements)


def attention(groups: int, seq: int, dim: int, masked: float = 0.0) -> WorkItem:
    scores = product(groups, seq, seq, dim, masked_fraction=masked)
    context = product(groups, seq, dim, seq, masked_fraction=masked)
    seen = round(groups * seq * seq * (1 - masked))
    work = Work(
        products=(scores, context), chained=True, simple_ops=4 * seen, special_ops=seen, vector_elements=2 * seen
    )
    return WorkItem(work=work, read_bytes=2 * 3 * groups * seq * dim, write_bytes=2 * groups * seq * dim)


def options(costs: OperatorCosts, item: int) -> slice:
    return slice(int(costs.option_start[item]), int(costs.option_start[item + 1]))


def test_a_matrix_product_worked_by_hand() -> None:
    costs = operator_costs([matmul(1, 4096, 1024, 1024)], DESIGN)
    fill = 2 * 128 + 128 - 2
    folds = 8 * 8
    np.testing.assert_array_equal(costs.tensor_cores, [1, 2, 3, 4])
    np.testing.assert_array_equal(costs.vector_cores, 0)
    # Three cores share 4096 rows: 1366 each.
    cycles = [folds * 4096 + fill, folds * 2048 + fill, folds * 1366 + fill, folds * 1024 + fill]
    np.testing.assert_allclose(costs.compute_s, np.array(cycles) / 1e9)
    # The weights (2 MiB) fit into half of even a quarter of the SRAM beside strips of the rest: nothing is read twice.
    np.testing.assert_array_equal(costs.hbm_bytes, 2 * (4096 * 1024 * 2 + 1024 * 1024))
    assert costs.macs[0] == 4096 * 1024 * 1024
    assert costs.lane_ops[0] == 0
    assert costs.tensor_core_s[0] == pytest.approx(cycles[0] / 1e9)


def test_vector_work_holds_vector_cores_only() -> None:
    costs = operator_costs([elementwise(2**20, special_ops=2**20)], DESIGN)
    np.testing.assert_array_equal(costs.tensor_cores, 0)
    np.testing.assert_array_equal(costs.vector_cores, [1, 2])
    np.testing.assert_allclose(costs.compute_s, [5 * 1024 / 1e9, 5 * 512 / 1e9])
    assert costs.lane_ops[0] == 2 * 2**20
    assert costs.tensor_core_s[0] == 0
    assert costs.vector_core_s[0] == pytest.approx(5 * 1024 / 1e9)
    assert costs.sram_bytes[0] == 2 * 2**20 * 2


def test_an_epilogue_overlaps_all_but_one_step() -> None:
    plain, fused = matmul(1, 4096, 1024, 1024), matmul(1, 4096, 1024, 1024, simple_ops=4096 * 1024)
    costs = operator_costs([plain, fused], DESIGN)
    alone, beside = options(costs, 0), options(costs, 1)
    # 1 of 2 vector cores beside up to 2 of 4 tensor cores.
    np.testing.assert_array_equal(costs.vector_cores[beside], [1, 1, 2, 2])
    lanes_s = 4096 / 1e9
    # The longer of the two, and one of 64 steps (4 Mi results in blocks of 64 Ki) of the shorter.
    assert costs.compute_s[beside][0] == pytest.approx(costs.compute_s[alone][0] + lanes_s / 64, abs=1e-9)


def test_work_without_compute_holds_no_core_and_takes_hbm_time() -> None:
    copy = WorkItem(work=Work(), read_bytes=100, write_bytes=200)
    nothing = WorkItem(work=Work(), read_bytes=0, write_bytes=0)
    costs = operator_costs([copy, nothing], DESIGN)
    np.testing.assert_array_equal(costs.compute_s, 0)
    np.testing.assert_array_equal(costs.tensor_cores + costs.vector_cores, 0)
    np.testing.assert_array_equal(costs.hbm_bytes, [300, 0])


def test_empty_products_and_no_items() -> None:
    empty = WorkItem(work=Work(products=(product(1, 0, 8, 8),)), read_bytes=128, write_bytes=0)
    costs = operator_costs([empty], DESIGN)
    assert (costs.compute_s[0], costs.hbm_bytes[0], costs.macs[0]) == (0, 128, 0)
    assert len(operator_costs([], DESIGN).compute_s) == 0


def test_one_core_mode_gives_one_core_of_each_type() -> None:
    items = [matmul(1, 512, 512, 512), matmul(1, 512, 512, 512, simple_ops=5), elementwise(1000)]
    costs = operator_costs(items, DESIGN, mode="one-core")
    np.testing.assert_array_equal(costs.tensor_cores, [1, 1, 0])
    np.testing.assert_array_equal(costs.vector_cores, [0, 1, 1])


def test_numbers_of_cores() -> None:
    assert core_counts(1) == (1,)
    assert core_counts(13) == (1, 2, 3, 4, 6, 8, 12, 13)
    assert core_counts(0) == ()


def test_the_last_option_stays_where_its_memory_saves_traffic() -> None:
    # One row and few columns: a second core gains nothing, but the whole SRAM holds the group to be reduced.
    big = elementwise(8, reduction_bytes=20 * 2**20, serial_steps=10_000, simple_ops=1, vector_elements=0)
    costs = operator_costs([big], DESIGN)
    np.testing.assert_array_equal(costs.vector_cores, [1, 2])
    assert costs.compute_s[0] == costs.compute_s[1]
    np.testing.assert_array_equal(costs.hbm_bytes, [48, 32])


def test_a_group_that_does_not_fit_is_read_twice() -> None:
    small = replace(DESIGN, sram_bytes=2**20)
    row = elementwise(2**20, reduction_bytes=2**21)
    assert operator_costs([row], DESIGN).hbm_bytes[-1] == 4 * 2**20
    assert operator_costs([row], small).hbm_bytes[-1] == 6 * 2**20
    fused = matmul(1, 1024, 1024, 1024, reduction_bytes=2**21, simple_ops=1)
    spilled = (
        operator_costs([fused], small).hbm_bytes[-1]
        - operator_costs([matmul(1, 1024, 1024, 1024, simple_ops=1)], small).hbm_bytes[-1]
    )
    assert spilled == 2 * 2 * 1024 * 1024


def test_scattered_rows_move_whole_bursts() -> None:
    lookup = WorkItem(
        work=Work(simple_ops=10, random_accesses=1000, random_access_bytes=100), read_bytes=100_000, write_bytes=0
    )
    assert operator_costs([lookup], DESIGN).hbm_bytes[0] == 128_000


def test_attention_keeps_scores_on_chip_and_skips_masked_tiles() -> None:
    full, causal = attention(96, 2048, 128), attention(96, 2048, 128, masked=0.5 * 2047 / 2048)
    costs = operator_costs([full, causal], DESIGN)
    first, second = options(costs, 0), options(costs, 1)
    assert costs.macs[0] == 2 * 96 * 2048 * 2048 * 128
    # 16 x 16 tiles, 17/32 of them on or below the diagonal.
    assert costs.macs[1] / costs.macs[0] == pytest.approx(17 / 32, rel=1e-3)
    assert costs.lane_ops[1] / costs.lane_ops[0] == pytest.approx(17 / 32, rel=1e-3)
    assert costs.compute_s[second][-1] < 0.56 * costs.compute_s[first][-1]
    np.testing.assert_array_equal(costs.hbm_bytes[second], 8 * 96 * 2048 * 128)


def test_long_attention_reads_keys_again_where_memory_is_short() -> None:
    costs = operator_costs([attention(8, 65536, 128)], replace(DESIGN, sram_bytes=2**22))
    assert costs.hbm_bytes[-1] > 1.5 * 8 * 8 * 65536 * 128
    assert (np.diff(costs.hbm_bytes) <= 0).all()


def test_operands_shared_by_a_batch_are_one_wider_product() -> None:
    shared_b = product(16, 8, 256, 256, b_elements=256 * 256)
    shared_a = product(16, 256, 8, 256, a_elements=256 * 256)
    wide = product(1, 128, 256, 256)
    items = [WorkItem(work=Work(products=(p,)), read_bytes=1, write_bytes=1) for p in (shared_b, shared_a, wide)]
    costs = operator_costs(items, DESIGN)
    times = [costs.compute_s[options(costs, item)].tolist() for item in range(3)]
    assert times[0] == times[1] == times[2]
    assert costs.macs[0] == costs.macs[2]


def test_depthwise_convolutions_pack() -> None:
    def depthwise(groups: int) -> WorkItem:
        p = product(groups, 112 * 112, 1, 9, a_elements=groups * 112 * 112, patch=PatchOperand.A, window=9)
        return WorkItem(work=Work(products=(p,)), read_bytes=1, write_bytes=1)

    # One lane, so that the array is faster.
    slow_lanes = replace(DESIGN, num_tensor_cores=1, num_vector_cores=1, vector_lanes=1)
    costs = operator_costs([depthwise(1), depthwise(140)], slow_lanes)
    # 128 // 9 = 14 channels share a pass: 140 take ten passes.
    streamed = 112 * 112
    fill = 2 * 128 + 128 - 2
    assert costs.compute_s[1] * 1e9 == pytest.approx(10 * streamed + fill)


def test_a_model_is_not_changed_by_what_it_saw_before() -> None:
    items = [matmul(1, 777, 333, 999), attention(12, 384, 64, masked=0.49), elementwise(5000, reduction_bytes=64)]
    designs = [replace(DESIGN, num_tensor_cores=p, tensor_core_rows=r) for p in (7, 2, 64, 1) for r in (32, 128)]
    model = CostModel(items)
    for design in designs:
        kept, fresh = model.on(design), operator_costs(items, design)
        for name in OperatorCosts.__slots__:
            np.testing.assert_array_equal(getattr(kept, name), getattr(fresh, name))


def test_splits_are_told() -> None:
    model = CostModel([matmul(1, 64, 64, 100_000)])
    (split,) = model.splits(0, DESIGN, 4)
    assert split.k_parts == 4
    assert split.batch_parts == split.m_parts == split.n_parts == 1


def test_bounds_of_many_designs_at_once() -> None:
    items = [matmul(1, 777, 333, 999), attention(12, 384, 64, masked=0.49), elementwise(5000, reduction_bytes=64)]
    items += [matmul(24, 50, 4, 9, simple_ops=100), matmul(24, 50, 40, 72, simple_ops=100)]
    model = CostModel(items)
    counts = np.array([3, 1, 2, 5, 4])
    rows, lanes = np.array([8, 32, 128]), np.array([16, 1024, 128])
    designs = SimpleNamespace(
        tensor_core_rows=rows,
        tensor_core_cols=64,
        vector_lanes=lanes,
        sram_bytes=np.array([2**18, 2**22, 2**25]),
        clock_hz=1e9,
        clock_share=1.0,
    )
    bounds = model.bounds(cast(Any, designs), counts)
    for d in range(3):
        design = replace(
            DESIGN,
            tensor_core_rows=int(rows[d]),
            tensor_core_cols=64,
            vector_lanes=int(lanes[d]),
            sram_bytes=int(designs.sram_bytes[d]),
            num_tensor_cores=16,
            num_vector_cores=8,
        )
        costs = model.on(design)
        assert bounds.tensor_core_s[d] <= costs.tensor_core_s @ counts <= 1.5 * bounds.tensor_core_s[d]
        assert bounds.vector_core_s[d] <= costs.vector_core_s @ counts
        least = np.minimum.reduceat(costs.hbm_bytes, costs.option_start[:-1])
        assert bounds.hbm_bytes[d] == pytest.approx(least @ counts)


def test_blocks_of_results_follow_the_rule_of_buffers() -> None:
    assert accumulator_rows(DESIGN) == 128
    assert accumulator_rows(replace(DESIGN, tensor_core_cols=256)) == 256
    # Four times the rule's 2·128·(128·2 + 128·4) bytes.
    assert accumulator_rows(replace(DESIGN, tensor_core_buffer_bytes=4 * 2 * 128 * 768)) == 512
    small, large = DESIGN, replace(DESIGN, tensor_core_buffer_bytes=4 * 2 * 128 * 768)
    item = [matmul(1, 4096, 1024, 1024)]
    assert operator_costs(item, large).sram_bytes[0] < operator_costs(item, small).sram_bytes[0]


def test_missing_cores_are_refused_all_at_once() -> None:
    bare = replace(DESIGN, num_tensor_cores=0, num_vector_cores=0, clock_hz=float("nan"))
    with pytest.raises(SpecError) as caught:
        operator_costs([matmul(1, 8, 8, 8), elementwise(8)], bare)
    assert [fault.path for fault in caught.value.faults] == ["num_tensor_cores", "num_vector_cores", "clock_hz"]
    assert str(caught.value.faults[0]) == (
        "accelerator: num_tensor_cores: the workload has matrix products (found 0); allowed: 1 or more"
    )
    operator_costs([elementwise(8)], replace(DESIGN, num_tensor_cores=0))


@pytest.mark.parametrize(
    "item",
    [
        WorkItem(work=Work(), read_bytes=-1, write_bytes=0),
        WorkItem(work=Work(simple_ops=-5), read_bytes=0, write_bytes=0),
        WorkItem(work=Work(products=(product(1, 4, 4, 4, masked_fraction=1.0),)), read_bytes=0, write_bytes=0),
        WorkItem(work=Work(products=(product(1, 4, 4, 4, a_elements=0),)), read_bytes=0, write_bytes=0),
    ],
)
def test_impossible_items_are_refused(item: WorkItem) -> None:
    with pytest.raises(InternalError):
        operator_costs([item], DESIGN)


@pytest.mark.parametrize(
    ("factor", "words"), [(0.5, "peak of the tensor cores"), (np.nan, "positive"), (0, "positive")]
)
def test_results_above_the_peak_are_refused(monkeypatch: pytest.MonkeyPatch, factor: float, words: str) -> None:
    honest = tensor_core.split_table

    def flattering(*args: Any) -> None:
        honest(*args)
        args[-3][:, 1:] *= factor

    monkeypatch.setattr(cost_model, "split_table", flattering)
    with pytest.raises(InternalError, match=words):
        operator_costs([matmul(1, 4096, 4096, 4096)], DESIGN)


def test_lanes_above_their_peak_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = vector_core.vector_table

    def flattering(*args: Any) -> None:
        honest(*args)
        args[-1][:] *= 0.5

    monkeypatch.setattr(cost_model, "vector_table", flattering)
    with pytest.raises(InternalError, match="peak of the vector cores"):
        operator_costs([elementwise(2**20)], DESIGN)


def collective(size: int, devices: int = 8, moved: int = 0) -> WorkItem:
    communication = Communication(collective=Collective.ALL_REDUCE, bytes=size, axis="tensor", devices=devices)
    return WorkItem(work=Work(communication=communication), read_bytes=moved, write_bytes=moved)


@pytest.mark.parametrize("family", ["systolic", "simt"])
def test_a_collective_holds_no_core_and_lasts_as_the_network_says(family: str) -> None:
    items = [collective(64), matmul(1, 256, 256, 256), collective(128, moved=512), elementwise(4096)]
    design = replace(DESIGN, family=family, operator_start_s=1e-6, operator_fill_s=1e-6)
    alone = operator_costs([items[1], items[3]], design)
    by_call = operator_costs(items, design, communication_s=lambda c: c.bytes * 1e-6)
    by_array = operator_costs(items, design, communication_s=np.array([64e-6, np.nan, 128e-6, np.nan]))
    for costs in (by_call, by_array):
        for item, moved in ((0, 0), (2, 1024)):
            only = options(costs, item)
            assert only.stop - only.start == 1
            assert costs.tensor_cores[only] == costs.vector_cores[only] == 0
            assert costs.compute_s[only] == pytest.approx(items[item].work.communication.bytes * 1e-6)  # type: ignore[union-attr]
            assert costs.hbm_bytes[only] == moved
        np.testing.assert_array_equal(costs.compute_s[options(costs, 1)], alone.compute_s[options(alone, 0)])
        np.testing.assert_array_equal(costs.compute_s[options(costs, 3)], alone.compute_s[options(alone, 1)])
        assert costs.tensor_core_s[0] == costs.vector_core_s[0] == 0


def test_collectives_without_a_network_are_all_named() -> None:
    with pytest.raises(SpecError) as caught:
        operator_costs([collective(64), matmul(1, 64, 64, 64), collective(128)], DESIGN)
    assert [fault.value for fault in caught.value.faults] == [
        "all_reduce of 64 bytes over 8 devices of axis tensor",
        "all_reduce of 128 bytes over 8 devices of axis tensor",
    ]


@pytest.mark.parametrize("time_s", [-1.0, np.nan, np.inf])
def test_an_impossible_time_of_a_collective_is_a_defect(time_s: float) -> None:
    with pytest.raises(InternalError, match="all_reduce of 64 bytes"):
        operator_costs([collective(64)], DESIGN, communication_s=lambda _: time_s)


def test_a_collective_that_computes_is_a_defect() -> None:
    item = collective(64)
    with pytest.raises(InternalError, match="a collective that computes"):
        CostModel([replace(item, work=replace(item.work, simple_ops=1))])


def test_the_scheduler_overlaps_a_collective_with_computation() -> None:
    """A product beside an all-reduce of half its time: the makespan is the product's alone."""
    items = [matmul(1, 4096, 4096, 4096), collective(64)]
    product_s = operator_costs(items[:1], DESIGN).compute_s.min()
    costs = operator_costs(items, DESIGN, communication_s=lambda _: product_s / 2)
    empty = np.zeros(0, np.int64)
    problem = ScheduleProblem(
        predecessor_start=np.zeros(3, np.int64),
        predecessor=empty,
        successor_start=np.zeros(3, np.int64),
        successor=empty,
        item_of=np.arange(2),
        option_start=costs.option_start,
        tensor_cores=costs.tensor_cores,
        vector_cores=costs.vector_cores,
        compute_s=costs.compute_s,
        hbm_bytes=costs.hbm_bytes,
        num_tensor_cores=DESIGN.num_tensor_cores,
        num_vector_cores=DESIGN.num_vector_cores,
        hbm_bytes_per_s=DESIGN.hbm_bytes_per_s,
    )
    found = schedule(problem, segments=True)
    verify(problem, found)
    assert found.makespan_s == pytest.approx(product_s)
    np.testing.assert_allclose(found.end_s - found.start_s, [product_s, product_s / 2])


def test_what_an_interruption_adds() -> None:
    """(6) of docs/models/schedule.md by hand: small results, a small operand, a batch, lanes alone."""
    items = [matmul(1, 64, 64, 65536), matmul(1, 65536, 64, 128), matmul(8, 256, 256, 64), elementwise(1 << 20)]
    for design, fill_s in (
        (load_preset("tpuv2"), 0.0),
        (load_preset("a100-80gb"), load_preset("a100-80gb").operator_fill_s),
    ):
        costs = operator_costs(items, design)
        # Partial sums written and read; weights read again; the operand of one product of a batch; nothing.
        reload_bytes = (2 * 64 * 64 * 4, 64 * 128 * 2, 256 * 64 * 2, 0)
        array_cycles = 2 * design.tensor_core_rows + design.tensor_core_cols
        for item, again in enumerate(reload_bytes):
            for option in range(*options(costs, item).indices(len(costs.compute_s))):
                cycles = 128 + (array_cycles if costs.tensor_cores[option] else 0)
                filling_s = min(fill_s, costs.hbm_bytes[option] / design.sustained_hbm_bytes_per_s)
                expected = cycles / design.sustained_clock_hz + filling_s + again / design.sustained_hbm_bytes_per_s
                assert costs.resume_bytes[option] == again
                assert costs.resume_s[option] == pytest.approx(expected)
