"""A searcher of one's own: simulated annealing over the grid of designs. Guide: docs/bench.md.

    worklode bench resnet18 --budget tpuv2 --searchers worklode,examples/searcher.py:Annealing

A package makes it known by a name of its own with an entry point:

    [project.entry-points."worklode.searchers"]
    annealing = "my_package.searcher:Annealing"
"""

import numpy as np


class Annealing:
    """One step along one axis at a time; worse designs are accepted less and less often."""

    def __init__(self, problem, seed):
        """Begin at the budget's own design, or at a random one within the limits."""
        self.problem, self.random, self.heat = problem, np.random.default_rng(seed), 0.3
        self.here, self.figure = None, np.inf
        self.next = [problem.start] if problem.start else problem.draw(self.random, 1)

    def ask(self, most):
        """One design at a time; an empty list ends the search."""
        return self.next

    def tell(self, results):
        """Go to the design just evaluated if it is better, or by chance; then take a step from where we are."""
        for told in results:
            figure = np.inf if told.figure is None else told.figure  # None: told.broken says which limits it breaks
            if figure < self.figure * (1 + self.heat * self.random.exponential()):
                self.here, self.figure = told.point, figure
            self.heat *= 0.99
            point = np.array(self.here or told.point)
            axis = self.random.integers(len(point))
            point[axis] = np.clip(point[axis] + self.random.choice((-2, -1, 1, 2)), 0, self.problem.lengths[axis] - 1)
            self.next = [tuple(int(index) for index in point)]
