"""Formulas of element-wise operators on counting numbers. g is the gradient of the output."""

from __future__ import annotations

import math

from .counting import Counted, erf, exp, least, log, most, select, sqrt, tanh

C = Counted
GELU_SCALE = math.sqrt(2.0 / math.pi)
GELU_CUBE = 0.044715 * GELU_SCALE


def sigmoid(x: C) -> C:
    return 1.0 / (1.0 + exp(-x))


def silu(x: C) -> C:
    return x / (1.0 + exp(-x))


def gelu(x: C) -> C:
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))


def gelu_tanh(x: C) -> C:
    return 0.5 * x * (1.0 + tanh(x * (GELU_SCALE + GELU_CUBE * (x * x))))


def mish(x: C) -> C:
    return x * tanh(log(1.0 + exp(x)))


def hardswish(x: C) -> C:
    return x * least(most(x + 3.0, 0.0), 6.0) / 6.0


def hardsigmoid(x: C) -> C:
    return least(most(x + 3.0, 0.0), 6.0) / 6.0


def hardtanh(x: C) -> C:
    return least(most(x, -1.0), 1.0)


def leaky_relu(x: C) -> C:
    return most(x, 0.01 * x)


def elu(x: C) -> C:
    return select(x > 0.0, x, 1.0 * (exp(x) - 1.0))


def celu(x: C) -> C:
    return select(x > 0.0, x, 2.0 * (exp(x / 2.0) - 1.0))


def softplus(x: C) -> C:
    scaled = 1.5 * x
    return select(scaled > 4.0, x, log(1.0 + exp(scaled)) / 1.5)


def log_sigmoid(x: C) -> C:
    return least(x, 0.0) - log(1.0 + exp(-abs(x)))


def softshrink(x: C) -> C:
    return x - least(most(x, -0.5), 0.5)


def hardshrink(x: C) -> C:
    return select(x < -0.5, x, select(x > 0.5, x, 0.0))


def prelu(x: C, w: C) -> C:
    return select(x > 0.0, x, w * x)


def threshold(x: C) -> C:
    return select(x > 0.4, x, 7.0)


def sinh(x: C) -> C:
    e = exp(x)
    return 0.5 * (e - 1.0 / e)


def atanh(x: C) -> C:
    return 0.5 * log((1.0 + x) / (1.0 - x))


def asinh(x: C) -> C:
    return log(x + sqrt(x * x + 1.0))


def logaddexp(x: C, y: C) -> C:
    return most(x, y) + log(1.0 + exp(-abs(x - y)))


def lerp(x: C, y: C) -> C:
    return x + 0.3 * (y - x)


def addcmul(x: C, y: C, z: C) -> C:
    return x + 0.5 * (y * z)


def addcdiv(x: C, y: C, z: C) -> C:
    return x + 0.5 * (y / z)


def remainder(x: C, y: C) -> C:
    return x - y * (x / y)._simple(math.floor(x.value / y.value))


# ----------------------------------------------------------------------------------------------------- gradients


def sigmoid_backward(g: C, s: C) -> C:
    return g * (s * (1.0 - s))


def tanh_backward(g: C, t: C) -> C:
    return g * (1.0 - t * t)


def silu_backward(g: C, x: C) -> C:
    s = sigmoid(x)
    return g * (s * (1.0 + x * (1.0 - s)))


def gelu_backward(g: C, x: C) -> C:
    distribution = 0.5 * (1.0 + erf(x * math.sqrt(0.5)))
    density = (1.0 / math.sqrt(2.0 * math.pi)) * exp(-0.5 * (x * x))
    return g * (distribution + x * density)


def gelu_tanh_backward(g: C, x: C) -> C:
    square = x * x
    t = tanh(x * (GELU_SCALE + GELU_CUBE * square))
    slope = (0.5 * x) * (1.0 - t * t) * (GELU_SCALE + (3.0 * GELU_CUBE) * square)
    return g * ((0.5 + 0.5 * t) + slope)


def mish_backward(g: C, x: C) -> C:
    e = exp(x)
    n = 1.0 + e
    t = tanh(log(n))
    return g * (t + x * (e / n) * (1.0 - t * t))


def hardswish_backward(g: C, x: C) -> C:
    return g * select(x < -3.0, 0.0, select(x > 3.0, 1.0, x / 3.0 + 0.5))


def hardsigmoid_backward(g: C, x: C) -> C:
    return select(x < -3.0, 0.0, select(x > 3.0, 0.0, g / 6.0))


def hardtanh_backward(g: C, x: C) -> C:
    return select(x < -1.0, 0.0, select(x > 1.0, 0.0, g))


def leaky_relu_backward(g: C, x: C) -> C:
    return select(x > 0.0, g, 0.01 * g)


def elu_backward(g: C, x: C) -> C:
    return select(x > 0.0, g, 1.0 * g * exp(x))


def softplus_backward(g: C, x: C) -> C:
    scaled = 1.5 * x
    z = exp(scaled)
    return select(scaled > 4.0, g, g * z / (z + 1.0))


def log_sigmoid_backward(g: C, x: C) -> C:
    negative = x < 0.0
    z = exp(-abs(x))
    return g * (select(negative, 1.0, 0.0) - select(negative, 1.0, -1.0) * (z / (1.0 + z)))


def softshrink_backward(g: C, x: C) -> C:
    return select(x < -0.5, g, select(x > 0.5, g, 0.0))


def prelu_backward(g: C, x: C, w: C) -> tuple[C, C]:
    positive = x > 0.0
    return select(positive, g, w * g), select(positive, 0.0, x * g)


def glu_backward(g: C, a: C, b: C) -> tuple[C, C]:
    s = sigmoid(b)
    of_a = g * s
    return of_a, of_a * (1.0 - s) * a


# -------------------------------------------------------------------------------------------------------- losses


def smooth_l1(x: C, y: C) -> C:
    d = abs(x - y)
    return select(d < 1.5, (0.5 / 1.5) * d * d, d - 0.75)


def smooth_l1_backward(g: C, x: C, y: C) -> C:
    return g * least(most((x - y) / 1.5, -1.0), 1.0)


def huber(x: C, y: C) -> C:
    d = abs(x - y)
    return select(d < 1.5, 0.5 * d * d, 1.5 * (d - 0.75))


def huber_backward(g: C, x: C, y: C) -> C:
    return g * least(most(x - y, -1.5), 1.5)


def squared_error(x: C, y: C) -> C:
    d = x - y
    return d * d


def binary_cross_entropy(x: C, y: C) -> C:
    return -(y * most(log(x), -100.0) + (1.0 - y) * most(log(1.0 - x), -100.0))


def binary_cross_entropy_backward(g: C, x: C, y: C) -> C:
    return g * ((x - y) / most((1.0 - x) * x, 1e-12))


def binary_cross_entropy_with_logits(x: C, y: C) -> C:
    return (1.0 - y) * x - log_sigmoid(x)


def soft_margin(x: C, y: C) -> C:
    return log(1.0 + exp(-x * y))


def soft_margin_backward(g: C, x: C, y: C) -> C:
    minus = -y
    z = exp(minus * x)
    return g * (minus * z / (1.0 + z))


# ---------------------------------------------------------------------------------------------- recurrent cells


def lstm_cell(i: C, f: C, c: C, o: C, hi: C, hf: C, hc: C, ho: C, cx: C) -> tuple[C, C]:
    i, f, o = sigmoid(i + hi), sigmoid(f + hf), sigmoid(o + ho)
    state = f * cx + i * tanh(c + hc)
    return o * tanh(state), state


def lstm_cell_backward(dh: C, dc: C, cx: C, cy: C, i: C, f: C, c: C, o: C) -> tuple[C, C, C, C, C]:
    t = tanh(cy)
    of_o = dh * t * (o * (1.0 - o))
    of_state = dc + dh * o * (1.0 - t * t)
    of_i = of_state * c * (i * (1.0 - i))
    of_f = of_state * cx * (f * (1.0 - f))
    of_c = of_state * i * (1.0 - c * c)
    return of_i, of_f, of_c, of_o, of_state * f


def gru_cell(ir: C, iz: C, i_n: C, hr: C, hz: C, hn: C, h: C) -> C:
    r, z = sigmoid(ir + hr), sigmoid(iz + hz)
    n = tanh(i_n + r * hn)
    return n + z * (h - n)


# ----------------------------------------------------------------------------------------------------- optimizers


def adam(p: C, g: C, m: C, v: C) -> tuple[C, C, C]:
    """Third step of Adam: rate 0.1, betas 0.9 and 0.99, eps 1e-8."""
    m = m + 0.1 * (g - m)
    v = 0.99 * v + 0.01 * g * g
    denominator = sqrt(v) * (1.0 / math.sqrt(1.0 - 0.99**3)) + 1e-8
    return p - (0.1 / (1.0 - 0.9**3)) * (m / denominator), m, v


def adam_with_decay(p: C, g: C, m: C, v: C) -> tuple[C, C, C]:
    return adam(p, g + 0.3 * p, m, v)


def adamw(p: C, g: C, m: C, v: C) -> tuple[C, C, C]:
    return adam(p * (1.0 - 0.1 * 0.3), g, m, v)


def sgd(p: C, g: C) -> C:
    return p - 0.1 * g


def sgd_nesterov(p: C, g: C, b: C) -> tuple[C, C]:
    g = g + 0.3 * p
    b = 0.9 * b + g
    return p - 0.1 * (g + 0.9 * b), b


def sgd_dampened(p: C, g: C, b: C) -> tuple[C, C]:
    b = 0.9 * b + 0.8 * g
    return p - 0.1 * b, b


def adagrad(p: C, g: C, s: C) -> tuple[C, C]:
    s = s + g * g
    return p - 0.1 * (g / (sqrt(s) + 1e-10)), s
