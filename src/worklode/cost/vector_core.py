"""Cycles of lane work on SIMD vector cores (docs/models/vector_core.md)."""

from __future__ import annotations

import numpy as np

from worklode.cost.compiled import Floats, Ints, compiled

# Cycles of a lane per transcendental operation [cycles]. Source: CUDA C++ Programming Guide 12, table "Throughput of
# Native Arithmetic Instructions", compute capability 8.0: 64 fp32 additions, 16 reciprocals, roots, base-2 exponentials
# or logarithms per cycle and multiprocessor.
SPECIAL_OPERATION_CYCLES = 4
# Cycles until a dependent operation may start [cycles]. Source: Jia et al., Dissecting the NVIDIA Volta GPU
# architecture via microbenchmarking, arXiv 1804.06826, chapter 4: 4 cycles for fp32 and integer arithmetic.
DEPENDENT_STEP_CYCLES = 4

# Thread blocks that share a multiprocessor [count]: 2048 resident threads (CUDA C++ Programming Guide 12, technical
# specifications of compute capability 8.0 and 9.0) in blocks of 256, what Triton's reductions use (PyTorch 2,
# torch/_inductor: 8 warps at most) and the middle of PyTorch's own 128 to 1024.
RESIDENT_BLOCKS = 8
# Share of a multiprocessor's registers that holds a group [1]; the other half are addresses, sums and results.
HELD_SHARE = 0.5


def held_group_bytes(buffer_bytes: float) -> float:
    """Largest group one thread block keeps in registers until it is seen whole [bytes]: buffer/2/blocks.

    A row of softmax belongs to one thread block; 16 KiB of the 256 KiB of a multiprocessor of A100 or H100.

    Args:
        buffer_bytes: registers of one multiprocessor [bytes].
    """
    return buffer_bytes * HELD_SHARE / RESIDENT_BLOCKS


@compiled("float64(float64, float64)")
def lane_cycles(simple_ops: float, special_ops: float) -> float:
    """Lane-cycles of arithmetic [cycles x lanes]: simple + 4·special."""
    return simple_ops + SPECIAL_OPERATION_CYCLES * special_ops


@compiled("float64(float64, float64, float64, int64, int64, int64, float64)")
def vector_cycles(
    simple_ops: float,
    special_ops: float,
    moved_bytes: float,
    reduces: int,
    serial_steps: int,
    lanes: int,
    port_bytes: float,
) -> float:
    """Cycles of lane work on `lanes` lanes, of one core or of several together [cycles].

    ceil(max(simple + 4·special, moved/port)/w) + 4·serial_steps, and where results are reduced across lanes a tree of
    ceil(log2 w) dependent steps of 4 cycles on top. w is the number of lanes used: all, or a power of two below where
    the shorter tree saves more than the lanes do.

    Args:
        simple_ops, special_ops: lane operations.
        moved_bytes: between SRAM and the lanes, in and out [bytes].
        reduces: 1 where results are reduced across lanes.
        serial_steps: steps that wait for one another.
        lanes: lanes of all cores used.
        port_bytes: what the port to SRAM moves per lane and cycle [bytes] (hardware.buffers).
    """
    if simple_ops + special_ops + moved_bytes == 0.0 and serial_steps == 0:
        return 0.0
    work = max(lane_cycles(simple_ops, special_ops), moved_bytes / port_bytes)
    serial = float(DEPENDENT_STEP_CYCLES) * serial_steps
    if reduces == 0:
        return max(1.0, float(np.ceil(work / lanes)) + serial)
    depth = 0
    width = 1
    best = np.inf
    while width < lanes:
        best = min(best, float(np.ceil(work / width)) + DEPENDENT_STEP_CYCLES * depth)
        width *= 2
        depth += 1
    return max(1.0, min(best, float(np.ceil(work / lanes)) + DEPENDENT_STEP_CYCLES * depth) + serial)


@compiled(
    "void(float64[::1], float64[::1], float64[::1], int64[::1], int64[::1], int64, float64, int64[::1],"
    " float64[:, ::1])"
)
def vector_table(
    simple_ops: Floats,
    special_ops: Floats,
    moved_bytes: Floats,
    reduces: Ints,
    serial_steps: Ints,
    lanes: int,
    port_bytes: float,
    cores: Ints,
    cycles: Floats,
) -> None:
    """Cycles of the lane work of [U] items on each of [J] numbers of cores of `lanes` lanes, into `cycles` [U, J]."""
    for u in range(len(simple_ops)):
        for j in range(len(cores)):
            cycles[u, j] = vector_cycles(
                simple_ops[u],
                special_ops[u],
                moved_bytes[u],
                reduces[u],
                serial_steps[u],
                lanes * cores[j],
                port_bytes,
            )
