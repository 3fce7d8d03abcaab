"""Repeated blocks: runs of sibling modules equal in structure, and equal in what was recorded of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from worklode.graph.operator import Operator, Tensor, TensorRole
from worklode.graph.training_graph import Block

_INDEX = re.compile(r"(^|_)(idx|index|id|number|layer_idx)$")
"""Attributes that only count layers."""

_PLAIN = (int, float, bool, str, tuple, type(None))


def equal_siblings(module: nn.Module) -> tuple[Block, ...]:
    """Longest runs of at least two equal siblings with parameters, in any container; outermost ones only."""
    shapes: dict[int, object] = {}
    found: list[Block] = []
    for path, container in module.named_modules():
        if any(_contains(block, path) for block in found):
            continue
        numbered = [(int(name), child) for name, child in container.named_children() if name.isdecimal()]
        found.extend(_runs(path, [(number, _structure(child, shapes)) for number, child in numbered if _trains(child)]))
    return tuple(found)


def _contains(block: Block, path: str) -> bool:
    """Whether `path` is inside an instance of `block`."""
    instance = _instance_number(block.path, path)
    return instance is not None and block.first <= instance < block.first + block.count


def _instance_number(container: str, path: str) -> int | None:
    """Number of the child of `container` that `path` is in or below, or None."""
    prefix = f"{container}." if container else ""
    if not path.startswith(prefix):
        return None
    head = path[len(prefix) :].partition(".")[0]
    return int(head) if head.isdecimal() else None


def _trains(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _runs(path: str, numbered: Iterable[tuple[int, object]]) -> list[Block]:
    """Runs of two or more consecutive equal values."""
    runs: list[Block] = []
    start, length, value = 0, 0, None
    for number, this in (*numbered, (-1, None)):
        if length and this == value and number == start + length:
            length += 1
            continue
        if length > 1:
            runs.append(Block(path=path, first=start, count=length))
        start, length, value = number, 1, this
    return runs


def _structure(module: nn.Module, known: dict[int, object]) -> object:
    """Class, plain hyper-parameters, parameter and buffer shapes and children of a module; no layer numbers."""
    if id(module) not in known:
        known[id(module)] = (
            type(module),
            tuple(
                sorted(
                    (name, repr(value))
                    for name, value in vars(module).items()
                    if isinstance(value, _PLAIN) and not name.startswith("_") and not _INDEX.search(name)
                )
            ),
            tuple(
                (n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in module._parameters.items() if p is not None
            ),
            tuple((n, tuple(b.shape), b.dtype) for n, b in module._buffers.items() if b is not None),
            tuple((name, _structure(child, known)) for name, child in module._modules.items() if child is not None),
        )
    return known[id(module)]


def assign_blocks(
    operators: tuple[Operator, ...], tensors: tuple[Tensor, ...], candidates: tuple[Block, ...]
) -> tuple[tuple[Operator, ...], tuple[Block, ...]]:
    """The operators with `block` and `instance` set, and the runs whose instances recorded the same operators.

    A candidate run is cut where neighbours differ (T5's last block accumulates the shared bias's gradient).
    """
    blocks: list[Block] = []
    found = list(operators)
    for candidate in candidates:
        members: dict[int, list[int]] = {}
        for index, operator in enumerate(operators):
            number = _instance_number(candidate.path, operator.module)
            if number is not None and candidate.first <= number < candidate.first + candidate.count:
                members.setdefault(number, []).append(index)
        prefix = f"{candidate.path}." if candidate.path else ""
        recorded = [
            (number, _trace(operators, tensors, members[number], f"{prefix}{number}")) for number in sorted(members)
        ]
        for block in _runs(candidate.path, recorded):
            for number in range(block.first, block.first + block.count):
                for index in members[number]:
                    found[index] = replace(found[index], block=len(blocks), instance=number - block.first)
            blocks.append(block)
    return tuple(found), tuple(blocks)


def _trace(
    operators: tuple[Operator, ...], tensors: tuple[Tensor, ...], members: list[int], prefix: str
) -> tuple[object, ...]:
    """All that was recorded of one instance, its own operators numbered from 0: equal for equal instances."""
    place = {index: number for number, index in enumerate(members)}

    def source(tensor: Tensor) -> object:
        own = place.get(tensor.producer)
        if own is not None:
            return own
        return TensorRole.ACTIVATION if tensor.role is TensorRole.INPUT else tensor.role

    trace = []
    for index in members:
        operator = operators[index]
        reads = tuple(
            sorted((str(source(tensors[a.tensor])), a.bytes, tensors[a.tensor].dtype) for a in operator.reads)
        )
        writes = tuple((a.bytes, tensors[a.tensor].role, tensors[a.tensor].saved) for a in operator.writes)
        after = tuple(place[i] for i in operator.after if i in place)
        trace.append(
            (
                operator.name,
                operator.phase,
                operator.module.removeprefix(prefix),
                operator.work,
                operator.gradient_of,
                reads,
                writes,
                after,
            )
        )
    return tuple(trace)
