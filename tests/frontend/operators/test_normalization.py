"""Softmax and normalisation layers: whole groups computed on counting numbers, against torch and against the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from worklode.frontend.call import Call
from worklode.frontend.operators import describe
from worklode.frontend.to_call import to_call
from worklode.graph.operator import OperatorKind
from worklode.graph.work import Work

from .counting import Counted, Tally, exp, log, most, raw
from .recording import aten

EPS = 1e-5
C = Counted


def numbers(tensor: torch.Tensor, tally: Tally) -> list[C]:
    return [C(float(v), tally) for v in tensor.flatten()]


def total(values: Sequence[C], tally: Tally) -> C:
    """A sum that starts from zero: an add for every value."""
    found = C(0.0, tally)
    for value in values:
        found = found + value
    return found


def rsqrt(x: C) -> C:
    return x.special(1.0 / math.sqrt(x.value))


def moments(x: list[C], tally: Tally) -> tuple[C, C]:
    """Mean and 1/sqrt(var + eps) from the sums of x and x²."""
    scale = 1.0 / len(x)
    s1, s2 = C(0.0, tally), C(0.0, tally)
    for v in x:
        s1 = s1 + v
        s2 = s2 + v * v
    mean, square = s1 * scale, s2 * scale
    return mean, rsqrt((square - mean * mean) + EPS)


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def work_of(func: Any, arguments: tuple[Any, ...], result: Any, kind: OperatorKind) -> Work:
    (description,) = describe(to_call(func, arguments, {}, result))
    assert description.kind is kind
    assert description.exact
    return description.work


def agree(values: list[C], expected: torch.Tensor) -> None:
    assert [raw(v) for v in values] == pytest.approx(expected.flatten().tolist(), rel=1e-6, abs=1e-9)


def counts(work: Work) -> tuple[int, int]:
    return work.simple_ops, work.special_ops


# ------------------------------------------------------------------------------------------------------- softmax


def test_softmax() -> None:
    x, tally = double(3, 5), Tally()
    found: list[C] = []
    for row in x:
        r = numbers(row, tally)
        top = C(-math.inf, tally)
        for v in r:
            top = most(top, v)
        powers = [exp(v - top) for v in r]
        scale = 1.0 / total(powers, tally)
        found += [p * scale for p in powers]
    result = aten._softmax.default(x, 1, False)
    agree(found, result)
    work = work_of(aten._softmax.default, (x, 1, False), result, OperatorKind.SOFTMAX)
    assert counts(work) == (tally.simple, tally.special)
    assert work.reduction_bytes == 8 * 5
    assert work.vector_elements == 2 * 15


def test_log_softmax() -> None:
    x, tally = double(3, 5), Tally()
    found: list[C] = []
    for row in x:
        r = numbers(row, tally)
        top = C(-math.inf, tally)
        for v in r:
            top = most(top, v)
        shift = top + log(total([exp(v - top) for v in r], tally))
        found += [v - shift for v in r]
    result = aten._log_softmax.default(x, 1, False)
    agree(found, result)
    work = work_of(aten._log_softmax.default, (x, 1, False), result, OperatorKind.SOFTMAX)
    assert counts(work) == (tally.simple, tally.special)


def test_softmax_gradients() -> None:
    g, x = double(3, 5), double(3, 5)
    y, ly = x.softmax(1), x.log_softmax(1)
    tally, log_tally = Tally(), Tally()
    found: list[C] = []
    log_found: list[C] = []
    for gr, yr, lr in zip(g, y, ly, strict=True):
        gs, ys = numbers(gr, tally), numbers(yr, tally)
        s = total([a * b for a, b in zip(gs, ys, strict=True)], tally)
        found += [b * (a - s) for a, b in zip(gs, ys, strict=True)]
        gs, ls = numbers(gr, log_tally), numbers(lr, log_tally)
        s = total(gs, log_tally)
        log_found += [a - exp(b) * s for a, b in zip(gs, ls, strict=True)]
    func = aten._softmax_backward_data.default
    result = func(g, y, 1, torch.float64)
    agree(found, result)
    work = work_of(func, (g, y, 1, torch.float64), result, OperatorKind.SOFTMAX)
    assert counts(work) == (tally.simple, tally.special)
    assert work.reduction_bytes == 2 * 8 * 5
    func = aten._log_softmax_backward_data.default
    result = func(g, ly, 1, torch.float64)
    agree(log_found, result)
    work = work_of(func, (g, ly, 1, torch.float64), result, OperatorKind.SOFTMAX)
    assert counts(work) == (log_tally.simple, log_tally.special)


# ------------------------------------------------------------------------------------------ layer and RMS norm


def test_layer_norm_and_its_gradient() -> None:
    x, g, w, b = double(3, 5), double(3, 5), double(5), double(5)
    tally = Tally()
    ws, bs = numbers(w, tally), numbers(b, tally)
    found: list[C] = []
    for row in x:
        r = numbers(row, tally)
        mean, rstd = moments(r, tally)
        found += [(v - mean) * rstd * a + c for v, a, c in zip(r, ws, bs, strict=True)]
    func = aten.native_layer_norm.default
    result = func(x, [5], w, b, EPS)
    agree(found, result[0])
    work = work_of(func, (x, [5], w, b, EPS), result, OperatorKind.NORMALIZATION)
    assert counts(work) == (tally.simple, tally.special)
    assert work.reduction_bytes == 8 * 5

    mean, rstd = result[1], result[2]
    tally = Tally()
    ws = numbers(w, tally)
    dx: list[C] = []
    dw, db = [C(0.0, tally) for _ in range(5)], [C(0.0, tally) for _ in range(5)]
    for n in range(3):
        m, s = numbers(mean[n], tally)[0], numbers(rstd[n], tally)[0]
        normal = [(v - m) * s for v in numbers(x[n], tally)]
        gs = numbers(g[n], tally)
        weighted = [a * b for a, b in zip(gs, ws, strict=True)]
        first = total(weighted, tally) * (1 / 5)
        second = total([a * b for a, b in zip(weighted, normal, strict=True)], tally) * (1 / 5)
        dx += [s * (a - first - v * second) for a, v in zip(weighted, normal, strict=True)]
        dw = [acc + a * v for acc, a, v in zip(dw, gs, normal, strict=True)]
        db = [acc + a for acc, a in zip(db, gs, strict=True)]
    func = aten.native_layer_norm_backward.default
    arguments = (g, x, [5], mean, rstd, w, b, [True, True, True])
    result = func(*arguments)
    agree(dx + dw + db, torch.cat([r.flatten() for r in result]))
    assert counts(work_of(func, arguments, result, OperatorKind.NORMALIZATION)) == (tally.simple, tally.special)


def test_rms_norm_and_its_gradient() -> None:
    x, g, w = double(3, 5), double(3, 5), double(5)
    tally = Tally()
    ws = numbers(w, tally)
    found: list[C] = []
    scales: list[C] = []
    for row in x:
        r = numbers(row, tally)
        rstd = rsqrt(total([v * v for v in r], tally) * (1 / 5) + EPS)
        scales.append(rstd)
        found += [v * rstd * a for v, a in zip(r, ws, strict=True)]
    expected = torch.nn.functional.rms_norm(x, (5,), w, EPS)
    agree(found, expected)
    rstds = torch.tensor([[raw(s)] for s in scales], dtype=torch.float64)
    func = aten._fused_rms_norm.default
    work = work_of(func, (x, [5], w, EPS), (expected, rstds), OperatorKind.NORMALIZATION)
    assert counts(work) == (tally.simple, tally.special)

    tally = Tally()
    ws = numbers(w, tally)
    dx: list[C] = []
    dw = [C(0.0, tally) for _ in range(5)]
    for n in range(3):
        s = numbers(rstds[n], tally)[0]
        normal = [v * s for v in numbers(x[n], tally)]
        gs = numbers(g[n], tally)
        weighted = [a * b for a, b in zip(gs, ws, strict=True)]
        second = total([a * b for a, b in zip(weighted, normal, strict=True)], tally) * (1 / 5)
        dx += [s * (a - v * second) for a, v in zip(weighted, normal, strict=True)]
        dw = [acc + a * v for acc, a, v in zip(dw, gs, normal, strict=True)]
    leaf, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
    torch.nn.functional.rms_norm(leaf, (5,), weight, EPS).backward(g)
    assert leaf.grad is not None
    assert weight.grad is not None
    agree(dx + dw, torch.cat([leaf.grad.flatten(), weight.grad]))
    func = aten._fused_rms_norm_backward.default
    arguments = (g, x, [5], rstds, w, [True, True])
    work = work_of(func, arguments, (leaf.grad, weight.grad), OperatorKind.NORMALIZATION)
    assert counts(work) == (tally.simple, tally.special)


@pytest.mark.parametrize("mask", [(True, False, False), (False, True, True), (False, False, True)])
def test_layer_norm_gradients_not_asked_for_cost_nothing(mask: tuple[bool, bool, bool]) -> None:
    x, w = double(4, 6), double(6)
    _, mean, rstd = aten.native_layer_norm.default(x, [6], w, w, EPS)
    func = aten.native_layer_norm_backward.default
    arguments = (x, x, [6], mean, rstd, w, w, list(mask))
    (description,) = describe(to_call(func, arguments, {}, func(*arguments)))
    per_element = {(True, False, False): 10, (False, True, True): 5, (False, False, True): 1}[mask]
    assert description.work.simple_ops == per_element * 24 + 2 * 4
    assert description.read_bytes[-1] == 0
    assert (description.read_bytes[4] == 0) == (not mask[0])


# ------------------------------------------------------------------------------------------ batch and group norm


def channel(x: torch.Tensor, c: int, tally: Tally) -> list[C]:
    return numbers(x[:, c], tally)


def test_batch_norm_in_training_and_its_gradient() -> None:
    x, g, w, b = double(4, 3, 5), double(4, 3, 5), double(3), double(3)
    running_mean, running_var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    momentum, size = 0.1, 20
    tally = Tally()
    found, running = [], []
    for c in range(3):
        r = channel(x, c, tally)
        weight, bias = numbers(w[c], tally)[0], numbers(b[c], tally)[0]
        s1, s2 = C(0.0, tally), C(0.0, tally)
        for v in r:
            s1, s2 = s1 + v, s2 + v * v
        mean, square = s1 * (1 / size), s2 * (1 / size)
        var = square - mean * mean
        rstd = rsqrt(var + EPS)
        scale = weight * rstd
        shift = bias - mean * scale
        running += [(1 - momentum) * numbers(running_mean[c], tally)[0] + momentum * mean]
        running += [(1 - momentum) * numbers(running_var[c], tally)[0] + momentum * (var * (size / (size - 1)))]
        found += [v * scale + shift for v in r]
    func = aten.native_batch_norm.default
    before = (running_mean.clone(), running_var.clone())
    arguments: tuple[Any, ...] = (x, w, b, running_mean, running_var, True, momentum, EPS)
    result = func(*arguments)
    agree(found, result[0].transpose(0, 1))
    agree(running, torch.stack([running_mean, running_var], 1))
    call = to_call(func, (x, w, b, *before, True, momentum, EPS), {}, result)
    (description,) = describe(call)
    assert counts(description.work) == (tally.simple, tally.special)
    assert description.work.reduction_bytes == 8 * size
    assert description.write_bytes[-2:] == (24, 24), "the running statistics are written"

    _, saved_mean, saved_rstd = result
    tally = Tally()
    dx, dwb = [], []
    for c in range(3):
        xs, gs = channel(x, c, tally), channel(g, c, tally)
        mean, rstd, weight = (numbers(t[c], tally)[0] for t in (saved_mean, saved_rstd, w))
        s1, s2 = C(0.0, tally), C(0.0, tally)
        for v, d in zip(xs, gs, strict=True):
            s1, s2 = s1 + d, s2 + d * (v - mean)
        dwb += [s2 * rstd, s1]
        a = weight * rstd
        bb = -(a * (rstd * rstd * (s2 * (1 / size))))
        cc = -(a * (s1 * (1 / size))) - bb * mean
        dx += [a * d + bb * v + cc for v, d in zip(xs, gs, strict=True)]
    func = aten.native_batch_norm_backward.default
    arguments = (g, x, w, *before, saved_mean, saved_rstd, True, EPS, [True, True, True])
    result = func(*arguments)
    agree(dx, result[0].transpose(0, 1))
    agree(dwb, torch.stack([result[1], result[2]], 1))
    (description,) = describe(to_call(func, arguments, {}, result))
    assert counts(description.work) == (tally.simple, tally.special)
    assert description.read_bytes[3:5] == (0, 0), "training does not read the running statistics"


def test_group_norm_and_its_gradient() -> None:
    batch, channels, size, groups = 2, 4, 3, 2
    x, g, w, b = double(batch, channels, size), double(batch, channels, size), double(channels), double(channels)
    each, count = channels // groups, channels // groups * size
    tally = Tally()
    found = []
    for n in range(batch):
        for k in range(groups):
            members = range(k * each, (k + 1) * each)
            rows = {c: numbers(x[n, c], tally) for c in members}
            mean, rstd = moments([v for c in members for v in rows[c]], tally)
            for c in members:
                weight, bias = numbers(w[c], tally)[0], numbers(b[c], tally)[0]
                scale = weight * rstd
                shift = bias - mean * scale
                found += [v * scale + shift for v in rows[c]]
    func = aten.native_group_norm.default
    arguments: tuple[Any, ...] = (x, w, b, batch, channels, size, groups, EPS)
    result = func(*arguments)
    agree(found, result[0])
    work = work_of(func, arguments, result, OperatorKind.NORMALIZATION)
    assert counts(work) == (tally.simple, tally.special)
    assert work.reduction_bytes == 8 * count

    _, means, rstds = result
    tally = Tally()
    dx: list[C] = []
    dw, db = [C(0.0, tally) for _ in range(channels)], [C(0.0, tally) for _ in range(channels)]
    for n in range(batch):
        for k in range(groups):
            members = range(k * each, (k + 1) * each)
            mean, rstd = numbers(means[n, k], tally)[0], numbers(rstds[n, k], tally)[0]
            ds, dy, scales = C(0.0, tally), C(0.0, tally), {}
            for c in members:
                weight = numbers(w[c], tally)[0]
                s1, s2 = C(0.0, tally), C(0.0, tally)
                for v, d in zip(numbers(x[n, c], tally), numbers(g[n, c], tally), strict=True):
                    s1, s2 = s1 + d, s2 + d * v
                ds, dy = ds + s2 * weight, dy + s1 * weight
                scales[c] = weight * rstd
                dw[c] = dw[c] + (s2 - mean * s1) * rstd
                db[c] = db[c] + s1
            slope = (dy * mean - ds) * rstd * rstd * rstd * (1 / count)
            shift = -(slope * mean) - dy * rstd * (1 / count)
            for c in members:
                pairs = zip(numbers(x[n, c], tally), numbers(g[n, c], tally), strict=True)
                dx += [scales[c] * d + slope * v + shift for v, d in pairs]
    func = aten.native_group_norm_backward.default
    arguments = (g, x, means, rstds, w, batch, channels, size, groups, [True, True, True])
    result = func(*arguments)
    agree(dx + dw + db, torch.cat([r.flatten() for r in result]))
    assert counts(work_of(func, arguments, result, OperatorKind.NORMALIZATION)) == (tally.simple, tally.special)


def test_batch_norm_in_evaluation_streams() -> None:
    x, w = double(4, 3, 5), torch.ones(3, dtype=torch.float64)
    func = aten.native_batch_norm.default
    arguments = (x, w, w, w.clone(), w.clone(), False, 0.1, EPS)
    call: Call = to_call(func, arguments, {}, func(*arguments))
    (description,) = describe(call)
    assert description.work.reduction_bytes == 0
    assert description.work.simple_ops == 2 * 60 + 4 * 3
    assert len(call.outputs) == 3, "nothing but the results is written"


def test_weight_norm_and_its_gradient() -> None:
    v, g, d = double(3, 5), double(3, 1), double(3, 5)
    tally, back = Tally(), Tally()
    found: list[C] = []
    dv: list[C] = []
    dg: list[C] = []
    for n in range(3):
        r, scale = numbers(v[n], tally), numbers(g[n], tally)[0]
        square = total([a * a for a in r], tally)
        length = square.special(math.sqrt(square.value))
        factor = scale / length
        found += [a * factor for a in r]
        r, scale = numbers(v[n], back), numbers(g[n], back)[0]
        ds = numbers(d[n], back)
        inverse = 1.0 / C(length.value, back)
        slope = total([a * b for a, b in zip(ds, r, strict=True)], back) * inverse
        dg.append(slope)
        a_ = scale * inverse
        b_ = a_ * slope * inverse
        dv += [a_ * x - b_ * y for x, y in zip(ds, r, strict=True)]
    func = aten._weight_norm_interface.default
    result = func(v, g, 0)
    agree(found, result[0])
    assert counts(work_of(func, (v, g, 0), result, OperatorKind.NORMALIZATION)) == (tally.simple, tally.special)
    func = aten._weight_norm_interface_backward.default
    arguments = (d, v, g, result[1], 0)
    result = func(*arguments)
    agree(dv, result[0])
    agree(dg, result[1])
    assert counts(work_of(func, arguments, result, OperatorKind.NORMALIZATION)) == (back.simple, back.special)
