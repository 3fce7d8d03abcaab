"""Every zoo model, captured once for the whole run: its workers share the graphs through a cache of their own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from worklode import api
from worklode.frontend import zoo
from worklode.frontend.zoo.entries import ZooEntry
from worklode.graph.training_graph import TrainingGraph
from worklode.search.evaluate import Evaluator
from worklode.search.mining import MiningResult

if TYPE_CHECKING:
    from .torch_step import TorchStep


class ZooModel:
    """A model of the zoo at its default shape, and what the tests want of it, each made at most once."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.entry: ZooEntry = zoo.entry(name)
        self._folder = folder
        self._mined: dict[tuple[str, str], MiningResult] = {}

    @cached_property
    def graph(self) -> TrainingGraph:
        """The captured step: by the first worker that asks, then from the cache, as users get it."""
        with pytest.MonkeyPatch.context() as patch, _one_at_a_time(self._folder / f"{self.name}.lock"):
            patch.setenv("WORKLODE_CACHE", str(self._folder))
            return api.capture(self.name, note=_no_note)

    @cached_property
    def evaluator(self) -> Evaluator:
        return api.evaluator(self.graph)

    @cached_property
    def torch_step(self) -> TorchStep:
        """The same step as torch itself counts it."""
        from .torch_step import torch_step

        return torch_step(self.name)

    def mined(self, budget: str, objective: str) -> MiningResult:
        key = (budget, objective)
        if key not in self._mined:
            self._mined[key] = api.mine(self.graph, budget=budget, objective=objective, top_k=1)
        return self._mined[key]


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """A lock between processes: whoever comes second finds the graph in the cache."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _no_note(text: str) -> None:
    """A damaged or unwritable cache would make these tests slow and say nothing."""
    pytest.fail(f"the cache of this run is not sound: {text}")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ZooModel]:
    """All models by name. Under pytest-xdist the folder is the run's, above each worker's own."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo-graphs"
    folder.mkdir(exist_ok=True)
    return {name: ZooModel(name, folder) for name in zoo.names()}


@pytest.fixture(scope="session", params=zoo.names())
def model(request: pytest.FixtureRequest, models: Mapping[str, ZooModel]) -> ZooModel:
    """Session scope groups the tests by model, so that a worker has few of them to load."""
    return models[request.param]
