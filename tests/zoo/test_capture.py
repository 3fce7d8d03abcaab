"""What a captured graph says of every zoo model, against published figures and torch's own counts of the same step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

pytest.importorskip("torch", reason="torch is an extra of the package")

from worklode.frontend import zoo
from worklode.frontend.zoo import recurrent
from worklode.frontend.zoo.recommendation import CRITEO_KAGGLE_ROWS
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults

from .conftest import ZooModel

pytestmark = pytest.mark.slow

# A backward product pair costs twice its forward product; less where the first layer's input needs no gradient (1.93,
# ResNet-18), more where attention computes its scores again (2.11, Llama 3 8B at 8192 tokens).
BACKWARD_OVER_FORWARD = (1.9, 2.3)
# Most that may be costed by the bytes-and-flops fallback.
FALLBACK_FLOPS, FALLBACK_BYTES = 0.01, 0.05
# Layers and width of the dense decoders, from the papers (docs/zoo.md).
DECODERS = {
    "opt-1.3b": (24, 2048),
    "gpt2-xl": (48, 1600),
    "gpt3-175b": (96, 12_288),
    "llama2-7b": (32, 4096),
    "llama3-8b": (32, 4096),
    "llama3-70b": (80, 8192),
}


def test_the_graph_is_sound(model: ZooModel) -> None:
    assert graph_faults(model.graph) == []


def test_parameters_are_the_published_ones(model: ZooModel) -> None:
    graph = model.graph
    assert graph.info.parameters == graph.info.trainable_parameters == model.entry.parameters
    storages = {t.storage: t.bytes for t in graph.tensors if t.role is TensorRole.PARAMETER}
    assert sum(storages.values()) == 2 * model.entry.parameters  # bfloat16, tied weights once


def test_matrix_flops_are_those_torch_counts(model: ZooModel) -> None:
    """Exactly. Attention runs as flash kernels do, whose backward computes the scores again."""
    graph, counted = model.graph, model.torch_step
    forward = graph.matrix_flops(Phase.FORWARD, Phase.LOSS)
    backward = graph.matrix_flops(Phase.BACKWARD)
    assert forward == counted.forward_flops > 0
    assert backward == counted.backward_flops + counted.scores_flops
    assert graph.matrix_flops() == forward + backward  # nothing is recomputed, no optimizer multiplies matrices


def test_backward_is_about_twice_forward(model: ZooModel) -> None:
    least, most = BACKWARD_OVER_FORWARD
    forward = model.graph.matrix_flops(Phase.FORWARD, Phase.LOSS)
    assert least <= model.graph.matrix_flops(Phase.BACKWARD) / forward <= most


def test_operators_have_models_of_their_own(model: ZooModel) -> None:
    coverage = model.evaluator.coverage
    assert 1 - coverage.flops_exact <= FALLBACK_FLOPS, coverage.fallback_operators
    assert 1 - coverage.bytes_exact <= FALLBACK_BYTES, coverage.fallback_operators


def test_saved_activations_are_those_autograd_keeps(model: ZooModel) -> None:
    """Storage by storage: the same sizes, as often."""
    found = saved_storages(model.graph)
    expected = model.torch_step.saved_bytes - KEPT_UNREAD.get(model.name, no_storages)(model)
    assert found == expected
    assert model.graph.saved_bytes() == sum(size * count for size, count in expected.items())


@pytest.mark.parametrize(("name", "kept_bytes"), [("gnmt", 900 * 2**20), ("dlrm", 27 * 2**14)])
def test_what_is_kept_less_than_by_autograd_is_named(
    name: str, kept_bytes: int, models: Mapping[str, ZooModel]
) -> None:
    """The difference is all there is: nothing else of the model's size is exempt."""
    model = models[name]
    difference = model.torch_step.saved_bytes - saved_storages(model.graph)
    assert difference == KEPT_UNREAD[name](model)
    assert saved_storages(model.graph) - model.torch_step.saved_bytes == Counter()
    assert sum(size * count for size, count in difference.items()) == kept_bytes


@pytest.mark.parametrize("name", DECODERS)
def test_dense_decoders_spend_six_flops_per_parameter_and_token(models: Mapping[str, ZooModel], name: str) -> None:
    """6·tokens·(parameters in products) and attention: two products forward, five backward, of 2·tokens·length·width.

    Parameters in products are the matrices, without tables that are only looked up. The head that GPT-2, GPT-3 and OPT
    tie to the token table multiplies with it; Llama has a table and a head.
    """
    import torch

    model = models[name]
    with torch.device("meta"):
        module = zoo.function(name)()[0]
    table = "token_embedding.weight" if name.startswith("llama") else "position_embedding.weight"
    matrices = {key: value.numel() for key, value in module.named_parameters() if value.dim() == 2}
    in_products = sum(matrices.values()) - matrices[table]
    layers, width = DECODERS[name]
    tokens, length = model.graph.info.tokens, model.entry.seq_len
    attention = (2 + 5) * 2 * layers * tokens * length * width
    assert model.graph.matrix_flops() == 6 * tokens * in_products + attention


def saved_storages(graph: TrainingGraph) -> Counter[int]:
    """Sizes of the storages the graph keeps for backward, with their number."""
    kept = {t.storage: t.bytes for t in graph.tensors if t.saved and t.role is TensorRole.ACTIVATION}
    return Counter(kept.values())


def gnmt_gate_inputs(model: ZooModel) -> Counter[int]:
    """What autograd holds for GNMT and no kernel of backward reads: both gate inputs of every LSTM cell.

    The formula of `_thnn_fused_lstm_cell` names them because its double backward would need them; the backward kernel
    `_thnn_fused_lstm_cell_backward_impl` takes the cell states and the workspace alone.
    """
    cells = 9 * model.entry.seq_len  # nine directions of layers
    size = model.entry.batch * 4 * recurrent.GNMT_V2.width * 2  # four gates, bfloat16
    return Counter({size: 2 * cells})


def dlrm_bookkeeping(model: ZooModel) -> Counter[int]:
    """What autograd holds for DLRM and no kernel of backward reads: where each bag begins, and its size by table.

    One formula serves dense and sparse gradients and every mode; the sparse gradient of a sum reads the bag of each id.
    """
    return Counter({model.entry.batch * 8: 1 + len(CRITEO_KAGGLE_ROWS)})


def no_storages(model: ZooModel) -> Counter[int]:
    return Counter()


KEPT_UNREAD = {"gnmt": gnmt_gate_inputs, "dlrm": dlrm_bookkeeping}
