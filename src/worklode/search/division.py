"""A model divided over the devices of a setting: all of an iteration that no accelerator changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worklode.cost.collective import collective_times, communication_times
from worklode.cost.model import CommunicationTimes
from worklode.errors import Fault, SpecError
from worklode.graph.work import Collective
from worklode.hardware.network import Network
from worklode.partition.data_parallel import BUCKET_BYTES, GradientBucket, data_parallel_plan, tied_reductions
from worklode.partition.pipeline_cut import CutProblem, NoCut, cut
from worklode.partition.segments import Boundary
from worklode.partition.stage_memory import ModelState
from worklode.search.parallel import ParallelSetting, groups, tied_group
from worklode.search.segment_costs import DividedModel

Chunks = tuple[tuple[int, int], ...]


def divide(
    model: DividedModel,
    setting: ParallelSetting,
    places: Sequence[int],
    segment_s: Callable[[], NDArray[np.float64]],
) -> Chunks:
    """(first, stop) positions of every chunk of a model: equally many blocks each, or balanced by time.

    Args:
        model, setting: what is divided, and over how many stages.
        places: segments of the model in order.
        segment_s: asked where the cut is by time: [S] time of each segment for one microbatch, all its passes, or
            [stages, S] where stages differ [s].

    Raises:
        SpecError: more chunks than segments, or blocks that do not come out even where they must.
    """
    units = set(model.units)
    count = setting.pipeline * setting.schedule.chunks_per_stage
    blocks = [position for position, place in enumerate(places) if place in units]
    most = len(places)
    if count > most:
        shown = f"{setting.pipeline} stages x {setting.schedule.chunks_per_stage} chunks"
        allowed = f"at most {most}: the model has {len(blocks)} repeated blocks and {most - len(blocks)} other segments"
        raise SpecError(Fault(where="--pipeline", value=shown, problem="more than can be cut", allowed=allowed))
    even = bool(blocks) and len(blocks) % count == 0
    if setting.cut == "even" and not even:
        allowed = "a divisor of the number of blocks, or --cut balanced"
        problem = f"does not divide {len(blocks)} blocks evenly"
        raise SpecError(Fault(where="--pipeline", value=str(count), problem=problem, allowed=allowed))
    if even and setting.cut != "balanced":
        each = len(blocks) // count
        starts = [0, *(blocks[number * each] for number in range(1, count)), most]
        return tuple(pairwise(starts))
    found = cut(
        CutProblem(
            segment_s=segment_s(),
            stages=setting.pipeline,
            chunks_per_stage=setting.schedule.chunks_per_stage,
            microbatches=setting.microbatches if setting.schedule.chunks_per_stage == 1 else None,
        )
    )
    assert not isinstance(found, NoCut), "no memory was given"
    return found.chunks


class Division:
    """A model cut into chunks on the stages of a setting.

    Attributes:
        model, setting, network: what is divided over what.
        places: segments of the model in order.
        captured: these are the segments as captured, each once.
        chunks: (first, stop) positions of each, in model order; chunk c is on stage c mod stages.
        groups: devices that exchange, by axis.
    """

    def __init__(
        self,
        model: DividedModel,
        setting: ParallelSetting,
        network: Network | None,
        chunks: Chunks,
        places: Sequence[int] | None = None,
    ) -> None:
        self.model, self.setting, self.network, self.chunks = model, setting, network, chunks
        self.captured = places is None
        self.places = tuple(range(len(model.divided.segments))) if places is None else tuple(places)
        self.groups = groups(setting, network)
        self._data_s: dict[tuple[Collective, float], float] = {}

    # ------------------------------------------------------------------------------------------------- stages

    def of_stage(self, stage: int) -> Chunks:
        """Chunks of a stage."""
        return self.chunks[stage :: self.setting.pipeline]

    def positions(self, stage: int) -> tuple[int, ...]:
        """Positions of a stage in model order."""
        return tuple(position for first, stop in self.of_stage(stage) for position in range(first, stop))

    def segments_of(self, stage: int) -> list[int]:
        """Segments of a stage in model order."""
        return [self.places[at] for at in self.positions(stage)]

    def state(self, position: int) -> ModelState:
        """Model state of one segment before it is divided over replicas."""
        return self.model.memory.model_state([self.places[position]], self.setting.state)

    @cached_property
    def kept_bytes(self) -> tuple[int, ...]:
        """[C] activations of one microbatch that each chunk keeps; empty unless captured [bytes]."""
        if not self.captured:
            return ()
        return tuple(self.model.memory.activations.kept_bytes(first, stop) for first, stop in self.chunks)

    # ------------------------------------------------------------------------------------------------- exchanges

    @cached_property
    def communication_s(self) -> CommunicationTimes:
        """Times of the collectives of tensor parallelism."""
        return communication_times({"tensor": self.groups["tensor"]} if "tensor" in self.groups else {})

    @property
    def crossings(self) -> tuple[Boundary, ...]:
        """[C - 1] what each chunk hands to the next."""
        boundaries = self.model.divided.boundaries
        return tuple(boundaries[min(self.places[stop - 1], self.places[stop] - 1)] for _, stop in self.chunks[:-1])

    @cached_property
    def sends_s(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """[C - 1] times of messages between chunks, on and back [s]."""
        crossings = self.crossings
        return (
            tuple(self._send_s(each.forward_bytes) for each in crossings),
            tuple(self._send_s(each.backward_bytes) for each in crossings),
        )

    def _send_s(self, size_bytes: int) -> float:
        """A message to the next stage [s].

        Where every device of a tensor-parallel group holds the whole tensor, each may send its part, which the
        receivers gather (arXiv 2104.04473, section 4.1): the faster way counts.
        """
        if "pipeline" not in self.groups:
            return 0.0
        whole_s = self._message_s(size_bytes)
        if self.setting.tensor == 1 or self.setting.sequence_parallel:
            return whole_s
        gathered = float(collective_times(self.groups["tensor"], Collective.ALL_GATHER, size_bytes).time_s[0])
        return min(whole_s, self._message_s(size_bytes / self.setting.tensor) + gathered)

    def _message_s(self, size_bytes: float) -> float:
        return float(collective_times(self.groups["pipeline"], Collective.POINT_TO_POINT, size_bytes).time_s[0])

    def data_s(self, collective: Collective, size_bytes: float) -> float:
        """Time of an exchange of the data-parallel group [s]."""
        if "data" not in self.groups:
            return 0.0
        key = (collective, size_bytes)
        if key not in self._data_s:
            self._data_s[key] = float(collective_times(self.groups["data"], collective, size_bytes).time_s[0])
        return self._data_s[key]

    @property
    def exchanges_in_passes(self) -> bool:
        """Whether every microbatch exchanges weights or gradients with the replicas."""
        return self.setting.zero >= 2 and self.setting.data > 1

    def gather_s(self, position: int) -> float:
        """Time to gather the weights of a segment before each pass; 0 below ZeRO-3 [s]."""
        return self.data_s(Collective.ALL_GATHER, self.state(position).weights) if self.setting.zero == 3 else 0.0

    def reduction_s(self, position: int) -> float:
        """Time to reduce the gradients of a segment after each pass; 0 below ZeRO-2 [s]."""
        if self.setting.zero < 2:
            return 0.0
        return self.data_s(Collective.REDUCE_SCATTER, self.state(position).gradients)

    def buckets(self, stage: int) -> list[tuple[GradientBucket, int]]:
        """What a stage reduces once an iteration, in the order it is ready, and the last position of each bucket."""
        found: list[tuple[GradientBucket, int]] = []
        open_bytes, last = 0, 0
        for first, stop in reversed(self.of_stage(stage)):
            for at in reversed(range(first, stop)):
                open_bytes, last = open_bytes + self.state(at).gradients, at
                if open_bytes >= BUCKET_BYTES:
                    found.append((self._bucket(open_bytes, at), at))
                    open_bytes = 0
        if open_bytes:
            found.append((self._bucket(open_bytes, last), last))
        return found

    def _bucket(self, size_bytes: int, position: int) -> GradientBucket:
        return GradientBucket(parameters=(), gradient_bytes=size_bytes, segment=self.places[position], operator=-1)

    @cached_property
    def tied_s(self) -> float:
        """All-reduces between stages that hold copies of a parameter [s]."""
        total = 0.0
        stages = [self.segments_of(stage) for stage in range(self.setting.pipeline)]
        for tie in tied_reductions(self.model.memory, stages, self.setting.state_options):
            assert self.network is not None
            group = tied_group(self.setting, self.network, len(tie.stages))
            total += float(collective_times(group, Collective.ALL_REDUCE, tie.bytes).time_s[0])
        return total

    def weights_gathered_s(self, stage: int) -> float:
        """Time in which updated weights are gathered once an iteration under ZeRO-1 and 2 [s]."""
        if self.setting.zero not in (1, 2):
            return 0.0
        return self.data_s(Collective.ALL_GATHER, sum(self.state(at).weights for at in self.positions(stage)))

    def exchanged_bytes(self, collective_bytes: int) -> tuple[tuple[str, float], ...]:
        """Bytes of whole tensors that one replica exchanges in an iteration, by axis [bytes].

        Args:
            collective_bytes: of tensor parallelism, for one microbatch on all stages.
        """
        setting = self.setting
        sent = sum(each.forward_bytes + each.backward_bytes for each in self.crossings)
        data = 0
        if setting.data > 1 and self.captured:
            for stage in range(setting.pipeline):
                plan = data_parallel_plan(
                    self.model.memory,
                    self.segments_of(stage),
                    setting.state_options,
                    microbatches=setting.microbatches,
                )
                data += sum(each.times * each.bytes for each in plan.exchanges)
        across = setting.tensor if setting.pipeline > 1 else 0
        return (
            ("tensor", float(setting.microbatches * collective_bytes)),
            ("pipeline", float(across * setting.microbatches * sent)),
            ("data", float(data * setting.tensor)),
        )
