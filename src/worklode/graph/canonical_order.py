"""A topological order that the structure of a graph decides, near the order in which a program would run it.

The iteration falls into stages: forward and backward of each microbatch, then the optimizer. Within a stage, what the
data drive runs as soon as it can, what is nearest to the end of the stage first: a weight gradient at once, the chain
of input gradients last. What waits for nothing of the stage (a cast of a weight, a mask, a block run again) waits until
it is needed. Both keep tensors alive about as briefly as program order does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from worklode.graph.dependences import Dependences
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph

FORWARD, BACKWARD, OPTIMIZER = range(3)

STAGE_OF_PHASE = {
    Phase.FORWARD: FORWARD,
    Phase.LOSS: FORWARD,
    Phase.BACKWARD: BACKWARD,
    Phase.RECOMPUTE: BACKWARD,
    Phase.ACCUMULATE: BACKWARD,
    Phase.OPTIMIZER: OPTIMIZER,
}

_FLOWING = (TensorRole.ACTIVATION, TensorRole.ACTIVATION_GRADIENT)
"""Roles of tensors that belong to one microbatch: parameters, buffers and gradients are shared by all."""


def canonical_order(graph: TrainingGraph, edges: Dependences, rank: Sequence[int]) -> list[int]:
    """Operators of a sound graph in the order they take in its canonical form.

    Args:
        graph: the graph.
        edges: its dependences.
        rank: [N] what decides between operators that structure alone puts level.
    """
    modules = _natural_rank(operator.module for operator in graph.operators)
    tie = [(module, own) for module, own in zip(modules, rank, strict=True)]
    stage = _stages(graph, edges, rank)
    members: dict[int, list[int]] = {}
    for index, number in enumerate(stage):
        members.setdefault(number, []).append(index)
    emitter = _Emitter(edges.before, tie)
    for number in sorted(members):
        _run_stage(graph, _within(edges, stage, members[number]), emitter)
    return emitter.order


def _natural_rank(names: Iterable[str]) -> list[int]:
    """Place of each name where numbers within names count as numbers: `layers.2` comes before `layers.10`."""
    listed = list(names)
    place = {name: number for number, name in enumerate(sorted(set(listed), key=_natural_key))}
    return [place[name] for name in listed]


def _natural_key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    parts = re.split(r"([0-9]+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts], name


# --- stages -----------------------------------------------------------------------------------------------------------


def _stages(graph: TrainingGraph, edges: Dependences, rank: Sequence[int]) -> list[int]:
    """[N] stage of each operator, in the order stages run; never before the stage of one it waits for."""
    microbatch, count = _microbatches(graph, edges, rank)
    kind = [STAGE_OF_PHASE[operator.phase] for operator in graph.operators]
    flowing = [number >= 0 for number in microbatch]
    for index, found in enumerate(edges.before):
        # What only gathers results of microbatches (a sum of gradients) belongs to the latest of them.
        if not flowing[index]:
            microbatch[index] = max([microbatch[earlier] for earlier in found], default=-1)
    for index in range(len(kind) - 1, -1, -1):
        # What stems from parameters alone belongs to the first microbatch that uses it.
        if microbatch[index] < 0:
            users = [microbatch[later] for later in edges.behind[index] if kind[later] != OPTIMIZER]
            microbatch[index] = min(users, default=0)
    stage: list[int] = []
    for index, found in enumerate(edges.before):
        own = 2 * (count if kind[index] == OPTIMIZER else microbatch[index]) + kind[index] % OPTIMIZER
        stage.append(max([own, *[stage[earlier] for earlier in found]]))
    return stage


def _microbatches(graph: TrainingGraph, edges: Dependences, rank: Sequence[int]) -> tuple[list[int], int]:
    """[N] microbatch of operators that work on its data, -1 for others, and how many microbatches there are.

    A microbatch is what hangs together by activations and their gradients that stem from inputs. One that waits for
    another comes after it: its gradients are added to those of the other. Parts without backward belong to the first.
    """
    tensors = graph.tensors
    root = list(range(len(graph.operators)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    driven = [False] * len(root)
    for index, operator in enumerate(graph.operators):
        if operator.phase is Phase.OPTIMIZER:
            continue
        for access in operator.reads:
            tensor = tensors[access.tensor]
            if tensor.producer < 0:
                driven[index] |= tensor.role is TensorRole.INPUT
            elif tensor.role in _FLOWING and driven[tensor.producer]:
                driven[index] = True
                root[find(tensor.producer)] = find(index)
    height = edges.heights()
    first: dict[int, tuple[int, int]] = {}
    with_backward = set()
    for index in range(len(root)):
        if driven[index]:
            part = find(index)
            own = (-height[index], rank[index])
            first[part] = min(first.get(part, own), own)
            if STAGE_OF_PHASE[graph.operators[index].phase] == BACKWARD:
                with_backward.add(part)
    listed = sorted(with_backward, key=first.__getitem__)
    number = {part: place for place, part in enumerate(listed)}
    part_of = [number.get(find(index), -1) if driven[index] else -1 for index in range(len(root))]
    turn = _turns(edges, part_of, len(listed))
    alone = [0 if found else -1 for found in driven]
    return [turn[part] if part >= 0 else alone[index] for index, part in enumerate(part_of)], max(1, len(listed))


def _turns(edges: Dependences, part_of: list[int], parts: int) -> list[int]:
    """[parts] place of each in an order in which every one comes after those it waits for, else as they are numbered.

    Where parts wait for one another in a circle, the first of them goes first.
    """
    if parts < 2:
        return [0] * parts
    waits = [0] * parts  # sets of parts, as bits
    reached: list[int] = []
    for index, found in enumerate(edges.before):
        own = part_of[index]
        seen = 0
        for earlier in found:
            seen |= reached[earlier]
        if own >= 0:
            waits[own] |= seen & ~(1 << own)
        # Through an operator of a part, only the part itself is handed on: it waits for the others on its own account.
        reached.append(1 << own if own >= 0 else seen)
    turn = [0] * parts
    left = list(range(parts))
    done = 0
    for place in range(parts):
        chosen = next((part for part in left if not waits[part] & ~done), left[0])
        turn[chosen] = place
        done |= 1 << chosen
        left.remove(chosen)
    return turn


# --- order within a stage ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Within:
    """Operators of one stage, in the graph's order, and the dependences among them alone."""

    members: list[int]
    before: dict[int, list[int]]
    behind: dict[int, list[int]]


def _within(edges: Dependences, stage: list[int], members: list[int]) -> _Within:
    own = stage[members[0]]
    return _Within(
        members=members,
        before={index: [other for other in edges.before[index] if stage[other] == own] for index in members},
        behind={index: [other for other in edges.behind[index] if stage[other] == own] for index in members},
    )


class _Emitter:
    """The order as far as it is decided."""

    def __init__(self, before: tuple[tuple[int, ...], ...], tie: list[tuple[int, int]]) -> None:
        self.before = before
        self.tie = tie
        self.order: list[int] = []
        self.placed = [False] * len(before)

    def pull(self, index: int, depth: dict[int, int]) -> None:
        """Put an operator, and before it all that it still waits for, behind those decided; the longest chain first."""
        stack = [index]
        while stack:
            top = stack[-1]
            missing = [other for other in self.before[top] if not self.placed[other]]
            if missing:
                stack.append(min(missing, key=lambda other: (-depth.get(other, 0), self.tie[other])))
                continue
            stack.pop()
            self.placed[top] = True
            self.order.append(top)


def _run_stage(graph: TrainingGraph, within: _Within, emitter: _Emitter) -> None:
    """Order one stage; all that it waits for of other stages is placed."""
    height = dict.fromkeys(within.members, 0)
    for index in reversed(within.members):
        for earlier in within.before[index]:
            height[earlier] = max(height[earlier], height[index] + 1)
    depth: dict[int, int] = {}
    for index in within.members:
        depth[index] = 1 + max([depth[earlier] for earlier in within.before[index]], default=0)
    driven = _driven(graph, within, height)
    missing = {index: sum(other in driven for other in within.before[index]) for index in driven}
    ready: list[tuple[int, tuple[int, int], int]] = []
    for index in driven:
        if not missing[index]:
            heappush(ready, (height[index], emitter.tie[index], index))
    while ready:
        _, _, index = heappop(ready)
        emitter.pull(index, depth)
        for later in within.behind[index]:
            if later in missing:
                missing[later] -= 1
                if not missing[later]:
                    heappush(ready, (height[later], emitter.tie[later], later))


def _driven(graph: TrainingGraph, within: _Within, height: dict[int, int]) -> set[int]:
    """Operators that run as soon as they can: those that stem from the beginning of the stage's longest chain.

    So do those that nothing of the stage waits for: what they need is there, or comes with them. In the optimizer's
    stage, all: every parameter has a chain of its own.
    """
    operators = graph.operators
    if all(operators[index].phase is Phase.OPTIMIZER for index in within.members):
        return set(within.members)
    begins = [index for index in within.members if not within.before[index]]
    # A block that is run again may have more behind it than backward itself, and must not run before it is needed.
    begins = [index for index in begins if operators[index].phase is not Phase.RECOMPUTE] or begins
    most = max(height[index] for index in begins)
    found = {index for index in begins if height[index] == most}
    for index in within.members:
        if not within.behind[index] or any(earlier in found for earlier in within.before[index]):
            found.add(index)
    return found
