"""Tensor parallelism, recomputation and cuts together: shards have the same segments, and no collective is lost."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise

import pytest

from worklode.frontend import CaptureOptions, capture
from worklode.graph.operator import Phase
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults
from worklode.graph.work import Collective
from worklode.partition.plan import expert_plan_for, tensor_plan_for
from worklode.partition.recompute import RecomputePolicy, recompute
from worklode.partition.segments import Pass, pass_graph, segments
from worklode.partition.stage_memory import MemoryModel, StateOptions
from worklode.partition.tensor_parallel import shard

GPT = "gpt:layers=3,hidden=64,heads=4,vocab=128,context=32,attention=written-out"
CASES = [(GPT, 4, True), (GPT, 2, False), ("bert-base", 4, True), ("t5-base", 2, False), ("mixtral-8x7b", 8, False)]


@cache
def captured(text: str) -> TrainingGraph:
    return capture(text, CaptureOptions(batch=2))


@cache
def sharded(text: str, devices: int, sequence_parallel: bool) -> TrainingGraph:
    plan = expert_plan_for(text) if text.startswith("mixtral") else tensor_plan_for(text)
    return shard(captured(text), plan, devices=devices, sequence_parallel=sequence_parallel).graph


@pytest.mark.parametrize(("text", "devices", "sequence_parallel"), CASES)
@pytest.mark.parametrize("policy", [RecomputePolicy.NONE, RecomputePolicy.FULL])
def test_shards_are_cut_as_the_whole_is(
    text: str, devices: int, sequence_parallel: bool, policy: RecomputePolicy
) -> None:
    graph = recompute(sharded(text, devices, sequence_parallel), policy).graph
    divided = segments(graph)
    assert [s.name for s in divided.segments] == [s.name for s in segments(captured(text)).segments]
    assert sorted(i for s in divided.segments for i in s.operators()) == list(range(len(graph.operators)))
    for kind in divided.counts:
        for chosen in Pass:
            assert graph_faults(pass_graph(divided, [kind], chosen)) == []


@pytest.mark.parametrize(("text", "devices", "sequence_parallel"), CASES)
def test_model_state_of_a_shard_is_its_parameters(text: str, devices: int, sequence_parallel: bool) -> None:
    graph = sharded(text, devices, sequence_parallel)
    model = MemoryModel(segments(graph))
    stage = model.stage([(0, len(model.divided.segments))], [1], StateOptions())
    assert stage.parameters == stage.gradients == 2 * graph.info.parameters


def test_full_recomputation_repeats_forwards_collectives() -> None:
    """Two more all-reduces a layer; the last, behind the feed-forward block, is needed for no gradient in Llama."""
    graph = recompute(sharded(GPT, 2, False), RecomputePolicy.FULL).graph
    block = segments(graph).segments[2]
    found = Counter(
        graph.operators[i].phase for i in block.operators() if graph.operators[i].work.communication is not None
    )
    assert found == {Phase.FORWARD: 2, Phase.RECOMPUTE: 2, Phase.BACKWARD: 2}


@pytest.mark.parametrize(("text", "devices", "sequence_parallel"), CASES)
def test_collectives_of_an_axis_have_one_order(text: str, devices: int, sequence_parallel: bool) -> None:
    graph = recompute(sharded(text, devices, sequence_parallel), RecomputePolicy.FULL).graph
    collectives = [i for i, o in enumerate(graph.operators) if o.work.communication is not None]
    assert any(graph.operators[i].phase is Phase.RECOMPUTE for i in collectives)
    for earlier, later in pairwise(collectives):
        reached, waiting = {later}, [later]
        while waiting and earlier not in reached:
            for before in graph.predecessors(waiting.pop()):
                if before >= earlier and before not in reached:
                    reached.add(before)
                    waiting.append(before)
        assert earlier in reached, (earlier, later)


def test_what_crosses_a_boundary_is_divided_under_sequence_parallelism() -> None:
    whole = segments(captured(GPT)).boundaries[1].forward_bytes
    assert segments(sharded(GPT, 2, False)).boundaries[1].forward_bytes == whole
    assert segments(sharded(GPT, 4, True)).boundaries[1].forward_bytes == whole // 4
    gathers = [
        o
        for o in sharded(GPT, 4, True).operators
        if o.work.communication is not None and o.work.communication.collective is Collective.ALL_GATHER
    ]
    assert gathers
