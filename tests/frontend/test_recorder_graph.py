"""What a captured graph says besides numbers: phases, modules, roles, gradients, blocks, memory of recomputation."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from worklode.frontend import CaptureOptions, capture
from worklode.graph.operator import Operator, OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import Block, TrainingGraph
from worklode.graph.validate import graph_faults

from .real_step import MODELS_FILE


@cache
def captured(name: str, **options: object) -> TrainingGraph:
    graph = capture(f"{MODELS_FILE}:{name}", CaptureOptions(**options))  # type: ignore[arg-type]
    assert graph_faults(graph) == []
    return graph


def phases(graph: TrainingGraph) -> Counter[Phase]:
    return Counter(operator.phase for operator in graph.operators)


def of_phase(graph: TrainingGraph, phase: Phase) -> list[Operator]:
    return [operator for operator in graph.operators if operator.phase is phase]


def test_phases_run_in_order() -> None:
    order = [operator.phase for operator in captured("convnet").operators]
    changes = [a for a, b in zip(order, [*order[1:], None], strict=True) if a is not b]
    assert changes == [Phase.FORWARD, Phase.LOSS, Phase.BACKWARD, Phase.OPTIMIZER]


def test_backward_operators_carry_the_module_of_their_forward_operator() -> None:
    graph = captured("convnet")
    convolutions = [o for o in graph.operators if o.kind is OperatorKind.CONVOLUTION]
    forward = [o.module for o in convolutions if o.phase is Phase.FORWARD]
    assert forward == ["stem", "blocks.0.0", "blocks.1.0", "blocks.2.0"]
    backward = [o.module for o in convolutions if o.phase is Phase.BACKWARD]
    assert [m for m, n in zip(backward, ["", *backward], strict=False) if m != n] == forward[::-1]


def test_optimizer_operators_carry_the_module_of_their_parameter() -> None:
    graph = captured("convnet")
    modules = {o.module for o in of_phase(graph, Phase.OPTIMIZER)}
    assert modules == {"stem", "norm", "head", *(f"blocks.{i}.{j}" for i in range(3) for j in (0, 1))}


def test_convolution_backward_is_two_operators() -> None:
    backward = [o for o in of_phase(captured("convnet"), Phase.BACKWARD) if o.kind is OperatorKind.CONVOLUTION]
    kinds = Counter(o.gradient_of for o in backward)
    assert kinds == {"weight": 4, "input": 3}, "the image needs no gradient"
    for operator in backward:
        roles = {captured("convnet").tensors[a.tensor].role for a in operator.writes}
        expected = TensorRole.GRADIENT if operator.gradient_of == "weight" else TensorRole.ACTIVATION_GRADIENT
        assert roles == {expected}


@pytest.mark.parametrize(
    ("name", "weights", "inputs"),
    [("mlp", 3, 2), ("explicit_language_model", 4 * 4 + 1, 4 * 4 + 1 + 4 * 4), ("frozen", 1, 1), ("in_place", 2, 1)],
)
def test_weight_gradients_are_found_by_data_flow(name: str, weights: int, inputs: int) -> None:
    """Attention written out has four products per layer in backward, and none of them is of a weight."""
    graph = captured(name)
    products = [o for o in of_phase(graph, Phase.BACKWARD) if o.kind is OperatorKind.MATMUL]
    assert Counter(o.gradient_of for o in products) == {"weight": weights, "input": inputs}


def test_weight_gradients_are_found_in_mixed_precision_and_with_accumulation() -> None:
    graph = captured("mlp", dtype="amp", accumulation_steps=3)
    products = [o for o in of_phase(graph, Phase.BACKWARD) if o.kind is OperatorKind.MATMUL]
    assert Counter(o.gradient_of for o in products) == {"weight": 9, "input": 6}


def test_roles_and_names() -> None:
    graph = captured("language_model")
    by_role = {role: {t.name for t in graph.tensors if t.role is role} for role in TensorRole}
    assert "tokens.weight" in by_role[TensorRole.PARAMETER]
    assert "head.weight" not in by_role[TensorRole.PARAMETER], "tied: one storage, one name"
    assert by_role[TensorRole.GRADIENT] == by_role[TensorRole.PARAMETER] == by_role[TensorRole.OPTIMIZER_STATE]
    assert by_role[TensorRole.ACTIVATION] == {""}


def test_optimizer_reads_gradients_and_writes_parameters_in_place() -> None:
    graph = captured("mlp")
    for operator in of_phase(graph, Phase.OPTIMIZER):
        if operator.name != "aten._fused_adamw_":
            continue
        written = {graph.tensors[a.tensor].storage: graph.tensors[a.tensor].role for a in operator.writes}
        read = {graph.tensors[a.tensor].storage: graph.tensors[a.tensor].role for a in operator.reads}
        assert Counter(written.values()) == {TensorRole.PARAMETER: 1, TensorRole.OPTIMIZER_STATE: 2}
        assert Counter(read.values()) == {
            TensorRole.PARAMETER: 1,
            TensorRole.GRADIENT: 1,
            TensorRole.OPTIMIZER_STATE: 3,
        }
        assert written.keys() <= read.keys()


def test_every_parameter_is_read_before_it_is_overwritten() -> None:
    graph = captured("mlp")
    readers: dict[int, set[int]] = {}
    for index, operator in enumerate(graph.operators):
        for access in operator.reads:
            readers.setdefault(access.tensor, set()).add(index)
    last: dict[int, int] = {}
    overwritten = 0
    for index, tensor in enumerate(graph.tensors):
        if tensor.storage in last and tensor.role is TensorRole.PARAMETER:
            overwritten += 1
            waiting = readers[last[tensor.storage]] - {tensor.producer}
            assert waiting
            assert waiting <= _ancestors(graph, tensor.producer)
        last[tensor.storage] = index
    assert overwritten == 6


def _ancestors(graph: TrainingGraph, index: int) -> set[int]:
    found: set[int] = set()
    front = [index]
    while front:
        for previous in graph.predecessors(front.pop()):
            if previous not in found:
                found.add(previous)
                front.append(previous)
    return found


# ------------------------------------------------------------------------------------------- repeated blocks


def test_equal_layers_are_one_block() -> None:
    graph = captured("language_model")
    assert graph.blocks == (Block(path="layers", first=0, count=4),)
    per_instance: dict[tuple[int, Phase], list[tuple[str, object]]] = {}
    for operator in graph.operators:
        if operator.block >= 0:
            assert operator.module.startswith(f"layers.{operator.instance}")
            per_instance.setdefault((operator.instance, operator.phase), []).append((operator.name, operator.item))
        else:
            assert not operator.module.startswith("layers.")
    for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER):
        traces = [per_instance[instance, phase] for instance in range(4)]
        assert traces[0]
        assert all(trace == traces[0] for trace in traces)


def test_a_layer_that_records_something_else_cuts_the_run(tmp_path: Path) -> None:
    """Six layers of one structure, but number 2 does more, and the last gets an expanded gradient from the mean."""
    workload = tmp_path / "odd.py"
    workload.write_text(
        "import torch\nfrom torch import nn\n"
        "class Layer(nn.Module):\n"
        "    def __init__(self, layer_idx):\n"
        "        super().__init__(); self.layer_idx = layer_idx; self.linear = nn.Linear(8, 8)\n"
        "    def forward(self, x):\n"
        "        x = self.linear(x)\n"
        "        return x.sigmoid() if self.layer_idx == 2 else x\n"
        "def step(batch=2):\n"
        "    return nn.Sequential(*(Layer(i) for i in range(6))), torch.randn(batch, 8, requires_grad=True)\n"
    )
    graph = capture(f"{workload}:step")
    assert [(b.first, b.count) for b in graph.blocks] == [(0, 2), (3, 2)]
    assert all(o.block == -1 for o in graph.operators if o.module.startswith("2."))


# ------------------------------------------------------------------------ recomputation, accumulation, precision


def test_recomputation_repeats_the_forward_of_the_blocks_and_keeps_less() -> None:
    plain, full = captured("language_model"), captured("language_model", recompute="full")
    inside = sum(o.work.matrix_flops for o in of_phase(plain, Phase.FORWARD) if o.block >= 0)
    # the last product of a block is not recomputed: nothing in backward needs its result
    last = sum(o.work.matrix_flops for o in of_phase(plain, Phase.FORWARD) if o.module.endswith(".down"))
    assert full.matrix_flops(Phase.RECOMPUTE) == inside - last
    assert full.matrix_flops(Phase.FORWARD, Phase.BACKWARD) == plain.matrix_flops(Phase.FORWARD, Phase.BACKWARD)
    assert 0 < full.saved_bytes() < plain.saved_bytes() / 3
    assert full.blocks == plain.blocks
    assert all(o.block >= 0 for o in of_phase(full, Phase.RECOMPUTE))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_the_user_are_recomputation(tmp_path: Path, reentrant: bool) -> None:
    workload = tmp_path / "checkpointed.py"
    workload.write_text(
        "import torch\nfrom torch import nn\nfrom torch.utils.checkpoint import checkpoint\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8); self.c = nn.Linear(8, 8)\n"
        "    def forward(self, x):\n"
        "        x = self.a(x)\n"
        f"        x = checkpoint(lambda y: self.b(y.sin()).tanh(), x, use_reentrant={reentrant})\n"
        "        return self.c(x)\n"
        "def step(batch=4):\n"
        "    return Net(), torch.randn(batch, 8)\n"
    )
    graph = capture(f"{workload}:step")
    assert graph_faults(graph) == []
    again = [(o.name, o.module) for o in of_phase(graph, Phase.RECOMPUTE)]
    assert again[:2] == [("aten.sin", "" if reentrant else again[0][1]), ("aten.addmm", "b")]
    assert again[2:] in ([], [("aten.tanh", again[-1][1])])
    names = [(o.name, o.module) for o in of_phase(graph, Phase.BACKWARD) if o.kind is OperatorKind.MATMUL]
    assert names == [("aten.mm", module) for module in ("c", "c", "b", "b", "a")]
    assert Counter(o.gradient_of for o in of_phase(graph, Phase.BACKWARD) if o.work.products) == {
        "weight": 3,
        "input": 2,
    }


def test_accumulation_repeats_forward_and_backward_and_adds_gradients() -> None:
    once, thrice = captured("convnet"), captured("convnet", accumulation_steps=3)
    for phase in (Phase.FORWARD, Phase.BACKWARD):
        assert thrice.matrix_flops(phase) == 3 * once.matrix_flops(phase)
    assert phases(thrice)[Phase.OPTIMIZER] == phases(once)[Phase.OPTIMIZER]
    parameters = {t.name for t in once.tensors if t.role is TensorRole.PARAMETER}
    added = of_phase(thrice, Phase.ACCUMULATE)
    assert Counter(o.module for o in added) == Counter(n.rpartition(".")[0] for n in parameters for _ in range(2))
    for operator in added:
        assert operator.name == "aten.add_"
        assert {thrice.tensors[a.tensor].role for a in operator.writes} == {TensorRole.GRADIENT}
    assert thrice.info.samples == 3 * once.info.samples == 12
    assert thrice.saved_bytes() > 2.9 * once.saved_bytes()


def test_precisions() -> None:
    types = {d: {t.dtype for t in captured("mlp", dtype=d).tensors} for d in ("bf16", "fp16", "fp32", "amp")}
    assert types == {
        "bf16": {"bfloat16", "float32"},
        "fp16": {"float16", "float32"},
        "fp32": {"float32"},
        "amp": {"bfloat16", "float32"},
    }
    amp = captured("mlp", dtype="amp")
    kept = {t.dtype for t in amp.tensors if t.role in (TensorRole.PARAMETER, TensorRole.GRADIENT)}
    assert kept == {"float32"}
    products = [p for o in amp.operators for p in o.work.products]
    assert {p.element_bytes for p in products} == {2}


def test_autocast_converts_a_weight_once_per_forward_pass() -> None:
    amp = captured("explicit_language_model", dtype="amp")
    tied = [i for i, t in enumerate(amp.tensors) if t.name == "tokens.weight" and t.role is TensorRole.PARAMETER]
    casts = [o for o in amp.operators if o.name == "aten._to_copy" and {a.tensor for a in o.reads} & set(tied)]
    assert len(casts) == 1


@pytest.mark.parametrize("name", ["sgd", "sgd-momentum", "adam", "adamw"])
def test_optimizer_state(name: str) -> None:
    per_parameter = {"sgd": 0, "sgd-momentum": 1, "adam": 2, "adamw": 2}[name]
    graph = captured("mlp", optimizer=name)
    state = {t.storage: t.bytes for t in graph.tensors if t.role is TensorRole.OPTIMIZER_STATE and t.bytes > 4}
    weights = {t.storage: t.bytes for t in graph.tensors if t.role is TensorRole.PARAMETER}
    assert sum(state.values()) == per_parameter * sum(weights.values())
    steps = [o for o in of_phase(graph, Phase.OPTIMIZER) if "fused" in o.name]
    assert len(steps) == len(weights)


# -------------------------------------------------------------------------------- samples, tokens, determinism


def test_samples_and_tokens() -> None:
    assert (captured("language_model").info.samples, captured("language_model").info.tokens) == (2, 32)
    longer = captured("language_model", batch=3, seq_len=8)
    assert (longer.info.samples, longer.info.tokens) == (3, 24)
    assert (captured("convnet").info.samples, captured("convnet").info.tokens) == (4, 0)
    assert (captured("lstm").info.samples, captured("lstm").info.tokens) == (4, 20), "steps come first"


def test_the_options_in_effect_are_kept() -> None:
    options = dict(captured("language_model", seq_len=8).info.options)
    assert options["seq_len"] == "8"
    assert options["batch"] == "2"
    assert options["optimizer"] == "adamw"
    assert options["dtype"] == "bf16"
    assert dict(captured("mlp").info.versions)["torch"] == "2.13.0"


def test_remade_results_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path (results of equal calls made again) against torch working out every shape."""
    from worklode.frontend.results import ResultMaker
    from worklode.graph.file import graph_to_bytes

    for name in ("explicit_language_model", "convnet", "lstm", "in_place"):
        fast = graph_to_bytes(captured(name, recompute="full", accumulation_steps=2))
        with monkeypatch.context() as patch:
            patch.setattr(ResultMaker, "remake", lambda self, **_: None)
            slow = capture(f"{MODELS_FILE}:{name}", CaptureOptions(recompute="full", accumulation_steps=2))
        assert graph_to_bytes(slow) == fast


@pytest.mark.parametrize("name", ["convnet", "language_model"])
def test_another_process_makes_the_same_file(name: str) -> None:
    from worklode.graph.file import graph_to_bytes

    script = (
        "import sys, hashlib; from worklode.frontend import capture; from worklode.graph.file import graph_to_bytes;"
        "capture(sys.argv[1].replace(sys.argv[2], 'lstm'));"  # another capture before must leave no trace
        "print(hashlib.sha256(graph_to_bytes(capture(sys.argv[1]))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, f"{MODELS_FILE}:{name}", name],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    import hashlib

    assert digests == {hashlib.sha256(graph_to_bytes(captured(name))).hexdigest() + "\n"}


def test_another_backend_in_the_place_of_the_fake_accelerator() -> None:
    """Fake CPU tensors stand in: the same products, other operators around them."""
    script = (
        "import sys; from torch.utils import backend_registration as r;"
        "r._setup_privateuseone_for_python_backend('taken');"
        "from worklode.frontend import capture, CaptureOptions; from worklode.graph.validate import graph_faults;"
        "from worklode.graph.operator import Phase as P\n"
        "for dtype in ('bf16', 'amp'):\n"
        "    for name in ('convnet', 'explicit_language_model', 'in_place'):\n"
        "        graph = capture(f'{sys.argv[1]}:{name}', CaptureOptions(dtype=dtype))\n"
        "        assert not graph_faults(graph); assert dict(graph.info.options)['device'] == 'cpu'\n"
        "        print(name, dtype, graph.matrix_flops(P.FORWARD), graph.matrix_flops(P.BACKWARD))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(MODELS_FILE)], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for line in output[:-1]:
        name, dtype, forward, backward = line.split()
        graph = captured(name, dtype=dtype)
        assert graph.matrix_flops(Phase.FORWARD) == int(forward)
        assert graph.matrix_flops(Phase.BACKWARD) == int(backward)
    assert len(output) == 7
