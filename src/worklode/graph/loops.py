"""Operators as loop nests: which dimension of an operand is which dimension of a result.

A nest is what remains of an ATen call once its name and its views are gone: loops with their sizes, and for every
operand and result the distance in memory between neighbours along every loop. Partitioning divides loops over devices;
what that does to operands, results and work follows from the nest alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

UNTOUCHED = -1
"""Stride of a result that is the same whether or not a loop is divided (a seed, a flag): no sum over the loop."""


class LoopKind(StrEnum):
    """What may happen to a loop when its iterations are divided over devices.

    FREE: iterations are independent; a result without the loop is a sum over it.
    WHOLE: a result needs all iterations at once in a way no exchange of a few numbers mends (a sort, a normalised row).
    ROW: iterations meet in a few numbers per iteration of the other loops (maximum and sum of a softmax row).
    LOOKUP: data decide which iterations an operand is read at (rows of an embedding table): elsewhere it is 0.
    PLACED: data decide which iterations a result is written at (the gradient of a table).
    """

    FREE = "free"
    WHOLE = "whole"
    ROW = "row"
    LOOKUP = "lookup"
    PLACED = "placed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nest:
    """The loops of one operator. L loops, O operands, R results; flat tuples, as files hold them.

    Attributes:
        sizes: [L] iterations of every loop.
        kinds: [L] what dividing it means.
        operands: [O * L] elements in memory between neighbours along every loop; 0 where an operand does not depend on
            the loop.
        results: [R * L] the same of results; `UNTOUCHED` where dividing the loop leaves the result as it is.
        products: for every product of the operator's work four sets of loops (batch, m, n, k), as bit masks.
        linear: sets of operands, as bit masks, in which the results are jointly linear (a sum: all of them at once; a
            product of two: either).
    """

    sizes: tuple[int, ...]
    kinds: tuple[LoopKind, ...]
    operands: tuple[int, ...]
    results: tuple[int, ...]
    products: tuple[int, ...] = ()
    linear: tuple[int, ...] = ()

    def operand(self, place: int) -> tuple[int, ...]:
        """[L] strides of one operand [elements]."""
        loops = len(self.sizes)
        return self.operands[place * loops : (place + 1) * loops]

    def result(self, place: int) -> tuple[int, ...]:
        """[L] strides of one result [elements]."""
        loops = len(self.sizes)
        return self.results[place * loops : (place + 1) * loops]

    def product(self, place: int) -> tuple[int, int, int, int]:
        """Loops of batch, m, n and k of one product, as bit masks."""
        batch, m, n, k = self.products[place * 4 : place * 4 + 4]
        return batch, m, n, k


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorLoops:
    """The loop nest of one operator of a graph, and the tensors it names.

    Attributes:
        nest: its loops, or None where the capture has no rule for it.
        operands: tensors behind the operands of the nest, in its order; -1 where none was ever written. Operands whose
            values are not read (they give a shape) are among them.
        results: tensors behind the results, -1 where nothing is written.
    """

    nest: Nest | None
    operands: tuple[int, ...]
    results: tuple[int, ...]


def nest_problems(loops: OperatorLoops, tensors: int) -> Iterator[tuple[str, object, str]]:
    """What is wrong with the loops of an operator of a graph of so many tensors: problem, value, what is allowed."""
    for index in (*loops.operands, *loops.results):
        if not -1 <= index < tensors:
            yield "names no tensor", index, f"-1 to {tensors - 1}"
    nest = loops.nest
    if nest is None:
        return
    count = len(nest.sizes)
    lengths = (len(nest.kinds), len(nest.operands), len(nest.results))
    wanted = (count, count * len(loops.operands), count * len(loops.results))
    if lengths != wanted:
        yield "kinds, operands and results do not fit its loops", lengths, str(wanted)
    if len(nest.products) % 4 or any(not 0 <= mask < 1 << count for mask in nest.products):
        yield "products name loops it does not have", nest.products, f"four masks a product, below {1 << count}"
    if any(not 0 <= mask < 1 << len(loops.operands) for mask in nest.linear):
        yield "linear in operands it does not have", nest.linear, f"below {1 << len(loops.operands)}"
