"""Local search for the best designs of a space, guided by the critical path. Method: docs/models/search.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.search.aggregate import Aggregate, aggregate_of
from worklode.search.candidate import Candidate, scheduled_candidate
from worklode.search.estimator import Estimator
from worklode.search.evaluate import Evaluator
from worklode.search.grid import (
    COLS,
    HBM,
    LANES,
    ROWS,
    SRAM,
    TENSOR_CORES,
    VECTOR_CORES,
    Floats,
    Grid,
    Point,
    Points,
    moves,
)
from worklode.search.objective import Limits, Objective
from worklode.search.tables import WorkloadTables

Progress = Callable[[int, int], None]

# Axes that a resource named by the critical path grows along. Waiting is cured by more cores, or by bandwidth where
# those that hold them are slowed.
_GROWS = {
    "tensor_core": (TENSOR_CORES, ROWS, COLS),
    "vector_core": (VECTOR_CORES, LANES),
    "hbm": (HBM, SRAM),
    "waiting": (TENSOR_CORES, VECTOR_CORES, HBM),
}
# Designs that are scheduled thoroughly at a time [count].
REFINED_AT_ONCE = 2
# A design is scheduled with the utmost effort too where its thorough schedule is not much further above the best than
# the utmost effort has gained in this search: so many times as much, of at least the least gain [1], and never more
# than `NEAR` [1]. Measured on the paper's models, TPUv2's budget: gains of one search differ by up to 3 times, and lie
# between 0 and 1.1 %.
GAIN_VARIES, LEAST_GAIN, NEAR = 2.5, 0.0005, 0.01
# With few operators gains differ more (vgg16, 72 operators: up to 1.8 %) and cost less: then as many designs are so
# scheduled as have so many operators together, at most those that are asked for, up to so far from the best [1].
FEW_OPERATORS, NEAR_OF_FEW = 1000, 0.02
# A resource that explains less of the iteration than this is left as it is [1].
_BLAME_THRESHOLD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearchOptions:
    """How much work a local search does; all counts, so that the same input gives the same answer on any machine.

    The defaults are for a search that a proof goes on with, which explores from there (docs/models/search.md).

    Attributes:
        top_k: designs to keep.
        shapes: core shapes, best by estimate, whose grown design is scheduled.
        climbs: best of them to climb from.
        width: designs scheduled for one step of a climb.
        max_evaluations: designs to schedule in all, those of a proof (`ProofOptions`) apart.
        finalists: best designs that are scheduled thoroughly before the proof begins; 0: nothing ever is.
        max_time_s: stop with the incumbent after this long [s]; the answer then depends on the machine.
        workers: threads that schedule thoroughly; the answer does not depend on it.
        rivals: designs that are scheduled with the utmost effort besides the best, where they come near it; more where
            workloads have few operators (`FEW_OPERATORS`).
    """

    top_k: int = 10
    shapes: int = 20
    climbs: int = 0
    width: int = 16
    max_evaluations: int = 800
    finalists: int = 5
    max_time_s: float = float("inf")
    workers: int = 2
    rivals: int = 3


# A search that no proof goes on with.
ALONE = LocalSearchOptions(shapes=40, climbs=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearchResult:
    """Candidates within the limits, best first, and what the search did."""

    candidates: tuple[Candidate, ...]
    space_size: int
    estimated: int
    evaluated: int
    wall_time_s: float
    out_of_time: bool


class LocalSearch:
    """One local search; `run` does it."""

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        weights: Sequence[float] | Aggregate,
        grid: Grid,
        limits: Limits,
        objective: Objective,
        options: LocalSearchOptions,
        progress: Progress | None = None,
        tables: Sequence[WorkloadTables] | None = None,
    ) -> None:
        """Prepare it.

        Args:
            evaluators: of workloads, or of the passes of one.
            weights: of the workloads in a geometric mean, or another way to make one figure of the evaluators'.
            grid, limits, objective, options: what is searched for what.
            progress: told how many designs are scheduled, and how many will be at most (`announced`).
            tables: of the evaluators on this grid, where another search has made them.
        """
        self.evaluators = tuple(evaluators)
        self.aggregate = aggregate_of(weights)
        self.grid = grid
        self.limits = limits
        self.objective = objective
        self.options = options
        self.progress = progress or _silent
        self.announced = options.max_evaluations
        self.estimator = Estimator(self.evaluators, self.aggregate, grid, objective, tables)
        self.seen: dict[Accelerator, Candidate] = {}
        self.quick_figures: dict[Accelerator, float] = {}
        self.most_gained = 0.0
        self.estimated = 0
        self.stopped_by_time = False
        self.started_s = time.perf_counter()

    def run(self, seeds: Sequence[Accelerator] = ()) -> LocalSearchResult:
        """Search by quick schedules; `seeds` come first, and are candidates themselves where they keep the limits.

        An interrupt (KeyboardInterrupt) loses nothing that was scheduled: `candidates` and `result` have it.
        """
        for seed in seeds:
            self.schedule(seed, "budget")
        grown = self._grown_shapes()
        starts = [*grown, *(point for seed in seeds if (point := self._feasible_below(seed)) is not None)]
        scheduled = []
        for point in dict.fromkeys(starts):
            candidate = self._visit(point, "shape")
            if candidate is not None:
                scheduled.append((candidate.figure, point))
        for _, point in sorted(scheduled)[: self.options.climbs]:
            self._climb(point)
        return self.result()

    def result(self) -> LocalSearchResult:
        """What was found up to now."""
        return LocalSearchResult(
            candidates=self.candidates(),
            space_size=self.grid.space.size,
            estimated=self.estimated,
            evaluated=len(self.seen),
            wall_time_s=time.perf_counter() - self.started_s,
            out_of_time=self.stopped_by_time,
        )

    # -- growing every shape by estimate --------------------------------------------------------------------------

    def _grown_shapes(self) -> list[Point]:
        """The best shapes of tensor core, each with everything else grown from the least by the estimate."""
        points = self.grid.shapes()
        # The least HBM that holds the step: growing from less would start outside the limits.
        capacity = self.grid.axes[HBM] * self.grid.space.hbm_stack_bytes
        points[:, HBM] = min(int(np.searchsorted(capacity, self.limits.hbm_bytes)), len(capacity) - 1)
        area, power = self.grid.silicon(points)
        points = points[self._within(points, area, power)]
        if len(points) == 0:
            return []
        figure = self.estimator.figures(points, self.grid.silicon(points)[1])
        steps = moves((LANES, TENSOR_CORES, VECTOR_CORES, SRAM, HBM))
        active = np.ones(len(points), np.bool_)
        while active.any() and not self.out_of_time():
            index = np.flatnonzero(active)
            best, best_figure = self._best_neighbours(points[index], steps)
            better = best_figure < figure[index] * (1 - 1e-9)
            points[index[better]], figure[index[better]] = best[better], best_figure[better]
            active[index[~better]] = False
        order = np.lexsort((*points.T, figure))[: self.options.shapes]
        return [point_of(row) for row in points[order]]

    def _best_neighbours(self, points: Points, steps: Points) -> tuple[Points, Floats]:
        """For every point the neighbour of the least estimated figure within the limits, and that figure."""
        around = (points[:, None, :] + steps[None, :, :]).reshape(-1, points.shape[1])
        figure = np.full(len(around), np.inf)
        index = np.flatnonzero(self.grid.inside(around))
        figure[index] = self._estimate(around[index])
        by_point = figure.reshape(len(points), len(steps))
        chosen = by_point.argmin(axis=1)
        rows = np.arange(len(points))
        return around.reshape(len(points), len(steps), -1)[rows, chosen], by_point[rows, chosen]

    def _estimate(self, points: Points) -> Floats:
        """[D] estimated figures; infinite outside the limits."""
        figure = np.full(len(points), np.inf)
        area, power = self.grid.silicon(points)
        legal = self._within(points, area, power)
        figure[legal] = self.estimator.figures(points[legal], power[legal])
        self.estimated += int(legal.sum())
        return figure

    def _within(self, points: Points, area: Floats, power: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        capacity = self.grid.axes[HBM][points[:, HBM]] * self.grid.space.hbm_stack_bytes
        return np.asarray(
            (area <= self.limits.area_mm2) & (power <= self.limits.tdp_w) & (capacity >= self.limits.hbm_bytes)
        )

    def _feasible_below(self, accelerator: Accelerator) -> Point | None:
        point = self.grid.below(accelerator)
        array = np.array([point], np.int64)
        return point if self._within(array, *self.grid.silicon(array))[0] else None

    # -- climbing by schedules ------------------------------------------------------------------------------------

    def _climb(self, point: Point) -> None:
        """Move to better neighbours as long as a scheduled one is better."""
        current = self._visit(point, "climb")
        while current is not None and not self._spent():
            best, best_point = current, point
            for neighbour in self._promising(point, current):
                candidate = self._visit(neighbour, "climb")
                if candidate is None:
                    break
                if self.legal(candidate) and candidate.figure < best.figure:
                    best, best_point = candidate, neighbour
            if best is current:
                return
            current, point = best, best_point

    def _promising(self, point: Point, current: Candidate) -> list[Point]:
        """Neighbours to schedule, best estimate first: they grow what the critical path of the design waits for."""
        steps = moves(tuple(range(len(self.grid.axes))))
        growing = self._blamed(current)
        grows = np.zeros(len(self.grid.axes), np.bool_)
        grows[list(growing)] = True
        useful = ~((steps > 0) & ~grows).any(axis=1)
        around = np.array([point], np.int64) + steps[useful]
        around = around[self.grid.inside(around)]
        if len(around) == 0:
            return []
        estimate = self._estimate(around)
        order = np.lexsort((*around.T, estimate))
        found: list[Point] = []
        for index in order:
            neighbour = point_of(around[index])
            if not np.isfinite(estimate[index]) or len(found) == self.options.width:
                break
            if self.grid.accelerator(neighbour) not in self.seen:
                found.append(neighbour)
        return found

    def _blamed(self, candidate: Candidate) -> tuple[int, ...]:
        """Axes along which a design may grow: those of the resources that explain its iteration time, and the shape."""
        share: dict[str, float] = {}
        explained = self.aggregate.shares([found.time_s for found in candidate.figures])
        for weight, evaluator in zip(explained, self.evaluators, strict=True):
            if weight > 0:
                for resource, part in evaluator.bound_by(candidate.accelerator):
                    share[resource] = share.get(resource, 0.0) + weight * part
        axes = {ROWS, COLS}
        for resource, part in share.items():
            if part >= _BLAME_THRESHOLD:
                axes.update(_GROWS[resource])
        return tuple(sorted(axes))

    # -- scheduling -----------------------------------------------------------------------------------------------

    def _visit(self, point: Point, origin: str) -> Candidate | None:
        """The scheduled design of a point; None where the search may schedule no more."""
        accelerator = self.grid.accelerator(point)
        if accelerator in self.seen:
            return self.seen[accelerator]
        return None if self._spent() else self.schedule(accelerator, origin)

    def schedule(self, accelerator: Accelerator, origin: str) -> Candidate:
        """Schedule a design; it is a candidate from now on."""
        candidate = scheduled_candidate(self.evaluators, self.aggregate, self.objective, accelerator, origin)
        self.note(candidate)
        self.progress(len(self.seen), max(self.announced, len(self.seen)))
        return candidate

    def note(self, candidate: Candidate) -> None:
        """Know a design by its quick schedule."""
        self.seen[candidate.accelerator] = candidate
        self.quick_figures[candidate.accelerator] = candidate.figure

    def refine(self, candidate: Candidate) -> Candidate:
        """Schedule a candidate thoroughly."""
        if candidate.effort == "quick":
            parts = (self.evaluators, self.aggregate, self.objective, candidate.accelerator, candidate.origin)
            candidate = scheduled_candidate(*parts, effort="thorough")
            self.seen[candidate.accelerator] = candidate
        return candidate

    def refine_best(self, count: int) -> None:
        """Schedule thoroughly until the `count` best all are, by what is known of them and by their quick schedules.

        What a design gains by a thorough schedule differs by a few per cent from design to design: one that was among
        the best before others were scheduled thoroughly deserves it too.
        """
        while True:
            found = self.candidates()
            before = sorted(found, key=lambda c: (self.quick_figures[c.accelerator], *c.order()))
            chosen = dict.fromkeys((*found[:count], *before[:count]))
            quick = [candidate for candidate in chosen if candidate.effort == "quick"]
            if not quick or self.out_of_time():
                return
            # Kernels release the interpreter, so two threads take half the time. Always as many designs, so that the
            # answer does not depend on the number of threads.
            with ThreadPoolExecutor(min(self.options.workers, REFINED_AT_ONCE)) as pool:
                list(pool.map(self.refine, quick[:REFINED_AT_ONCE]))

    def polish_best(self) -> None:
        """Schedule the best candidate with the utmost effort, where the best are scheduled thoroughly at all."""
        while self.options.finalists:
            best = next(iter(self.candidates()), None)
            if best is None or best.effort == "utmost" or self.out_of_time():
                return
            self.polish(best)

    def polish_near(self) -> None:
        """Schedule the best with the utmost effort, and a few that come near it: what they gain by it differs."""
        self.polish_best()
        operators = sum(len(evaluator.fused.operators) for evaluator in self.evaluators)
        many = min(self.options.top_k, FEW_OPERATORS // max(operators, 1))
        rivals, most = self.options.rivals, NEAR
        if many > rivals:
            rivals, most = many, NEAR_OF_FEW
        for _ in range(rivals if self.options.finalists else 0):
            near = [c for c in self.candidates() if c.effort == "thorough" and self.comes_near(c, most)]
            if not near or self.out_of_time():
                return
            self.polish(near[0])

    def comes_near(self, candidate: Candidate, most: float = NEAR) -> bool:
        """Whether a thoroughly scheduled candidate may be better than the best one, with the utmost effort too.

        None may that is further from the best than `most` [1].
        """
        margin = min(most, GAIN_VARIES * max(self.most_gained, LEAST_GAIN))
        return candidate.figure < self.candidates()[0].figure * (1.0 + margin)

    def polish(self, candidate: Candidate) -> Candidate:
        """Schedule a candidate with the utmost effort."""
        parts = (self.evaluators, self.aggregate, self.objective, candidate.accelerator, candidate.origin)
        found = scheduled_candidate(*parts, effort="utmost")
        if candidate.effort == "thorough":
            self.most_gained = max(self.most_gained, candidate.figure / found.figure - 1.0)
        self.seen[candidate.accelerator] = found
        return found

    def quick_figure(self, accelerator: Accelerator) -> float:
        """Figure of a design's quick schedule."""
        if accelerator in self.quick_figures:
            return self.quick_figures[accelerator]
        return scheduled_candidate(self.evaluators, self.aggregate, self.objective, accelerator, "budget").figure

    def candidates(self) -> tuple[Candidate, ...]:
        """What was scheduled and keeps the limits, best first."""
        return tuple(sorted((c for c in self.seen.values() if self.legal(c)), key=Candidate.order))

    def legal(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps the limits."""
        figures = candidate.figures[0]
        return self.limits.allow(
            area_mm2=figures.area_mm2, tdp_w=figures.tdp_w, hbm_bytes=candidate.accelerator.hbm_bytes
        )

    def out_of_time(self) -> bool:
        """Whether its time is over; asked only where there is more to do, and remembered."""
        over = time.perf_counter() - self.started_s > self.options.max_time_s
        self.stopped_by_time = self.stopped_by_time or over
        return over

    def _spent(self) -> bool:
        return len(self.seen) >= self.options.max_evaluations or self.out_of_time()


def point_of(row: Points) -> Point:
    """A row of a `Points` array as a point."""
    return tuple(int(index) for index in row)


def _silent(done: int, most: int) -> None:
    """Progress that nobody watches."""
