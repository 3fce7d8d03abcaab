"""Searchers without a model: every design in turn, designs drawn at random, hill climbing with restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worklode.search.contest.interface import Problem, Told
from worklode.search.grid import Point, moves

# Designs whose limits are checked at once [count].
_BLOCK = 4096
# Draws in a row that bring nothing new, after which a small space counts as seen [count].
MOST_STARTS = 100


class Exhaustive:
    """Every design within the limits, in the order of their positions in the space."""

    def __init__(self, problem: Problem, seed: int, options: None = None) -> None:
        self.problem = problem
        self.position = 0
        self.waiting: list[Point] = []

    def ask(self, most: int) -> Sequence[Point]:
        """The next designs within the limits."""
        space = self.problem.grid.space
        while len(self.waiting) < most and self.position < space.size:
            block = np.arange(self.position, min(self.position + _BLOCK, space.size))
            points = np.stack(np.unravel_index(block, space.shape), axis=1).astype(np.int64)
            self.position += len(block)
            self.waiting += [tuple(int(i) for i in row) for row in points[self.problem.excess(points) <= 0.0]]
        found, self.waiting = self.waiting[:most], self.waiting[most:]
        return found

    def tell(self, results: Sequence[Told]) -> None:
        """Nothing is learnt."""


class Random:
    """Designs within the limits, drawn evenly without repetition."""

    def __init__(self, problem: Problem, seed: int, options: None = None) -> None:
        self.problem = problem
        self.random = np.random.default_rng(seed)
        self.asked: set[Point] = set()

    def ask(self, most: int) -> Sequence[Point]:
        """New designs; none where many draws brought no new one."""
        for _ in range(MOST_STARTS):
            drawn = dict.fromkeys(self.problem.draw(self.random, most))
            fresh = [point for point in drawn if point not in self.asked]
            if fresh or not drawn:
                self.asked.update(fresh)
                return fresh
        return ()

    def tell(self, results: Sequence[Told]) -> None:
        """Nothing is learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HillClimbingOptions:
    """Hill climbing.

    Attributes:
        width: neighbours asked for at a time, in random order; the climb moves on as soon as one of them is better.
    """

    width: int = 8


class HillClimbing:
    """From the budget's design, then from random ones: to a better neighbour until there is none.

    A neighbour differs by one step along one axis, or by an exchange of one step up for one step down.
    """

    def __init__(self, problem: Problem, seed: int, options: HillClimbingOptions | None = None) -> None:
        self.problem = problem
        self.options = options or HillClimbingOptions()
        self.random = np.random.default_rng(seed)
        self.steps = moves(tuple(range(len(problem.lengths))), (1, 2))
        self.seen: set[Point] = set()
        self.place: tuple[Point, float] | None = None
        self.waiting: list[Point] = []
        self.started = False

    def ask(self, most: int) -> Sequence[Point]:
        """The next neighbours of where the climb is, or a new start."""
        if self.place is None:
            return self._start()
        found = self.waiting[: min(most, self.options.width)]
        self.waiting = self.waiting[len(found) :]
        if not found:  # a summit
            self.place = None
            return self._start()
        self.seen.update(found)
        return found

    def tell(self, results: Sequence[Told]) -> None:
        """Move to the best of what was asked for where it is better."""
        better = [(told.figure, told.point) for told in results if told.figure is not None]
        if not better:
            return
        figure, point = min(better)
        if self.place is None or figure < self.place[1]:
            self.place = (point, figure)
            self.waiting = self._neighbours(point)

    def _start(self) -> list[Point]:
        start = self.problem.start
        if not self.started and start is not None:
            self.started = True
            self.seen.add(start)
            return [start]
        for _ in range(MOST_STARTS):
            drawn = self.problem.draw(self.random, 1)
            if not drawn:
                break
            if drawn[0] not in self.seen:
                self.seen.update(drawn)
                return drawn
        return []

    def _neighbours(self, point: Point) -> list[Point]:
        around = np.array([point], np.int64) + self.steps
        around = around[self.problem.legal(around)]
        self.random.shuffle(around)
        listed = (tuple(int(index) for index in row) for row in around)
        return [neighbour for neighbour in listed if neighbour not in self.seen]
