"""The core of written-out attention by data flow: product, row-wise operators, product, no parameter in either."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from worklode.graph.operator import OperatorKind, TensorRole
from worklode.graph.training_graph import TrainingGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCore:
    """Forward operators of one attention, scores to context.

    Attributes:
        scores: from the products that make the scores to the last operator before the context, ascending.
        context: the products that read the weights.
    """

    scores: tuple[int, ...]
    context: tuple[int, ...]


def attention_cores(graph: TrainingGraph, operators: Collection[int]) -> tuple[AttentionCore, ...]:
    """Attention cores among some forward operators, by their softmax.

    A softmax whose scores come from a product with a parameter (a router, a loss) is none, nor is one whose result
    reaches no product (a loss).
    """
    weights = _made_of_parameters(graph, operators)
    inside = set(operators)
    readers: dict[int, list[int]] = {}
    for index in operators:
        for access in graph.operators[index].reads:
            readers.setdefault(access.tensor, []).append(index)
    found = []
    for index in sorted(inside):
        if graph.operators[index].kind is OperatorKind.SOFTMAX:
            before = _reached(index, lambda i: _producers(graph, i, inside), graph)
            behind = _reached(
                index, lambda i: [r for a in graph.operators[i].writes for r in readers.get(a.tensor, ())], graph
            )
            first = {i for i in before if graph.operators[i].work.products}
            last = {i for i in behind if graph.operators[i].work.products}
            if first and last and not any(_reads(graph, i) & weights for i in first | last):
                scores = _between(graph, before | behind | {index}, first, last)
                found.append(AttentionCore(scores=scores, context=tuple(sorted(last))))
    return tuple(found)


def _made_of_parameters(graph: TrainingGraph, operators: Collection[int]) -> set[int]:
    """Parameters, and what is computed of nothing else (their copies in another type)."""
    found = {index for index, tensor in enumerate(graph.tensors) if tensor.role is TensorRole.PARAMETER}
    for index in sorted(operators):
        reads = _reads(graph, index)
        if reads and reads <= found:
            found.update(access.tensor for access in graph.operators[index].writes)
    return found


def _reads(graph: TrainingGraph, index: int) -> set[int]:
    return {access.tensor for access in graph.operators[index].reads}


def _producers(graph: TrainingGraph, index: int, inside: set[int]) -> list[int]:
    return [p for a in graph.operators[index].reads if (p := graph.tensors[a.tensor].producer) in inside]


def _reached(start: int, step: Callable[[int], Iterable[int]], graph: TrainingGraph) -> set[int]:
    """Operators reached from one of them, not going beyond products."""
    found: set[int] = set()
    waiting = list(step(start))
    while waiting:
        index = waiting.pop()
        if index in found:
            continue
        found.add(index)
        if not graph.operators[index].work.products:
            waiting.extend(step(index))
    return found


def _between(graph: TrainingGraph, candidates: set[int], first: set[int], last: set[int]) -> tuple[int, ...]:
    """The products `first` and what lies on a path from them to `last`, which is left out.

    What flows in from the side (a bias of positions, a mask) is not repeated.
    """
    from_first: set[int] = set(first)
    for index in sorted(candidates - first - last):
        if any(graph.tensors[tensor].producer in from_first for tensor in _reads(graph, index)):
            from_first.add(index)
    to_last: set[int] = set()
    needed = {tensor for index in last for tensor in _reads(graph, index)}
    for index in sorted(from_first, reverse=True):
        if any(access.tensor in needed for access in graph.operators[index].writes):
            to_last.add(index)
            needed |= _reads(graph, index)
    return tuple(sorted(to_last))
