"""Loss functions that are one operator, and their gradients; x the input, y the target, g the incoming gradient."""

from __future__ import annotations

from worklode.frontend.call import Call, Description
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    ceil_log2,
    in_all,
    integer,
    on_lanes,
    optional_tensor,
    same_rule,
    tensor,
)
from worklode.graph.operator import OperatorKind

NO_REDUCTION, MEAN = 0, 1  # torch's numbering of reductions


def pointwise_loss(per_element: Lanes, *, reduction: int, weights: tuple[int, ...] = ()) -> Rule:
    """Rule of a loss of `per_element` added up unless `args[reduction]` keeps it; one multiply a weight."""

    def rule(call: Call) -> tuple[Description, ...]:
        x = tensor(call, 0)
        lanes = per_element.plus(sum(optional_tensor(call, w) is not None for w in weights)).times(x.elements)
        how = integer(call, reduction)
        if how == NO_REDUCTION:
            return on_lanes(call, OperatorKind.ELEMENTWISE, lanes)
        lanes = lanes.plus(max(0, x.elements - 1) + (how == MEAN and x.elements > 0))
        return on_lanes(call, OperatorKind.REDUCTION, lanes, serial_steps=ceil_log2(x.elements))

    return rule


def pointwise_loss_backward(per_element: Lanes, *, weights: tuple[int, ...] = ()) -> Rule:
    """Rule of its gradient, the multiply by g (and by 1/n, folded into it) included."""

    def rule(call: Call) -> tuple[Description, ...]:
        x = tensor(call, 1)
        lanes = per_element.plus(sum(optional_tensor(call, w) is not None for w in weights)).times(x.elements)
        return on_lanes(call, OperatorKind.ELEMENTWISE, lanes)

    return rule


def nll_loss(call: Call) -> tuple[Description, ...]:
    """`nll_loss_forward(x, target, weight, ...)`: one of the classes is looked up for each target.

    Per target: compare with the ignored index, negate, add; with class weights a second look-up, multiply and add.
    """
    x, target = tensor(call, 0), tensor(call, 1).elements
    weights = optional_tensor(call, 2)
    lanes = Lanes(3 * target) if weights is None else Lanes(5 * target)
    reads = {0: target * x.element_bytes}
    if weights is not None:
        reads[2] = target * weights.element_bytes
    return on_lanes(
        call,
        OperatorKind.GATHER,
        lanes.plus(0, int(integer(call, 3) == MEAN and target > 0)),
        reads=reads,
        random_accesses=target,
        random_access_bytes=x.element_bytes,
        serial_steps=ceil_log2(target) if integer(call, 3) != NO_REDUCTION else 0,
    )


def nll_loss_backward(call: Call) -> tuple[Description, ...]:
    """`nll_loss_backward(g, x, target, weight, ...)`: zeros with one element a target; x gives its shape only."""
    x, target = tensor(call, 1), tensor(call, 2).elements
    weights = optional_tensor(call, 3)
    reads = {1: 0}
    if weights is not None:
        reads[3] = target * weights.element_bytes
    return on_lanes(
        call,
        OperatorKind.SCATTER,
        Lanes(x.elements + (3 if weights is None else 4) * target),
        reads=reads,
        random_accesses=target,
        random_access_bytes=x.element_bytes,
    )


def multi_margin(call: Call) -> tuple[Description, ...]:
    """Σ_j max(0, margin - x_y + x_j)^p/C: subtract, add, compare, power, add."""
    return on_lanes(call, OperatorKind.REDUCTION, Lanes(5 * tensor(call, 0).elements))


def multi_margin_backward(call: Call) -> tuple[Description, ...]:
    """Subtract, add, compare, select, scale, and the sum for the target's own class."""
    return on_lanes(call, OperatorKind.ELEMENTWISE, Lanes(6 * tensor(call, 1).elements))


def multilabel_margin(x: int) -> Rule:
    """Rule of the multi-label margin loss and its gradient: 4 for each pair of target and class."""

    def rule(call: Call) -> tuple[Description, ...]:
        data = tensor(call, x)
        classes = data.shape[-1] if data.shape else 1
        lanes = Lanes(4 * data.elements * classes)
        return on_lanes(call, OperatorKind.REDUCTION, lanes, serial_steps=ceil_log2(data.elements))

    return rule


# Cells of the CTC lattice: T·N·(2·S + 1). Per cell log-sum-exp of three (2 compares, 3 subtracts, 3 exp, 2 adds, log,
# add) and the add of the log-probability.
CTC_CELL = Lanes(9, 4)


def ctc(*, log_probs: int, targets: int, sweeps: int) -> Rule:
    """Rule of `_ctc_loss` (alpha) and its gradient (beta, then the class sums): a scan over T dependent steps."""

    def rule(call: Call) -> tuple[Description, ...]:
        x, labels = tensor(call, log_probs), tensor(call, targets)
        steps, batch = x.shape[0], x.shape[1] if len(x.shape) > 2 else 1
        longest = labels.shape[-1] if len(labels.shape) > 1 else -(-labels.elements // max(1, batch))
        cells = steps * batch * (2 * longest + 1)
        lanes = in_all(CTC_CELL.times(cells * sweeps), Lanes(3, 2).times(x.elements) if sweeps > 1 else Lanes())
        return on_lanes(call, OperatorKind.SCAN, lanes, serial_steps=steps)

    return rule


# d = |x - y|: d < b ? d²/(2·b) : d - b/2; Huber: d < b ? d²/2 : b·(d - b/2)
_SMOOTH, _HUBER = Lanes(7), Lanes(8)
# -(y·log x + (1 - y)·log(1 - x)): two logs, two clamps, two subtracts, two multiplies, add, negate
_BCE = Lanes(8, 2)
# (1 - y)·x - logsigmoid(x), the latter min(x, 0) - log(1 + exp(-|x|))
_BCE_LOGITS = Lanes(8, 2)

RULES: dict[str, Rule] = {
    "mse_loss": pointwise_loss(Lanes(2), reduction=2),
    "mse_loss_backward": pointwise_loss_backward(Lanes(2)),
    "smooth_l1_loss": pointwise_loss(_SMOOTH, reduction=2),
    "smooth_l1_loss_backward": pointwise_loss_backward(Lanes(5)),  # g·min(max((x - y)/b, -1), 1)
    "huber_loss": pointwise_loss(_HUBER, reduction=2),
    "huber_loss_backward": pointwise_loss_backward(Lanes(4)),  # g·min(max(x - y, -b), b)
    "binary_cross_entropy": pointwise_loss(_BCE, reduction=3, weights=(2,)),
    # g·(x - y)/max(x·(1 - x), eps)
    "binary_cross_entropy_backward": pointwise_loss_backward(Lanes(5, 1), weights=(3,)),
    "binary_cross_entropy_with_logits": pointwise_loss(_BCE_LOGITS, reduction=4, weights=(2, 3)),
    # log(1 + exp(-x·y)); -y·z/(1 + z)·g
    "soft_margin_loss": pointwise_loss(Lanes(3, 2), reduction=2),
    "soft_margin_loss_backward": pointwise_loss_backward(Lanes(5, 2)),
    **same_rule(nll_loss, "nll_loss_forward", "nll_loss2d_forward"),
    **same_rule(nll_loss_backward, "nll_loss_backward", "nll_loss2d_backward"),
    "multi_margin_loss": multi_margin,
    "multi_margin_loss_backward": multi_margin_backward,
    "multilabel_margin_loss_forward": multilabel_margin(0),
    "multilabel_margin_loss_backward": multilabel_margin(1),
    "_ctc_loss": ctc(log_probs=0, targets=1, sweeps=1),
    "_ctc_loss_backward": ctc(log_probs=1, targets=2, sweeps=2),
}
