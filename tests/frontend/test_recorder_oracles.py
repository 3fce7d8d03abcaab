"""Captures on fake tensors against the same step on real ones: FLOPs, saved bytes, parameters, operators, order."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from worklode.frontend import CaptureOptions, capture
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults

from .real_step import MODELS_FILE, RealOperator, built, counted_flops, recorded, saved_storages

ALL = ("mlp", "convnet", "language_model", "explicit_language_model", "lstm", "gru", "in_place", "frozen")
SAME_OPERATORS = ("mlp", "explicit_language_model", "in_place", "frozen")
"""Models that a CPU and an accelerator run with the same operators."""


@cache
def captured(name: str, **options: object) -> TrainingGraph:
    return capture(f"{MODELS_FILE}:{name}", CaptureOptions(dtype="fp32", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
def test_graph_is_sound(name: str) -> None:
    assert graph_faults(captured(name)) == []


@pytest.mark.parametrize("name", ALL)
def test_forward_flops_are_those_torch_counts(name: str) -> None:
    found = captured(name).matrix_flops(Phase.FORWARD, Phase.LOSS)
    assert found == counted_flops(name, backward=False) > 0


@pytest.mark.parametrize("name", ["mlp", "explicit_language_model", "lstm", "frozen", "in_place"])
def test_forward_and_backward_flops_are_those_torch_counts(name: str) -> None:
    found = captured(name).matrix_flops(Phase.FORWARD, Phase.LOSS, Phase.BACKWARD)
    assert found == counted_flops(name, backward=True)


@pytest.mark.parametrize("name", [*SAME_OPERATORS, "convnet"])
def test_saved_bytes_are_those_autograd_keeps(name: str) -> None:
    kept = saved_storages(name)
    graph = captured(name)
    found = {t.storage: t.bytes for t in graph.tensors if t.saved and t.role is TensorRole.ACTIVATION}
    assert sorted(found.values()) == kept
    assert graph.saved_bytes() == sum(kept)


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_those_of_the_module(name: str) -> None:
    module, _, _ = built(name)
    info = captured(name).info
    assert info.parameters == sum(p.numel() for p in module.parameters())
    assert info.trainable_parameters == sum(p.numel() for p in module.parameters() if p.requires_grad)
    sizes = {t.name: t.bytes for t in captured(name).tensors if t.role is TensorRole.PARAMETER}
    shared = {name: p.numel() * 4 for name, p in module.named_parameters()}
    assert sizes.items() <= shared.items()
    assert {n for n in shared if n != "unused"} == set(sizes)


@pytest.mark.parametrize("name", SAME_OPERATORS)
def test_operators_are_those_of_a_real_step(name: str) -> None:
    real = [operator.name for operator in recorded(name)]
    fake = [o.name for o in captured(name).operators if o.phase is not Phase.OPTIMIZER]
    assert fake == real


@pytest.mark.parametrize("name", SAME_OPERATORS)
def test_order_is_exactly_what_memory_demands(name: str) -> None:
    """Every pair that touches one storage, one of them writing, is ordered; and every edge has such a reason."""
    real = recorded(name)
    graph = captured(name)
    count = len(real)
    before = [0] * count  # bit sets of all operators that must have finished
    for index in range(count):
        for previous in graph.predecessors(index):
            before[index] |= before[previous] | 1 << previous
            conflict = _conflict(real[previous], real[index])
            assert conflict, f"{name}: no storage makes {index} {real[index].name} wait for {previous}"
    for late in range(count):
        for early in range(late):
            if _conflict(real[early], real[late]):
                assert before[late] >> early & 1, f"{name}: {late} {real[late].name} may overtake {early}"


def _conflict(early: RealOperator, late: RealOperator) -> bool:
    touched = early.writes & (_values_read(late) | late.writes)
    return bool(touched or _values_read(early) & late.writes)


def _values_read(operator: RealOperator) -> frozenset[int]:
    """Storages whose values are used: these operators take only a shape from their argument."""
    only_shape = ("aten.ones_like", "aten.zeros_like", "aten.new_zeros")
    return frozenset() if operator.name in only_shape else operator.reads


@pytest.mark.parametrize("multi_tensor", [False, True])
def test_optimizer_operators_are_those_of_a_real_step(multi_tensor: bool) -> None:
    """One operator per parameter: torch's single-tensor operators, or its multi-tensor ones taken apart."""
    make = partial(torch.optim.RMSprop, momentum=0.9, foreach=multi_tensor)
    module, _, _ = built("mlp")
    real = [o.name for o in recorded("mlp", make) if o.name != "aten._local_scalar_dense"]
    graph = capture(f"{MODELS_FILE}:mlp", CaptureOptions(dtype="fp32", optimizer=make))
    fake = [o.name for o in graph.operators if o.phase is Phase.OPTIMIZER]
    real_step = real[len(graph.operators) - len(fake) :]
    assert real_step
    assert fake == ([name for name in real_step for _ in module.parameters()] if multi_tensor else real_step)
