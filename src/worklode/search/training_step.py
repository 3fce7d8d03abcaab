"""One training iteration on many devices: segments, stages, pipeline, data parallelism and update become one time.

How the parts add up: docs/distributed.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from worklode.errors import Fault, InternalError, SpecError
from worklode.graph.fusion import DEFAULT_OPTIONS, FusionOptions
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import energy_constants
from worklode.hardware.network import Network
from worklode.hardware.technology import Technology
from worklode.partition.data_parallel import DataParallelPlan, overlapped_gathers, overlapped_reductions
from worklode.partition.memory_limit import MemoryShortage, memory_shortage
from worklode.partition.plan import TensorPlan, tensor_plan_for
from worklode.partition.stage_memory import StageMemory
from worklode.schedule.pipeline import PipelineProblem, PipelineTimeline, simulate
from worklode.search.division import Chunks, Division, divide
from worklode.search.evaluate import Mode
from worklode.search.parallel import ParallelSetting, groups
from worklode.search.parallel_evaluation import ParallelEvaluation, StageEvaluation
from worklode.search.segment_costs import DividedModel, PassCost, SegmentCosts

__all__ = ["ParallelEvaluation", "StageEvaluation", "divided_model", "evaluate_divided", "evaluate_parallel"]


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
    model = prepared_model(graph, setting, technology, network=network, plan=plan, mode=mode, fusion=fusion)
    return evaluate_divided(model, accelerator, setting, network)


def prepared_model(
    graph: TrainingGraph,
    setting: ParallelSetting,
    technology: Technology,
    *,
    network: Network | None = None,
    plan: TensorPlan | None = None,
    mode: Mode = "split",
    fusion: FusionOptions = DEFAULT_OPTIONS,
) -> DividedModel:
    """The model as a setting divides it, once everything that can be wrong with the setting was looked at.

    Args and errors: `evaluate_parallel`.
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
    return divided_model(graph, setting, technology, plan=plan, mode=mode, fusion=fusion)


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
    accelerator: Accelerator | Sequence[Accelerator],
    setting: ParallelSetting,
    network: Network | None,
    *,
    places: Sequence[int] | None = None,
    chunks: Chunks = (),
    explain: bool = True,
) -> ParallelEvaluation:
    """As `evaluate_parallel`, of a model that was divided already.

    Args:
        accelerator: every device, or that of the devices of each stage.
        places: segments of the model in order; by default each once. A model of few equal blocks stands for one of
            many where its block is named many times; memory is then not held against HBM.
        chunks: (first, stop) positions of every chunk; by default as the setting says.
        explain: say what would make a stage fit that does not, which takes longer than all the rest.

    Raises:
        SpecError: the setting or the network, or more chunks than blocks.
    """
    setting.check()
    accelerators = (accelerator,) * setting.pipeline if isinstance(accelerator, Accelerator) else tuple(accelerator)
    assert len(accelerators) == setting.pipeline, "one design a stage"
    return _Iteration(model, accelerators, setting, network, places, chunks, explain).evaluation()


def _plan(graph: TrainingGraph, setting: ParallelSetting, plan: TensorPlan | None) -> TensorPlan | None:
    return plan or (tensor_plan_for(graph.info.name) if setting.tensor > 1 else None)


class _Iteration:
    """One evaluation under way."""

    def __init__(
        self,
        model: DividedModel,
        accelerators: tuple[Accelerator, ...],
        setting: ParallelSetting,
        network: Network | None,
        places: Sequence[int] | None,
        chunks: Chunks,
        explain: bool,
    ) -> None:
        self.explain = explain
        self.model, self.setting, self.accelerators = model, setting, accelerators
        self.division = Division(model, setting, network, chunks, places)
        exchanging = self.division.communication_s
        made = {
            design: SegmentCosts(
                model,
                design,
                exchanging,
                setting.execution,
                sums=setting.sums,
                collective_cores=0 if network is None else network.collective_cores,
            )
            for design in set(accelerators)
        }
        self.costs = [made[design] for design in accelerators]
        if not chunks:
            self.division.chunks = divide(model, setting, self.division.places, self._segment_s)
        self.stage_of = np.empty(len(self.division.places), np.int64)
        for number, (first, stop) in enumerate(self.division.chunks):
            self.stage_of[first:stop] = number % setting.pipeline
        costs = [self.costs[stage] for stage in self.stage_of.tolist()]
        where = list(zip(costs, self.division.places, strict=True))
        self.forward = [cost.forward(place) for cost, place in where]
        if setting.schedule.splits_backward:
            self.input_gradient = [cost.input_gradient(place) for cost, place in where]
            self.weight_gradient = [cost.weight_gradient(place) for cost, place in where]
        else:
            self.input_gradient = [cost.backward(place) for cost, place in where]
            self.weight_gradient = [PassCost()] * len(where)
        self.backward = [a + b for a, b in zip(self.input_gradient, self.weight_gradient, strict=True)]

    def _segment_s(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """[stages, S] time of all passes of a segment [s]."""

        def time_s(cost: SegmentCosts, place: int) -> float:
            if self.setting.schedule.splits_backward:
                back_s = cost.input_gradient(place).time_s + cost.weight_gradient(place).time_s
            else:
                back_s = cost.backward(place).time_s
            return cost.forward(place).time_s + back_s

        rows = {id(cost): [time_s(cost, place) for place in self.division.places] for cost in self.costs}
        return np.array([rows[id(cost)] for cost in self.costs])

    # ------------------------------------------------------------------------------------------------- pipeline

    @cached_property
    def timeline(self) -> PipelineTimeline:
        """The simulated pipeline."""
        setting, division = self.setting, self.division
        sends_forward, sends_backward = division.sends_s
        extra = self.exchanged_in_passes
        return simulate(
            PipelineProblem(
                num_stages=setting.pipeline,
                num_microbatches=setting.microbatches,
                schedule=setting.schedule,
                forward_s=tuple(
                    self._sum(self.forward, chunk) + more[0] for chunk, more in zip(division.chunks, extra, strict=True)
                ),
                input_gradient_s=tuple(
                    self._sum(self.input_gradient, chunk) + more[1]
                    for chunk, more in zip(division.chunks, extra, strict=True)
                ),
                weight_gradient_s=tuple(self._sum(self.weight_gradient, chunk) for chunk in division.chunks),
                send_forward_s=sends_forward,
                send_backward_s=sends_backward,
                overlap=setting.overlap_sends,
                activation_bytes=division.kept_bytes,
            )
        )

    def _sum(self, costs: Sequence[PassCost], chunk: tuple[int, int]) -> float:
        return sum(cost.time_s for cost in costs[chunk[0] : chunk[1]])

    @cached_property
    def exchanged_in_passes(self) -> list[tuple[float, float]]:
        """[C] what forward and backward take longer under ZeRO-2 (reductions) and 3 (gathers too) [s]."""
        if not self.division.exchanges_in_passes:
            return [(0.0, 0.0)] * len(self.division.chunks)
        return [self._exchanged_in(chunk) for chunk in self.division.chunks]

    def _exchanged_in(self, chunk: tuple[int, int]) -> tuple[float, float]:
        positions = range(*chunk)
        gathers = [self.division.gather_s(at) for at in positions]
        reductions = [self.division.reduction_s(at) for at in positions]
        forward = [self.forward[at].time_s for at in positions]
        backward = [self.backward[at].time_s for at in positions]
        if not self.setting.overlap_data:
            return sum(gathers), sum(gathers) + sum(reductions)
        ahead = overlapped_gathers(forward, gathers).exposed_s
        behind = overlapped_gathers(backward[::-1], gathers[::-1]).finished_s + reductions[0]
        # One link carries gathers and reductions: backward is never shorter than both together.
        return ahead, max(behind, sum(gathers) + sum(reductions)) - sum(backward)

    def _reduced_s(self, stage: int) -> float:
        """When the gradients of a stage are reduced [s]; under ZeRO-2 and 3 that is part of its passes."""
        setting, division = self.setting, self.division
        ready = self.timeline.gradients_ready_s
        end_s = float(max(ready[stage :: setting.pipeline]))
        if setting.data == 1 or setting.zero >= 2:
            return end_s
        # Segments of a chunk are ready one after another, the first at the end of its backward pass.
        ready_s = {}
        for number, (first, stop) in list(enumerate(division.chunks))[stage :: setting.pipeline]:
            left_s = 0.0
            for at in range(first, stop):
                ready_s[at] = float(ready[number]) - left_s
                left_s += self.backward[at].time_s
        found = division.buckets(stage)
        plan = DataParallelPlan(
            options=setting.state_options,
            buckets=tuple(bucket for bucket, _ in found),
            segments=(),
            segment_weight_bytes=(),
            exchanges=(),
        )
        if not setting.overlap_data:
            return end_s + division.data_s(plan.reduction, sum(bucket.gradient_bytes for bucket in plan.buckets))
        in_order = np.maximum.accumulate([ready_s[at] for _, at in found]).tolist()
        return overlapped_reductions(plan, in_order, end_s, division.data_s).finished_s

    # --------------------------------------------------------------------------------------------------- result

    def evaluation(self) -> ParallelEvaluation:
        """All of it."""
        setting, stages, division = self.setting, range(self.setting.pipeline), self.division
        reduced = [self._reduced_s(stage) for stage in stages]
        updates = [self._update(stage) for stage in stages]
        gathered = [division.weights_gathered_s(stage) for stage in stages]
        # The norm of all gradients decides how they are clipped: no stage updates before the last is reduced.
        start_s = max(reduced) + division.tied_s
        tails = [update.time_s + gather for update, gather in zip(updates, gathered, strict=True)]
        iteration_s = start_s + max(tails)
        found = [self._stage(stage, updates[stage], gathered[stage], reduced[stage]) for stage in stages]
        costs = [self._stage_cost(stage) for stage in stages]
        dynamic_j = sum(setting.microbatches * cost.dynamic_j for cost in costs) + sum(u.dynamic_j for u in updates)
        static_w = sum(energy_constants(design, self.model.technology).static_w for design in self.accelerators)
        replicas = setting.data * setting.tensor
        return ParallelEvaluation(
            setting=setting,
            accelerators=self.accelerators,
            network=division.network,
            stages=tuple(found),
            timeline=self.timeline,
            iteration_time_s=iteration_s,
            parts_s=self._parts(found, iteration_s),
            energy_j=replicas * (dynamic_j + static_w * iteration_s),
            matrix_flops=replicas * setting.microbatches * sum(cost.flops for cost in costs),
            division=division,
            collective_bytes=sum(cost.communication_bytes for cost in costs),
            notes=self.model.notes,
        )

    def _update(self, stage: int) -> PassCost:
        total = PassCost()
        for place in self.division.segments_of(stage):
            total = total + self.costs[stage].update(place, self.setting.state_options)
        return total

    def _stage_cost(self, stage: int) -> PassCost:
        """Forward and backward of one microbatch on one device of a stage."""
        total = PassCost()
        for at in self.division.positions(stage):
            total = total + self.forward[at] + self.backward[at]
        return total

    def _stage(self, stage: int, update: PassCost, gathered_s: float, reduced_s: float) -> StageEvaluation:
        setting, timeline = self.setting, self.timeline
        cost = self._stage_cost(stage)
        end_s = float(max(timeline.gradients_ready_s[stage :: setting.pipeline]))
        memory, shortage = self._memory(stage)
        fits = memory is None or memory.total <= self.accelerators[stage].hbm_bytes
        return StageEvaluation(
            segments=self.division.of_stage(stage),
            busy_s=float(timeline.busy_s[stage]),
            tensor_communication_s=setting.microbatches * (cost.time_s - cost.compute_s),
            sending_s=float(timeline.sending_s[stage]),
            bubble_s=float(timeline.idle_s[stage]),
            data_parallel_s=reduced_s - end_s + gathered_s,
            update_s=update.time_s,
            parameters=sum(self.division.state(at).elements for at in self.division.positions(stage)),
            memory=memory,
            in_flight=int(timeline.peak_in_flight[stage]),
            fits=fits,
            shortage=shortage,
        )

    def _memory(self, stage: int) -> tuple[StageMemory | None, MemoryShortage | None]:
        if not self.division.captured:
            return None, None
        chunks = self.division.of_stage(stage)
        in_flight = [float(self.timeline.peak_in_flight[stage]) / len(chunks)] * len(chunks)
        options = self.setting.state_options
        activations = float(self.timeline.peak_activation_bytes[stage])
        memory = self.model.memory.stage(chunks, in_flight, options, activation_bytes=activations)
        capacity = self.accelerators[stage].hbm_bytes
        if memory.total <= capacity or not self.explain:
            return memory, None
        return memory, memory_shortage(self.model.memory, chunks, in_flight, options, capacity)

    def _parts(self, stages: Sequence[StageEvaluation], iteration_s: float) -> tuple[tuple[str, float], ...]:
        """Where the iteration goes: means over stages of the pipeline's parts, then what follows it."""
        count = len(stages)
        exposed_s = sum(stage.tensor_communication_s for stage in stages) / count
        sending_s = sum(stage.sending_s for stage in stages) / count
        bubble_s = sum(stage.bubble_s for stage in stages) / count
        zero_s = self.setting.microbatches * sum(sum(more) for more in self.exchanged_in_passes) / count
        makespan_s = self.timeline.makespan_s
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
