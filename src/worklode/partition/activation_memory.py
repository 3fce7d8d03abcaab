"""Bytes of activations by segment: kept from forward to backward, and live while a pass runs (by liveness).

Rules: docs/models/stage_memory.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from worklode.graph.fusion import fuse
from worklode.graph.memory import memory_footprint
from worklode.graph.operator import TensorRole
from worklode.partition.cut_points import FORWARD_PHASES
from worklode.partition.segments import BACKWARD, Pass, Segments, pass_graph

_PASSING_ROLES = (TensorRole.ACTIVATION, TensorRole.ACTIVATION_GRADIENT, TensorRole.INPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentActivations:
    """Activations of one segment for one microbatch [bytes].

    Attributes:
        kept: storages that its backward reads and forward made or the step was given.
        inputs: of these, the step's own inputs.
        kept_for_weights: what its weight-gradient pass reads and does not make: it stays between the two passes of a
            split backward.
        forward_peak, backward_peak: most bytes of activations and their gradients that live at one time in its fused
            forward and backward pass, what is handed to it included, the step's inputs not.
    """

    kept: int
    inputs: int
    kept_for_weights: int
    forward_peak: int
    backward_peak: int


class ActivationMemory:
    """Activations of all segments, and of any run of them.

    A storage that several segments of a run keep (an encoder's output) counts once.

    Attributes:
        keepers: (bytes, is an input of the step, segments that keep it, ascending) of every storage kept for backward.
    """

    def __init__(self, divided: Segments) -> None:
        self._divided = _with_tied_gradients(divided)
        self.keepers = _keepers(divided)
        self._peaks: dict[int, tuple[int, int]] = {}

    @cached_property
    def segments(self) -> tuple[SegmentActivations, ...]:
        """Figures of every segment on its own."""
        count = len(self._divided.segments)
        kept, inputs = [0] * count, [0] * count
        for size, is_input, keepers in self.keepers:
            for place in keepers:
                kept[place] += size
                inputs[place] += size if is_input else 0
        return tuple(
            SegmentActivations(
                kept=kept[place],
                inputs=inputs[place],
                kept_for_weights=_kept_for_weights(self._divided, place),
                forward_peak=self._pass_peaks(place)[0],
                backward_peak=self._pass_peaks(place)[1],
            )
            for place in range(count)
        )

    def kept_bytes(self, first: int, stop: int) -> int:
        """Bytes that segments `first` up to `stop` of one device keep of one microbatch."""
        whole = sum(self.segments[place].kept for place in range(first, stop))
        return whole - sum(size for size, one, other in self._shared if first <= one and other < stop)

    def kept_for_weights_bytes(self, first: int, stop: int) -> int:
        """Bytes of one microbatch that stay between its input gradients and its weight gradients."""
        return sum(self.segments[place].kept_for_weights for place in range(first, stop))

    def working_bytes(self, first: int, stop: int) -> int:
        """Most bytes that live while one microbatch passes, over what it keeps when forward is done.

        Segment k runs beside what those before it keep: max over k of kept(first, k) + peak(k), less kept(first, stop).
        """
        most = max(
            (
                self.kept_bytes(first, place) + found.inputs + max(found.forward_peak, found.backward_peak)
                for place, found in enumerate(self.segments[first:stop], first)
            ),
            default=0,
        )
        return max(0, most - self.kept_bytes(first, stop))

    @cached_property
    def _shared(self) -> tuple[tuple[int, int, int], ...]:
        """(bytes, segment, next segment) of storages that several segments keep."""
        return tuple((size, one, other) for size, _, keepers in self.keepers for one, other in pairwise(keepers))

    def _pass_peaks(self, place: int) -> tuple[int, int]:
        kind = self._divided.segments[place].kind
        if kind not in self._peaks:
            forward = fuse(pass_graph(self._divided, [kind], Pass.FORWARD)).graph
            backward = fuse(pass_graph(self._divided, [kind], *BACKWARD)).graph
            self._peaks[kind] = (
                memory_footprint(forward).activations_peak,
                memory_footprint(backward).activations_peak,
            )
        return self._peaks[kind]


def _with_tied_gradients(divided: Segments) -> Segments:
    """Parts of a tied parameter's gradient are no activations: they are summed where the gradient is."""
    partial = {tensor for tie in divided.ties for tensor in tie.partial}
    if not partial:
        return divided
    graph = divided.graph
    tensors = tuple(
        replace(tensor, role=TensorRole.GRADIENT) if index in partial else tensor
        for index, tensor in enumerate(graph.tensors)
    )
    return replace(divided, graph=replace(graph, tensors=tensors))


def _keepers(divided: Segments) -> tuple[tuple[int, bool, tuple[int, ...]], ...]:
    """(bytes, is an input of the step, segments that keep it) of every storage kept for backward."""
    graph = divided.graph
    found: dict[int, tuple[int, bool, dict[int, None]]] = {}
    for place, segment in enumerate(divided.segments):
        for tensor in _read_by(divided, segment.operators(*BACKWARD)):
            made = graph.tensors[tensor]
            is_input = made.role is TensorRole.INPUT
            forward = made.producer >= 0 and graph.operators[made.producer].phase in FORWARD_PHASES
            if is_input or (made.role is TensorRole.ACTIVATION and forward):
                found.setdefault(made.storage, (made.bytes, is_input, {}))[2][place] = None
    return tuple((size, is_input, tuple(places)) for size, is_input, places in found.values())


def _kept_for_weights(divided: Segments, place: int) -> int:
    graph, own = divided.graph, set(divided.segments[place].weight_gradient)
    sizes = {
        graph.tensors[tensor].storage: graph.tensors[tensor].bytes
        for tensor in _read_by(divided, own)
        if graph.tensors[tensor].role in _PASSING_ROLES and graph.tensors[tensor].producer not in own
    }
    return sum(sizes.values())


def _read_by(divided: Segments, operators: Iterable[int]) -> set[int]:
    return {access.tensor for index in operators for access in divided.graph.operators[index].reads}
