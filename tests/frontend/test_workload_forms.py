"""Every way to name a workload, and what the function of a workload file may return."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from worklode.frontend import CaptureOptions, Workload, capture, capture_module
from worklode.frontend.workload import saved_graph_path
from worklode.graph.file import graph_to_bytes, save_graph
from worklode.graph.operator import Phase
from worklode.graph.validate import graph_faults

from .real_step import MODELS_FILE

HEADER = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"


def write(folder: Path, body: str) -> str:
    """A workload file whose function is `step`."""
    path = folder / "workload.py"
    path.write_text(HEADER + textwrap.dedent(body))
    return f"{path}:step"


def matrix_flops(text: str, **options: Any) -> int:
    graph = capture(text, CaptureOptions(**options))
    assert graph_faults(graph) == []
    return graph.matrix_flops(Phase.FORWARD, Phase.LOSS)


# ----------------------------------------------------------------------------------------------- what is returned


@pytest.mark.parametrize("inputs", ["x", "(x,)", "[x]", "{'input': x}"])
def test_inputs_as_tensor_tuple_or_dict(tmp_path: Path, inputs: str) -> None:
    text = write(tmp_path, f"def step(batch=4):\n    x = torch.randn(batch, 8)\n    return nn.Linear(8, 3), {inputs}\n")
    assert matrix_flops(text) == 2 * 4 * 8 * 3


@pytest.mark.parametrize(
    "output",
    [
        "y.sum()",
        "y",
        "{'loss': y.sum(), 'other': y}",
        "{'logits': y}",
        "(y, y * 2)",
        "types.SimpleNamespace(loss=y.sum())",
    ],
)
def test_default_loss(tmp_path: Path, output: str) -> None:
    text = write(
        tmp_path,
        f"""
        import types
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(8, 3)
            def forward(self, x):
                y = self.linear(x)
                return {output}
        def step():
            return Net(), torch.randn(4, 8)
        """,
    )
    graph = capture(text)
    means = [o for o in graph.operators if o.phase is Phase.LOSS and o.name == "aten.mean"]
    assert len(means) == (0 if "sum" in output else 1)
    assert graph.matrix_flops(Phase.BACKWARD) == 2 * 4 * 8 * 3


def test_loss_and_optimizer_of_the_workload(tmp_path: Path) -> None:
    text = write(
        tmp_path,
        """
        def step(batch=4):
            loss = lambda y: F.mse_loss(y, torch.zeros_like(y))
            return nn.Linear(8, 3), torch.randn(batch, 8), loss, lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.5)
        """,
    )
    graph = capture(text)
    assert "aten.mse_loss" in {o.name for o in graph.operators if o.phase is Phase.LOSS}
    assert {o.name for o in graph.operators if o.phase is Phase.OPTIMIZER} == {
        "aten._foreach_mul_",
        "aten._foreach_add_",
    }
    other = capture(text, CaptureOptions(optimizer="adam"))
    assert "aten._fused_adam_" in {o.name for o in other.operators}


def test_batch_and_seq_len_go_where_the_signature_has_them() -> None:
    one = matrix_flops(f"{MODELS_FILE}:mlp")
    assert matrix_flops(f"{MODELS_FILE}:mlp", batch=24) == 3 * one
    graph = capture(f"{MODELS_FILE}:mlp", CaptureOptions(seq_len=7))
    assert graph.info.notes == ("seq_len=7 not used: the workload function has no argument seq_len",)
    assert matrix_flops(f"{MODELS_FILE}:lstm", seq_len=10) == 2 * matrix_flops(f"{MODELS_FILE}:lstm")


# -------------------------------------------------------------------------------- how users write their functions


@pytest.mark.parametrize(
    "body",
    [
        "def step():\n    d = 'cuda' if torch.cuda.is_available() else 'cpu'\n"
        "    return nn.Linear(8, 3).to(d), torch.randn(4, 8).to(d)\n",
        "def step():\n    x = torch.randn(4, 8, device='cuda').pin_memory()\n"
        "    return nn.Linear(8, 3, device='cuda').cuda(), x\n",
        "class Net(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x.to('cuda')) + torch.ones(3, device='cuda')\n"
        "def step():\n    return Net(8, 3), torch.randn(4, 8)\n",
        "def step():\n    return nn.LazyLinear(3), torch.randn(4, 8)\n",
        "@torch.jit.script\ndef act(x: torch.Tensor) -> torch.Tensor:\n    return x * torch.sigmoid(x)\n"
        "class Net(nn.Linear):\n    def forward(self, x):\n        return act(super().forward(x))\n"
        "def step():\n    return Net(8, 3), torch.randn(4, 8)\n",
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        widths = torch.linspace(8, 3, 2).long().tolist()\n"
        "        self.rates = [r.item() for r in torch.linspace(0, 0.1, 2)]\n"
        "        self.linear = nn.Linear(*widths)\n"
        "    def forward(self, x):\n        return self.linear(x) * self.rates[1]\n"
        "def step():\n    return Net(), torch.randn(4, 8)\n",
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.linear = nn.Linear(8, 3)\n        nn.init.trunc_normal_(self.linear.weight, std=0.02)\n"
        "        self.masks = [torch.ones(3), torch.zeros(3)]\n        self.scale = torch.tensor(0.5)\n"
        "    def forward(self, x):\n        return self.linear(x) * self.masks[0] * self.scale + CONSTANT\n"
        "CONSTANT = torch.ones(3)\n"
        "def step():\n    return Net(), torch.randn(4, 8)\n",
        "import copy\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.linear = nn.Linear(8, 3)\n        self.teacher = None\n"
        "    def forward(self, x):\n        self.teacher = copy.deepcopy(self.linear)\n        return self.linear(x)\n"
        "def step():\n    return Net(), torch.randn(4, 8)\n",
        "def step():\n    with torch.no_grad():\n        return nn.Linear(8, 3).half(), torch.randn(4, 8).half()\n",
    ],
    ids=["to-cpu", "cuda", "cuda-inside", "lazy", "script", "values-in-constructor", "constants", "deepcopy", "half"],
)
def test_habits_of_users(tmp_path: Path, body: str) -> None:
    assert matrix_flops(write(tmp_path, body)) == 2 * 4 * 8 * 3


def test_nothing_is_allocated(tmp_path: Path) -> None:
    """Two million million parameters, more than any machine has memory for."""
    text = write(tmp_path, "def step():\n    return nn.Linear(2**20, 2**21), torch.randn(4, 2**20)\n")
    graph = capture(text)
    assert graph.info.parameters == 2**41 + 2**21
    assert graph.matrix_flops(Phase.FORWARD) == 2 * 4 * 2**41


def test_a_workload_file_may_import_its_neighbours_and_leaves_nothing(tmp_path: Path) -> None:
    neighbour = tmp_path / "neighbour.py"
    neighbour.write_text("WIDTH = 3\n")
    text = write(
        tmp_path,
        """
        import neighbour
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("cuda")
        torch.set_grad_enabled(False)
        def step():
            from neighbour import WIDTH
            return nn.Linear(8, WIDTH), torch.randn(4, 8)
        """,
    )
    path, modules = list(sys.path), set(sys.modules)
    assert matrix_flops(text) == 2 * 4 * 8 * 3
    neighbour.write_text("WIDTH = 5\n")
    assert matrix_flops(text) == 2 * 4 * 8 * 5, "an edited neighbour is read again"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["neighbour.py", "workload.py"]
    assert sys.path == path
    assert "neighbour" not in set(sys.modules) - modules
    assert torch.get_default_dtype() is torch.float32
    assert torch.ones(1).device.type == "cpu"
    assert torch.is_grad_enabled()


def test_importing_the_package_does_not_import_torch() -> None:
    script = "import sys, worklode.frontend; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_data_dependent_python_is_answered_and_noted(tmp_path: Path) -> None:
    text = write(
        tmp_path,
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(8, 3)
            def forward(self, x):
                if not torch.isfinite(x).all():
                    raise ValueError("not finite")
                if (x > 3).any():
                    x = self.linear(x) @ self.linear.weight
                y = self.linear(x)
                self.last = y.mean().item()
                return y[y > 0]
        def step():
            return Net(), torch.randn(4, 8)
        """,
    )
    graph = capture(text)
    assert graph.matrix_flops(Phase.FORWARD) == 2 * 4 * 8 * 3
    assert graph.info.notes == (
        "truth value of aten.all taken as True (in the outermost module)",
        "truth value of aten.any taken as False (in the outermost module)",
        "number of aten.mean taken as 1.0 (in the outermost module)",
        "aten.index: as if all elements were selected (in the outermost module)",
        "aten.index_put: as if all elements were selected (in the outermost module)",
    )
    selected = next(o for o in graph.operators if o.name == "aten.index")
    assert selected.write_bytes == 4 * 3 * 2


# --------------------------------------------------------------------------------------------------- live objects


def test_a_live_module_is_captured_and_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)).eval()
    module[2].weight = module[0].weight
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    graph = capture_module(module, torch.randn(4, 8), lambda y: y.square().mean(), optimizer="sgd")
    assert graph_faults(graph) == []
    assert graph.info.name == "Sequential"
    assert graph.info.parameters == sum(p.numel() for p in module.parameters())
    assert "aten._fused_sgd_" in {o.name for o in graph.operators}
    assert "aten.native_batch_norm" in {o.name for o in graph.operators}, "captured in training mode"
    assert not module.training
    assert all(type(p) is nn.Parameter and p.grad is None for p in module.parameters())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not module[0]._forward_hooks
    module(torch.randn(2, 8))


def test_a_factory_of_a_module() -> None:
    graph = capture_module(lambda: nn.Linear(2**20, 2**20), lambda: torch.randn(1, 2**20), name="wide")
    assert graph.info.name == "wide"
    assert graph.info.parameters == 2**40 + 2**20


def test_a_workload_object() -> None:
    graph = capture(Workload(name="own", make=lambda: (nn.Linear(8, 3), torch.randn(5, 8)), batch=5))
    assert (graph.info.name, graph.info.samples) == ("own", 5)


# ------------------------------------------------------------------------------------------------ the other forms


def test_a_zoo_name() -> None:
    graph = capture("resnet18", CaptureOptions(batch=2))
    assert graph.info.parameters == 11_689_512, "the published count of torchvision's ResNet-18"
    assert graph.info.samples == 2


def test_a_saved_graph(tmp_path: Path) -> None:
    graph = capture(f"{MODELS_FILE}:mlp")
    path = tmp_path / "mlp.wlg.json.gz"
    save_graph(graph, path)
    assert saved_graph_path(str(path)) == path
    assert graph_to_bytes(capture(str(path))) == graph_to_bytes(graph)


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "causal": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **BERT,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    },
    "masked": {"model_type": "bert", "architectures": ["BertForMaskedLM"], **BERT},
    "pretraining": {"model_type": "bert", "architectures": ["BertForPreTraining"], **BERT},
    "classification": {"model_type": "bert", "architectures": ["BertForSequenceClassification"], **BERT},
    "answering": {"model_type": "bert", "architectures": ["BertForQuestionAnswering"], **BERT},
    "headless": {"model_type": "bert", "architectures": ["BertModel"], **BERT},
    "no architectures": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 50},
    "seq2seq": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": 50,
    },
    "images": {"model_type": "vit", "architectures": ["ViTForImageClassification"], **BERT, "image_size": 32},
    "experts": {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        **BERT,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
    },
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_hugging_face_configurations(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGURATIONS[kind]))
    graph = capture(str(path), CaptureOptions(batch=2, seq_len=32))
    assert graph_faults(graph) == []
    assert graph.info.samples == 2
    assert graph.info.tokens == (0 if kind == "images" else 64)
    forward, backward = graph.matrix_flops(Phase.FORWARD), graph.matrix_flops(Phase.BACKWARD)
    assert 1.4 < backward / forward < 2.6
    # the last layer of T5's stacks, and of a model without a head, gets its gradient in another form
    assert [b.count for b in graph.blocks] == ([] if kind in ("seq2seq", "headless") else [2])
    assert capture(str(tmp_path), CaptureOptions(batch=2, seq_len=32)).info.parameters == graph.info.parameters
    assert dict(graph.info.versions)["transformers"]


def test_hugging_face_helpers_are_put_back(tmp_path: Path) -> None:
    from transformers import masking_utils

    kept = masking_utils.find_packed_sequence_indices
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGURATIONS["causal"]))
    graph = capture(str(path), CaptureOptions(seq_len=32))
    assert masking_utils.find_packed_sequence_indices is kept
    attention = [o for o in graph.operators if "fused_attention" in o.name and o.phase is Phase.FORWARD]
    assert len(attention) == 2
    assert all(p.masked_fraction > 0 for o in attention for p in o.work.products), "causal, not a 4-D mask"
