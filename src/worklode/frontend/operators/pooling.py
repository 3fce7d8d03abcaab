"""Pooling of one to three spatial dimensions and its gradients.

A window counts all its taps, those in the padding too, as torch's FLOP convention does for convolutions; adaptive
windows are counted exactly. Indices of maxima are local, so no access counts as scattered.
"""

from __future__ import annotations

from math import prod

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.convolution import touched_positions
from worklode.frontend.operators.rule import Lanes, Rule, integers, on_lanes, same_rule, tensor
from worklode.graph.operator import OperatorKind

POOLING = OperatorKind.POOLING
MAX_TAP = 2  # compare, select the index
MEAN_TAP = 1  # add


def _windows(call: Call, x: TensorMeta, result: tuple[int, ...], first: int, *, dilated: bool) -> tuple[int, int]:
    """Taps of a window, and elements of x some window covers; `first` is the argument of the kernel size."""
    rank = _spatial(call)
    kernel = integers(call, first, rank)
    stride = integers(call, first + 1, rank) or kernel
    padding = integers(call, first + 2, rank)
    dilation = integers(call, first + 3, rank) if dilated else (1,) * rank
    shape = x.shape[len(x.shape) - rank :]
    covered = prod(
        touched_positions(
            length=shape[d],
            outputs=result[len(result) - rank + d],
            taps=kernel[d],
            stride=stride[d],
            padding=padding[d],
            dilation=dilation[d],
        )
        for d in range(rank)
    )
    outer = prod(x.shape[: len(x.shape) - rank])
    return prod(kernel), outer * covered


def _spatial(call: Call) -> int:
    """Spatial dimensions, from the `1d`, `2d`, `3d` in the name."""
    return next(int(d) for d in "123" if f"{d}d" in call.packet)


def pool(tap_ops: int, *, mean: bool) -> Rule:
    """Rule of a pooling with sliding windows: `tap_ops` a tap, and a multiply a result for a mean."""

    def rule(call: Call) -> tuple[Description, ...]:
        x, result = tensor(call, 0), call.outputs[0]
        taps, covered = _windows(call, x, result.shape, 1, dilated=not mean)
        lanes = Lanes((tap_ops * taps + mean) * result.elements)
        return on_lanes(call, POOLING, lanes, reads={0: covered * x.element_bytes})

    return rule


def mean_pool_backward(call: Call) -> tuple[Description, ...]:
    """A scale per element of the gradient, an add per tap, zeros at first."""
    grad = tensor(call, 0)
    taps = prod(integers(call, 2, _spatial(call)))
    return on_lanes(
        call, POOLING, Lanes((taps * MEAN_TAP + 1) * grad.elements + call.outputs[0].elements), reads={1: 0}
    )


def max_pool_backward(call: Call) -> tuple[Description, ...]:
    """Zeros, and an add per element of the gradient at the index kept; the input is not read."""
    grad = tensor(call, 0)
    return on_lanes(call, POOLING, Lanes(grad.elements + call.outputs[0].elements), reads={1: 0})


def adaptive_taps(length: int, results: int) -> int:
    """Taps of all windows of one dimension: window i is [floor(i·L/R), ceil((i + 1)·L/R))."""
    return sum(-(-(i + 1) * length // results) - i * length // results for i in range(results))


def _all_adaptive_taps(large: TensorMeta, small: TensorMeta, rank: int) -> int:
    outer = prod(large.shape[: len(large.shape) - rank])
    return outer * prod(
        adaptive_taps(big, little) for big, little in zip(large.shape[-rank:], small.shape[-rank:], strict=True)
    )


def adaptive_pool(tap_ops: int, *, mean: bool) -> Rule:
    """Rule of an adaptive pooling."""

    def rule(call: Call) -> tuple[Description, ...]:
        x, result = tensor(call, 0), call.outputs[0]
        taps = _all_adaptive_taps(x, result, _spatial(call))
        return on_lanes(call, POOLING, Lanes(tap_ops * taps + mean * result.elements))

    return rule


def adaptive_mean_backward(call: Call) -> tuple[Description, ...]:
    """A scale per element of the gradient, an add per tap, zeros at first; the input gives its shape only."""
    grad, result = tensor(call, 0), call.outputs[0]
    taps = _all_adaptive_taps(result, grad, _spatial(call))
    return on_lanes(call, POOLING, Lanes(taps + grad.elements + result.elements), reads={1: 0})


def fractional_pool(call: Call) -> tuple[Description, ...]:
    """`fractional_max_pool2d(x, kernel, output, samples)`: windows of full size at random places."""
    taps = prod(integers(call, 1, _spatial(call)))
    return on_lanes(call, POOLING, Lanes(MAX_TAP * taps * call.outputs[0].elements))


def unpool(call: Call) -> tuple[Description, ...]:
    """`max_unpool2d(x, indices, size)`: zeros with x laid into them."""
    return on_lanes(call, POOLING, Lanes(tensor(call, 0).elements + call.outputs[0].elements))


RULES: dict[str, Rule] = {
    **same_rule(
        pool(MAX_TAP, mean=False), "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"
    ),
    **same_rule(pool(1, mean=False), "max_pool1d", "max_pool2d", "max_pool3d", "mkldnn_max_pool2d"),
    **same_rule(pool(MEAN_TAP, mean=True), "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    **same_rule(mean_pool_backward, "avg_pool2d_backward", "avg_pool3d_backward"),
    **same_rule(
        max_pool_backward,
        "max_pool2d_with_indices_backward",
        "max_pool3d_with_indices_backward",
        "adaptive_max_pool2d_backward",
        "adaptive_max_pool3d_backward",
        "fractional_max_pool2d_backward",
        "fractional_max_pool3d_backward",
    ),
    **same_rule(
        adaptive_pool(MEAN_TAP, mean=True),
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
    ),
    **same_rule(
        adaptive_mean_backward,
        "_adaptive_avg_pool2d_backward",
        "_adaptive_avg_pool3d_backward",
        "adaptive_avg_pool3d_backward",
    ),
    **same_rule(
        adaptive_pool(MAX_TAP, mean=False), "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"
    ),
    **same_rule(fractional_pool, "fractional_max_pool2d", "fractional_max_pool3d"),
    **same_rule(unpool, "max_unpool2d", "max_unpool3d"),
}
