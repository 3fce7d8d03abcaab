"""Fusion of captured models: what it promises holds, and a layer comes down to what a fusing compiler leaves."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="capturing needs torch")

from worklode.frontend.api import capture
from worklode.frontend.options import CaptureOptions
from worklode.graph.fusion import FusionOptions, FusionPattern, fuse
from worklode.graph.memory import memory_footprint
from worklode.graph.operator import Operator, Phase
from worklode.graph.training_graph import TrainingGraph

from .test_fusion_properties import check_everything, label

MODELS = ("resnet18", "bert-base", "dlrm", "mobilenet-v3-large")


@pytest.fixture(scope="module")
def captured() -> dict[str, TrainingGraph]:
    return {name: capture(name) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_promises_hold(captured: dict[str, TrainingGraph], name: str) -> None:
    graph = captured[name]
    fused = check_everything(label(graph), FusionOptions())
    before, after = memory_footprint(graph), memory_footprint(fused)
    assert after.saved_activations == before.saved_activations
    # the order stays near the captured one, and so does liveness
    assert after.total_peak <= 1.01 * before.total_peak


def of_instance(graph: TrainingGraph, instance: int) -> list[Operator]:
    return [o for o in graph.operators if o.block == 0 and o.instance == instance]


def test_a_bert_layer_is_its_products_two_norms_each_way_and_one_update(captured: dict[str, TrainingGraph]) -> None:
    """What a compiler with fused kernels leaves of a layer: every product, each norm once forward and once backward."""
    graph = captured["bert-base"]
    layer = of_instance(fuse(graph).graph, 5)
    products = [o for o in of_instance(graph, 5) if o.work.products]
    assert sum(bool(o.work.products) for o in layer) == len(products) == 20
    others = [o.phase for o in layer if not o.work.products]
    assert others == [Phase.FORWARD] * 2 + [Phase.BACKWARD] * 2 + [Phase.OPTIMIZER]


def test_layers_fuse_equally(captured: dict[str, TrainingGraph]) -> None:
    graph = fuse(captured["bert-base"]).graph
    layers = [[(o.name, o.item) for o in of_instance(graph, instance)] for instance in range(1, 11)]
    assert all(layer == layers[0] for layer in layers)


def test_microbatches_cost_no_more_memory_fused() -> None:
    graph = capture("resnet18", CaptureOptions(accumulation_steps=2))
    fused = fuse(graph).graph
    assert memory_footprint(fused).total_peak <= 1.01 * memory_footprint(graph).total_peak


def test_a_residual_network_fuses_norms_with_activations(captured: dict[str, TrainingGraph]) -> None:
    report = fuse(captured["resnet18"]).report
    groups = {pattern.pattern: pattern.groups for pattern in report.patterns}
    assert groups[FusionPattern.NORMALIZATION] >= 17  # 20 batch norms, three of them on shortcuts
    assert report.hbm_bytes_after < 0.75 * report.hbm_bytes_before
