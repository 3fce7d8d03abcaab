"""The one place where graph, hardware, costs and schedule meet: a design on a workload becomes figures."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from worklode.cost.model import CommunicationTimes, CostModel, bound_by_hbm
from worklode.cost.operator_costs import OperatorCosts
from worklode.errors import Fault, InternalError, SpecError
from worklode.graph.canonical import canonical
from worklode.graph.fusion import DEFAULT_OPTIONS, FusionOptions, FusionReport, fuse
from worklode.graph.memory import MemoryFootprint, memory_footprint
from worklode.graph.operator import Phase
from worklode.graph.training_graph import GraphArrays, TrainingGraph, graph_arrays
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_mm2
from worklode.hardware.energy import EnergyConstants, energy_constants
from worklode.hardware.power import tdp_w
from worklode.hardware.technology import Technology
from worklode.schedule.analysis import Resource, ScheduleAnalysis, analyze
from worklode.schedule.bounds import GUIDED_ROUNDS, Guide, lower_bounds
from worklode.schedule.interruptible import schedule_interruptible
from worklode.schedule.list_scheduler import Effort, schedule
from worklode.schedule.prices import ROUNDS
from worklode.schedule.problem import Schedule, ScheduleProblem
from worklode.schedule.verify import verify
from worklode.search.evaluation import (
    Coverage,
    Evaluation,
    Silicon,
    Utilization,
    WorkloadSummary,
    coverage,
    workload_summary,
)

Mode = Literal["split", "uninterrupted", "one-core"]

# Thorough schedules that are kept [count]: those of a result's designs, which are first compared and then reported.
MOST_REPORTED = 64
# Designs whose silicon is kept [count]: those of one search.
MOST_BUILT = 4096
# Rounding of sums of thousands of operators [1]: a utilisation above 1 by more is a defect.
UTILIZATION_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the search compares designs by.

    Attributes:
        time_s, energy_j: of one iteration.
        area_mm2, tdp_w: of the silicon.
    """

    time_s: float
    energy_j: float
    area_mm2: float
    tdp_w: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduledStep:
    """A design's costs, scheduling problem and schedule."""

    costs: OperatorCosts
    problem: ScheduleProblem
    schedule: Schedule


class _Constants:
    """Technology constants as a key: the same object is the same key, without a hash of all of them."""

    def __init__(self, technology: Technology) -> None:
        self.technology = technology

    def __hash__(self) -> int:
        return id(self.technology)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constants) and other.technology is self.technology


@lru_cache(maxsize=MOST_BUILT)
def _built(accelerator: Accelerator, constants: _Constants) -> tuple[Silicon, EnergyConstants]:
    """What several evaluators ask of a design."""
    technology = constants.technology
    area, power = area_mm2(accelerator, technology), tdp_w(accelerator, technology)
    found = Silicon(
        area_parts_mm2=tuple((part.name, float(getattr(area, part.name))) for part in fields(area)),
        tdp_parts_w=tuple((part.name, float(getattr(power, part.name))) for part in fields(power)),
    )
    return found, energy_constants(accelerator, technology)


def silicon(accelerator: Accelerator, technology: Technology) -> Silicon:
    """Area and power of a design, by part."""
    return _built(accelerator, _Constants(technology))[0]


class Evaluator:
    """One workload, ready to be put on any number of designs; what they share is computed once."""

    def __init__(
        self,
        graph: TrainingGraph,
        technology: Technology,
        *,
        mode: Mode = "split",
        fusion: FusionOptions = DEFAULT_OPTIONS,
    ) -> None:
        if mode not in get_args(Mode):
            allowed = ", ".join(get_args(Mode))
            raise SpecError(Fault(where="--mode", value=repr(mode), problem="no such mode", allowed=allowed))
        graph = canonical(graph)  # from here on, nothing depends on the order in which operators were listed
        result = fuse(graph, fusion)
        self.technology = technology
        self.mode: Mode = mode
        self.fused: TrainingGraph = result.graph
        self.fusion: FusionReport = result.report
        self.summary: WorkloadSummary = workload_summary(graph)
        self.coverage: Coverage = coverage(graph)
        self.memory: MemoryFootprint = memory_footprint(self.fused)
        self.arrays: GraphArrays = graph_arrays(self.fused)
        self.item_counts = np.bincount(self.arrays.item_of, minlength=len(self.arrays.items)).astype(np.float64)
        self.model = CostModel(self.arrays.items, mode="one-core" if mode == "one-core" else "split")
        self.matrix_macs = graph.matrix_flops() / 2
        self.communication_s: CommunicationTimes | None = None
        self._reported: dict[Accelerator, tuple[Effort, ScheduledStep]] = {}

    def exchanging(self, communication_s: CommunicationTimes) -> Evaluator:
        """The same step whose collectives take these times from now on; costs that designs share are shared with it."""
        made = copy.copy(self)
        made.communication_s = communication_s
        made._reported = {}
        return made

    def step(
        self,
        accelerator: Accelerator,
        *,
        segments: bool = False,
        effort: Effort = "quick",
        communication_s: CommunicationTimes | None = None,
    ) -> ScheduledStep:
        """Cost and schedule the step on a design; see `schedule.list_scheduler.schedule`.

        `communication_s` gives times to the collectives of a shard, if others than those of `exchanging`; a step of one
        device has none.
        """
        costs = self.model.on(accelerator, self.communication_s if communication_s is None else communication_s)
        problem = self._problem(costs, accelerator)
        make = schedule_interruptible if problem.interruptible else schedule
        return ScheduledStep(costs=costs, problem=problem, schedule=make(problem, segments=segments, effort=effort))

    def uninterrupted(self) -> Evaluator:
        """The same workload where no operator is interrupted."""
        if self.mode != "split":
            return self
        other = copy.copy(self)
        other.mode = "uninterrupted"
        other._reported = {}
        return other

    def scheduled(self, costs: OperatorCosts, accelerator: Accelerator) -> tuple[float, float]:
        """Time [s] and energy [J] of the step on a design with these costs of its items, on a quick schedule."""
        problem = self._problem(costs, accelerator)
        make = schedule_interruptible if problem.interruptible else schedule
        step = ScheduledStep(costs=costs, problem=problem, schedule=make(problem))
        return step.schedule.makespan_s, sum(energy for _, energy in self._energy_parts(step, accelerator))

    def problem(self, accelerator: Accelerator) -> ScheduleProblem:
        """The scheduling problem of the step on a design."""
        return self._problem(self.model.on(accelerator, self.communication_s), accelerator)

    def reported_step(self, accelerator: Accelerator, effort: Effort = "thorough") -> ScheduledStep:
        """The step as it is reported of a design, with segments; the last few are kept.

        Once it was scheduled with the utmost effort, that is what is reported of it.
        """
        known = self._reported.get(accelerator)
        if known is None or (effort == "utmost" and known[0] != "utmost"):
            found = self.step(accelerator, segments=True, effort=effort)
            if effort == "utmost":
                # More effort tries other choices, not all of the fewer: the better of both, whatever was known before.
                before = known[1] if known is not None else self.step(accelerator, segments=True, effort="thorough")
                if before.schedule.makespan_s < found.schedule.makespan_s:
                    found = before
            known = effort, found
            if len(self._reported) >= MOST_REPORTED:
                self._reported.pop(next(iter(self._reported)), None)  # another thread may have
            self._reported[accelerator] = known
        return known[1]

    def figures(self, accelerator: Accelerator, *, effort: Effort = "quick") -> Figures:
        """The figures a search needs, without verification."""
        step = self.step(accelerator) if effort == "quick" else self.reported_step(accelerator, effort)
        found = silicon(accelerator, self.technology)
        return Figures(
            time_s=step.schedule.makespan_s,
            energy_j=sum(energy for _, energy in self._energy_parts(step, accelerator)),
            area_mm2=found.area_mm2,
            tdp_w=found.tdp_w,
        )

    def least_energy_j(self, accelerator: Accelerator, time_s: float) -> float:
        """Energy [J] that an iteration of at least this long takes on a design, on any schedule: SRAM traffic apart."""
        constants = _built(accelerator, _Constants(self.technology))[1]
        macs = float(self.model.least_macs @ self.item_counts)
        lane_ops = float(self.model.least_lane_ops @ self.item_counts)
        traffic = float(self.model.item_hbm_bytes(accelerator.sram_bytes) @ self.item_counts)
        computing_j = macs * (constants.mac_j + constants.mac_operand_j) + lane_ops * constants.lane_op_j
        return computing_j + traffic * constants.hbm_byte_j + constants.static_w * time_s

    def bound_by(self, accelerator: Accelerator) -> tuple[tuple[str, float], ...]:
        """Share of the iteration that each resource explains on a design; see `Evaluation.bound_by`."""
        step = self.step(accelerator)
        return self._bound_by(step, analyze(step.problem, step.schedule), accelerator)

    def reported_bound_by(self, accelerator: Accelerator) -> tuple[tuple[str, float], ...]:
        """`Evaluation.bound_by` of a design."""
        step = self.reported_step(accelerator)
        return self._bound_by(step, analyze(step.problem, step.schedule), accelerator)

    def evaluate(self, accelerator: Accelerator, *, guided_by: Guide | None = None) -> Evaluation:
        """Everything about a design on this workload; the schedule is verified.

        Args:
            accelerator: the design.
            guided_by: prices of a similar design, from which those of this one are found sooner.

        Raises:
            InternalError: a schedule or figure that cannot be.
        """
        step = self.reported_step(accelerator)
        verify(step.problem, step.schedule)
        rounds = ROUNDS if guided_by is None else GUIDED_ROUNDS
        bounds = lower_bounds(step.problem, guided_by=guided_by, rounds=rounds)
        analysis = analyze(step.problem, step.schedule)
        energy_parts = self._energy_parts(step, accelerator)
        makespan_s = step.schedule.makespan_s
        if bounds.makespan_s > makespan_s * (1 + UTILIZATION_TOLERANCE):
            raise InternalError(f"the schedule takes {makespan_s} s, less than its lower bound {bounds.makespan_s} s")
        return Evaluation(
            workload=self.summary,
            coverage=self.coverage,
            accelerator=accelerator,
            silicon=silicon(accelerator, self.technology),
            mode=self.mode,
            iteration_time_s=makespan_s,
            lower_bound_s=min(bounds.makespan_s, makespan_s),
            critical_path_s=bounds.critical_path_s,
            energy_j=sum(energy for _, energy in energy_parts),
            energy_parts_j=energy_parts,
            utilization=self._utilization(step, analysis, accelerator),
            bound_by=self._bound_by(step, analysis, accelerator),
            phase_time_s=self._phase_time(analysis),
            memory=self.memory,
            fused_operators=len(self.fused.operators),
            interruptions=step.schedule.interruptions,
        )

    def _problem(self, costs: OperatorCosts, accelerator: Accelerator) -> ScheduleProblem:
        arrays = self.arrays
        return ScheduleProblem(
            predecessor_start=arrays.predecessor_start,
            predecessor=arrays.predecessor,
            successor_start=arrays.successor_start,
            successor=arrays.successor,
            item_of=arrays.item_of,
            option_start=costs.option_start,
            tensor_cores=costs.tensor_cores,
            vector_cores=costs.vector_cores,
            compute_s=costs.compute_s,
            hbm_bytes=costs.hbm_bytes,
            num_tensor_cores=accelerator.num_tensor_cores,
            num_vector_cores=accelerator.num_vector_cores,
            hbm_bytes_per_s=accelerator.sustained_hbm_bytes_per_s,
            resume_s=costs.resume_s if self.mode == "split" else None,
            resume_bytes=costs.resume_bytes if self.mode == "split" else None,
        )

    def event_counts(self, step: ScheduledStep) -> tuple[tuple[str, float, str], ...]:
        """(part of the energy, how many events, field of `EnergyConstants` that each costs) of one iteration.

        What is read again after an interruption passes the SRAM once more too.
        """
        macs = float(step.costs.macs @ self.item_counts)
        pieces = step.schedule.runs()
        option, share = pieces.option, pieces.share
        again_bytes = float(step.costs.resume_bytes[option] @ (pieces.set_up_s > 0.0))
        return (
            ("macs", macs, "mac_j"),
            ("operand_delivery", macs, "mac_operand_j"),
            ("vector_lanes", float(step.costs.lane_ops @ self.item_counts), "lane_op_j"),
            ("sram", float(step.costs.sram_bytes[option] @ share) + again_bytes, "sram_byte_j"),
            ("hbm", float(step.costs.hbm_bytes[option] @ share) + again_bytes, "hbm_byte_j"),
            ("static", step.schedule.makespan_s, "static_w"),
        )

    def _energy_parts(self, step: ScheduledStep, accelerator: Accelerator) -> tuple[tuple[str, float], ...]:
        """Energy of one iteration by part [J]: counts of the chosen options times energy per event, and leakage."""
        constants = _built(accelerator, _Constants(self.technology))[1]
        return tuple((part, count * getattr(constants, event)) for part, count, event in self.event_counts(step))

    def _bound_by(
        self, step: ScheduledStep, analysis: ScheduleAnalysis, accelerator: Accelerator
    ) -> tuple[tuple[str, float], ...]:
        """Shares of the makespan, largest first; a fused operator is blamed on the type of core that takes longer."""
        shares = dict.fromkeys(Resource, 0.0)
        tensor_s = self.model.one_tensor_core_s(accelerator)[self.arrays.item_of]
        vector_s = self.model.one_vector_core_s(accelerator)[self.arrays.item_of]
        by_hbm = bound_by_hbm(step.costs, accelerator)
        for link in analysis.chain:
            option = link.option
            held, beside = int(step.costs.tensor_cores[option]), int(step.costs.vector_cores[option])
            cause = Resource.HBM if by_hbm[option] else link.cause
            if cause is not Resource.HBM and held and beside:
                longer_on_lanes = vector_s[link.task] / beside > tensor_s[link.task] / held
                cause = Resource.VECTOR_CORE if longer_on_lanes else Resource.TENSOR_CORE
            shares[cause] += link.duration_s
            shares[Resource.HBM] += link.slowed_s
            shares[Resource.WAITING] += link.waited_s
        makespan_s = step.schedule.makespan_s
        ranked = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
        return tuple((resource.value, time_s / makespan_s) for resource, time_s in ranked)

    def _utilization(self, step: ScheduledStep, analysis: ScheduleAnalysis, accelerator: Accelerator) -> Utilization:
        executed = float(step.costs.macs @ self.item_counts)
        peak = accelerator.macs * accelerator.clock_hz * step.schedule.makespan_s
        found = Utilization(
            tensor_core=analysis.tensor_core,
            vector_core=analysis.vector_core,
            hbm=analysis.hbm * accelerator.hbm_share,
            macs=executed / peak,
        )
        for name, share in found.to_dict().items():
            if not 0.0 <= share <= 1.0 + UTILIZATION_TOLERANCE:
                raise InternalError(f"utilisation of {name} is {share}")
        return found

    def _phase_time(self, analysis: ScheduleAnalysis) -> tuple[tuple[str, float], ...]:
        """Time the chain that explains the makespan spends in each phase [s]."""
        spent = dict.fromkeys((phase.value for phase in Phase), 0.0)
        for link in analysis.chain:
            spent[self.fused.operators[link.task].phase.value] += link.waited_s + link.duration_s + link.slowed_s
        return tuple((phase, time_s) for phase, time_s in spent.items() if time_s > 0)
