"""Plans: where they come from, which parameter they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worklode.errors import SpecError
from worklode.frontend import capture_module, zoo
from worklode.graph.operator import Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Collective
from worklode.partition.plan import (
    Style,
    expert_plan_for,
    plan_from_file,
    plan_from_hugging_face,
    plan_from_mapping,
    tensor_plan_for,
)
from worklode.partition.tensor_parallel import shard


def test_a_rule_means_modules_and_parameters_anywhere() -> None:
    plan = plan_from_mapping({"layers.*.up": "colwise", "experts.gate": "rowwise", "head": "vocab"}, name="p")
    styles = {
        "layers.0.up.weight": Style.COLWISE,
        "model.layers.11.up.bias": Style.COLWISE,
        "layers.0.experts.gate": Style.ROWWISE,
        "head.weight": Style.VOCAB,
        "layers.up.weight": None,
        "layers.0.upper.weight": None,
        "layers.0.1.up.weight": None,
        "overhead.weight": None,
    }
    for name, style in styles.items():
        rule = plan.rule_for(name)
        assert (rule.style if rule is not None else None) is style, name


def test_the_longest_path_comes_first() -> None:
    plan = plan_from_mapping({"experts": "replicate", "experts.down": "rowwise"}, name="p")
    down, up = plan.rule_for("layers.0.experts.down"), plan.rule_for("layers.0.experts.up")
    assert down is not None and down.style is Style.ROWWISE
    assert up is not None and up.style is Style.REPLICATE


def test_files_and_forms_of_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("layers.*.qkv: colwise:3\nlayers.*.out:\n  style: rowwise\nnorm: sequence\n")
    plan = plan_from_file(path)
    assert [(r.pattern, r.style, r.parts) for r in plan.rules] == [
        ("layers.*.qkv", Style.COLWISE, 3),
        ("layers.*.out", Style.ROWWISE, 1),
        ("norm", Style.SEQUENCE, 1),
    ]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"a": "columnwise", "b": "colwise:x"},
            ("a: unknown style (found 'columnwise')", "did you mean colwise", "b: "),
        ),
        ({"a": {"style": "rowwise", "part": 2}}, ("a.part: unknown key",)),
        ({"a": {"style": "rowwise", "parts": 0}}, ("parts is no whole number (found 0)",)),
        ({"a": 3}, ("unknown style (found 3)",)),
        ({}, ("is empty",)),
        (["a"], ("is no mapping",)),
        ({"a": "expert", "b": "colwise"}, ("b: experts and other weights cannot", "two plans")),
    ],
)
def test_every_fault_of_a_plan_is_named(found: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        plan_from_mapping(found, name="plan.yaml")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_faults_of_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        plan_from_file(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(SpecError, match="is no YAML"):
        plan_from_file(broken)


def test_models_without_a_plan_say_what_they_lack() -> None:
    transformers = {"bert-base", "bert-large", "opt-1.3b", "gpt2-xl", "gpt3-175b", "vit-l16", "t5-base", "llama2-7b",
                    "llama3-8b", "llama3-70b", "mixtral-8x7b"}  # fmt: skip
    for name in zoo.names():
        if name in transformers:
            assert tensor_plan_for(name).rules
        else:
            with pytest.raises(SpecError, match="no tensor-parallel plan: nobody said which weights") as caught:
                tensor_plan_for(name)
            assert "Hugging Face tp_plan" in str(caught.value)
    with pytest.raises(SpecError, match="no expert-parallel plan"):
        expert_plan_for("llama3-8b")


# ------------------------------------------------------------------------------------------------ Hugging Face


def causal_model(name: str, **sizes: Any) -> tuple[TrainingGraph, dict[str, str]]:
    """A small transformers model, captured, and its own tensor-parallel plan."""
    import transformers

    common = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
              "num_key_value_heads": 4, "vocab_size": 256}  # fmt: skip
    configuration = getattr(transformers, f"{name}Config")(**common | sizes)
    make = getattr(transformers, f"{name}ForCausalLM")
    ids = torch.zeros(2, 32, dtype=torch.long)
    graph = capture_module(
        lambda: make(configuration), {"input_ids": ids, "labels": ids, "use_cache": False}, name=name.lower()
    )
    with torch.device("meta"):
        return graph, dict(make(configuration).tp_plan)


def all_reduces(graph: TrainingGraph, phase: Phase, size: int) -> int:
    return sum(
        o.work.communication is not None
        and o.work.communication.collective is Collective.ALL_REDUCE
        and o.work.communication.bytes == size
        and o.phase is phase
        for o in graph.operators
    )


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Mixtral"])
def test_plans_of_hugging_face_models(name: str) -> None:
    graph, tp_plan = causal_model(name, **{"num_local_experts": 4} if name == "Mixtral" else {"head_dim": 8})
    made = shard(graph, plan_from_hugging_face(tp_plan, name=name), devices=4)
    report = made.report
    residual = 2 * 32 * 64 * 2  # bytes: batch x tokens x width in 16 bits
    # Embeddings are whole in these plans. Mixtral's experts give two bfloat16 rows a token, summed in float32: as
    # many bytes before as after.
    assert all_reduces(made.graph, Phase.FORWARD, residual) == (2 if name == "Mixtral" else 2 * 2)
    assert all_reduces(made.graph, Phase.FORWARD, 2 * residual) == (2 if name == "Mixtral" else 0)
    assert all_reduces(made.graph, Phase.BACKWARD, residual) == 2 * 2 + 1  # and the head's input
    assert report.padding_parameters == report.padding_matrix_flops == 0
    norms = 64 * 5 + (16 * 2 if name == "Qwen3" else 0)
    router = 2 * 64 * 4 if name == "Mixtral" else 0
    assert report.replicated_parameters == 256 * 64 + norms + router
    if name == "Qwen3":  # every device has other heads, whose norms share weights: their gradients are summed
        summed = [o for o in made.graph.operators if o.work.communication is not None and o.phase is Phase.OPTIMIZER]
        assert [o.work.communication.bytes for o in summed if o.work.communication] == [2 * 8 * 2] * 2


def test_grouped_experts_of_hugging_face_exchange_tokens() -> None:
    graph, _ = causal_model("Mixtral", num_local_experts=4, num_hidden_layers=2)
    plan = plan_from_hugging_face(
        {"layers.*.mlp.gate": "ep_router", "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
         "layers.*.mlp.experts.down_proj": "grouped_gemm"}, name="ep"
    )  # fmt: skip
    made = shard(graph, plan, devices=2)
    exchanged = [o.work.communication for o in made.graph.operators if o.work.communication is not None]
    assert {c.collective for c in exchanged} == {Collective.ALL_TO_ALL}
    assert {c.bytes for c in exchanged} == {2 * 32 * 2 * 64 * 2}  # tokens x experts a token x width in 16 bits
    assert len(exchanged) == 2 * 4
    assert made.graph.matrix_flops() == graph.matrix_flops()


def test_unknown_styles_of_hugging_face() -> None:
    with pytest.raises(SpecError, match="unknown style") as caught:
        plan_from_hugging_face({"a": "diagonal", "b": "colwise", "c": "spiral"})
    assert len(caught.value.faults) == 2


# ---------------------------------------------------------------------------------------------------- own modules


class Odd(nn.Module):
    """A module with its own ideas: a convolution, a scaled sum of two branches, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(16, 16, 3, padding=1)
        self.left, self.right = nn.Linear(16, 32, bias=False), nn.Linear(16, 32, bias=False)
        self.out = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x.transpose(1, 2)).transpose(1, 2)
        result: Tensor = self.out(torch.sigmoid(self.left(x)) * self.right(x))
        return result


def odd() -> TrainingGraph:
    return capture_module(Odd, torch.zeros(4, 8, 16), lambda y: y.square().mean(), name="odd")


def test_a_plan_of_ones_own() -> None:
    made = shard(
        odd(), plan_from_mapping({"left": "colwise", "right": "colwise", "out": "rowwise"}, name="odd"), devices=4
    )
    assert all_reduces(made.graph, Phase.FORWARD, 4 * 8 * 16 * 2) == 1
    assert all_reduces(made.graph, Phase.BACKWARD, 4 * 8 * 16 * 2) == 1
    assert made.report.shard_parameters == 16 * 16 * 3 + 16 + 3 * 16 * 32 // 4 + 16


def test_a_parameter_that_no_rule_divides() -> None:
    with pytest.raises(SpecError, match=r"mix.*divides a parameter of aten.convolution"):
        shard(odd(), plan_from_mapping({"mix": "colwise"}, name="odd"), devices=2)


def test_every_size_that_does_not_divide_is_named() -> None:
    plan = plan_from_mapping({"left": "colwise", "out": "rowwise", "typo": "colwise"}, name="odd.yaml")
    with pytest.raises(SpecError) as caught:
        shard(odd(), plan, devices=3)
    assert {(fault.path, fault.value) for fault in caught.value.faults} == {
        ("left.weight", "32 output features"),
        ("out.weight", "32 input features"),
        ("typo", ""),
    }
