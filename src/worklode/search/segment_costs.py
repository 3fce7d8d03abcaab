"""What every segment of a shard costs on an accelerator, pass by pass; equal segments are scheduled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from worklode.cost.model import CommunicationTimes
from worklode.graph.fusion import DEFAULT_OPTIONS, FusionOptions
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Communication
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import energy_constants
from worklode.hardware.technology import Technology
from worklode.partition.accumulation import with_accumulation
from worklode.partition.data_parallel import divided_update
from worklode.partition.plan import TensorPlan
from worklode.partition.recompute import RecomputePolicy, recompute
from worklode.partition.segments import BACKWARD, Pass, Segments, pass_graph, segments
from worklode.partition.stage_memory import MemoryModel, StateOptions, StateRule
from worklode.partition.tensor_parallel import shard
from worklode.schedule.list_scheduler import Effort
from worklode.search.evaluate import Evaluator, Mode
from worklode.search.streams import in_streams_s

Execution = Literal["dataflow", "streams", "one-stream"]
"""How a device runs the operators of a pass.

`dataflow`: as its schedule says, several beside one another where cores are free. `streams`: kernels one after another
in the order of the program on all cores, collectives on a stream of their own, as Megatron-LM issues them on GPUs
(arXiv 2205.05198). `one-stream`: collectives in line with the kernels too, as it did before (arXiv 2104.04473).
"""

UPDATE_BYTES_PER_PARAMETER = {StateRule.MIXED_16: 62, StateRule.MIXED_18: 50}
"""HBM bytes of one mixed-precision Adam update [bytes per parameter], pass by pass as `step` of Megatron-LM's optimizer
with 16-bit weights (megatron/optimizer/optimizer.py@00764415) and `clip_grad_norm_fp32` make them:

    gradients to 32 bits   read 2, write 4            (32-bit gradients are where they are)
    unscale, look for inf  read 4, write 4            (loss scaling of fp16 alone)
    norm; clip             read 4; read 4, write 4
    Adam                   read 4 x 4, write 3 x 4
    weights to 16 bits     read 4, write 2
    gradients to zero      write 2                    (4 in 32 bits)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCost:
    """One pass of one segment on one device for one microbatch.

    Attributes:
        time_s: with its collectives [s].
        compute_s: the same if collectives took no time; the rest of `time_s` is exposed communication [s].
        dynamic_j: energy without leakage [J].
        flops: of matrix products.
        communication_bytes: of whole tensors of its collectives [bytes].
    """

    time_s: float = 0.0
    compute_s: float = 0.0
    dynamic_j: float = 0.0
    flops: int = 0
    communication_bytes: int = 0

    def __add__(self, other: PassCost) -> PassCost:
        return PassCost(
            time_s=self.time_s + other.time_s,
            compute_s=self.compute_s + other.compute_s,
            dynamic_j=self.dynamic_j + other.dynamic_j,
            flops=self.flops + other.flops,
            communication_bytes=self.communication_bytes + other.communication_bytes,
        )


class DividedModel:
    """One microbatch of a model, sharded, recomputing and divided into segments; for any number of accelerators.

    Attributes:
        divided: the segments of one shard.
        memory: of its segments.
        whole: the graph of one device before it was sharded.
        technology, mode, fusion: as for `Evaluator`.
    """

    def __init__(
        self,
        graph: TrainingGraph,
        technology: Technology,
        *,
        plan: TensorPlan | None = None,
        tensor: int = 1,
        sequence_parallel: bool = False,
        policy: RecomputePolicy = RecomputePolicy.NONE,
        early_stop: bool = True,
        mode: Mode = "split",
        fusion: FusionOptions = DEFAULT_OPTIONS,
    ) -> None:
        made = graph
        if tensor > 1:
            assert plan is not None, "checked by the caller"
            made = shard(graph, plan, devices=tensor, sequence_parallel=sequence_parallel).graph
        self.whole = graph
        self.technology = technology
        self.mode: Mode = mode
        self.fusion = fusion
        repeated = recompute(made, policy, early_stop=early_stop)
        self.notes = repeated.notes
        self.divided: Segments = segments(repeated.graph)
        self.memory = MemoryModel(self.divided)
        self._evaluators: dict[tuple[object, ...], Evaluator | None] = {}

    @property
    def units(self) -> tuple[int, ...]:
        """Segments that are repeated blocks."""
        return tuple(place for place, segment in enumerate(self.divided.segments) if segment.unit is not None)

    def evaluator(self, place: int, passes: Sequence[Pass], sums: str | None = None) -> Evaluator | None:
        """The step of some passes of a segment, shared by equal segments; None where they have no operator.

        Args:
            place, passes: what is done.
            sums: type in which gradients are added to those of other microbatches, "" their own; None: they are not.
        """

        def graph() -> TrainingGraph:
            made = self._graph(place, passes)
            return made if sums is None else with_accumulation(made, sums)

        return self._evaluator((self.divided.segments[place].kind, *passes, sums), graph)

    def update_evaluator(self, place: int, options: StateOptions) -> Evaluator | None:
        """The optimizer step of a segment at the share of one replica."""
        share = options.data_parallel if options.zero >= 1 else 1
        key = (self.divided.segments[place].kind, Pass.OPTIMIZER, share, self._tied(place))
        return self._evaluator(key, lambda: divided_update(self._graph(place, (Pass.OPTIMIZER,)), options))

    def _tied(self, place: int) -> bool:
        return any(place in tie.segments for tie in self.divided.ties)

    def _graph(self, place: int, passes: Sequence[Pass]) -> TrainingGraph:
        return pass_graph(self.divided, [place], *passes)

    def _evaluator(self, key: tuple[object, ...], make: Callable[[], TrainingGraph]) -> Evaluator | None:
        if key not in self._evaluators:
            graph = make()
            self._evaluators[key] = None
            if graph.operators:
                self._evaluators[key] = Evaluator(graph, self.technology, mode=self.mode, fusion=self.fusion)
        return self._evaluators[key]


class SegmentCosts:
    """Costs of the segments of a divided model on one accelerator and network."""

    def __init__(
        self,
        model: DividedModel,
        accelerator: Accelerator,
        communication_s: CommunicationTimes,
        execution: Execution = "dataflow",
        *,
        sums: str | None = None,
        collective_cores: int = 0,
    ) -> None:
        """For `sums` see `DividedModel.evaluator`, for `collective_cores` `Network`."""
        self.model = model
        self.sums = sums
        self.collective_cores = collective_cores
        self.execution: Execution = execution
        self.accelerator = accelerator
        self._communication_s = communication_s
        self._known: dict[int, PassCost] = {}

    def forward(self, place: int) -> PassCost:
        """Forward of a segment."""
        return self._cost(self.model.evaluator(place, (Pass.FORWARD,)))

    def backward(self, place: int) -> PassCost:
        """Backward of a segment in one go, recomputation included."""
        return self._cost(self.model.evaluator(place, BACKWARD, self.sums))

    def input_gradient(self, place: int) -> PassCost:
        """The part of backward that the segment before waits for."""
        return self._cost(self.model.evaluator(place, (Pass.INPUT_GRADIENT,), self.sums))

    def weight_gradient(self, place: int) -> PassCost:
        """The rest of backward."""
        return self._cost(self.model.evaluator(place, (Pass.WEIGHT_GRADIENT,), self.sums))

    def update(self, place: int, options: StateOptions) -> PassCost:
        """Optimizer step of a segment; with 32-bit state at least the time HBM takes for its bytes."""
        found = self._cost(self.model.update_evaluator(place, options))
        if options.rule is StateRule.CAPTURED:
            return found
        share = options.data_parallel if options.zero >= 1 else 1
        parameters = self.model.memory.model_state([place], options.rule).elements / share
        moved = parameters * UPDATE_BYTES_PER_PARAMETER[options.rule]
        least_s = moved / self.accelerator.sustained_hbm_bytes_per_s
        joule = moved * energy_constants(self.accelerator, self.model.technology).hbm_byte_j
        exchanged_s = found.time_s - found.compute_s
        compute_s = max(found.compute_s, least_s)
        return PassCost(
            time_s=compute_s + exchanged_s,
            compute_s=compute_s,
            dynamic_j=max(found.dynamic_j, joule),
            communication_bytes=found.communication_bytes,
        )

    def _cost(self, evaluator: Evaluator | None) -> PassCost:
        if evaluator is None:
            return PassCost()
        if id(evaluator) not in self._known:
            self._known[id(evaluator)] = self._scheduled(evaluator)
        return self._known[id(evaluator)]

    def _scheduled(self, evaluator: Evaluator) -> PassCost:
        effort: Effort = "thorough" if self.execution == "dataflow" else "quick"  # streams read the costs alone
        step = evaluator.step(self.accelerator, communication_s=self._communication_s, effort=effort)
        collectives = [o.work.communication for o in evaluator.fused.operators if o.work.communication is not None]
        constants = energy_constants(self.accelerator, self.model.technology)
        if self.execution == "dataflow":
            time_s = compute_s = step.schedule.makespan_s
            if collectives:
                # A list schedule may come out longer with less to do: what is exposed is never less than nothing.
                alone = evaluator.step(self.accelerator, communication_s=_no_time, effort=effort)
                compute_s = min(time_s, alone.schedule.makespan_s)
        else:
            in_line = self.execution == "one-stream"
            time_s, compute_s = in_streams_s(evaluator, step, blocking=in_line, collective_cores=self.collective_cores)
        counts = evaluator.event_counts(step)
        return PassCost(
            time_s=time_s,
            compute_s=compute_s,
            dynamic_j=sum(count * getattr(constants, event) for part, count, event in counts if part != "static"),
            flops=evaluator.summary.matrix_flops,
            communication_bytes=sum(communication.bytes for communication in collectives),
        )


def _no_time(communication: Communication) -> float:
    return 0.0
