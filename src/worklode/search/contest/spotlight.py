"""Spotlight-like: Bayesian optimisation of the design, and for every design of the mapping of every operator.

After C. Sakhuja, Z. Shi, C. Lin, Leveraging Domain Information for the Efficient Automated Design of Deep Learning
Accelerators, HPCA 2023. Written from what is published about the method, not from its sources; what is taken over and
what differs: docs/models/searchers.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worklode.cost.compiled import Floats, Ints
from worklode.cost.mapping import ItemMapper
from worklode.cost.operator_costs import OperatorCosts
from worklode.hardware.accelerator import Accelerator
from worklode.search.contest.gaussian import LinearProcess
from worklode.search.contest.interface import Problem, Told
from worklode.search.contest.layers import (
    Layers,
    fastest_options,
    forward_layers,
    layer_figures,
    objective_figure,
    training_layers,
)
from worklode.search.contest.mapping_search import MappingSearchOptions, search_mappings
from worklode.search.evaluate import Evaluator
from worklode.search.grid import HBM, SRAM, Point, Points


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotlightOptions:
    """How much a Spotlight-like search does.

    Attributes:
        samples: designs looked at. Source: the default of Spotlight's command, 100.
        first: of them drawn at random. Assumption.
        batch: designs chosen from one fit. Assumption.
        pool: random designs among which expected improvement chooses. Assumption.
        mappings: the search of one operator's mapping on one design.
    """

    samples: int = 100
    first: int = 10
    batch: int = 10
    pool: int = 1000
    mappings: MappingSearchOptions = field(default_factory=MappingSearchOptions)


class _Spotlight(ABC):
    """The search; a form says what a design is worth under the mappings that were found."""

    def __init__(self, problem: Problem, seed: int, options: SpotlightOptions | None = None) -> None:
        self.problem = problem
        self.options = options or SpotlightOptions()
        self.random = np.random.default_rng(seed)
        self.layers = tuple(self._layers(evaluator) for evaluator in problem.evaluators)
        self.points: list[Point] = []
        self.values: list[float] = []
        self.waiting: list[Point] = []
        self.seen: set[Point] = set()

    def ask(self, most: int) -> Sequence[Point]:
        """One design of the batch."""
        if len(self.points) >= self.options.samples:
            return ()
        if not self.waiting:
            self.waiting = self._batch()
        found, self.waiting = self.waiting[:1], self.waiting[1:]
        return found

    def tell(self, results: Sequence[Told]) -> None:
        """Search the mappings of the design; what it was told is not used."""
        for told in results:
            self.points.append(told.point)
            with self.problem.searching_mappings():
                value = self._value(self.problem.grid.accelerator(told.point))
            self.values.append(value)

    def recommended(self) -> Point | None:
        """The design that is best under the mappings found."""
        return self.points[int(np.argmin(self.values))] if self.points else None

    def state(self) -> dict[str, Any]:
        """What has been looked at, and where the random numbers are."""
        return {
            "random": self.random.bit_generator.state,
            "points": self.points,
            "values": self.values,
            "waiting": self.waiting,
            "seen": sorted(self.seen),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.random.bit_generator.state = state["random"]
        self.points, self.waiting = _points(state["points"]), _points(state["waiting"])
        self.values, self.seen = [float(value) for value in state["values"]], set(_points(state["seen"]))

    # -- designs --------------------------------------------------------------------------------------------------

    def _batch(self) -> list[Point]:
        """Random designs at first; then those from which the process expects most."""
        options = self.options
        wanted = min(options.batch, options.samples - len(self.points))
        if len(self.points) < options.first:
            found = self._fresh(min(options.first - len(self.points), options.samples))
        else:
            process = LinearProcess(self._features(np.array(self.points, np.int64)), np.log(self.values))
            pool = self._fresh(options.pool)
            if not pool:
                return []
            gain = process.expected_improvement(self._features(np.array(pool, np.int64)))
            found = [pool[index] for index in np.argsort(-gain, kind="stable")[:wanted]]
        self.seen.update(found)
        return found

    def _fresh(self, count: int) -> list[Point]:
        drawn = dict.fromkeys(self.problem.draw(self.random, count))
        return [point for point in drawn if point not in self.seen]

    def _features(self, points: Points) -> Floats:
        """[D, F] what a designer would look at: counts and sizes, totals over the chip, and ratios between them."""
        grid = self.problem.grid
        rows, cols, lanes, cores, vector_cores, sram, stacks = (
            np.log2(axis[points[:, index]].astype(np.float64)) for index, axis in enumerate(grid.axes)
        )
        inner = rows + cols  # processing elements of one core
        total = inner + cores
        bandwidth = stacks + np.log2(grid.space.hbm_stack_bytes_per_s)
        all_lanes = lanes + vector_cores
        fields = [rows, cols, lanes, cores, vector_cores, sram, bandwidth]
        derived = [inner, total, all_lanes, sram - cores, total - bandwidth, all_lanes - total, np.abs(rows - cols)]
        assert (SRAM, HBM) == (5, 6), "the order of the searched fields"
        return np.stack([*fields, *derived], axis=1)

    # -- the worth of a design ------------------------------------------------------------------------------------

    @abstractmethod
    def _layers(self, evaluator: Evaluator) -> Layers: ...

    @abstractmethod
    def _figures(
        self, evaluator: Evaluator, accelerator: Accelerator, mapped: OperatorCosts, layers: Layers
    ) -> float: ...

    def _value(self, accelerator: Accelerator) -> float:
        """Weighted geometric mean of the objective over the workloads, under the mappings found."""
        logs = []
        for evaluator, layers in zip(self.problem.evaluators, self.layers, strict=True):
            mapped = self._mapped(evaluator, accelerator, layers.items)
            logs.append(np.log(self._figures(evaluator, accelerator, mapped, layers)))
        return float(np.exp(np.dot(self.problem.weights, logs)))

    def _mapped(self, evaluator: Evaluator, accelerator: Accelerator, items: Ints) -> OperatorCosts:
        """Costs in which the options of searched items are those of the mappings found, for each number of cores."""
        costs = evaluator.model.on(accelerator)
        start = costs.option_start
        searched = {int(item) for item in items if costs.tensor_cores[start[item]] > 0}
        counts, columns = [], []
        for item in range(len(start) - 1):
            if item in searched:
                found = self._options(evaluator, accelerator, item)
            else:
                rows = slice(int(start[item]), int(start[item + 1]))
                found = np.stack([getattr(costs, name)[rows] for name in _COLUMNS])
            counts.append(found.shape[1])
            columns.append(found)
        tensor, vector, compute_s, hbm_bytes, sram_bytes = np.concatenate(columns, axis=1)
        option_start, cores = np.concatenate(([0], np.cumsum(counts))).astype(np.int64), tensor.astype(np.int64)
        resume_s, resume_bytes = evaluator.model.resume_costs(accelerator, option_start, cores, hbm_bytes)
        return OperatorCosts(
            option_start=option_start,
            tensor_cores=cores,
            vector_cores=vector.astype(np.int64),
            compute_s=np.ascontiguousarray(compute_s),
            hbm_bytes=np.ascontiguousarray(hbm_bytes),
            sram_bytes=np.ascontiguousarray(sram_bytes),
            macs=costs.macs,
            lane_ops=costs.lane_ops,
            tensor_core_s=costs.tensor_core_s,
            vector_core_s=costs.vector_core_s,
            streams=costs.streams,
            resume_s=resume_s,
            resume_bytes=resume_bytes,
        )

    def _options(self, evaluator: Evaluator, accelerator: Accelerator, item: int) -> Floats:
        """[5, O] the best mapping found for each number of cores, where it is faster than on fewer."""
        found = search_mappings(ItemMapper(evaluator.model, item, accelerator), self.options.mappings, self.random)
        costs, kept = found.costs, []
        least_s = np.inf
        for step in np.unique(found.mappings.step):
            rows = np.flatnonzero(found.mappings.step == step)
            row = int(rows[costs.alone_s[rows].argmin()])
            if costs.alone_s[row] < least_s:
                least_s = costs.alone_s[row]
                kept.append(row)
        return np.stack([getattr(costs, name)[kept].astype(np.float64) for name in _COLUMNS])


def _points(rows: Sequence[Sequence[int]]) -> list[Point]:
    return [tuple(int(index) for index in row) for row in rows]


_COLUMNS = ("tensor_cores", "vector_cores", "compute_s", "hbm_bytes", "sram_bytes")


class SpotlightInference(_Spotlight):
    """The form of the paper: layers of inference, one after the other, each on the mapping that takes least alone."""

    def _layers(self, evaluator: Evaluator) -> Layers:
        return forward_layers(evaluator)

    def _figures(self, evaluator: Evaluator, accelerator: Accelerator, mapped: OperatorCosts, layers: Layers) -> float:
        chosen = fastest_options(mapped, accelerator, layers.items)
        times, energies = layer_figures(evaluator, accelerator, mapped, layers, chosen)
        objective = self.problem.objective
        return objective_figure(objective, accelerator, evaluator, float(times.sum()), float(energies.sum()))


class SpotlightTraining(_Spotlight):
    """Extended to this cost model: every operator of the training step, scheduled with the mappings found."""

    def _layers(self, evaluator: Evaluator) -> Layers:
        return training_layers(evaluator)

    def _figures(self, evaluator: Evaluator, accelerator: Accelerator, mapped: OperatorCosts, layers: Layers) -> float:
        time_s, energy_j = evaluator.scheduled(mapped, accelerator)
        return objective_figure(self.problem.objective, accelerator, evaluator, time_s, energy_j)
