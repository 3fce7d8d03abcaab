"""Small contests: a drawn step on a drawn space, and searchers with options that let them end in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.search.strategies import small_evaluator, technology

from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space
from worklode.search.contest.cell import Maker
from worklode.search.contest.confuciux import ConfuciuxInference, ConfuciuxOptions, ConfuciuxTraining
from worklode.search.contest.interface import Problem, Searcher
from worklode.search.contest.judging import Contest, contest
from worklode.search.contest.mapping_search import MappingSearchOptions
from worklode.search.contest.registry import searcher_maker, searcher_names
from worklode.search.contest.spotlight import SpotlightInference, SpotlightOptions, SpotlightTraining
from worklode.search.evaluate import silicon
from worklode.search.grid import Grid
from worklode.search.objective import Limits, Objective

FEW_MAPPINGS = MappingSearchOptions(samples=8, first=4, batch=4, pool=16)
FEW_DESIGNS = SpotlightOptions(samples=9, first=4, batch=3, pool=50, mappings=FEW_MAPPINGS)
SHORT_TRAINING = ConfuciuxOptions(designs=20, hidden=8)
SHORTENED: dict[str, tuple[Callable[..., Searcher], object]] = {
    "spotlight-like": (SpotlightTraining, FEW_DESIGNS),
    "spotlight-like-inference": (SpotlightInference, FEW_DESIGNS),
    "confuciux-like": (ConfuciuxTraining, SHORT_TRAINING),
    "confuciux-like-inference": (ConfuciuxInference, SHORT_TRAINING),
}
# A user's own is held to the same: the one that docs/bench.md shows.
EXAMPLE = f"{Path(__file__).resolve().parents[3] / 'examples' / 'searcher.py'}:Annealing"
NAMES = (*searcher_names(), EXAMPLE)


def maker(name: str) -> Maker:
    if name not in SHORTENED:
        return searcher_maker(name)
    made, options = SHORTENED[name]
    return partial(_with_options, made, options)


def _with_options(made: Callable[..., Searcher], options: object, problem: Problem, seed: int) -> Searcher:
    return made(problem, seed, options)


def space_of_648() -> DesignSpace:
    sets: dict[str, Any] = {
        "tensor_core_rows": (32, 128),
        "tensor_core_cols": (16, 64, 128),
        "vector_lanes": (128, 512, 1024),
        "num_tensor_cores": (1, 2, 4),
        "num_vector_cores": (1, 2, 4),
        "sram_bytes": (2**21, 2**24),
        "hbm_stacks": (1, 2),
    }
    return replace(default_space(load_preset("tpuv2")), **sets)


# Share of TPUv2's area that about half of the 648 designs keep [1], and a design that does.
HALF_OF_THEM = 0.56
START = (0, 1, 1, 1, 1, 0, 1)


def small_contest(
    seed: int = 1, *, area_share: float = HALF_OF_THEM, objective: Objective = Objective.THROUGHPUT
) -> Contest:
    """A space of 648 designs around TPUv2, about half of them within a share of its area and its TDP."""
    grid = Grid(space_of_648(), technology())
    budget = load_preset("tpuv2")
    found = silicon(budget, technology())
    limits = Limits(area_mm2=area_share * found.area_mm2, tdp_w=found.tdp_w)
    evaluator = small_evaluator(seed)
    return contest("small", [evaluator], [1.0], grid, limits, objective, START)
