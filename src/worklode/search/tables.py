"""What designs of a grid have in common, computed once: figures of every work item per core shape, lanes, SRAM size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.search.evaluate import Evaluator
from worklode.search.grid import COLS, HBM, LANES, ROWS, SRAM, TENSOR_CORES, VECTOR_CORES, Floats, Grid, Points


class Table:
    """Rows of figures of U items, one for every key asked for so far."""

    def __init__(self, items: int, make: Callable[[int], Floats]) -> None:
        self.make = make
        self.row_of: dict[int, int] = {}
        self.rows = np.empty((0, items))

    def index(self, keys: Points) -> Points:
        """[D] row of each key; missing rows are made."""
        distinct, of = np.unique(keys, return_inverse=True)
        missing = [int(key) for key in distinct if int(key) not in self.row_of]
        if missing:
            start = len(self.rows)
            self.rows = np.concatenate([self.rows, np.stack([self.make(key) for key in missing])])
            self.row_of.update((key, start + offset) for offset, key in enumerate(missing))
        return np.array([self.row_of[int(key)] for key in distinct], np.int64)[of.reshape(-1)]


class WorkloadTables:
    """Tables of one workload over a grid.

    Attributes:
        shapes: core-seconds of the products on one tensor core, by shape.
        widths, alone: core-seconds on one vector core, beside products and computing them, by number of lanes.
        sizes: HBM bytes with all of an SRAM of this size.
        grown_shapes: least time of the products on all tensor cores, by shape and number.
        grown_widths, grown_alone: least time on all vector cores, by number of lanes and of cores.
    """

    def __init__(self, evaluator: Evaluator, grid: Grid) -> None:
        self.evaluator = evaluator
        self.grid = grid
        self.template: Accelerator = grid.accelerator((0,) * len(grid.axes))
        items = len(evaluator.arrays.items)
        model = evaluator.model
        self.shapes = Table(items, lambda key: model.one_tensor_core_s(self._shape(key)))
        self.widths = Table(items, lambda key: model.one_vector_core_s(self._width(key)))
        self.alone = Table(items, lambda key: model.lanes_alone_s(self._width(key)))
        self.sizes = Table(items, lambda key: model.item_hbm_bytes(int(grid.axes[SRAM][key])))
        self.grown_shapes = Table(items, self._grown_shape)
        self.grown_widths = Table(items, lambda key: model.all_vector_cores_s(self._grown_width(key)))
        self.grown_alone = Table(items, lambda key: model.all_lanes_alone_s(self._grown_width(key)))

    def shape_rows(self, points: Points) -> Points:
        """[D] rows of `shapes`."""
        return self.shapes.index(points[:, ROWS] * len(self.grid.axes[COLS]) + points[:, COLS])

    def width_rows(self, points: Points) -> Points:
        """[D] rows of `widths` and of `alone`."""
        rows = self.widths.index(points[:, LANES])
        self.alone.index(points[:, LANES])  # filled by the same keys, so its rows are those of `widths`
        return rows

    def size_rows(self, points: Points) -> Points:
        """[D] rows of `sizes`."""
        return self.sizes.index(points[:, SRAM])

    def grown_shape_rows(self, points: Points) -> Points:
        """[D] rows of `grown_shapes`."""
        shape = points[:, ROWS] * len(self.grid.axes[COLS]) + points[:, COLS]
        return self.grown_shapes.index(shape * len(self.grid.axes[TENSOR_CORES]) + points[:, TENSOR_CORES])

    def grown_width_rows(self, points: Points) -> Points:
        """[D] rows of `grown_widths` and of `grown_alone`."""
        keys = points[:, LANES] * len(self.grid.axes[VECTOR_CORES]) + points[:, VECTOR_CORES]
        rows = self.grown_widths.index(keys)
        self.grown_alone.index(keys)
        return rows

    def tensor_cores(self, points: Points) -> Floats:
        """[D] tensor cores."""
        return self.grid.axes[TENSOR_CORES][points[:, TENSOR_CORES]].astype(np.float64)

    def vector_cores(self, points: Points) -> Floats:
        """[D] vector cores."""
        return self.grid.axes[VECTOR_CORES][points[:, VECTOR_CORES]].astype(np.float64)

    def hbm_bytes_per_s(self, points: Points) -> Floats:
        """[D] sustained HBM bandwidth [bytes/s]."""
        stack_bytes_per_s = self.template.hbm_stack_bytes_per_s * self.template.hbm_share
        return self.grid.axes[HBM][points[:, HBM]].astype(np.float64) * stack_bytes_per_s

    def _shape(self, key: int) -> Accelerator:
        row, col = divmod(key, len(self.grid.axes[COLS]))
        rows, cols = int(self.grid.axes[ROWS][row]), int(self.grid.axes[COLS][col])
        return replace(self.template, tensor_core_rows=rows, tensor_core_cols=cols)

    def _grown_shape(self, key: int) -> Floats:
        shape, count = divmod(key, len(self.grid.axes[TENSOR_CORES]))
        cores = self.grid.axes[TENSOR_CORES]
        # The largest number first: the cost model then splits the products for all smaller ones too.
        self.evaluator.model.all_tensor_cores_s(replace(self._shape(shape), num_tensor_cores=int(cores[-1])))
        return self.evaluator.model.all_tensor_cores_s(replace(self._shape(shape), num_tensor_cores=int(cores[count])))

    def _width(self, key: int) -> Accelerator:
        return replace(self.template, vector_lanes=int(self.grid.axes[LANES][key]))

    def _grown_width(self, key: int) -> Accelerator:
        lanes, count = divmod(key, len(self.grid.axes[VECTOR_CORES]))
        return replace(self._width(lanes), num_vector_cores=int(self.grid.axes[VECTOR_CORES][count]))
