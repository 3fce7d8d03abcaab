"""Lane work: rates, ports, trees, serial steps."""

from __future__ import annotations

import pytest

from worklode.cost.vector_core import DEPENDENT_STEP_CYCLES, lane_cycles, vector_cycles


def test_rates() -> None:
    assert lane_cycles(10.0, 5.0) == 30
    assert vector_cycles(1000.0, 0.0, 0.0, 0, 0, 10, 4.0) == 100
    assert vector_cycles(1001.0, 0.0, 0.0, 0, 0, 10, 4.0) == 101
    assert vector_cycles(0.0, 1000.0, 0.0, 0, 0, 10, 4.0) == 400


def test_the_port_bounds_what_streams() -> None:
    assert vector_cycles(100.0, 0.0, 4000.0, 0, 0, 10, 4.0) == 100
    assert vector_cycles(100.0, 0.0, 4000.0, 0, 0, 10, 8.0) == 50


def test_serial_steps_do_not_shrink_with_lanes() -> None:
    for lanes in (1, 128, 4096):
        assert vector_cycles(0.0, 0.0, 0.0, 0, 7, lanes, 4.0) == 7 * DEPENDENT_STEP_CYCLES


def test_no_work_takes_no_time() -> None:
    assert vector_cycles(0.0, 0.0, 0.0, 0, 0, 8, 4.0) == 0
    assert vector_cycles(1.0, 0.0, 0.0, 0, 0, 1024, 4.0) == 1


@pytest.mark.parametrize("work", [1.0, 100.0, 5000.0, 1e6])
def test_a_reduction_uses_as_many_lanes_as_pay(work: float) -> None:
    def at(width: int) -> float:
        return -(-work // width) + DEPENDENT_STEP_CYCLES * (width - 1).bit_length()

    for lanes in (1, 3, 64, 100, 4096):
        best = min(at(width) for width in range(1, lanes + 1))
        assert vector_cycles(work, 0.0, 0.0, 1, 0, lanes, 4.0) == max(1, best)
