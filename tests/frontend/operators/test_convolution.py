"""Convolutions and their gradients: FLOPs against torch's counter and against a convolution of ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from worklode.frontend.call import Description
from worklode.frontend.operators import describe
from worklode.frontend.operators.convolution import touched_positions
from worklode.graph.operator import OperatorKind
from worklode.graph.work import PatchOperand

from .recording import aten, call_of, counted_flops, described, descriptions_of


@dataclass(frozen=True)
class Setting:
    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    groups: int
    bias: bool

    @property
    def options(self) -> tuple[object, ...]:
        rank = len(self.stride)
        return (self.stride, self.padding, self.dilation, self.transposed, (0,) * rank, self.groups)

    @property
    def result_channels(self) -> int:
        return self.weight[1] * self.groups if self.transposed else self.weight[0]


@st.composite
def convolutions(draw: st.DrawFn, most_groups: int = 3) -> Setting:
    rank = draw(st.integers(1, 3))
    each = st.tuples(*[st.integers(1, 3)] * rank)
    groups = draw(st.integers(1, most_groups))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    kernel, dilation = draw(each), draw(each)
    padding = draw(st.tuples(*[st.integers(0, 2)] * rank))
    spatial = draw(st.tuples(*[st.integers(1, 7)] * rank))
    for size, taps, gap, pad in zip(spatial, kernel, dilation, padding, strict=True):
        assume(transposed or size + 2 * pad >= (taps - 1) * gap + 1)
        assume(not transposed or (size - 1) + (taps - 1) * gap + 1 - 2 * pad >= 1)
    return Setting(
        x=(draw(st.integers(1, 3)), inputs, *spatial),
        weight=((inputs, outputs // groups) if transposed else (outputs, inputs // groups)) + kernel,
        stride=draw(each),
        padding=padding,
        dilation=dilation,
        transposed=transposed,
        groups=groups,
        bias=draw(st.booleans()),
    )


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.float64)


def macs_by_convolving_ones(s: Setting) -> int:
    """The slow oracle: every multiply of a convolution of ones adds one; the padding is made of ones too."""
    x = ones(*s.x)
    padding = s.padding
    if not s.transposed:
        x = ones(*s.x[:2], *(size + 2 * pad for size, pad in zip(s.x[2:], s.padding, strict=True)))
        padding = (0,) * len(s.stride)
    else:
        padding = (0,) * len(s.stride)
    result = aten.convolution.default(x, ones(*s.weight), None, s.stride, padding, *s.options[2:])
    return int(result.sum())


def forward(s: Setting) -> Description:
    bias = ones(s.result_channels) if s.bias else None
    return described(aten.convolution.default, ones(*s.x), ones(*s.weight), bias, *s.options)


def backward(s: Setting, mask: tuple[bool, bool, bool]) -> tuple[Description, ...]:
    result = aten.convolution.default(ones(*s.x), ones(*s.weight), None, *s.options)
    sizes = [s.result_channels]
    arguments = (result, ones(*s.x), ones(*s.weight), sizes, *s.options, mask)
    return descriptions_of(aten.convolution_backward.default, *arguments)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_forward_and_both_gradients_execute_the_multiplies_of_a_convolution_of_ones(s: Setting) -> None:
    expected = 2 * macs_by_convolving_ones(s)
    assert forward(s).work.matrix_flops == expected
    inputs, weights = backward(s, (True, True, True))
    assert (inputs.work.matrix_flops, weights.work.matrix_flops) == (expected, expected)
    assert (inputs.gradient_of, weights.gradient_of) == ("input", "weight")
    assert (inputs.outputs, weights.outputs) == ((0,), (1, 2))


@settings(max_examples=40, deadline=None)
@given(convolutions(most_groups=1), st.booleans(), st.booleans())
def test_ungrouped_convolutions_match_the_flop_counter(s: Setting, want_input: bool, want_weight: bool) -> None:
    x, weight = ones(*s.x), ones(*s.weight)
    assert forward(s).work.matrix_flops == counted_flops(aten.convolution.default, x, weight, None, *s.options)
    result = aten.convolution.default(x, weight, None, *s.options)
    arguments = (result, x, weight, None, *s.options, (want_input, want_weight, False))
    call = call_of(aten.convolution_backward.default, *arguments)
    parts = describe(call)
    assert len(parts) == want_input + want_weight
    expected = counted_flops(aten.convolution_backward.default, *arguments)
    assert sum(part.work.flops for part in parts) == expected


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_bytes_are_those_of_the_operands_each_part_needs(s: Setting) -> None:
    call = forward(s)
    assert call.read_bytes[1] == 8 * prod(s.weight)
    assert 0 < call.read_bytes[0] <= 8 * prod(s.x)
    inputs, weights = backward(s, (True, True, True))
    assert inputs.read_bytes[1] == 0 == weights.read_bytes[2]
    assert inputs.write_bytes == (8 * prod(s.x), 0, 0)
    assert weights.write_bytes == (0, 8 * prod(s.weight), 8 * s.result_channels)
    (product,) = weights.work.products
    assert product.c_elements == prod(s.weight)
    assert product.patch is PatchOperand.B
    assert product.window == prod(s.weight[2:])


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_input_touched_is_where_a_gradient_arrives(s: Setting) -> None:
    """The elements a convolution reads are those its input gradient reaches."""
    assume(not s.transposed)
    x = ones(*s.x).requires_grad_()
    aten.convolution.default(x, ones(*s.weight), None, *s.options).sum().backward()
    assert x.grad is not None
    touched = int((x.grad != 0).sum())
    description = forward(s)
    # Where every window lies in the padding one element stands for an operand that is not there.
    assert description.read_bytes[0] == 8 * max(1, touched)
    assert description.work.products[0].a_elements == max(1, touched)


def test_the_gradient_of_a_bias_alone_is_a_reduction() -> None:
    s = Setting((2, 4, 5), (4, 4, 3), (1,), (1,), (1,), False, 1, True)
    (only,) = backward(s, (False, False, True))
    assert only.kind is OperatorKind.REDUCTION
    assert only.work.products == ()
    assert only.work.simple_ops == 2 * 4 * 5
    assert only.read_bytes == (8 * 2 * 4 * 5, 0, 0)


def test_flop_counter_is_wrong_for_grouped_weight_gradients_and_this_table_is_not() -> None:
    """ResNeXt's block, 32 groups: torch's counter says 32 times too many for the weight gradient."""
    s = Setting((1, 64, 6, 6), (64, 2, 3, 3), (1, 1), (1, 1), (1, 1), False, 32, False)
    _, weights = backward(s, (True, True, False))
    macs = 36 * 64 * 2 * 9
    assert weights.work.flops == 2 * macs
    x, weight = ones(*s.x), ones(*s.weight)
    result = aten.convolution.default(x, weight, None, *s.options)
    counted = counted_flops(
        aten.convolution_backward.default, result, x, weight, None, *s.options, (False, True, False)
    )
    assert counted == 32 * weights.work.flops


@given(
    st.integers(0, 40), st.integers(0, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 4), st.integers(1, 4)
)
def test_touched_positions_against_enumeration(
    length: int, outputs: int, taps: int, stride: int, padding: int, dilation: int
) -> None:
    read = {o * stride + t * dilation - padding for o in range(outputs) for t in range(taps)}
    expected = len(read & set(range(length)))
    found = touched_positions(
        length=length, outputs=outputs, taps=taps, stride=stride, padding=padding, dilation=dilation
    )
    assert found == expected
