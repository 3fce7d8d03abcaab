"""The canonical form: one for all listings of a graph, sound, the same graph, and near the order of the program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import rustworkx
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.graph.canonical import canonical, renumbered
from worklode.graph.dependences import dependences
from worklode.graph.file import graph_digest
from worklode.graph.fusion import fuse
from worklode.graph.memory import memory_footprint
from worklode.graph.operator import OperatorKind, Phase, TensorRole
from worklode.graph.structure_labels import MOST_TRIED, operator_labels
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults
from worklode.graph.work import Work

from .builders import GraphBuilder, attention_written_out, conv_bn_relu, linear_gelu_training, transformer_training
from .listings import relisted, waits_for
from .strategies import graphs

SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=300)
@given(graph=graphs(), seed=SEEDS)
def test_every_listing_of_a_graph_has_one_canonical_form(graph: TrainingGraph, seed: int) -> None:
    other = relisted(graph, seed)
    assert not graph_faults(other, "relisted")
    assert graph_digest(canonical(graph)) == graph_digest(canonical(other))


@settings(deadline=None)
@given(graph=graphs())
def test_a_canonical_graph_is_sound_and_its_own_canonical_form(graph: TrainingGraph) -> None:
    found = canonical(graph)
    assert not graph_faults(found, "canonical")
    again = canonical(replace(found))
    assert graph_digest(again) == graph_digest(found)
    # Interchangeable operators may change places; otherwise it is recognised, and nothing is built again.
    if not operator_labels(found, dependences(found)).decrees:
        copied = replace(found)
        assert canonical(copied) is copied


@settings(deadline=None)
@given(graph=graphs(max_operators=12))
def test_the_canonical_form_is_the_same_graph_by_another_numbering(graph: TrainingGraph) -> None:
    one, other = structure(graph), structure(canonical(graph))
    assert rustworkx.is_isomorphic(one, other, node_matcher=same, edge_matcher=same)


def same(one: object, other: object) -> bool:
    return one == other


def structure(graph: TrainingGraph) -> rustworkx.PyDiGraph[object, object]:
    """Operators, tensors and storages as vertices that hold all their content but numbers."""
    found: rustworkx.PyDiGraph[object, object] = rustworkx.PyDiGraph()
    storages = {tensor.storage: found.add_node("storage") for tensor in graph.tensors}
    tensors = [found.add_node(replace(t, storage=0, producer=min(t.producer, 0))) for t in graph.tensors]
    operators = [found.add_node(replace(o, reads=(), writes=(), after=())) for o in graph.operators]
    for tensor, vertex in zip(graph.tensors, tensors, strict=True):
        found.add_edge(vertex, storages[tensor.storage], "lives in")
    for operator, vertex in zip(graph.operators, operators, strict=True):
        for place, access in enumerate(operator.reads):
            found.add_edge(tensors[access.tensor], vertex, ("read", place, access.bytes))
        for place, access in enumerate(operator.writes):
            found.add_edge(vertex, tensors[access.tensor], ("written", place, access.bytes))
        for earlier in operator.after:
            found.add_edge(operators[earlier], vertex, "after")
    return found


@given(graph=graphs())
@settings(deadline=None)
def test_dependences_are_those_of_every_listing(graph: TrainingGraph) -> None:
    """Beside what each operator itself says, they order readers and writers of a storage: no more, no less."""
    edges = dependences(graph)
    assert closure(edges.before) == closure(waits_for(graph))
    assert Counter((later, index) for index, found in enumerate(edges.behind) for later in found) == Counter(
        (index, earlier) for index, found in enumerate(edges.before) for earlier in found
    )
    height = edges.heights()
    assert all(height[earlier] > height[index] for index, found in enumerate(edges.before) for earlier in found)


def closure(before: object) -> list[set[int]]:
    found: list[set[int]] = []
    for direct in before:  # type: ignore[attr-defined]
        found.append(set(direct).union(*(found[earlier] for earlier in direct)))
    return found


BUILT: tuple[Callable[[], GraphBuilder], ...] = (
    attention_written_out,
    conv_bn_relu,
    linear_gelu_training,
    transformer_training,
)


@pytest.mark.parametrize("build", BUILT)
def test_built_graphs_have_one_form_and_keep_their_memory(build: Callable[[], GraphBuilder]) -> None:
    graph = build().graph()
    found = canonical(graph)
    assert {graph_digest(canonical(relisted(graph, seed))) for seed in range(20)} == {graph_digest(found)}
    # Tensors that live from one operator to the next: in graphs this small, one of them is a large share.
    assert memory_footprint(found).total_peak <= 1.1 * memory_footprint(graph).total_peak


# --- operators that look alike ----------------------------------------------------------------------------------------


def twins(count: int) -> TrainingGraph:
    """Pairs of equal operators: within a pair one's result feeds the other, between pairs nothing differs."""
    b = GraphBuilder()
    x = b.given(8)
    for _ in range(count):
        b.elementwise(b.elementwise(x), name="second")
    return b.graph()


@pytest.mark.parametrize("count", [2, 5, MOST_TRIED + 3])
def test_interchangeable_operators_are_told_apart_by_decree(count: int) -> None:
    graph = twins(count)
    labels = operator_labels(graph, dependences(graph))
    assert labels.decrees == count - 1
    assert sorted(labels.rank) == list(range(2 * count))
    assert {graph_digest(canonical(relisted(graph, seed))) for seed in range(8)} == {graph_digest(canonical(graph))}


def crossed(count: int) -> TrainingGraph:
    """Two rows of alike operators; every one of the second reads two neighbours of the first, round in a circle."""
    b = GraphBuilder()
    x = b.given(8)
    row = [b.elementwise(x) for _ in range(count)]
    for place in range(count):
        b.elementwise(row[place], row[(place + 1) % count], name="second")
    return b.graph()


@pytest.mark.parametrize("count", [3, 6])
def test_a_choice_among_alike_operators_binds_their_neighbours(count: int) -> None:
    """Which of the second row comes first must follow from which of the first did: ties broken one by one would not."""
    graph = crossed(count)
    assert operator_labels(graph, dependences(graph)).decrees >= 1
    assert {graph_digest(canonical(relisted(graph, seed))) for seed in range(20)} == {graph_digest(canonical(graph))}


def test_operators_that_refinement_cannot_tell_apart_though_they_differ() -> None:
    """A circle of six beside two of three: every operator sees the same around it, yet they are no equals."""
    b = GraphBuilder()
    x = b.given(8)
    for count in (6, 3, 3):
        row = [b.elementwise(x) for _ in range(count)]
        for place in range(count):
            b.elementwise(row[place], row[(place + 1) % count], name="second")
    graph = b.graph()
    assert {graph_digest(canonical(relisted(graph, seed))) for seed in range(12)} == {graph_digest(canonical(graph))}


def test_content_decides_not_position() -> None:
    """Graphs that differ in one number of one operator have different forms."""
    forms = set()
    for changed in range(3):
        b = GraphBuilder()
        x = b.given(8)
        for place in range(3):
            b.elementwise(x, name="add", special=int(place == changed))
        forms.add(graph_digest(canonical(b.graph())))
    assert len(forms) == 1  # which of the three is the odd one is not told by any number
    other = GraphBuilder()
    y = other.given(8)
    for _ in range(3):
        other.elementwise(y, name="add")
    assert graph_digest(canonical(other.graph())) not in forms


def test_the_last_write_wins_whatever_is_tied() -> None:
    """Two writes of halves of a storage that read nothing: their order is content, not listing."""
    b = GraphBuilder()
    x = b.given(8)
    for name in ("b", "a"):
        b.op(name, OperatorKind.MOVEMENT, (), work=Work(simple_ops=4), over=(x,))
        x = len(b.tensors) - 1
        b.narrow_last_write(4)
    assert [operator.name for operator in canonical(b.graph()).operators] == ["b", "a"]


# --- the order of the program -----------------------------------------------------------------------------------------


def chain(b: GraphBuilder, layers: int, microbatch: int, gradients: dict[str, int]) -> None:
    """Forward and backward of `layers` products, weights cast before use, weight gradients added up."""
    rows, width = 64, 16
    b.phase = Phase.FORWARD
    x = b.given(rows * width)
    kept = []
    for layer in range(layers):
        b.module = f"layers.{layer}"
        weight = b.elementwise(b.parameter(width * width, f"w{layer}"), name="cast")
        kept.append((x, weight))
        x = b.matmul(x, weight, rows, width, width)
    b.module, b.phase = "", Phase.LOSS
    dx = b.elementwise(x, name="loss")
    for layer, (operand, weight) in reversed(list(enumerate(kept))):
        b.module, b.phase = f"layers.{layer}", Phase.BACKWARD
        below = b.matmul(dx, weight, rows, width, width, name="input_gradient", gradient_of="input")
        found = b.matmul(operand, dx, width, width, rows, name="weight_gradient", gradient_of="weight")
        dx = below
        b.phase = Phase.ACCUMULATE
        gradients[f"w{layer}"] = b.in_place(gradients[f"w{layer}"], found) if microbatch else found


def steps(graph: TrainingGraph) -> list[tuple[str, str]]:
    return [(operator.phase.value, operator.name) for operator in graph.operators]


def test_weight_gradients_run_as_soon_as_they_can_and_casts_as_late() -> None:
    b = GraphBuilder()
    chain(b, 3, 0, {})
    found = canonical(relisted(b.graph(), 7))
    forward = [("forward", "cast"), ("forward", "mm")]
    backward = [("backward", "weight_gradient"), ("backward", "input_gradient")]
    assert steps(found)[:-2] == [*forward * 3, ("loss", "loss"), *backward * 2]
    assert sorted(steps(found)[-2:]) == sorted(backward)  # both end the chain
    assert [o.module for o in found.operators if o.phase is Phase.FORWARD] == [
        f"layers.{layer}" for layer in (0, 0, 1, 1, 2, 2)
    ]


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_run_one_after_another(microbatches: int) -> None:
    b = GraphBuilder()
    gradients: dict[str, int] = {}
    for microbatch in range(microbatches):
        chain(b, 3, microbatch, gradients)
    graph = b.graph()
    found = canonical(relisted(graph, 5))
    turns = [o.phase for o in found.operators if o.phase in (Phase.LOSS, Phase.ACCUMULATE)]
    assert turns == [Phase.LOSS, *[Phase.LOSS, *[Phase.ACCUMULATE] * 3] * (microbatches - 1)]
    assert memory_footprint(found).total_peak <= memory_footprint(graph).total_peak
    # Side by side, activations of all microbatches would live at one time.
    alone = GraphBuilder()
    chain(alone, 3, 0, {})
    one = memory_footprint(canonical(alone.graph())).activations_peak
    assert memory_footprint(found).activations_peak < 1.2 * one


def test_a_block_that_runs_again_waits_until_backward_needs_it() -> None:
    b = GraphBuilder()
    rows, width, layers = 64, 16, 4
    x = b.given(rows * width)
    kept = []
    for layer in range(layers):
        b.module = f"layers.{layer}"
        weight = b.parameter(width * width, f"w{layer}")
        kept.append((x, weight))
        x = b.elementwise(b.matmul(x, weight, rows, width, width))
    dx = b.elementwise(x, name="loss")
    for layer, (given_x, weight) in reversed(list(enumerate(kept))):
        b.module, b.phase = f"layers.{layer}", Phase.RECOMPUTE
        again = b.matmul(given_x, weight, rows, width, width, name="again")
        b.phase = Phase.BACKWARD
        dx = b.elementwise(dx, again, name="backward")
        dx = b.matmul(dx, weight, rows, width, width, gradient_of="input", name="input_gradient")
    found = canonical(relisted(b.graph(), 3))
    backward = [o.name for o in found.operators if o.phase in (Phase.RECOMPUTE, Phase.BACKWARD)]
    assert backward == ["again", "backward", "input_gradient"] * layers


def test_modules_count_as_people_do() -> None:
    b = GraphBuilder()
    b.phase = Phase.OPTIMIZER
    for layer in (10, 2, 9, 1):
        b.module = f"layers.{layer}"
        b.in_place(b.parameter(8, f"w{layer}"))
    found = canonical(b.graph())
    assert [o.module for o in found.operators] == ["layers.1", "layers.2", "layers.9", "layers.10"]


# --- numbering --------------------------------------------------------------------------------------------------------


def test_tensors_no_operator_names_come_last_by_content() -> None:
    b = GraphBuilder()
    unused = [b.given(size, TensorRole.PARAMETER, name) for size, name in ((4, "z"), (2, "a"), (1, "a"))]
    b.elementwise(b.given(8))
    found = canonical(b.graph())
    assert [(t.name, t.bytes) for t in found.tensors[2:]] == [("a", 2), ("a", 4), ("z", 8)]
    assert [t.storage for t in found.tensors] == list(range(len(unused) + 2))


def test_renumbering_back_gives_the_graph_again() -> None:
    graph = canonical(transformer_training().graph())
    reverse = list(range(len(graph.operators)))
    swapped = next(i for i in reverse[:-1] if i not in waits_for(graph)[i + 1])
    reverse[swapped], reverse[swapped + 1] = reverse[swapped + 1], reverse[swapped]
    other = renumbered(graph, reverse)
    assert graph_digest(other) != graph_digest(graph)
    assert graph_digest(renumbered(other, reverse)) == graph_digest(graph)


# --- captured steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dlrm", {}),
        ("resnet18", {}),
        ("vgg16", {}),
        ("bert-base", {}),
        ("dlrm", {"accumulation_steps": 3}),
        ("resnet18", {"accumulation_steps": 3}),
        ("bert-base", {"accumulation_steps": 2, "recompute": "full"}),
    ],
)
def test_captured_steps_keep_their_memory_and_need_no_decree(name: str, options: dict[str, int | str]) -> None:
    """The recorded order is not known to the canonical one, but lives of tensors are about as short in both."""
    pytest.importorskip("torch", reason="capturing needs torch")
    from worklode.frontend.api import capture
    from worklode.frontend.options import CaptureOptions

    graph = capture(name, CaptureOptions(**options))  # type: ignore[arg-type]
    assert operator_labels(graph, dependences(graph)).decrees == 0
    found = canonical(relisted(graph, 1))
    assert graph_digest(found) == graph_digest(canonical(graph))
    recorded, reordered = memory_footprint(fuse(graph).graph), memory_footprint(fuse(found).graph)
    assert reordered.total_peak == pytest.approx(recorded.total_peak, rel=0.01)
    assert reordered.activations_peak <= 1.01 * recorded.activations_peak
    assert len(fuse(found).graph.operators) <= 1.01 * len(fuse(graph).graph.operators)
