"""Memory of pipeline stages: against the liveness of the whole graph, closed forms, and by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.frontend import CaptureOptions, capture
from worklode.graph.fusion import fuse
from worklode.graph.memory import memory_footprint
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.cut_points import FORWARD_PHASES
from worklode.partition.memory_limit import memory_shortage
from worklode.partition.recompute import RecomputePolicy, recompute
from worklode.partition.segments import segments
from worklode.partition.stage_memory import MemoryModel, StateOptions, StateRule

LAYERS, WIDTH, HEADS, LENGTH, BATCH, VOCABULARY = 6, 64, 4, 32, 2, 128
GPT = f"gpt:layers={LAYERS},hidden={WIDTH},heads={HEADS},vocab={VOCABULARY},context={LENGTH},attention=written-out"
MODELS = (GPT, "bert-base", "t5-base", "resnet18", "gnmt", "dlrm")


@cache
def captured(text: str) -> TrainingGraph:
    return capture(text, CaptureOptions(batch=BATCH))


@cache
def model(text: str, policy: RecomputePolicy = RecomputePolicy.NONE) -> MemoryModel:
    return MemoryModel(segments(recompute(captured(text), policy).graph))


def kept_by_hand(graph: TrainingGraph, operators: set[int]) -> int:
    """Storages that backward operators among these read and forward made: one plain loop over the graph."""
    kept = {}
    for index in operators:
        if graph.operators[index].phase in (Phase.BACKWARD, Phase.RECOMPUTE, Phase.ACCUMULATE):
            for access in graph.operators[index].reads:
                tensor = graph.tensors[access.tensor]
                forward = tensor.producer >= 0 and graph.operators[tensor.producer].phase in FORWARD_PHASES
                if tensor.role is TensorRole.INPUT or (forward and tensor.role is TensorRole.ACTIVATION):
                    kept[tensor.storage] = tensor.bytes
    return sum(kept.values())


@pytest.mark.parametrize("text", MODELS)
@pytest.mark.parametrize("policy", [RecomputePolicy.NONE, RecomputePolicy.FULL])
def test_kept_bytes_of_any_run_of_segments_are_those_counted_by_hand(text: str, policy: RecomputePolicy) -> None:
    found = model(text, policy)
    count = len(found.divided.segments)
    for first, stop in [(0, 1), (0, count), (1, 3), (count // 2, count), (count - 1, count), (1, count - 1)]:
        operators = {i for k in range(first, stop) for i in found.divided.segments[k].operators()}
        assert found.activations.kept_bytes(first, stop) == kept_by_hand(found.divided.graph, operators)


@pytest.mark.parametrize("text", MODELS)
def test_kept_activations_are_what_capture_says_is_saved(text: str) -> None:
    found = model(text)
    graph = found.divided.graph
    count = len(found.divided.segments)
    read_later = {a.tensor for o in graph.operators if o.phase is Phase.BACKWARD for a in o.reads}
    inputs = {t.storage: t.bytes for i, t in enumerate(graph.tensors) if t.role is TensorRole.INPUT and i in read_later}
    assert found.activations.kept_bytes(0, count) == graph.saved_bytes() + sum(inputs.values())


def without_partial_gradients(found: MemoryModel) -> TrainingGraph:
    """The graph with the parts of a tied gradient, which a device sums in place, among the gradients."""
    graph = found.divided.graph
    partial = {tensor for tie in found.divided.ties for tensor in tie.partial}
    tensors = (replace(t, role=TensorRole.GRADIENT) if i in partial else t for i, t in enumerate(graph.tensors))
    return replace(graph, tensors=tuple(tensors))


@pytest.mark.parametrize("text", MODELS)
@pytest.mark.parametrize("policy", [RecomputePolicy.NONE, RecomputePolicy.FULL])
def test_one_stage_is_the_liveness_of_the_whole_graph(text: str, policy: RecomputePolicy) -> None:
    """Segments fused apart against all fused together: equal but for what fusion does across cuts."""
    found = model(text, policy)
    stage = found.stage([(0, len(found.divided.segments))], [1], StateOptions())
    whole = memory_footprint(fuse(without_partial_gradients(found)).graph)
    assert stage.parameters == whole.parameters
    assert stage.optimizer_state == whole.optimizer_state
    assert stage.buffers == whole.buffers
    # all gradients stay until the update, whose parts of a tied one the footprint has beside it
    trained = {t.storage: t.bytes for t in found.divided.graph.tensors if t.role is TensorRole.GRADIENT}
    assert stage.gradients == sum(trained.values())
    # The footprint counts inputs apart. Fused whole, T5's gradients of three look-ups of one table are summed at the
    # end:
    # two of them live until then.
    put_off = 2 * max((tie.gradient_bytes for tie in found.divided.ties), default=0) if text == "t5-base" else 0
    expected = whole.activations_peak + whole.inputs
    assert 0.96 * (expected - put_off) <= stage.activations + stage.working_set <= 1.04 * expected


def test_a_gpt_layer_keeps_what_the_closed_form_says() -> None:
    """arXiv 2205.05198, equation 2: s b h (34 + 5 a s / h), and two 32-bit numbers a row of each layer norm."""
    found = model(GPT)
    elements = LENGTH * BATCH * WIDTH
    statistics = 2 * 2 * 4 * LENGTH * BATCH  # 2 norms, mean and deviation
    layer = found.activations.segments[2].kept - statistics
    assert layer == elements * 34 + 5 * HEADS * LENGTH**2 * BATCH
    selective = model(GPT, RecomputePolicy.SELECTIVE).activations.segments[2].kept - statistics
    assert selective == elements * 34
    assert model(GPT, RecomputePolicy.FULL).activations.segments[2].kept == 2 * elements


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MODELS), st.data())
def test_stages_together_keep_at_least_the_whole(text: str, data: st.DataObject) -> None:
    """Cutting divides parameters (a tied one is copied) and never loses activations; more in flight is more memory."""
    found = model(text)
    count = len(found.divided.segments)
    cut = data.draw(st.integers(1, count - 1))
    options = StateOptions(
        rule=data.draw(st.sampled_from(StateRule)),
        zero=data.draw(st.integers(0, 3)),
        data_parallel=data.draw(st.integers(1, 16)),
    )
    in_flight = data.draw(st.integers(1, 8))
    whole = found.stage([(0, count)], [1], options)
    front, back = found.stage([(0, cut)], [1], options), found.stage([(cut, count)], [1], options)
    assert front.activations + back.activations >= whole.activations
    assert front.parameters + back.parameters >= whole.parameters
    assert max(front.activations, back.activations) <= whole.activations
    more = found.stage([(0, cut)], [in_flight], options)
    assert more.activations == in_flight * front.activations
    assert more.total >= front.total


@given(st.integers(0, 3), st.integers(1, 1024))
def test_zero_divides_what_the_paper_says(zero: int, width: int) -> None:
    """arXiv 1910.02054, figure 1: 4 + 12/d, 2 + 14/d, 16/d bytes a parameter (rounded up part by part)."""
    found = model(GPT)
    count = len(found.divided.segments)
    stage = found.stage([(0, count)], [1], StateOptions(rule=StateRule.MIXED_16, zero=zero, data_parallel=width))
    parameters = found.divided.graph.info.parameters
    expected = [16, 4 + 12 / width, 2 + 14 / width, 16 / width][zero] * parameters
    assert stage.parameters + stage.gradients + stage.optimizer_state == pytest.approx(expected, abs=3)


def test_tied_embedding_is_on_both_ends_of_a_pipeline() -> None:
    found = model(GPT)
    count = len(found.divided.segments)
    options = StateOptions(rule=StateRule.MIXED_18)
    first = found.stage([(0, 1)], [1], options)
    last = found.stage([(count - 1, count)], [1], options)
    both = found.stage([(0, 1), (count - 1, count)], [1, 1], options)
    table = VOCABULARY * WIDTH
    assert first.parameters == 2 * (table + LENGTH * WIDTH)
    assert last.parameters == 2 * (table + 2 * WIDTH)
    assert both.parameters == first.parameters + last.parameters - 2 * table
    assert both.optimizer_state == 12 * (table + LENGTH * WIDTH + 2 * WIDTH)


def test_interleaved_chunks_keep_their_own_microbatches() -> None:
    found = model(GPT)
    layer = found.activations.kept_bytes(1, 2)
    stage = found.stage([(1, 2), (4, 6)], [3, 2], StateOptions())
    assert stage.activations == 3 * layer + 2 * 2 * layer
    simulated = found.stage([(1, 2), (4, 6)], [3, 2], StateOptions(), activation_bytes=12345.4)
    assert simulated.activations == 12345
    assert simulated.working_set == stage.working_set


def test_what_fits_is_no_shortage_and_what_does_not_names_the_help() -> None:
    found = model(GPT)
    options = StateOptions(rule=StateRule.MIXED_18, data_parallel=4)
    needed = found.stage([(0, 3)], [4], options).total
    assert memory_shortage(found, [(0, 3)], [4], options, needed) is None
    short = memory_shortage(found, [(0, 3)], [4], options, needed - 1)
    assert short is not None
    assert (short.demand_bytes, short.limit_bytes) == (needed, needed - 1)
    assert short.largest == "activations"
    changes = {remedy.change: remedy for remedy in short.remedies}
    assert set(changes) == {
        "ZeRO-1",
        "ZeRO-2",
        "ZeRO-3",
        "selective recomputation",
        "full recomputation",
        "twice as many pipeline stages",
        "twice the tensor-parallel width",
        "half the microbatch",
    }
    assert short.remedy == "ZeRO-1"
    again = model(GPT, RecomputePolicy.FULL).stage([(0, 3)], [4], options).total
    assert changes["full recomputation"].total_bytes == again
    hopeless = memory_shortage(found, [(0, 3)], [4], options, 1000)
    assert hopeless is not None
    assert not any(remedy.fits for remedy in hopeless.remedies)
    totals = [remedy.total_bytes for remedy in hopeless.remedies]
    assert totals == sorted(totals)
    assert "does not suffice" in hopeless.remedy


def test_every_fault_is_reported() -> None:
    found = model(GPT)
    with pytest.raises(SpecError) as caught:
        found.stage([(3, 3), (7, 20)], [1], StateOptions())
    assert [fault.path for fault in caught.value.faults] == ["chunks[0]", "chunks[1]", "in_flight"]
    with pytest.raises(SpecError) as caught:
        found.stage([(0, 1)], [1], StateOptions(zero=4, data_parallel=0))
    assert [fault.where for fault in caught.value.faults] == ["zero", "data_parallel"]
