"""Fused attention: FLOPs against torch's counter, lane work against attention written out on counting numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worklode.frontend.call import Description
from worklode.frontend.operators.attention import visible_fraction
from worklode.graph.operator import OperatorKind

from .recording import aten, counted_flops, described, meta

size = st.integers(1, 12)
FLASH = aten._scaled_dot_product_flash_attention.default
FLASH_BACKWARD = aten._scaled_dot_product_flash_attention_backward.default
OVERRIDEABLE = aten._scaled_dot_product_fused_attention_overrideable.default
OVERRIDEABLE_BACKWARD = aten._scaled_dot_product_fused_attention_overrideable_backward.default


def qkv(batch: int, heads: int, kv_heads: int, seq_q: int, seq_k: int, dim: int) -> tuple[torch.Tensor, ...]:
    half = torch.bfloat16
    return (
        meta(batch, heads, seq_q, dim, dtype=half),
        meta(batch, kv_heads, seq_k, dim, dtype=half),
        meta(batch, kv_heads, seq_k, dim, dtype=half),
    )


def flash_backward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> tuple[object, ...]:
    result = FLASH(q, k, v, 0.0, causal)
    return (result[0], q, k, v, result[0], result[1], *result[2:6], 0.0, causal, result[6], result[7])


@given(size, size, size, size, size, st.booleans())
def test_flash_attention_matches_the_flop_counter(
    batch: int, heads: int, seq_q: int, seq_k: int, dim: int, causal: bool
) -> None:
    q, k, v = qkv(batch, heads, heads, seq_q, seq_k, 8 * dim)
    forward = described(FLASH, q, k, v, 0.0, causal)
    assert forward.work.matrix_flops == counted_flops(FLASH, q, k, v, 0.0, causal)
    arguments = flash_backward(q, k, v, causal)
    backward = described(FLASH_BACKWARD, *arguments)
    assert backward.work.matrix_flops == counted_flops(FLASH_BACKWARD, *arguments)
    assert (len(forward.work.products), len(backward.work.products)) == (2, 5)
    assert forward.work.chained
    assert backward.work.chained
    assert forward.kind is backward.kind is OperatorKind.ATTENTION


@given(size, size, size, size)
def test_efficient_and_cudnn_forms_match_the_flop_counter(batch: int, heads: int, seq: int, dim: int) -> None:
    q, k, v = qkv(batch, heads, heads, seq, seq, 8 * dim)
    for func in (
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    ):
        arguments = (q, k, v, None, True)
        assert described(func, *arguments).work.matrix_flops == counted_flops(func, *arguments)


@given(size, size, st.integers(1, 4), size, size, size)
def test_query_heads_that_share_keys_are_rows_of_one_product(
    batch: int, kv_heads: int, share: int, seq_q: int, seq_k: int, dim: int
) -> None:
    q, k, v = qkv(batch, kv_heads * share, kv_heads, seq_q, seq_k, dim)
    grouped = described(OVERRIDEABLE, q, k, v)
    scores, context = grouped.work.products
    assert (scores.batch, scores.m, scores.n, scores.k) == (batch * kv_heads, share * seq_q, seq_k, dim)
    assert (context.m, context.n, context.k) == (share * seq_q, dim, seq_k)
    assert scores.b_elements == k.numel()
    plain = qkv(batch, kv_heads * share, kv_heads * share, seq_q, seq_k, dim)
    assert grouped.work.matrix_flops == counted_flops(FLASH, *plain)


@given(st.integers(1, 40), st.integers(1, 40))
def test_visible_scores_against_a_mask(seq_q: int, seq_k: int) -> None:
    mask = torch.ones(seq_q, seq_k).tril()
    assert visible_fraction(seq_q, seq_k, causal=True) == pytest.approx(float(mask.mean()), rel=1e-6)
    assert visible_fraction(seq_q, seq_k, causal=False) == 1.0
    assert 1 - visible_fraction(seq_q, seq_q, causal=True) == pytest.approx(0.5 * (1 - 1 / seq_q))


def test_scores_stay_out_of_hbm() -> None:
    batch, heads, seq, dim = 2, 4, 512, 64
    q, k, v = qkv(batch, heads, heads, seq, seq, dim)
    forward = described(OVERRIDEABLE, q, k, v, None, 0.1, True)
    operand = 2 * batch * heads * seq * dim
    statistics = 4 * batch * heads * seq
    assert sum(forward.read_bytes) == 3 * operand
    assert operand + statistics <= sum(forward.write_bytes) <= operand + statistics + 64
    assert forward.work.products[0].masked_fraction == pytest.approx(0.5 * (1 - 1 / seq))


def lane_work(description: Description) -> tuple[int, int]:
    return description.work.simple_ops, description.work.special_ops


def test_lane_work_of_softmax_counted_by_hand() -> None:
    """One head, 3 queries, 5 keys, values of 8: per score 4 + exp; per row a log, a division, 2; 8 multiplies a row."""
    q, k, v = qkv(1, 1, 1, 3, 5, 8)
    scores, rows = 15, 3
    assert lane_work(described(OVERRIDEABLE, q, k, v)) == (4 * scores + 2 * rows + 8 * rows, scores + 2 * rows)
    # a bias is one add per score
    bias = meta(1, 1, 3, 5, dtype=torch.bfloat16)
    assert described(OVERRIDEABLE, q, k, v, bias).work.simple_ops == 5 * scores + 10 * rows


@given(size, size, size, st.booleans())
def test_dropout_inside_attention_generates_a_byte_per_visible_score(
    batch: int, heads: int, seq: int, causal: bool
) -> None:
    """Sixteen scores share the four words of a Philox block; no number becomes floating-point."""
    q, k, v = qkv(batch, heads, heads, seq, seq, 8)
    visible = batch * heads * (seq * (seq + 1) // 2 if causal else seq * seq)
    philox = -(-visible // 16) * 98

    def both(dropout: float) -> tuple[Description, Description]:
        result = OVERRIDEABLE(q, k, v, None, dropout, causal)
        tail = (result[0], result[1], result[2], result[3], seq, seq, dropout, causal, result[6], result[7])
        backward = described(OVERRIDEABLE_BACKWARD, result[0], q, k, v, None, [True, True, True, False], *tail)
        return described(OVERRIDEABLE, q, k, v, None, dropout, causal), backward

    for plain, dropped, per_score in zip(both(0.0), both(0.1), (3, 5), strict=True):
        assert dropped.work.simple_ops - plain.work.simple_ops == philox + per_score * visible
        assert dropped.work.special_ops == plain.work.special_ops
        assert dropped.work.matrix_flops == plain.work.matrix_flops


def test_gradient_of_a_bias_is_written_where_it_is_wanted() -> None:
    q, k, v = qkv(1, 2, 2, 6, 6, 8)
    bias = meta(1, 2, 6, 6, dtype=torch.bfloat16)
    result = OVERRIDEABLE(q, k, v, bias)
    tail = (result[0], result[1], result[2], result[3], 6, 6, 0.0, False, result[6], result[7])
    without, wanted = (
        described(OVERRIDEABLE_BACKWARD, result[0], q, k, v, bias, [True, True, True, last], *tail)
        for last in (False, True)
    )
    assert wanted.work.simple_ops - without.work.simple_ops == 2 * 36
    assert wanted.work.matrix_flops == without.work.matrix_flops == 10 * 2 * 36 * 8
