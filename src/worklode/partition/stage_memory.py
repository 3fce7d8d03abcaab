"""HBM of a pipeline stage: parameters, gradients, optimizer state, activations in flight, working set.

Rules and sources: docs/models/stage_memory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from worklode.errors import Fault, SpecError
from worklode.graph.operator import TensorRole
from worklode.partition.activation_memory import ActivationMemory
from worklode.partition.assignment import elements
from worklode.partition.segments import Segments

ZERO_LEVELS = (0, 1, 2, 3)
PREFETCHED_SEGMENTS = 2
"""Segments whose parameters are gathered at one time under ZeRO-3: the one that runs and the next. Assumption: one is
gathered ahead, as PyTorch's FSDP does (documentation of `BackwardPrefetch`, 2.13)."""


class StateRule(StrEnum):
    """Bytes of weight, gradient and optimizer state per parameter.

    CAPTURED: those of the graph (pure bf16 AdamW: 2 + 2 + 4). MIXED_16: 16-bit weights and gradients, 32-bit copy and
    two moments (arXiv 1910.02054, section 3.1). MIXED_18: the same with 32-bit gradients, as Megatron-LM for bf16.
    """

    CAPTURED = "captured"
    MIXED_16 = "mixed-16"
    MIXED_18 = "mixed-18"


BYTES_PER_PARAMETER = {StateRule.MIXED_16: (2, 2, 12), StateRule.MIXED_18: (2, 4, 12)}
"""(weight, gradient, optimizer state) [bytes]. 2 + 2 + 4 + 4 + 4: arXiv 1910.02054, section 3.1. 2 + 4 + 4 + 4 + 4:
Megatron-LM, `megatron/training/theoretical_memory_usage.py` (18 bytes) and its guide to the distributed optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateOptions:
    """How model state is held.

    Attributes:
        rule: bytes per parameter.
        zero: 0: every device holds all; 1: optimizer state is divided over the data-parallel group; 2: gradients too;
            3: parameters too.
        data_parallel: devices of the group.
    """

    rule: StateRule = StateRule.CAPTURED
    zero: int = 0
    data_parallel: int = 1

    def check(self) -> None:
        """Raise every fault at once.

        Raises:
            SpecError: no such ZeRO level, or no data-parallel width.
        """
        faults = []
        if self.zero not in ZERO_LEVELS:
            faults.append(Fault(where="zero", value=str(self.zero), problem="no such level", allowed="0, 1, 2, 3"))
        if self.data_parallel < 1:
            value = str(self.data_parallel)
            faults.append(Fault(where="data_parallel", value=value, problem="is not positive", allowed="1 or more"))
        if faults:
            raise SpecError(*faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """Bytes of model state on one device, before it is divided over a data-parallel group.

    Attributes:
        elements: parameters.
        weights, gradients, optimizer: [bytes].
    """

    elements: int = 0
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0

    def __add__(self, other: ModelState) -> ModelState:
        return ModelState(
            elements=self.elements + other.elements,
            weights=self.weights + other.weights,
            gradients=self.gradients + other.gradients,
            optimizer=self.optimizer + other.optimizer,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """HBM of one device of a stage [bytes].

    Attributes:
        parameters, gradients, optimizer_state, buffers: held through the iteration.
        activations: kept by all microbatches in flight.
        working_set: most that lives beside them while a pass runs, gathered parameters of ZeRO-3 and gradients not yet
            divided (ZeRO-2 and 3) included.
    """

    parameters: int
    gradients: int
    optimizer_state: int
    buffers: int
    activations: int
    working_set: int

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.parameters + self.gradients + self.optimizer_state + self.buffers + self.activations + self.working_set
        )


class MemoryModel:
    """Memory of stages of one divided graph; build once, ask for many cuts.

    Attributes:
        divided: the graph.
        activations: its activations.
        buffers: (bytes, segments that touch it, ascending) of every buffer.
    """

    def __init__(self, divided: Segments) -> None:
        self.divided = divided
        self.activations = ActivationMemory(divided)
        self._captured = _captured_state(divided)
        self.buffers = _buffers(divided)

    def model_state(self, chosen: Sequence[int], rule: StateRule) -> ModelState:
        """State of the parameters that some segments read, a tied one once."""
        names = dict.fromkeys(name for place in chosen for name in self.divided.segments[place].parameters)
        total = ModelState()
        for name in names:
            total = total + self.parameter_state(name, rule)
        return total

    def stage(
        self,
        chunks: Sequence[tuple[int, int]],
        in_flight: Sequence[float],
        options: StateOptions,
        *,
        activation_bytes: float | None = None,
    ) -> StageMemory:
        """Memory of one device that holds some runs of segments.

        Args:
            chunks: (first, stop) segments of each chunk of the stage; one unless the schedule interleaves.
            in_flight: microbatches of each chunk whose activations are kept at the peak, the current one included.
            options: how model state is held.
            activation_bytes: peak of what all microbatches in flight keep where a simulated schedule knows it; else
                the sum over chunks of in-flight microbatches times what each keeps.

        Raises:
            SpecError: an option, an empty chunk, or a segment that does not exist.
        """
        self._check(chunks, in_flight, options)
        held = sorted({place for first, stop in chunks for place in range(first, stop)})
        state = self.model_state(held, options.rule)
        kept = sum(
            count * self.activations.kept_bytes(first, stop)
            for (first, stop), count in zip(chunks, in_flight, strict=True)
        )
        working = max(self.activations.working_bytes(first, stop) for first, stop in chunks)
        largest = [self.model_state([place], options.rule) for place in held]
        return StageMemory(
            parameters=_divided(state.weights, options, level=3),
            gradients=_divided(state.gradients, options, level=2),
            optimizer_state=_divided(state.optimizer, options, level=1),
            buffers=sum(size for size, places in self.buffers if not set(held).isdisjoint(places)),
            activations=round(kept if activation_bytes is None else activation_bytes),
            working_set=working + _undivided(largest, options),
        )

    def parameter_states(self, rule: StateRule) -> tuple[tuple[ModelState, ...], tuple[tuple[int, ...], ...]]:
        """State of every parameter, and the segments that read it, ascending."""
        users: dict[str, list[int]] = {}
        for place, segment in enumerate(self.divided.segments):
            for name in segment.parameters:
                users.setdefault(name, []).append(place)
        return tuple(self.parameter_state(name, rule) for name in users), tuple(map(tuple, users.values()))

    def _check(self, chunks: Sequence[tuple[int, int]], in_flight: Sequence[float], options: StateOptions) -> None:
        options.check()
        count = len(self.divided.segments)
        faults = [
            Fault(
                where="stage memory",
                path=f"chunks[{place}]",
                value=f"{first} up to {stop}",
                problem="is no run of segments",
                allowed=f"0 <= first < stop <= {count}",
            )
            for place, (first, stop) in enumerate(chunks)
            if not 0 <= first < stop <= count
        ]
        if not chunks or len(chunks) != len(in_flight) or min(in_flight, default=0) < 0:
            found = f"{len(chunks)} chunks, {list(in_flight)}"
            allowed = "one number of microbatches, 0 or more, for each chunk"
            faults.append(Fault(where="stage memory", path="in_flight", value=found, problem="unfit", allowed=allowed))
        if faults:
            raise SpecError(*faults)

    def parameter_state(self, name: str, rule: StateRule) -> ModelState:
        """State of one parameter."""
        captured = self._captured[name]
        if rule is StateRule.CAPTURED:
            return captured
        weight, gradient, optimizer = BYTES_PER_PARAMETER[rule]
        trained = captured.elements if captured.gradients else 0  # a frozen parameter has its weight alone
        return ModelState(
            elements=captured.elements,
            weights=weight * captured.elements,
            gradients=gradient * trained,
            optimizer=optimizer * trained,
        )


def _captured_state(divided: Segments) -> dict[str, ModelState]:
    """Model state of every parameter as the graph has it, each storage once.

    A gradient is that which the update reads: before it is summed over tensor-parallel devices it is on its way.
    """
    found: dict[str, ModelState] = {}
    gradients: dict[str, tuple[int, int]] = {}
    seen: set[int] = set()
    for tensor in divided.graph.tensors:
        if not tensor.name:
            continue
        if tensor.role is TensorRole.GRADIENT:
            gradients[tensor.name] = max(gradients.get(tensor.name, (-2, 0)), (tensor.producer, tensor.bytes))
        elif tensor.storage not in seen and tensor.role in (TensorRole.PARAMETER, TensorRole.OPTIMIZER_STATE):
            seen.add(tensor.storage)
            weights = tensor.role is TensorRole.PARAMETER
            found[tensor.name] = found.get(tensor.name, ModelState()) + ModelState(
                elements=elements(tensor) if weights else 0,
                weights=tensor.bytes if weights else 0,
                optimizer=0 if weights else tensor.bytes,
            )
    for name, (_, size) in gradients.items():
        found[name] = found.get(name, ModelState()) + ModelState(gradients=size)
    return found


def _buffers(divided: Segments) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(bytes, segments that read or write it) of every buffer."""
    graph = divided.graph
    found: dict[int, tuple[int, dict[int, None]]] = {}
    for place, segment in enumerate(divided.segments):
        for index in segment.operators():
            for access in (*graph.operators[index].reads, *graph.operators[index].writes):
                tensor = graph.tensors[access.tensor]
                if tensor.role is TensorRole.BUFFER:
                    found.setdefault(tensor.storage, (tensor.bytes, {}))[1][place] = None
    return tuple((size, tuple(places)) for size, places in found.values())


def _divided(size: int, options: StateOptions, level: int) -> int:
    """Bytes of a kind of state on one device: divided over the group from a ZeRO level on (rounded up)."""
    return -(-size // options.data_parallel) if options.zero >= level else size


def _undivided(by_segment: list[ModelState], options: StateOptions) -> int:
    """Bytes of the segments at work that ZeRO keeps whole for as long as they are: gathered weights, new gradients."""
    if options.data_parallel == 1:
        return 0
    whole = 0
    if options.zero >= 2:
        whole += max(state.gradients for state in by_segment)
    if options.zero >= 3:
        whole += sum(sorted((state.weights for state in by_segment), reverse=True)[:PREFETCHED_SEGMENTS])
    return whole
