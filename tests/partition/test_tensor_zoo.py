"""Every transformer of the zoo, divided: exact sums, closed forms of traffic, sound graphs that fuse and schedule."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from worklode.errors import SpecError
from worklode.frontend import CaptureOptions, capture
from worklode.graph.fusion import fuse
from worklode.graph.operator import OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults
from worklode.graph.work import Collective
from worklode.partition.plan import expert_plan_for, tensor_plan_for
from worklode.partition.tensor_parallel import ShardedGraph, shard

from .local_zoo import captured_local, without_vocabulary

# Name, layers, devices that divide heads (and what else a plan divides).
MODELS = {
    "bert-base": (2, 4),
    "bert-large": (2, 4, 8),
    "opt-1.3b": (2, 4, 8),
    "gpt2-xl": (5,),  # 25 heads
    "gpt3-175b": (8,),
    "vit-l16": (2, 4, 8),
    "t5-base": (2, 4),
    "llama2-7b": (2, 4, 8),
    "llama3-8b": (2, 4, 8),
    "llama3-70b": (8,),
    "mixtral-8x7b": (2, 4, 8),
}
CASES = [(name, devices) for name, all_devices in MODELS.items() for devices in all_devices]
SEQUENCE = [(name, devices) for name, devices in CASES if name not in {"vit-l16"} and (name, devices) != ("t5-base", 4)]
SEQUENCE = [case for case in SEQUENCE if case[0] != "gpt2-xl"]  # 1024 tokens, 5 devices


@cache
def captured(name: str) -> TrainingGraph:
    return capture(name)


@cache
def sharded(name: str, devices: int, sequence: bool = False) -> ShardedGraph:
    return shard(captured(name), tensor_plan_for(name), devices=devices, sequence_parallel=sequence)


def parameter_bytes(graph: TrainingGraph, role: TensorRole) -> int:
    return sum({t.storage: t.bytes for t in graph.tensors if t.role is role}.values())


@pytest.mark.parametrize(("name", "devices"), CASES)
def test_shards_add_up_exactly(name: str, devices: int) -> None:
    report = sharded(name, devices).report
    divided = devices * (report.shard_parameters - report.replicated_parameters)
    assert report.parameters == captured(name).info.parameters
    assert divided + report.replicated_parameters == report.parameters + report.padding_parameters
    divided = devices * (report.shard_matrix_flops - report.replicated_matrix_flops)
    assert divided + report.replicated_matrix_flops == report.matrix_flops + report.padding_matrix_flops
    assert report.matrix_flops == captured(name).matrix_flops()
    if not report.padded:
        assert report.padding_parameters == report.padding_matrix_flops == 0
    width = report.padding_parameters / max(1, sum(padded - rows for _, rows, padded in report.padded[:1]))
    assert report.padding_parameters == 0 or width >= 512  # rows of the table, and their bias where there is one
    # what stays whole is small: norms, biases of sums, positions, heads that no plan divides
    assert report.replicated_parameters < 0.02 * report.parameters
    assert report.replicated_matrix_flops < 0.02 * report.matrix_flops


@pytest.mark.parametrize(("name", "devices"), CASES)
def test_gradients_and_state_are_held_as_the_parameters(name: str, devices: int) -> None:
    for sequence in (False, True) if (name, devices) in SEQUENCE[:4] else (False,):
        graph = sharded(name, devices, sequence).graph
        own = parameter_bytes(graph, TensorRole.PARAMETER)
        assert parameter_bytes(graph, TensorRole.GRADIENT) == own
        # AdamW: two moments of the parameters' type, and a float32 step count each
        counts = 4 * len({t.name for t in graph.tensors if t.role is TensorRole.PARAMETER})
        assert parameter_bytes(graph, TensorRole.OPTIMIZER_STATE) == 2 * own + counts


# llama3-70b over 4 devices: with one key head left, of 8, torch needs no copy to lay it out, and records none.
CUT_DOWN = [(name, 4 if name == "llama3-70b" else all_devices[0]) for name, all_devices in MODELS.items()]


@pytest.mark.parametrize(("name", "devices"), CUT_DOWN)
def test_every_operator_equals_that_of_the_model_cut_down(name: str, devices: int) -> None:
    made = shard(captured(name), without_vocabulary(name), devices=devices).graph
    expected = captured_local(name, devices)

    def work(graph: TrainingGraph) -> Counter[object]:
        return Counter(
            (o.name, o.phase, o.module, o.work, o.read_bytes, o.write_bytes, o.gradient_of)
            for o in graph.operators
            if o.kind is not OperatorKind.COLLECTIVE
        )

    assert work(made) == work(expected)
    assert made.info.parameters == expected.info.parameters
    assert made.saved_bytes() == expected.saved_bytes()


def traffic(graph: TrainingGraph, phase: Phase, collective: Collective) -> Counter[int]:
    return Counter(
        o.work.communication.bytes
        for o in graph.operators
        if o.work.communication is not None and o.phase is phase and o.work.communication.collective is collective
    )


# layers of each stack, and the bytes of a residual tensor: batch x tokens x width in 16 bits
RESIDUAL = {
    "bert-base": (12, 16 * 512 * 768 * 2),
    "bert-large": (24, 4 * 512 * 1024 * 2),
    "opt-1.3b": (24, 2 * 2048 * 2048 * 2),
    "gpt2-xl": (48, 2 * 1024 * 1600 * 2),
    "gpt3-175b": (96, 2048 * 12_288 * 2),
    "llama2-7b": (32, 4096 * 4096 * 2),
    "llama3-8b": (32, 8192 * 4096 * 2),
    "llama3-70b": (80, 8192 * 8192 * 2),
    "mixtral-8x7b": (32, 4096 * 4096 * 2),
}


@pytest.mark.parametrize(("name", "devices"), [case for case in CASES if case[0] in RESIDUAL])
def test_traffic_is_two_all_reduces_a_layer_each_way(name: str, devices: int) -> None:
    """2·s·b·h bytes twice a layer forward and twice backward; one more for the embedding and one for the head."""
    layers, size = RESIDUAL[name]
    graph = sharded(name, devices).graph
    for phase in (Phase.FORWARD, Phase.BACKWARD):
        found = traffic(graph, phase, Collective.ALL_REDUCE)
        assert found.pop(size) == 2 * layers + 1
        if name == "mixtral-8x7b" and phase is Phase.BACKWARD:  # gradient of the weights a token gives its experts
            assert found.pop(4096 * 2 * 2) == layers
        assert not found


@pytest.mark.parametrize(
    ("name", "devices"), [case for case in SEQUENCE if case[0] in RESIDUAL and case[0] != "mixtral-8x7b"]
)
def test_traffic_with_sequence_parallelism_is_pairs(name: str, devices: int) -> None:
    """Every all-reduce is a reduce-scatter and an all-gather; backward gathers what forward gathered once more."""
    layers, size = RESIDUAL[name]
    graph = sharded(name, devices, True).graph
    pooler = name.startswith("bert")  # its class token is one of a whole sequence
    each = 2 * layers + 1
    assert traffic(graph, Phase.FORWARD, Collective.REDUCE_SCATTER) == {size: each}
    assert traffic(graph, Phase.FORWARD, Collective.ALL_GATHER) == {size: each + pooler}
    assert traffic(graph, Phase.BACKWARD, Collective.REDUCE_SCATTER) == {size: each}
    gathered = traffic(graph, Phase.BACKWARD, Collective.ALL_GATHER)
    positions = name.startswith(("bert", "opt", "gpt"))  # the gradient of a position table, a sum over the batch
    assert sum(gathered.values()) == 2 * each + pooler + positions
    assert gathered[size] == 2 * each + pooler + (name == "gpt3-175b")  # a batch of one
    assert not traffic(graph, Phase.FORWARD, Collective.ALL_REDUCE)
    # gradients of norms and biases: one all-reduce a layer, and one for what is outside
    summed = traffic(graph, Phase.OPTIMIZER, Collective.ALL_REDUCE)
    assert layers <= sum(summed.values()) <= layers + 1


def test_t5_reduces_self_and_cross_attention() -> None:
    """Encoder: 2 a layer and the embedding; decoder: 3 and the embedding; the encoder's output once backward."""
    encoder, decoder = 16 * 512 * 768 * 2, 16 * 114 * 768 * 2
    for devices in MODELS["t5-base"]:
        graph = sharded("t5-base", devices).graph
        assert traffic(graph, Phase.FORWARD, Collective.ALL_REDUCE) == {encoder: 2 * 12 + 1, decoder: 3 * 12 + 1}
        # backward: the head's input instead of the embeddings, and the 24 gradients of the memory in one
        assert traffic(graph, Phase.BACKWARD, Collective.ALL_REDUCE) == {encoder: 2 * 12 + 1, decoder: 3 * 12 + 1}


@pytest.mark.parametrize(("name", "devices"), [case for case in CASES if case[0] != "vit-l16"])
def test_loss_sends_three_numbers_a_token(name: str, devices: int) -> None:
    rows = {"t5-base": 16 * 114}.get(name, captured(name).info.tokens)
    assert traffic(sharded(name, devices).graph, Phase.LOSS, Collective.ALL_REDUCE) == {4 * rows: 3}


@pytest.mark.parametrize(
    ("name", "sequence"),
    # With sequence parallelism those whose tokens divide.
    [(name, False) for name in sorted(MODELS)]
    + [(name, True) for name in sorted(MODELS) if (name, MODELS[name][0]) in SEQUENCE],
)
def test_a_shard_is_sound_serial_in_its_collectives_and_fuses(name: str, sequence: bool) -> None:
    devices = MODELS[name][0]
    graph = sharded(name, devices, sequence).graph
    assert graph_faults(graph) == []
    collectives = [i for i, o in enumerate(graph.operators) if o.kind is OperatorKind.COLLECTIVE]
    assert collectives
    assert all(before in graph.predecessors(after) for before, after in pairwise(collectives))
    fused = fuse(graph).graph
    assert graph_faults(fused) == []
    assert len([o for o in fused.operators if o.kind is OperatorKind.COLLECTIVE]) == len(collectives)
    assert fused.matrix_flops() == graph.matrix_flops()
    assert len(fused.operators) < 0.75 * len(graph.operators)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_expert_parallelism_exchanges_tokens_twice_each_way(devices: int) -> None:
    whole = captured("mixtral-8x7b")
    made = shard(whole, expert_plan_for("mixtral-8x7b"), devices=devices)
    size = 4096 * 2 * 4096 * 2  # tokens x experts a token x width in 16 bits: what one device sends
    for phase in (Phase.FORWARD, Phase.BACKWARD):
        assert traffic(made.graph, phase, Collective.ALL_TO_ALL) == {size: 2 * 32}
    axes = {o.work.communication.axis for o in made.graph.operators if o.work.communication is not None}
    assert axes == {"expert"}
    report = made.report
    experts = 3 * 32 * 8 * 4096 * 14_336
    assert report.shard_parameters == whole.info.parameters - experts + experts // devices
    assert devices * (report.shard_parameters - report.replicated_parameters) == experts
    assert made.graph.matrix_flops() == whole.matrix_flops()
    assert graph_faults(made.graph) == []
    own = [o for o in made.graph.operators if o.work.communication is None]
    for before, after in zip(whole.operators, own, strict=True):
        assert (before.name, before.phase) == (after.name, after.phase)
        assert before.phase is Phase.OPTIMIZER or before.work.flops == after.work.flops
    bmm = next(o for o in made.graph.operators if o.name == "aten.bmm").work.products[0]
    assert (bmm.batch, bmm.m) == (8 // devices, 1024 * devices)
    weights = next(o for o in made.graph.operators if o.name == "aten.bmm" and o.gradient_of == "weight")
    assert (weights.work.products[0].batch, weights.work.products[0].k) == (8 // devices, 1024 * devices)


def test_experts_and_tensors_divide_one_after_another() -> None:
    whole = captured("mixtral-8x7b")
    by_experts = shard(whole, expert_plan_for("mixtral-8x7b"), devices=4)
    both = shard(by_experts.graph, tensor_plan_for("mixtral-8x7b"), devices=2)
    assert both.report.padding_matrix_flops == both.report.padding_parameters == 0
    assert traffic(both.graph, Phase.FORWARD, Collective.ALL_REDUCE) == {4096 * 4096 * 2: 65}
    assert graph_faults(both.graph) == []
    alone = sharded("mixtral-8x7b", 2).report
    assert both.report.shard_matrix_flops == alone.shard_matrix_flops


def test_one_device_changes_nothing() -> None:
    made = shard(captured("bert-base"), tensor_plan_for("bert-base"), devices=1, sequence_parallel=True)
    assert made.graph is captured("bert-base")
    assert made.report.shard_parameters == made.report.parameters == made.report.replicated_parameters


# ------------------------------------------------------------------------------------------- activation memory


@cache
def gpt(layers: int, attention: str) -> tuple[TrainingGraph, str]:
    name = f"gpt:layers={layers},hidden=256,heads=8,vocab=512,context=128,attention={attention}"
    return capture(name, CaptureOptions(batch=4, seq_len=128)), name


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("attention", ["written-out", "flash"])
def test_activations_of_a_layer_are_those_of_the_paper(attention: str, devices: int, sequence: bool) -> None:
    """arXiv 2205.05198, equations 1 to 4: sbh(10 + 24/t + 5as/(ht)); with sequence parallelism sbh/t (34 + 5as/h)."""
    saved = []
    for layers in (1, 2):
        graph, name = gpt(layers, attention)
        plan = tensor_plan_for(name)
        saved.append(shard(graph, plan, devices=devices, sequence_parallel=sequence).graph.saved_bytes())
    s, b, h, a, t = 128, 4, 256, 8, devices
    scores = 5 * a * s / h if attention == "written-out" else 0.0
    divided = (10 + 24) / t if sequence or t == 1 else 10 + 24 / t
    expected = s * b * h * (divided + scores / t)
    statistics = 4 * 4 * s * b + (4 * a * s * b if attention == "flash" else 0)  # mean, 1/std; log-sum-exp; float32
    assert expected <= saved[1] - saved[0] <= expected + statistics + 16


# -------------------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("name", "devices", "sequence", "words"),
    [
        ("bert-base", 8, False, ("12 heads", "8 devices do not divide its heads", "layers.*.attention")),
        ("gpt2-xl", 2, False, ("25 heads",)),
        ("llama3-8b", 16, False, ("32 heads, 8 of keys and values",)),
        ("t5-base", 4, True, ("114 tokens", "multiple of 4")),
        ("t5-base", 8, False, ("12 output features", "relative_bias", "12 heads")),
        ("vit-l16", 2, True, ("no input has a sequence dimension",)),
        ("llama2-7b", 3, False, ("11008 input features", "4096 output features")),
    ],
)
def test_settings_that_cannot_be(name: str, devices: int, sequence: bool, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        sharded(name, devices, sequence)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_is_no_captured_graph_is_refused() -> None:
    with pytest.raises(SpecError, match="does not say how its operators index their operands"):
        shard(fuse(captured("bert-base")).graph, tensor_plan_for("bert-base"), devices=2)
    with pytest.raises(SpecError, match="is not positive"):
        shard(captured("bert-base"), tensor_plan_for("bert-base"), devices=0)
    with pytest.raises(SpecError, match="tokens of their own"):
        shard(captured("bert-base"), expert_plan_for("mixtral-8x7b"), devices=2, sequence_parallel=True)
    with pytest.raises(SpecError, match="names no parameter"):
        shard(captured("bert-base"), tensor_plan_for("mixtral-8x7b"), devices=1 + 1)


def test_a_vocabulary_is_padded_and_said_so() -> None:
    made = sharded("gpt3-175b", 8)
    assert made.report.padded == (("token_embedding.weight", 50_257, 51_200),)  # a multiple of 8 x 128
    assert made.report.padding_parameters == (51_200 - 50_257) * 12_288
    assert any("50257 rows padded to 51200" in note for note in made.graph.info.notes)
    head = next(o for o in made.graph.operators if o.module == "head" and o.phase is Phase.FORWARD)
    assert head.work.products[0].n == 6_400


def test_the_page_shows_what_the_pass_reports() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models" / "tensor_parallel.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([\w.-]+) \| (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) % \|$", page, re.MULTILINE
    )
    assert len(rows) >= 4
    for name, devices, *figures, share in rows:
        report = sharded(name, int(devices)).report
        own = (report.shard_parameters, report.replicated_parameters, report.padding_parameters)
        assert [f"{figure:,}" for figure in own] == figures
        assert float(share) == pytest.approx(100 * report.shard_matrix_flops / report.matrix_flops, abs=6e-4)
