"""How a training iteration is spread over devices: the setting, and every reason why it cannot be meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from worklode.errors import Fault, SpecError
from worklode.hardware.network import Group, Network, Topology, group_of
from worklode.partition.recompute import RecomputePolicy
from worklode.partition.stage_memory import ZERO_LEVELS, StateOptions, StateRule
from worklode.schedule.pipeline_orders import PipelineSchedule, ScheduleKind, schedule_faults
from worklode.search.segment_costs import Execution

CutRule = Literal["auto", "even", "balanced"]
ONE_F_ONE_B = PipelineSchedule(kind=ScheduleKind.ONE_F_ONE_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSetting:
    """A parallel setting: pipeline · tensor · data devices train `global_batch` samples an iteration.

    Attributes:
        pipeline: stages in a row.
        tensor: tensor-parallel width.
        data: replicas.
        global_batch: samples of one iteration on all replicas.
        microbatch: samples a device takes at a time.
        schedule: of the pipeline.
        recompute: what backward computes again.
        recompute_early_stop: stop at what backward reads, as torch does; False repeats all, as Megatron-LM does.
        sequence_parallel: divide by sequence what tensor parallelism leaves whole.
        zero: ZeRO level of the data-parallel group.
        state: bytes of weights, gradients and optimizer state.
        cut: `even`: as many blocks on every chunk; `balanced`: by time; `auto`: even where it comes out even.
        overlap_sends: stages compute while they send. Measured Megatron-LM runs do not (docs/models/pipeline.md).
        execution: how a device runs the operators of a pass.
        overlap_data: gradients are reduced, and ZeRO-3 weights gathered, beside computation.
        add_first: the first microbatch's gradients are added, too, to zeros.
    """

    pipeline: int = 1
    tensor: int = 1
    data: int = 1
    global_batch: int = 1
    microbatch: int = 1
    schedule: PipelineSchedule = ONE_F_ONE_B
    recompute: RecomputePolicy = RecomputePolicy.NONE
    recompute_early_stop: bool = True
    sequence_parallel: bool = False
    zero: int = 0
    state: StateRule = StateRule.CAPTURED
    cut: CutRule = "auto"
    overlap_sends: bool = False
    overlap_data: bool = True
    execution: Execution = "dataflow"
    add_first: bool = False

    @property
    def devices(self) -> int:
        """Of all replicas."""
        return self.pipeline * self.tensor * self.data

    @property
    def microbatches(self) -> int:
        """Of one replica in an iteration."""
        return self.global_batch // (self.data * self.microbatch)

    @property
    def mesh(self) -> Mapping[str, int]:
        """Axes in the order of placement, innermost first, as Megatron-LM numbers its ranks (arXiv 2104.04473)."""
        return {"tensor": self.tensor, "data": self.data, "pipeline": self.pipeline}

    @property
    def sums(self) -> str | None:
        """Type in which gradients of microbatches are added up, "" their own; None where they are not.

        Under ZeRO-2 and 3 they are reduced first, and a device adds its share alone, which is left out.
        """
        if self.zero >= 2 or (self.microbatches == 1 and not self.add_first):
            return None
        return "float32" if self.state is StateRule.MIXED_18 else ""

    @property
    def state_options(self) -> StateOptions:
        """How model state is held."""
        return StateOptions(rule=self.state, zero=self.zero, data_parallel=self.data)

    def faults(self) -> tuple[Fault, ...]:
        """Everything wrong with the setting by itself."""
        counts = ("pipeline", "tensor", "data", "global_batch", "microbatch")
        found = [
            Fault(where=_option(name), value=str(getattr(self, name)), problem="is not positive", allowed="1 or more")
            for name in counts
            if getattr(self, name) < 1
        ]
        if self.zero not in ZERO_LEVELS:
            allowed = ", ".join(map(str, ZERO_LEVELS))
            found.append(Fault(where="--zero", value=str(self.zero), problem="no such level", allowed=allowed))
        if self.cut not in get_args(CutRule):
            allowed = ", ".join(get_args(CutRule))
            found.append(Fault(where="--cut", value=repr(self.cut), problem="no such rule", allowed=allowed))
        if self.execution not in get_args(Execution):
            allowed = ", ".join(get_args(Execution))
            found.append(Fault(where="--execution", value=repr(self.execution), problem="unknown", allowed=allowed))
        if self.sequence_parallel and self.tensor == 1:
            problem = "divides nothing without tensor parallelism"
            found.append(Fault(where="--sequence-parallel", problem=problem, allowed="--tensor 2 or more"))
        if any(fault.problem == "is not positive" for fault in found):
            return tuple(found)
        samples = self.data * self.microbatch
        if self.global_batch % samples:
            below = self.global_batch - self.global_batch % samples
            near = f"{below} or {below + samples}" if below else str(samples)
            problem = f"is no multiple of data {self.data} x microbatch {self.microbatch} = {samples} samples"
            found.append(Fault(where="--global-batch", value=str(self.global_batch), problem=problem, allowed=near))
        else:
            found.extend(schedule_faults(self.schedule, self.pipeline, self.microbatches, "--schedule"))
        return tuple(found)

    def check(self) -> None:
        """Raise every fault of the setting by itself.

        Raises:
            SpecError: it has any.
        """
        faults = self.faults()
        if faults:
            raise SpecError(*faults)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "pipeline": self.pipeline,
            "tensor": self.tensor,
            "data": self.data,
            "devices": self.devices,
            "global_batch": self.global_batch,
            "microbatch": self.microbatch,
            "microbatches": self.microbatches,
            "schedule": str(self.schedule),
            "recompute": str(self.recompute),
            "sequence_parallel": self.sequence_parallel,
            "zero": self.zero,
            "state": str(self.state),
            "overlap_sends": self.overlap_sends,
            "overlap_data": self.overlap_data,
            "execution": self.execution,
            "add_first": self.add_first,
        }


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def with_nodes_of(network: Network, devices: int) -> Network:
    """The network with nodes of so many devices: its innermost level joins that many.

    Raises:
        SpecError: not a positive number, or a torus, whose nodes are part of its shape.
    """
    inner = network.levels[0]
    if devices < 1 or inner.topology is Topology.TORUS or len(network.levels) == 1:
        problem = "is not positive" if devices < 1 else f"network {network.name or 'given'} has no nodes of its own"
        allowed = "1 or more" if devices < 1 else "leave --nodes-of out, or a --network of two levels"
        raise SpecError(Fault(where="--nodes-of", value=str(devices), problem=problem, allowed=allowed))
    return replace(network, levels=(replace(inner, devices=devices), *network.levels[1:]))


def groups(setting: ParallelSetting, network: Network | None) -> Mapping[str, Group]:
    """The groups of every axis that has more than one device.

    Raises:
        SpecError: there are several devices and no network, or more devices than it has.
    """
    if setting.devices == 1:
        return {}
    if network is None:
        problem = f"{setting.devices} devices and no network between them"
        raise SpecError(Fault(where="--network", problem=problem, allowed="a preset or a YAML file"))
    return {axis: group_of(network, setting.mesh, axis) for axis, size in setting.mesh.items() if size > 1}


def tied_group(setting: ParallelSetting, network: Network, holders: int) -> Group:
    """The group of the stages that hold copies of one parameter."""
    mesh = {**setting.mesh, "pipeline": holders}
    return group_of(network, mesh, "pipeline")
