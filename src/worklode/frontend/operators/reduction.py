"""Reductions: lane operations per element read, and per result.

Results of a plain reduction stream out as groups end, nothing is read twice: `reduction_bytes` is 0. The depth of the
adder tree over a group is its `serial_steps`.
"""

from __future__ import annotations

from worklode.frontend.call import Call, Description
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    ceil_log2,
    in_all,
    on_lanes,
    optional_tensor,
    overload,
    same_rule,
    tensor,
)
from worklode.graph.operator import OperatorKind

# Moments of a group in one pass, per element: add to the sum, square, add to the sum of squares; var = E[x²] - E[x]²
# in float32, as Flax's normalisation layers do on TPUs (`use_fast_variance=True`).
MOMENTS = Lanes(3)
# Per group, from the sums: mean, E[x²], mean², difference.
MOMENTS_OF_GROUP = Lanes(4)


def reduce(call: Call, per_element: Lanes, per_result: Lanes = Lanes()) -> tuple[Description, ...]:  # noqa: B008
    """Describe a reduction of the first argument to the first result."""
    x = tensor(call, 0)
    results = call.outputs[0].elements if call.outputs else 1
    group = x.elements // results if results else 0
    lanes = in_all(per_element.times(x.elements), per_result.times(results if x.elements else 0))
    return on_lanes(call, OperatorKind.REDUCTION, lanes, serial_steps=ceil_log2(group))


def folding(per_element: Lanes, per_result: Lanes = Lanes()) -> Rule:  # noqa: B008
    """Rule of a reduction with these counts."""
    return lambda call: reduce(call, per_element, per_result)


def total(call: Call) -> tuple[Description, ...]:
    """`sum`: n - 1 adds a group, so elements minus results (nothing where a sum over no dimension is a copy)."""
    x = tensor(call, 0)
    results = call.outputs[0].elements if call.outputs else 1
    group = x.elements // results if results else 0
    per_value = 2 if x.dtype.startswith("complex") else 1
    lanes = Lanes(per_value * max(0, x.elements - results))
    return on_lanes(call, OperatorKind.REDUCTION, lanes, serial_steps=ceil_log2(group))


def extreme(call: Call) -> tuple[Description, ...]:
    """`max`, `min`: a compare per element, a select for the index with `dim`; between two tensors, element-wise."""
    if overload(call).startswith("other") or (call.name.startswith("aten._foreach_m") and optional_tensor(call, 1)):
        return on_lanes(call, OperatorKind.ELEMENTWISE, Lanes(call.outputs[0].elements))
    return reduce(call, Lanes(2 if len(call.outputs) > 1 else 1))


def norm_lanes(order: object) -> tuple[Lanes, Lanes]:
    """Operations per element and per result of a vector norm of that order."""
    if order is None or order in {2}:
        return Lanes(2), Lanes(0, 1)
    if order in {1, float("inf"), float("-inf"), 0}:
        return Lanes(2), Lanes()
    return Lanes(3, 2), Lanes(1, 2)


def norm(call: Call) -> tuple[Description, ...]:
    """`norm(x, p, ...)`, `linalg_vector_norm`, `_foreach_norm`: 2-norm multiply and add, root; others from |x|^p."""
    order = call.args[1] if len(call.args) > 1 else None
    per_element, per_result = norm_lanes(order if isinstance(order, int | float) else None)
    return reduce(call, per_element, per_result)


def distance_norm(call: Call) -> tuple[Description, ...]:
    """`dist(x, y, p)`: a subtract, then the norm."""
    per_element, per_result = norm_lanes(call.args[2])
    return reduce(call, per_element.plus(1), per_result)


def variance(call: Call) -> tuple[Description, ...]:
    """`var`, `std`, `var_mean`, `std_mean`: moments in one pass; std takes a root per result."""
    root = 1 if call.packet.startswith("std") else 0
    return reduce(call, MOMENTS, MOMENTS_OF_GROUP.plus(1, root))


def pairwise_distance(call: Call) -> tuple[Description, ...]:
    """`_cdist_forward(x1, x2, p)`, `_pdist_forward(x, p)`: subtract and norm over the last dimension of every pair."""
    order = call.args[2] if call.packet == "_cdist_forward" else call.args[1]
    per_element, per_result = norm_lanes(order)
    pairs = call.outputs[0].elements
    width = tensor(call, 0).shape[-1]
    lanes = in_all(per_element.plus(1).times(pairs * width), per_result.times(pairs))
    return on_lanes(call, OperatorKind.REDUCTION, lanes, serial_steps=ceil_log2(width))


def pairwise_distance_backward(call: Call) -> tuple[Description, ...]:
    """Per pair and coordinate: difference, scale by g/d (p = 2) or by sign·|x|^(p-1), add; per pair one division."""
    grad = tensor(call, 0)
    order = call.args[3] if call.packet == "_cdist_backward" else call.args[2]
    width = tensor(call, 1).shape[-1]
    per_coordinate = Lanes(3) if order in {1, 2} else Lanes(5, 2)
    lanes = in_all(per_coordinate.times(grad.elements * width), Lanes(0, 1).times(grad.elements))
    return on_lanes(call, OperatorKind.REDUCTION, lanes)


def loss_scale_check(call: Call) -> tuple[Description, ...]:
    """`_amp_foreach_non_finite_check_and_unscale_`: finite test and multiply per gradient element."""
    x = tensor(call, 0)
    return on_lanes(call, OperatorKind.OPTIMIZER, Lanes(2 * x.elements))


def whole(count: int) -> Rule:
    """Rule of a test over whole operands that returns a truth value."""

    def rule(call: Call) -> tuple[Description, ...]:
        elements = max((t.elements for t in call.inputs), default=0)
        return on_lanes(call, OperatorKind.REDUCTION, Lanes(count * elements), serial_steps=ceil_log2(elements))

    return rule


def trace(call: Call) -> tuple[Description, ...]:
    """`trace`: adds along the diagonal."""
    x = tensor(call, 0)
    n = min(x.shape)
    return on_lanes(
        call, OperatorKind.REDUCTION, Lanes(max(0, n - 1)), reads={0: n * x.element_bytes}, serial_steps=ceil_log2(n)
    )


RULES: dict[str, Rule] = {
    **same_rule(total, "sum", "sum_to_size", "_foreach_sum"),
    "nansum": folding(Lanes(2)),
    "mean": folding(Lanes(1), Lanes(1)),
    "nanmean": folding(Lanes(3), Lanes(0, 1)),
    **same_rule(folding(Lanes(1)), "prod", "any", "all", "amax", "amin", "_is_all_true", "_is_any_true"),
    "segment_reduce": folding(Lanes(1)),
    "aminmax": folding(Lanes(2)),
    "_aminmax": folding(Lanes(2)),
    **same_rule(extreme, "max", "min"),
    **same_rule(folding(Lanes(2)), "argmax", "argmin", "count_nonzero"),
    **same_rule(variance, "var", "std", "var_mean", "std_mean"),
    **same_rule(norm, "norm", "linalg_vector_norm"),
    "dist": distance_norm,
    # running maximum, subtract, exp, add; per result a log and an add
    "logsumexp": folding(Lanes(3, 1), Lanes(1, 1)),
    **same_rule(pairwise_distance, "_cdist_forward", "_pdist_forward"),
    **same_rule(pairwise_distance_backward, "_cdist_backward", "_pdist_backward"),
    "_amp_foreach_non_finite_check_and_unscale": loss_scale_check,
    "equal": whole(2),
    "allclose": whole(6),
    "is_nonzero": whole(1),
    "trace": trace,
}
