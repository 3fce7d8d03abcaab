"""Estimates of a set of workloads over a grid of designs: tables per core shape, lanes and SRAM, filled when asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from worklode.cost.model import exposes_transfers
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import (
    energy_per_mac_j,
    hbm_energy_per_byte_j,
    leakage_parts_w,
    operand_energy_per_cycle_j,
    sram_access_energy_per_byte_j,
)
from worklode.schedule.critical_path import critical_path
from worklode.search.estimate import serial_times
from worklode.search.evaluate import Evaluator
from worklode.search.grid import COLS, HBM, LANES, ROWS, SRAM, TENSOR_CORES, VECTOR_CORES, Floats, Grid, Points
from worklode.search.objective import Objective


class _Table:
    """Rows of figures per item, one for every key asked for so far."""

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


class _WorkloadEstimator:
    """Estimates of one workload."""

    def __init__(self, evaluator: Evaluator, grid: Grid) -> None:
        self.evaluator = evaluator
        self.grid = grid
        self.template: Accelerator = grid.accelerator((0,) * len(grid.axes))
        items = len(evaluator.arrays.items)
        self.shapes = _Table(items, self._tensor_core_s)
        self.widths = _Table(items, self._vector_core_s)
        self.alone = _Table(items, self._lanes_alone_s)
        self.sizes = _Table(items, self._hbm_bytes)
        self.on_path = self._path_counts()

    def times(self, points: Points) -> Floats:
        """[D] estimated iteration time [s]."""
        axes = self.grid.axes
        shape_of = self.shapes.index(points[:, ROWS] * len(axes[COLS]) + points[:, COLS])
        width_of = self.widths.index(points[:, LANES])
        self.alone.index(points[:, LANES])  # filled by the same keys, so its rows are those of `widths`
        size_of = self.sizes.index(points[:, SRAM])
        return serial_times(
            self.shapes.rows,
            self.widths.rows,
            self.alone.rows,
            self.sizes.rows,
            self.evaluator.item_counts,
            self.on_path,
            shape_of,
            width_of,
            size_of,
            axes[TENSOR_CORES][points[:, TENSOR_CORES]].astype(np.float64),
            axes[VECTOR_CORES][points[:, VECTOR_CORES]].astype(np.float64),
            axes[HBM][points[:, HBM]].astype(np.float64)
            * (self.template.hbm_stack_bytes_per_s * self.template.hbm_share),
            self.evaluator.mode == "split",
            exposes_transfers(self.template),
            self.template.operator_start_s,
        )

    def hbm_bytes(self, points: Points) -> Floats:
        """[D] HBM traffic of an iteration [bytes]."""
        index = self.sizes.index(points[:, SRAM])
        return np.asarray((self.sizes.rows @ self.evaluator.item_counts)[index])

    def _tensor_core_s(self, key: int) -> Floats:
        row, col = divmod(key, len(self.grid.axes[COLS]))
        design = replace(
            self.template,
            tensor_core_rows=int(self.grid.axes[ROWS][row]),
            tensor_core_cols=int(self.grid.axes[COLS][col]),
        )
        return self.evaluator.model.one_tensor_core_s(design)

    def _vector_core_s(self, key: int) -> Floats:
        return self.evaluator.model.one_vector_core_s(self._width(key))

    def _lanes_alone_s(self, key: int) -> Floats:
        return self.evaluator.model.lanes_alone_s(self._width(key))

    def _width(self, key: int) -> Accelerator:
        return replace(self.template, vector_lanes=int(self.grid.axes[LANES][key]))

    def _hbm_bytes(self, key: int) -> Floats:
        return self.evaluator.model.item_hbm_bytes(int(self.grid.axes[SRAM][key]))

    def _path_counts(self) -> Floats:
        """[U] operators of each item on the longest path of a middling design."""
        middle = self.grid.accelerator(tuple(int(length) // 2 for length in self.grid.lengths))
        step = self.evaluator.step(middle)
        items = step.problem.item_of
        duration_s = np.maximum(step.costs.compute_s, step.costs.hbm_bytes / step.problem.hbm_bytes_per_s)
        fastest = np.minimum.reduceat(duration_s, step.costs.option_start[:-1])
        path = list(critical_path(step.problem, fastest[items]).tasks)
        return np.bincount(items[path], minlength=len(self.evaluator.arrays.items)).astype(np.float64)


class Estimator:
    """Estimated objective of many designs for a weighted set of workloads."""

    def __init__(
        self, evaluators: Sequence[Evaluator], weights: Sequence[float], grid: Grid, objective: Objective
    ) -> None:
        self.grid = grid
        self.objective = objective
        self.weights = tuple(weights)
        self.workloads = tuple(_WorkloadEstimator(evaluator, grid) for evaluator in evaluators)

    def figures(self, points: Points, tdp_w: Floats) -> Floats:
        """[D] weighted geometric mean over the workloads of the estimated objective; smaller is better."""
        total = np.zeros(len(points))
        for workload, weight in zip(self.workloads, self.weights, strict=True):
            total += weight * np.log(self._figure(workload, points, tdp_w))
        return np.exp(total)

    def _figure(self, workload: _WorkloadEstimator, points: Points, tdp_w: Floats) -> Floats:
        times = workload.times(points)
        if self.objective is Objective.THROUGHPUT:
            return times
        if self.objective is Objective.THROUGHPUT_PER_TDP:
            return times * tdp_w
        energy = self._energy(workload, points, times)
        return energy if self.objective is Objective.ENERGY else energy * times

    def _energy(self, workload: _WorkloadEstimator, points: Points, times: Floats) -> Floats:
        """[D] energy of an iteration [J]; on-chip traffic as a full array would have it."""
        technology = self.grid.technology
        designs = self.grid.designs(points)
        macs = float(workload.evaluator.matrix_macs)
        stationary = designs.tensor_core_rows * designs.tensor_core_cols
        delivery = operand_energy_per_cycle_j(designs, technology) / stationary
        element_bytes = 2.0
        streamed = macs * element_bytes * (1.0 / designs.tensor_core_cols + 1.0 / designs.tensor_core_rows)
        on_chip = streamed * sram_access_energy_per_byte_j(designs, technology)
        hbm = workload.hbm_bytes(points) * hbm_energy_per_byte_j(technology, workload.template.hbm_stack_bytes_per_s)
        mac = energy_per_mac_j(technology, workload.template.node_nm, workload.template.mac_dtype)
        static_w = leakage_parts_w(designs, technology)
        return np.asarray(macs * (mac + delivery) + on_chip + hbm + static_w * times)
