"""What fusion keeps, on random graphs and on typical ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import rustworkx
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.graph.file import graph_to_bytes
from worklode.graph.fusion import FusionOptions, fuse
from worklode.graph.fusion.facts import PERSISTENT_ROLES, PHASE_CLASS, UPDATED_ROLES
from worklode.graph.memory import memory_footprint
from worklode.graph.operator import Operator, Tensor
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults
from worklode.graph.work import Product

from .builders import (
    adam_updates,
    attention_written_out,
    conv_bn_relu,
    linear_gelu_dropout_residual,
    linear_gelu_training,
    rms_norm_written_out,
    transformer_training,
)
from .strategies import graphs

TYPICAL = (
    linear_gelu_dropout_residual,
    linear_gelu_training,
    conv_bn_relu,
    attention_written_out,
    rms_norm_written_out,
    adam_updates,
    transformer_training,
)

options = st.builds(
    FusionOptions,
    streaming=st.booleans(),
    epilogues=st.booleans(),
    attention=st.booleans(),
    prologues=st.booleans(),
    multi_tensor_updates=st.booleans(),
    wait_for_siblings=st.booleans(),
    max_row_bytes=st.sampled_from([8, 2**20]),
)


def check_everything(graph: TrainingGraph, chosen: FusionOptions) -> TrainingGraph:
    """Fuse and check all that fusion promises."""
    fused = fuse(graph, chosen).graph
    assert graph_faults(fused) == []
    groups = groups_of(graph, fused)
    check_work(graph, fused, groups)
    check_tensors(graph, fused, groups)
    check_bytes(graph, fused, groups)
    check_dependences(graph, fused, groups)
    check_groups(graph, fused, groups)
    assert graph_to_bytes(fuse(fused, chosen).graph) == graph_to_bytes(fused), "fusing twice changes something"
    return fused


def groups_of(graph: TrainingGraph, fused: TrainingGraph) -> list[list[int]]:
    """Operators of the graph in each operator of the fused one, found by what the module names tell (see `label`)."""
    place = {operator.module: index for index, operator in enumerate(graph.operators)}
    assert len(place) == len(graph.operators), "the test labels every operator by its module"
    return [[place[name] for name in members_of(operator)] for operator in fused.operators]


def members_of(operator: Operator) -> tuple[str, ...]:
    return operator.members or (operator.name,)


def label(graph: TrainingGraph) -> TrainingGraph:
    """Give every operator a name and module of its own: legality must not care."""
    from dataclasses import replace

    operators = tuple(replace(o, name=f"op{i}", module=f"op{i}") for i, o in enumerate(graph.operators))
    return replace(graph, operators=operators)


def check_work(graph: TrainingGraph, fused: TrainingGraph, groups: list[list[int]]) -> None:
    assert sorted(member for group in groups for member in group) == list(range(len(graph.operators)))
    assert fused.flops() == graph.flops()
    assert fused.matrix_flops() == graph.matrix_flops()
    for operator, group in zip(fused.operators, groups, strict=True):
        works = [graph.operators[member].work for member in group]
        products: list[Product] = [product for work in works for product in work.products]
        assert list(operator.work.products) == products
        for name in ("simple_ops", "special_ops", "random_accesses"):
            assert getattr(operator.work, name) == sum(getattr(work, name) for work in works)
        assert operator.work.vector_elements <= sum(work.vector_elements for work in works)
        assert operator.work.reduction_bytes >= max(work.reduction_bytes for work in works)
        assert max(w.serial_steps for w in works) <= operator.work.serial_steps <= sum(w.serial_steps for w in works)


def identity(tensor: Tensor) -> tuple[object, ...]:
    return tensor.storage, tensor.bytes, tensor.dtype, tensor.role, tensor.saved, tensor.name


def check_tensors(graph: TrainingGraph, fused: TrainingGraph, groups: list[list[int]]) -> None:
    """Every tensor that somebody outside its group wants is still there, and nothing is invented."""
    group_of = {member: index for index, group in enumerate(groups) for member in group}
    readers: list[set[int]] = [set() for _ in graph.tensors]
    for index, operator in enumerate(graph.operators):
        for access in operator.reads:
            readers[access.tensor].add(group_of[index])
    newest = {t.storage: i for i, t in enumerate(graph.tensors)}
    wanted = []
    for index, tensor in enumerate(graph.tensors):
        group = group_of.get(tensor.producer, -1)
        last = newest[tensor.storage] == index
        persistent = tensor.role in PERSISTENT_ROLES and last
        outside = bool(readers[index] - {group})
        if group == -1 or tensor.saved or persistent or outside or (last and not readers[index]):
            wanted.append((*identity(tensor), group))
    left = Counter((*identity(tensor), tensor.producer) for tensor in fused.tensors)
    left.subtract(wanted)
    assert not [one for one, count in left.items() if count < 0], "wanted outside its group, but gone"
    known = {(*identity(tensor), group_of.get(tensor.producer, -1)) for tensor in graph.tensors}
    assert not [one for one, count in left.items() if count > 0 and one not in known], "invented"


def check_bytes(graph: TrainingGraph, fused: TrainingGraph, groups: list[list[int]]) -> None:
    for operator, group in zip(fused.operators, groups, strict=True):
        assert operator.read_bytes <= sum(graph.operators[member].read_bytes for member in group)
        assert operator.write_bytes <= sum(graph.operators[member].write_bytes for member in group)
    assert fused.hbm_bytes() <= graph.hbm_bytes()


def dag(graph: TrainingGraph) -> rustworkx.PyDiGraph[int, None]:
    found: rustworkx.PyDiGraph[int, None] = rustworkx.PyDiGraph()
    found.add_nodes_from(list(range(len(graph.operators))))
    for index in range(len(graph.operators)):
        found.add_edges_from([(before, index, None) for before in graph.predecessors(index)])
    return found


def check_dependences(graph: TrainingGraph, fused: TrainingGraph, groups: list[list[int]]) -> None:
    """Of two operators in different groups one comes after the other wherever it did, and groups invent no edges."""
    group_of = {member: index for index, group in enumerate(groups) for member in group}
    after = dag(fused)
    for index in range(len(graph.operators)):
        for before in graph.predecessors(index):
            one, other = group_of[before], group_of[index]
            assert one == other or after.has_edge(one, other), (before, index)
    contracted = {
        (group_of[before], group_of[index])
        for index in range(len(graph.operators))
        for before in graph.predecessors(index)
    }
    for one, other in after.edge_list():
        assert (one, other) in contracted


def check_groups(graph: TrainingGraph, fused: TrainingGraph, groups: list[list[int]]) -> None:
    for operator, group in zip(fused.operators, groups, strict=True):
        members = [graph.operators[member] for member in group]
        assert len({PHASE_CLASS[member.phase] for member in members}) == 1
        assert operator.phase in {member.phase for member in members}
        places = {(member.block, member.instance) for member in members}
        updates = all(fused.tensors[access.tensor].role in UPDATED_ROLES for access in operator.writes)
        assert (operator.block, operator.instance) in (places if len(places) == 1 or not updates else {(-1, -1)})
        anchors = [member for member in members if member.work.products]
        assert len(anchors) <= 1 or operator.work.chained
        assert bool(operator.members) == (len(group) > 1)


@pytest.mark.parametrize("build", TYPICAL, ids=lambda build: build.__name__)
def test_typical_graphs(build: Callable[[], Any]) -> None:
    graph = build().graph()
    fused = check_everything(label(graph), FusionOptions())
    assert memory_footprint(fused).total_peak <= memory_footprint(graph).total_peak


@settings(max_examples=300, deadline=None)
@given(graph=graphs(max_operators=30), chosen=st.one_of(st.just(FusionOptions()), options))
def test_random_graphs(graph: TrainingGraph, chosen: FusionOptions) -> None:
    check_everything(label(graph), chosen)


@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_names_play_no_part(graph: TrainingGraph) -> None:
    one, other = fuse(graph).graph, fuse(label(graph)).graph
    assert [len(members_of(o)) for o in one.operators] == [len(members_of(o)) for o in other.operators]
    assert [(o.reads, o.writes, o.work) for o in one.operators] == [
        (o.reads, o.writes, o.work) for o in other.operators
    ]


@settings(max_examples=40, deadline=None)
@given(graph=graphs())
def test_nothing_is_fused_where_nothing_is_asked_for(graph: TrainingGraph) -> None:
    nothing = FusionOptions(
        streaming=False, epilogues=False, attention=False, prologues=False, multi_tensor_updates=False
    )
    result = fuse(graph, nothing)
    assert graph_to_bytes(result.graph) == graph_to_bytes(graph)
    assert result.report.operators_before == result.report.operators_after
    assert result.report.patterns == ()


def test_the_report_adds_up() -> None:
    graph = transformer_training(layers=4).graph()
    result = fuse(graph)
    report = result.report
    assert report.operators_before == len(graph.operators)
    assert report.operators_after == len(result.graph.operators)
    fused_away = sum(pattern.operators - pattern.groups for pattern in report.patterns)
    assert report.operators_before - fused_away == report.operators_after
    assert report.hbm_bytes_before == graph.hbm_bytes()
    assert report.hbm_bytes_after == result.graph.hbm_bytes()
    assert report.tensors_eliminated == len(graph.tensors) - len(result.graph.tensors)


def test_equal_blocks_fuse_equally() -> None:
    few, many = (fuse(transformer_training(layers=n).graph()) for n in (6, 12))
    assert many.report.distinct_after == few.report.distinct_after
    per_layer = (many.report.operators_after - few.report.operators_after) / 6
    assert per_layer == int(per_layer)
    graph = many.graph
    inner = [[(o.name, o.item, o.kind) for o in graph.operators if o.instance == instance] for instance in range(1, 11)]
    assert all(found == inner[0] for found in inner)
