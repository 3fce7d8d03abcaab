"""Every workload of the zoo against its published figures, and the example file, through the capture itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra of the package")

from worklode.frontend import zoo  # noqa: E402
from worklode.frontend.api import capture  # noqa: E402
from worklode.frontend.options import CaptureOptions  # noqa: E402
from worklode.frontend.zoo.recommendation import CRITEO_KAGGLE_ROWS  # noqa: E402
from worklode.graph.memory import memory_footprint  # noqa: E402
from worklode.graph.operator import Phase, TensorRole  # noqa: E402

from .conftest import ZooModel  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples" / "workloads.py"


pytestmark = pytest.mark.slow


def test_a_step_is_captured_whole(model: ZooModel) -> None:
    """Every parameter has a gradient, no operator is costed by the fallback, nothing had to be decided."""
    graph, entry = model.graph, model.entry
    assert graph.info.parameters == graph.info.trainable_parameters == entry.parameters
    assert graph.info.samples == entry.batch
    assert graph.fallback_operators() == {}
    assert graph.info.notes == ()
    of_role = {role: {tensor.name for tensor in graph.tensors if tensor.role is role} for role in TensorRole}
    assert of_role[TensorRole.PARAMETER] == of_role[TensorRole.GRADIENT]
    assert any(operator.phase is Phase.OPTIMIZER for operator in graph.operators)


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.entry(name).forward_macs is not None])
def test_captured_forward_products_are_the_published_ones(name: str, models: Mapping[str, ZooModel]) -> None:
    graph, entry = models[name].graph, models[name].entry
    macs = graph.matrix_flops(Phase.FORWARD) / 2 / entry.batch
    if name == "inception-v3":
        macs -= 768 * 128 * 25 + 128 * 768 * 25 + 768 * 1000  # the auxiliary head, which inference leaves out
    assert entry.forward_macs is not None
    assert macs == pytest.approx(entry.forward_macs, rel=0.0005 / 0.217)  # published to three decimals of 10^9


@pytest.mark.parametrize(("name", "layers"), [("gpt3-175b", 96), ("bert-large", 24), ("llama3-70b", 80)])
def test_layers_are_found_as_repeated_blocks(name: str, layers: int, models: Mapping[str, ZooModel]) -> None:
    assert [(block.path, block.count) for block in models[name].graph.blocks] == [("layers", layers)]


def test_a_gpt3_layer_keeps_what_korthikanti_et_al_count(models: Mapping[str, ZooModel]) -> None:
    """34·s·b·h bytes (arXiv 2205.05198, equation 1, attention recomputed in its kernel) and its softmax statistics."""
    graph = models["gpt3-175b"].graph
    modules = [
        graph.operators[tensor.producer].module + "." if tensor.producer >= 0 else "" for tensor in graph.tensors
    ]
    kept = {
        tensor.storage: tensor.bytes
        for tensor, module in zip(graph.tensors, modules, strict=True)
        if tensor.saved and tensor.role is TensorRole.ACTIVATION and module.startswith("layers.50.")
    }
    tokens, width, heads = 2048, 12_288, 96
    statistics = 4 * heads * tokens + 2 * 2 * 4 * tokens  # log-sum-exp; mean and deviation of two norms; fp32
    random_state = 2 * 8  # seed and offset of attention's dropout
    assert sum(kept.values()) == 34 * tokens * width + statistics + random_state


def test_a_step_of_dlrm_touches_the_rows_looked_up(models: Mapping[str, ZooModel]) -> None:
    """Counted by hand: one id a sample and table, rows of 16 bfloat16; a table of at most 64 KiB is moved whole."""
    graph = models["dlrm"].graph
    batch, row, index = 2048, 16 * 2, 8
    for number, rows in enumerate(CRITEO_KAGGLE_ROWS):
        forward, backward, update = (o for o in graph.operators if o.module == f"tables.{number}")
        touched, looked_up, ids = min(batch, rows) * row, batch * row, batch * index
        scattered = rows * row > 64 * 1024
        assert [access.bytes for access in forward.reads] == [touched, ids, ids]  # and where each bag begins
        assert forward.work.random_accesses == scattered * batch
        assert [access.bytes for access in backward.reads] == [looked_up, ids]  # the bag of each id
        assert [access.bytes for access in backward.writes] == [looked_up]
        assert update.phase is Phase.OPTIMIZER
        assert [access.bytes for access in update.reads] == [touched, ids, looked_up]
        assert [access.bytes for access in update.writes] == [touched]
        assert update.work.random_accesses == scattered * 2 * batch
        assert update.work.random_access_bytes == scattered * row
        assert update.work.simple_ops == 2 * batch * 16
    perceptrons = graph.info.parameters - 16 * sum(CRITEO_KAGGLE_ROWS)
    assert memory_footprint(graph).gradients == len(CRITEO_KAGGLE_ROWS) * batch * row + 2 * perceptrons
    assert sum(a.bytes for o in graph.operators for a in (*o.reads, *o.writes)) < 0.15e9


def example(name: str) -> Any:
    """The example's function, imported as a user's file would be."""
    spec = importlib.util.spec_from_file_location("example_workloads", EXAMPLES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_the_examples_do_not_import_worklode() -> None:
    assert "import worklode" not in EXAMPLES.read_text()
    assert "from worklode" not in EXAMPLES.read_text()


@pytest.mark.parametrize("name", ["mixer", "byte_transformer"])
def test_the_examples_train_for_real(name: str) -> None:
    shape = {"batch": 2} | ({"seq_len": 16} if name == "byte_transformer" else {})
    module, inputs, loss, *optimizer = example(name)(**shape)
    step = optimizer[0](list(module.parameters())) if optimizer else torch.optim.AdamW(module.parameters(), lr=1e-4)
    values = []
    for _ in range(3):
        step.zero_grad()
        value = loss(module(**inputs) if isinstance(inputs, dict) else module(inputs))
        value.backward()
        step.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0]


@pytest.mark.parametrize(("name", "layers"), [("mixer", 8), ("byte_transformer", 6)])
def test_the_examples_are_captured(name: str, layers: int) -> None:
    graph = capture(f"{EXAMPLES}:{name}", CaptureOptions(batch=4))
    assert graph.info.samples == 4
    assert [(block.path, block.count) for block in graph.blocks] == [("layers", layers)]
    assert graph.fallback_operators() == {}
    updated = [operator for operator in graph.operators if operator.phase is Phase.OPTIMIZER]
    assert len(updated) >= len([tensor for tensor in graph.tensors if tensor.role is TensorRole.PARAMETER])
