"""Matrix products: mm, bmm and their variants with an epilogue, vectors, outer products, grouped and scaled products.

FLOPs follow torch.utils.flop_counter: 2·m·n·k a product, bias not counted as matrix work but as lane operations.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    keyword,
    matrix_product,
    on_lanes,
    on_tensor_cores,
    optional_tensor,
    same_rule,
    tensor,
)
from worklode.graph.operator import OperatorKind
from worklode.graph.work import Product

MATMUL = OperatorKind.MATMUL


def _two_or_three(meta: TensorMeta) -> tuple[int, int, int]:
    """Shape as (batch, rows, columns)."""
    batch = meta.shape[0] if len(meta.shape) == 3 else 1
    return batch, meta.shape[-2], meta.shape[-1]


def plain(call: Call) -> tuple[Description, ...]:
    """`mm(A, B)`, `bmm(A, B)`: C = A·B. An operand expanded over the batch counts its distinct elements."""
    a, b = tensor(call, 0), tensor(call, 1)
    batch, m, k = _two_or_three(a)
    n = b.shape[-1]
    product = matrix_product(
        batch=batch, m=m, n=n, k=k, element_bytes=a.element_bytes, a=a.distinct_elements, b=b.distinct_elements
    )
    return on_tensor_cores(call, MATMUL, (product,))


def _scale(call: Call, name: str) -> float:
    value = keyword(call, name, 1)
    return float(value) if isinstance(value, int | float) else 1.0


def with_addend(call: Call) -> tuple[Description, ...]:
    """`addmm`, `baddbmm`, `addmv`: beta·S + alpha·A·B. Per result an add and a multiply by each of alpha, beta ≠ 1.

    With beta = 0 the addend is not read. `_addmm_activation` adds a ReLU (one compare) or the tanh GELU.
    """
    addend, a, b = tensor(call, 0), tensor(call, 1), tensor(call, 2)
    alpha, beta = _scale(call, "alpha"), _scale(call, "beta")
    if len(b.shape) == 1:
        batch, (m, k), n = 1, a.shape, 1
    else:
        batch, m, k = _two_or_three(a)
        n = b.shape[-1]
    product = matrix_product(
        batch=batch, m=m, n=n, k=k, element_bytes=a.element_bytes, a=a.distinct_elements, b=b.distinct_elements
    )
    results = batch * m * n
    per_result = Lanes((beta != 0) + (beta not in {0, 1}) + (alpha != 1))
    if call.packet.startswith("_addmm_activation"):
        per_result = per_result.plus(7, 1) if keyword(call, "use_gelu") else per_result.plus(1)
    addend_elements = addend.distinct_elements if beta != 0 else 0
    return on_tensor_cores(
        call,
        MATMUL,
        (product,),
        epilogue=per_result.times(results),
        epilogue_elements=2 * results + addend_elements if per_result != Lanes() else 0,
        reads={0: addend.bytes if beta != 0 else 0},
    )


def summed_batch(call: Call) -> tuple[Description, ...]:
    """`addbmm(S, A, B)`: beta·S + alpha·Σ A_b·B_b, one product whose reduction runs over the batch too."""
    addend, a, b = tensor(call, 0), tensor(call, 1), tensor(call, 2)
    alpha, beta = _scale(call, "alpha"), _scale(call, "beta")
    batch, m, k = a.shape
    n = b.shape[-1]
    product = matrix_product(m=m, n=n, k=batch * k, element_bytes=a.element_bytes)
    per_result = Lanes((beta != 0) + (beta not in {0, 1}) + (alpha != 1))
    return on_tensor_cores(
        call,
        MATMUL,
        (product,),
        epilogue=per_result.times(m * n),
        epilogue_elements=2 * m * n + addend.distinct_elements if per_result != Lanes() else 0,
        reads={0: addend.bytes if beta != 0 else 0},
    )


def linear(call: Call) -> tuple[Description, ...]:
    """`linear(x, W, b)` where it is not decomposed: rows(x) x out x in, one add per result for the bias."""
    x, weight, bias = tensor(call, 0), tensor(call, 1), optional_tensor(call, 2)
    n, k = weight.shape if len(weight.shape) == 2 else (1, weight.shape[0])
    m = x.elements // k if k else 0
    product = matrix_product(m=m, n=n, k=k, element_bytes=x.element_bytes, a=x.distinct_elements)
    adds = m * n if bias is not None else 0
    return on_tensor_cores(
        call,
        MATMUL,
        (product,),
        epilogue=Lanes(adds),
        epilogue_elements=2 * adds + bias.distinct_elements if bias is not None else 0,
    )


def matrix_vector(call: Call) -> tuple[Description, ...]:
    """`mv(A, x)`: a product of one column."""
    a = tensor(call, 0)
    m, k = a.shape
    return on_tensor_cores(call, MATMUL, (matrix_product(m=m, n=1, k=k, element_bytes=a.element_bytes),))


def dot(call: Call) -> tuple[Description, ...]:
    """`dot`, `vdot`: n multiplies and n - 1 adds, a reduction on the lanes."""
    n = tensor(call, 0).elements
    return on_lanes(call, OperatorKind.REDUCTION, Lanes(max(0, 2 * n - 1)))


def add_outer(call: Call) -> tuple[Description, ...]:
    """`addr(S, x, y)`: beta·S + alpha·x·yᵀ on the lanes: a multiply and an add per result, scales apart."""
    alpha, beta = _scale(call, "alpha"), _scale(call, "beta")
    addend = tensor(call, 0)
    results = tensor(call, 1).elements * tensor(call, 2).elements
    per_result = Lanes(1 + (beta != 0) + (beta not in {0, 1}) + (alpha != 1))
    return on_lanes(
        call, OperatorKind.ELEMENTWISE, per_result.times(results), reads={0: addend.bytes if beta != 0 else 0}
    )


def grouped(call: Call) -> tuple[Description, ...]:
    """`_grouped_mm(A, B, offsets)`: G products whose ragged dimension adds up to the whole, whatever the offsets.

    Experts (2-D x 3-D) share out the rows of A, their input gradient too; the weight gradient (2-D x 2-D) shares out k
    and has G results; 3-D x 2-D shares out the columns of B; 3-D x 3-D is a batched product. How many rows a group gets
    is data: groups are taken as equal, the remainder as one longer row each, so FLOPs are exact for any offsets.
    `_scaled_grouped_mm` multiplies every result by two scales.
    """
    a, b = tensor(call, 0), tensor(call, 1)
    if len(a.shape) == 3 and len(b.shape) == 3:
        return plain(call)
    scaled_operands = call.packet.startswith("_scaled")
    offsets = optional_tensor(call, 4 if scaled_operands else 2)
    groups = offsets.elements if offsets is not None else 1
    sizes = {"m": a.shape[-2], "n": b.shape[-1], "k": a.shape[-1]}
    ragged = "m" if len(b.shape) == 3 else "n" if len(a.shape) == 3 else "k"
    quotient, remainder = divmod(sizes[ragged], groups) if groups else (0, 0)
    parts = ((groups - remainder, quotient), (remainder, quotient + 1))
    products = tuple(
        matrix_product(batch=count, element_bytes=a.element_bytes, **(sizes | {ragged: size})) for count, size in parts
    )
    results = call.outputs[0].elements if scaled_operands else 0
    return on_tensor_cores(call, MATMUL, products, epilogue=Lanes(2 * results), epilogue_elements=2 * results)


def scaled(call: Call) -> tuple[Description, ...]:
    """`_scaled_mm(A, B, scale_a, scale_b, bias)`: two scale multiplies per result, one add for a bias."""
    a, b = tensor(call, 0), tensor(call, 1)
    bias = optional_tensor(call, 4)
    (m, k), n = a.shape, b.shape[-1]
    return on_tensor_cores(
        call,
        MATMUL,
        (matrix_product(m=m, n=n, k=k, element_bytes=a.element_bytes),),
        epilogue=Lanes(2 + (bias is not None)).times(m * n),
        epilogue_elements=2 * m * n + (bias.distinct_elements if bias is not None else 0),
    )


def affine_grid(call: Call) -> tuple[Description, ...]:
    """`affine_grid_generator(theta, size, ...)`: every place (x, y, 1) times theta; a place is 2 operations."""
    theta, grid = tensor(call, 0), call.outputs[0]
    batch, dims, width = theta.shape
    places = grid.elements // (batch * dims) if batch * dims else 0
    product = matrix_product(
        batch=batch, m=places, n=dims, k=width, element_bytes=theta.element_bytes, a=places * width
    )
    return on_tensor_cores(call, MATMUL, (product,), epilogue=Lanes(2 * places), epilogue_elements=places)


def trilinear(call: Call) -> tuple[Description, ...]:
    """`_trilinear(x1, x2, x3)` of `nn.Bilinear` and its gradients: Σ x1·x2·x3 over the summed dimensions.

    Two operands are contracted first, the pair whose two steps together multiply least; a step that sums over nothing
    is a multiply on the lanes. FLOPs of this operator are not in torch's counter.
    """
    operands = tuple(_expanded(call, index) for index in range(3))
    summed = set(_dimensions(call.args[6]))
    orders = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
    steps = min((_two_steps(operands, order, summed) for order in orders), key=lambda s: sum(map(_step_ops, s)))
    element_bytes = tensor(call, 0).element_bytes
    products = tuple(replace(p, element_bytes=element_bytes) for p in steps if p.k > 1)
    multiplied = sum(map(_step_ops, (p for p in steps if p.k <= 1)))
    return on_tensor_cores(call, MATMUL, products, epilogue=Lanes(multiplied), epilogue_elements=3 * multiplied)


Sizes = dict[int, int]


def _dimensions(value: object) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    return tuple(int(d) for d in value)


def _expanded(call: Call, index: int) -> Sizes:
    """Dimensions an operand of `_trilinear` really has, by their number after expansion."""
    shape = tensor(call, index).shape
    missing = _dimensions(call.args[3 + index])
    present = (d for d in range(len(shape) + len(missing)) if d not in missing)
    return dict(zip(present, shape, strict=True))


def _step_ops(step: Product) -> int:
    """Operations of a contraction: a multiply and an add per term, or a multiply alone."""
    return step.flops if step.k > 1 else step.flops // 2


def _two_steps(operands: tuple[Sizes, ...], order: tuple[int, int, int], summed: set[int]) -> tuple[Product, Product]:
    """Products of contracting two operands and then the third."""
    first, second, third = (operands[i] for i in order)
    step, partial = _contraction(first, second, {d for d in summed if d not in third})
    last, _ = _contraction(partial, third, summed)
    return step, last


def _contraction(left: Sizes, right: Sizes, summed: set[int]) -> tuple[Product, Sizes]:
    """One contraction as a batched product, and the dimensions of its result."""
    shared = left.keys() & right.keys()
    sizes = left | right
    batch = prod(sizes[d] for d in shared - summed)
    product = matrix_product(
        batch=batch,
        m=prod(left[d] for d in left.keys() - shared),
        n=prod(right[d] for d in right.keys() - shared),
        k=prod(sizes[d] for d in shared & summed),
        element_bytes=1,
    )
    return product, {d: size for d, size in sizes.items() if d not in summed or d not in shared}


RULES: dict[str, Rule] = {
    **same_rule(plain, "mm", "bmm", "_int_mm"),
    **same_rule(with_addend, "addmm", "baddbmm", "addmv", "_addmm_activation"),
    "addbmm": summed_batch,
    "linear": linear,
    "mv": matrix_vector,
    **same_rule(dot, "dot", "vdot"),
    "addr": add_outer,
    **same_rule(grouped, "_grouped_mm", "_scaled_grouped_mm"),
    "_scaled_mm": scaled,
    "_trilinear": trilinear,
    "affine_grid_generator": affine_grid,
}
