"""Lower bounds of the objective for many designs of a grid at once. Derivation: docs/models/bounds.md."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from worklode.cost.model import exposes_transfers
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import event_energies
from worklode.schedule.bounds import ROUNDING, Guide, guide
from worklode.search.aggregate import Aggregate, aggregate_of
from worklode.search.grid import LANES, SRAM, TENSOR_CORES, VECTOR_CORES, Floats, Grid, Points
from worklode.search.objective import Objective
from worklode.search.sweep import least_times, option_bounds
from worklode.search.tables import WorkloadTables

# What rounding of cycles to whole ones may hide when arrays and lanes are compared [cycles]: one of each, and one of
# their pipeline.
UNSURE_CYCLES = 4
# Designs one thread bounds at a time [count]: milliseconds, so that an interrupt is answered at once.
CHUNK = 8192


class _GuideArrays:
    """Guides of one workload as the sweep reads them."""

    def __init__(self, items: int) -> None:
        self.path_pays = np.empty((0, items, 4))
        self.path_start = np.zeros(1, np.int64)
        self.path_item = np.empty(0, np.int64)
        self.path_price = np.empty((0, 4))
        self.group_start = np.zeros(1, np.int64)
        self.group_item = np.empty(0, np.int64)
        self.group_count = np.empty(0)
        self.price_start = np.zeros(1, np.int64)
        self.price = np.empty((0, 3))

    def add(self, found: Guide) -> None:
        """One more guide; groups keep prices no other is below in all.

        What path tasks pay for the least of everything adds up by item; which option is cheapest differs by class.
        """
        structure, prices = found.structure, found.prices
        pays = np.zeros((1, self.path_pays.shape[1], 4))
        row_pays = prices[structure.row_class] * structure.row_count[:, None]
        np.add.at(pays[0], structure.row_item, row_pays)
        self.path_start = np.append(self.path_start, self.path_start[-1] + len(row_pays))
        self.path_item = np.concatenate((self.path_item, structure.row_item))
        self.path_price = np.concatenate((self.path_price, row_pays))
        merged: dict[tuple[int, bytes], float] = {}
        for group, item in enumerate(structure.group_item):
            classes = structure.group_class[structure.group_start[group] : structure.group_start[group + 1]]
            key = (int(item), _lowest(prices[classes, 1:]).tobytes())
            merged[key] = merged.get(key, 0.0) + float(structure.group_count[group])
        sets = [np.frombuffer(key[1], np.float64).reshape(-1, 3) for key in merged]
        self.path_pays = np.concatenate((self.path_pays, pays))
        self.group_start = np.append(self.group_start, self.group_start[-1] + len(merged))
        self.group_item = np.concatenate((self.group_item, np.array([item for item, _ in merged], np.int64)))
        self.group_count = np.concatenate((self.group_count, np.array(list(merged.values()), np.float64)))
        ends = self.price_start[-1] + np.cumsum(np.array([len(found) for found in sets], np.int64))
        self.price_start = np.concatenate((self.price_start, ends))
        self.price = np.concatenate((self.price, *sets))

    def arrays(self, *, by_options: bool) -> tuple[Any, ...]:
        """In the order of the sweeps' arguments."""
        path = (self.path_start, self.path_item, self.path_price) if by_options else (self.path_pays,)
        return (*path, self.group_start, self.group_item, self.group_count, self.price_start, self.price)

    def last(self) -> _GuideArrays:
        """The guide added last, alone."""
        only = _GuideArrays(self.path_pays.shape[1])
        first = self.group_start[-2]
        only.path_pays = self.path_pays[-1:]
        row = self.path_start[-2]
        only.path_start = self.path_start[-2:] - row
        only.path_item, only.path_price = self.path_item[row:], self.path_price[row:]
        only.group_start = self.group_start[-2:] - first
        only.group_item, only.group_count = self.group_item[first:], self.group_count[first:]
        only.price_start = self.price_start[first:] - self.price_start[first]
        only.price = self.price[self.price_start[first] :]
        return only


class Bounder:
    """Lower bounds on the figure of an objective.

    Attributes:
        workers: threads the sweeps are spread over; the bounds do not depend on it.
    """

    def __init__(
        self,
        tables: Sequence[WorkloadTables],
        weights: Sequence[float] | Aggregate,
        grid: Grid,
        objective: Objective,
        workers: int = 1,
    ) -> None:
        self.tables = tuple(tables)
        self.aggregate = aggregate_of(weights)
        self.grid = grid
        self.objective = objective
        self.workers = workers
        self.guides = [_GuideArrays(len(found.evaluator.arrays.items)) for found in self.tables]

    def add_guide(self, accelerator: Accelerator) -> tuple[Guide, ...]:
        """Find the prices that bound this design best, one guide for each workload, and use them from now on."""
        found = tuple(guide(tables.evaluator.problem(accelerator)) for tables in self.tables)
        for arrays, one in zip(self.guides, found, strict=True):
            arrays.add(one)
        return found

    def work_bounds(self, power_w: Floats, rows: slice = slice(None)) -> Floats:
        """Bounds from the work of each resource alone, of all designs as the mesh of the space.

        Args:
            power_w: TDP of these designs, broadcastable to the mesh [W].
            rows: part of the mesh along its first axis.
        """
        times = [tables.work_times_s(rows) for tables in self.tables]
        # Energy is not bounded by work alone; nothing is known of it.
        return self._lowered(self.aggregate.figure(self.objective, times, power_w, lambda _: np.zeros(1)))

    def bounds(self, points: Points, power_w: Floats, *, by_options: bool = False, last_only: bool = False) -> Floats:
        """[D] bounds from work and from the prices of all guides.

        Args:
            points: [D, 7] designs.
            power_w: [D] their TDP [W].
            by_options: from the options of every item; else from the least time and least use of each, which is faster
                and lower.
            last_only: of the guides, the one added last alone.
        """
        which = range(len(self.tables))
        times = [self.times(points, k, by_options=by_options, last_only=last_only) for k in which]
        energy = lambda k: self._energy_j(k, points, times[k])  # noqa: E731
        return self._lowered(self.aggregate.figure(self.objective, times, power_w, energy))

    def figure(self, accelerator: Accelerator, times_s: Sequence[float], power_w: float) -> float:
        """Bound of one design from bounds on its iteration times [s], one for each workload, and its TDP [W]."""
        evaluators = [tables.evaluator for tables in self.tables]
        energy = lambda k: evaluators[k].least_energy_j(accelerator, times_s[k]) * (1.0 - ROUNDING)  # noqa: E731
        return float(self.aggregate.figure(self.objective, list(times_s), power_w, energy))

    def times(self, points: Points, workload: int, *, by_options: bool = False, last_only: bool = False) -> Floats:
        """[D] bounds on the iteration time of a workload [s]; see `bounds`."""
        sweep, arguments = (option_bounds, self._options) if by_options else (least_times, self._least)
        guides = self.guides[workload].last() if last_only else self.guides[workload]
        # Rows of tables are made here, in one thread; the sweeps only read.
        work = [
            (*arguments(points[start : start + CHUNK], self.tables[workload]), *guides.arrays(by_options=by_options))
            for start in range(0, len(points), CHUNK)
        ]
        if self.workers == 1 or len(work) < 2:
            found = [sweep(*passed) for passed in work]
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                found = list(pool.map(lambda passed: sweep(*passed), work))
        return np.concatenate(found) if found else np.empty(0)

    def _least(self, points: Points, tables: WorkloadTables) -> tuple[Any, ...]:
        """What `least_times` takes, guides apart."""
        template = tables.template
        rows = (
            tables.shape_rows(points),
            tables.width_rows(points),
            tables.lane_size_rows(points),
            tables.grown_shape_rows(points),
            tables.grown_width_rows(points),
        )
        return (
            tables.shapes.rows,
            tables.widths.rows,
            tables.alone.rows,
            tables.lane_sizes.rows,
            tables.grown_shapes.rows,
            tables.grown_widths.rows,
            tables.grown_alone.rows,
            tables.evaluator.item_counts,
            tables.holds_tensor,
            tables.holds_vector,
            tables.evaluator.model.streams,
            tables.exchanging_s,
            *rows,
            tables.tensor_cores(points),
            tables.vector_cores(points),
            tables.hbm_bytes_per_s(points),
            exposes_transfers(template),
            template.operator_start_s,
            template.operator_fill_s,
            UNSURE_CYCLES / template.sustained_clock_hz,
        )

    def _options(self, points: Points, tables: WorkloadTables) -> tuple[Any, ...]:
        """What `option_bounds` takes, guides apart."""
        template, ladders, model = tables.template, tables.ladders, tables.evaluator.model
        width_of, grown_width_of = tables.width_rows(points), tables.grown_width_rows(points)
        shape_of, shape_row = tables.ladder_rows(points)
        return (
            tables.grown_shapes.rows,
            tables.widths.rows,
            tables.alone.rows,
            tables.sizes.rows,
            tables.lane_sizes.rows,
            tables.grown_widths.rows,
            tables.grown_alone.rows,
            tables.evaluator.item_counts,
            model.has_products,
            model.has_lanes,
            model.streams,
            tables.exchanging_s,
            model.shown_share(template),
            shape_of,
            width_of,
            grown_width_of,
            points[:, TENSOR_CORES].copy(),
            points[:, VECTOR_CORES].copy(),
            points[:, SRAM].copy(),
            points[:, LANES] * len(self.grid.axes[SRAM]) + points[:, SRAM],
            tables.tensor_cores(points),
            tables.vector_cores(points),
            tables.hbm_bytes_per_s(points),
            ladders.start,
            ladders.cores.astype(np.float64),
            shape_row,
            ladders.size_row,
            ladders.vector_start,
            ladders.vector_cores.astype(np.float64),
            ladders.vector_size_row,
            exposes_transfers(template),
            template.operator_start_s,
            template.operator_fill_s,
            UNSURE_CYCLES / template.sustained_clock_hz,
            model.mode == "one-core",
        )

    def _energy_j(self, workload: int, points: Points, time_s: Floats) -> Floats:
        """[D] energy of a workload from bounds on its time [J]."""
        tables = self.tables[workload]
        count, model = tables.evaluator.item_counts, tables.evaluator.model
        of = tables.size_rows(points)
        events = event_energies(self.grid.designs(points), self.grid.technology)
        computing_j = float(model.least_macs @ count) * (events["mac_j"] + events["mac_operand_j"])
        computing_j = computing_j + float(model.least_lane_ops @ count) * events["lane_op_j"]
        traffic_j = (tables.sizes.rows @ count)[of] * events["hbm_byte_j"]
        return np.asarray(computing_j + traffic_j + events["static_w"] * time_s)

    @staticmethod
    def _lowered(figure: Any) -> Floats:
        return np.asarray(figure * (1.0 - ROUNDING))


def _lowest(prices: Floats) -> Floats:
    """The rows that no other row is at most as high as in every column, each once, in a fixed order."""
    rows = np.unique(prices, axis=0)
    below = np.asarray((rows[:, None, :] <= rows[None, :, :]).all(axis=2))
    np.fill_diagonal(below, False)
    return np.ascontiguousarray(rows[~below.any(axis=0)])
