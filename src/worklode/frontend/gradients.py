"""Which matrix products of backward make the gradient of a weight: found in the data flow, not in names.

A product makes a weight gradient when nothing it leads to in backward is another product (its result ends in parameter
gradients, through sums, casts, accumulation, or the backward of a weight normalisation) and it reads no parameter
itself (an input gradient that only feeds a bias gradient does). Weight gradients are off backward's critical path.
"""

from __future__ import annotations

from dataclasses import replace

from worklode.graph.operator import Operator, OperatorKind, Phase, Tensor, TensorRole

_PRODUCTS = (OperatorKind.MATMUL, OperatorKind.CONVOLUTION)
_AFTER_FORWARD = (Phase.BACKWARD, Phase.ACCUMULATE)
_PASSES_PARAMETERS_ON = (OperatorKind.ELEMENTWISE, OperatorKind.MOVEMENT, OperatorKind.NORMALIZATION)


def product_gradients(operators: tuple[Operator, ...], tensors: tuple[Tensor, ...]) -> tuple[Operator, ...]:
    """The operators with `gradient_of` set on every matrix product and convolution of backward."""
    from_parameters = _made_from_parameters(operators, tensors)
    ends_in_gradients = _ends_in_gradients(operators, tensors)
    found = list(operators)
    for index, operator in enumerate(operators):
        if operator.phase is not Phase.BACKWARD or operator.kind not in _PRODUCTS or operator.gradient_of:
            continue
        reads_parameter = any(from_parameters[access.tensor] for access in operator.reads)
        leads_nowhere_else = all(ends_in_gradients[access.tensor] for access in operator.writes)
        found[index] = replace(
            operator, gradient_of="weight" if leads_nowhere_else and not reads_parameter else "input"
        )
    return tuple(found)


def _made_from_parameters(operators: tuple[Operator, ...], tensors: tuple[Tensor, ...]) -> list[bool]:
    """Per tensor: is it a parameter, or one that was only cast, copied or scaled (autocast, weight normalisation)?"""
    found = [tensor.role is TensorRole.PARAMETER for tensor in tensors]
    for operator in operators:
        if operator.kind in _PASSES_PARAMETERS_ON and operator.reads:
            derived = all(found[access.tensor] for access in operator.reads)
            for access in operator.writes:
                found[access.tensor] = found[access.tensor] or derived
    return found


def _ends_in_gradients(operators: tuple[Operator, ...], tensors: tuple[Tensor, ...]) -> list[bool]:
    """Per tensor: does everything in backward that reads it lead to parameter gradients, without another product?"""
    ends = [True] * len(tensors)
    is_read = [False] * len(tensors)
    for operator in reversed(operators):
        if operator.phase not in _AFTER_FORWARD:
            continue
        is_product = bool(operator.work.products)
        ok = not is_product and all(
            tensors[access.tensor].role is TensorRole.GRADIENT or (is_read[access.tensor] and ends[access.tensor])
            for access in operator.writes
        )
        for access in operator.reads:
            is_read[access.tensor] = True
            ends[access.tensor] = ends[access.tensor] and ok
    return [
        ends[index] and (is_read[index] or tensor.role is TensorRole.GRADIENT) for index, tensor in enumerate(tensors)
    ]
