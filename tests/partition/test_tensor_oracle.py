"""The graph of a shard against devices: the same work, the same collectives, and a step that is numerically right."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch

from worklode.frontend import CaptureOptions, capture_module
from worklode.frontend.zoo.gpt import Gpt, GptConfig
from worklode.frontend.zoo.workload import token_cross_entropy
from worklode.graph.operator import OperatorKind, Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.plan import plan_from_mapping, tensor_plan_for
from worklode.partition.tensor_parallel import shard

from .emulated import LocalLayers, emulate, whole_gradients

BATCH, LENGTH, VOCABULARY = 2, 16, 48
CONFIG = GptConfig(
    width=32, layers=2, heads=8, context=LENGTH, vocabulary=VOCABULARY,
    dropout=0.0, embedding_dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
ELEMENT_BYTES = 4


@cache
def model() -> Gpt:
    torch.manual_seed(0)
    return Gpt(CONFIG)


@cache
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids, targets = (torch.randint(VOCABULARY, (BATCH, LENGTH)) for _ in range(2))
    return ids, targets


@cache
def captured() -> TrainingGraph:
    ids, targets = tokens()
    return capture_module(
        model(), {"tokens": ids}, token_cross_entropy(targets), options=CaptureOptions(dtype="fp32", optimizer="sgd")
    )


def moved(graph: TrainingGraph, *phases: Phase) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for operator in graph.operators:
        communication = operator.work.communication
        if communication is not None and operator.phase in phases:
            found[str(communication.collective), communication.bytes // ELEMENT_BYTES] += 1
    return found


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("sequence", [False, True])
def test_a_shard_does_and_sends_what_an_emulated_device_does(devices: int, sequence: bool) -> None:
    ids, targets = tokens()
    reference = model()
    reference.zero_grad()
    loss = token_cross_entropy(targets)(reference(ids))
    loss.backward()
    emulation = emulate(reference, ids, targets, devices, sequence=sequence)
    assert emulation.losses == pytest.approx([float(loss.detach())] * devices, rel=1e-5)
    gradients = whole_gradients(reference, emulation, sequence=sequence)
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)

    made = shard(captured(), tensor_plan_for("gpt2-xl"), devices=devices, sequence_parallel=sequence)
    assert made.graph.matrix_flops() == emulation.flops
    forward = Counter({(kind, n): c for (kind, n, back), c in emulation.moved.items() if not back})
    backward = Counter({(kind, n): c for (kind, n, back), c in emulation.moved.items() if back})
    assert moved(made.graph, Phase.FORWARD, Phase.LOSS) == forward
    found = moved(made.graph, Phase.BACKWARD)
    if sequence:  # the position table is sliced behind a sum over the batch: its gradient is gathered once
        found.subtract({("all_gather", LENGTH * CONFIG.width): 1})
    assert +found == backward
    local = sum(gradient.numel() for gradient in emulation.gradients[0].values())
    assert made.report.shard_parameters == local


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["bf16", "amp"])
def test_every_operator_equals_that_of_a_module_of_local_sizes(devices: int, dtype: str) -> None:
    options = CaptureOptions(dtype=dtype)
    x = torch.zeros(BATCH, LENGTH, CONFIG.width)
    plan = plan_from_mapping(
        {
            "layers.*.query_key_value": "colwise:3",
            "layers.*.output": "rowwise",
            "layers.*.up": "colwise",
            "layers.*.down": "rowwise",
        },
        name="layers",
    )

    def graph_of(local_to: int) -> TrainingGraph:
        return capture_module(lambda: LocalLayers(2, 32, 8, local_to, 0.1), x, lambda y: y.mean(), options=options)

    made = shard(graph_of(1), plan, devices=devices).graph
    expected = graph_of(devices)

    def work(graph: TrainingGraph) -> Counter[object]:
        return Counter(
            (o.name, o.phase, o.module, o.work, o.read_bytes, o.write_bytes, o.gradient_of)
            for o in graph.operators
            if o.kind is not OperatorKind.COLLECTIVE
        )

    assert work(made) == work(expected)
    assert made.info.parameters == expected.info.parameters
    assert made.saved_bytes() == expected.saved_bytes()
