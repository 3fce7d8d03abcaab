"""A catalogue of training steps that are not in the zoo: captured as the same step runs on a real CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from worklode import api
from worklode.frontend import CaptureOptions, Workload, capture, capture_module, zoo
from worklode.frontend.zoo.llama import LlamaConfig, language_model
from worklode.graph.fusion import fuse
from worklode.graph.operator import OperatorKind, Phase, TensorRole
from worklode.graph.validate import graph_faults
from worklode.search.evaluation import coverage

from .modules import CATALOGUE
from .modules.graphs import captured, counted
from .modules.page import COMMAND, announcements, row
from .modules.reference import Counter as FlopCounter
from .modules.reference import run

NAMES = tuple(CATALOGUE)
OWN = tuple(name for name, entry in CATALOGUE.items() if entry.configuration is None)
PAGE = Path(__file__).parents[2] / "docs" / "capture-modules.md"
BACKWARD = (Phase.BACKWARD, Phase.RECOMPUTE, Phase.ACCUMULATE)


def test_the_catalogue_is_large_and_not_the_zoo() -> None:
    assert len(OWN) >= 50
    assert len(NAMES) - len(OWN) >= 10
    assert not set(NAMES) & set(zoo.names())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_flops_are_those_of_the_real_step(name: str) -> None:
    graph, expected = captured(name), counted(name)
    assert graph.info.parameters == expected.parameters
    assert graph.info.trainable_parameters == expected.trainable
    assert graph.matrix_flops(Phase.FORWARD, Phase.LOSS) == expected.forward
    assert graph.matrix_flops(*BACKWARD) == expected.backward


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_guessed_silently(name: str) -> None:
    """Only named operators fall back, every decision is one the entry expects, and coverage is nearly full."""
    graph, entry = captured(name), CATALOGUE[name]
    assert set(graph.fallback_operators()) == set(entry.fallback)
    assert len(graph.info.notes) == len([note for note in graph.info.notes if note.startswith(entry.notes)])
    for beginning in entry.notes:
        assert any(note.startswith(beginning) for note in graph.info.notes), beginning
    found = coverage(graph)
    assert found.flops_exact > 0.99
    assert found.bytes_exact > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_can_be_used(name: str) -> None:
    """Valid; every trained parameter that forward read is updated; fused without a change of FLOPs; evaluated."""
    graph = captured(name)
    assert graph_faults(graph) == []
    assert {o.phase for o in graph.operators} >= {Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER}
    fused = fuse(graph).graph
    assert graph_faults(fused) == []
    assert fused.flops() == graph.flops()
    assert fused.matrix_flops() == graph.matrix_flops()
    assert len(fused.operators) <= len(graph.operators)
    found = api.evaluate(graph, "tpuv2")
    assert found.iteration_time_s >= found.lower_bound_s > 0
    assert found.energy_j > 0


@pytest.mark.parametrize("name", ["unet", "library-transformer", "gru-with-attention", "experts-of-fixed-capacity"])
def test_the_reference_counts_as_flop_counter_mode_does(name: str) -> None:
    module, inputs, *rest = CATALOGUE[name].build()
    with FlopCounterMode(display=False) as theirs, FlopCounter() as ours:
        run(module, inputs, rest[0] if rest else None).backward()
    assert ours.total == theirs.get_total_flops() > 0


# ------------------------------------------------------------------------------------------- what is special


def test_a_tied_parameter_is_one_tensor_and_updated_once() -> None:
    graph = captured("tied-weights")
    tables = [t for t in graph.tensors if t.role is TensorRole.PARAMETER and t.bytes == 30 * 16 * 4]
    assert len({t.storage for t in tables}) == 1
    assert sum(o.phase is Phase.OPTIMIZER and o.name == "aten._fused_adamw_" for o in graph.operators) == 2


def test_frozen_parameters_have_neither_gradient_nor_update() -> None:
    graph = captured("frozen-with-adapters")
    touched = {
        graph.tensors[access.tensor].name
        for o in graph.operators
        if o.phase is Phase.OPTIMIZER
        for access in (*o.reads, *o.writes)
    } - {""}
    assert touched == {f"{side}.{index}" for side in ("down", "up") for index in (0, 1)}
    gradients = {t.name for t in graph.tensors if t.role is TensorRole.GRADIENT}
    assert not any(name.startswith("base") for name in gradients)


@pytest.mark.parametrize("name", ["checkpointed", "checkpointed-reentrant"])
def test_checkpointed_blocks_run_again_in_backward(name: str) -> None:
    """All but the last product of a block: nothing in backward needs it, and non-reentrant checkpoints stop early."""
    graph = captured(name)
    blocks = 3 * (2 * 6 * 8 * 32) * (2 if name.endswith("reentrant") else 1)
    assert graph.matrix_flops(Phase.RECOMPUTE) == blocks
    assert any(o.phase is Phase.RECOMPUTE and o.name == "aten.native_dropout" for o in graph.operators)
    whole = captured("checkpointed")
    assert graph.saved_bytes() <= whole.saved_bytes() * 1.1


def test_autocast_regions_decide_the_types_of_products() -> None:
    graph = captured("autocast-region")
    products = [o for o in graph.operators if o.phase is Phase.FORWARD and o.kind is OperatorKind.MATMUL]
    assert [o.work.products[0].element_bytes for o in products] == [2, 2, 2, 4]
    casts = Counter(_cast_parameters(graph))
    assert casts["second.weight"] == 1, "used twice, converted once"


@pytest.mark.parametrize("region", ['torch.autocast("cuda", dtype=torch.bfloat16)', "torch.cuda.amp.autocast()"])
@pytest.mark.filterwarnings("ignore:`torch.cuda.amp.autocast")
def test_a_region_for_cuda_acts_on_the_device_of_the_capture(tmp_path: Path, region: str) -> None:
    path = tmp_path / "step.py"
    path.write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        f"        with {region}:\n"
        "            return super().forward(x)\n"
        "def step():\n"
        "    return Net(8, 8), torch.randn(4, 8)\n"
    )
    graph = capture(f"{path}:step", CaptureOptions(dtype="fp32"))
    (product,) = (o for o in graph.operators if o.phase is Phase.FORWARD and o.kind is OperatorKind.MATMUL)
    assert product.work.products[0].element_bytes == 2
    kind = "bfloat16" if "bfloat16" in region else "float16"
    assert {graph.tensors[access.tensor].dtype for access in product.writes} == {kind}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_convert_their_weights_once_under_amp(kind: Any) -> None:
    """As cuDNN's autocast rule does; cells would convert them at every one of the 6 steps."""
    made = lambda: kind(8, 8, num_layers=2)  # noqa: E731
    graph = capture_module(made, torch.randn(6, 3, 8), options=CaptureOptions(dtype="amp"))
    weights = {name for name, _ in made().named_parameters()}  # type: ignore[no-untyped-call]
    assert Counter(_cast_parameters(graph)) == dict.fromkeys(weights, 1)


def test_muon_has_products_in_the_optimizer() -> None:
    """Five iterations: x·xᵀ, a·a and (...)·x of every matrix."""
    shapes = ((16, 8), (4, 16))
    expected = sum(5 * 2 * (m * m * n + m**3 + m * m * n) for m, n in shapes)
    assert captured("muon").matrix_flops(Phase.OPTIMIZER) == expected


def test_gradient_clipping_is_part_of_the_optimizer() -> None:
    names = {o.name for o in captured("clipped-sgd").operators if o.phase is Phase.OPTIMIZER}
    assert {"aten.linalg_vector_norm", "aten.clamp", "aten._foreach_add_", "aten.lerp_"} <= names
    assert captured("clipped-sgd").matrix_flops(Phase.OPTIMIZER) == 0


def test_sparse_gradients_touch_the_rows_that_were_looked_up() -> None:
    """Of tables of 900 rows, 6 and 30: sums and updates move entries, never a whole table."""
    graph = captured("sparse-gradients")
    updates = [o for o in graph.operators if o.phase is Phase.OPTIMIZER]
    assert updates
    table = 900 * 8 * 4
    assert all(access.bytes < table for o in updates for access in (*o.reads, *o.writes))
    written = {graph.tensors[a.tensor].name for o in updates for a in o.writes if o.name == "aten.index_add_"}
    assert written >= {"centre.weight", "context.weight"}


def test_accumulated_gradients_are_added() -> None:
    graph = captured("distillation")
    added = [o for o in graph.operators if o.phase is Phase.ACCUMULATE]
    assert len(added) == (3 - 1) * 2, "two microbatches add to the gradients of the first, weight and bias each"


# --------------------------------------------------------------------------------------------------- RMS norm


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "amp"])
def test_rms_norm_is_one_operator_forward_and_one_backward(dtype: str) -> None:
    """As on a GPU; it keeps its input and, in float32, a number per row."""
    rows, width = 6, 8
    module = lambda: nn.Sequential(nn.Linear(width, width, bias=False), nn.RMSNorm(width))  # noqa: E731
    graph = capture_module(module, torch.randn(rows, width), options=CaptureOptions(dtype=dtype))
    inside = [o for o in graph.operators if o.module == "1" and o.phase is not Phase.OPTIMIZER]
    norms = [o.name for o in inside if o.name != "aten._to_copy"]
    assert norms == ["aten._fused_rms_norm", "aten._fused_rms_norm_backward"]
    assert len(inside) == (4 if dtype == "amp" else 2), "under autocast it runs in float32, as on CUDA"
    kept = sorted(t.bytes for t in graph.tensors if t.saved and t.role is TensorRole.ACTIVATION)
    product = {"fp32": [rows * width * 4], "bf16": [rows * width * 2]}
    converted = [rows * width * 2, rows * width * 4]  # operand of the product in bf16, input of the norm in float32
    assert kept == sorted([rows * 4, *product.get(dtype, converted)])


def test_a_llama_layer_keeps_what_its_operators_need() -> None:
    """Of bf16: norm inputs and outputs, Q, K, V, O (8 widths); gate, silu(gate), up, product (4 inner widths)."""
    tokens, width, inner, heads = 16, 32, 48, 4

    def kept(layers: int) -> int:
        config = LlamaConfig(
            width=width,
            layers=layers,
            heads=heads,
            key_value_heads=heads,
            feed_forward_width=inner,
            vocabulary=40,
            context=tokens,
        )
        make = lambda: language_model("llama", config, 1, tokens)  # noqa: E731
        return capture(Workload(name="llama", make=make), CaptureOptions(dtype="bf16")).saved_bytes()

    activations = 2 * tokens * (8 * width + 4 * inner)
    norms = 2 * 4 * tokens
    attention = 4 * tokens * heads + 2 * 8  # logarithms of the row sums; seed and offset of the random numbers
    assert kept(3) - kept(2) == activations + norms + attention


def _cast_parameters(graph: object) -> list[str]:
    """Name of the parameter read by every conversion of forward."""
    return [
        graph.tensors[access.tensor].name  # type: ignore[attr-defined]
        for o in graph.operators  # type: ignore[attr-defined]
        if o.name == "aten._to_copy" and o.phase is Phase.FORWARD
        for access in o.reads
        if graph.tensors[access.tensor].role is TensorRole.PARAMETER  # type: ignore[attr-defined]
    ]


# --------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("name", OWN)
def test_the_page_says_what_is_captured_now(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8").splitlines()
    for line in (row(CATALOGUE[name]), *announcements(CATALOGUE[name])):
        assert line in text, f"docs/capture-modules.md is old: {COMMAND}"


def test_the_page_has_every_configuration() -> None:
    """Their figures may change with the release of transformers, so only the names are compared."""
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"\n| {name} | {entry.shows} |" in text for name, entry in CATALOGUE.items())
