"""ConfuciuX-like: a policy assigns resources layer by layer, REINFORCE improves it, a genetic algorithm fine-tunes.

After S.-C. Kao, G. Jeong, T. Krishna, ConfuciuX: Autonomous Hardware Resource Assignment for DNN Accelerators using
Reinforcement Learning, MICRO 2020 (arXiv 2009.02010). Written from what is published about the method; what is taken
over and what differs: docs/models/searchers.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from worklode.cost.compiled import Floats
from worklode.cost.model import CostModel
from worklode.graph.work import WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.search.contest.genetic import GeneticOptions, Population
from worklode.search.contest.interface import Problem, Told
from worklode.search.contest.layers import (
    Layers,
    fastest_options,
    forward_layers,
    layer_figures,
    objective_figure,
    training_layers,
)
from worklode.search.contest.recurrent_policy import Adam, RecurrentPolicy, Trace
from worklode.search.evaluate import Evaluator
from worklode.search.grid import Point

# Episodes in a row without a new design within the limits, after which fine-tuning begins [count].
MOST_FRUITLESS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfuciuxOptions:
    """A ConfuciuX-like search. All but the genetic algorithm's are assumptions of the paper's order of size.

    Attributes:
        designs: new designs within the limits that the policy proposes before fine-tuning begins.
        hidden: state of the policy's LSTM.
        rate: learning rate of Adam.
        discount: of later rewards.
        genetic: fine-tuning; `longest_step` 1 keeps it local.
    """

    designs: int = 500
    hidden: int = 128
    rate: float = 1e-3
    discount: float = 0.9
    genetic: GeneticOptions = field(default_factory=lambda: GeneticOptions(population=20, longest_step=1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """A layer the policy assigns resources to."""

    model: CostModel
    count: float
    features: Floats


@dataclass(slots=True, kw_only=True, eq=False)
class _Episode:
    """One walk over the layers: what was chosen, what it earned, and the chip that comes of it."""

    traces: list[Trace]
    rewards: list[float]
    chip: Point | None


class _Confuciux(ABC):
    """The search; a form says which layers are seen and what a chip is worth."""

    def __init__(self, problem: Problem, seed: int, options: ConfuciuxOptions | None = None) -> None:
        self.problem = problem
        self.options = options or ConfuciuxOptions()
        self.random = np.random.default_rng(seed)
        self.seen_layers = tuple(self._seen(evaluator) for evaluator in problem.evaluators)
        self.layers = [
            layer
            for evaluator, seen in zip(problem.evaluators, self.seen_layers, strict=True)
            for layer in _layers(evaluator, seen)
        ]
        inputs = len(self.layers[0].features) if self.layers else 1
        self.policy = RecurrentPolicy(inputs, problem.lengths, self.options.hidden, self.random)
        self.adam = Adam(self.policy.parameters, self.options.rate)
        self.worst_layer = np.full(len(self.layers), np.inf)
        self.worst_chip = np.inf
        self.known: dict[Point, float] = {}
        self.outside: dict[Point, Told] = {}
        self.episode: _Episode | None = None
        self.proposed = 0
        self.population: Population | None = None

    def ask(self, most: int) -> Sequence[Point]:
        """The chip of an episode; children of the best once the policy has proposed enough."""
        if self.population is None and self.proposed < self.options.designs and self.layers:
            for _ in range(MOST_FRUITLESS):
                episode = self._walk()
                chip = episode.chip
                if chip is not None and chip not in self.known and chip not in self.outside:
                    self.episode = episode
                    self.proposed += 1
                    return (chip,)
                self._learn(episode)
        return self._children(most)

    def tell(self, results: Sequence[Told]) -> None:
        """Learn from the chip, or let the worst of the population go."""
        measured = [self._measured(told) for told in results]
        for told in measured:
            if told.figure is None:
                self.outside[told.point] = told
            else:
                self.known[told.point] = told.figure
        if self.population is not None:
            self.population.add(measured)
        elif self.episode is not None:
            self._learn(self.episode)
            self.episode = None

    # -- the policy -----------------------------------------------------------------------------------------------

    def _walk(self) -> _Episode:
        """Assign resources to one layer after another; an assignment outside the limits ends the walk."""
        state = self.policy.start()
        episode = _Episode(traces=[], rewards=[], chip=None)
        chosen, shares = [], []
        for index, layer in enumerate(self.layers):
            trace, state = self.policy.step(layer.features, state, self.random)
            episode.traces.append(trace)
            point = np.array([trace.actions], np.int64)
            if not self.problem.legal(point)[0]:
                # As the paper has it: whatever was earned before is lost.
                episode.rewards.append(-sum(episode.rewards))
                return episode
            time_s = _alone_s(layer.model, self.problem.grid.accelerator(trace.actions))
            performance = -float(np.log(time_s))
            self.worst_layer[index] = min(self.worst_layer[index], performance)
            episode.rewards.append(performance - float(self.worst_layer[index]))
            chosen.append(trace.actions)
            shares.append(layer.count * time_s)
        episode.chip = _common(np.array(chosen, np.int64), np.array(shares))
        return episode

    def _learn(self, episode: _Episode) -> None:
        """One step of REINFORCE with standardised returns."""
        rewards = list(episode.rewards)
        if episode.chip is not None:
            rewards[-1] += self._chip_reward(episode.chip)
        returns, following = [], 0.0
        for reward in reversed(rewards):
            following = reward + self.options.discount * following
            returns.append(following)
        advantages = np.array(returns[::-1])
        deviation = float(advantages.std())
        advantages = (advantages - advantages.mean()) / deviation if deviation > 0.0 else advantages
        self.adam.update(self.policy.parameters, self.policy.gradient(episode.traces, list(advantages)))

    def _chip_reward(self, chip: Point) -> float:
        """How much better the chip is than the worst one; outside the limits, minus what its layers earned at most."""
        if chip not in self.known:
            return -float(len(self.layers))
        performance = -float(np.log(self.known[chip]))
        self.worst_chip = min(self.worst_chip, performance)
        return performance - float(self.worst_chip)

    # -- fine-tuning ----------------------------------------------------------------------------------------------

    def _children(self, most: int) -> list[Point]:
        if self.population is None:
            self.population = Population(self.problem, self.options.genetic, self.random)
            for point in (*self.known, *self.outside):
                self.population.asked.add(point)
            self.population.add([Told(point=point, figure=figure, excess=0.0) for point, figure in self.known.items()])
            self.population.add(list(self.outside.values()))
        if not self.population.members:
            return self.problem.draw(self.random, 1)
        return [self.population.child() for _ in range(min(most, self.options.genetic.children))]

    # -- the worth of a chip --------------------------------------------------------------------------------------

    @abstractmethod
    def _seen(self, evaluator: Evaluator) -> Layers: ...

    @abstractmethod
    def _measured(self, told: Told) -> Told: ...


class ConfuciuxInference(_Confuciux):
    """The form of the paper: layers of inference, one after the other; a chip is worth their sum."""

    def recommended(self) -> Point | None:
        """The chip with the least sum."""
        return min(self.known, key=lambda point: (self.known[point], point)) if self.known else None

    def _seen(self, evaluator: Evaluator) -> Layers:
        return forward_layers(evaluator)

    def _measured(self, told: Told) -> Told:
        if told.figure is None:
            return told
        accelerator = self.problem.grid.accelerator(told.point)
        logs = []
        for evaluator, layers in zip(self.problem.evaluators, self.seen_layers, strict=True):
            costs = evaluator.model.on(accelerator)
            chosen = fastest_options(costs, accelerator, layers.items)
            times, energies = layer_figures(evaluator, accelerator, costs, layers, chosen)
            parts = (self.problem.objective, accelerator, evaluator, float(times.sum()), float(energies.sum()))
            logs.append(np.log(objective_figure(*parts)))
        return replace(told, figure=float(np.exp(np.dot(self.problem.weights, logs))))


class ConfuciuxTraining(_Confuciux):
    """Extended: layers of the training step, and the schedule's figure of a chip as the last reward."""

    def _seen(self, evaluator: Evaluator) -> Layers:
        return training_layers(evaluator)

    def _measured(self, told: Told) -> Told:
        return told


def _layers(evaluator: Evaluator, seen: Layers) -> list[_Layer]:
    """The layers with their features; a cost model each, so that a layer is costed without the others."""
    total = len(seen)
    return [
        _Layer(
            model=CostModel([evaluator.model.items[item]], mode=evaluator.model.mode),
            count=float(count),
            features=np.array([*_features(evaluator.model.items[item]), np.log2(count), index / max(1, total - 1)]),
        )
        for index, (item, count) in enumerate(zip(seen.items, seen.counts, strict=True))
    ]


def _features(item: WorkItem) -> list[float]:
    """Sizes of a layer, in logarithms scaled to about 1."""
    product = max(item.work.products, key=lambda found: found.flops)
    sizes = (product.batch, product.m, product.n, product.k, product.window)
    moved = (item.read_bytes, item.write_bytes, item.work.simple_ops + item.work.special_ops)
    return [float(np.log2(1.0 + size)) / 20.0 for size in (*sizes, *moved)]


def _alone_s(model: CostModel, accelerator: Accelerator) -> float:
    """Least time [s] of the one item of a model alone on a design."""
    costs = model.on(accelerator)
    return float(np.maximum(costs.compute_s, costs.hbm_bytes / accelerator.sustained_hbm_bytes_per_s).min())


def _common(chosen: np.ndarray[tuple[int, int], np.dtype[np.int64]], shares: Floats) -> Point:
    """One chip for all layers: for each field the median of what they were assigned, weighted by their times."""
    chip = []
    for column in chosen.T:
        order = np.argsort(column, kind="stable")
        reached = np.cumsum(shares[order]) >= 0.5 * shares.sum()
        chip.append(int(column[order][int(np.argmax(reached))]))
    return tuple(chip)
