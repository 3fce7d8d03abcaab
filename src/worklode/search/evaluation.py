"""Records of what a design does on a workload, and their JSON form (the contract of docs/json.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from worklode.graph.memory import MemoryFootprint
from worklode.graph.operator import OperatorKind, Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a workload is costed by an operator's own model, not by the bytes-and-flops fallback [shares]."""

    flops_exact: float
    bytes_exact: float
    fallback_operators: tuple[tuple[str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "flops_exact": self.flops_exact,
            "bytes_exact": self.bytes_exact,
            "fallback_operators": [{"name": name, "count": count} for name, count in self.fallback_operators],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSummary:
    """A workload in figures: what every output says of it."""

    name: str
    parameters: int
    trainable_parameters: int
    flops: int
    flops_forward: int
    matrix_flops: int
    matrix_flops_forward: int
    operators: int
    saved_bytes: int
    samples: int
    tokens: int
    options: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "flops": self.flops,
            "flops_forward": self.flops_forward,
            "matrix_flops": self.matrix_flops,
            "matrix_flops_forward": self.matrix_flops_forward,
            "operators": self.operators,
            "saved_bytes": self.saved_bytes,
            "samples": self.samples,
            "tokens": self.tokens,
            "options": dict(self.options),
            "notes": list(self.notes),
        }


def coverage(graph: TrainingGraph) -> Coverage:
    """Share of FLOPs and bytes that are modelled exactly, and the names of the operators that are not."""
    flops = graph.flops()
    hbm_bytes = graph.hbm_bytes()
    fallback = [operator for operator in graph.operators if operator.kind is OperatorKind.FALLBACK]
    fallback_flops = sum(operator.work.flops for operator in fallback)
    fallback_bytes = sum(operator.read_bytes + operator.write_bytes for operator in fallback)
    return Coverage(
        flops_exact=1.0 - fallback_flops / flops if flops else 1.0,
        bytes_exact=1.0 - fallback_bytes / hbm_bytes if hbm_bytes else 1.0,
        fallback_operators=tuple(sorted(graph.fallback_operators().items())),
    )


def workload_summary(graph: TrainingGraph) -> WorkloadSummary:
    """Figures of a captured (not fused) graph. `flops_forward` covers forward and loss, not recomputation."""
    forward = (Phase.FORWARD, Phase.LOSS)
    return WorkloadSummary(
        name=graph.info.name,
        parameters=graph.info.parameters,
        trainable_parameters=graph.info.trainable_parameters,
        flops=graph.flops(),
        flops_forward=graph.flops(*forward),
        matrix_flops=graph.matrix_flops(),
        matrix_flops_forward=graph.matrix_flops(*forward),
        operators=len(graph.operators),
        saved_bytes=graph.saved_bytes(),
        samples=graph.info.samples,
        tokens=graph.info.tokens,
        options=graph.info.options,
        notes=graph.info.notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Silicon:
    """Area [mm²] and thermal design power [W] of a design, each split by part."""

    area_parts_mm2: tuple[tuple[str, float], ...]
    tdp_parts_w: tuple[tuple[str, float], ...]

    @property
    def area_mm2(self) -> float:
        """Die area [mm²]."""
        return sum(area for _, area in self.area_parts_mm2)

    @property
    def tdp_w(self) -> float:
        """Thermal design power [W]."""
        return sum(power for _, power in self.tdp_parts_w)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """Busy share of what there is, over the iteration: core-seconds held per type, bytes moved per bandwidth."""

    tensor_core: float
    vector_core: float
    hbm: float
    macs: float

    def to_dict(self) -> dict[str, float]:
        """JSON form. `macs` is model FLOPs utilisation of the tensor cores: MACs executed on them over peak."""
        return {"tensor_core": self.tensor_core, "vector_core": self.vector_core, "hbm": self.hbm, "macs": self.macs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One design on one workload.

    Attributes:
        iteration_time_s: makespan of the verified schedule [s].
        lower_bound_s: no schedule of this design can be shorter [s].
        critical_path_s: longest path with every operator on its fastest allocation, alone on the chip [s].
        energy_j: energy of one iteration, leakage included [J].
        energy_parts_j: the same by part.
        bound_by: share of the iteration time that each resource explains (tensor_core, vector_core, hbm, waiting).
        phase_time_s: time of the chain that explains the makespan, by training phase [s].
        memory: peak memory by role; `memory_fits` says whether it fits the HBM.
        interruptions: how often an operator was interrupted or went over to another option [count].
    """

    workload: WorkloadSummary
    coverage: Coverage
    accelerator: Accelerator
    silicon: Silicon
    mode: str
    iteration_time_s: float
    lower_bound_s: float
    critical_path_s: float
    energy_j: float
    energy_parts_j: tuple[tuple[str, float], ...]
    utilization: Utilization
    bound_by: tuple[tuple[str, float], ...]
    phase_time_s: tuple[tuple[str, float], ...]
    memory: MemoryFootprint
    fused_operators: int = field(default=0)
    interruptions: int = field(default=0)

    @property
    def samples_per_s(self) -> float:
        """Training throughput [samples/s]."""
        return self.workload.samples / self.iteration_time_s

    @property
    def samples_per_s_per_w(self) -> float:
        """Training throughput per watt of TDP [samples/s/W]."""
        return self.samples_per_s / self.silicon.tdp_w

    @property
    def average_power_w(self) -> float:
        """Energy over time [W]. Nothing holds it below the TDP: the model does not throttle the clock."""
        return self.energy_j / self.iteration_time_s

    @property
    def memory_fits(self) -> bool:
        """Whether the step's peak memory fits the HBM."""
        return self.memory.total_peak <= self.accelerator.hbm_bytes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before using the figures."""
        found = []
        if not self.memory_fits:
            found.append(
                f"the step needs {self.memory.total_peak / 2**30:.1f} GiB and the HBM holds "
                f"{self.accelerator.hbm_bytes / 2**30:.1f} GiB: the time assumes that it fits"
            )
        # The memory of an embedded engine belongs to the system around it and is not in its power.
        outside = dict(self.energy_parts_j)["hbm"] if self.accelerator.family == "embedded" else 0.0
        drawn_w = (self.energy_j - outside) / self.iteration_time_s
        if drawn_w > self.silicon.tdp_w:
            found.append(
                f"the step draws {drawn_w:.4g} W on average and the TDP is {self.silicon.tdp_w:.4g} W: hardware would "
                "lower its clock, the time does not"
            )
        if self.coverage.fallback_operators:
            names = ", ".join(name for name, _ in self.coverage.fallback_operators)
            found.append(f"costed by bytes and FLOPs alone: {names}")
        return tuple(found)

    def memory_dict(self) -> dict[str, Any]:
        """JSON form of the memory: parts, their peak together, and whether it fits."""
        memory = self.memory
        return {
            "parameters": memory.parameters,
            "gradients": memory.gradients,
            "optimizer_state": memory.optimizer_state,
            "buffers": memory.buffers,
            "inputs": memory.inputs,
            "activations": memory.activations_peak,
            "total": memory.total_peak,
            "fits": self.memory_fits,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "workload": self.workload.to_dict(),
            "accelerator": accelerator_dict(self.accelerator, self.silicon),
            "mode": self.mode,
            "iteration_time_s": self.iteration_time_s,
            "samples_per_s": self.samples_per_s,
            "samples_per_s_per_w": self.samples_per_s_per_w,
            "energy_j": self.energy_j,
            "energy_parts_j": dict(self.energy_parts_j),
            "average_power_w": self.average_power_w,
            "lower_bound_s": self.lower_bound_s,
            "critical_path_s": self.critical_path_s,
            "utilization": self.utilization.to_dict(),
            "bound_by": dict(self.bound_by),
            "phase_time_s": dict(self.phase_time_s),
            "memory_bytes": self.memory_dict(),
            "coverage": self.coverage.to_dict(),
            "fused_operators": self.fused_operators,
            "interruptions": self.interruptions,
            "warnings": list(self.warnings),
        }


def accelerator_dict(accelerator: Accelerator, silicon: Silicon) -> dict[str, Any]:
    """JSON form of a design with its area and TDP."""
    return {
        "name": accelerator.name,
        "num_tensor_cores": accelerator.num_tensor_cores,
        "tensor_core_rows": accelerator.tensor_core_rows,
        "tensor_core_cols": accelerator.tensor_core_cols,
        "num_vector_cores": accelerator.num_vector_cores,
        "vector_lanes": accelerator.vector_lanes,
        "sram_bytes": accelerator.sram_bytes,
        "hbm_stacks": accelerator.hbm_stacks,
        "hbm_bytes": accelerator.hbm_bytes,
        "hbm_bytes_per_s": accelerator.hbm_bytes_per_s,
        "clock_hz": accelerator.clock_hz,
        "node_nm": accelerator.node_nm,
        "mac_dtype": accelerator.mac_dtype,
        "num_links": accelerator.num_links,
        "link_bytes_per_s": accelerator.link_bytes_per_s,
        "peak_matrix_flops_per_s": accelerator.peak_matrix_flops_per_s,
        "efficiency": {
            "clock_share": accelerator.clock_share,
            "hbm_share": accelerator.hbm_share,
            "operator_start_s": accelerator.operator_start_s,
            "operator_fill_s": accelerator.operator_fill_s,
        },
        "area_mm2": silicon.area_mm2,
        "tdp_w": silicon.tdp_w,
        "area_parts_mm2": dict(silicon.area_parts_mm2),
        "tdp_parts_w": dict(silicon.tdp_parts_w),
    }
