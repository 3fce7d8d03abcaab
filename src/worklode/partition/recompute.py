"""Forward repeated in backward instead of kept: which operators, by data flow. Rules: docs/models/recompute.md."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from worklode.errors import Fault, SpecError
from worklode.graph.operator import OperatorKind, Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import require_valid
from worklode.partition.attention_core import attention_cores
from worklode.partition.repeated_operators import Repetition, with_repetitions
from worklode.partition.segments import Segments, segments


class RecomputePolicy(StrEnum):
    """What is repeated. NONE: nothing. SELECTIVE: scores, softmax and dropout of attention. FULL: all of a block."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recomputed:
    """A graph that recomputes, and what that costs and saves.

    Attributes:
        graph: the graph with operators of phase RECOMPUTE, unfused as before.
        policy: what was asked for.
        segments: indices of the segments that recompute, ascending.
        operators, flops: repeated operators and their FLOPs.
        saved_bytes_before, saved_bytes: bytes that forward keeps for backward.
        notes: why nothing was to be done, where that is so; sentences.
    """

    graph: TrainingGraph
    policy: RecomputePolicy
    segments: tuple[int, ...]
    operators: int
    flops: int
    saved_bytes_before: int
    saved_bytes: int
    notes: tuple[str, ...] = ()


def recompute(
    graph: TrainingGraph,
    policy: RecomputePolicy,
    *,
    only: Collection[int] | None = None,
    early_stop: bool = True,
) -> Recomputed:
    """Repeat forward operators before backward needs their results, which forward then no longer keeps.

    Under FULL a segment keeps what it is handed and repeats the rest; under SELECTIVE it keeps all but what lies
    between the two products of attention, the first of them included. A repeated operator waits until the gradients
    that its results are used with are there.

    Args:
        graph: one microbatch, unfused, of one device or one shard, which recomputes nothing yet.
        policy: what to repeat.
        only: segments (indices into `segments(graph)`) that may recompute; by default all units, and in a model
            without units all segments but the first and the last.
        early_stop: repeat what backward reads and what leads there, as torch's non-reentrant checkpoint does. False:
            all operators of the block, or of the attention core with its second product, as Megatron-LM's does.

    Raises:
        SpecError: the graph recomputes already, a segment does not exist, or `segments` refuses the graph.
    """
    divided = segments(graph)
    chosen = _chosen(divided, policy, only)
    repetitions, notes = _repetitions(divided, policy, chosen, early_stop)
    made = with_repetitions(graph, repetitions) if repetitions else graph
    repeated = [index for repetition in repetitions for index in repetition.operators]
    return Recomputed(
        graph=require_valid(made, "recompute") if repetitions else graph,
        policy=policy,
        segments=tuple(sorted({repetition.segment for repetition in repetitions})),
        operators=len(repeated),
        flops=sum(graph.operators[index].work.flops for index in repeated),
        saved_bytes_before=graph.saved_bytes(),
        saved_bytes=made.saved_bytes(),
        notes=notes,
    )


def _chosen(divided: Segments, policy: RecomputePolicy, only: Collection[int] | None) -> tuple[int, ...]:
    count = len(divided.segments)
    faults = [
        Fault(where="recompute", path="only", value=str(place), problem="no such segment", allowed=f"0 to {count - 1}")
        for place in sorted(only or ())
        if not 0 <= place < count
    ]
    if any(operator.phase is Phase.RECOMPUTE for operator in divided.graph.operators):
        allowed = "a step captured with recompute=none"
        faults.append(Fault(where=divided.graph.info.name, problem="recomputes already", allowed=allowed))
    if faults:
        raise SpecError(*faults)
    if only is not None:
        return tuple(sorted(set(only)))
    units = tuple(place for place, segment in enumerate(divided.segments) if segment.unit is not None)
    if policy is RecomputePolicy.SELECTIVE:
        return tuple(range(count))
    return units or tuple(range(1, count - 1))


def _repetitions(
    divided: Segments, policy: RecomputePolicy, chosen: tuple[int, ...], early_stop: bool
) -> tuple[tuple[Repetition, ...], tuple[str, ...]]:
    """What is repeated, and notes on what is not."""
    notes: tuple[str, ...]
    match policy:
        case RecomputePolicy.NONE:
            return (), ()
        case RecomputePolicy.FULL:
            found = [_repetition(divided, place, divided.segments[place].forward, early_stop) for place in chosen]
            notes = () if chosen else ("The model has one or two segments: there is no block to recompute.",)
        case RecomputePolicy.SELECTIVE:
            found = []
            for place in chosen:
                for core in attention_cores(divided.graph, divided.segments[place].forward):
                    operators = core.scores if early_stop else tuple(sorted(core.scores + core.context))
                    found.append(_repetition(divided, place, operators, early_stop))
            notes = _selective_notes(divided, chosen, bool(found))
    return tuple(repetition for repetition in found if repetition is not None), notes


def _selective_notes(divided: Segments, chosen: tuple[int, ...], found: bool) -> tuple[str, ...]:
    operators = (divided.graph.operators[i] for place in chosen for i in divided.segments[place].forward)
    fused = sum(operator.kind is OperatorKind.ATTENTION for operator in operators)
    if fused:
        return (f"{fused} attentions are one operator each, which keeps no scores: there is nothing to recompute.",)
    return () if found else ("The model has no attention: there is nothing to recompute.",)


def _repetition(divided: Segments, place: int, operators: Iterable[int], early_stop: bool) -> Repetition | None:
    """Repeat operators of a segment for its backward; None where backward reads nothing of them."""
    graph, segment = divided.graph, divided.segments[place]
    made = {access.tensor: index for index in operators for access in graph.operators[index].writes}
    backward = sorted(segment.input_gradient + segment.weight_gradient)
    readers = tuple(i for i in backward if any(a.tensor in made for a in graph.operators[i].reads))
    if not readers:
        return None
    needed = {made[a.tensor] for i in readers for a in graph.operators[i].reads if a.tensor in made}
    for index in sorted(made.values(), reverse=True):
        if index in needed:
            needed.update(made[a.tensor] for a in graph.operators[index].reads if a.tensor in made)
    return Repetition(
        segment=place, operators=tuple(sorted(needed if early_stop else set(made.values()))), readers=readers
    )
