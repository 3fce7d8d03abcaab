"""What a searcher sees and what it must do: `ask` for designs, be `told` their figures. Guide: docs/bench.md.

A design is a point of the grid: one index into the legal values of each searched field. A searcher of one's own is a
class with two methods and an entry point in the group `worklode.searchers`; examples/searcher.py is one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from worklode.search.evaluate import Evaluator, Figures
from worklode.search.grid import HBM, Floats, Grid, Point, Points
from worklode.search.objective import Limits, Objective

# Points drawn to find one within the limits before the search for more is given up [count]: where fewer than one
# design in ten thousand is within the limits, random sampling is no way to find it.
MOST_DRAWS = 100_000
# Points drawn at a time [count].
_DRAWN_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A limit that a design breaks: its name, what the design needs and what is allowed, in the unit of the name."""

    limit: str
    value: float
    allowed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a searcher is told of a design it asked for.

    Attributes:
        point: the design.
        figure: what is minimised, in the unit of the objective; None where the design breaks a limit, and then nothing
            was scheduled.
        excess: how far the design is above the limit it breaks most, over that limit [1]; at most 0 within the limits.
        broken: the limits it breaks.
        parts: time, energy, area and power on each workload; empty where nothing was scheduled.
    """

    point: Point
    figure: float | None
    excess: float
    broken: tuple[Broken, ...] = ()
    parts: tuple[Figures, ...] = ()


@dataclass(slots=True, kw_only=True)
class TimeSpent:
    """CPU time a searcher says it spent on something other than its own model [s].

    See `Problem.searching_mappings` and `Problem.evaluating`.
    """

    mapping_s: float = 0.0
    evaluation_s: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What is searched: a grid of designs, limits, an objective over weighted workloads.

    Arithmetic of area and power is free to ask (`excess`, `legal`): every searcher may know before it asks whether a
    design keeps the limits, and pays for knowing with its own CPU time.

    Attributes:
        evaluators: one for each workload, with cost tables of their own: nothing another searcher computed is in them.
        weights: of the workloads, adding up to 1.
        grid: the space.
        limits: what a design may cost.
        objective: what is minimised.
        start: the budget's own design, or the nearest below it in the grid; None where it breaks the limits.
        spent: where a searcher books time that is not its model's.
    """

    evaluators: tuple[Evaluator, ...]
    weights: tuple[float, ...]
    grid: Grid
    limits: Limits
    objective: Objective
    start: Point | None = None
    spent: TimeSpent = field(default_factory=TimeSpent)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of legal values of each field."""
        return tuple(int(length) for length in self.grid.lengths)

    @property
    def size(self) -> int:
        """Number of designs."""
        return self.grid.space.size

    def excess(self, points: Points) -> Floats:
        """[D] how far designs are above the limit they break most, over that limit [1]; at most 0 within the limits."""
        if len(points) == 0:
            return np.empty(0)
        area, power = self.grid.silicon(points)
        worst = np.maximum(area / self.limits.area_mm2, power / self.limits.tdp_w) - 1.0
        capacity = self.grid.axes[HBM][points[:, HBM]] * float(self.grid.space.hbm_stack_bytes)
        worst = np.maximum(worst, self.limits.hbm_bytes / capacity - 1.0)
        breaks = (area > self.limits.area_mm2) | (power > self.limits.tdp_w) | (capacity < self.limits.hbm_bytes)
        # A quotient may round to 1: whether a limit is broken is decided as `Limits.allow` does.
        return np.asarray(np.where(breaks, np.maximum(worst, np.finfo(float).tiny), np.minimum(worst, 0.0)))

    def legal(self, points: Points) -> NDArray[np.bool_]:
        """[D] which points are designs of the grid within the limits."""
        inside = self.grid.inside(points)
        found = np.zeros(len(points), np.bool_)
        found[inside] = self.excess(points[inside]) <= 0.0
        return found

    def broken(self, point: Point) -> tuple[Broken, ...]:
        """The limits a design breaks."""
        area, power = self.grid.silicon(np.array([point], np.int64))
        capacity = float(self.grid.accelerator(point).hbm_bytes)
        found = []
        if area[0] > self.limits.area_mm2:
            found.append(Broken(limit="area_mm2", value=float(area[0]), allowed=self.limits.area_mm2))
        if power[0] > self.limits.tdp_w:
            found.append(Broken(limit="tdp_w", value=float(power[0]), allowed=self.limits.tdp_w))
        if capacity < self.limits.hbm_bytes:
            found.append(Broken(limit="hbm_bytes", value=capacity, allowed=self.limits.hbm_bytes))
        return tuple(found)

    def draw(self, random: np.random.Generator, count: int, *, legal: bool = True) -> list[Point]:
        """Designs drawn evenly from the grid, those outside the limits left out unless `legal` is False.

        Fewer than `count` where the limits leave next to nothing (`MOST_DRAWS`).
        """
        found: list[Point] = []
        drawn = 0
        while len(found) < count and drawn < MOST_DRAWS:
            points = random.integers(0, self.grid.lengths, (_DRAWN_AT_ONCE, len(self.lengths)))
            drawn += len(points)
            chosen = points[self.excess(points) <= 0.0] if legal else points
            found += [tuple(int(index) for index in row) for row in chosen[: count - len(found)]]
        return found

    @contextmanager
    def searching_mappings(self) -> Iterator[None]:
        """Book the CPU time of what is inside as a search of mappings instead of the searcher's own model."""
        started_s = time.process_time()
        try:
            yield
        finally:
            self.spent.mapping_s += time.process_time() - started_s

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Book the CPU time of what is inside as evaluations: schedules that a searcher makes itself."""
        started_s = time.process_time()
        try:
            yield
        finally:
            self.spent.evaluation_s += time.process_time() - started_s


class Searcher(Protocol):
    """A search for the best design, one batch at a time. Made anew for every problem and seed; used once.

    One that has a method `close` is told through it that no more will be asked.
    """

    def ask(self, most: int) -> Sequence[Point]:
        """Designs to evaluate, at most this many (>= 1); none when the searcher has finished.

        Every design asked for counts against the budget of evaluations, outside the limits and repeated ones too.
        """
        ...

    def tell(self, results: Sequence[Told]) -> None:
        """What came of the designs last asked for, in their order."""
        ...


@runtime_checkable
class SelfJudging(Protocol):
    """A searcher with a model of its own for what is best: a sum over layers, say.

    It is judged by the design it would build by that model, not by the best it came across; figures it was told are not
    charged to it, because it did not ask to know them.
    """

    def recommended(self) -> Point | None:
        """The design the searcher would build now; None as long as it has seen none within the limits."""
        ...


@runtime_checkable
class Shortlisting(Protocol):
    """A searcher that says itself which of its designs are scheduled thoroughly in the end."""

    def shortlist(self) -> Sequence[Point]:
        """Designs it asked for, best first; none where it leaves that to the contest, which takes the best figures."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A searcher whose run can go on in another process: worth it where a run takes longer than some minutes."""

    def state(self) -> dict[str, Any]:
        """Everything it knows, as plain values of JSON; asked for between `tell` and `ask`."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state of another that was made with the same problem and seed."""
        ...
