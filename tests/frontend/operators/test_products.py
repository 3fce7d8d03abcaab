"""Matrix products: FLOPs against torch's counter, operand sizes, epilogues."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.frontend.operators import describe
from worklode.graph.operator import OperatorKind

from .recording import aten, call_of, counted_flops, described, dispatched, meta

size = st.integers(0, 40)
positive = st.integers(1, 40)


@given(size, size, size)
def test_mm_matches_the_flop_counter(m: int, n: int, k: int) -> None:
    a, b = meta(m, k), meta(k, n)
    description = described(aten.mm.default, a, b)
    assert description.work.flops == counted_flops(aten.mm.default, a, b)
    assert description.kind is OperatorKind.MATMUL
    assert description.read_bytes == (4 * m * k, 4 * k * n)
    assert description.write_bytes == (4 * m * n,)


@given(size, size, size, st.sampled_from([0, 1, 0.5]), st.sampled_from([1, 2]))
def test_addmm_counts_the_product_and_an_epilogue(m: int, n: int, k: int, beta: float, alpha: float) -> None:
    bias, a, b = meta(n), meta(m, k), meta(k, n)
    description = described(aten.addmm.default, bias, a, b, beta=beta, alpha=alpha)
    assert description.work.matrix_flops == counted_flops(aten.addmm.default, bias, a, b, beta=beta, alpha=alpha)
    per_result = (beta != 0) + (beta == 0.5) + (alpha == 2)
    assert description.work.simple_ops == per_result * m * n
    assert description.read_bytes[0] == (0 if beta == 0 else 4 * n)


@given(size, size, size, size)
def test_batched_products_match_the_flop_counter(batch: int, m: int, n: int, k: int) -> None:
    addend, a, b = meta(batch, m, n), meta(batch, m, k), meta(batch, k, n)
    assert described(aten.bmm.default, a, b).work.flops == counted_flops(aten.bmm.default, a, b)
    product = described(aten.baddbmm.default, addend, a, b)
    assert product.work.matrix_flops == counted_flops(aten.baddbmm.default, addend, a, b)
    assert product.work.simple_ops == batch * m * n


@given(size, size, size, size)
def test_a_sum_over_the_batch_is_one_product(batch: int, m: int, n: int, k: int) -> None:
    work = described(aten.addbmm.default, meta(m, n), meta(batch, m, k), meta(batch, k, n)).work
    assert (work.matrix_flops, work.simple_ops) == (2 * batch * m * n * k, m * n)


@given(positive, positive, positive, positive)
def test_an_operand_shared_by_the_batch_counts_once(batch: int, m: int, n: int, k: int) -> None:
    a, b = meta(batch, m, k), meta(1, k, n).expand(batch, k, n)
    description = described(aten.bmm.default, a, b)
    (product,) = description.work.products
    assert (product.a_elements, product.b_elements, product.c_elements) == (batch * m * k, k * n, batch * m * n)
    assert description.read_bytes[1] == 4 * k * n


@given(positive.map(lambda n: 16 * n), positive.map(lambda n: 16 * n), positive.map(lambda n: 16 * n))
def test_scaled_product_of_8_bit_operands(m: int, n: int, k: int) -> None:
    a = meta(m, k, dtype=torch.float8_e4m3fn)
    b = meta(n, k, dtype=torch.float8_e4m3fn).t()
    scale = meta()
    arguments = (a, b, scale, scale, None, None, torch.bfloat16)
    description = described(aten._scaled_mm.default, *arguments)
    assert description.work.matrix_flops == counted_flops(aten._scaled_mm.default, *arguments)
    assert description.work.products[0].element_bytes == 1
    assert description.work.simple_ops == 2 * m * n
    assert description.write_bytes == (2 * m * n,)


@given(st.integers(1, 300), st.integers(1, 9), positive, positive)
def test_grouped_products_add_up_whatever_the_number_of_groups(rows: int, groups: int, n: int, k: int) -> None:
    n, k = 8 * n, 8 * k
    offsets = meta(groups, dtype=torch.int32)
    tokens, experts = meta(rows, k, dtype=torch.bfloat16), meta(groups, n, k, dtype=torch.bfloat16).transpose(1, 2)
    forward = described(aten._grouped_mm.default, tokens, experts, offsets)
    assert forward.work.flops == 2 * rows * k * n
    assert sum(p.batch for p in forward.work.products) == min(groups, rows)
    assert sum(p.a_elements for p in forward.work.products) == rows * k
    gradient = meta(rows, n, dtype=torch.bfloat16)
    weight = describe(call_of(aten._grouped_mm.default, tokens.t(), gradient, offsets))
    assert sum(d.work.flops for d in weight) == 2 * rows * k * n
    assert sum(p.c_elements for p in weight[0].work.products) == min(groups, rows) * k * n


@given(positive, positive)
def test_vectors(m: int, k: int) -> None:
    assert described(aten.mv.default, meta(m, k), meta(k)).work.flops == 2 * m * k
    assert described(aten.dot.default, meta(k), meta(k)).work.simple_ops == 2 * k - 1
    added = described(aten.addmv.default, meta(m), meta(m, k), meta(k))
    assert (added.work.matrix_flops, added.work.simple_ops) == (2 * m * k, m)
    outer = described(aten.addr.default, meta(m, k), meta(m), meta(k))
    assert (outer.work.matrix_flops, outer.work.simple_ops) == (0, 2 * m * k)


Sizes = dict[str, int]


def cheapest(operands: tuple[str, str, str], result: str, sizes: Sizes) -> int:
    """Operations of contracting two operands, then the third: two per term of a sum, one where nothing is summed."""

    def step(left: set[str], right: set[str], kept: set[str]) -> int:
        return prod(sizes[d] for d in left | right) * (2 if (left | right) - kept else 1)

    found = []
    for last in range(3):
        a, b = (set(operands[i]) for i in range(3) if i != last)
        c, out = set(operands[last]), set(result)
        partial = (a | b) & (c | out)
        found.append(step(a, b, partial) + step(partial, c, out))
    return min(found)


few = st.integers(1, 9)


@settings(max_examples=30)
@given(few, few, few, few)
def test_bilinear_layer_and_its_gradients_contract_in_the_cheapest_order(b: int, i: int, j: int, o: int) -> None:
    layer = torch.nn.Bilinear(i, j, o, bias=False)
    x, y = torch.randn(b, i, requires_grad=True), torch.randn(b, j, requires_grad=True)
    calls = [c for c in dispatched(lambda: layer(x, y).sum().backward()) if c.packet == "_trilinear"]
    names = ("bi", "oij", "bj", "bo")
    sizes = {"b": b, "i": i, "j": j, "o": o}
    expected = {
        tuple(sorted(sizes[d] for d in out)): cheapest(tuple(n for n in names if n != out), out, sizes)  # type: ignore[arg-type]
        for out in names
    }
    assert len(calls) == 4
    if len(expected) == 4 and 1 not in sizes.values():
        for call in calls:
            assert describe(call)[0].work.flops == expected[tuple(sorted(call.outputs[0].shape))]


@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 3, 4)])
def test_linear_layers_of_any_rank(shape: tuple[int, ...]) -> None:
    layer = torch.nn.Linear(shape[-1], 5)
    calls = dispatched(lambda: layer(torch.randn(shape)))
    assert sum(d.work.matrix_flops for c in calls for d in describe(c)) == 2 * prod(shape) * 5
