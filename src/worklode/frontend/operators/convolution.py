"""Convolutions and their gradients as implicit GEMMs (forms in the docstring of `Product`).

FLOPs follow torch.utils.flop_counter, except the weight gradient of a grouped convolution, where it forgets to divide
by the number of groups. A tap that falls into the padding is counted, as there.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import (
    Rule,
    flag,
    integer,
    integers,
    optional_tensor,
    output_index,
    same_rule,
    tensor,
    touched_reads,
)
from worklode.graph.operator import OperatorKind
from worklode.graph.work import PatchOperand, Product, Work


@lru_cache(maxsize=4096)
def touched_positions(*, length: int, outputs: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    """How many of `length` input positions a sliding window reads: |{o·stride + t·dilation - padding} ∩ [0, length)|.

    A 1x1 convolution of stride 2 reads every second position only. Taps of one residue modulo the stride read runs
    of neighbouring multiples, so the union is that of intervals.
    """
    runs: dict[int, list[tuple[int, int]]] = {}
    for tap in range(taps):
        start, residue = divmod(tap * dilation - padding, stride)
        runs.setdefault(residue, []).append((max(start, 0), start + outputs))
    touched = 0
    for residue, intervals in runs.items():
        available = max(0, -(-(length - residue) // stride))
        reached = 0
        for start, end in sorted(intervals):
            begin, stop = max(start, reached), min(end, available)
            touched += max(0, stop - begin)
            reached = max(reached, stop)
    return touched


def _forward_product(
    *, data: TensorMeta, weight: TensorMeta, result_shape: tuple[int, ...], groups: int, touched: int
) -> Product:
    """Patches of `data` times the weight: m = N·OH·OW, n = C_out/g, k = C_in/g·KH·KW."""
    window = prod(weight.shape[2:])
    return Product(
        batch=groups,
        m=result_shape[0] * prod(result_shape[2:]),
        n=weight.shape[0] // groups,
        k=weight.shape[1] * window,
        a_elements=touched,
        b_elements=weight.distinct_elements,
        c_elements=prod(result_shape),
        element_bytes=data.element_bytes,
        patch=PatchOperand.A,
        window=window,
    )


def _column_product(*, data: TensorMeta, weight: TensorMeta, result_elements: int, groups: int) -> Product:
    """Data times the weight, summed into overlapping patches: m = N·OH·OW of the data, n = C/g·KH·KW, k = C_data/g."""
    window = prod(weight.shape[2:])
    return Product(
        batch=groups,
        m=data.shape[0] * prod(data.shape[2:]),
        n=weight.shape[1] * window,
        k=weight.shape[0] // groups,
        a_elements=data.distinct_elements,
        b_elements=weight.distinct_elements,
        c_elements=result_elements,
        element_bytes=data.element_bytes,
        patch=PatchOperand.C,
        window=window,
    )


def _weight_product(*, plain: TensorMeta, weight: TensorMeta, touched: int, groups: int) -> Product:
    """Gradient of the weight: m = C_plain/g, n = C_patches/g·KH·KW, k = N·spatial of the plain operand."""
    window = prod(weight.shape[2:])
    return Product(
        batch=groups,
        m=plain.shape[1] // groups,
        n=weight.shape[1] * window,
        k=plain.shape[0] * prod(plain.shape[2:]),
        a_elements=plain.distinct_elements,
        b_elements=touched,
        c_elements=weight.elements,
        element_bytes=plain.element_bytes,
        patch=PatchOperand.B,
        window=window,
    )


def _touched(call: Call, wide: TensorMeta, narrow: tuple[int, ...], weight: TensorMeta, first: int) -> int:
    """Elements of the wide side (the one with patches) that windows reach; `first` is the argument of the stride."""
    rank = len(weight.shape) - 2
    stride, padding, dilation = (integers(call, first + i, rank) for i in range(3))
    spatial = prod(
        touched_positions(
            length=wide.shape[2 + d],
            outputs=narrow[2 + d],
            taps=weight.shape[2 + d],
            stride=stride[d],
            padding=padding[d],
            dilation=dilation[d],
        )
        for d in range(rank)
    )
    # A product has operands, even one whose windows all lie in the padding.
    return min(wide.distinct_elements, max(1, wide.shape[0] * wide.shape[1] * spatial))


def _part(
    call: Call,
    product: Product | None,
    *,
    read_bytes: tuple[int, ...],
    outputs: tuple[int, ...],
    gradient_of: str = "",
    adds: int = 0,
    streamed: int = 0,
) -> Description:
    """One description of a convolution or of one of its gradients."""
    write_bytes = tuple(t.bytes if i in outputs else 0 for i, t in enumerate(call.outputs))
    return Description(
        kind=OperatorKind.CONVOLUTION if product is not None else OperatorKind.REDUCTION,
        work=Work(
            products=(product,) if product is not None and product.flops else (),
            simple_ops=adds,
            vector_elements=streamed,
        ),
        read_bytes=read_bytes,
        write_bytes=write_bytes,
        outputs=outputs,
        gradient_of=gradient_of,
    )


def convolution(call: Call) -> tuple[Description, ...]:
    """`convolution(x, W, bias, stride, padding, dilation, transposed, output_padding, groups)`; bias: an add each."""
    data, weight, bias = tensor(call, 0), tensor(call, 1), optional_tensor(call, 2)
    result = call.outputs[0]
    transposed, groups = flag(call, 6), integer(call, 8)
    touched = data.distinct_elements
    if transposed:
        product = _column_product(data=data, weight=weight, result_elements=result.elements, groups=groups)
    else:
        touched = _touched(call, data, result.shape, weight, 3)
        product = _forward_product(data=data, weight=weight, result_shape=result.shape, groups=groups, touched=touched)
    adds = result.elements if bias is not None else 0
    streamed = 2 * adds + bias.distinct_elements if bias is not None else 0
    reads = touched_reads(call, {0: touched * data.element_bytes})
    return (_part(call, product, read_bytes=reads, outputs=(0,), adds=adds, streamed=streamed),)


def convolution_backward(call: Call) -> tuple[Description, ...]:
    """Input gradient and weight gradient (with the bias's) apart, as far as `output_mask` asks for them.

    The bias gradient adds every element of the output gradient once; alone it is a reduction.
    """
    grad, data, weight = (tensor(call, i) for i in range(3))
    transposed, groups = flag(call, 7), integer(call, 9)
    mask = call.args[10]
    assert isinstance(mask, tuple)
    wide, narrow = (grad, data) if transposed else (data, grad)
    touched = _touched(call, wide, narrow.shape, weight, 4)
    wide_bytes = touched * wide.element_bytes
    parts = []
    input_output = output_index(call, 0) if mask[0] else None
    if input_output is not None:
        if transposed:
            product = _forward_product(
                data=grad, weight=weight, result_shape=data.shape, groups=groups, touched=touched
            )
        else:
            product = _column_product(data=grad, weight=weight, result_elements=data.elements, groups=groups)
        reads = touched_reads(call, {0: wide_bytes if transposed else grad.bytes, 1: 0})
        parts.append(_part(call, product, read_bytes=reads, outputs=(input_output,), gradient_of="input"))
    weight_output = output_index(call, 1) if mask[1] else None
    bias_output = output_index(call, 2) if mask[2] else None
    outputs = tuple(index for index in (weight_output, bias_output) if index is not None)
    if outputs:
        product_or_none = (
            _weight_product(plain=narrow, weight=weight, touched=touched, groups=groups)
            if weight_output is not None
            else None
        )
        adds = grad.elements if bias_output is not None else 0
        # With a bias the whole output gradient is read, whatever the windows reach.
        grad_bytes = wide_bytes if transposed and not adds else grad.bytes
        data_bytes = 0 if weight_output is None else data.bytes if transposed else wide_bytes
        reads = touched_reads(call, {0: grad_bytes, 1: data_bytes, 2: 0})
        streamed = adds + call.outputs[bias_output].elements if bias_output is not None else 0
        parts.append(
            _part(
                call,
                product_or_none,
                read_bytes=reads,
                outputs=outputs,
                gradient_of="weight",
                adds=adds,
                streamed=streamed,
            )
        )
    return tuple(parts)


RULES: dict[str, Rule] = {
    **same_rule(convolution, "convolution", "_convolution", "convolution_overrideable"),
    **same_rule(convolution_backward, "convolution_backward", "convolution_backward_overrideable"),
}
