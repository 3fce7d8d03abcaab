"""One training iteration on many devices: segments, stages, pipeline, data parallelism and update become one time.

How the parts add up: docs/distributed.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from worklode.cost.collective import collective_times, communication_times
from worklode.errors import Fault, InternalError, SpecError
from worklode.graph.fusion import DEFAULT_OPTIONS, FusionOptions
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Collective
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import energy_constants
from worklode.hardware.network import Group, Network
from worklode.hardware.technology import Technology
from worklode.partition.data_parallel import (
    BUCKET_BYTES,
    DataParallelPlan,
    GradientBucket,
    data_parallel_plan,
    overlapped_gathers,
    overlapped_reductions,
    tied_reductions,
)
from worklode.partition.memory_limit import MemoryShortage, memory_shortage
from worklode.partition.pipeline_cut import CutProblem, NoCut, cut
from worklode.partition.plan import TensorPlan, tensor_plan_for
from worklode.partition.stage_memory import StageMemory
from worklode.schedule.pipeline import PipelineProblem, PipelineTimeline, simulate
from worklode.search.evaluate import Mode
from worklode.search.parallel import ParallelSetting, groups, tied_group
from worklode.search.segment_costs import DividedModel, PassCost, SegmentCosts

Chunks = tuple[tuple[int, int], ...]


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
        shortage: why it does not fit; None where it does.
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
    shortage: MemoryShortage | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParallelEvaluation:
    """An accelerator that trains a model in a parallel setting.

    Attributes:
        setting, accelerator, network: what was evaluated.
        stages: by place in the pipeline.
        timeline: of the pipeline.
        iteration_time_s: from the first pass to the last weight [s].
        parts_s: where it goes, a mean over stages; adds up to the iteration.
        energy_j: of all devices; links are not counted [J].
        matrix_flops, recomputed_flops: of the iteration on all devices.
        communication_bytes: of one replica's whole tensors, by axis.
        notes: sentences.
    """

    setting: ParallelSetting
    accelerator: Accelerator
    network: Network | None
    stages: tuple[StageEvaluation, ...]
    timeline: PipelineTimeline
    iteration_time_s: float
    parts_s: tuple[tuple[str, float], ...]
    energy_j: float
    matrix_flops: int
    communication_bytes: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]

    @property
    def samples_per_s(self) -> float:
        """Throughput of all replicas [samples/s]."""
        return self.setting.global_batch / self.iteration_time_s

    @property
    def flops_utilization(self) -> float:
        """Matrix FLOPs done, recomputed ones included, over the peak of all devices (HFU)."""
        peak = self.accelerator.peak_matrix_flops_per_s * self.setting.devices
        return self.matrix_flops / (peak * self.iteration_time_s)

    @property
    def fits(self) -> bool:
        """Whether every stage fits its HBM."""
        return all(stage.shortage is None for stage in self.stages)


def evaluate_parallel(
    graph: TrainingGraph,
    accelerator: Accelerator,
    setting: ParallelSetting,
    technology: Technology,
    *,
    network: Network | None = None,
    plan: TensorPlan | None = None,
    mode: Mode = "split",
    fusion: FusionOptions = DEFAULT_OPTIONS,
) -> ParallelEvaluation:
    """Evaluate a parallel setting.

    Args:
        graph: one captured microbatch of one device, unfused, which recomputes nothing.
        accelerator: every device.
        setting: the setting.
        technology: constants of energy.
        network: between devices; None for a single one.
        plan: of tensor parallelism; None takes the built-in one of the workload's name.
        mode, fusion: as for `Evaluator`.

    Raises:
        SpecError: the setting, the network, or the model in this setting, with every fault of the first that has any.
    """
    found = list(setting.faults())
    if graph.info.samples != setting.microbatch:
        problem = f"the step was captured with {graph.info.samples} samples"
        value = str(setting.microbatch)
        found.append(Fault(where="--microbatch", value=value, problem=problem, allowed=str(graph.info.samples)))
    if not found:
        for check in (lambda: groups(setting, network), lambda: _plan(graph, setting, plan)):
            try:
                check()
            except SpecError as error:
                found.extend(error.faults)
    if found:
        raise SpecError(*found)
    model = divided_model(graph, setting, technology, plan=plan, mode=mode, fusion=fusion)
    return evaluate_divided(model, accelerator, setting, network)


def divided_model(
    graph: TrainingGraph,
    setting: ParallelSetting,
    technology: Technology,
    *,
    plan: TensorPlan | None = None,
    mode: Mode = "split",
    fusion: FusionOptions = DEFAULT_OPTIONS,
) -> DividedModel:
    """The model as a setting divides it."""
    return DividedModel(
        graph,
        technology,
        plan=_plan(graph, setting, plan),
        tensor=setting.tensor,
        sequence_parallel=setting.sequence_parallel,
        policy=setting.recompute,
        early_stop=setting.recompute_early_stop,
        mode=mode,
        fusion=fusion,
    )


def evaluate_divided(
    model: DividedModel,
    accelerator: Accelerator,
    setting: ParallelSetting,
    network: Network | None,
    *,
    places: Sequence[int] | None = None,
    chunks: Chunks = (),
) -> ParallelEvaluation:
    """As `evaluate_parallel`, of a model that was divided already.

    Args:
        places: segments of the model in order; by default each once. A model of few equal blocks stands for one of
            many where its block is named many times; memory is then not held against HBM.
        chunks: (first, stop) positions of every chunk; by default as the setting says.

    Raises:
        SpecError: the setting or the network, or more chunks than blocks.
    """
    setting.check()
    return _Iteration(model, accelerator, setting, network, places, chunks).evaluation()


def _plan(graph: TrainingGraph, setting: ParallelSetting, plan: TensorPlan | None) -> TensorPlan | None:
    return plan or (tensor_plan_for(graph.info.name) if setting.tensor > 1 else None)


def _bucket(gradient_bytes: int, segment: int) -> GradientBucket:
    return GradientBucket(parameters=(), gradient_bytes=gradient_bytes, segment=segment, operator=-1)


class _Iteration:
    """One evaluation under way."""

    def __init__(
        self,
        model: DividedModel,
        accelerator: Accelerator,
        setting: ParallelSetting,
        network: Network | None,
        places: Sequence[int] | None,
        chunks: Chunks,
    ) -> None:
        self.model, self.accelerator, self.setting, self.network = model, accelerator, setting, network
        self.captured = places is None
        self.places = tuple(range(len(model.divided.segments))) if places is None else tuple(places)
        self.groups = groups(setting, network)
        tensor = {"tensor": self.groups["tensor"]} if "tensor" in self.groups else {}
        cores = 0 if network is None else network.collective_cores
        self.costs = SegmentCosts(
            model,
            accelerator,
            communication_times(tensor),
            setting.execution,
            sums=setting.sums,
            collective_cores=cores,
        )
        self.forward = [self.costs.forward(place) for place in self.places]
        if setting.schedule.splits_backward:
            self.input_gradient = [self.costs.input_gradient(place) for place in self.places]
            self.weight_gradient = [self.costs.weight_gradient(place) for place in self.places]
        else:
            self.input_gradient = [self.costs.backward(place) for place in self.places]
            self.weight_gradient = [PassCost()] * len(self.places)
        self.backward = [a + b for a, b in zip(self.input_gradient, self.weight_gradient, strict=True)]
        self.chunks = chunks or self._chunks()
        self.ties = tied_reductions(model.memory, self.stage_places(), setting.state_options)

    # ------------------------------------------------------------------------------------------------- division

    def _chunks(self) -> Chunks:
        setting, units = self.setting, set(self.model.units)
        count = setting.pipeline * setting.schedule.chunks_per_stage
        blocks = [position for position, place in enumerate(self.places) if place in units]
        most = len(self.places)
        if count > most:
            shown = f"{setting.pipeline} stages x {setting.schedule.chunks_per_stage} chunks"
            allowed = (
                f"at most {most}: the model has {len(blocks)} repeated blocks and {most - len(blocks)} other segments"
            )
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
        time_s = [a.time_s + b.time_s for a, b in zip(self.forward, self.backward, strict=True)]
        found = cut(
            CutProblem(
                segment_s=np.array(time_s),
                stages=setting.pipeline,
                chunks_per_stage=setting.schedule.chunks_per_stage,
                microbatches=setting.microbatches if setting.schedule.chunks_per_stage == 1 else None,
            )
        )
        assert not isinstance(found, NoCut), "no memory was given"
        return found.chunks

    def of_stage(self, stage: int) -> Chunks:
        """Chunks of a stage."""
        return self.chunks[stage :: self.setting.pipeline]

    def positions(self, stage: int) -> tuple[int, ...]:
        """Positions of a stage in model order."""
        return tuple(position for first, stop in self.of_stage(stage) for position in range(first, stop))

    def stage_places(self) -> list[list[int]]:
        """Segments of every stage."""
        return [[self.places[at] for at in self.positions(stage)] for stage in range(self.setting.pipeline)]

    # ------------------------------------------------------------------------------------------------- pipeline

    def data_s(self, collective: Collective, size_bytes: float) -> float:
        """Time of an exchange of the data-parallel group [s]."""
        if "data" not in self.groups:
            return 0.0
        return float(collective_times(self.groups["data"], collective, size_bytes).time_s[0])

    def pipeline(self) -> PipelineTimeline:
        """The simulated pipeline."""
        setting = self.setting
        sends_forward, sends_backward = [], []
        for _, stop in self.chunks[:-1]:
            boundary = self.model.divided.boundaries[min(self.places[stop - 1], self.places[stop] - 1)]
            sends_forward.append(self._send_s(boundary.forward_bytes))
            sends_backward.append(self._send_s(boundary.backward_bytes))
        extra = [self._exchanged_in_passes(chunk) for chunk in self.chunks]
        kept: tuple[int, ...] = ()
        if self.captured:
            kept = tuple(self.model.memory.activations.kept_bytes(first, stop) for first, stop in self.chunks)
        return simulate(
            PipelineProblem(
                num_stages=setting.pipeline,
                num_microbatches=setting.microbatches,
                schedule=setting.schedule,
                forward_s=tuple(
                    self._sum(self.forward, chunk) + more[0] for chunk, more in zip(self.chunks, extra, strict=True)
                ),
                input_gradient_s=tuple(
                    self._sum(self.input_gradient, chunk) + more[1]
                    for chunk, more in zip(self.chunks, extra, strict=True)
                ),
                weight_gradient_s=tuple(self._sum(self.weight_gradient, chunk) for chunk in self.chunks),
                send_forward_s=tuple(sends_forward),
                send_backward_s=tuple(sends_backward),
                overlap=setting.overlap_sends,
                activation_bytes=kept,
            )
        )

    def _sum(self, costs: Sequence[PassCost], chunk: tuple[int, int]) -> float:
        return sum(cost.time_s for cost in costs[chunk[0] : chunk[1]])

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

    def _exchanged_in_passes(self, chunk: tuple[int, int]) -> tuple[float, float]:
        """What forward and backward of a microbatch take longer under ZeRO-2 (reductions) and 3 (gathers too) [s]."""
        setting = self.setting
        if setting.zero < 2 or setting.data == 1:
            return 0.0, 0.0
        positions = range(*chunk)
        states = [self.model.memory.model_state([self.places[at]], setting.state) for at in positions]
        gathers = [self.data_s(Collective.ALL_GATHER, state.weights) if setting.zero == 3 else 0.0 for state in states]
        reductions = [self.data_s(Collective.REDUCE_SCATTER, state.gradients) for state in states]
        forward = [self.forward[at].time_s for at in positions]
        backward = [self.backward[at].time_s for at in positions]
        if not setting.overlap_data:
            return sum(gathers), sum(gathers) + sum(reductions)
        ahead = overlapped_gathers(forward, gathers).exposed_s
        behind = overlapped_gathers(backward[::-1], gathers[::-1]).finished_s + reductions[0]
        # One link carries gathers and reductions: backward is never shorter than both together.
        return ahead, max(behind, sum(gathers) + sum(reductions)) - sum(backward)

    # --------------------------------------------------------------------------------------- replicas and update

    def _reduced_s(self, stage: int, timeline: PipelineTimeline) -> float:
        """When the gradients of a stage are reduced [s]; under ZeRO-2 and 3 that is part of its passes."""
        ready = timeline.gradients_ready_s
        end_s = float(max(ready[stage :: self.setting.pipeline]))
        if self.setting.data == 1 or self.setting.zero >= 2:
            return end_s
        buckets, ready_s = [], []
        open_bytes, at, moment_s = 0, 0, 0.0
        for number, (first, stop) in reversed(list(enumerate(self.chunks))[stage :: self.setting.pipeline]):
            left_s = 0.0
            moments = []
            for at in range(first, stop):
                moments.append((at, float(ready[number]) - left_s))
                left_s += self.backward[at].time_s
            for at, moment_s in reversed(moments):
                size = self.model.memory.model_state([self.places[at]], self.setting.state).gradients
                open_bytes += size
                if open_bytes >= BUCKET_BYTES:
                    buckets.append(_bucket(open_bytes, self.places[at]))
                    ready_s.append(moment_s)
                    open_bytes = 0
        if open_bytes:
            buckets.append(_bucket(open_bytes, self.places[at]))
            ready_s.append(moment_s)
        plan = DataParallelPlan(
            options=self.setting.state_options,
            buckets=tuple(buckets),
            segments=(),
            segment_weight_bytes=(),
            exchanges=(),
        )
        if not self.setting.overlap_data:
            return end_s + self.data_s(plan.reduction, sum(bucket.gradient_bytes for bucket in buckets))
        in_order = tuple(float(moment) for moment in np.maximum.accumulate(ready_s))
        return overlapped_reductions(plan, in_order, end_s, self.data_s).finished_s

    def _tied_s(self) -> float:
        """All-reduces between stages that hold copies of a parameter [s]."""
        total = 0.0
        for tie in self.ties:
            assert self.network is not None
            group: Group = tied_group(self.setting, self.network, len(tie.stages))
            total += float(collective_times(group, Collective.ALL_REDUCE, tie.bytes).time_s[0])
        return total

    def _weights_gathered_s(self, stage: int) -> float:
        if self.setting.zero not in (1, 2):
            return 0.0
        weights = sum(
            self.model.memory.model_state([self.places[at]], self.setting.state).weights for at in self.positions(stage)
        )
        return self.data_s(Collective.ALL_GATHER, weights)

    # --------------------------------------------------------------------------------------------------- result

    def evaluation(self) -> ParallelEvaluation:
        """All of it."""
        setting, stages = self.setting, range(self.setting.pipeline)
        timeline = self.pipeline()
        reduced = [self._reduced_s(stage, timeline) for stage in stages]
        tied_s = self._tied_s()
        updates = [self._update(stage) for stage in stages]
        gathered = [self._weights_gathered_s(stage) for stage in stages]
        # The norm of all gradients decides how they are clipped: no stage updates before the last is reduced.
        start_s = max(reduced) + tied_s
        tails = [update.time_s + gather for update, gather in zip(updates, gathered, strict=True)]
        iteration_s = start_s + max(tails)
        found = [self._stage(stage, timeline, updates[stage], gathered[stage], reduced[stage]) for stage in stages]
        parts = self._parts(found, timeline, iteration_s)
        costs = [self._stage_cost(stage) for stage in stages]
        dynamic_j = sum(setting.microbatches * cost.dynamic_j for cost in costs) + sum(u.dynamic_j for u in updates)
        static_w = energy_constants(self.accelerator, self.model.technology).static_w
        replicas = setting.data
        return ParallelEvaluation(
            setting=setting,
            accelerator=self.accelerator,
            network=self.network,
            stages=tuple(found),
            timeline=timeline,
            iteration_time_s=iteration_s,
            parts_s=parts,
            energy_j=replicas * setting.tensor * dynamic_j + setting.devices * static_w * iteration_s,
            matrix_flops=replicas * setting.tensor * setting.microbatches * sum(cost.flops for cost in costs),
            communication_bytes=self._volumes(costs),
            notes=self.model.notes,
        )

    def _update(self, stage: int) -> PassCost:
        total = PassCost()
        for at in self.positions(stage):
            total = total + self.costs.update(self.places[at], self.setting.state_options)
        return total

    def _stage_cost(self, stage: int) -> PassCost:
        """Forward and backward of one microbatch on one device of a stage."""
        total = PassCost()
        for at in self.positions(stage):
            total = total + self.forward[at] + self.backward[at]
        return total

    def _stage(
        self, stage: int, timeline: PipelineTimeline, update: PassCost, gathered_s: float, reduced_s: float
    ) -> StageEvaluation:
        setting = self.setting
        cost = self._stage_cost(stage)
        end_s = float(max(timeline.gradients_ready_s[stage :: setting.pipeline]))
        memory, shortage = self._memory(stage, timeline)
        return StageEvaluation(
            segments=self.of_stage(stage),
            busy_s=float(timeline.busy_s[stage]),
            tensor_communication_s=setting.microbatches * (cost.time_s - cost.compute_s),
            sending_s=float(timeline.sending_s[stage]),
            bubble_s=float(timeline.idle_s[stage]),
            data_parallel_s=reduced_s - end_s + gathered_s,
            update_s=update.time_s,
            parameters=sum(
                self.model.memory.model_state([self.places[at]], setting.state).elements for at in self.positions(stage)
            ),
            memory=memory,
            in_flight=int(timeline.peak_in_flight[stage]),
            shortage=shortage,
        )

    def _memory(self, stage: int, timeline: PipelineTimeline) -> tuple[StageMemory | None, MemoryShortage | None]:
        if not self.captured:
            return None, None
        chunks = self.of_stage(stage)
        in_flight = [float(timeline.peak_in_flight[stage]) / len(chunks)] * len(chunks)
        options = self.setting.state_options
        memory = self.model.memory.stage(
            chunks, in_flight, options, activation_bytes=float(timeline.peak_activation_bytes[stage])
        )
        if memory.total <= self.accelerator.hbm_bytes:
            return memory, None
        return memory, memory_shortage(self.model.memory, chunks, in_flight, options, self.accelerator.hbm_bytes)

    def _parts(
        self, stages: Sequence[StageEvaluation], timeline: PipelineTimeline, iteration_s: float
    ) -> tuple[tuple[str, float], ...]:
        """Where the iteration goes: means over stages of the pipeline's parts, then what follows it."""
        count = len(stages)
        exposed_s = sum(stage.tensor_communication_s for stage in stages) / count
        sending_s = sum(stage.sending_s for stage in stages) / count
        bubble_s = sum(stage.bubble_s for stage in stages) / count
        zero_s = 0.0
        if self.setting.zero >= 2 and self.setting.data > 1:
            more = [sum(self._exchanged_in_passes(chunk)) for chunk in self.chunks]
            zero_s = self.setting.microbatches * sum(more) / count
        makespan_s = timeline.makespan_s
        update_s = max(stage.update_s for stage in stages)
        parts = {
            "compute": makespan_s - exposed_s - sending_s - bubble_s - zero_s,
            "tensor_communication": exposed_s,
            "pipeline_bubble": bubble_s,
            "point_to_point": sending_s,
            "optimizer": update_s,
            "data_parallel": zero_s + iteration_s - makespan_s - update_s,
        }
        if min(parts.values()) < -1e-9 * iteration_s:
            raise InternalError(f"a part of the iteration is negative: {parts}")
        return tuple((name, max(time_s, 0.0)) for name, time_s in parts.items())

    def _volumes(self, costs: Sequence[PassCost]) -> tuple[tuple[str, float], ...]:
        """Bytes of whole tensors that one replica exchanges in an iteration, by axis [bytes]."""
        setting = self.setting
        tensor = setting.microbatches * sum(cost.communication_bytes for cost in costs)
        crossing = [
            self.model.divided.boundaries[min(self.places[s - 1], self.places[s] - 1)] for _, s in self.chunks[:-1]
        ]
        sent = sum(boundary.forward_bytes + boundary.backward_bytes for boundary in crossing)
        data = 0
        if setting.data > 1 and self.captured:
            for held in self.stage_places():
                plan = data_parallel_plan(
                    self.model.memory, held, setting.state_options, microbatches=setting.microbatches
                )
                data += sum(each.times * each.bytes for each in plan.exchanges)
        across = setting.tensor if setting.pipeline > 1 else 0
        return (
            ("tensor", float(tensor)),
            ("pipeline", float(across * setting.microbatches * sent)),
            ("data", float(data * setting.tensor)),
        )
