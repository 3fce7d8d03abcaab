"""Fused scaled dot-product attention and its gradient: products chained on chip, scores never in HBM.

FLOPs follow torch.utils.flop_counter: 2 products forward, 5 backward (the scores are recomputed), a causal mask not
discounted but told in `masked_fraction`. Lane work is that of the scores a kernel cannot skip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.fallback import fallback
from worklode.frontend.operators.random_numbers import random_bits
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    keyword,
    matrix_product,
    on_tensor_cores,
    overload,
    same_rule,
    tensor,
)
from worklode.graph.operator import OperatorKind
from worklode.graph.work import Product

# Per score: scale, compare for the row maximum, subtract it, exp, add to the row sum (Dao et al., FlashAttention,
# arXiv 2205.14135, algorithm 1; rescaling of partial rows is left out: it falls with the size of the tile).
FORWARD_SCORE = Lanes(4, 1)
# Per score: scale, subtract the log-sum-exp, exp; dP - D, times P (algorithm 4).
BACKWARD_SCORE = Lanes(4, 1)
# A mask or bias is added to the score; its gradient is one add for the sum over broadcast heads.
BIAS_SCORE = Lanes(1)
# Random bits of a dropout decision [bit]: one block of Philox decides on 16 scores, each by comparing a byte with
# `p_dropout_in_uint8_t` (Dao-AILab/flash-attention, csrc/flash_attn/src/dropout.h at 1274ec3). The memory-efficient
# kernels draw a word a score; no capture meets them, so they are not told apart.
DROPOUT_BITS = 8
# Dropout (the same file): widen the byte, compare, select P; its scale goes into the row's reciprocal.
DROPOUT_FORWARD = Lanes(3)
# Backward the decision is the sign of P: widen, compare, select; compare again and select dP - D or D
# (csrc/flash_attn/src/flash_bwd_kernel.h at 22786a1; converting P to 16 bits drops the negative ones).
DROPOUT_BACKWARD = Lanes(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Sizes of an attention: `groups` = batch·kv heads, `rows` = queries of a group (all heads that share its keys)."""

    groups: int
    rows: int
    seq_q: int
    seq_k: int
    dim_qk: int
    dim_v: int
    element_bytes: int

    @property
    def scores(self) -> int:
        """Scores of the whole call."""
        return self.groups * self.rows * self.seq_k


def visible_fraction(seq_q: int, seq_k: int, *, causal: bool) -> float:
    """Share of the scores on or below the diagonal from the top left; (S + 1)/(2·S) where square, 1 without a mask."""
    if not causal or seq_q * seq_k == 0:
        return 1.0
    triangle = min(seq_q, seq_k)
    return (triangle * (triangle + 1) / 2 + (seq_q - triangle) * seq_k) / (seq_q * seq_k)


def heads_of(query: TensorMeta, key: TensorMeta, value: TensorMeta) -> Heads:
    """Sizes from (batch, heads, sequence, dim) tensors; fewer key heads than query heads is grouped-query attention."""
    batch, heads, seq_q, dim_qk = query.shape
    kv_heads, seq_k = key.shape[1], key.shape[2]
    return Heads(
        groups=batch * kv_heads,
        rows=seq_q * (heads // kv_heads) if kv_heads else 0,
        seq_q=seq_q,
        seq_k=seq_k,
        dim_qk=dim_qk,
        dim_v=value.shape[-1],
        element_bytes=query.element_bytes,
    )


def forward_products(h: Heads, masked: float) -> tuple[Product, ...]:
    """Scores S = Q·Kᵀ and context O = P·V, per group of query heads that share keys and values."""
    common = {"batch": h.groups, "element_bytes": h.element_bytes}
    scores = matrix_product(m=h.rows, n=h.seq_k, k=h.dim_qk, **common)
    context = matrix_product(m=h.rows, n=h.dim_v, k=h.seq_k, **common)
    return tuple(replace(p, masked_fraction=masked) for p in (scores, context))


def backward_products(h: Heads, masked: float) -> tuple[Product, ...]:
    """S = Q·Kᵀ again, dP = dO·Vᵀ, dV = Pᵀ·dO, dQ = dS·K, dK = dSᵀ·Q."""
    common = {"batch": h.groups, "element_bytes": h.element_bytes}
    products = (
        matrix_product(m=h.rows, n=h.seq_k, k=h.dim_qk, **common),
        matrix_product(m=h.rows, n=h.seq_k, k=h.dim_v, **common),
        matrix_product(m=h.seq_k, n=h.dim_v, k=h.rows, **common),
        matrix_product(m=h.rows, n=h.dim_qk, k=h.seq_k, **common),
        matrix_product(m=h.seq_k, n=h.dim_qk, k=h.rows, **common),
    )
    return tuple(replace(p, masked_fraction=masked) for p in products)


def forward_lanes(h: Heads, *, visible: float, bias: bool, dropout: bool) -> Lanes:
    """Softmax, mask and dropout of the scores; per row a reciprocal and log with two adds, per result one multiply."""
    scores = round(h.scores * visible)
    rows = h.groups * h.rows
    total = FORWARD_SCORE.times(scores).plus(2 * rows + rows * h.dim_v, 2 * rows)
    if bias:
        total = total.plus(*BIAS_SCORE.times(scores))
    if dropout:
        total = total.plus(*DROPOUT_FORWARD.times(scores)).plus(random_bits(scores, DROPOUT_BITS))
    return total


def backward_lanes(h: Heads, *, visible: float, bias: bool, dropout: bool, bias_gradient: bool) -> Lanes:
    """Scores and their gradients; D = rowsum(dO∘O); dQ and dK scaled by one multiply an element."""
    scores = round(h.scores * visible)
    rows = h.groups * h.rows
    total = BACKWARD_SCORE.times(scores).plus(2 * rows * h.dim_v + rows * h.dim_qk + h.groups * h.seq_k * h.dim_qk)
    if bias:
        total = total.plus(*BIAS_SCORE.times(scores))
    if bias_gradient:
        total = total.plus(*BIAS_SCORE.times(scores))
    if dropout:
        total = total.plus(*DROPOUT_BACKWARD.times(scores)).plus(random_bits(scores, DROPOUT_BITS))
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Places of the arguments of one family of attention operators; -1 where it has none.

    Attributes:
        query: of the query; key and value follow.
        bias: of the mask; `bias_keyword` where it is a keyword.
        dropout, causal: of the probability and of the flag (or custom mask type, 0 meaning none).
        bias_gradient: of the mask of gradients asked for.
        heads_last: the layout is (batch, sequence, heads, dim), or (tokens, heads, dim) packed.
    """

    query: int
    dropout: int
    causal: int
    bias: int = -1
    bias_keyword: str = ""
    bias_gradient: int = -1
    heads_last: bool = False


def _heads_first(meta: TensorMeta) -> TensorMeta:
    batch, sequence, heads, dim = meta.shape
    s = meta.strides
    return replace(meta, shape=(batch, heads, sequence, dim), strides=(s[0], s[2], s[1], s[3]))


def _sizes(call: Call, at: Arguments) -> Heads:
    metas = [tensor(call, at.query + i) for i in range(3)]
    if at.heads_last:
        # Packed sequences of different lengths are (tokens, heads, dim): lengths are data, so one sequence is assumed.
        metas = [m if len(m.shape) == 4 else replace(m, shape=(1, *m.shape), strides=(0, *m.strides)) for m in metas]
        metas = [_heads_first(m) for m in metas]
    return heads_of(metas[0], metas[1], metas[2])


def _bias(call: Call, at: Arguments) -> bool:
    value = keyword(call, at.bias_keyword) if at.bias_keyword else call.args[at.bias] if at.bias >= 0 else None
    return isinstance(value, TensorMeta) and value.elements > 0


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def forward(at: Arguments) -> Rule:
    """Rule of a forward operator with its arguments in these places."""

    def rule(call: Call) -> tuple[Description, ...]:
        if overload(call) == "quantized":  # 8-bit inference with arguments in other places
            return fallback(call)
        h = _sizes(call, at)
        visible = visible_fraction(h.seq_q, h.seq_k, causal=bool(call.args[at.causal]))
        lanes = forward_lanes(h, visible=visible, bias=_bias(call, at), dropout=_number(call.args[at.dropout]) > 0)
        # Scores in, probabilities out; results in and out to be normalised.
        streamed = 2 * round(h.scores * visible) + 2 * h.groups * h.rows * h.dim_v
        return _describe(call, forward_products(h, 1.0 - visible), lanes, streamed)

    return rule


def backward(at: Arguments) -> Rule:
    """Rule of a backward operator with its arguments in these places."""

    def rule(call: Call) -> tuple[Description, ...]:
        h = _sizes(call, at)
        visible = visible_fraction(h.seq_q, h.seq_k, causal=bool(call.args[at.causal]))
        bias = _bias(call, at)
        asked = call.args[at.bias_gradient] if at.bias_gradient >= 0 else False
        lanes = backward_lanes(
            h,
            visible=visible,
            bias=bias,
            dropout=_number(call.args[at.dropout]) > 0,
            bias_gradient=bias and bool(asked[-1] if isinstance(asked, tuple) else asked),
        )
        # S and dP in, P and dS out; O and dO in for D; dQ and dK in and out to be scaled.
        rows = h.groups * h.rows
        streamed = 4 * round(h.scores * visible) + 2 * rows * (h.dim_v + h.dim_qk) + 2 * h.groups * h.seq_k * h.dim_qk
        return _describe(call, backward_products(h, 1.0 - visible), lanes, streamed)

    return rule


def _describe(call: Call, products: tuple[Product, ...], lanes: Lanes, streamed: int) -> tuple[Description, ...]:
    return on_tensor_cores(
        call, OperatorKind.ATTENTION, products, epilogue=lanes, epilogue_elements=streamed, chained=True
    )


_PLAIN = Arguments(query=0, dropout=3, causal=4)
_MASKED = Arguments(query=0, bias=3, dropout=5, causal=6)
RULES: dict[str, Rule] = {
    "_scaled_dot_product_flash_attention": forward(_PLAIN),
    "_scaled_dot_product_flash_attention_for_cpu": forward(replace(_PLAIN, bias_keyword="attn_mask")),
    "_scaled_dot_product_fused_attention_overrideable": forward(Arguments(query=0, bias=3, dropout=4, causal=5)),
    **same_rule(forward(_MASKED), "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
    "scaled_dot_product_attention": forward(Arguments(query=0, bias=3, dropout=4, causal=5)),
    "_flash_attention_forward": forward(Arguments(query=0, dropout=7, causal=8, heads_last=True)),
    "_efficient_attention_forward": forward(Arguments(query=0, bias=3, dropout=8, causal=9, heads_last=True)),
    "_scaled_dot_product_flash_attention_backward": backward(Arguments(query=1, dropout=10, causal=11)),
    "_scaled_dot_product_flash_attention_for_cpu_backward": backward(
        Arguments(query=1, dropout=6, causal=7, bias_keyword="attn_mask")
    ),
    "_scaled_dot_product_fused_attention_overrideable_backward": backward(
        Arguments(query=1, bias=4, bias_gradient=5, dropout=12, causal=13)
    ),
    "_scaled_dot_product_efficient_attention_backward": backward(
        Arguments(query=1, bias=4, dropout=9, bias_gradient=10, causal=11)
    ),
    "_scaled_dot_product_cudnn_attention_backward": backward(Arguments(query=1, bias=8, dropout=13, causal=14)),
    "_flash_attention_backward": backward(Arguments(query=1, dropout=10, causal=11, heads_last=True)),
    "_efficient_attention_backward": backward(
        Arguments(query=1, bias=4, dropout=11, causal=14, bias_gradient=15, heads_last=True)
    ),
}
