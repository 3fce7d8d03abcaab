"""Gathers, scatters, copies, pooling and resampling: bytes and accesses against torch's own indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from worklode.frontend.call import Description
from worklode.frontend.operators import describe
from worklode.frontend.operators.pooling import adaptive_taps
from worklode.frontend.operators.resampling import separable_ops
from worklode.frontend.to_call import to_call
from worklode.graph.operator import OperatorKind

from .recording import aten, call_of, described, meta

size = st.integers(1, 12)


def accesses(description: Description) -> tuple[int, int]:
    return description.work.random_accesses, description.work.random_access_bytes


def long(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long)


# -------------------------------------------------------------------------------------------- gathers and scatters


LARGE = 20_000  # rows: tables of more than 64 KiB whatever the row


@given(st.integers(LARGE, 2 * LARGE), size, size)
def test_an_embedding_touches_the_rows_looked_up(rows: int, width: int, tokens: int) -> None:
    description = described(aten.embedding.default, meta(rows, width), meta(tokens, dtype=torch.long))
    assert description.read_bytes == (4 * width * tokens, 8 * tokens)
    assert description.write_bytes == (4 * width * tokens,)
    assert accesses(description) == (tokens, 4 * width)
    assert description.work.simple_ops == tokens * width


@given(st.integers(LARGE, 2 * LARGE), size, size)
def test_a_dense_gradient_of_an_embedding_writes_the_table_and_adds_rows(rows: int, width: int, tokens: int) -> None:
    func = aten.embedding_dense_backward.default
    description = described(func, meta(tokens, width), meta(tokens, dtype=torch.long), rows, -1, False)
    assert description.write_bytes == (4 * rows * width,)
    assert description.work.simple_ops == rows * width + tokens * width
    assert accesses(description) == (2 * tokens, 4 * width)


def test_embedding_bags_add_up_what_they_look_up() -> None:
    table, indices, offsets = torch.zeros(LARGE, 8), long(12), torch.tensor([0, 3, 6, 9])
    func = aten._embedding_bag.default
    plain = described(func, table, indices, offsets)
    weighted = described(func, table, indices, offsets, False, 0, False, torch.ones(12))
    averaged = described(func, table, indices, offsets, False, 1)
    assert plain.read_bytes[0] == 4 * 8 * 12
    assert weighted.work.simple_ops - plain.work.simple_ops == 12 * 8
    # the bookkeeping of the modes differs; the division is one per element of the bags
    bookkeeping = sum(t.elements for t in call_of(func, table, indices, offsets, False, 1).outputs[1:])
    assert averaged.work.simple_ops == 12 * 8 + 4 * 8 + bookkeeping
    gradient = aten._embedding_bag_per_sample_weights_backward.default
    result = described(gradient, torch.zeros(4, 8), table, indices, offsets, indices, 0)
    assert result.work.simple_ops == 2 * 12 * 8
    assert accesses(result) == (12, 32)


@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from((0, 1, 2)))
def test_a_sparse_gradient_of_bags_is_a_row_an_index(bags: int, width: int, mode: int) -> None:
    """It copies the bag's gradient to each index; ids become its indices unread, sizes are read for a mean."""
    indices, rows = 4 * bags, 1000
    gradient, ids, offset2bag = meta(bags, width), long(indices), long(indices)
    sizes, maxima = long(bags), torch.zeros(bags, width, dtype=torch.long)
    values = torch.zeros(indices, width)
    sparse = torch.sparse_coo_tensor(ids[None], values, (rows, width), check_invariants=False)
    arguments = (gradient, ids, long(bags), offset2bag, sizes, maxima, rows, False, mode, True, None)
    (description,) = describe(to_call(aten._embedding_bag_backward.default, arguments, {}, sparse))
    assert description.read_bytes == (4 * bags * width, 0, 0, 8 * indices, 8 * bags * (mode == 1), 0)
    assert description.write_bytes == (4 * indices * width,)
    assert description.work.simple_ops == (1 + (mode == 1)) * indices * width
    assert description.work.random_accesses == 0


@given(st.integers(0, 30), st.integers(1, 9))
def test_adding_rows_touches_those_rows(picked: int, width: int) -> None:
    """What SGD does with a sparse gradient; its rate is one multiply an element more."""
    table, ids, rows = torch.zeros(LARGE, width), long(picked), torch.zeros(picked, width)
    plain = described(aten.index_add_.default, table, 0, ids, rows)
    scaled = described(aten.index_add_.default, table, 0, ids, rows, alpha=-0.1)
    size = 4 * picked * width
    assert scaled.read_bytes == plain.read_bytes == (size, 8 * picked, size)
    assert scaled.write_bytes == plain.write_bytes == (size,)
    assert accesses(scaled) == accesses(plain) == ((2 * picked, 4 * width) if picked else (0, 0))
    assert (plain.work.simple_ops, scaled.work.simple_ops) == (picked * width, 2 * picked * width)


def test_advanced_indexing_moves_runs_behind_the_last_index() -> None:
    x = torch.zeros(5, 600, 70)
    rows = described(aten.index.Tensor, x, [torch.tensor([0, 4, 2])])
    assert accesses(rows) == (3, 4 * 42000)
    points = described(aten.index.Tensor, x, [torch.tensor([0, 4]), torch.tensor([1, 2]), torch.tensor([3, 3])])
    assert accesses(points) == (2, 4)
    middle = described(aten.index.Tensor, x, [None, torch.tensor([1, 2, 3])])
    assert accesses(middle) == (15, 4 * 70)
    picked = torch.zeros(5, 600, dtype=torch.bool)
    picked[:, 4] = True
    mask = described(aten.index.Tensor, x, [picked])
    assert accesses(mask) == (5, 4 * 70)
    assert mask.work.simple_ops == 5 * 70 + 3 * 3000


def test_a_small_slab_is_read_whole_where_that_moves_less() -> None:
    """DLRM picks the lower triangle of its interactions out of rows of 729: every burst of a row is touched."""
    x, places = torch.zeros(2048, 729, dtype=torch.bfloat16), long(351)
    inside_rows = described(aten.index_select.default, x, 1, places)
    assert accesses(inside_rows) == (0, 0)
    assert inside_rows.read_bytes[0] == 2 * x.numel()
    repeated = described(aten.embedding.default, torch.zeros(10, 64), long(1000))
    assert repeated.read_bytes[0] == 4 * 640
    few = described(aten.index_select.default, x, 1, places[:9])
    assert accesses(few) == (2048 * 9, 2)
    along_rows = described(aten.index_select.default, x, 0, places)
    assert accesses(along_rows) == (351, 1458)


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_index_put_in_place_touches_its_region(rows: int, picked: int, accumulate: bool) -> None:
    rows = 10_000 + rows
    x, values = torch.zeros(rows, 7), torch.ones(7)
    arguments = (x, [torch.arange(picked)], values, accumulate)
    inside = described(aten.index_put_.default, *arguments)
    region = 4 * 7 * picked
    assert inside.write_bytes == (region,)
    assert inside.read_bytes == (region if accumulate else 0, 8 * picked, 28)
    assert accesses(inside) == (picked * (2 if accumulate else 1), 28)
    copied = described(aten.index_put.default, *arguments)
    assert (copied.read_bytes[0], copied.write_bytes) == (4 * 7 * rows, (4 * 7 * rows,))


def test_a_scatter_of_rows_is_a_scatter_of_rows() -> None:
    """Message passing expands one index along the features: each access moves a whole row."""
    x, messages = torch.zeros(LARGE, 16), torch.ones(200, 16)
    expanded = long(200)[:, None].expand(200, 16)
    rows = described(aten.scatter_add_.default, x, 0, expanded, messages)
    assert accesses(rows) == (2 * 200, 64)
    single = described(aten.scatter_add_.default, x, 0, expanded.contiguous(), messages)
    assert accesses(single) == (2 * 200 * 16, 4)
    assert rows.work.simple_ops == single.work.simple_ops == 200 * 16
    gathered = described(aten.gather.default, x, 0, expanded)
    assert accesses(gathered) == (200, 64)


def test_the_loss_reads_one_class_of_each_row() -> None:
    logits, target = torch.randn(32, 1000), long(32)
    func = aten.nll_loss_forward.default
    description = described(func, logits, target, None, 1, -100)
    assert description.read_bytes[0] == 4 * 32
    assert accesses(description) == (32, 4)
    gradient = described(
        aten.nll_loss_backward.default, torch.tensor(1.0), logits, target, None, 1, -100, torch.tensor(32.0)
    )
    assert gradient.read_bytes[1] == 0
    assert gradient.write_bytes == (4 * 32000,)


# ------------------------------------------------------------------------------------------------------- movement


def test_views_and_allocations_are_free() -> None:
    x = torch.zeros(4, 6)
    for func, arguments in (
        (aten.view.default, (x, [24])),
        (aten.t.default, (x,)),
        (aten.expand.default, (x[:1], [4, 6])),
        (aten.slice.Tensor, (x, 0, 1, 3)),
        (aten.empty_like.default, (x,)),
        (aten.detach.default, (x,)),
    ):
        description = described(func, *arguments)
        assert description.work.flops == description.work.vector_elements == 0
        assert sum(description.read_bytes) + sum(description.write_bytes) == 0


def test_a_copy_into_a_view_touches_the_view() -> None:
    storage = torch.zeros(100, 8)
    description = described(aten.copy_.default, storage[10:20], torch.ones(8, dtype=torch.bfloat16))
    assert description.read_bytes == (0, 16)
    assert description.write_bytes == (4 * 80,)
    assert description.kind is OperatorKind.ELEMENTWISE, "the dtype changes"
    same = described(aten.copy_.default, storage[10:20], torch.ones(8))
    assert same.kind is OperatorKind.MOVEMENT


def test_constants_read_nothing() -> None:
    x = torch.zeros(5, 5)
    assert described(aten.zero_.default, x).read_bytes == (0,)
    assert described(aten.fill_.Scalar, x, 3.0).read_bytes == (0,)
    assert described(aten.fill_.Tensor, x, torch.tensor(3.0)).read_bytes == (0, 4)
    assert described(aten.zeros_like.default, x).write_bytes == (100,)
    assert described(aten.ones_like.default, x).read_bytes == (0,)
    assert described(aten.bernoulli_.float, x, 0.3).read_bytes == (0,)


def test_an_output_argument_is_not_read() -> None:
    x, y, out = (torch.zeros(5) for _ in range(3))
    assert described(aten.add.out, x, y, out=out).read_bytes == (20, 20, 0)


@given(size, size, size)
def test_cat_and_pad_move_what_they_make(a: int, b: int, width: int) -> None:
    joined = described(aten.cat.default, [meta(a, width), meta(b, width)])
    assert joined.read_bytes == (4 * a * width, 4 * b * width)
    assert joined.work.simple_ops == (a + b) * width
    padded = described(aten.constant_pad_nd.default, meta(a, b), [width, 1])
    assert padded.work.simple_ops == a * (b + width + 1)
    assert padded.read_bytes == (4 * a * b,)


def test_overlapping_windows_count_their_storage_once() -> None:
    windows = torch.zeros(100).unfold(0, 10, 1)
    description = described(aten.clone.default, windows)
    assert description.read_bytes == (400,)
    assert description.write_bytes == (4 * 91 * 10,)


# ---------------------------------------------------------------------------------------- pooling and resampling


@given(st.integers(1, 30), st.integers(1, 30))
def test_adaptive_windows_against_a_pooling_of_ones(length: int, results: int) -> None:
    """Σ over windows of 1/(1/size) is the number of taps: the mean of ones weighted back by the gradient."""
    x = torch.zeros(1, length, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.adaptive_avg_pool1d(x, results).sum().backward()
    taps = 0
    for i in range(results):
        unit = torch.zeros(1, length, dtype=torch.float64, requires_grad=True)
        torch.nn.functional.adaptive_avg_pool1d(unit, results)[0, i].backward()
        assert unit.grad is not None
        taps += int((unit.grad != 0).sum())
    assert adaptive_taps(length, results) == taps


@given(st.integers(1, 4), st.integers(1, 4), st.integers(4, 12))
def test_pooling_counts_taps_and_reads_what_windows_cover(kernel: int, stride: int, length: int) -> None:
    assume(length >= kernel)
    x = torch.rand(2, 3, length, length, dtype=torch.float64, requires_grad=True)
    pooled = torch.nn.functional.avg_pool2d(x, kernel, stride)
    pooled.sum().backward()
    assert x.grad is not None
    covered = int((x.grad != 0).sum())
    for func, per_tap, extra in (
        (aten.avg_pool2d.default, 1, 1),
        (aten.max_pool2d_with_indices.default, 2, 0),
    ):
        description = described(func, x.detach(), [kernel, kernel], [stride, stride])
        assert description.read_bytes == (8 * covered,)
        assert description.work.simple_ops == (per_tap * kernel**2 + extra) * pooled.numel()


def test_a_gradient_of_max_pooling_does_not_read_the_input() -> None:
    x = torch.randn(2, 3, 8, 8)
    values, indices = aten.max_pool2d_with_indices.default(x, [2, 2])
    arguments: tuple[Any, ...] = (values, x, [2, 2], [2, 2], [0, 0], [1, 1], False, indices)
    description = described(aten.max_pool2d_with_indices_backward.default, *arguments)
    assert description.read_bytes == (4 * 96, 0, 8 * 96)
    assert description.work.simple_ops == 96 + 384


@pytest.mark.parametrize(("taps", "expected"), [((2,), 3), ((2, 2), 9), ((2, 2, 2), 21), ((4, 4), 35)])
def test_separable_filters(taps: tuple[int, ...], expected: int) -> None:
    """Written out for two dimensions: w0·(a·p + b·q) + w1·(a·r + b·s) is six multiplies and three adds."""
    assert separable_ops(taps) == expected


def test_upsampling_is_counted_per_result() -> None:
    x = meta(2, 3, 8, 8)
    assert described(aten.upsample_bilinear2d.default, x, [16, 16], False).work.simple_ops == 9 * 2 * 3 * 256
    nearest = described(aten.upsample_nearest2d.default, x, [16, 16])
    assert nearest.kind is OperatorKind.MOVEMENT
    assert nearest.work.simple_ops == 2 * 3 * 256


# ----------------------------------------------------------------------------------------------------- no elements


@pytest.mark.parametrize(
    ("func", "arguments"),
    [
        (aten.mm.default, (meta(0, 4), meta(4, 5))),
        (aten.bmm.default, (meta(0, 2, 4), meta(0, 4, 5))),
        (aten.add.Tensor, (meta(0, 4), meta(0, 4))),
        (aten.gelu.default, (meta(0, 4),)),
        (aten.native_dropout.default, (meta(0, 4), 0.1, True)),
        (aten._softmax.default, (meta(0, 4), 1, False)),
        (aten._softmax.default, (meta(4, 0), 1, False)),
        (aten.native_layer_norm.default, (meta(0, 4), [4], meta(4), meta(4), 1e-5)),
        (aten.sum.default, (meta(0, 4),)),
        (aten.mean.dim, (meta(0, 4), [0])),
        (aten.linalg_vector_norm.default, (meta(0, 4),)),
        (aten.cumsum.default, (meta(0, 4), 1)),
        (aten.sort.default, (meta(0, 4), 1)),
        (aten.embedding.default, (meta(9, 4), meta(0, dtype=torch.long))),
        (aten.index_select.default, (meta(9, 4), 0, meta(0, dtype=torch.long))),
        (aten.cat.default, ([meta(0, 4), meta(0, 4)],)),
        (aten.clone.default, (meta(0, 4),)),
        (aten.mse_loss.default, (meta(0, 4), meta(0, 4))),
        (aten._scaled_dot_product_fused_attention_overrideable.default, (meta(0, 2, 4, 8),) * 3),
        (aten._scaled_dot_product_fused_attention_overrideable.default, (meta(2, 2, 0, 8),) * 3),
        (aten.native_group_norm.default, (meta(0, 4, 3), meta(4), meta(4), 0, 4, 3, 2, 1e-5)),
        (aten.native_batch_norm.default, (meta(0, 4, 3), meta(4), meta(4), None, None, True, 0.1, 1e-5)),
        (aten._fft_c2c.default, (meta(0, 8, dtype=torch.complex64), [1], 0, True)),
    ],
)
def test_no_elements_no_work(func: Any, arguments: tuple[Any, ...]) -> None:
    for part in describe(call_of(func, *arguments)):
        work = part.work
        assert work.flops == 0
        assert work.random_accesses == work.reduction_bytes == 0
        assert part.work.products == ()


def test_a_convolution_of_no_samples_does_nothing() -> None:
    x, weight = meta(0, 4, 6, 6), meta(8, 4, 3, 3)
    options = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    (forward,) = describe(call_of(aten.convolution.default, x, weight, None, *options))
    assert forward.work.flops == 0
    parts = describe(
        call_of(aten.convolution_backward.default, meta(0, 8, 4, 4), x, weight, None, *options, [True, True, False])
    )
    assert [part.work.flops for part in parts] == [0, 0]
