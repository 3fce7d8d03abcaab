"""What is said of an operator nobody has described: every tensor moves once, one lane operation per element."""

from __future__ import annotations

from worklode.frontend.call import Call, Description
from worklode.frontend.operators.rule import Lanes, largest, on_lanes
from worklode.graph.operator import OperatorKind


def fallback(call: Call) -> tuple[Description, ...]:
    """Bytes of all tensors once, as many simple operations as the largest tensor has elements; `exact` is False."""
    elements = largest((*call.inputs, *call.outputs))
    return on_lanes(call, OperatorKind.FALLBACK, Lanes(elements), exact=False)
