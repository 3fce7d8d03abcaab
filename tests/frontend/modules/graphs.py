"""Captures and real steps of the catalogue, each made once per process."""

from __future__ import annotations

from functools import cache

import pytest

from worklode.frontend import CaptureOptions, Workload, capture
from worklode.frontend.environment import package_version
from worklode.graph.training_graph import TrainingGraph

from . import CATALOGUE
from .huggingface import configuration_file
from .reference import Counted, real_step


@cache
def captured(name: str) -> TrainingGraph:
    """The graph of an entry."""
    entry = CATALOGUE[name]
    options = CaptureOptions(**({"dtype": "fp32"} | entry.options))
    if entry.configuration is None:
        return capture(Workload(name=name, make=entry.build), options)
    require_transformers(name)
    return capture(configuration_file(name, entry.configuration), options)


@cache
def counted(name: str) -> Counted:
    """The figures to expect: of the real step, or of the entry's own count."""
    entry = CATALOGUE[name]
    if entry.configuration is not None:
        require_transformers(name)
    found = real_step(entry.build, entry.options.get("accumulation_steps", 1))
    if entry.count is None:
        return found
    forward, backward = entry.count()
    return found._replace(forward=forward, backward=backward)


def require_transformers(name: str) -> None:
    """Skip the test where the library is missing."""
    if package_version("transformers") is None:
        pytest.skip(f"{name} is a configuration of transformers, which is not installed")
