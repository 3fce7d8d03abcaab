"""Every invariant of a graph, broken one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from worklode.errors import InternalError
from worklode.graph.operator import Access, Operator, OperatorKind, Tensor
from worklode.graph.training_graph import Block, TrainingGraph
from worklode.graph.validate import graph_faults, require_valid
from worklode.graph.work import Collective, Communication, Work

from .builders import (
    adam_updates,
    attention_written_out,
    conv_bn_relu,
    linear_gelu_dropout_residual,
    linear_gelu_training,
    rms_norm_written_out,
)

BUILDERS = (
    linear_gelu_dropout_residual,
    linear_gelu_training,
    conv_bn_relu,
    attention_written_out,
    rms_norm_written_out,
    adam_updates,
)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_typical_graphs_are_sound(build: Callable[[], object]) -> None:
    graph = build().graph()  # type: ignore[attr-defined]
    assert graph_faults(graph) == []
    assert require_valid(graph, "test") is graph


def with_operator(graph: TrainingGraph, index: int, **changes: object) -> TrainingGraph:
    operators = list(graph.operators)
    operators[index] = replace(operators[index], **changes)  # type: ignore[arg-type]
    return replace(graph, operators=tuple(operators))


def with_tensor(graph: TrainingGraph, index: int, **changes: object) -> TrainingGraph:
    tensors = list(graph.tensors)
    tensors[index] = replace(tensors[index], **changes)  # type: ignore[arg-type]
    return replace(graph, tensors=tuple(tensors))


def broken_graphs() -> dict[str, tuple[TrainingGraph, str, str]]:
    """Name -> graph, path of the fault, part of its problem."""
    graph = linear_gelu_dropout_residual().graph()
    # tensors: 0 x, 1 weight, 2 bias, 3 product, 4 sum, 5 gelu, 6 dropout, 7 mask, 8 result; operators 0 to 4
    product = graph.operators[0].work.products[0]
    first, second = graph.operators[:2]
    shared = Communication(collective=Collective.ALL_GATHER, bytes=64, axis="tensor", devices=4)

    def sharing(**changes: object) -> TrainingGraph:
        work = Work(communication=replace(shared, **changes))  # type: ignore[arg-type]
        return with_operator(graph, 0, kind=OperatorKind.COLLECTIVE, work=work)

    return {
        "negative message": (sharing(bytes=-1), "operators[0].work.communication.bytes", "is negative"),
        "empty group": (sharing(devices=0), "operators[0].work.communication.devices", "an empty group"),
        "unknown axis": (sharing(axis="rows"), "operators[0].work.communication.axis", "unknown"),
        "collective that computes": (
            with_operator(graph, 0, kind=OperatorKind.COLLECTIVE, work=Work(communication=shared, simple_ops=1)),
            "operators[0].work",
            "computes nothing itself",
        ),
        "collective of another kind": (
            with_operator(graph, 0, kind=OperatorKind.MATMUL, work=Work(communication=shared)),
            "operators[0].kind",
            "another kind",
        ),
        "reads a later tensor": (
            with_operator(graph, 1, reads=(Access(tensor=8, bytes=0),)),
            "operators[1].reads[0]",
            "topological order",
        ),
        "no such tensor": (
            with_operator(graph, 1, reads=(Access(tensor=99, bytes=0),)),
            "operators[1].reads[0].tensor",
            "no such tensor",
        ),
        "negative tensor": (
            with_operator(graph, 1, writes=(*second.writes, Access(tensor=-1, bytes=0))),
            "operators[1].writes[1].tensor",
            "no such tensor",
        ),
        "read outside storage": (
            with_operator(graph, 0, reads=(Access(tensor=0, bytes=10**9),)),
            "operators[0].reads[0].bytes",
            "outside its storage",
        ),
        "negative bytes written": (
            with_operator(graph, 0, writes=(Access(tensor=3, bytes=-1),)),
            "operators[0].writes[0].bytes",
            "outside its storage",
        ),
        "two writers": (
            with_operator(graph, 1, writes=(*second.writes, Access(tensor=3, bytes=0))),
            "operators[1].writes[1]",
            "another writer",
        ),
        "written twice by one": (
            with_operator(graph, 0, writes=(*first.writes, *first.writes)),
            "operators[0].writes[1]",
            "another writer",
        ),
        "not written": (with_operator(graph, 0, writes=()), "tensors[3].producer", "does not write it"),
        "after itself": (with_operator(graph, 2, after=(2,)), "operators[2].after", "topological order"),
        "after not ascending": (with_operator(graph, 3, after=(1, 0)), "operators[3].after", "ascending"),
        "unknown gradient": (with_operator(graph, 0, gradient_of="bias"), "operators[0].gradient_of", "unknown"),
        "no such block": (with_operator(graph, 0, block=0, instance=0), "operators[0].block", "no such block"),
        "instance without block": (with_operator(graph, 0, instance=1), "operators[0].block", "no such block"),
        "no such instance": (
            replace(with_operator(graph, 0, block=0, instance=2), blocks=(Block(path="layers", first=0, count=2),)),
            "operators[0].instance",
            "no such repetition",
        ),
        "empty block": (replace(graph, blocks=(Block(path="layers", first=0, count=0),)), "blocks[0]", "empty"),
        "negative work": (
            with_operator(graph, 1, work=Work(special_ops=-1)),
            "operators[1].work.special_ops",
            "is negative",
        ),
        "negative product": (
            with_operator(graph, 0, work=Work(products=(replace(product, m=-5),))),
            "operators[0].work.products[0].m",
            "is negative",
        ),
        "no element bytes": (
            with_operator(graph, 0, work=Work(products=(replace(product, element_bytes=0),))),
            "operators[0].work.products[0].element_bytes",
            "is not positive",
        ),
        "masked more than all": (
            with_operator(graph, 0, work=Work(products=(replace(product, masked_fraction=1.5),))),
            "operators[0].work.products[0].masked_fraction",
            "is no share",
        ),
        "chain of one": (
            with_operator(graph, 0, work=Work(products=(product,), chained=True)),
            "operators[0].work.chained",
            "fewer than two",
        ),
        "negative storage": (with_tensor(graph, 0, storage=-1), "tensors[0].storage", "is negative"),
        "negative size": (with_tensor(graph, 7, bytes=-1), "tensors[7].bytes", "is negative"),
        "no such producer": (with_tensor(graph, 0, producer=5), "tensors[0].producer", "no such operator"),
        "two sizes": (with_tensor(graph, 2, storage=0), "tensors[2].bytes", "two sizes"),
        "negative samples": (replace(graph, info=replace(graph.info, samples=-1)), "info.samples", "is negative"),
        "more trainable than there are": (
            replace(graph, info=replace(graph.info, trainable_parameters=1)),
            "info.trainable_parameters",
            "more than all",
        ),
    }


@pytest.mark.parametrize("name", list(broken_graphs()))
def test_a_broken_invariant_is_found_where_it_is(name: str) -> None:
    graph, path, problem = broken_graphs()[name]
    faults = graph_faults(graph, "some.file")
    assert any(fault.path == path and problem in fault.problem for fault in faults), faults
    assert all(fault.where == "some.file" for fault in faults)
    with pytest.raises(InternalError, match=r"some\.file"):
        require_valid(graph, "some.file")


def test_reading_an_overwritten_value_is_a_fault() -> None:
    graph = conv_bn_relu().graph()
    in_place = next(i for i, o in enumerate(graph.operators) if o.name == "relu_")
    overwritten = graph.operators[in_place].reads[0]
    last = len(graph.operators) - 1
    broken = with_operator(graph, last, reads=(*graph.operators[last].reads, overwritten))
    assert any("overwritten" in fault.problem for fault in graph_faults(broken))


def test_all_faults_are_reported_at_once() -> None:
    graph = linear_gelu_dropout_residual().graph()
    for index in range(3):
        graph = with_operator(graph, index, after=(index,))
    assert len(graph_faults(graph)) == 3


def test_builders_cover_the_records() -> None:
    """The helper graphs exercise tensors in place, masks and saved tensors, or other tests prove little."""
    tensors: list[Tensor] = []
    operators: list[Operator] = []
    for build in BUILDERS:
        graph = build().graph()
        tensors.extend(graph.tensors)
        operators.extend(graph.operators)
    assert any(tensor.saved for tensor in tensors)
    assert any(operator.after for operator in operators)
    assert any(operator.gradient_of == "weight" for operator in operators)
