"""TPE and NSGA-II of Optuna (optuna.org, an extra: `pip install 'worklode[bench]'`), limits as constraints.

Both see the fields of a design as ordered integers, its figure, and how far it is outside the limits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.search.contest.interface import Problem, Told
from worklode.search.grid import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class OptunaOptions:
    """Optuna's samplers with their own defaults.

    Attributes:
        population: designs of a generation (NSGA-II), or random ones at first (TPE); None for Optuna's default.
        batch: designs asked for at a time by TPE, which it then makes without knowing one another's figures.
    """

    population: int | None = None
    batch: int = 1


class _OptunaSearcher:
    """An Optuna study behind `ask` and `tell`."""

    def __init__(self, problem: Problem, sampler: optuna.samplers.BaseSampler, batch: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.problem = problem
        self.batch = batch
        self.study = optuna.create_study(sampler=sampler, direction="minimize")
        self.waiting: list[optuna.Trial] = []
        self.worst = -math.inf
        if problem.start is not None:
            self.study.enqueue_trial(dict(zip(SEARCHED_FIELDS, problem.start, strict=True)))

    def ask(self, most: int) -> Sequence[Point]:
        """The sampler's next designs."""
        self.waiting = [self.study.ask() for _ in range(min(most, self.batch))]
        return [self._point(trial) for trial in self.waiting]

    def tell(self, results: Sequence[Told]) -> None:
        """Hand figures and constraints on.

        A design outside the limits has no figure; its constraint alone decides among such, so it gets the worst one.
        """
        for trial, told in zip(self.waiting, results, strict=True):
            trial.set_constraint("limits", told.excess)  # broken above 0
            if told.figure is not None:
                self.worst = max(self.worst, told.figure)
            value = told.figure if told.figure is not None else max(self.worst, 0.0)
            self.study.tell(trial, value)

    def _point(self, trial: optuna.Trial) -> Point:
        lengths = self.problem.lengths
        return tuple(
            trial.suggest_int(name, 0, length - 1) for name, length in zip(SEARCHED_FIELDS, lengths, strict=True)
        )


class Tpe(_OptunaSearcher):
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), multivariate."""

    def __init__(self, problem: Problem, seed: int, options: OptunaOptions | None = None) -> None:
        chosen = options or OptunaOptions()
        settings: dict[str, Any] = {} if chosen.population is None else {"n_startup_trials": chosen.population}
        with warnings.catch_warnings():  # multivariate is marked as experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=_seed(seed), multivariate=True, **settings)
        super().__init__(problem, sampler, chosen.batch)


class Nsga2(_OptunaSearcher):
    """NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002), one objective, constrained.

    Without a second objective its front is the best designs alone: what stays is its way of selecting and mating.
    """

    def __init__(self, problem: Problem, seed: int, options: OptunaOptions | None = None) -> None:
        chosen = options or OptunaOptions()
        settings: dict[str, Any] = {} if chosen.population is None else {"population_size": chosen.population}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.NSGAIISampler(seed=_seed(seed), **settings)
        super().__init__(problem, sampler, chosen.batch)


def _seed(seed: int) -> int:
    """Neighbouring seeds of Optuna's generators are as good as any, but they must fit into 32 bits."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])
