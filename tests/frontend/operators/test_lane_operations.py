"""Lane operations of element-wise operators, cells and optimizers: their formulas on counting numbers.

Each formula is checked twice: its values against torch's kernel, its operations against the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worklode.frontend.call import Call
from worklode.frontend.operators import describe
from worklode.frontend.operators.random_numbers import PHILOX_OPS, PHILOX_WORDS, random_bits, random_words
from worklode.frontend.to_call import to_call

from . import formulas as f
from .counting import Counted, counted, exp, log, sqrt
from .recording import aten

POINTS = (-3.7, -2.0, -0.6, -0.2, 0.3, 0.9, 2.5, 4.0)
OTHERS = (0.7, -1.3, 0.4, 2.2, -0.9, 1.1, -0.3, 0.8)
FRACTIONS = (0.05, 0.2, 0.35, 0.5, 0.6, 0.75, 0.9, 0.95)
GRADIENTS = (1.2, -0.4, 0.8, -1.5, 0.3, 2.0, -0.7, 0.9)

Operand = tuple[float, ...]
Formula = Callable[..., object]


def same_value_and_count(
    func: Any,
    formula: Formula,
    operands: tuple[Operand, ...],
    *rest: Any,
    results: int = 1,
    **kwargs: Any,
) -> None:
    """Run the kernel on the operands, then its formula on each of their values."""
    tensors = [torch.tensor(o, dtype=torch.float64) for o in operands]
    result = func(*tensors, *rest, **kwargs)
    call = to_call(func, (*tensors, *rest), kwargs, result)
    found = result if isinstance(result, tuple) else (result,)
    for index, values in enumerate(zip(*operands, strict=True)):
        expected, tally = counted(formula, *values)
        assert expected == pytest.approx([float(r[index]) for r in found[:results]], rel=1e-6, abs=1e-9)
    check_count(call, (tally.simple, tally.special), len(operands[0]))


def check_count(call: Call, per_element: tuple[int, int], elements: int) -> None:
    (description,) = describe(call)
    work = description.work
    assert (work.simple_ops, work.special_ops) == (per_element[0] * elements, per_element[1] * elements)
    assert description.exact


UNARY: tuple[tuple[Any, Callable[..., object], Operand, tuple[Any, ...]], ...] = (
    (aten.sigmoid.default, f.sigmoid, POINTS, ()),
    (aten.silu.default, f.silu, POINTS, ()),
    (aten.gelu.default, f.gelu, POINTS, ()),
    (aten.mish.default, f.mish, POINTS, ()),
    (aten.hardswish.default, f.hardswish, POINTS, ()),
    (aten.hardsigmoid.default, f.hardsigmoid, POINTS, ()),
    (aten.hardtanh.default, f.hardtanh, POINTS, ()),
    (aten.leaky_relu.default, f.leaky_relu, POINTS, ()),
    (aten.elu.default, f.elu, POINTS, ()),
    (aten.celu.default, f.celu, POINTS, (2.0,)),
    (aten.softplus.default, f.softplus, POINTS, (1.5, 4.0)),
    (aten.softshrink.default, f.softshrink, POINTS, ()),
    (aten.hardshrink.default, f.hardshrink, POINTS, ()),
    (aten.threshold.default, f.threshold, POINTS, (0.4, 7.0)),
    (aten.log_sigmoid_forward.default, f.log_sigmoid, POINTS, ()),
    (aten.sinh.default, f.sinh, POINTS, ()),
    (aten.asinh.default, f.asinh, POINTS[3:], ()),
    (aten.atanh.default, f.atanh, FRACTIONS, ()),
)


@pytest.mark.parametrize(("func", "formula", "points", "rest"), UNARY, ids=lambda v: str(getattr(v, "name", ""))[:0])
def test_unary(func: Any, formula: Callable[..., object], points: Operand, rest: tuple[Any, ...]) -> None:
    same_value_and_count(func, formula, (points,), *rest)


def test_gelu_by_tanh() -> None:
    same_value_and_count(aten.gelu.default, f.gelu_tanh, (POINTS,), approximate="tanh")
    same_value_and_count(aten.gelu_backward.default, f.gelu_tanh_backward, (GRADIENTS, POINTS), approximate="tanh")


BACKWARD: tuple[tuple[Any, Callable[..., object], Operand, tuple[Any, ...]], ...] = (
    (aten.sigmoid_backward.default, f.sigmoid_backward, FRACTIONS, ()),
    (aten.tanh_backward.default, f.tanh_backward, FRACTIONS, ()),
    (aten.silu_backward.default, f.silu_backward, POINTS, ()),
    (aten.gelu_backward.default, f.gelu_backward, POINTS, ()),
    (aten.mish_backward.default, f.mish_backward, POINTS, ()),
    (aten.hardswish_backward.default, f.hardswish_backward, POINTS, ()),
    (aten.hardsigmoid_backward.default, f.hardsigmoid_backward, POINTS, ()),
    (aten.hardtanh_backward.default, f.hardtanh_backward, POINTS, (-1.0, 1.0)),
    (aten.leaky_relu_backward.default, f.leaky_relu_backward, POINTS, (0.01, False)),
    (aten.softplus_backward.default, f.softplus_backward, POINTS, (1.5, 4.0)),
    (aten.softshrink_backward.default, f.softshrink_backward, POINTS, (0.5,)),
    (aten.hardshrink_backward.default, f.softshrink_backward, POINTS, (0.5,)),
)


@pytest.mark.parametrize(("func", "formula", "points", "rest"), BACKWARD)
def test_backward(func: Any, formula: Callable[..., object], points: Operand, rest: tuple[Any, ...]) -> None:
    same_value_and_count(func, formula, (GRADIENTS, points), *rest)


def test_backward_with_arguments_of_their_own() -> None:
    gradient, x = (torch.tensor(v, dtype=torch.float64) for v in (GRADIENTS, POINTS))
    arguments = (gradient, 1.0, 1.0, 1.0, False, x)
    result = aten.elu_backward.default(*arguments)
    for index, (g, v) in enumerate(zip(GRADIENTS, POINTS, strict=True)):
        (value,), tally = counted(f.elu_backward, g, v)
        assert value == pytest.approx(float(result[index]))
    check_count(to_call(aten.elu_backward.default, arguments, {}, result), (tally.simple, tally.special), len(POINTS))
    _, buffer = aten.log_sigmoid_forward.default(x)
    same_value_and_count(aten.log_sigmoid_backward.default, f.log_sigmoid_backward, (GRADIENTS, POINTS), buffer)


def test_gated_units_count_by_pairs() -> None:
    pairs = torch.tensor([POINTS, OTHERS], dtype=torch.float64).T.contiguous()
    gradient = torch.tensor(GRADIENTS, dtype=torch.float64)[:, None]
    result = aten.glu_backward.default(gradient, pairs, 1)
    for index, values in enumerate(zip(GRADIENTS, POINTS, OTHERS, strict=True)):
        expected, tally = counted(f.glu_backward, *values)
        assert expected == pytest.approx(result[index].tolist())
    call = to_call(aten.glu_backward.default, (gradient, pairs, 1), {}, result)
    check_count(call, (tally.simple, tally.special), len(POINTS))


def test_two_and_three_operands() -> None:
    x, y, z = POINTS, OTHERS, FRACTIONS
    same_value_and_count(aten.add.Tensor, lambda a, b: a + 0.5 * b, (x, y), alpha=0.5)
    same_value_and_count(aten.add.Tensor, lambda a, b: a + b, (x, y))
    same_value_and_count(aten.sub.Tensor, lambda a, b: a - b, (x, y))
    same_value_and_count(aten.mul.Tensor, lambda a, b: a * b, (x, y))
    same_value_and_count(aten.div.Tensor, lambda a, b: a / b, (x, y))
    same_value_and_count(aten.div.Tensor, lambda a: a / 3.0, (x,), 3.0)
    same_value_and_count(aten.remainder.Tensor, f.remainder, (x, (0.71, -1.31, 0.43, 2.2, -0.97, 1.1, -0.31, 0.83)))
    same_value_and_count(aten.lerp.Scalar, f.lerp, (x, y), 0.3)
    same_value_and_count(aten.addcmul.default, f.addcmul, (x, y, z), value=0.5)
    same_value_and_count(aten.addcdiv.default, f.addcdiv, (x, y, z), value=0.5)
    same_value_and_count(aten.logaddexp.default, f.logaddexp, (x, y))
    same_value_and_count(aten._prelu_kernel.default, f.prelu, (x, y))
    same_value_and_count(aten._prelu_kernel_backward.default, f.prelu_backward, (GRADIENTS, x, y), results=2)


def test_powers() -> None:
    same_value_and_count(aten.pow.Tensor_Scalar, lambda a: a * a, (POINTS,), 2)
    same_value_and_count(aten.pow.Tensor_Scalar, lambda a: a * a * a, (POINTS,), 3)
    same_value_and_count(aten.pow.Tensor_Scalar, lambda a: 1.0 / a, (POINTS,), -1)
    same_value_and_count(aten.pow.Tensor_Scalar, lambda a: 1.0 / (a * a), (POINTS,), -2)
    same_value_and_count(aten.pow.Tensor_Scalar, sqrt, (FRACTIONS,), 0.5)
    same_value_and_count(aten.pow.Tensor_Scalar, lambda a: exp(1.7 * log(a)), (FRACTIONS,), 1.7)


def test_losses_kept_per_element() -> None:
    x, y = POINTS, OTHERS
    none = 0
    same_value_and_count(aten.mse_loss.default, f.squared_error, (x, y), none)
    same_value_and_count(aten.smooth_l1_loss.default, f.smooth_l1, (x, y), none, 1.5)
    same_value_and_count(aten.huber_loss.default, f.huber, (x, y), none, 1.5)
    same_value_and_count(aten.soft_margin_loss.default, f.soft_margin, (x, y), none)
    same_value_and_count(aten.smooth_l1_loss_backward.default, f.smooth_l1_backward, (GRADIENTS, x, y), none, 1.5)
    same_value_and_count(aten.huber_loss_backward.default, f.huber_backward, (GRADIENTS, x, y), none, 1.5)
    same_value_and_count(aten.soft_margin_loss_backward.default, f.soft_margin_backward, (GRADIENTS, x, y), none)
    probabilities, targets = FRACTIONS, tuple(reversed(FRACTIONS))
    same_value_and_count(
        aten.binary_cross_entropy.default, f.binary_cross_entropy, (probabilities, targets), None, none
    )
    same_value_and_count(
        aten.binary_cross_entropy_backward.default,
        f.binary_cross_entropy_backward,
        (GRADIENTS, probabilities, targets),
        None,
        none,
    )
    same_value_and_count(
        aten.binary_cross_entropy_with_logits.default,
        f.binary_cross_entropy_with_logits,
        (x, targets),
        None,
        None,
        none,
    )


@pytest.mark.parametrize(("reduction", "extra"), [(1, 1), (2, 0)])
def test_a_reduced_loss_adds_up_and_divides_once(reduction: int, extra: int) -> None:
    x, y = (torch.tensor(v) for v in (POINTS, OTHERS))
    call = to_call(aten.mse_loss.default, (x, y, reduction), {}, aten.mse_loss.default(x, y, reduction))
    (description,) = describe(call)
    assert description.work.simple_ops == 2 * len(POINTS) + len(POINTS) - 1 + extra


# --------------------------------------------------------------------------------------------- recurrent cells


def test_lstm_cell() -> None:
    """torch has no CPU kernel of the fused cell; its unfused one is the reference of the formula."""
    gates = torch.randn(2, 3, 4 * 5, dtype=torch.float64)
    state = torch.randn(3, 5, dtype=torch.float64)
    i, g_f, c, o = (gates[0] + gates[1]).chunk(4, 1)
    cy = g_f.sigmoid() * state + i.sigmoid() * c.tanh()
    hy = o.sigmoid() * cy.tanh()
    parts = [part[0, 0].item() for half in gates for part in half.chunk(4, 1)]
    found, tally = counted(f.lstm_cell, *parts, state[0, 0].item())
    assert found == pytest.approx([hy[0, 0].item(), cy[0, 0].item()])
    func = aten._thnn_fused_lstm_cell.default
    workspace = torch.cat([i.sigmoid(), g_f.sigmoid(), c.tanh(), o.sigmoid()], 1)
    plain = to_call(func, (gates[0], gates[1], state), {}, (hy, cy, workspace))
    check_count(plain, (tally.simple, tally.special), state.numel())
    bias = torch.zeros(20, dtype=torch.float64)
    biased = to_call(func, (gates[0], gates[1], state, bias, bias), {}, (hy, cy, workspace))
    check_count(biased, (tally.simple + 8, tally.special), state.numel())


def test_lstm_cell_backward() -> None:
    gates = torch.randn(3, 4 * 5, dtype=torch.float64, requires_grad=True)
    state = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    i, g_f, c, o = gates.chunk(4, 1)
    active = (i.sigmoid(), g_f.sigmoid(), c.tanh(), o.sigmoid())
    cy = active[1] * state + active[0] * active[2]
    dh, dc = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.autograd.backward([active[3] * cy.tanh(), cy], [dh, dc])
    assert gates.grad is not None
    assert state.grad is not None
    values = [t[1, 2].item() for t in (dh, dc, state, cy, *active)]
    found, tally = counted(f.lstm_cell_backward, *values)
    expected = [part[1, 2].item() for part in gates.grad.chunk(4, 1)]
    assert found == pytest.approx([*expected, state.grad[1, 2].item()])
    func = aten._thnn_fused_lstm_cell_backward_impl.default
    workspace = torch.cat(active, 1).detach()
    results = (gates.grad, state.grad, None)
    call = to_call(func, (dh, dc, state.detach(), cy.detach(), workspace, False), {}, results)
    check_count(call, (tally.simple, tally.special), 15)


def test_gru_cell() -> None:
    cell = torch.nn.GRUCell(4, 5, bias=False).double()
    x, h = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    of_input, of_state = x @ cell.weight_ih.T, h @ cell.weight_hh.T
    values = [t[0, 0].item() for gates in (of_input, of_state) for t in gates.chunk(3, 1)]
    (found,), tally = counted(f.gru_cell, *values, h[0, 0].item())
    expected = cell(x, h)
    assert found == pytest.approx(expected[0, 0].item())
    func = aten._thnn_fused_gru_cell.default
    call = to_call(func, (of_input, of_state, h), {}, (expected, torch.empty(3, 25)))
    check_count(call, (tally.simple, tally.special), 15)


# ---------------------------------------------------------------------------------------------------- optimizers


def fused_step(func: Any, formula: Callable[..., object], lists: list[Operand], **kwargs: Any) -> None:
    """Step a fused optimizer on a parameter and its state, and the formula on their values."""
    tensors = [torch.tensor(v, dtype=torch.float64) for v in lists]
    before = [t.clone() for t in tensors]
    steps = torch.tensor(3.0)
    adam = "adam" in str(func)
    arguments = tuple([t] for t in tensors) + (([], [steps]) if adam else ())
    func(*arguments, **kwargs)
    after = [t for i, t in enumerate(tensors) if i != 1]
    for index, values in enumerate(zip(*[b.tolist() for b in before], strict=True)):
        found, tally = counted(formula, *values)
        assert found == pytest.approx([t[index].item() for t in after], rel=1e-6)
    exploded = tuple(tensors) + ((None, steps) if adam else ())
    check_count(to_call(func, exploded, kwargs, None), (tally.simple, tally.special), len(lists[0]))


@pytest.mark.parametrize(
    ("func", "formula", "decay"),
    [
        (aten._fused_adam_.default, f.adam, 0.0),
        (aten._fused_adam_.default, f.adam_with_decay, 0.3),
        (aten._fused_adamw_.default, f.adam, 0.0),
        (aten._fused_adamw_.default, f.adamw, 0.3),
    ],
)
def test_adam(func: Any, formula: Callable[..., object], decay: float) -> None:
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "amsgrad": False, "maximize": False}
    fused_step(func, formula, [POINTS, GRADIENTS, OTHERS, FRACTIONS], weight_decay=decay, **options)


def test_sgd() -> None:
    options = {"lr": 0.1, "maximize": False, "is_first_step": False}
    func = aten._fused_sgd_.default
    fused_step(
        func, f.sgd_nesterov, [POINTS, GRADIENTS, OTHERS],
        weight_decay=0.3, momentum=0.9, dampening=0.0, nesterov=True, **options,
    )  # fmt: skip
    fused_step(
        func, f.sgd_dampened, [POINTS, GRADIENTS, OTHERS],
        weight_decay=0.0, momentum=0.9, dampening=0.2, nesterov=False, **options,
    )  # fmt: skip
    p, g = torch.tensor(POINTS), torch.tensor(GRADIENTS)
    plain = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0, "nesterov": False, **options}
    (value,), tally = counted(f.sgd, POINTS[0], GRADIENTS[0])
    func([p], [g], [], **plain)
    assert value == pytest.approx(p[0].item())
    check_count(to_call(func, (p, g, None), plain, None), (tally.simple, tally.special), len(POINTS))


def test_adagrad() -> None:
    p, g, s = (torch.tensor(v, dtype=torch.float64) for v in (POINTS, GRADIENTS, FRACTIONS))
    values = (POINTS[2], GRADIENTS[2], FRACTIONS[2])
    func, options = aten._fused_adagrad_.default, {"lr": 0.1, "lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10}
    func([p], [g], [s], [torch.tensor(1.0)], maximize=False, **options)
    found, tally = counted(f.adagrad, *values)
    assert found == pytest.approx([p[2].item(), s[2].item()])
    call = to_call(func, (p, g, s, torch.tensor(1.0)), {"maximize": False, **options}, None)
    check_count(call, (tally.simple, tally.special), len(POINTS))


def test_a_fused_optimizer_writes_the_gradient_only_where_it_unscales() -> None:
    p, g, m, v = (torch.zeros(10) for _ in range(4))
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False}
    func = aten._fused_adamw_.default
    arguments = (p, g, m, v, None, torch.tensor(1.0))
    (plain,) = describe(to_call(func, arguments, {"maximize": False, **options}, None))
    assert plain.read_bytes == (40, 40, 40, 40, 4)
    assert plain.write_bytes == (40, 0, 40, 40)
    assert plain.outputs == (0, 2, 3)
    scaled = {"maximize": False, "grad_scale": torch.tensor(1.0), "found_inf": torch.tensor(0.0), **options}
    (unscaling,) = describe(to_call(func, arguments, scaled, None))
    assert unscaling.write_bytes == (40, 40, 40, 40)
    assert unscaling.work.simple_ops == plain.work.simple_ops + 10


# ------------------------------------------------------------------------------------------------- random numbers


def philox_block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[tuple[int, ...], int]:
    """Philox4x32-10 written out, and the 32-bit operations it takes."""
    mask, operations = 0xFFFFFFFF, 0
    c, k = counter, key
    for number in range(10):
        if number:
            k = ((k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask)
            operations += 2
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        operations += 4  # a low and a high half of each product
        c = ((second >> 32) ^ c[1] ^ k[0], second & mask, (first >> 32) ^ c[3] ^ k[1], first & mask)
        operations += 4
    return c, operations


def test_philox_operations_by_running_it() -> None:
    """The known answer of Random123's test vectors (kat_vectors: philox4x32 10, all zeros) shows that it is Philox."""
    words, operations = philox_block((0, 0, 0, 0), (0, 0))
    assert words == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert (operations, len(words)) == (PHILOX_OPS, PHILOX_WORDS)


@given(st.integers(0, 10_000), st.sampled_from((1, 8, 16, 32)))
def test_random_numbers_come_in_whole_blocks(count: int, bits: int) -> None:
    blocks, drawn = 0, 0
    while drawn < count:
        blocks, drawn = blocks + 1, drawn + 128 // bits
    assert random_bits(count, bits) == blocks * PHILOX_OPS
    assert random_words(count) == random_bits(count, 32)


def test_dropout_generates_a_number_an_element() -> None:
    x = torch.zeros(6, 7)
    func, arguments = aten.native_dropout.default, (x, 0.1, True)
    (description,) = describe(to_call(func, arguments, {}, func(*arguments)))
    assert description.work.simple_ops == 11 * 98 + (2 + 3) * 42
    assert description.write_bytes == (4 * 42, 42)


def test_counting_numbers_count() -> None:
    """The oracle itself: 2 simple and 2 special for a sigmoid, constants free."""
    _, tally = counted(lambda x: 1.0 / (1.0 + exp(-x)), 0.3)
    assert (tally.simple, tally.special) == (2, 2)
    assert isinstance(Counted(1.0, tally) > 0.0, object)
