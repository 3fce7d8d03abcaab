"""What designs of a grid have in common, computed once: figures of every work item per core shape, lanes, SRAM size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from worklode.cost.tensor_core import MOST_CORES
from worklode.hardware.accelerator import Accelerator
from worklode.search.evaluate import Evaluator
from worklode.search.grid import COLS, HBM, LANES, ROWS, SRAM, TENSOR_CORES, VECTOR_CORES, Floats, Grid, Points

# Above any size of SRAM [bytes]: 2^50 = 1 PiB, so that lanes and size make one key.
LARGEST_SIZE = 2**50


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
        lane_sizes: the same by number of lanes too: vector cores hold groups in their registers.
        holds_tensor, holds_vector: [U] items every option of which holds such a core.
        grown_shapes: least time of the products, by shape and number of tensor cores.
        ladders: numbers of cores an operator may take.
        grown_widths, grown_alone: least time on all vector cores, by number of lanes and of cores.
        exchanging_s: [U] time of the items that are collectives, 0 for others [s].
    """

    def __init__(self, evaluator: Evaluator, grid: Grid) -> None:
        self.evaluator = evaluator
        self.grid = grid
        self.template: Accelerator = grid.accelerator((0,) * len(grid.axes))
        self._work_times_s: tuple[Floats, Floats, Floats] | None = None
        self._split_shapes: dict[int, Accelerator] = {}
        items = len(evaluator.arrays.items)
        model = evaluator.model
        self.exchanging_s = model.exchanging_s(evaluator.communication_s)
        self.holds_tensor, self.holds_vector = model.held_cores
        self._sizes = np.array([model.sram_size(int(size)) for size in grid.axes[SRAM]], np.int64)
        self.shapes = Table(items, lambda key: model.one_tensor_core_s(self._shape(key)))
        self.widths = Table(items, lambda key: model.one_vector_core_s(self._width(key)))
        self.alone = Table(items, lambda key: model.lanes_alone_s(self._width(key)))
        # Keys are sizes [bytes] and numbers of cores, not indices: shares of SRAM and cores are looked up too.
        self.sizes = Table(items, model.item_hbm_bytes)
        self.lane_sizes = Table(items, self._lane_size)
        # Where registers do not matter, all numbers of lanes share the rows of the first.
        self.lanes_held = self.template.family == "simt"
        self.grown_shapes = Table(items, self._grown_shape)
        self.ladders = _Ladders(self)
        self.grown_widths = Table(items, lambda key: model.all_vector_cores_s(self._grown_width(key)))
        self.grown_alone = Table(items, lambda key: model.all_lanes_alone_s(self._grown_width(key)))

    @property
    def options_per_design(self) -> int:
        """About how many options all items of a design have [count]."""
        longest = int(np.diff(self.ladders.start).max()) + int(np.diff(self.ladders.vector_start).max())
        return len(self.evaluator.arrays.items) * longest

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
        return self.sizes.index(self._sizes[points[:, SRAM]])

    def lane_size_rows(self, points: Points) -> Points:
        """[D] rows of `lane_sizes`."""
        return self.lane_sizes.index(self.lane_size_keys(points[:, LANES], self._sizes[points[:, SRAM]]))

    def lane_size_keys(self, lanes: Points, sizes: Points) -> Points:
        """Keys of `lane_sizes` for indices of lanes and sizes [bytes]."""
        return (lanes if self.lanes_held else np.zeros_like(lanes)) * LARGEST_SIZE + sizes

    def grown_shape_rows(self, points: Points) -> Points:
        """[D] rows of `grown_shapes`."""
        shape = points[:, ROWS] * len(self.grid.axes[COLS]) + points[:, COLS]
        return self.grown_shapes.index(shape * MOST_CORES + self.grid.axes[TENSOR_CORES][points[:, TENSOR_CORES]])

    def grown_width_rows(self, points: Points) -> Points:
        """[D] rows of `grown_widths` and of `grown_alone`."""
        keys = points[:, LANES] * len(self.grid.axes[VECTOR_CORES]) + points[:, VECTOR_CORES]
        rows = self.grown_widths.index(keys)
        self.grown_alone.index(keys)
        return rows

    def ladder_rows(self, points: Points) -> tuple[Points, Points]:
        """[D] index of the core shape, and [shapes, L] rows of `grown_shapes` for every entry of the ladders."""
        shapes, of = np.unique(points[:, ROWS] * len(self.grid.axes[COLS]) + points[:, COLS], return_inverse=True)
        keys = shapes[:, None] * MOST_CORES + self.ladders.cores[None, :]
        return of.reshape(-1).astype(np.int64), self.grown_shapes.index(keys.ravel()).reshape(keys.shape)

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

    def work_times_s(self, rows: slice = slice(None)) -> Floats:
        """Least iteration times by the work of each resource alone, of all designs as the mesh of the space [s].

        `rows` is a part of the mesh along its first axis.
        """
        if self._work_times_s is None:
            self._work_times_s = self._work_times()
        tensor, vector, traffic = self._work_times_s
        time_s = np.maximum(tensor[rows, :, None, :, None, None, None], vector[None, None, :, None, :, None, None])
        return np.maximum(time_s, traffic[None, None, None, None, None, :, :])

    def _work_times(self) -> tuple[Floats, Floats, Floats]:
        """[rows, columns, tensor cores], [lanes, vector cores] and [SRAM, stacks] times by one resource [s]."""
        count = self.evaluator.item_counts
        rows, cols, lanes, cores, vectors, sram, stacks = (np.arange(len(axis)) for axis in self.grid.axes)
        axes = len(self.grid.axes)
        shape = np.zeros((len(rows) * len(cols), axes), np.int64)
        shape[:, ROWS], shape[:, COLS] = np.repeat(rows, len(cols)), np.tile(cols, len(rows))
        # Asking for rows makes those that are missing, so the tables are read after it.
        shape_of, width_of = self.shape_rows(shape), self.width_rows(_along(LANES, lanes, axes))
        size_of = self.size_rows(_along(SRAM, sram, axes))
        tensor = (self.shapes.rows[shape_of] * self.holds_tensor) @ count
        vector = (self.widths.rows[width_of] * self.holds_vector) @ count
        traffic = self.sizes.rows[size_of] @ count
        num_tensor = self.tensor_cores(_along(TENSOR_CORES, cores, axes))
        num_vector = self.vector_cores(_along(VECTOR_CORES, vectors, axes))
        bandwidth = self.hbm_bytes_per_s(_along(HBM, stacks, axes))
        return (
            tensor.reshape(len(rows), len(cols))[:, :, None] / num_tensor,
            vector[:, None] / num_vector,
            traffic[:, None] / bandwidth,
        )

    def _shape(self, key: int) -> Accelerator:
        row, col = divmod(key, len(self.grid.axes[COLS]))
        rows, cols = int(self.grid.axes[ROWS][row]), int(self.grid.axes[COLS][col])
        return replace(self.template, tensor_core_rows=rows, tensor_core_cols=cols)

    def _lane_size(self, key: int) -> Floats:
        lanes, size = divmod(key, LARGEST_SIZE)
        return self.evaluator.model.item_hbm_bytes_beside(size, self._width(lanes))

    def _grown_shape(self, key: int) -> Floats:
        shape, cores = divmod(key, MOST_CORES)
        model = self.evaluator.model
        if shape not in self._split_shapes:
            # The largest number first: the cost model then splits the products for all smaller ones too.
            largest = replace(self._shape(shape), num_tensor_cores=int(self.grid.axes[TENSOR_CORES][-1]))
            model.all_tensor_cores_s(largest)
            self._split_shapes[shape] = largest
        return model.all_tensor_cores_s(replace(self._split_shapes[shape], num_tensor_cores=cores))

    def _width(self, key: int) -> Accelerator:
        return replace(self.template, vector_lanes=int(self.grid.axes[LANES][key]))

    def _grown_width(self, key: int) -> Accelerator:
        lanes, count = divmod(key, len(self.grid.axes[VECTOR_CORES]))
        return replace(self._width(lanes), num_vector_cores=int(self.grid.axes[VECTOR_CORES][count]))


class _Ladders:
    """Numbers of cores an operator may take on each number there is, and its share of each size of SRAM then.

    Attributes:
        start, cores: CSR over the numbers of tensor cores of the grid.
        size_row: [sizes, L] row of the table `sizes` for each entry of `cores`.
        vector_start, vector_cores, vector_size_row: the same for vector cores, with rows of the table `lane_sizes` for
            each number of lanes and size, [lanes · sizes, L].
    """

    def __init__(self, tables: WorkloadTables) -> None:
        grid = tables.grid
        self.start, self.cores, shares = self._shares_of(tables, grid.axes[TENSOR_CORES])
        self.size_row = tables.sizes.index(shares.ravel()).reshape(shares.shape)
        self.vector_start, self.vector_cores, shares = self._shares_of(tables, grid.axes[VECTOR_CORES])
        lanes = np.arange(len(grid.axes[LANES]))
        keys = tables.lane_size_keys(lanes[:, None, None], shares[None, :, :])
        self.vector_size_row = tables.lane_sizes.index(keys.ravel()).reshape(-1, shares.shape[1])

    @staticmethod
    def _shares_of(tables: WorkloadTables, numbers: Points) -> tuple[Points, Points, Points]:
        """CSR of the numbers of cores, and [sizes, L] the size of SRAM each has [bytes]."""
        model = tables.evaluator.model
        ladders = [model.core_counts(int(number)) for number in numbers]
        start = np.concatenate(([0], np.cumsum([len(ladder) for ladder in ladders]))).astype(np.int64)
        shares = [
            [
                model.sram_size(int(size) * cores // int(number))
                for number, ladder in zip(numbers, ladders, strict=True)
                for cores in ladder
            ]
            for size in tables.grid.axes[SRAM]
        ]
        cores = np.array([cores for ladder in ladders for cores in ladder], np.int64)
        return start, cores, np.array(shares, np.int64).reshape(len(shares), len(cores))


def _along(axis: int, values: Points, axes: int) -> Points:
    """Points that differ along one axis only."""
    points = np.zeros((len(values), axes), np.int64)
    points[:, axis] = values
    return points
