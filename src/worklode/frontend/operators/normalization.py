"""Softmax and normalisation layers with their gradients: a group is read, then each element is finished from it.

`reduction_bytes` is one group (a row, a channel, a group of channels): what has to stay on chip to be read once.
The depth of the tree over a group is not in `serial_steps`: the cost model adds it where `reduction_bytes` says so.
Moments are those of `reduction.MOMENTS`. Scale and shift are folded per channel where a channel is a whole group.
"""

from __future__ import annotations

from math import prod

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.reduction import MOMENTS, MOMENTS_OF_GROUP
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    ceil_log2,
    flag,
    in_all,
    integer,
    integers,
    on_lanes,
    optional_tensor,
    same_rule,
    tensor,
)
from worklode.frontend.operators.scan_sort import length_along
from worklode.graph.operator import OperatorKind

NORMALIZATION = OperatorKind.NORMALIZATION
# eps, then the reciprocal root: per group.
RECIPROCAL_ROOT = Lanes(1, 1)


# ------------------------------------------------------------------------------------------------------- softmax


def softmax_rule(per_element: Lanes, per_row: Lanes, *, dim: int, operands: int) -> Rule:
    """Rule of a softmax or its gradient along `args[dim]`; `operands` tensors have to be held for a row."""

    def rule(call: Call) -> tuple[Description, ...]:
        x = tensor(call, 0)
        row = length_along(x, call.args[dim])
        rows = x.elements // row if row else 0
        lanes = in_all(per_element.times(x.elements), per_row.times(rows))
        held = sum(tensor(call, i).element_bytes for i in range(operands)) * row
        return on_lanes(call, OperatorKind.SOFTMAX, lanes, reduction_bytes=held if rows else 0)

    return rule


# ------------------------------------------------------------------------------------------ layer and RMS norm


def _row(call: Call, shape_argument: int) -> int:
    return prod(integers(call, shape_argument))


def layer_norm(call: Call) -> tuple[Description, ...]:
    """Of y = (x - mean)·rstd·w + b: moments, subtract, multiply, and one more for each of w and b."""
    x, row = tensor(call, 0), _row(call, 1)
    affine = sum(optional_tensor(call, i) is not None for i in (2, 3))
    return _grouped(call, x, row, MOMENTS.plus(2 + affine), in_all(MOMENTS_OF_GROUP, RECIPROCAL_ROOT), held=1)


def layer_norm_backward(call: Call) -> tuple[Description, ...]:
    """Of x̂ (2); g = dy·w (1); Σg, Σg·x̂ (3); dx = rstd·(g - a - x̂·b) (4); dw += dy·x̂ (2); db += dy (1)."""
    x, row = tensor(call, 1), _row(call, 2)
    wanted = _mask(call, 7, 3)
    weight = optional_tensor(call, 5) is not None
    simple = 2 * (wanted[0] or wanted[1])
    simple += (weight + 3 + 4) * wanted[0] + 2 * wanted[1] + wanted[2]
    unread = _not_read(bias=6, weight=5, x=1 if not any(wanted[:2]) else None, wanted=wanted[0])
    return _grouped(call, x, row, Lanes(simple), Lanes(2), held=2 if wanted[0] else 0, unread=unread)


def rms_norm(call: Call) -> tuple[Description, ...]:
    """Of y = x·rstd·w with rstd = 1/sqrt(mean(x²) + eps): square, add, multiply, multiply by w."""
    x, row = tensor(call, 0), _row(call, 1)
    weight = optional_tensor(call, 2) is not None
    return _grouped(call, x, row, Lanes(3 + weight), RECIPROCAL_ROOT.plus(1), held=1)


def rms_norm_backward(call: Call) -> tuple[Description, ...]:
    """Of x̂ = x·rstd (1); g = dy·w (1); Σg·x̂ (2); dx = rstd·(g - x̂·b) (3); dw += dy·x̂ (2)."""
    x, row = tensor(call, 1), _row(call, 2)
    wanted = _mask(call, 5, 2)
    weight = optional_tensor(call, 4) is not None
    simple = (wanted[0] or wanted[1]) + (weight + 2 + 3) * wanted[0] + 2 * wanted[1]
    unread = () if wanted[0] else (4,)
    return _grouped(call, x, row, Lanes(simple), Lanes(1), held=2 if wanted[0] else 0, unread=unread)


# ------------------------------------------------------------------------------------------ group and batch norm


def group_norm(call: Call) -> tuple[Description, ...]:
    """Moments per group of channels; per channel mean and rstd fold into a scale and a shift (3), then 2 an element."""
    x = tensor(call, 0)
    batch, channels, groups = integer(call, 3), integer(call, 4), integer(call, 6)
    row = x.elements // (batch * groups) if batch * groups else 0
    per_group = in_all(MOMENTS_OF_GROUP, RECIPROCAL_ROOT)
    return _grouped(call, x, row, MOMENTS.plus(2), per_group, held=1, extra=Lanes(3 * batch * channels))


def group_norm_backward(call: Call) -> tuple[Description, ...]:
    """Per channel Σdy and Σdy·x (3 an element); dx = a·dy + b·x + c (4 an element); dw, db from the channel sums."""
    x = tensor(call, 1)
    batch, channels, groups = integer(call, 5), integer(call, 6), integer(call, 8)
    wanted = _mask(call, 9, 3)
    row = x.elements // (batch * groups) if batch * groups else 0
    # Per channel the sums weighted by w added up over the group (4) and a = w·rstd (1); dw += (Σdy·x - mean·Σdy)·rstd
    # (4); db += Σdy (1). Per group b = (mean·Σw·dy - Σw·dy·x)·rstd³/n (6) and c = -b·mean - Σw·dy·rstd/n (5).
    per_channel = 5 * wanted[0] + 4 * wanted[1] + wanted[2]
    per_group = Lanes(11 if wanted[0] else 0)
    return _grouped(
        call,
        x,
        row,
        Lanes(3 + 4 * wanted[0]),
        per_group,
        held=2 if wanted[0] else 0,
        extra=Lanes(per_channel * batch * channels),
    )


def batch_norm(training: int | bool) -> Rule:
    """Rule of batch norm: moments per channel (3 an element) in training, folded scale and shift (2 an element).

    Per channel: moments, reciprocal root, fold (3); running mean and variance (3 each) and the unbiased factor (1).
    Without training the running statistics are folded, and x streams. `training` is the flag's argument or its value.
    """

    def rule(call: Call) -> tuple[Description, ...]:
        x = tensor(call, 0)
        without_statistics = call.name.endswith("no_stats")  # (input, weight, bias, training, momentum, eps)
        place = 3 if without_statistics else training
        row = _channel(x)
        if not (place if isinstance(place, bool) else flag(call, place)):
            return _grouped(call, x, row, Lanes(2), RECIPROCAL_ROOT.plus(3), held=0)
        per_channel = in_all(MOMENTS_OF_GROUP, RECIPROCAL_ROOT.plus(3), Lanes(7))
        return _grouped(call, x, row, MOMENTS.plus(2), per_channel, held=1)

    return rule


def batch_norm_backward(*, grad: int, x: int, training: int | None, mask: int | None) -> Rule:
    """Rule of its gradient: Σdy (1), Σdy·(x - mean) (3); dx = a·dy + b·x + c (4) in training, a·dy (1) else.

    Per channel dw = Σdy·(x - mean)·rstd (1), a = w·rstd (1), b = -a·rstd²·Σ/n (5), c = -a·Σdy/n - b·mean (5); without
    training rstd from the running variance (1 and a root), a and dw.
    """

    def rule(call: Call) -> tuple[Description, ...]:
        data = tensor(call, x)
        in_training = training is None or flag(call, training)
        wanted = _mask(call, mask, 3) if mask is not None else (True, True, True)
        sums = in_training or wanted[1]
        simple = 3 * sums + (sums or wanted[2]) + (4 if in_training else 1) * wanted[0]
        held = 2 if in_training and wanted[0] else 0
        assert tensor(call, grad).shape == data.shape
        # Training reads the statistics of the batch, evaluation the running ones.
        unread = (3, 4) if in_training else (5, 6)
        per_channel = Lanes(12) if in_training else RECIPROCAL_ROOT.plus(2)
        return _grouped(call, data, _channel(data), Lanes(simple), per_channel, held=held, unread=unread)

    return rule


def _channel(x: TensorMeta) -> int:
    channels = x.shape[1] if len(x.shape) > 1 else 1
    return x.elements // channels if channels else 0


def batch_statistics(call: Call) -> tuple[Description, ...]:
    """`batch_norm_stats`, `batch_norm_update_stats` of synchronised batch norm: moments, mean and rstd per channel."""
    x = tensor(call, 0)
    return _grouped(call, x, _channel(x), MOMENTS, in_all(MOMENTS_OF_GROUP, RECIPROCAL_ROOT), held=0)


def batch_norm_apply(per_element: int) -> Rule:
    """Rule of the element-wise half of synchronised batch norm and its gradient."""
    return lambda call: _grouped(call, tensor(call, 0), _channel(tensor(call, 0)), Lanes(per_element), Lanes(4), held=0)


def weight_norm(call: Call) -> tuple[Description, ...]:
    """Of w = v·(g/|v|) with a norm per slice of `dim`: square, add, multiply; per slice a root, a division."""
    v = tensor(call, 0)
    return _grouped(call, v, v.elements // max(1, tensor(call, 1).elements), Lanes(3), Lanes(0, 2), held=1)


def weight_norm_backward(call: Call) -> tuple[Description, ...]:
    """Σ dw·v (2); dv = a·dw - b·v (3); per slice 1/|v|, dg = Σ/|v|, a = g/|v|, b = a·dg/|v| (4 and a division)."""
    v = tensor(call, 1)
    return _grouped(call, v, v.elements // max(1, tensor(call, 2).elements), Lanes(5), Lanes(4, 1), held=2)


def renorm(call: Call) -> tuple[Description, ...]:
    """`renorm`, `embedding_renorm_`: norm of each slice (2), compare, scale (1)."""
    x = tensor(call, 0)
    return _grouped(call, x, x.shape[-1] if x.shape else 1, Lanes(3), Lanes(2, 2), held=1)


def _not_read(*, bias: int, weight: int, x: int | None, wanted: bool) -> tuple[int, ...]:
    """Arguments a layer-norm gradient does not read: the bias, the weight without dx, x where only db is wanted."""
    return (bias, *(() if wanted else (weight,)), *(() if x is None else (x,)))


def _mask(call: Call, index: int, length: int) -> tuple[bool, ...]:
    value = call.args[index]
    return tuple(bool(v) for v in value) if isinstance(value, tuple) else (True,) * length


def _grouped(
    call: Call,
    x: TensorMeta,
    row: int,
    per_element: Lanes,
    per_group: Lanes,
    *,
    held: int,
    extra: Lanes = Lanes(),  # noqa: B008 (an immutable value)
    unread: tuple[int, ...] = (),
) -> tuple[Description, ...]:
    """Describe work on groups of `row` elements of x of which `held` tensors have to be held."""
    groups = x.elements // row if row else 0
    lanes = in_all(per_element.times(x.elements), per_group.times(groups), extra if groups else Lanes())
    return on_lanes(
        call,
        NORMALIZATION,
        lanes,
        reads=dict.fromkeys(unread, 0),
        reduction_bytes=held * row * x.element_bytes if groups else 0,
        serial_steps=0 if held else ceil_log2(row),
    )


RULES: dict[str, Rule] = {
    # row maximum, subtract, exp, row sum, multiply by its reciprocal
    **same_rule(softmax_rule(Lanes(4, 1), Lanes(0, 1), dim=1, operands=1), "_softmax", "softmax", "_safe_softmax"),
    # row maximum, subtract, exp, row sum, subtract (maximum + log of the sum)
    **same_rule(softmax_rule(Lanes(4, 1), Lanes(1, 1), dim=1, operands=1), "_log_softmax", "log_softmax"),
    # Σ dy·y (2), (dy - Σ)·y (2)
    "_softmax_backward_data": softmax_rule(Lanes(4), Lanes(), dim=2, operands=2),
    # Σ dy (1), dy - exp(y)·Σ
    "_log_softmax_backward_data": softmax_rule(Lanes(3, 1), Lanes(), dim=2, operands=1),
    "_masked_softmax": softmax_rule(Lanes(5, 1), Lanes(0, 1), dim=2, operands=1),
    "native_layer_norm": layer_norm,
    "native_layer_norm_backward": layer_norm_backward,
    **same_rule(rms_norm, "rms_norm", "_fused_rms_norm"),
    "_fused_rms_norm_backward": rms_norm_backward,
    "native_group_norm": group_norm,
    "native_group_norm_backward": group_norm_backward,
    **same_rule(
        batch_norm(5), "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
    ),
    "_batch_norm_with_update": batch_norm(True),
    "_batch_norm_with_update_functional": batch_norm(True),
    "_native_batch_norm_legit_no_training": batch_norm(False),
    "_batch_norm_no_update": batch_norm(False),
    "native_batch_norm_backward": batch_norm_backward(grad=0, x=1, training=7, mask=9),
    "batch_norm_backward": batch_norm_backward(grad=0, x=1, training=7, mask=9),
    "cudnn_batch_norm_backward": batch_norm_backward(grad=1, x=0, training=None, mask=None),
    "miopen_batch_norm_backward": batch_norm_backward(grad=1, x=0, training=None, mask=None),
    **same_rule(batch_statistics, "batch_norm_stats", "batch_norm_update_stats"),
    "batch_norm_elemt": batch_norm_apply(2),
    "batch_norm_backward_reduce": batch_norm_apply(4),
    "batch_norm_backward_elemt": batch_norm_apply(4),
    "_weight_norm_interface": weight_norm,
    "_weight_norm_interface_backward": weight_norm_backward,
    **same_rule(renorm, "renorm", "embedding_renorm"),
}  # fmt: skip
