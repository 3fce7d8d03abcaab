"""The accelerator template: what can be chosen about a design, and nothing derived from a cost model.

What follows from the fields: docs/models/accelerator.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One design of the template of docs/notation.md.

    Attributes:
        name: preset name or "" for a mined design.
        num_tensor_cores, tensor_core_rows, tensor_core_cols: systolic arrays; rows hold the reduction (K), columns the
            outputs (N) of a weight-stationary array.
        num_vector_cores, vector_lanes: SIMD cores and their lanes (one fp32 lane operation per lane and cycle).
        sram_bytes: global on-chip SRAM shared by all cores [bytes].
        hbm_stacks, hbm_stack_bytes, hbm_stack_bytes_per_s: off-chip memory, per stack [bytes, bytes/s].
        clock_hz: clock of all cores [Hz].
        node_nm: technology node [nm].
        mac_dtype: operand type of the multipliers (`bfloat16`, `float16`, `int8`), accumulating in 32 bits.
        tensor_core_buffer_bytes, vector_core_buffer_bytes: local buffer of one core [bytes]; None takes the written
            rule of `hardware.buffers`.
        num_links, link_bytes_per_s: chip-to-chip links, rate of one direction of one link [bytes/s].
        family: how the cores are built, which decides overheads of area and energy: `systolic` (software-managed
            scratchpads, one instruction stream for all lanes: TPU; every mined design unless its budget is of another
            family), `simt` (multithreaded cores with caches: GPU), `embedded` (an engine inside a system on chip whose
            host interface, DRAM interface and DRAM are not counted: NVDLA).
        spare_fraction: manufactured but disabled cores and SRAM, over those enabled (yield harvesting); costs area and
            leakage and does no work.
        provisioned_activity: share of the peak dynamic power that the stated power provides for; below 1 only where
            the published figure is a measured maximum and not a thermal design power.
        clock_share: sustained over stated clock when the cores are loaded [1]; 1 where nothing was measured.
        hbm_share: sustained over pin bandwidth of HBM [1].
        operator_start_s: time an operator holds its cores beyond its work: issue and synchronisation; 0 for one static
            program on all cores [s].
        operator_fill_s: most time in which an operator's buffers fill before it computes, or empty after [s].

    The last four are what no maker publishes, fitted for the presets of GPUs (docs/models/efficiency.md); area and
    power do not depend on them.
    """

    name: str = ""
    num_tensor_cores: int
    tensor_core_rows: int
    tensor_core_cols: int
    num_vector_cores: int
    vector_lanes: int
    sram_bytes: int
    hbm_stacks: int
    hbm_stack_bytes: int
    hbm_stack_bytes_per_s: float
    clock_hz: float
    node_nm: int
    mac_dtype: str = "bfloat16"
    tensor_core_buffer_bytes: int | None = None
    vector_core_buffer_bytes: int | None = None
    num_links: int = 0
    link_bytes_per_s: float = 0.0
    family: str = "systolic"
    spare_fraction: float = 0.0
    provisioned_activity: float = 1.0
    clock_share: float = 1.0
    hbm_share: float = 1.0
    operator_start_s: float = 0.0
    operator_fill_s: float = 0.0

    @property
    def hbm_bytes(self) -> int:
        """HBM capacity [bytes]."""
        return self.hbm_stacks * self.hbm_stack_bytes

    @property
    def hbm_bytes_per_s(self) -> float:
        """HBM bandwidth [bytes/s]."""
        return self.hbm_stacks * self.hbm_stack_bytes_per_s

    @property
    def sustained_clock_hz(self) -> float:
        """Clock of all cores under load [Hz]."""
        return self.clock_hz * self.clock_share

    @property
    def sustained_hbm_bytes_per_s(self) -> float:
        """HBM bandwidth that long transfers reach [bytes/s]."""
        return self.hbm_bytes_per_s * self.hbm_share

    @property
    def macs(self) -> int:
        """Multiply-accumulate units of the chip."""
        return self.num_tensor_cores * self.tensor_core_rows * self.tensor_core_cols

    @property
    def peak_matrix_flops_per_s(self) -> float:
        """Peak of the tensor cores [FLOP/s], multiply and add counted apart."""
        return 2.0 * self.macs * self.clock_hz

    @property
    def total_lanes(self) -> int:
        """Vector lanes of the chip."""
        return self.num_vector_cores * self.vector_lanes
