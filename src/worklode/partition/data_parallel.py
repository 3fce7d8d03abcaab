"""Data parallelism with ZeRO 0 to 3: what a stage exchanges and when, and what of it shows.

Formulas: docs/models/data_parallel.md. Times of collectives come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from worklode.errors import Fault, SpecError
from worklode.graph.operator import Access, Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Collective
from worklode.partition.segments import Segments
from worklode.partition.stage_memory import MemoryModel, StateOptions

BUCKET_BYTES = 25 * 2**20
"""Gradients reduced at a time [bytes]: default of torch's DistributedDataParallel (`bucket_cap_mb=25`, torch 2.13)."""

CollectiveTime = Callable[[Collective, int], float]
"""Time [s] of a collective of the data-parallel group over a whole tensor of so many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientBucket:
    """Gradients that are reduced together, when the last of them is there.

    Attributes:
        parameters: names, in the order in which gradients become ready.
        gradient_bytes: what is reduced (all-reduce, or reduce-scatter from ZeRO-1 on) [bytes].
        segment: index of the segment whose backward makes the last of them.
        operator: the operator that makes the last of them.
    """

    parameters: tuple[str, ...]
    gradient_bytes: int
    segment: int
    operator: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One kind of exchange of an iteration.

    Attributes:
        collective: what is done.
        bytes: size of the whole tensors over the stage, each time [bytes].
        times: how often an iteration does it.
        when: "backward", "forward", or "update" (after the optimizer), for people.
    """

    collective: Collective
    bytes: int
    times: int
    when: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataParallelPlan:
    """What the data-parallel group of one stage exchanges in an iteration.

    Attributes:
        options: ZeRO level and width.
        buckets: gradients in the order they become ready in one backward pass.
        segments: segments of the stage.
        segment_weight_bytes: weights of each, what ZeRO-3 gathers before it runs [bytes].
        exchanges: totals by kind; empty for a group of one.
    """

    options: StateOptions
    buckets: tuple[GradientBucket, ...]
    segments: tuple[int, ...]
    segment_weight_bytes: tuple[int, ...]
    exchanges: tuple[Exchange, ...]

    @property
    def reduction(self) -> Collective:
        """How gradients are reduced."""
        return Collective.ALL_REDUCE if self.options.zero == 0 else Collective.REDUCE_SCATTER

    def sent_bytes(self) -> float:
        """Bytes a device sends in an iteration with ring algorithms."""
        return sum(
            each.times * ring_sent_bytes(each.collective, each.bytes, self.options.data_parallel)
            for each in self.exchanges
        )


def ring_sent_bytes(collective: Collective, size_bytes: float, devices: int) -> float:
    """Bytes [bytes] each device sends in a ring: (d - 1) / d of the whole tensor, twice that for an all-reduce.

    Args:
        collective: all-reduce, reduce-scatter or all-gather.
        size_bytes: whole tensor [bytes].
        devices: d.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, J. Parallel Distrib. Comput. 69 (2009).
    """
    passes = 2 if collective is Collective.ALL_REDUCE else 1
    return passes * size_bytes * (devices - 1) / devices


def data_parallel_plan(
    model: MemoryModel,
    chosen: Sequence[int],
    options: StateOptions,
    *,
    microbatches: int = 1,
    bucket_bytes: int = BUCKET_BYTES,
) -> DataParallelPlan:
    """What the group of a stage exchanges.

    ZeRO-0 and 1 reduce once an iteration; 2 and 3 after the backward of every microbatch, for only a shard of the sum
    is kept. ZeRO-1 and 2 gather updated weights once; 3 gathers weights before forward and before backward of every
    microbatch.

    Args:
        model: the divided graph.
        chosen: segments of the stage.
        options: bytes per parameter, ZeRO level and width of the group.
        microbatches: of the iteration.
        bucket_bytes: least bytes of a bucket but the last [bytes].

    Raises:
        SpecError: an option out of its range.
    """
    options.check()
    faults = [
        Fault(where="data parallel", path=name, value=str(value), problem="is not positive", allowed="1 or more")
        for name, value in (("microbatches", microbatches), ("bucket_bytes", bucket_bytes))
        if value < 1
    ]
    if faults:
        raise SpecError(*faults)
    buckets = _buckets(model, chosen, options, bucket_bytes)
    weights = tuple(model.model_state([place], options.rule).weights for place in chosen)
    plan = DataParallelPlan(
        options=options,
        buckets=buckets,
        segments=tuple(chosen),
        segment_weight_bytes=weights,
        exchanges=(),
    )
    if options.data_parallel == 1:
        return plan
    gradients = sum(bucket.gradient_bytes for bucket in buckets)
    reductions = microbatches if options.zero >= 2 else 1
    exchanges = [Exchange(collective=plan.reduction, bytes=gradients, times=reductions, when="backward")]
    if options.zero in (1, 2):
        updated = model.model_state(chosen, options.rule).weights
        exchanges.append(Exchange(collective=Collective.ALL_GATHER, bytes=updated, times=1, when="update"))
    elif options.zero == 3:
        exchanges.extend(
            Exchange(collective=Collective.ALL_GATHER, bytes=sum(weights), times=microbatches, when=when)
            for when in ("forward", "backward")
        )
    return replace(plan, exchanges=tuple(exchanges))


def _buckets(
    model: MemoryModel, chosen: Sequence[int], options: StateOptions, bucket_bytes: int
) -> tuple[GradientBucket, ...]:
    """Trained parameters of the segments, in the order their gradients are finished, in buckets."""
    made = _gradients_made(model.divided)
    ready: dict[str, tuple[int, int]] = {}
    for place in chosen:
        for name in model.divided.segments[place].parameters:
            if name in made:
                # the copy of a tied parameter is finished with the earliest segment of this stage that reads it
                own = max((i for i, at in made[name] if at == place), default=max(i for i, _ in made[name]))
                ready[name] = max(ready.get(name, (-1, place)), (own, place))
    buckets: list[GradientBucket] = []
    names: list[str] = []
    size = 0
    for number, name in enumerate(sorted(ready, key=lambda name: ready[name]), 1):
        names.append(name)
        size += model.parameter_state(name, options.rule).gradients
        operator, place = ready[name]
        if size >= bucket_bytes or number == len(ready):
            buckets.append(
                GradientBucket(parameters=tuple(names), gradient_bytes=size, segment=place, operator=operator)
            )
            names, size = [], 0
    return tuple(buckets)


def _gradients_made(divided: Segments) -> dict[str, list[tuple[int, int]]]:
    """Parameter -> (operator, segment) of all that makes its gradient, or a tied one's part of it."""
    graph = divided.graph
    segment_of = {i: place for place, segment in enumerate(divided.segments) for i in segment.operators()}
    found: dict[str, list[tuple[int, int]]] = {}

    def made(name: str, tensor: int) -> None:
        producer = graph.tensors[tensor].producer
        if producer >= 0 and graph.operators[producer].phase is not Phase.OPTIMIZER:
            found.setdefault(name, []).append((producer, segment_of[producer]))

    for index, tensor in enumerate(graph.tensors):
        if tensor.role is TensorRole.GRADIENT:
            made(tensor.name, index)
    for tie in divided.ties:
        for partial in tie.partial:
            made(tie.parameter, partial)
    return found


# ------------------------------------------------------------------------------------------------------- overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Communication beside computation.

    Attributes:
        start_s, end_s: of every exchange [s].
        finished_s: end of all, computation included [s].
        exposed_s: how much later that is than computation alone would end [s].
    """

    start_s: tuple[float, ...]
    end_s: tuple[float, ...]
    finished_s: float
    exposed_s: float


def overlapped_reductions(
    plan: DataParallelPlan, ready_s: Sequence[float], compute_end_s: float, collective_time: CollectiveTime
) -> Overlap:
    """Reductions of a backward pass, one after another as buckets become ready.

    start(i) = max(ready(i), end(i - 1)), end(i) = start(i) + time(i); exposed = max(0, last end - compute end).

    Args:
        plan: the buckets.
        ready_s: when the gradients of each bucket are there, not descending [s].
        compute_end_s: when the backward pass ends [s].
        collective_time: time of a collective.
    """
    assert len(ready_s) == len(plan.buckets), "one time a bucket"
    starts, ends, free = [], [], 0.0
    for bucket, ready in zip(plan.buckets, ready_s, strict=True):
        starts.append(max(ready, free))
        single = plan.options.data_parallel == 1
        free = starts[-1] + (0.0 if single else collective_time(plan.reduction, bucket.gradient_bytes))
        ends.append(free)
    finished = max([compute_end_s, *ends])
    return Overlap(start_s=tuple(starts), end_s=tuple(ends), finished_s=finished, exposed_s=finished - compute_end_s)


def overlapped_gathers(compute_s: Sequence[float], gather_s: Sequence[float], *, ahead: int = 1) -> Overlap:
    """A pass of ZeRO-3: the weights of each segment are gathered before it runs, those of the next ones meanwhile.

    Gather k starts when gather k - 1 is done and segment k - 1 - ahead has ended; segment k when gather k is done and
    segment k - 1 has ended. The returned times are those of the gathers.

    Args:
        compute_s: time of every segment, in the order of the pass [s].
        gather_s: time to gather its weights [s].
        ahead: segments whose weights may be there before they run.
    """
    assert len(compute_s) == len(gather_s), "one gather a segment"
    assert ahead >= 0, "weights cannot come late"
    starts: list[float] = []
    ends: list[float] = []
    done: list[float] = []
    for place, (compute, gather) in enumerate(zip(compute_s, gather_s, strict=True)):
        room = done[place - 1 - ahead] if place > ahead else 0.0
        starts.append(max(room, ends[-1] if ends else 0.0))
        ends.append(starts[-1] + gather)
        done.append(max(ends[-1], done[-1] if done else 0.0) + compute)
    finished = done[-1] if done else 0.0
    return Overlap(start_s=tuple(starts), end_s=tuple(ends), finished_s=finished, exposed_s=finished - sum(compute_s))


# ----------------------------------------------------------------------------------------------- update and ties


def divided_update(graph: TrainingGraph, options: StateOptions) -> TrainingGraph:
    """The graph with its optimizer operators at the share of one device: 1 / d from ZeRO-1 on, rounded up.

    Parameters are divided as one flat array, so every update is at 1 / d of its elements on average. Products of an
    optimizer that works on whole matrices are left as they are.
    """
    options.check()
    share = options.data_parallel if options.zero >= 1 else 1
    if share == 1:
        return graph

    def part(count: int) -> int:
        return -(-count // share)

    def parts(accesses: tuple[Access, ...]) -> tuple[Access, ...]:
        return tuple(replace(access, bytes=part(access.bytes)) for access in accesses)

    operators = tuple(
        replace(
            operator,
            reads=parts(operator.reads),
            writes=parts(operator.writes),
            work=replace(
                operator.work,
                simple_ops=part(operator.work.simple_ops),
                special_ops=part(operator.work.special_ops),
                vector_elements=part(operator.work.vector_elements),
                random_accesses=part(operator.work.random_accesses),
            ),
        )
        if operator.phase is Phase.OPTIMIZER
        else operator
        for operator in graph.operators
    )
    return replace(graph, operators=operators, loops=())


@dataclass(frozen=True, slots=True, kw_only=True)
class TiedReduction:
    """An all-reduce between pipeline stages that hold copies of one parameter, once an iteration.

    Attributes:
        parameter: its name.
        stages: stages that hold a copy, ascending.
        bytes: size of the gradient [bytes].
    """

    parameter: str
    stages: tuple[int, ...]
    bytes: int


def tied_reductions(
    model: MemoryModel, stages: Sequence[Sequence[int]], options: StateOptions
) -> tuple[TiedReduction, ...]:
    """All-reduces between stages for parameters that are tied across them.

    Args:
        model: the divided graph.
        stages: segments of every stage.
        options: bytes per parameter.
    """
    found = []
    for tie in model.divided.ties:
        holders = tuple(place for place, held in enumerate(stages) if not set(held).isdisjoint(tie.segments))
        size = model.parameter_state(tie.parameter, options.rule).gradients
        if len(holders) > 1 and size:
            found.append(TiedReduction(parameter=tie.parameter, stages=holders, bytes=size))
    return tuple(found)
