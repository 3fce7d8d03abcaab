"""Interpolation to another grid: upsampling, grid sampling, and their gradients.

Weights along one dimension depend on one coordinate and are shared by all rows, columns and channels; only work per
result element is counted for upsampling, and the work per sampled place too for grid sampling. Places
sampled one after another lie near each other (assumption: as texture caches count on), so none is a scattered access.
"""

from __future__ import annotations

from math import ceil, prod

from worklode.frontend.call import Call, Description
from worklode.frontend.operators.rule import Lanes, Rule, integer, integers, on_lanes, same_rule, tensor
from worklode.graph.operator import OperatorKind

LINEAR_TAPS = 2
CUBIC_TAPS = 4
NEAREST_TAPS = 1


def separable_ops(taps: tuple[int, ...]) -> int:
    """Operations of one result of a separable filter, last dimension first: Σ_d lines_d·(2·taps_d - 1).

    Bilinear: 2 lines of 3 and one of 3, 9 in all; trilinear 21; bicubic 4·7 + 7 = 35.
    """
    return sum(prod(taps[:d]) * (2 * tap - 1) for d, tap in enumerate(taps))


def _taps(call: Call, input_size: tuple[int, ...], output_size: tuple[int, ...], taps: int) -> tuple[int, ...]:
    """Taps per dimension; an antialiased filter is stretched by the scale when it shrinks."""
    if "_aa" not in call.packet:
        return (taps,) * len(output_size)
    return tuple(
        ceil(taps * max(1.0, before / after)) if after else 0
        for before, after in zip(input_size, output_size, strict=True)
    )


def upsample(taps: int) -> Rule:
    """Rule of an upsampling with `taps` per dimension; the nearest is a move."""

    def rule(call: Call) -> tuple[Description, ...]:
        x, result = tensor(call, 0), call.outputs[0]
        found = _taps(call, x.shape[2:], result.shape[2:], taps)
        per_result = 1 if taps == NEAREST_TAPS else separable_ops(found)
        kind = OperatorKind.MOVEMENT if taps == NEAREST_TAPS else OperatorKind.ELEMENTWISE
        return on_lanes(call, kind, Lanes(per_result * result.elements))

    return rule


def upsample_backward(taps: int) -> Rule:
    """Rule of its gradient: zeros, and a multiply and an add per tap and dimension (an add alone for the nearest)."""

    def rule(call: Call) -> tuple[Description, ...]:
        grad, result = tensor(call, 0), call.outputs[0]
        sizes = integers(call, 2)[2:]
        found = _taps(call, sizes, grad.shape[2:], taps)
        # the transpose of the separable filter: each line is scattered into `tap` others
        per_element = 1 if taps == NEAREST_TAPS else sum(prod(found[:d]) * 2 * tap for d, tap in enumerate(found))
        return on_lanes(call, OperatorKind.ELEMENTWISE, Lanes(per_element * grad.elements + result.elements))

    return rule


BILINEAR, NEAREST, BICUBIC = 0, 1, 2  # torch's numbering of grid_sampler's interpolation modes
# Per place and dimension: to pixels (multiply, add), floor, two weights, two bounds.
PLACE_OPS = 7


def _corners(mode: int, rank: int) -> int:
    taps = {BILINEAR: LINEAR_TAPS, NEAREST: NEAREST_TAPS, BICUBIC: CUBIC_TAPS}[mode]
    return int(taps**rank)


def grid_sample(call: Call) -> tuple[Description, ...]:
    """`grid_sampler_2d(x, grid, mode, ...)`: per place coordinates and corner weights; per channel a weighted sum."""
    x, grid, result = tensor(call, 0), tensor(call, 1), call.outputs[0]
    rank = len(x.shape) - 2
    corners = _corners(integer(call, 2), rank)
    places = grid.elements // rank
    lanes = Lanes((PLACE_OPS * rank + corners * (rank - 1)) * places + (2 * corners - 1) * result.elements)
    return on_lanes(
        call,
        OperatorKind.GATHER,
        lanes,
        reads={0: corners * result.elements * x.element_bytes},
    )


def grid_sample_backward(call: Call) -> tuple[Description, ...]:
    """Per channel and corner: add to x's gradient (2); value times gradient for each coordinate's weight (2 each)."""
    grad, x, grid = (tensor(call, i) for i in range(3))
    rank = len(x.shape) - 2
    corners = _corners(integer(call, 3), rank)
    places = grid.elements // rank
    mask = call.args[6]
    assert isinstance(mask, tuple)
    data_wanted = bool(mask[0])
    per_value = 2 * corners * data_wanted + 2 * rank * corners * bool(mask[1])
    lanes = Lanes((PLACE_OPS * rank + corners * (rank - 1)) * places + per_value * grad.elements)
    if data_wanted and call.outputs:
        lanes = lanes.plus(x.elements)
    return on_lanes(
        call,
        OperatorKind.SCATTER,
        lanes,
        reads={1: corners * grad.elements * x.element_bytes if mask[1] else 0},
    )


FORMS = {
    "upsample_nearest{}d": (NEAREST_TAPS, "123"),
    "_upsample_nearest_exact{}d": (NEAREST_TAPS, "123"),
    "upsample_linear{}d": (LINEAR_TAPS, "1"),
    "upsample_bilinear{}d": (LINEAR_TAPS, "2"),
    "upsample_trilinear{}d": (LINEAR_TAPS, "3"),
    "upsample_bicubic{}d": (CUBIC_TAPS, "2"),
    "_upsample_bilinear{}d_aa": (LINEAR_TAPS, "2"),
    "_upsample_bicubic{}d_aa": (CUBIC_TAPS, "2"),
}

RULES: dict[str, Rule] = {
    **{form.format(d): upsample(taps) for form, (taps, ranks) in FORMS.items() for d in ranks},
    **{f"{form.format(d)}_backward": upsample_backward(taps) for form, (taps, ranks) in FORMS.items() for d in ranks},
    **same_rule(grid_sample, "grid_sampler_2d", "grid_sampler_3d"),
    **same_rule(grid_sample_backward, "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
}
