"""A genetic algorithm over points of the grid; ConfuciuX-like fine-tunes with the same steps.

Selection follows Deb's rules for limits (An efficient constraint handling method for genetic algorithms, Computer
Methods in Applied Mechanics and Engineering 186, 2000): a design within the limits beats one outside, two outside are
compared by how far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worklode.search.contest.interface import Problem, Told
from worklode.search.grid import Point

# Tries to make a child within the limits that was not asked for before [count]; then it is taken as it is.
MOST_TRIES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneticOptions:
    """A steady-state genetic algorithm. Values are common ones, not tuned.

    Attributes:
        population: designs kept.
        tournament: designs of which the best becomes a parent.
        crossover: share of children with two parents; each field is taken from one of them, evenly [1].
        mutation: chance that a field of a child changes [1]; one field of seven on average.
        longest_step: indices a changed field moves at most.
        children: made at a time.
    """

    population: int = 40
    tournament: int = 3
    crossover: float = 0.8
    mutation: float = 1.0 / 7.0
    longest_step: int = 2
    children: int = 8


class Population:
    """Designs kept, best first, and the children they make."""

    def __init__(self, problem: Problem, options: GeneticOptions, random: np.random.Generator) -> None:
        self.problem = problem
        self.options = options
        self.random = random
        self.members: list[tuple[bool, float, Point]] = []
        self.asked: set[Point] = set()

    def add(self, results: Sequence[Told]) -> None:
        """Keep the best of what there is and what was told."""
        known = {member[2] for member in self.members}
        for told in results:
            outside = told.figure is None
            if told.point not in known:
                self.members.append((outside, told.excess if told.figure is None else told.figure, told.point))
        self.members = sorted(self.members)[: self.options.population]

    def child(self) -> Point:
        """A new design: of two parents or one, changed here and there."""
        child = self._made()
        for _ in range(MOST_TRIES):
            legal = bool(self.problem.legal(np.array([child], np.int64))[0])
            if legal and child not in self.asked:
                break
            child = self._made()
        self.asked.add(child)
        return child

    def _made(self) -> Point:
        options, lengths = self.options, self.problem.lengths
        genes = np.array(self._parent(), np.int64)
        if self.random.random() < options.crossover:
            other = np.array(self._parent(), np.int64)
            genes = np.where(self.random.random(len(genes)) < 0.5, genes, other)
        changed = self.random.random(len(genes)) < options.mutation
        if not changed.any():
            changed[self.random.integers(len(genes))] = True
        steps = self.random.integers(1, options.longest_step + 1, len(genes)) * self.random.choice((-1, 1), len(genes))
        genes = np.clip(np.where(changed, genes + steps, genes), 0, np.array(lengths) - 1)
        return tuple(int(gene) for gene in genes)

    def _parent(self) -> Point:
        chosen = self.random.integers(len(self.members), size=self.options.tournament)
        return self.members[int(chosen.min())][2]  # members are sorted: the least index is the best


class Genetic:
    """Random designs first, then children of the best."""

    def __init__(self, problem: Problem, seed: int, options: GeneticOptions | None = None) -> None:
        self.problem = problem
        self.options = options or GeneticOptions()
        self.random = np.random.default_rng(seed)
        self.population = Population(problem, self.options, self.random)
        self.first = self._first()

    def ask(self, most: int) -> Sequence[Point]:
        """The first generation, then children."""
        if self.first:
            found, self.first = self.first[:most], self.first[most:]
            return found
        if not self.population.members:
            return ()
        return [self.population.child() for _ in range(min(most, self.options.children))]

    def tell(self, results: Sequence[Told]) -> None:
        """Let the worst go."""
        self.population.add(results)

    def _first(self) -> list[Point]:
        start = () if self.problem.start is None else (self.problem.start,)
        drawn = dict.fromkeys((*start, *self.problem.draw(self.random, self.options.population)))
        found = list(drawn)[: self.options.population]
        self.population.asked.update(found)
        return found
