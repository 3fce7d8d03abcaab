"""Fused optimizer steps of one parameter, counted from their update equations.

Scalars that depend on the step alone (bias corrections, decayed rates) are not counted: one value a parameter.
"""

from __future__ import annotations

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import Lanes, Rule, keyword, on_lanes, optional_tensor, same_rule, tensor
from worklode.graph.operator import OperatorKind

OPTIMIZER = OperatorKind.OPTIMIZER
GRADIENT_OUTPUT = 1  # the schemas declare the gradient written, which happens only where it is unscaled


def _nonzero(call: Call, name: str) -> bool:
    return keyword(call, name, 0) not in {0, None}


def _step(call: Call, per_element: Lanes, *, reads: dict[int, int] | None = None) -> tuple[Description, ...]:
    """Describe a step; the gradient is negated to maximise, and multiplied and written back where it is unscaled."""
    unscales = isinstance(keyword(call, "grad_scale"), TensorMeta)
    total = per_element.plus(_nonzero(call, "maximize") + unscales).times(tensor(call, 0).elements)
    outputs = tuple(i for i in range(len(call.outputs)) if unscales or i != GRADIENT_OUTPUT)
    writes = {} if unscales else {GRADIENT_OUTPUT: 0}
    return on_lanes(call, OPTIMIZER, total, reads=reads, writes=writes, outputs=outputs)


def adam(*, decoupled: bool) -> Rule:
    """Rule of Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019).

    m += (1 - b1)·(g - m) (3); v = b2·v + (1 - b2)·g·g (4); d = sqrt(v)·c + eps (2 and a root); p -= s·m/d (2 and a
    division). Decay: g += w·p (2), decoupled p *= 1 - lr·w (1). AMSGrad: max(v) (1).
    """

    def rule(call: Call) -> tuple[Description, ...]:
        decay = _nonzero(call, "weight_decay") * (1 if decoupled else 2)
        maximum = optional_tensor(call, 4) is not None and _nonzero(call, "amsgrad")
        return _step(call, Lanes(11 + decay + maximum, 2))

    return rule


def sgd(call: Call) -> tuple[Description, ...]:
    """SGD: g += w·p (2); b = mu·b + (1 - damping)·g (2 to 3; first a move); Nesterov g += mu·b (2); p -= lr·g (2)."""
    first = bool(keyword(call, "is_first_step"))
    simple = 2 + 2 * _nonzero(call, "weight_decay")
    reads: dict[int, int] = {}
    if _nonzero(call, "momentum"):
        simple += 1 if first else 2 + _nonzero(call, "dampening")
        simple += 2 * _nonzero(call, "nesterov")
        if first:
            reads[2] = 0
    return _step(call, Lanes(simple), reads=reads)


def adagrad(call: Call) -> tuple[Description, ...]:
    """Adagrad: g += w·p (2); s += g·g (2); p -= r·g/(sqrt(s) + eps) (3, a root and a division)."""
    return _step(call, Lanes(5 + 2 * _nonzero(call, "weight_decay"), 2))


def scale_update(call: Call) -> tuple[Description, ...]:
    """`_amp_update_scale_`: a compare, two selects and a multiply on one value."""
    return on_lanes(call, OPTIMIZER, Lanes(4 * tensor(call, 0).elements))


RULES: dict[str, Rule] = {
    "_fused_adam": adam(decoupled=False),
    "_fused_adamw": adam(decoupled=True),
    "_fused_sgd": sgd,
    "_fused_adagrad": adagrad,
    **same_rule(scale_update, "_amp_update_scale"),
}
