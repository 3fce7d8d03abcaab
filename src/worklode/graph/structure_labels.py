"""Labels of operators by content and place in the graph, whatever their numbers: colour refinement.

Operators, tensors and storages are the vertices of one graph. Each starts with a digest of its own content; then,
round after round, every vertex takes in the labels of its neighbours, until no round tells more operators apart
(1-dimensional Weisfeiler-Lehman; Weisfeiler and Leman, Nauchno-Technicheskaya Informatsia 2(9), 1968). Operators that
stay alike are told apart by decree, one at a time, as in individualisation-refinement (McKay and Piperno, J. Symbolic
Computation 60, 2014, section 2), the choice by what refinement finds next. Where alike means interchangeable, every
choice leads to the same graph; their search over all choices, for graphs where it does not, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from worklode.graph.dependences import Dependences
from worklode.graph.training_graph import TrainingGraph

Labels = NDArray[np.uint64]

# What one vertex is to another; both ends know the edge by its own code [1].
(
    READS,
    READ_BY,
    WRITES,
    WRITTEN_BY,
    AFTER,
    WAITED_FOR_BY,
    LIVES_IN,
    HOLDS,
    LOOP_OPERAND,
    OPERAND_OF,
    RESULT,
    RESULT_OF,
) = range(12)

# Alike operators of which each is tried as the one told apart [count]. Choice: more than captured graphs have (none),
# few enough that a graph of many interchangeable operators is done in about a second.
MOST_TRIED = 16

# Odd multipliers and shifts of SplitMix64's finaliser, which makes every bit depend on all others (Steele, Lea and
# Flood, OOPSLA 2014, figure 16), and of its increment, the golden ratio in 64 bits.
_FIRST_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_MULTIPLIER = np.uint64(0x94D049BB133111EB)
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatorLabels:
    """Labels of N operators.

    Attributes:
        rank: [N] place of each operator among all labels; no two alike.
        decrees: how many operators had to be told apart though content and structure were the same.
    """

    rank: tuple[int, ...]
    decrees: int


def operator_labels(graph: TrainingGraph, edges: Dependences) -> OperatorLabels:
    """Label the operators of a sound graph.

    Equal graphs whose operators and tensors are numbered differently give corresponding operators the same rank,
    provided that operators refinement cannot tell apart are interchangeable. Two of 10 000 vertices that differ share
    a label of 64 bits by accident once in 10^11 graphs.
    """
    operators = len(graph.operators)
    links = _links(graph)
    labels = _round(_mixed(_contents(graph, edges)), links)
    upstream = _along(labels[:operators].tolist(), edges.before, range(operators))
    labels[:operators] = _along(upstream, edges.behind, range(operators - 1, -1, -1))
    decrees = 0
    labels, classes = _refined(labels, links, operators)
    while classes < operators:
        choices = [_decreed(labels, links, operators, index) for index in _first_alike(labels[:operators])]
        labels, classes = min(choices, key=lambda choice: np.sort(choice[0]).tobytes())
        decrees += 1
    rank = np.empty(operators, np.int64)
    rank[np.argsort(labels[:operators])] = np.arange(operators)
    return OperatorLabels(rank=tuple(rank.tolist()), decrees=decrees)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Links:
    """Edges by the vertex that takes a label in, which of them begin at each such vertex, and codes of the edges."""

    source: NDArray[np.int64]
    code: Labels
    start: NDArray[np.int64]
    target: NDArray[np.int64]


def _refined(labels: Labels, links: _Links, operators: int) -> tuple[Labels, int]:
    """Labels after the last round that told more vertices apart, and how many labels the operators have."""
    known = len(np.unique(labels))
    classes = len(np.unique(labels[:operators]))
    while classes < operators:
        new = _round(labels, links)
        found = len(np.unique(new))
        if found <= known:
            break
        labels, known = new, found
        classes = len(np.unique(labels[:operators]))
    return labels, classes


def _round(labels: Labels, links: _Links) -> Labels:
    """Every vertex takes in the labels of its neighbours, whatever their order."""
    new = labels * _FIRST_MULTIPLIER
    if len(links.source):
        new[links.target] += np.add.reduceat(_mixed(labels[links.source] ^ links.code), links.start)
    return _mixed(new)


def _first_alike(labels: Labels) -> list[int]:
    """The operators with the smallest label that several have; one of them where they are too many to try each."""
    values, count = np.unique(labels, return_counts=True)
    alike = np.flatnonzero(labels == values[np.flatnonzero(count > 1)[0]])
    return [int(index) for index in alike[: len(alike) if len(alike) <= MOST_TRIED else 1]]


def _decreed(labels: Labels, links: _Links, operators: int, chosen: int) -> tuple[Labels, int]:
    """What refinement finds once one operator is told apart by decree."""
    told = labels.copy()
    told[chosen] = _mixed(labels[chosen : chosen + 1] + _INCREMENT)[0]
    return _refined(told, links, operators)


def _mixed(values: Labels) -> Labels:
    """SplitMix64's finaliser of each value, in wrapping arithmetic."""
    found: Labels = values + _INCREMENT
    found = (found ^ (found >> _SHIFTS[0])) * _FIRST_MULTIPLIER
    found = (found ^ (found >> _SHIFTS[1])) * _SECOND_MULTIPLIER
    return found ^ (found >> _SHIFTS[2])


def _digest(parts: Iterable[object]) -> int:
    """64 bits of BLAKE2b of the parts' texts: the same in every process."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _contents(graph: TrainingGraph, edges: Dependences) -> Labels:
    """Digest of what each operator, tensor and storage is by itself."""
    known: dict[int, str] = {}  # texts of objects that operators share

    def text(shared: object) -> str:
        found = known.get(id(shared))
        if found is None:
            found = known[id(shared)] = repr(shared)
        return found

    nests = [loops.nest for loops in graph.loops] or [None] * len(graph.operators)
    operators = [
        _digest((o.name, o.kind, o.phase, o.module, text(o.work), o.block, o.instance, o.gradient_of, *o.members, "",
                 text(nest)))
        for o, nest in zip(graph.operators, nests, strict=True)
    ]  # fmt: skip
    digests: dict[tuple[object, ...], int] = {}
    tensors = []
    for tensor, version in zip(graph.tensors, edges.version, strict=True):
        content = (tensor.bytes, tensor.dtype, tensor.role, tensor.producer < 0, tensor.saved, tensor.name, version)
        found = digests.get(content)
        if found is None:
            found = digests[content] = _digest(content)
        tensors.append(found)
    return np.array([*operators, *tensors, *[0] * len(_storage_numbers(graph))], np.uint64)


def _along(labels: list[int], neighbours: tuple[tuple[int, ...], ...], order: Iterable[int]) -> list[int]:
    """Labels that take in all that is upstream, in one go: rounds of refinement carry it one step each."""
    found = list(labels)
    multiplier, mask = int(_FIRST_MULTIPLIER), 2**64 - 1
    for index in order:
        total = labels[index]
        for other in neighbours[index]:
            # Bits above 64 are cut off below; the shift is what makes chains of different order differ.
            total += (found[other] ^ (found[other] >> 29)) * multiplier
        total &= mask
        found[index] = ((total ^ (total >> 32)) * multiplier) & mask
    return found


def _storage_numbers(graph: TrainingGraph) -> dict[int, int]:
    numbers: dict[int, int] = {}
    for tensor in graph.tensors:
        numbers.setdefault(tensor.storage, len(numbers))
    return numbers


def _links(graph: TrainingGraph) -> _Links:
    """Both directions of every edge, sorted by the vertex that takes labels in."""
    first_tensor = len(graph.operators)
    first_storage = first_tensor + len(graph.tensors)
    ends: list[int] = []  # of each edge: one vertex, another, its code seen from either, its place, its bytes
    for index, operator in enumerate(graph.operators):
        for place, access in enumerate(operator.reads):
            ends += (index, first_tensor + access.tensor, READS, READ_BY, place, access.bytes)
        for place, access in enumerate(operator.writes):
            ends += (index, first_tensor + access.tensor, WRITES, WRITTEN_BY, place, access.bytes)
        for earlier in operator.after:
            ends += (index, earlier, AFTER, WAITED_FOR_BY, 0, 0)
    for index, loops in enumerate(graph.loops):
        for place, tensor in enumerate(loops.operands):
            if tensor >= 0:
                ends += (index, first_tensor + tensor, LOOP_OPERAND, OPERAND_OF, place, 0)
        for place, tensor in enumerate(loops.results):
            if tensor >= 0:
                ends += (index, first_tensor + tensor, RESULT, RESULT_OF, place, 0)
    numbers = _storage_numbers(graph)
    for number, held in enumerate(graph.tensors):
        ends += (first_tensor + number, first_storage + numbers[held.storage], LIVES_IN, HOLDS, 0, 0)
    columns = np.array(ends, np.int64).reshape(-1, 6).T
    one, other, seen_from_one, seen_from_other, position, size = columns
    target = np.concatenate((one, other))
    source = np.concatenate((other, one))
    code = np.concatenate((seen_from_one, seen_from_other)).astype(np.uint64)
    detail = _mixed(np.tile(size, 2).astype(np.uint64)) + np.tile(position, 2).astype(np.uint64)
    order = np.argsort(target, kind="stable")
    ordered = target[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    return _Links(source=source[order], code=_mixed(_mixed(detail) + code)[order], start=start, target=ordered[start])
