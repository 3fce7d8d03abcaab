"""What the measured programs really ran, where that is not the operator as captured (docs/models/vector_core.md).

Their sources are public: counts, passes and blocks below are read from them. The chip's own behaviour (how lanes,
registers and transfers make a time of it) is the cost model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from worklode.cost.vector_core import DEPENDENT_STEP_CYCLES
from worklode.graph.work import Work, WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.validation import operators

# What the program of LLMCompass (PrincetonUniversity/LLMCompass, hardware_model/compute_module.py) states that a call
# takes beyond its kernel on A100 [s]: an eager softmax, and LayerNorm and GELU compiled by PyTorch 2.0.
STATED_HARNESS_S: Mapping[str, float] = {"softmax": 12e-6, "layernorm": 45e-6, "gelu": 45e-6}
# Rows of at most so many elements are kept in registers by PyTorch's softmax, one warp each [elements]
# (aten/src/ATen/native/cuda/PersistentSoftmax.cuh).
PERSISTENT_SOFTMAX_ELEMENTS = 1024
# Most threads of a block and of a multiprocessor, threads of a warp, warps that issue in one cycle [count]. Source:
# CUDA C++ Programming Guide 12, technical specifications of compute capability 8.0 and 9.0.
MOST_BLOCK_THREADS, RESIDENT_THREADS, WARP_THREADS, SCHEDULERS = 1024, 2048, 32, 4
# Share of the L2 cache in which a tensor survives until the next kernel reads it [1]; the other half takes what that
# kernel writes meanwhile. Assumption, as `cost.traffic.TILE_SHARE`.
L2_SHARE = 0.5


def eager_softmax(rows: int, cols: int, dtype: str = "float16") -> WorkItem:
    """PyTorch's softmax kernels: every element is divided, and in long rows its exponential is computed twice.

    Source: SoftMax.cu of PyTorch (SumExpFloat, SoftMaxForwardEpilogue: exp(x - max)/sum) and PersistentSoftmax.cuh.
    """
    item, elements = operators.softmax(rows, cols, dtype), rows * cols
    again = int(cols > PERSISTENT_SOFTMAX_ELEMENTS)
    # maximum, subtract, exp, sum, divide; subtract and exp again
    work = replace(item.work, simple_ops=(3 + again) * elements, special_ops=(2 + again) * elements)
    return replace(item, work=work)


def tanh_gelu(elements: int, dtype: str = "float16") -> WorkItem:
    """GELU by tanh, as LLMCompass calls it (software_model/gelu.py)."""
    x = operators.tensor(elements, dtype=dtype)
    return operators.call_item("gelu.default", (x,), (x,), (("approximate", "tanh"),))


# --------------------------------------------------------------------------- one row a thread block, an element a step


# Cycles until a load returns from shared memory, the L2 cache, HBM [cycles]. Source: Luo et al., Benchmarking and
# Dissecting the Nvidia Hopper GPU Architecture, arXiv 2402.13499, table of memory latencies; A100 and H100 differ by
# less than 3 %. Rounded, since quoted from memory.
SHARED_LATENCY, L2_LATENCY, HBM_LATENCY = 30.0, 260.0, 470.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop in which each thread of a block handles one element a step and waits for its load.

    Attributes:
        elements: of the row that one thread each handles in turn.
        instructions: of one step of one warp.
        latency: of the load, the slowest where there are several [cycles].
    """

    elements: int
    instructions: int
    latency: float


def block_cycles(loops: tuple[Loop, ...], threads: int, blocks: int) -> float:
    """Cycles in which a multiprocessor finishes `blocks` blocks of `threads` threads that run at once [cycles].

    sum over loops of ceil(elements/threads) · (latency + max(W, 4) · instructions) with W warps a scheduler: all warps
    ask, wait, and then issue in turn; a warp alone may issue every 4 cycles, since its instructions wait for one
    another.
    """
    warps = -(-threads // WARP_THREADS) * blocks / SCHEDULERS
    issue = max(warps, float(DEPENDENT_STEP_CYCLES))
    return sum(-(-loop.elements // threads) * (loop.latency + issue * loop.instructions) for loop in loops)


def rows_by_block(
    item: WorkItem, loops: tuple[Loop, ...], rows: int, most_threads: int, warm_bytes: int, accelerator: Accelerator
) -> WorkItem:
    """A kernel that gives each row to one thread block, as work that waits so long.

    A multiprocessor has ceil(rows/multiprocessors) rows, as many at once as fit 2048 threads. The steps wait for one
    another, so they are dependent steps of the lanes and hold their time whatever the number of lanes.

    Args:
        item: the operator.
        loops: what a block does with a row.
        rows: rows.
        most_threads: threads of a block; fewer where the row is shorter.
        warm_bytes: of the input that is still in the L2 cache [bytes].
        accelerator: the chip.
    """
    threads = min(max(loop.elements for loop in loops), most_threads)
    at_once = RESIDENT_THREADS // threads
    waves, rest = divmod(-(-rows // accelerator.num_vector_cores), at_once)
    cycles = waves * block_cycles(loops, threads, at_once) + (block_cycles(loops, threads, rest) if rest else 0.0)
    work = Work(serial_steps=round(cycles / DEPENDENT_STEP_CYCLES), reduction_bytes=item.work.reduction_bytes)
    return replace(item, work=work, read_bytes=item.read_bytes - warm_bytes)


def _warm_bytes(size: int, accelerator: Accelerator) -> int:
    """Bytes of a tensor of that size that the kernel before left in the L2 cache: all or none [bytes]."""
    return size if size <= accelerator.sram_bytes * L2_SHARE else 0


# Instructions of one step below: counted in the code NVRTC 12.1 makes of the kernels of microsoft/sarathi-serve
# (csrc/, taken from vLLM) for compute capability 8.0, where none of the loops is unrolled; 9.0 differs by one.
RMS_SQUARES, RMS_REDUCTION, RMS_RESULTS, SILU, ROTARY = 9, 61, 15, 43, 49


def serving_rms_norm(rows: int, cols: int, accelerator: Accelerator) -> WorkItem:
    """rms_norm_kernel of vLLM: a pass for the sum of squares, a sum over the block, a pass for the results."""
    item = operators.rms_norm(rows, cols)
    warm = _warm_bytes(2 * rows * cols, accelerator)
    loops = (
        Loop(elements=cols, instructions=RMS_SQUARES, latency=L2_LATENCY if warm else HBM_LATENCY),
        Loop(elements=1, instructions=RMS_REDUCTION, latency=2 * SHARED_LATENCY),
        Loop(elements=cols, instructions=RMS_RESULTS, latency=L2_LATENCY),
    )
    return rows_by_block(item, loops, rows, MOST_BLOCK_THREADS, warm, accelerator)


def serving_silu_and_multiply(rows: int, cols: int, accelerator: Accelerator) -> WorkItem:
    """silu_and_mul_kernel of vLLM: both inputs in one matrix that a product has just written."""
    item = operators.silu_and_multiply(rows * cols)
    warm = _warm_bytes(2 * 2 * rows * cols, accelerator)
    loops = (Loop(elements=cols, instructions=SILU, latency=L2_LATENCY if warm else HBM_LATENCY),)
    return rows_by_block(item, loops, rows, MOST_BLOCK_THREADS, warm, accelerator)


def serving_rotary(rows: int, cols: int, accelerator: Accelerator) -> WorkItem:
    """rotary_embedding_kernel of vLLM: Q and K in place, a pair of elements a step, blocks of 512 threads."""
    item = operators.rotary(rows * cols)
    warm = _warm_bytes(2 * rows * cols, accelerator)
    loops = (Loop(elements=cols // 2, instructions=ROTARY, latency=L2_LATENCY if warm else HBM_LATENCY),)
    return rows_by_block(item, loops, rows, MOST_BLOCK_THREADS // 2, warm, accelerator)


def serving_add(rows: int, cols: int, accelerator: Accelerator) -> WorkItem:
    """Sum of a residual and what a product has just written, PyTorch's own kernel."""
    item = operators.add(rows * cols)
    return replace(item, read_bytes=item.read_bytes - _warm_bytes(2 * rows * cols, accelerator))
