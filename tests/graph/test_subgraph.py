"""Parts of a graph: sound, in the same order, with the work and traffic of their operators."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph.builders import GraphBuilder, adam_updates, linear_gelu_training, transformer_training
from tests.graph.strategies import graphs

from worklode.errors import SpecError
from worklode.graph.fusion import fuse
from worklode.graph.operator import OperatorKind
from worklode.graph.subgraph import block_instance, module_part, subgraph
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults


def ancestors(graph: TrainingGraph) -> list[set[int]]:
    found: list[set[int]] = []
    for index in range(len(graph.operators)):
        before = graph.predecessors(index)
        found.append(set(before).union(*(found[p] for p in before)))
    return found


@settings(max_examples=150, deadline=None)
@given(graph=graphs(), data=st.data())
def test_a_part_is_sound_and_waits_for_exactly_what_it_waited_for(graph: TrainingGraph, data: st.DataObject) -> None:
    if not graph.operators:
        return
    indices = st.integers(0, len(graph.operators) - 1)
    kept = sorted(data.draw(st.sets(indices, min_size=1)))
    part = subgraph(graph, kept)
    assert graph_faults(part) == []
    assert [o.item for o in part.operators] == [graph.operators[old].item for old in kept]
    whole, own = ancestors(graph), ancestors(part)
    for new, old in enumerate(kept):
        assert {kept[p] for p in own[new]} == whole[old] & set(kept)


@settings(max_examples=50, deadline=None)
@given(graph=graphs())
def test_the_whole_as_a_part_is_the_whole(graph: TrainingGraph) -> None:
    if not graph.operators:
        return
    part = subgraph(graph, range(len(graph.operators)))
    assert part.hbm_bytes() == graph.hbm_bytes()
    assert part.flops() == graph.flops()
    for index in range(len(graph.operators)):
        assert part.predecessors(index) == graph.predecessors(index)


def test_an_instance_of_a_block_has_forward_backward_and_update_in_order() -> None:
    graph = fuse(transformer_training(layers=3).graph()).graph
    part = block_instance(graph, 0, 1)
    chosen = [i for i, o in enumerate(graph.operators) if o.block == 0 and o.instance == 1]
    assert len(part.operators) == len(chosen) < len(graph.operators) / 2
    assert {o.phase.value for o in part.operators} == {"forward", "backward", "optimizer"}
    assert part.info.name == "hand-built[h.1]"
    whole = ancestors(graph)
    first_backward = next(i for i, o in enumerate(part.operators) if o.phase.value == "backward")
    # In the whole it follows the last operator of forward through the loss, which is left out.
    assert {chosen[p] for p in ancestors(part)[first_backward]} == whole[chosen[first_backward]] & set(chosen)
    assert len(ancestors(part)[first_backward]) >= 5
    assert len(fuse(part).graph.operators) == len(part.operators)


def test_parameters_are_those_the_part_touches() -> None:
    graph = adam_updates(sizes=(256, 32), repeats=2).graph()
    part = block_instance(graph, 0, 0)
    assert part.info.parameters == 256 + 32


def test_versions_written_by_others_do_not_share_a_storage() -> None:
    b = GraphBuilder()
    x = b.given(64)
    first = b.elementwise(x, name="a")
    reader = b.elementwise(first, name="b")
    second = b.in_place(first, name="c_")
    last = b.elementwise(second, reader, name="d")
    b.in_place(second, last, name="e_")
    graph = b.graph()
    part = subgraph(graph, [1, 3, 4])
    assert graph_faults(part) == []
    read_first, read_second = part.operators[0].reads[0].tensor, part.operators[1].reads[0].tensor
    assert part.tensors[read_first].storage != part.tensors[read_second].storage
    written = part.operators[2].writes[0].tensor
    assert part.tensors[written].storage == part.tensors[read_second].storage


def test_modules() -> None:
    graph = transformer_training(layers=2).graph()
    part = module_part(graph, "h.1")
    assert {o.module for o in part.operators} == {"h.1"}
    assert any(o.kind is OperatorKind.ATTENTION for o in part.operators)
    with pytest.raises(SpecError, match="a module within h"):
        module_part(graph, "layers")


def test_faults_are_told() -> None:
    graph = linear_gelu_training().graph()
    with pytest.raises(SpecError, match="none is kept"):
        subgraph(graph, [])
    with pytest.raises(SpecError) as caught:
        subgraph(graph, [0, 99, -1])
    assert [fault.value for fault in caught.value.faults] == ["-1", "99"]
    with pytest.raises(SpecError, match="the graph has no repeated block"):
        block_instance(graph)
    with pytest.raises(SpecError, match="no such repetition of h"):
        block_instance(transformer_training().graph(), 0, 5)
