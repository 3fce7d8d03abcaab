"""Kernels of measured programs: worked by hand, and against a multiprocessor simulated step by step."""

from __future__ import annotations

import heapq
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.hardware.presets import load_preset
from worklode.validation import measured_kernels as kernels
from worklode.validation import operators
from worklode.validation.measured_kernels import Loop, block_cycles

A100 = load_preset("a100-80gb")


def test_softmax_of_long_rows_computes_exponentials_twice() -> None:
    short, longer = kernels.eager_softmax(10, 1024), kernels.eager_softmax(10, 1025)
    assert (short.work.simple_ops, short.work.special_ops) == (3 * 10240, 2 * 10240)
    assert (longer.work.simple_ops, longer.work.special_ops) == (4 * 10250, 3 * 10250)
    captured = operators.softmax(10, 1025)
    assert longer.work.reduction_bytes == captured.work.reduction_bytes == 2050
    assert (longer.read_bytes, longer.write_bytes) == (captured.read_bytes, captured.write_bytes)


def test_gelu_by_tanh_has_more_operations() -> None:
    assert kernels.tanh_gelu(100).work.simple_ops == 7 * 100
    assert operators.gelu(100).work.simple_ops == 4 * 100


def test_cycles_of_a_block_by_hand() -> None:
    loops = (Loop(elements=2049, instructions=10, latency=260.0), Loop(elements=1, instructions=60, latency=30.0))
    # 32 warps on four schedulers: three steps, then one.
    assert block_cycles(loops, 1024, 1) == 3 * (260 + 8 * 10) + (30 + 8 * 60)
    assert block_cycles(loops, 1024, 2) == 3 * (260 + 16 * 10) + (30 + 16 * 60)
    # Two warps: an instruction every four cycles.
    assert block_cycles((loops[1],), 64, 1) == 30 + 4 * 60


def test_rows_take_turns_on_a_multiprocessor() -> None:
    loops = (Loop(elements=1024, instructions=10, latency=260.0),)
    item = operators.rms_norm(5 * 108, 1024)

    def cycles(rows: int) -> float:
        made = kernels.rows_by_block(item, loops, rows, 1024, 0, A100)
        assert (made.read_bytes, made.write_bytes) == (item.read_bytes, item.write_bytes)
        return 4.0 * made.work.serial_steps

    two, one = 260 + 16 * 10, 260 + 8 * 10
    assert cycles(1) == cycles(108) == one
    assert cycles(109) == cycles(216) == two
    assert cycles(217) == two + one
    assert cycles(5 * 108) == 2 * two + one


def test_what_is_still_in_the_cache_is_not_read_from_hbm() -> None:
    rows = 1024
    silu = kernels.serving_silu_and_multiply
    for made, plain, warm in (
        (kernels.serving_rms_norm(rows, 8192, A100), operators.rms_norm(rows, 8192), 2 * rows * 8192),
        (
            kernels.serving_silu_and_multiply(rows, 3584, A100),
            operators.silu_and_multiply(rows * 3584),
            4 * rows * 3584,
        ),
        (kernels.serving_rotary(rows, 5120, A100), operators.rotary(rows * 5120), 2 * rows * 5120),
        (kernels.serving_add(rows, 8192, A100), operators.add(rows * 8192), 2 * rows * 8192),
    ):
        assert warm <= A100.sram_bytes / 2
        assert made.read_bytes == plain.read_bytes - warm >= 0
        assert made.write_bytes == plain.write_bytes
    assert kernels.serving_rms_norm(2048, 8192, A100).read_bytes == operators.rms_norm(2048, 8192).read_bytes
    # Then loads wait for HBM instead of the cache.
    small = replace(A100, sram_bytes=2**18)
    assert 4 * (silu(108, 1024, small).work.serial_steps - silu(108, 1024, A100).work.serial_steps) == pytest.approx(
        470 - 260, abs=4
    )


def simulated_cycles(loops: tuple[Loop, ...], threads: int, blocks: int) -> float:
    """A scheduler that issues one instruction a cycle, from the warp that has been ready longest; barriers at steps.

    A warp waits for its load, then needs four cycles between instructions. Warps of a step start together.
    """
    total = 0.0
    warps = -(-threads // 32) * blocks // 4
    for loop in loops:
        for _ in range(-(-loop.elements // threads)):
            ready = [(loop.latency, warp, 0) for warp in range(warps)]
            heapq.heapify(ready)
            clock = end = 0.0
            while ready:
                at, warp, issued = heapq.heappop(ready)
                clock = max(clock + 1.0, at)
                if issued + 1 < loop.instructions:
                    heapq.heappush(ready, (clock + 4.0, warp, issued + 1))
                end = max(end, clock + 1.0)
            total += end
    return total


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 60), st.floats(0, 600)), min_size=1, max_size=3),
    st.sampled_from([128, 256, 512, 1024]),
    st.integers(1, 2),
)
def test_cycles_of_a_block_against_a_simulated_scheduler(
    drawn: list[tuple[int, int, float]], threads: int, blocks: int
) -> None:
    loops = tuple(Loop(elements=e, instructions=i, latency=t) for e, i, t in drawn)
    steps = sum(-(-loop.elements // threads) for loop in loops)
    found, oracle = block_cycles(loops, threads, blocks), simulated_cycles(loops, threads, blocks)
    # The last instruction need not be followed by four cycles; the first starts at a whole cycle.
    assert found == pytest.approx(oracle, abs=5.0 * steps)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 300), st.sampled_from(["a100-80gb", "h100"]))
def test_more_rows_or_longer_ones_never_take_fewer_steps(rows: int, more: int, preset: str) -> None:
    chip = load_preset(preset)
    made = [kernels.serving_rms_norm(count, 8192, chip) for count in (rows, rows + more)]
    assert made[0].work.serial_steps <= made[1].work.serial_steps
    # Rows in the cache against rows beyond it would compare two latencies, so the width is varied far below its size.
    wide = [kernels.serving_rotary(16, 512 + 2 * width, chip).work.serial_steps for width in (rows, rows + more)]
    assert wide[0] <= wide[1]
