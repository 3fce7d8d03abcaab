"""Reductions, scans, sorts and transforms: closed counts against slow ones."""

from __future__ import annotations

from math import log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worklode.frontend.operators.rule import ceil_log2
from worklode.graph.operator import OperatorKind

from .recording import aten, described, meta

size = st.integers(1, 40)


def tree_depth(leaves: int) -> int:
    """Rounds until pairwise adding leaves one value."""
    rounds = 0
    while leaves > 1:
        leaves, rounds = (leaves + 1) // 2, rounds + 1
    return rounds


@given(st.integers(0, 5000))
def test_depth_of_a_tree(leaves: int) -> None:
    assert ceil_log2(leaves) == tree_depth(leaves)


@given(size, size, size)
def test_sums_add_all_but_the_first_of_each_group(a: int, b: int, c: int) -> None:
    description = described(aten.sum.dim_IntList, meta(a, b, c), [1])
    assert description.work.simple_ops == a * c * (b - 1)
    assert description.work.serial_steps == tree_depth(b)
    assert description.work.reduction_bytes == 0
    assert described(aten.sum.default, meta(a, b, c)).work.simple_ops == a * b * c - 1


@given(size, size)
def test_mean_norm_and_extremes(rows: int, cols: int) -> None:
    x, n = meta(rows, cols), rows * cols
    assert described(aten.mean.dim, x, [1]).work.simple_ops == n + rows
    norm = described(aten.linalg_vector_norm.default, x, 2, [1]).work
    assert (norm.simple_ops, norm.special_ops) == (2 * n, rows)
    assert described(aten.amax.default, x, [1]).work.simple_ops == n
    assert described(aten.max.dim, x, 1).work.simple_ops == 2 * n
    lse = described(aten.logsumexp.default, x, [1]).work
    assert (lse.simple_ops, lse.special_ops) == (3 * n + rows, n + rows)
    assert described(aten.max.other, x, x).kind is OperatorKind.ELEMENTWISE


@given(size, size)
def test_scans_are_work_efficient(rows: int, cols: int) -> None:
    work = described(aten.cumsum.default, meta(rows, cols), 1).work
    assert (work.simple_ops, work.serial_steps) == (2 * rows * cols, 2 * tree_depth(cols))
    assert described(aten.cummax.default, meta(rows, cols), 1).work.simple_ops == 4 * rows * cols


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32, torch.int64])
def test_radix_sort_passes_over_its_digits(dtype: torch.dtype) -> None:
    passes = dtype.itemsize
    work = described(aten.sort.default, meta(6, 50, dtype=dtype), 1).work
    assert (work.simple_ops, work.serial_steps) == (5 * passes * 300, passes)
    top = described(aten.topk.default, meta(6, 50, dtype=dtype), 7, 1).work
    assert top.simple_ops == 3 * passes * 300 + 5 * passes * 42


@given(st.integers(1, 12), size)
def test_fourier_transforms_of_powers_of_two(exponent: int, rows: int) -> None:
    """Butterflies counted one by one: N/2 in each of log2 N stages, ten operations each."""
    n = 2**exponent
    butterflies = sum(n // 2 for _ in range(exponent))
    work = described(aten._fft_c2c.default, meta(rows, n, dtype=torch.complex64), [1], 0, True).work
    assert work.simple_ops == 10 * butterflies * rows
    assert work.reduction_bytes == 8 * n
    real = described(aten._fft_r2c.default, meta(rows, n), [1], 0, True).work
    assert real.simple_ops == 5 * butterflies * rows


@given(st.integers(2, 60), st.integers(2, 60))
def test_fourier_transforms_of_two_dimensions(a: int, b: int) -> None:
    work = described(aten._fft_c2c.default, meta(a, b, dtype=torch.complex64), [0, 1], 0, True).work
    expected = 5 * a * b * (log2(a) + log2(b))
    assert expected <= work.simple_ops < expected + 1


def test_complex_arithmetic_counts_its_real_operations() -> None:
    x, y = meta(7, dtype=torch.complex64), meta(7, dtype=torch.complex64)
    assert described(aten.mul.Tensor, x, y).work.simple_ops == 6 * 7
    assert described(aten.mul.Tensor, x, meta(7)).work.simple_ops == 2 * 7
    assert described(aten.add.Tensor, x, y).work.simple_ops == 2 * 7
    magnitude = described(aten.abs.default, x).work
    assert (magnitude.simple_ops, magnitude.special_ops) == (3 * 7, 7)


@given(st.integers(1, 1000), size)
def test_binary_search(boundaries: int, values: int) -> None:
    work = described(aten.bucketize.Tensor, meta(values), meta(boundaries)).work
    steps, places = 0, boundaries + 1
    while places > 1:
        places, steps = (places + 1) // 2, steps + 1
    assert work.simple_ops == 3 * steps * values
