"""Random designs for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.design import FAMILIES, OPERAND_BYTES


@st.composite
def accelerators(draw: st.DrawFn) -> Accelerator:
    """Any design the template admits, from one tiny core to a wafer's worth."""
    buffer = st.none() | st.integers(0, 2**24)
    return Accelerator(
        num_tensor_cores=draw(st.integers(1, 2000)),
        tensor_core_rows=draw(st.integers(1, 1024)),
        tensor_core_cols=draw(st.integers(1, 1024)),
        num_vector_cores=draw(st.integers(1, 2000)),
        vector_lanes=draw(st.integers(1, 8192)),
        sram_bytes=draw(st.integers(1, 2**36)),
        hbm_stacks=draw(st.integers(1, 16)),
        hbm_stack_bytes=2**33,
        hbm_stack_bytes_per_s=draw(st.floats(1e8, 5e12)),
        clock_hz=draw(st.floats(1e7, 5e9)),
        node_nm=draw(st.sampled_from([3, 4, 5, 6, 7, 10, 12, 14, 16, 20, 22, 28, 32, 45, 65, 90, 130])),
        mac_dtype=draw(st.sampled_from(sorted(OPERAND_BYTES))),
        tensor_core_buffer_bytes=draw(buffer),
        vector_core_buffer_bytes=draw(buffer),
        num_links=draw(st.integers(0, 32)),
        link_bytes_per_s=draw(st.floats(1e8, 1e12)),
        family=draw(st.sampled_from(FAMILIES)),
        spare_fraction=draw(st.floats(0, 1)),
        provisioned_activity=draw(st.floats(0.1, 1)),
    )
