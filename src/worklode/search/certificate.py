"""The proof: no design of the space, however it is scheduled, is better than a bound. Method: docs/models/bounds.md.

Bounds rule out nearly all of the space by arithmetic on tables. Among what is left the better designs are found first,
by what a surrogate learns of figures over bounds. Then it is looked at best bound first: the bound is sharpened, and
the design is scheduled, until the least bound belongs to a design for which both has been done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.power import tdp_parts
from worklode.schedule.bounds import GUIDED_ROUNDS, Guide, best_guides, lower_bounds
from worklode.search.bounder import Bounder
from worklode.search.candidate import Candidate
from worklode.search.exploration import MODELLED, explore
from worklode.search.frontier import Flags, Frontier
from worklode.search.grid import Floats, Grid
from worklode.search.local import LocalSearch, point_of

Progress = Callable[[int, int], None]

# A design whose quick schedule is this much [1] above the quick schedule of the best design is scheduled thoroughly
# before it is given up: what they gain by that differs by about as much from one to another (docs/models/schedule.md).
PROMISING = 0.01
# Designs that are scheduled with the utmost effort because they come near [count].
MOST_RIVALS = 3
# Options of all items of all designs that are bounded at once, those of the least bound first [count]: some 0.1 s.
SWEPT_OPTIONS = 8_000_000
# Size of a path structure (classes of all groups) up to which a proof makes all the guides and sharp bounds it may;
# beyond, their number falls, to these shares at least [count, 1].
EASY_STRUCTURE, LEAST_GUIDES, LEAST_SHARPENED = 1500, 0.5, 0.2
# Guides whose paths a design that holds the result back is bounded by [count].
POLISHING_GUIDES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofOptions:
    """How much work a proof does; all counts, so that the same input gives the same answer on any machine.

    Attributes:
        guides: designs for which the best prices are found, to bound all others with; fewer for large structures.
        sharpened: designs whose bound is sharpened one by one, at most, from the prices of the nearest guide; fewer for
            large structures.
        polished: of these, how many are bounded again by several paths, where they hold the result back.
        explored: designs to schedule because the surrogate says that they may be the best.
        max_evaluations: designs to schedule besides these and those of the local search, best bound first. If no more
            are left that the bounds do not rule out, the answer is that of an exhaustive search.
        refined: of these, how many may be scheduled thoroughly.
        max_time_s: stop with what is proven after this long [s], the local search included; the first sweep is always
            done.
        workers: threads of the sweeps.
    """

    guides: int = 12
    sharpened: int = 60
    polished: int = 24
    explored: int = 64
    max_evaluations: int = 128
    refined: int = 12
    max_time_s: float = float("inf")
    workers: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is proven of a search.

    Attributes:
        bound: no design of the space (nor the budget's own) has a smaller figure, on any schedule; in the unit of the
            objective's figure.
        figure: that of the best design found.
        space_size: designs of the space.
        within_limits: those that keep area, power and memory.
        pruned: those of them that were never scheduled since their bound is above the best figure.
        undecided: those of them that were neither scheduled nor ruled out; they lie between bound and figure.
        guides, sharpened: see `ProofOptions`.
        wall_time_s: of the proof alone [s].
        out_of_time, interrupted: stopped by time, or by an interrupt.
    """

    bound: float
    figure: float
    space_size: int
    within_limits: int
    pruned: int
    undecided: int
    guides: int
    sharpened: int
    wall_time_s: float
    out_of_time: bool
    interrupted: bool

    @property
    def gap(self) -> float:
        """How far the best design may be from the optimum, over configuration and schedule: figure/bound - 1 [1]."""
        return max(self.figure / self.bound - 1.0, 0.0)

    @property
    def complete(self) -> bool:
        """Whether every design was scheduled or ruled out: an exhaustive search would give the same answer."""
        return self.undecided == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form of what the search block says of the proof."""
        return {
            "within_limits": self.within_limits,
            "pruned": self.pruned,
            "undecided": self.undecided,
            "guides": self.guides,
            "sharpened": self.sharpened,
            "proof_time_s": self.wall_time_s,
        }


# What the search block says where no design keeps the limits: there is nothing to prove.
NOTHING_PROVEN: dict[str, Any] = {
    "within_limits": 0,
    "pruned": 0,
    "undecided": 0,
    "guides": 0,
    "sharpened": 0,
    "proof_time_s": 0.0,
}


def prove(
    search: LocalSearch, options: ProofOptions, *, seeds: tuple[Accelerator, ...] = (), progress: Progress | None = None
) -> tuple[Certificate, tuple[Guide, ...]]:
    """Bound everything the search did not schedule; better designs that turn up are scheduled into it.

    Its finalists are scheduled thoroughly (`LocalSearchOptions.finalists`), those that turn up here among them.

    Args:
        search: a local search that has run and found a design within the limits.
        options: how much to do.
        seeds: designs outside the space that were candidates too.
        progress: told how many designs were sharpened, and how many will be at most.

    Returns:
        The certificate, and the guides (one for each workload) of the best design.
    """
    return _Proof(search, options, seeds, progress).run()


class _Proof:
    """One proof."""

    def __init__(
        self,
        search: LocalSearch,
        options: ProofOptions,
        seeds: tuple[Accelerator, ...],
        progress: Progress | None,
    ) -> None:
        self.search = search
        self.options = options
        self.seeds = seeds
        self.progress = progress
        self.started_s = time.perf_counter()
        self.grid: Grid = search.grid
        self.bounder = Bounder(
            search.estimator.tables, search.aggregate, search.grid, search.objective, workers=options.workers
        )
        self._take(search.candidates()[0])
        self.polishings = 0
        self.most_guides = self.most_sharpened = 0
        per_design = sum(tables.options_per_design for tables in search.estimator.tables)
        self.portion = max(SWEPT_OPTIONS // per_design, 1000)
        self.sharpened = 0
        self.rivals = 0
        self.scheduled = 0
        self.guides = 0
        self.guide_of_best: tuple[Guide, ...] = ()
        self.all_guides: list[tuple[Guide, ...]] = []
        self.interrupted = False
        # Where the search compares quick schedules only, so does the proof: then pruning equals exhaustive search.
        self.refined = 0 if search.options.finalists else options.refined
        self.left = Frontier(self.grid, search.limits, self._work_bounds, self.best.figure)

    def run(self) -> tuple[Certificate, tuple[Guide, ...]]:
        """Do it."""
        self._sweep_space()
        floor = self._seed_bound()
        try:
            self._find_better()
            floor = min(floor, self._sharpen())
        except KeyboardInterrupt:
            self.interrupted = True
            self._take(self.search.candidates()[0])
            self.left.mark_seen(self.search.seen)
            self._drop()
            floor = min(floor, self._least())
        figure = self.best.figure
        undecided = int((~self.left.seen & (self.left.bound < figure)).sum())
        legal = sum(
            1
            for candidate in self.search.seen.values()
            if self.search.legal(candidate) and self.grid.space.contains(candidate.accelerator)
        )
        certificate = Certificate(
            bound=min(floor, figure),
            figure=figure,
            space_size=self.grid.space.size,
            within_limits=self.left.within,
            pruned=self.left.within - legal - undecided,
            undecided=undecided,
            guides=self.guides,
            sharpened=self.sharpened,
            wall_time_s=time.perf_counter() - self.started_s,
            out_of_time=self._out_of_time(),
            interrupted=self.interrupted,
        )
        return certificate, self.guide_of_best

    # -- sweeping the space ---------------------------------------------------------------------------------------

    def _work_bounds(self, row: int, power: Floats) -> Floats:
        """Bounds by work of the slice of the mesh at a place along its first axis."""
        return self.bounder.work_bounds(power, slice(row, row + 1))

    def _sweep_space(self) -> None:
        """Rule out what the prices of the best design rule out; work alone has ruled out most before."""
        self.guide_of_best = self._add_guide(self.best.accelerator)
        size = max(len(guide.structure.group_class) for guide in self.guide_of_best)
        effort = min(1.0, EASY_STRUCTURE / max(size, 1))
        self.most_guides = math.ceil(self.options.guides * max(effort, LEAST_GUIDES))
        self.most_sharpened = math.ceil(self.options.sharpened * max(effort, LEAST_SHARPENED))
        self.left.raise_to(slice(None), self.bounder.bounds(self.left.points, self.left.power))
        self._drop()
        self.left.mark_seen(self.search.seen)

    def _add_guide(self, accelerator: Accelerator) -> tuple[Guide, ...]:
        self.guides += 1
        found = self.bounder.add_guide(accelerator)
        self.all_guides.append(found)
        return found

    def _drop(self) -> None:
        self.left.drop(self.best.figure)

    def _seed_bound(self) -> float:
        """The least bound of the designs outside the space."""
        bounds = [self._sharp_bound(seed) for seed in self.seeds if not self.grid.space.contains(seed)]
        return min(bounds, default=float("inf"))

    # -- better designs -------------------------------------------------------------------------------------------

    def _find_better(self) -> None:
        """Schedule what may be better than the best, and the best of all thoroughly; rule out what that rules out."""
        before = self.best.accelerator
        modelled = min(self.portion, MODELLED)
        explore(self.search, self.left, self.bounder, most=self.options.explored, modelled=modelled)
        self.search.refine_best(self.search.options.finalists)
        self._polish_best()
        self._drop()
        if self.best.accelerator != before and len(self.left) and self.guides < self.most_guides:
            self.guide_of_best = self._add_guide(self.best.accelerator)
            self._raise_by_last_guide(self.left.swept)
            self._drop()

    # -- best bound first -----------------------------------------------------------------------------------------

    def _sharpen(self) -> float:
        """Sharpen and schedule, best bound first; returns the least bound of what is left."""
        left = self.left
        while len(left) and not self._out_of_time():
            index = int(left.bound.argmin())
            if not left.swept[index]:
                self._sweep_lowest()
                continue
            if left.sharp[index]:
                if left.polished[index] or self.polishings == self.options.polished:
                    break
                self._polish(index)
                continue
            if self.sharpened >= self.most_sharpened:
                break
            accelerator = self.grid.accelerator(point_of(left.points[index]))
            if self.guides < self.most_guides:
                self._add_guide(accelerator)
                # The result is at most the least of the sharp bounds: what is above need not be raised further.
                least_sharp = left.bound[left.sharp].min(initial=np.inf)
                self._raise_by_last_guide(left.swept & ~left.sharp & (left.bound < least_sharp))
            left.raise_to(index, self._sharp_bound(accelerator, float(left.power[index])))
            left.sharp[index] = True
            self.sharpened += 1
            self._visit(index)
            self._drop()
            if self.progress is not None:
                self.progress(self.sharpened, self.most_sharpened)
        self._polish_best()
        self._drop()
        self._schedule_left()
        return self._least()

    def _sweep_lowest(self) -> None:
        """Bound by their options those designs that may hold the result back soonest, and drop what that rules out."""
        self.left.sweep(self.left.lowest(~self.left.swept, self.portion), self.bounder)
        self._drop()

    def _raise_by_last_guide(self, which: Flags) -> None:
        """Bound the lowest of these designs by the guide that was added last."""
        low = self.left.lowest(which, 2 * self.portion)
        points, power = self.left.points[low], self.left.power[low]
        self.left.raise_to(low, self.bounder.bounds(points, power, by_options=True, last_only=True))

    def _polish(self, index: int) -> None:
        """Bound a design by its own path and by those of the nearest guides: which path is best is not known."""
        accelerator = self.grid.accelerator(point_of(self.left.points[index]))
        self.left.raise_to(index, self._sharp_bound(accelerator, float(self.left.power[index]), polish=True))
        self.left.polished[index] = True
        self.polishings += 1
        self._drop()

    def _polish_best(self) -> None:
        """Schedule the incumbent with the utmost effort: what it gains rules designs out."""
        self.search.polish_best()
        self._take(self.search.candidates()[0])

    def _take(self, candidate: Candidate) -> None:
        """The incumbent from now on."""
        self.best = candidate
        self.quick_figure = candidate.figure
        if candidate.effort != "quick":
            self.quick_figure = self.search.quick_figure(candidate.accelerator)

    def _schedule_left(self) -> None:
        """Schedule what no bound rules out, best bound first."""
        while self.scheduled < self.options.max_evaluations and not self._out_of_time():
            lowest = self.left.lowest(~self.left.seen & (self.left.bound < self.best.figure), 1)
            if len(lowest) == 0:
                break
            self._visit(int(lowest[0]))

    def _visit(self, index: int) -> None:
        """Schedule a design unless it has been."""
        if self.left.seen[index] or self.scheduled == self.options.max_evaluations:
            return
        candidate = self.search.schedule(self.grid.accelerator(point_of(self.left.points[index])), "bound")
        self.left.seen[index] = True
        self.scheduled += 1
        # Like is compared with like: what the incumbent gained by more effort, this one may gain too.
        promising = candidate.figure < self.quick_figure * (1.0 + PROMISING)
        if promising and self.refined < self.options.refined:
            candidate = self.search.refine(candidate)
            self.refined += 1
            near = self.search.options.finalists > 0 and self.search.comes_near(candidate)
            if near and self.rivals < MOST_RIVALS:
                candidate = self.search.polish(candidate)
                self.rivals += 1
        if self.search.legal(candidate) and candidate.order() < self.best.order():
            self._take(candidate)

    def _sharp_bound(self, accelerator: Accelerator, power_w: float | None = None, *, polish: bool = False) -> float:
        """All lower bounds of one design, by its own options; `polish` from several paths."""
        if power_w is None:
            power_w = float(np.asarray(tdp_parts(accelerator, self.grid.technology).total))
        times = []
        for evaluator, found in zip(self.search.evaluators, zip(*self.all_guides, strict=True), strict=True):
            problem = evaluator.problem(accelerator)
            nearest = best_guides(problem, found, POLISHING_GUIDES if polish else 1)
            bounds = [lower_bounds(problem, guided_by=one, rounds=GUIDED_ROUNDS).makespan_s for one in nearest]
            if polish:
                bounds.append(lower_bounds(problem).makespan_s)
            times.append(max(bounds))
        return self.bounder.figure(accelerator, times, power_w)

    def _least(self) -> float:
        """The least bound there is: of what is left, and of the best design itself."""
        return min(float(self.left.bound.min(initial=float("inf"))), self._best_bound())

    def _best_bound(self) -> float:
        """The bound of the best design; its figure where a schedule meets it."""
        return min(self.best.figure, self._sharp_bound(self.best.accelerator, polish=True))

    def _out_of_time(self) -> bool:
        return time.perf_counter() - self.search.started_s > self.options.max_time_s
