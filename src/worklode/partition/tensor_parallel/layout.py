"""How one device holds a tensor, and how that follows from a division of a loop.

An address of a dense tensor is a number in mixed radix: its dimensions are the digits. Dividing a dimension over t
devices takes one digit of t values out of the address. `Layout.digit` is the distance in memory between neighbours
along that digit, which names it in every view of the storage, whatever the view's dimensions are: of a matrix
[rows, 3·width] of queries, keys and values side by side, `digit` = width/t divides the heads of all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from worklode.graph.loops import Nest


class Form(StrEnum):
    """What a device holds of a tensor.

    WHOLE: all of it, equal on every device (along the axis of experts: that of the device's own tokens).
    DIVIDED: its share along one digit.
    PARTIAL: a tensor of full size; the sum over the devices is the value.
    EXCHANGED: of the experts of this device the tokens of all devices: as much as of its own tokens for all experts.
    """

    WHOLE = "whole"
    DIVIDED = "divided"
    PARTIAL = "partial"
    EXCHANGED = "exchanged"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a device holds of a tensor.

    Attributes:
        form: in which form.
        digit: distance between neighbours along the divided digit [elements]; a fraction where a padded dimension is
            divided.
        share: what one device holds, of the whole; above 1/t where the dimension is padded.
    """

    form: Form
    digit: Fraction = Fraction(0)
    share: Fraction = Fraction(1)

    @property
    def held(self) -> Fraction:
        """Bytes of a device, of those of the whole tensor."""
        return self.share if self.form is Form.DIVIDED else Fraction(1)


WHOLE = Layout(Form.WHOLE)
PARTIAL = Layout(Form.PARTIAL)


def divided(digit: Fraction, share: Fraction) -> Layout:
    """A divided layout."""
    return Layout(Form.DIVIDED, digit, share)


@dataclass(frozen=True, slots=True)
class Cut:
    """A digit of a loop that is divided over the devices.

    Attributes:
        loop: the loop.
        inner: iterations of it between neighbours along the digit.
        share: iterations of one device, of all.
    """

    loop: int
    inner: Fraction
    share: Fraction


def locate(nest: Nest, strides: Sequence[int], layout: Layout, devices: int) -> Cut | None:
    """The cut of a loop that divides a tensor of these strides as `layout` says; None where no loop holds its digit.

    A loop of stride s and n iterations covers the digits of stride s up to s·n; the digit of stride d and t values is
    among them where s <= d and d·t <= s·n.
    """
    digit, unit = layout.digit.numerator, layout.digit.denominator  # integers: fractions take ten times as long
    for loop, stride in enumerate(strides):
        size = nest.sizes[loop]
        if 0 < stride * unit <= digit and size > 1 and digit * devices <= stride * size * unit:
            return Cut(loop, layout.digit / stride, layout.share)
    return None


def is_aligned(nest: Nest, cut: Cut, devices: int) -> bool:
    """Do iterations stay whole? A padded loop is divided as a whole; of any other one the digit is a whole number."""
    return cut.inner.denominator == 1 or (cut.share * devices > 1 and cut.inner * devices == nest.sizes[cut.loop])


def layout_under(cut: Cut, strides: Sequence[int]) -> Layout:
    """How a tensor of these strides is held when a loop is cut: divided if it depends on the loop, else whole."""
    stride = strides[cut.loop]
    return divided(stride * cut.inner, cut.share) if stride > 0 else WHOLE


def held_bytes(size: int, layout: Layout) -> int:
    """Bytes of a device of a tensor of `size` bytes, rounded up."""
    return portion(size, layout.share) if layout.form is Form.DIVIDED else size


def portion(count: int, part: Fraction) -> int:
    """That part of a count, rounded up; without making a fraction of the product, which takes ten times as long."""
    return -(-count * part.numerator // part.denominator)
