"""Operators whose rows are divided: a few numbers a row travel between two local parts (vocabulary-parallel loss).

Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3: the loss is computed on divided logits, so that batch x
sequence numbers travel instead of batch x sequence x vocabulary. Per row: the maximum, the sum of exponentials, the
logit of the target; nothing in backward, where the row sum of the incoming gradient is that of its one element.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from worklode.graph.loops import Nest
from worklode.graph.operator import Operator, OperatorKind, Phase
from worklode.graph.work import Work
from worklode.partition.tensor_parallel.layout import Cut, portion

STATISTIC_BYTES = 4
"""Bytes of a number of a row: float32, in which softmax kernels keep maxima and sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """One local part that makes a number a row, to be all-reduced before the next part.

    Attributes:
        name: what it makes.
        work: its work.
    """

    name: str
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class RowParts:
    """An operator taken apart; the work of all parts together is that of the operator on its share of every row.

    Attributes:
        parts: parts that each make a number a row.
        last: work of what remains, which makes the results.
        rows: rows.
        last_reads_operands: the last part reads the operands again.
    """

    parts: tuple[RowPart, ...]
    last: Work
    rows: int
    last_reads_operands: bool


def row_parts(operator: Operator, nest: Nest, cut: Cut, work: Work, *, from_scatter: bool) -> RowParts:
    """Take an operator apart whose row loop is divided.

    Args:
        operator: the operator.
        nest: its loops.
        cut: the division of the row loop.
        work: the operator's work on its share of every row.
        from_scatter: the incoming gradient has one element a row, whose value every device knows.
    """
    rows = prod(nest.sizes) // nest.sizes[cut.loop]
    elements = portion(nest.sizes[cut.loop], cut.share) * rows
    if operator.kind is OperatorKind.GATHER:
        return _look_up(operator.work, rows)
    made: tuple[tuple[str, Work], ...]
    if operator.phase in {Phase.FORWARD, Phase.LOSS, Phase.RECOMPUTE}:
        made = (
            ("row maximum", Work(simple_ops=elements, vector_elements=elements + rows)),
            ("row sum", Work(simple_ops=2 * elements, special_ops=elements, vector_elements=elements + 2 * rows)),
        )
    else:
        made = () if from_scatter else (("row sum", Work(simple_ops=elements, vector_elements=elements + rows)),)
    parts = tuple(RowPart(name=f"{operator.name}: {name}", work=part) for name, part in made)
    return RowParts(parts=parts, last=_rest(work, parts), rows=rows, last_reads_operands=True)


def _look_up(work: Work, rows: int) -> RowParts:
    """Of a loss that looks up one element a row: the look-up on every device, zero if it is elsewhere; then the sum."""
    picked = Work(
        simple_ops=2 * rows,  # is it here, else zero
        vector_elements=2 * rows,
        random_accesses=work.random_accesses,
        random_access_bytes=work.random_access_bytes,
    )
    last = Work(
        simple_ops=max(0, work.simple_ops - 2 * rows),
        special_ops=work.special_ops,
        vector_elements=work.vector_elements,
        serial_steps=work.serial_steps,
    )
    part = RowPart(name="target logit", work=picked)
    return RowParts(parts=(part,), last=last, rows=rows, last_reads_operands=False)


def _rest(work: Work, parts: tuple[RowPart, ...]) -> Work:
    """The work that is left when the parts are done."""
    return replace(
        work,
        simple_ops=max(0, work.simple_ops - sum(part.work.simple_ops for part in parts)),
        special_ops=max(0, work.special_ops - sum(part.work.special_ops for part in parts)),
        reduction_bytes=0 if parts else work.reduction_bytes,
    )
