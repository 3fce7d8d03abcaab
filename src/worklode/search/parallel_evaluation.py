"""What an evaluation in a parallel setting says: of every stage, and of the iteration."""

from __future__ import annotations

from dataclasses import dataclass

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.network import Network
from worklode.partition.memory_limit import MemoryShortage
from worklode.partition.stage_memory import StageMemory
from worklode.schedule.pipeline import PipelineTimeline
from worklode.search.division import Chunks, Division
from worklode.search.parallel import ParallelSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvaluation:
    """One stage; times are those of one iteration [s].

    Attributes:
        segments: (first, stop) of each of its chunks, positions in the model.
        busy_s: forward and backward passes, collectives of tensor parallelism included.
        tensor_communication_s: the part of it in which a device waits for them.
        sending_s: sends that keep it from computing.
        bubble_s: the rest of the pipeline's makespan.
        data_parallel_s: exposed reduction of gradients after its last pass, and gathered weights after the update.
        update_s: optimizer.
        parameters: on one device.
        memory: HBM of one device; None where positions repeat captured segments.
        in_flight: most microbatches it keeps activations of, by chunk together.
        fits: its HBM holds it.
        shortage: why it does not fit; None where it does, or where nobody asked.
    """

    segments: Chunks
    busy_s: float
    tensor_communication_s: float
    sending_s: float
    bubble_s: float
    data_parallel_s: float
    update_s: float
    parameters: int
    memory: StageMemory | None
    in_flight: int
    fits: bool
    shortage: MemoryShortage | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParallelEvaluation:
    """An accelerator that trains a model in a parallel setting.

    Attributes:
        setting: what was evaluated.
        accelerators: of the devices of each stage.
        network: between them.
        stages: by place in the pipeline.
        timeline: of the pipeline.
        iteration_time_s: from the first pass to the last weight [s].
        parts_s: where it goes, a mean over stages; adds up to the iteration.
        energy_j: of all devices; links are not counted [J].
        matrix_flops, recomputed_flops: of the iteration on all devices.
        division: the divided model.
        collective_bytes: of tensor parallelism, for one microbatch on all stages.
        notes: sentences.
    """

    setting: ParallelSetting
    accelerators: tuple[Accelerator, ...]
    network: Network | None
    stages: tuple[StageEvaluation, ...]
    timeline: PipelineTimeline
    iteration_time_s: float
    parts_s: tuple[tuple[str, float], ...]
    energy_j: float
    matrix_flops: int
    division: Division
    collective_bytes: int
    notes: tuple[str, ...]

    @property
    def accelerator(self) -> Accelerator:
        """That of the first stage; of all where they are alike."""
        return self.accelerators[0]

    @property
    def alike(self) -> bool:
        """Whether every stage has the same design."""
        return len(set(self.accelerators)) == 1

    @property
    def communication_bytes(self) -> tuple[tuple[str, float], ...]:
        """Bytes of whole tensors that one replica exchanges in an iteration, by axis."""
        return self.division.exchanged_bytes(self.collective_bytes)

    @property
    def samples_per_s(self) -> float:
        """Throughput of all replicas [samples/s]."""
        return self.setting.global_batch / self.iteration_time_s

    @property
    def flops_utilization(self) -> float:
        """Matrix FLOPs done, recomputed ones included, over the peak of all devices (HFU)."""
        replicas = self.setting.tensor * self.setting.data
        peak = replicas * sum(accelerator.peak_matrix_flops_per_s for accelerator in self.accelerators)
        return self.matrix_flops / (peak * self.iteration_time_s)

    @property
    def fits(self) -> bool:
        """Whether every stage fits its HBM."""
        return all(stage.fits for stage in self.stages)
