"""Many designs as a struct of arrays, for area, power and search over millions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worklode.hardware.accelerator import Accelerator


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DesignArrays:
    """D designs: the searched fields of `Accelerator` as arrays [D], the others shared by all.

    Has the names of `Accelerator`, so `area_parts` and `tdp_parts` take either. The arrays may also be an open mesh
    (`DesignSpace.mesh`): one axis per searched field, so that parts stay as small as what they depend on.
    """

    num_tensor_cores: NDArray[np.int64]
    tensor_core_rows: NDArray[np.int64]
    tensor_core_cols: NDArray[np.int64]
    num_vector_cores: NDArray[np.int64]
    vector_lanes: NDArray[np.int64]
    sram_bytes: NDArray[np.int64]
    hbm_stacks: NDArray[np.int64]
    hbm_stack_bytes: int
    hbm_stack_bytes_per_s: float
    clock_hz: float
    node_nm: int
    mac_dtype: str
    tensor_core_buffer_bytes: int | None
    vector_core_buffer_bytes: int | None
    num_links: int
    link_bytes_per_s: float
    family: str
    spare_fraction: float
    provisioned_activity: float
    clock_share: float = 1.0
    hbm_share: float = 1.0
    operator_start_s: float = 0.0
    operator_fill_s: float = 0.0

    def __len__(self) -> int:
        return len(self.num_tensor_cores)

    def take(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> DesignArrays:
        """The designs at `indices` (positions, or a mask)."""
        chosen: dict[str, Any] = {name: getattr(self, name)[indices] for name in SEARCHED_FIELDS}
        return replace(self, **chosen)

    def accelerator(self, index: int, name: str = "") -> Accelerator:
        """Design `index` as a record."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values.update({searched: int(values[searched][index]) for searched in SEARCHED_FIELDS})
        return Accelerator(name=name, **values)

    @classmethod
    def from_accelerators(cls, accelerators: Sequence[Accelerator]) -> DesignArrays:
        """Arrays of accelerators that agree in every field that is not searched."""
        assert accelerators, "no designs"
        columns: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(accelerator, field.name) for accelerator in accelerators]
            if field.name in SEARCHED_FIELDS:
                columns[field.name] = np.array(values, dtype=np.int64)
            else:
                assert all(value == values[0] for value in values), f"{field.name} differs"
                columns[field.name] = values[0]
        return cls(**columns)


SEARCHED_FIELDS = (
    "tensor_core_rows",
    "tensor_core_cols",
    "vector_lanes",
    "num_tensor_cores",
    "num_vector_cores",
    "sram_bytes",
    "hbm_stacks",
)
"""Fields of `Accelerator` that a search chooses, in the order of a space's indices: shapes first, counts, memories."""
