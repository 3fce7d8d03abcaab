"""Estimates of a set of workloads over a grid of designs: tables per core shape, lanes and SRAM, filled when asked."""

from __future__ import annotations

from collections.abc import Sequence

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
from worklode.search.aggregate import Aggregate, aggregate_of
from worklode.search.estimate import serial_times
from worklode.search.evaluate import Evaluator
from worklode.search.grid import Floats, Grid, Points
from worklode.search.objective import Objective
from worklode.search.tables import WorkloadTables


class _WorkloadEstimator:
    """Estimates of one workload."""

    def __init__(self, tables: WorkloadTables) -> None:
        self.tables = tables
        self.evaluator = tables.evaluator
        self.template: Accelerator = tables.template
        self.on_path = self._path_counts()

    def times(self, points: Points) -> Floats:
        """[D] estimated iteration time [s]."""
        tables = self.tables
        shape_of, width_of, size_of = tables.shape_rows(points), tables.width_rows(points), tables.size_rows(points)
        return serial_times(
            tables.shapes.rows,
            tables.widths.rows,
            tables.alone.rows,
            tables.sizes.rows,
            self.evaluator.item_counts,
            self.on_path,
            shape_of,
            width_of,
            size_of,
            tables.tensor_cores(points),
            tables.vector_cores(points),
            tables.hbm_bytes_per_s(points),
            self.evaluator.mode != "one-core",
            self.evaluator.model.streams,
            exposes_transfers(self.template),
            self.template.operator_start_s,
            tables.exchanging_s,
        )

    def hbm_bytes(self, points: Points) -> Floats:
        """[D] HBM traffic of an iteration [bytes]."""
        index = self.tables.size_rows(points)
        return np.asarray((self.tables.sizes.rows @ self.evaluator.item_counts)[index])

    def _path_counts(self) -> Floats:
        """[U] operators of each item on the longest path of a middling design."""
        grid = self.tables.grid
        middle = grid.accelerator(tuple(int(length) // 2 for length in grid.lengths))
        problem = self.evaluator.problem(middle)
        items = problem.item_of
        duration_s = np.maximum(problem.compute_s, problem.hbm_bytes / problem.hbm_bytes_per_s)
        fastest = np.minimum.reduceat(duration_s, problem.option_start[:-1])
        path = list(critical_path(problem, fastest[items]).tasks)
        return np.bincount(items[path], minlength=len(self.evaluator.arrays.items)).astype(np.float64)


class Estimator:
    """Estimated objective of many designs for a set of evaluators."""

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        weights: Sequence[float] | Aggregate,
        grid: Grid,
        objective: Objective,
        tables: Sequence[WorkloadTables] | None = None,
    ) -> None:
        """`tables` may be shared by estimators over the same grid."""
        self.grid = grid
        self.objective = objective
        self.aggregate = aggregate_of(weights)
        self.tables = tuple(tables or (WorkloadTables(evaluator, grid) for evaluator in evaluators))
        self.workloads = tuple(_WorkloadEstimator(found) for found in self.tables)

    def figures(self, points: Points, tdp_w: Floats) -> Floats:
        """[D] estimated figure; smaller is better."""
        times = [workload.times(points) for workload in self.workloads]
        energy = lambda k: self._energy(self.workloads[k], points, times[k])  # noqa: E731
        return np.asarray(self.aggregate.figure(self.objective, times, tdp_w, energy))

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
