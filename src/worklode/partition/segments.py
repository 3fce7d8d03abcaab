"""A model as a sequence of segments, and the operators of each in every pass. Rules: docs/models/segments.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from worklode.errors import Fault, SpecError
from worklode.graph.operator import Phase
from worklode.graph.subgraph import subgraph
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.assignment import Assignment, Tie, assign
from worklode.partition.cut_points import MAX_CROSSING, stretches
from worklode.partition.signature import distinct_segments

__all__ = ["Boundary", "Pass", "Segment", "Segments", "Tie", "pass_graph", "segments"]


class Pass(StrEnum):
    """What a device does with a segment in one go.

    INPUT_GRADIENT: what the segment before waits for, and recomputation. WEIGHT_GRADIENT: the rest of backward. Both
    together are the backward pass of schedules that do not split it.
    """

    FORWARD = "forward"
    INPUT_GRADIENT = "input_gradient"
    WEIGHT_GRADIENT = "weight_gradient"
    OPTIMIZER = "optimizer"


BACKWARD = (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
"""The passes of backward."""

ALL_PASSES = tuple(Pass)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of the model that stays on one device.

    Attributes:
        name: module path of the block, or the modules it goes through.
        unit: (container, number) where it is one child of a container of repeated blocks, else None.
        kind: index of the first segment equal to this one.
        forward, input_gradient, weight_gradient, optimizer: operators of each pass, indices into the graph, ascending.
        parameters: names of the parameters its forward pass reads, a tied one in every segment that reads it.
    """

    name: str
    unit: tuple[str, int] | None
    kind: int
    forward: tuple[int, ...]
    input_gradient: tuple[int, ...]
    weight_gradient: tuple[int, ...]
    optimizer: tuple[int, ...]
    parameters: tuple[str, ...]

    def operators(self, *passes: Pass) -> tuple[int, ...]:
        """Operators of some passes, or of all."""
        return tuple(sorted(index for chosen in passes or ALL_PASSES for index in self._of(chosen)))

    def _of(self, chosen: Pass) -> tuple[int, ...]:
        match chosen:
            case Pass.FORWARD:
                return self.forward
            case Pass.INPUT_GRADIENT:
                return self.input_gradient
            case Pass.WEIGHT_GRADIENT:
                return self.weight_gradient
            case Pass.OPTIMIZER:
                return self.optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """What crosses between segment k and segment k + 1, for one microbatch.

    Attributes:
        forward: tensors handed on, those that only pass through (an encoder's output on its way to later decoder
            blocks) included.
        backward: gradients handed back.
        forward_bytes, backward_bytes: their sizes [bytes].
    """

    forward: tuple[int, ...]
    backward: tuple[int, ...]
    forward_bytes: int
    backward_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """S segments of a graph in the order of forward, S - 1 boundaries between them.

    Attributes:
        graph: the graph whose operators and tensors are meant.
        segments: the segments.
        boundaries: `boundaries[k]` lies between segments k and k + 1.
        ties: parameters that several segments read; if the segments are on several devices, each has a copy and the
            gradients of the copies are summed.
    """

    graph: TrainingGraph
    segments: tuple[Segment, ...]
    boundaries: tuple[Boundary, ...]
    ties: tuple[Tie, ...]

    @property
    def counts(self) -> dict[int, int]:
        """How often each distinct segment occurs, by the index of its first."""
        found: dict[int, int] = {}
        for segment in self.segments:
            found[segment.kind] = found.get(segment.kind, 0) + 1
        return found

    def operators(self, chosen: Iterable[int], *passes: Pass) -> tuple[int, ...]:
        """Operators that a device holding some segments runs, ascending.

        A tied parameter is updated by every device that holds a copy: its optimizer operators are among those of each
        segment that reads it, once a device.
        """
        held = sorted(set(chosen))
        found = {index for place in held for index in self.segments[place].operators(*passes)}
        if not passes or Pass.OPTIMIZER in passes:
            found.update(i for tie in self.ties if set(tie.segments) & set(held) for i in tie.optimizer)
        return tuple(sorted(found))


def segments(graph: TrainingGraph, *, max_crossing: int = MAX_CROSSING) -> Segments:
    """Divide a training graph into segments by data flow.

    Every operator is in exactly one segment and pass. A repeated block is one segment; elsewhere a segment ends where
    one tensor crosses, or a few between two modules.

    Args:
        graph: one microbatch, unfused, of one device or one shard.
        max_crossing: most tensors that may cross between two modules.

    Raises:
        SpecError: the graph is fused, has several microbatches, or has no forward operator.
    """
    faults = _faults(graph, max_crossing)
    if faults:
        raise SpecError(*faults)
    found = stretches(graph, max_crossing)
    assignment = assign(graph, [stretch.operators for stretch in found])
    passes = [_passes(graph, assignment, place) for place in range(len(found))]
    kinds = distinct_segments(graph, passes)
    made = tuple(
        Segment(
            name=stretch.name,
            unit=stretch.unit,
            kind=kind,
            forward=forward,
            input_gradient=input_gradient,
            weight_gradient=weight_gradient,
            optimizer=optimizer,
            parameters=assignment.parameters[place],
        )
        for place, (stretch, kind, (forward, input_gradient, weight_gradient, optimizer)) in enumerate(
            zip(found, kinds, passes, strict=True)
        )
    )
    return Segments(graph=graph, segments=made, boundaries=_boundaries(graph, assignment), ties=assignment.ties)


def pass_graph(divided: Segments, chosen: Sequence[int], *passes: Pass) -> TrainingGraph:
    """The training graph of some passes of some segments; all passes where none is named.

    Tensors of other segments and passes exist before it. Those of its tensors that others read have `saved` set,
    whatever its phase: they must be in HBM when it is done, so fusion may not drop them.
    """
    names = [divided.segments[place].name for place in chosen]
    span = names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"
    label = "+".join(passes) if passes else "step"
    name = f"{divided.graph.info.name} [{span}, {label}]"
    operators = divided.operators(chosen, *passes)
    if not operators:
        info = replace(divided.graph.info, name=name, parameters=0, trainable_parameters=0)
        return TrainingGraph(info=info, tensors=(), operators=(), blocks=divided.graph.blocks)
    return _kept_for_others(divided.graph, operators, subgraph(divided.graph, operators, name=name))


def _kept_for_others(graph: TrainingGraph, operators: Sequence[int], part: TrainingGraph) -> TrainingGraph:
    """The part with `saved` set on what it makes and operators outside of it read."""
    inside = set(operators)
    wanted = {
        access.tensor
        for index, operator in enumerate(graph.operators)
        if index not in inside
        for access in operator.reads
        if graph.tensors[access.tensor].producer in inside
    }
    used = sorted({a.tensor for i in operators for a in (*graph.operators[i].reads, *graph.operators[i].writes)})
    tensors = tuple(
        replace(tensor, saved=True) if old in wanted and not tensor.saved else tensor
        for old, tensor in zip(used, part.tensors, strict=True)
    )
    return replace(part, tensors=tensors)


def _faults(graph: TrainingGraph, max_crossing: int) -> list[Fault]:
    where = graph.info.name or "graph"
    faults = []
    fused = next((o for o in graph.operators if o.members), None)
    if fused is not None:
        faults.append(
            Fault(where=where, value=fused.name, problem="is fused", allowed="an unfused graph: cut, then fuse")
        )
    if _microbatches(graph) > 1:
        allowed = "a step captured with accumulation_steps=1: the schedule repeats it"
        faults.append(
            Fault(where=where, value=str(_microbatches(graph)), problem="has several microbatches", allowed=allowed)
        )
    if not any(operator.phase is Phase.FORWARD for operator in graph.operators):
        faults.append(Fault(where=where, problem="has no forward operator", allowed="a training step"))
    if max_crossing < 1:
        faults.append(
            Fault(
                where="segments", path="max_crossing", value=str(max_crossing), problem="too few", allowed="1 or more"
            )
        )
    return faults


def _microbatches(graph: TrainingGraph) -> int:
    """How often forward begins anew after backward."""
    count, in_backward = 1, False
    for operator in graph.operators:
        if operator.phase is Phase.FORWARD and in_backward:
            count, in_backward = count + 1, False
        in_backward = in_backward or operator.phase is Phase.BACKWARD
    return count


def _passes(graph: TrainingGraph, assignment: Assignment, place: int) -> tuple[tuple[int, ...], ...]:
    """Operators of a segment by pass, in the order of `Pass`."""
    needed = assignment.handed_back_by(graph, place)
    first = tuple(i for i in assignment.backward[place] if i in needed)
    rest = tuple(i for i in assignment.backward[place] if i not in needed)
    return assignment.forward[place], first, rest, assignment.optimizer[place]


def _boundaries(graph: TrainingGraph, assignment: Assignment) -> tuple[Boundary, ...]:
    forward, backward = assignment.crossing
    return tuple(
        Boundary(
            forward=tuple(handed_on),
            backward=tuple(handed_back),
            forward_bytes=sum(written_bytes(graph, tensor) for tensor in handed_on),
            backward_bytes=sum(written_bytes(graph, tensor) for tensor in handed_back),
        )
        for handed_on, handed_back in zip(forward, backward, strict=True)
    )


def written_bytes(graph: TrainingGraph, tensor: int) -> int:
    """Bytes of a tensor that its producer wrote; all of it where it exists before the iteration."""
    producer = graph.tensors[tensor].producer
    if producer < 0:
        return graph.tensors[tensor].bytes
    return next(a.bytes for a in graph.operators[producer].writes if a.tensor == tensor)
