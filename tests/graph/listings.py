"""The same graph listed differently: another topological order, other numbers of tensors and storages.

Written without the code under test: dependences are worked out again, records are changed one by one.
"""

from __future__ import annotations

import random
from dataclasses import replace

from worklode.graph.operator import Access
from worklode.graph.training_graph import TrainingGraph


def waits_for(graph: TrainingGraph) -> list[set[int]]:
    """Operators each one must follow in any listing."""
    found: list[set[int]] = []
    versions: dict[int, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        before = {graph.tensors[access.tensor].producer for access in operator.reads} | set(operator.after)
        for access in operator.writes:
            # Whoever touched the storage before, as reader or writer, touches it before in any listing.
            before.update(versions.setdefault(graph.tensors[access.tensor].storage, []))
        for access in (*operator.reads, *operator.writes):
            versions.setdefault(graph.tensors[access.tensor].storage, []).append(index)
        found.append(before - {-1, index})
    return found


def relisted(graph: TrainingGraph, seed: int) -> TrainingGraph:
    """The graph with operators in a random topological order, and tensors and storages numbered at random."""
    chance = random.Random(seed)
    before = waits_for(graph)
    behind: list[list[int]] = [[] for _ in before]
    for index, found in enumerate(before):
        for earlier in found:
            behind[earlier].append(index)
    missing = [len(found) for found in before]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = ready.pop(chance.randrange(len(ready)))
        order.append(index)
        for later in behind[index]:
            missing[later] -= 1
            if not missing[later]:
                ready.append(later)
    tensors = chance.sample(range(len(graph.tensors)), len(graph.tensors))
    names = sorted({tensor.storage for tensor in graph.tensors})
    storage_at = dict(zip(names, chance.sample(range(2 * len(names)), len(names)), strict=True))
    operator_at = {old: new for new, old in enumerate(order)} | {-1: -1}
    tensor_at = {old: new for new, old in enumerate(tensors)} | {-1: -1}

    def moved(accesses: tuple[Access, ...]) -> tuple[Access, ...]:
        return tuple(replace(access, tensor=tensor_at[access.tensor]) for access in accesses)

    return replace(
        graph,
        operators=tuple(
            replace(
                operator,
                reads=moved(operator.reads),
                writes=moved(operator.writes),
                after=tuple(sorted(operator_at[earlier] for earlier in operator.after)),
            )
            for operator in map(graph.operators.__getitem__, order)
        ),
        tensors=tuple(
            replace(tensor, storage=storage_at[tensor.storage], producer=operator_at[tensor.producer])
            for tensor in map(graph.tensors.__getitem__, tensors)
        ),
        loops=tuple(
            replace(
                loops,
                operands=tuple(tensor_at[tensor] for tensor in loops.operands),
                results=tuple(tensor_at[tensor] for tensor in loops.results),
            )
            for loops in (graph.loops[index] for index in order if graph.loops)
        ),
    )
