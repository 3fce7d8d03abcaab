"""Recomputation: the same operators as torch's checkpoint repeats, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
from torch import Tensor, nn

from worklode.errors import SpecError
from worklode.frontend import CaptureOptions, capture, capture_module
from worklode.graph.fusion import fuse
from worklode.graph.memory import memory_footprint
from worklode.graph.operator import OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults
from worklode.partition.recompute import Recomputed, RecomputePolicy, recompute
from worklode.partition.segments import Pass, segments

LAYERS, WIDTH, HEADS, LENGTH, BATCH = 3, 64, 4, 32, 2
SIZES = f"layers={LAYERS},hidden={WIDTH},heads={HEADS},vocab=128,context={LENGTH}"
FLASH, WRITTEN_OUT = f"gpt:{SIZES}", f"gpt:{SIZES},attention=written-out"


@cache
def captured(text: str, recompute: str = "none") -> TrainingGraph:
    return capture(text, CaptureOptions(batch=BATCH, recompute=recompute))


def repeated(graph: TrainingGraph) -> Counter[tuple[str, str, int]]:
    return Counter((o.name, o.module, o.work.flops) for o in graph.operators if o.phase is Phase.RECOMPUTE)


@pytest.mark.parametrize("text", [FLASH, WRITTEN_OUT, "bert-base", "t5-base"])
def test_full_repeats_what_torchs_checkpoint_repeats(text: str) -> None:
    oracle = captured(text, "full")
    made = recompute(captured(text), RecomputePolicy.FULL)
    assert repeated(made.graph) == repeated(oracle)
    assert made.saved_bytes == made.graph.saved_bytes() == oracle.saved_bytes()
    assert made.flops == oracle.flops(Phase.RECOMPUTE)
    for phase in set(Phase) - {Phase.RECOMPUTE}:
        assert made.graph.flops(phase) == oracle.flops(phase)


@pytest.mark.parametrize("text", [FLASH, WRITTEN_OUT, "bert-base", "resnet18", "vgg16", "gnmt", "mobilenet-v3-large"])
@pytest.mark.parametrize("policy", [RecomputePolicy.FULL, RecomputePolicy.SELECTIVE])
@pytest.mark.parametrize("early_stop", [True, False])
def test_the_graph_stays_sound_and_only_repeats(text: str, policy: RecomputePolicy, early_stop: bool) -> None:
    before = captured(text)
    made = recompute(before, policy, early_stop=early_stop)
    assert graph_faults(made.graph) == []
    assert made.flops == made.graph.flops(Phase.RECOMPUTE)
    assert made.operators == len(made.graph.operators) - len(before.operators)
    assert made.saved_bytes <= made.saved_bytes_before == before.saved_bytes()
    originals = [o for o in made.graph.operators if o.phase is not Phase.RECOMPUTE]
    assert [(o.name, o.work, o.read_bytes, o.write_bytes) for o in originals] == [
        (o.name, o.work, o.read_bytes, o.write_bytes) for o in before.operators
    ]
    forward = Counter((o.name, o.module, o.work.flops) for o in before.operators if o.phase is Phase.FORWARD)
    assert repeated(made.graph) <= forward
    fused = fuse(made.graph).graph
    assert fused.flops() == made.graph.flops()


@pytest.mark.parametrize("text", [FLASH, "resnet18"])
def test_without_early_stop_all_of_a_block_is_repeated(text: str) -> None:
    before = captured(text)
    made = recompute(before, RecomputePolicy.FULL, early_stop=False)
    divided = segments(before)
    whole = sum(before.operators[i].work.flops for k in made.segments for i in divided.segments[k].forward)
    assert made.segments == tuple(k for k, segment in enumerate(divided.segments) if segment.unit is not None)[:LAYERS]
    assert made.flops == whole
    assert recompute(before, RecomputePolicy.FULL).flops < whole


def test_selective_drops_the_scores_and_repeats_one_product() -> None:
    before = captured(WRITTEN_OUT)
    made = recompute(before, RecomputePolicy.SELECTIVE)
    elements = BATCH * HEADS * LENGTH**2
    # arXiv 2205.05198, section 4.1: softmax 2, dropout 2, mask 1 byte an element
    assert made.saved_bytes_before - made.saved_bytes == LAYERS * 5 * elements
    assert made.graph.matrix_flops(Phase.RECOMPUTE) == LAYERS * 2 * elements * WIDTH // HEADS
    whole = recompute(before, RecomputePolicy.SELECTIVE, early_stop=False)
    assert whole.graph.matrix_flops(Phase.RECOMPUTE) == LAYERS * 4 * elements * WIDTH // HEADS
    assert whole.saved_bytes == made.saved_bytes
    assert {o.kind for o in made.graph.operators if o.phase is Phase.RECOMPUTE} >= {
        OperatorKind.MATMUL,
        OperatorKind.SOFTMAX,
    }


def test_selective_has_nothing_to_do_for_flash_attention_and_says_so() -> None:
    made = recompute(captured(FLASH), RecomputePolicy.SELECTIVE)
    assert made.graph is captured(FLASH)
    assert (made.operators, made.flops, made.segments) == (0, 0, ())
    assert made.notes == (
        f"{LAYERS} attentions are one operator each, which keeps no scores: there is nothing to recompute.",
    )
    assert "no attention" in recompute(captured("vgg16"), RecomputePolicy.SELECTIVE).notes[0]


def test_only_some_blocks() -> None:
    before = captured(FLASH)
    made = [recompute(before, RecomputePolicy.FULL, only=range(1, 1 + n)) for n in range(LAYERS + 1)]
    assert [result.segments for result in made] == [(), (1,), (1, 2), (1, 2, 3)]
    assert [result.flops for result in made] == [n * made[1].flops for n in range(LAYERS + 1)]
    saved = [result.saved_bytes for result in made]
    assert saved[0] - saved[1] == saved[1] - saved[2] > 0


def test_none_is_the_graph_itself() -> None:
    made = recompute(captured(FLASH), RecomputePolicy.NONE)
    assert made.graph is captured(FLASH)
    assert made.saved_bytes == made.saved_bytes_before


@pytest.mark.parametrize("text", [FLASH, WRITTEN_OUT, "resnet18"])
@pytest.mark.parametrize("policy", [RecomputePolicy.FULL, RecomputePolicy.SELECTIVE])
def test_repeated_operators_wait_for_the_gradient(text: str, policy: RecomputePolicy) -> None:
    graph = recompute(captured(text), policy).graph
    follows_backward = [False] * len(graph.operators)
    for index, operator in enumerate(graph.operators):
        follows_backward[index] = operator.phase is Phase.BACKWARD or any(
            follows_backward[before] for before in graph.predecessors(index)
        )
        assert operator.phase is not Phase.RECOMPUTE or follows_backward[index]


def test_less_memory_at_the_peak() -> None:
    text = f"gpt:layers=12,hidden={WIDTH},heads={HEADS},vocab=128,context=256,attention=written-out"
    none, selective, full = (memory_footprint(recompute(captured(text), policy).graph) for policy in RecomputePolicy)
    assert full.activations_peak < selective.activations_peak < none.activations_peak


def test_recomputation_is_in_the_input_gradient_pass() -> None:
    divided = segments(recompute(captured(FLASH), RecomputePolicy.FULL).graph)
    assert len(divided.counts) == 3
    for segment in divided.segments[1:-1]:
        phases = [divided.graph.operators[i].phase for i in segment.operators(Pass.INPUT_GRADIENT)]
        assert phases.count(Phase.RECOMPUTE) > 0
        assert all(divided.graph.operators[i].phase is Phase.BACKWARD for i in segment.weight_gradient)


def test_running_statistics_are_updated_once() -> None:
    graph = recompute(captured("resnet18"), RecomputePolicy.FULL).graph
    written = [
        graph.tensors[access.tensor].role
        for operator in graph.operators
        if operator.phase is Phase.RECOMPUTE
        for access in operator.writes
    ]
    assert set(written) == {TensorRole.ACTIVATION}


class InPlace(nn.Module):
    """A block that writes over its input, and one that writes over its own results."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for layer in self.layers:
            x = x.add_(layer(x.sigmoid()).relu_())
        return x


def test_kept_input_survives_being_written_over() -> None:
    import torch

    before = capture_module(InPlace, lambda: torch.zeros(4, 8), lambda y: y.sum())
    divided = segments(before)
    made = recompute(before, RecomputePolicy.FULL, only=range(len(divided.segments)))
    assert graph_faults(made.graph) == []
    assert made.operators > 0


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: recompute(captured(FLASH), RecomputePolicy.FULL, only=[0, 5, 7]), r"no such segment \(found 5\)"),
        (lambda: recompute(captured(FLASH, "full"), RecomputePolicy.FULL), "recomputes already"),
        (lambda: recompute(fuse(captured(FLASH)).graph, RecomputePolicy.FULL), "is fused"),
    ],
)
def test_refusals(call: Callable[[], Recomputed], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        call()
