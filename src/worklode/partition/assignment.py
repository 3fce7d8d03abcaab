"""Which segment every operator belongs to, what crosses between segments, and which parameters are tied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worklode.graph.fusion.facts import DTYPE_BYTES
from worklode.graph.operator import Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.training_graph import TrainingGraph

BACKWARD_PHASES = (Phase.BACKWARD, Phase.RECOMPUTE, Phase.ACCUMULATE)
_NAMED_ROLES = (TensorRole.PARAMETER, TensorRole.OPTIMIZER_STATE, TensorRole.GRADIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """A parameter that several segments read (an embedding that is also the output head).

    Attributes:
        parameter: its name.
        segments: those that read it in forward, ascending; the first one's `optimizer` has its update.
        gradient_bytes: size of its gradient: what the devices of these segments all-reduce [bytes].
        partial: tensors in which a segment hands its part of the gradient to another segment's sum; they are no part
            of any boundary.
        optimizer: operators that update it.
    """

    parameter: str
    segments: tuple[int, ...]
    gradient_bytes: int
    partial: tuple[int, ...]
    optimizer: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assignment:
    """Operators by segment, S segments.

    Attributes:
        segment_of: segment of every operator.
        forward, backward, optimizer: [S] operators, ascending.
        parameters: [S] names of parameters read in forward.
        crossing: ([S - 1] tensors handed on, [S - 1] tensors handed back) at each boundary.
        returned: [S] tensors a segment hands back to those before.
        ties: tied parameters.
    """

    segment_of: tuple[int, ...]
    forward: tuple[tuple[int, ...], ...]
    backward: tuple[tuple[int, ...], ...]
    optimizer: tuple[tuple[int, ...], ...]
    parameters: tuple[tuple[str, ...], ...]
    crossing: tuple[tuple[list[int], ...], tuple[list[int], ...]]
    returned: tuple[tuple[int, ...], ...]
    ties: tuple[Tie, ...]

    def handed_back_by(self, graph: TrainingGraph, place: int) -> set[int]:
        """Backward operators of a segment that lead to what it hands back, and its recomputation.

        A segment that hands nothing back has none: nobody waits for any of its backward.
        """
        waiting = [graph.tensors[tensor].producer for tensor in self.returned[place]]
        if not waiting:
            return set()
        own = set(self.backward[place])
        waiting.extend(i for i in self.backward[place] if graph.operators[i].phase is Phase.RECOMPUTE)
        found: set[int] = set()
        while waiting:
            index = waiting.pop()
            if index in own and index not in found:
                found.add(index)
                waiting.extend(graph.predecessors(index))
        return found


def assign(graph: TrainingGraph, forward: Sequence[tuple[int, ...]]) -> Assignment:
    """Assign every operator to the segment whose forward operators it follows from.

    Backward operators carry the module of their forward operator; where several segments run that module, and wherever
    gradients have already come down to an earlier segment, the data decides: no gradient flows towards the loss.
    """
    segment_of = [-1] * len(graph.operators)
    for place, operators in enumerate(forward):
        for index in operators:
            segment_of[index] = place
    users = _parameter_users(graph, segment_of)
    _assign_backward(graph, segment_of, _segments_of_modules(graph, segment_of), len(forward) - 1)
    _assign_optimizer(graph, segment_of, users)
    optimizer = _by_segment(graph, segment_of, (Phase.OPTIMIZER,), len(forward))
    ties = _ties(graph, segment_of, users)
    partial = {tensor for tie in ties for tensor in tie.partial}
    crossing, returned = _crossing(graph, segment_of, partial, len(forward))
    return Assignment(
        segment_of=tuple(segment_of),
        forward=tuple(forward),
        backward=_by_segment(graph, segment_of, BACKWARD_PHASES, len(forward)),
        optimizer=optimizer,
        parameters=tuple(
            tuple(name for name, places in users.items() if place in places) for place in range(len(forward))
        ),
        crossing=crossing,
        returned=returned,
        ties=ties,
    )


def _by_segment(
    graph: TrainingGraph, segment_of: list[int], phases: tuple[Phase, ...], count: int
) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in range(count)]
    for index, operator in enumerate(graph.operators):
        if operator.phase in phases:
            found[segment_of[index]].append(index)
    return tuple(map(tuple, found))


def _parameter_users(graph: TrainingGraph, segment_of: list[int]) -> dict[str, list[int]]:
    """Parameter -> segments whose forward reads it, ascending."""
    users: dict[str, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        if segment_of[index] < 0:
            continue
        for access in operator.reads:
            tensor = graph.tensors[access.tensor]
            if tensor.role is TensorRole.PARAMETER:
                places = users.setdefault(tensor.name, [])
                if not places or places[-1] != segment_of[index]:
                    places.append(segment_of[index])
    return {name: sorted(set(places)) for name, places in users.items()}


def _segments_of_modules(graph: TrainingGraph, segment_of: list[int]) -> dict[str, list[int]]:
    """Module -> segments that run it in forward, ascending."""
    found: dict[str, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        if segment_of[index] >= 0:
            places = found.setdefault(operator.module, [])
            if segment_of[index] not in places:
                places.append(segment_of[index])
    return {module: sorted(places) for module, places in found.items()}


def _assign_backward(graph: TrainingGraph, segment_of: list[int], of_module: dict[str, list[int]], last: int) -> None:
    for index, operator in enumerate(graph.operators):
        if operator.phase not in BACKWARD_PHASES:
            continue
        reached = last
        before = [graph.tensors[access.tensor].producer for access in operator.reads]
        if operator.phase is Phase.RECOMPUTE:  # it reads no gradients, but waits for those it is repeated for
            before.extend(operator.after)
        for producer in before:
            if producer >= 0 and graph.operators[producer].phase in BACKWARD_PHASES:
                reached = min(reached, segment_of[producer])
        known = of_module.get(operator.module, ())
        segment_of[index] = max((place for place in known if place <= reached), default=reached)


def _assign_optimizer(graph: TrainingGraph, segment_of: list[int], users: dict[str, list[int]]) -> None:
    for index, operator in enumerate(graph.operators):
        if operator.phase is not Phase.OPTIMIZER:
            continue
        name = _parameter_of(graph, operator)
        if name in users:
            segment_of[index] = users[name][0]
            continue
        # what no parameter names (a global norm) is where the last of its operands is made
        before = [segment_of[producer] for producer in graph.predecessors(index)]
        segment_of[index] = max(before, default=0)


def _parameter_of(graph: TrainingGraph, operator: Operator) -> str:
    """The parameter that an optimizer operator updates, or whose state or gradient it touches; "" for none."""
    for accesses in (operator.writes, operator.reads):
        for access in accesses:
            tensor = graph.tensors[access.tensor]
            if tensor.role in _NAMED_ROLES and tensor.name:
                return tensor.name
    return ""


# ------------------------------------------------------------------------------------------------------ crossing


def _crossing(
    graph: TrainingGraph, segment_of: list[int], partial: set[int], count: int
) -> tuple[tuple[tuple[list[int], ...], tuple[list[int], ...]], tuple[tuple[int, ...], ...]]:
    """Tensors handed on and back at every boundary, and what each segment hands back."""
    lowest, highest = _reach(graph, segment_of)
    forward: tuple[list[int], ...] = tuple([] for _ in range(count - 1))
    backward: tuple[list[int], ...] = tuple([] for _ in range(count - 1))
    returned: list[list[int]] = [[] for _ in range(count)]
    for tensor in sorted(lowest.keys() | highest.keys()):
        if tensor in partial:
            continue
        home = segment_of[graph.tensors[tensor].producer]
        for boundary in range(home, highest.get(tensor, home)):
            forward[boundary].append(tensor)
        for boundary in range(lowest.get(tensor, home), home):
            backward[boundary].append(tensor)
        if lowest.get(tensor, home) < home:
            returned[home].append(tensor)
    return (forward, backward), tuple(map(tuple, returned))


def _reach(graph: TrainingGraph, segment_of: list[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Tensor -> lowest and highest segment that reads it, optimizer operators left out."""
    lowest: dict[int, int] = {}
    highest: dict[int, int] = {}
    for index, operator in enumerate(graph.operators):
        if operator.phase is Phase.OPTIMIZER:
            continue
        place = segment_of[index]
        for access in operator.reads:
            if graph.tensors[access.tensor].producer >= 0:
                lowest[access.tensor] = min(lowest.get(access.tensor, place), place)
                highest[access.tensor] = max(highest.get(access.tensor, place), place)
    return lowest, highest


# ---------------------------------------------------------------------------------------------------------- ties


def elements(tensor: Tensor) -> int:
    """Elements of a tensor's storage."""
    return tensor.bytes // DTYPE_BYTES.get(tensor.dtype, 1)


def _ties(graph: TrainingGraph, segment_of: list[int], users: dict[str, list[int]]) -> tuple[Tie, ...]:
    tied = {name: places for name, places in users.items() if len(places) > 1}
    if not tied:
        return ()
    readers: dict[int, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        for access in operator.reads:
            readers.setdefault(access.tensor, []).append(index)
    sizes = {t.name: (t.bytes, elements(t)) for t in graph.tensors if t.role is TensorRole.PARAMETER and t.name in tied}
    gradients = {t.name: t.bytes for t in graph.tensors if t.role is TensorRole.GRADIENT and t.name in tied}
    updates: dict[str, list[int]] = {name: [] for name in tied}
    for index, operator in enumerate(graph.operators):
        if operator.phase is Phase.OPTIMIZER and (name := _parameter_of(graph, operator)) in updates:
            updates[name].append(index)
    return tuple(
        Tie(
            parameter=name,
            segments=tuple(places),
            gradient_bytes=gradients.get(name, sizes[name][0]),
            partial=_partial_gradients(graph, segment_of, readers, name, sizes[name][1]),
            optimizer=tuple(updates[name]),
        )
        for name, places in tied.items()
    )


def _partial_gradients(
    graph: TrainingGraph, segment_of: list[int], readers: dict[int, list[int]], name: str, size: int
) -> tuple[int, ...]:
    """Tensors of the parameter's size, made in one segment and summed in another, that end in its gradient."""
    ends = {i for i, t in enumerate(graph.tensors) if t.role is TensorRole.GRADIENT and t.name == name}
    summed: set[int] = set()
    waiting = list(ends)
    while waiting:
        producer = graph.tensors[waiting.pop()].producer
        if producer < 0 or graph.operators[producer].kind not in (OperatorKind.ELEMENTWISE, OperatorKind.COLLECTIVE):
            continue
        for access in graph.operators[producer].reads:
            made = graph.tensors[access.tensor]
            if access.tensor not in summed and made.producer >= 0 and elements(made) == size:
                summed.add(access.tensor)
                waiting.append(access.tensor)
    return tuple(
        sorted(
            tensor
            for tensor in summed
            if any(
                segment_of[reader] != segment_of[graph.tensors[tensor].producer] for reader in readers.get(tensor, ())
            )
        )
    )
