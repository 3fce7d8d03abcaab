"""A nest being written, and how its rules read a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from worklode.frontend.call import Call, TensorMeta
from worklode.frontend.operators.rule import dimension, tensors_in
from worklode.graph.loops import LoopKind

FREE, WHOLE, ROW, LOOKUP, PLACED = LoopKind
Strides = Mapping[int, int]
"""Loop -> elements between neighbours along it."""


@dataclass(slots=True)
class Draft:
    """A nest being written.

    Attributes:
        operands: place among `Call.inputs` -> its strides; those left out depend on no loop.
        results: place among `Call.outputs` -> its strides; those left out are the same however loops are divided.
        linear: sets of operands in which the results are jointly linear, by place.
    """

    sizes: list[int] = field(default_factory=list)
    kinds: list[LoopKind] = field(default_factory=list)
    operands: dict[int, Strides] = field(default_factory=dict)
    results: dict[int, Strides] = field(default_factory=dict)
    products: list[Sequence[Sequence[int]]] = field(default_factory=list)
    linear: list[Sequence[int]] = field(default_factory=list)

    def loop(self, size: int, kind: LoopKind = FREE) -> int:
        """A new loop."""
        self.sizes.append(size)
        self.kinds.append(kind)
        return len(self.sizes) - 1

    def loops(self, sizes: Iterable[int], kind: LoopKind = FREE) -> list[int]:
        """New loops of one kind."""
        return [self.loop(size, kind) for size in sizes]

    def along(self, loops: Sequence[int | None], meta: TensorMeta) -> Strides | None:
        """Strides of a tensor whose last dimensions are these loops (None: no loop); None where sizes do not fit."""
        found: dict[int, int] = {}
        if len(meta.shape) > len(loops):
            return None
        for loop, size, stride in zip(reversed(loops), reversed(meta.shape), reversed(meta.strides), strict=False):
            if loop is None or (size == 1 and self.sizes[loop] != 1):
                continue
            if size != self.sizes[loop]:
                return None
            found[loop] = stride
        return found


NestRule = Callable[[Call], Draft | None]
"""From a call to its nest, None where the rule does not cover it."""


def place_of(call: Call, argument: int) -> int:
    """Place among the inputs of the first tensor of positional argument `argument`."""
    return sum(1 for value in call.args[:argument] for _ in tensors_in(value))


class NotCoveredError(Exception):
    """An overload with its arguments elsewhere: the rule has nothing to say, and the call no nest."""


def argument(call: Call, index: int) -> object:
    """Positional argument `index`.

    Raises:
        NotCoveredError: there is none.
    """
    if index >= len(call.args):
        raise NotCoveredError
    return call.args[index]


def meta_of(call: Call, index: int) -> TensorMeta:
    """Positional argument `index`, which is a tensor.

    Raises:
        NotCoveredError: it is none.
    """
    value = argument(call, index)
    if not isinstance(value, TensorMeta):
        raise NotCoveredError
    return value


def dimension_of(call: Call, index: int, rank: int) -> int:
    """Positional argument `index` as a dimension counted from the front.

    Raises:
        NotCoveredError: it is none of a tensor of this rank.
    """
    value = argument(call, index)
    if not isinstance(value, int) or not -rank <= value < rank:
        raise NotCoveredError
    return dimension(value, rank)


def dimensions_of(call: Call, index: int, rank: int) -> tuple[int, ...]:
    """Positional argument `index` as dimensions counted from the front; none where it is absent.

    Raises:
        NotCoveredError: one of them is none of a tensor of this rank.
    """
    found = integers_of(call.args[index]) if index < len(call.args) and not isinstance(call.args[index], bool) else ()
    if any(not -rank <= d < rank for d in found):
        raise NotCoveredError
    return tuple(dimension(d, rank) for d in found)


def integers_of(value: object) -> tuple[int, ...]:
    """An argument as integers; none where it is absent."""
    if isinstance(value, tuple):
        return tuple(int(v) for v in value)
    return (value,) if isinstance(value, int) else ()
