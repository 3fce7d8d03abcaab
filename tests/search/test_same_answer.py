"""The same answer whatever the listing of the graph, the number of workers and the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph.listings import relisted
from tests.graph.strategies import graphs

from worklode.graph.file import graph_digest, save_graph
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.presets import load_preset
from worklode.search.certificate import ProofOptions
from worklode.search.evaluate import Evaluator
from worklode.search.local import LocalSearchOptions
from worklode.search.mining import MiningResult, mine

from .strategies import small_graph, small_limits, small_objective, small_space, technology

SLOW = pytest.mark.slow
# Quick ones, and those with recurrent, branching, routed, shared and odd structure.
QUICK_MODELS = ("dlrm", "resnet18")
SLOW_MODELS = ("bert-base", "inception-v3", "mobilenet-v3-large", "t5-base", "vgg16", "gnmt", "mixtral-8x7b", "sd-unet")
MODELS = (*QUICK_MODELS, *(pytest.param(name, marks=SLOW) for name in SLOW_MODELS))


def evaluated(graph: TrainingGraph, *presets: str) -> str:
    """Evaluations in full, to the last bit of every number."""
    evaluator = Evaluator(graph, technology())
    found = [evaluator.evaluate(load_preset(preset)).to_dict() for preset in presets]
    return json.dumps([found, evaluator.memory.peak_operator, graph_digest(evaluator.fused)], sort_keys=True)


def mined(graph: TrainingGraph, seed: int, workers: int) -> str:
    """A mining result in full, wall times left out."""
    space = small_space(seed)
    result = mine(
        [Evaluator(graph, technology())],
        space,
        technology(),
        limits=small_limits(seed, space),
        objective=small_objective(seed),
        options=LocalSearchOptions(top_k=3),
        proof=ProofOptions(workers=workers),
    )
    return answer(result)


def answer(result: MiningResult) -> str:
    return json.dumps([timeless(result.to_dict()), timeless(list(result.designs))], sort_keys=True)


def timeless(document: Any) -> Any:
    """A document without what a clock decides."""
    if isinstance(document, dict):
        return {key: timeless(value) for key, value in document.items() if key not in ("wall_time_s", "proof_time_s")}
    if isinstance(document, list | tuple):
        return [timeless(value) for value in document]
    return document


def is_step(graph: TrainingGraph) -> bool:
    """Something to run, and no collective: a single device has no network."""
    return bool(graph.operators) and all(operator.work.communication is None for operator in graph.operators)


@settings(deadline=None, max_examples=25)
@given(graph=graphs().filter(is_step), seed=st.integers(0, 2**32 - 1))
def test_any_graph_is_evaluated_alike_in_every_listing(graph: TrainingGraph, seed: int) -> None:
    assert evaluated(graph, "tpuv2", "a100-80gb") == evaluated(relisted(graph, seed), "tpuv2", "a100-80gb")


@pytest.mark.parametrize("seed", range(6))
def test_training_steps_are_evaluated_alike_in_every_listing(seed: int) -> None:
    graph = small_graph(seed)
    first = evaluated(graph, "tpuv2", "nvdla-small")
    assert all(evaluated(relisted(graph, other), "tpuv2", "nvdla-small") == first for other in range(3))


@pytest.mark.parametrize("seed", range(6))
def test_mining_is_alike_in_every_listing_and_with_every_number_of_workers(seed: int) -> None:
    graph = small_graph(seed)
    first = mined(graph, seed, workers=1)
    assert mined(relisted(graph, seed), seed, workers=1) == first
    assert mined(relisted(graph, seed + 1), seed, workers=2) == first


@cache
def captured(name: str) -> TrainingGraph:
    pytest.importorskip("torch", reason="capturing needs torch")
    from worklode.frontend.api import capture

    return capture(name)


@pytest.mark.parametrize("name", MODELS)
def test_captured_models_are_evaluated_alike_in_every_listing(name: str) -> None:
    graph = captured(name)
    assert evaluated(graph, "tpuv2") == evaluated(relisted(graph, 1), "tpuv2")


MINE = """
import json, sys
from tests.search.test_same_answer import mine_file
sys.stdout.write(mine_file(sys.argv[1], workers=int(sys.argv[2])))
"""


def mine_file(path: str, workers: int) -> str:
    """Mine a saved graph in the budget of a TPUv2, over the default space."""
    from worklode.api import mine as mine_workload
    from worklode.graph.file import load_graph

    return answer(mine_workload(load_graph(path), budget="tpuv2", top_k=3, workers=workers))


def mined_elsewhere(path: Path, workers: int, hash_seed: str) -> str:
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", MINE, str(path), str(workers)],
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join((str(root), str(root / "src")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def check_processes(graph: TrainingGraph, folder: Path) -> None:
    one, other = folder / "one.wlg.json.gz", folder / "other.wlg.json.gz"
    save_graph(graph, one)
    save_graph(relisted(graph, 2), other)
    assert one.read_bytes() != other.read_bytes()
    here = mine_file(str(one), workers=2)
    assert mined_elsewhere(other, workers=1, hash_seed="1") == here
    assert mined_elsewhere(one, workers=2, hash_seed="2") == here


def test_mining_is_alike_in_another_process(tmp_path: Path) -> None:
    check_processes(small_graph(3), tmp_path)


@SLOW
@pytest.mark.parametrize("name", ["dlrm", "resnet18", "bert-base", "inception-v3"])
def test_mining_captured_models_is_alike_in_another_process(name: str, tmp_path: Path) -> None:
    check_processes(captured(name), tmp_path)
