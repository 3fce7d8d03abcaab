"""Segments of every zoo model: nothing is lost, nothing is twice, and what the model's text says can be seen."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from worklode.graph.fusion import fuse
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.validate import graph_faults
from worklode.partition.segments import BACKWARD, Pass, Segments, pass_graph, segments

from .conftest import ZooModel


@cache
def divided_model(model: ZooModel) -> Segments:
    return segments(model.graph)


def test_every_operator_is_in_one_segment_and_pass(model: ZooModel) -> None:
    divided = divided_model(model)
    found = [index for segment in divided.segments for index in segment.operators()]
    assert sorted(found) == list(range(len(model.graph.operators)))
    phases = {Pass.FORWARD: {Phase.FORWARD, Phase.LOSS}, Pass.OPTIMIZER: {Phase.OPTIMIZER}}
    for segment in divided.segments:
        for chosen in Pass:
            allowed = phases.get(chosen, {Phase.BACKWARD, Phase.RECOMPUTE, Phase.ACCUMULATE})
            assert {model.graph.operators[i].phase for i in segment.operators(chosen)} <= allowed


def test_flops_and_bytes_of_the_distinct_segments_times_their_counts_are_the_models(model: ZooModel) -> None:
    divided = divided_model(model)
    flops = hbm_bytes = operators = 0
    for kind, count in divided.counts.items():
        for chosen in Pass:
            part = pass_graph(divided, [kind], chosen)
            # a tied parameter is updated by each device that holds a copy: once too often here
            twice = {i for tie in divided.ties if kind in tie.segments for i in tie.optimizer} - set(
                divided.segments[kind].optimizer
            )
            if chosen is Pass.OPTIMIZER:
                flops -= sum(model.graph.operators[i].work.flops for i in twice)
                hbm_bytes -= sum(model.graph.operators[i].read_bytes for i in twice)
                hbm_bytes -= sum(model.graph.operators[i].write_bytes for i in twice)
                operators -= len(twice)
            flops += count * part.flops()
            hbm_bytes += count * part.hbm_bytes()
            operators += count * len(part.operators)
    assert flops == model.graph.flops()
    assert hbm_bytes == model.graph.hbm_bytes()
    assert operators == len(model.graph.operators)


def test_passes_are_sound_graphs_and_fuse(model: ZooModel) -> None:
    divided = divided_model(model)
    for kind in divided.counts:
        for chosen in Pass:
            part = pass_graph(divided, [kind], chosen)
            assert graph_faults(part) == []
            fused = fuse(part).graph
            assert fused.flops() == part.flops()
            # what somebody else reads is still there
            kept = Counter((t.storage, t.bytes) for t in fused.tensors if t.saved)
            assert kept == Counter((t.storage, t.bytes) for t in part.tensors if t.saved)


def test_what_a_pass_reads_is_there(model: ZooModel) -> None:
    """Forward reads what is handed on; backward what is handed back, and what its own forward made or was handed."""
    divided = divided_model(model)
    graph, last = divided.graph, len(divided.segments) - 1
    partial = {tensor for tie in divided.ties for tensor in tie.partial}
    for place, segment in enumerate(divided.segments):
        from_before = set(divided.boundaries[place - 1].forward) if place else set()
        from_behind = set(divided.boundaries[place].backward) if place < last else set()
        own = set(segment.operators())
        for chosen in (Pass.FORWARD, *BACKWARD):
            for index in segment.operators(chosen):
                for access in graph.operators[index].reads:
                    producer = graph.tensors[access.tensor].producer
                    if producer >= 0 and producer not in own and access.tensor not in partial:
                        assert access.tensor in (from_before | from_behind)
                        assert chosen is not Pass.FORWARD or access.tensor in from_before


def test_the_input_gradient_pass_waits_for_no_weight_gradient(model: ZooModel) -> None:
    divided = divided_model(model)
    for segment in divided.segments:
        rest = set(segment.weight_gradient)
        assert not any(rest & set(model.graph.predecessors(index)) for index in segment.input_gradient)


@pytest.mark.parametrize(
    ("name", "blocks", "others"),
    [
        ("gpt3-175b", {"layers.0": 96}, ["token_embedding+embedding_dropout", "final_norm+head+loss"]),
        ("llama3-70b", {"layers.0": 80}, ["token_embedding", "final_norm+head+loss"]),
        ("mixtral-8x7b", {"layers.0": 32}, ["token_embedding", "final_norm+head+loss"]),
        (
            "t5-base",
            {"encoder.layers.0": 11, "encoder.layers.11": 1, "decoder.layers.0": 11, "decoder.layers.11": 1},
            [
                "token_embedding+encoder.relative_bias+encoder.dropout",
                "encoder.final_norm..decoder.dropout",
                "decoder.final_norm+decoder.dropout+head+loss",
            ],
        ),
        (
            "resnet50",
            {
                "stages.0.0": 1,
                "stages.0.1": 2,
                "stages.1.0": 1,
                "stages.1.1": 3,
                "stages.2.0": 1,
                "stages.2.1": 5,
                "stages.3.0": 1,
                "stages.3.1": 2,
            },
            ["stem+pool", "head+loss"],
        ),
    ],
)
def test_segments_are_what_people_would_cut(
    models: dict[str, ZooModel], name: str, blocks: dict[str, int], others: list[str]
) -> None:
    divided = divided_model(models[name])
    names = [segment.name for segment in divided.segments]
    assert {names[kind]: count for kind, count in divided.counts.items() if divided.segments[kind].unit} == blocks
    assert [segment.name for segment in divided.segments if segment.unit is None] == others


def test_what_crosses_between_layers_is_one_tensor_of_the_residual_stream(models: dict[str, ZooModel]) -> None:
    graph = models["gpt3-175b"].graph
    expected = graph.info.tokens * 12_288 * 2  # tokens x width x bytes of bfloat16
    for boundary in divided_model(models["gpt3-175b"]).boundaries:
        assert (len(boundary.forward), len(boundary.backward)) == (1, 1)
        assert boundary.forward_bytes == boundary.backward_bytes == expected


def test_the_encoder_output_passes_through_every_later_boundary(models: dict[str, ZooModel]) -> None:
    divided = divided_model(models["t5-base"])
    middle = next(i for i, s in enumerate(divided.segments) if s.name.startswith("encoder.final_norm"))
    last_reader = len(divided.segments) - 2  # the last decoder layer
    everywhere = set.intersection(*(set(divided.boundaries[k].forward) for k in range(middle, last_reader)))
    hidden = models["t5-base"].graph.info.samples * 512 * 768 * 2
    sizes = [divided.graph.tensors[tensor].bytes for tensor in everywhere]
    assert hidden in sizes
    assert all(len(divided.boundaries[k].backward) == 3 for k in range(middle, last_reader - 1))


def test_tied_weights_are_named(models: dict[str, ZooModel]) -> None:
    tied = {}
    for name, model in models.items():
        if model.entry.module in ("gpt", "bert", "t5", "llama", "moe"):
            tied[name] = [(tie.parameter, tie.segments) for tie in divided_model(model).ties]
    assert tied["gpt3-175b"] == [("token_embedding.weight", (0, 97))]
    assert tied["t5-base"] == [("token_embedding.weight", (0, 13, 26))]
    assert tied["bert-large"] == [("embedding.token.weight", (0, 25))]
    assert tied["llama2-7b"] == tied["mixtral-8x7b"] == []
    (tie,) = divided_model(models["gpt3-175b"]).ties
    assert tie.gradient_bytes == 50_257 * 12_288 * 2
    assert [divided_model(models["gpt3-175b"]).graph.tensors[t].bytes for t in tie.partial] == [tie.gradient_bytes]


def test_parameters_of_the_segments_are_the_models(model: ZooModel) -> None:
    divided = divided_model(model)
    names = Counter(name for segment in divided.segments for name in segment.parameters)
    read = {t.name for t in model.graph.tensors if t.role is TensorRole.PARAMETER}
    assert set(names) == read
    assert {name: count for name, count in names.items() if count > 1} == {
        tie.parameter: len(tie.segments) for tie in divided.ties
    }
