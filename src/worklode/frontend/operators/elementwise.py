"""Element-wise operators: lane operations per result element, from the formula beside each entry.

`_foreach_*` of one tensor shares the entry of its base, and so do variants in place. x is the first operand, y the
second, g the gradient of the output.
"""

from __future__ import annotations

from collections.abc import Callable

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import Lanes, Rule, first_output, keyword, on_lanes
from worklode.graph.operator import OperatorKind

PerElement = Callable[[Call], Lanes]


def _scalar(call: Call, index: int) -> float | None:
    """Argument `index` where it is a number."""
    value = call.args[index] if index < len(call.args) else None
    return float(value) if isinstance(value, int | float) else None


def _is_complex(call: Call) -> bool:
    return any(t.dtype.startswith("complex") for t in call.outputs)


def _one_value(call: Call, index: int) -> bool:
    """Whether an operand is a number or a tensor of one element, so that its reciprocal is taken once."""
    value = call.args[index] if index < len(call.args) else None
    return not isinstance(value, TensorMeta) or value.elements == 1


def add(call: Call) -> Lanes:
    """Of x + alpha·y: an add, and a multiply where alpha ≠ 1; two reals where complex."""
    alpha = keyword(call, "alpha", 1)
    if alpha == 1 and len(call.args) > 2 and isinstance(call.args[2], int | float):
        alpha = call.args[2]  # add.Scalar takes alpha in place
    return Lanes((1 + (alpha != 1)) * (1 + _is_complex(call)))


def multiply(call: Call) -> Lanes:
    """Of x·y: one multiply; complex by complex four multiplies and two adds, complex by real two multiplies."""
    if not _is_complex(call):
        return Lanes(1)
    both = sum(t.dtype.startswith("complex") for t in call.inputs) == 2
    return Lanes(6 if both else 2)


def absolute(call: Call) -> Lanes:
    """Of |x|: one; complex sqrt(re² + im²)."""
    return Lanes(3, 1) if any(t.dtype.startswith("complex") for t in call.inputs) else Lanes(1)


def direction(call: Call) -> Lanes:
    """Of x/|x|: (x > 0) - (x < 0); complex by the reciprocal of the root, 0 kept by compare and select."""
    return Lanes(7, 2) if _is_complex(call) else Lanes(3)


def divide(call: Call) -> Lanes:
    """Of x/y: one special operation, or a multiply where y is one value; rounding modes add one."""
    rounding = 0 if keyword(call, "rounding_mode") is None else 1
    if _is_complex(call):
        return Lanes(8 + rounding, 1)  # x·conj(y) (6), |y|² shared with it (2), one reciprocal
    return Lanes(1 + rounding) if _one_value(call, 1) else Lanes(rounding, 1)


def remainder(call: Call) -> Lanes:
    """Of x - y·floor(x/y): division, floor, multiply, subtract."""
    return Lanes(4) if _one_value(call, 1) else Lanes(3, 1)


def power(call: Call) -> Lanes:
    """Of x^y: small integer powers by squaring, ±1/2 by root, -1 by reciprocal, else exp(y·log x)."""
    if not isinstance(call.args[0], TensorMeta):
        return Lanes(1, 1)  # c^y = exp(y·log c), the log once
    exponent = _scalar(call, 1)
    known = {
        0.0: Lanes(1),
        1.0: Lanes(1),
        2.0: Lanes(1),
        3.0: Lanes(2),
        4.0: Lanes(2),
        0.5: Lanes(0, 1),
        -0.5: Lanes(0, 1),
        -1.0: Lanes(0, 1),
        -2.0: Lanes(1, 1),
    }
    return known.get(exponent, Lanes(1, 2)) if exponent is not None else Lanes(1, 2)


def gelu(call: Call) -> Lanes:
    """erf: x/2·(1 + erf(x/√2)) = 4 + erf; tanh: x/2·(1 + tanh(x·(a + b·x²))) = 4 for the argument, tanh, 3."""
    return Lanes(7, 1) if keyword(call, "approximate", "none") == "tanh" else Lanes(4, 1)


def gelu_backward(call: Call) -> Lanes:
    """erf: g·(Φ + x·φ), Φ = (1 + erf(x/√2))/2 = 3 + erf, φ = c·exp(-x²/2) = 3 + exp, combined 3.

    tanh: t as forward (4 + tanh), g·((1 + t)/2 + x/2·(1 - t²)·(a + 3b·x²)) = 2 + 2 + 2 + 2 + 3.
    """
    return Lanes(15, 1) if keyword(call, "approximate", "none") == "tanh" else Lanes(9, 2)


def clamp(call: Call) -> Lanes:
    """One compare-and-select for every bound given."""
    bounds = [v for v in (*call.args[1:3], *(v for _, v in call.kwargs)) if v is not None]
    return Lanes(max(1, len(bounds)))


def lerp(call: Call) -> Lanes:
    """Of x + w·(y - x): subtract, multiply, add."""
    del call
    return Lanes(3)


def add_product(call: Call) -> Lanes:
    """Of x + value·(y·z): multiply, add, and a multiply where value ≠ 1."""
    return Lanes(2 + (_value(call) != 1))


def add_quotient(call: Call) -> Lanes:
    """Of x + value·(y/z): division, add, and a multiply where value ≠ 1."""
    return Lanes(1 + (_value(call) != 1), 1)


def _value(call: Call) -> object:
    """`value` of addcmul and addcdiv: a keyword, or the fourth argument of their `_foreach_` forms."""
    found = keyword(call, "value", 1)
    return call.args[3] if found == 1 and len(call.args) > 3 else found


# Lane operations per result element (simple, special), with the formula where the name does not say it.
COUNTS: dict[str, tuple[int, int]] = {
    # arithmetic
    "neg": (1, 0), "square": (1, 0), "maximum": (1, 0), "minimum": (1, 0), "fmax": (1, 0), "fmin": (1, 0),
    "clamp_min": (1, 0), "clamp_max": (1, 0), "floor": (1, 0), "ceil": (1, 0), "round": (1, 0), "trunc": (1, 0),
    "sign": (3, 0),  # (x > 0) - (x < 0)
    "frac": (2, 0), "rsub": (1, 0), "copysign": (3, 0), "signbit": (1, 0), "conj_physical": (1, 0),
    "_conj_physical": (1, 0), "deg2rad": (1, 0), "rad2deg": (1, 0), "complex": (2, 0), "linalg_cross": (3, 0),
    "heaviside": (4, 0), "nan_to_num": (6, 0),  # a compare and a select for each case
    "fake_quantize_per_tensor_affine_cachemask": (9, 0),  # scale, add, round, clamp, two bounds, subtract, scale
    "fake_quantize_per_channel_affine_cachemask": (9, 0),
    # comparison, logic, selection
    "eq": (1, 0), "ne": (1, 0), "lt": (1, 0), "le": (1, 0), "gt": (1, 0), "ge": (1, 0), "isnan": (1, 0),
    "isinf": (1, 0), "isfinite": (1, 0), "isposinf": (1, 0), "isneginf": (1, 0), "logical_and": (1, 0),
    "logical_or": (1, 0), "logical_not": (1, 0), "logical_xor": (1, 0), "bitwise_and": (1, 0), "bitwise_or": (1, 0),
    "bitwise_not": (1, 0), "bitwise_xor": (1, 0), "__and__": (1, 0), "__or__": (1, 0), "__xor__": (1, 0),
    "bitwise_left_shift": (1, 0), "bitwise_right_shift": (1, 0), "__lshift__": (1, 0), "__rshift__": (1, 0),
    "where": (1, 0), "masked_fill": (1, 0),
    # transcendental
    "exp": (0, 1), "exp2": (0, 1), "expm1": (1, 1), "log": (0, 1), "log2": (0, 1), "log10": (0, 1), "log1p": (1, 1),
    "sqrt": (0, 1), "rsqrt": (0, 1), "reciprocal": (0, 1), "sin": (0, 1), "cos": (0, 1), "tanh": (0, 1),
    "erf": (0, 1), "erfc": (1, 1), "asin": (0, 1), "acos": (0, 1), "atan": (0, 1),
    "tan": (0, 3),  # sin/cos
    "erfinv": (20, 1),  # Giles, Approximating the erfinv function (2010): log((1 - x)(1 + x)), degree-8 polynomial
    "sinh": (2, 2), "cosh": (2, 2),  # (e ± 1/e)/2, e = exp x
    "asinh": (3, 2), "acosh": (3, 2),  # log(x + sqrt(x² ± 1))
    "atanh": (3, 2),  # log((1 + x)/(1 - x))/2
    "atan2": (4, 2), "angle": (4, 2),  # atan(y/x), two compares and two selects for the quadrant
    "xlogy": (3, 1), "special_entr": (4, 1),
    "logaddexp": (6, 2), "logaddexp2": (6, 2),  # max + log(1 + exp(-|x - y|))
    "hypot": (3, 1), "sinc": (3, 2), "logit": (1, 2), "polar": (2, 2), "special_xlog1py": (4, 1),
    "ldexp": (1, 1),  # x·2^y
    # activations
    "relu": (1, 0), "relu6": (2, 0), "hardtanh": (2, 0), "threshold": (2, 0),
    "sigmoid": (2, 2),  # 1/(1 + exp(-x))
    "silu": (2, 2),  # x/(1 + exp(-x))
    "mish": (2, 3),  # x·tanh(log(1 + exp x))
    "hardswish": (5, 0),  # x·min(max(x + 3, 0), 6)/6
    "hardsigmoid": (4, 0),  # min(max(x + 3, 0), 6)/6
    "leaky_relu": (2, 0),  # max(x, a·x)
    "elu": (4, 1),  # x > 0 ? x : a·(exp x - 1)
    "celu": (5, 1),  # x > 0 ? x : a·(exp(x/a) - 1)
    "softplus": (5, 2),  # b·x > threshold ? x : log(1 + exp(b·x))/b
    "log_sigmoid_forward": (5, 2),  # min(x, 0) - log(1 + exp(-|x|))
    "softshrink": (3, 0),  # x - min(max(x, -l), l)
    "hardshrink": (4, 0),  # x < -l ? x : x > l ? x : 0
    "_prelu_kernel": (3, 0),  # x > 0 ? x : w·x
    "glu": (3, 2),  # a·sigmoid(b)
    # their gradients
    "threshold_backward": (2, 0),  # x > t ? g : 0
    "sigmoid_backward": (3, 0),  # g·s·(1 - s)
    "tanh_backward": (3, 0),  # g·(1 - t²)
    "silu_backward": (7, 2),  # g·s·(1 + x·(1 - s)), s = sigmoid(x)
    "mish_backward": (7, 4),  # g·(t + x·s·(1 - t²)), t = tanh(log(1 + e)), s = e/(1 + e), e = exp x
    "hardswish_backward": (7, 0),  # g·(x < -3 ? 0 : x > 3 ? 1 : x/3 + 1/2)
    "hardsigmoid_backward": (5, 0),  # x < -3 ? 0 : x > 3 ? 0 : g/6
    "hardtanh_backward": (4, 0),  # x < low ? 0 : x > high ? 0 : g
    "leaky_relu_backward": (3, 0),  # x > 0 ? g : a·g
    "elu_backward": (4, 1),  # x > 0 ? g : a·g·exp x
    "softplus_backward": (5, 2),  # b·x > threshold ? g : g·z/(z + 1), z = exp(b·x)
    "log_sigmoid_backward": (9, 2),  # g·((x < 0 ? 1 : 0) - (x < 0 ? 1 : -1)·z/(1 + z)), z = exp(-|x|)
    "softshrink_backward": (4, 0), "hardshrink_backward": (4, 0),  # x < -l ? g : x > l ? g : 0
    "_prelu_kernel_backward": (5, 0),  # x > 0 ? g : w·g, and x > 0 ? 0 : x·g
    "logit_backward": (6, 1),  # x < 0 ? 0 : x > 1 ? 0 : g/(x·(1 - x))
    "glu_backward": (3, 1),  # of a pair: g·s and g·s·(1 - s)·a, s = sigmoid(b): 6 and 2
    "rrelu_with_noise_backward": (1, 0),  # g·noise
    "native_dropout_backward": (2, 0),  # g·mask·scale
}  # fmt: skip

COMPUTED: dict[str, PerElement] = {
    "abs": absolute,
    "sgn": direction,
    "add": add,
    "sub": add,
    "subtract": add,
    "mul": multiply,
    "div": divide,
    "true_divide": divide,
    "floor_divide": lambda call: divide(call).plus(1),
    "remainder": remainder,
    "fmod": remainder,
    "pow": power,
    "float_power": power,
    "gelu": gelu,
    "gelu_backward": gelu_backward,
    "clamp": clamp,
    "clip": clamp,
    "lerp": lerp,
    "addcmul": add_product,
    "addcdiv": add_quotient,
}


def _constant(simple: int, special: int) -> PerElement:
    return lambda call: Lanes(simple, special)


def pointwise(per_element: PerElement) -> Rule:
    """Rule that charges `per_element` for every element of the first result and moves every operand once."""

    def rule(call: Call) -> tuple[Description, ...]:
        result = first_output(call)
        elements = result.elements if result is not None else 0
        return on_lanes(call, OperatorKind.ELEMENTWISE, per_element(call).times(elements))

    return rule


RULES: dict[str, Rule] = {
    **{name: pointwise(_constant(*count)) for name, count in COUNTS.items()},
    **{name: pointwise(rule) for name, rule in COMPUTED.items()},
}
