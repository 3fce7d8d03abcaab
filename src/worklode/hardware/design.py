"""What area and power need of a design: one `Accelerator`, or millions of them as arrays of the same names."""

from __future__ import annotations

from typing import Any, Protocol

OPERAND_BYTES = {"int8": 1, "float8": 1, "bfloat16": 2, "float16": 2, "float32": 4}
"""Element types of the multipliers and their size [bytes]."""

ACCUMULATOR_BYTES = 4
"""Products accumulate in 32 bits [bytes]."""

LANE_BYTES = 4
"""A vector lane works on 32-bit words [bytes]."""

FAMILIES = ("systolic", "simt", "embedded")
"""How cores are built; see `Accelerator.family`."""


class Design(Protocol):
    """The fields of `Accelerator` that decide area and power, each a number or an array of one number per design.

    Node, element type, family, spare fraction and activity are those of the whole set of designs.
    """

    @property
    def num_tensor_cores(self) -> Any: ...  # noqa: D102
    @property
    def tensor_core_rows(self) -> Any: ...  # noqa: D102
    @property
    def tensor_core_cols(self) -> Any: ...  # noqa: D102
    @property
    def num_vector_cores(self) -> Any: ...  # noqa: D102
    @property
    def vector_lanes(self) -> Any: ...  # noqa: D102
    @property
    def sram_bytes(self) -> Any: ...  # noqa: D102
    @property
    def hbm_stacks(self) -> Any: ...  # noqa: D102
    @property
    def hbm_stack_bytes_per_s(self) -> Any: ...  # noqa: D102
    @property
    def tensor_core_buffer_bytes(self) -> Any: ...  # noqa: D102
    @property
    def vector_core_buffer_bytes(self) -> Any: ...  # noqa: D102
    @property
    def num_links(self) -> Any: ...  # noqa: D102
    @property
    def link_bytes_per_s(self) -> Any: ...  # noqa: D102
    @property
    def clock_hz(self) -> Any: ...  # noqa: D102
    @property
    def node_nm(self) -> int: ...  # noqa: D102
    @property
    def mac_dtype(self) -> str: ...  # noqa: D102
    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def spare_fraction(self) -> float: ...  # noqa: D102
    @property
    def provisioned_activity(self) -> float: ...  # noqa: D102
    @property
    def clock_share(self) -> float: ...  # noqa: D102
