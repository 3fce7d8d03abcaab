"""Memory by liveness: worked examples, and the arrays against a simulation that holds a set of live storages."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from worklode.graph.memory import PERSISTENT_ROLES, memory_footprint
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph

from .builders import GraphBuilder, transformer_training
from .strategies import graphs


def test_chain_frees_what_nobody_reads_again() -> None:
    b = GraphBuilder()
    x = b.given(100)
    first = b.elementwise(x)
    second = b.elementwise(first)
    b.elementwise(second)
    found = memory_footprint(b.graph())
    assert found.inputs == 200
    assert found.activations_peak == 400  # two of three results at a time
    assert found.total_peak == 600
    assert found.peak_operator == 1


def test_a_long_lived_activation_is_counted_to_its_last_reader() -> None:
    b = GraphBuilder()
    kept = b.elementwise(b.given(100))
    x = b.elementwise(kept)
    x = b.elementwise(x)
    b.elementwise(x, kept)
    assert memory_footprint(b.graph()).activations_peak == 3 * 200


def test_writing_in_place_takes_no_memory() -> None:
    b = GraphBuilder()
    x = b.elementwise(b.given(100))
    for _ in range(3):
        x = b.in_place(x)
    assert memory_footprint(b.graph()).activations_peak == 200


def test_parameters_states_and_updates() -> None:
    b = GraphBuilder(phase=Phase.BACKWARD)
    p = b.parameter(64)
    state = b.given(64, TensorRole.OPTIMIZER_STATE, "weight", "float32")
    b.given(8, TensorRole.BUFFER)
    gradient = b.matmul(p, p, 64, 1, 1, gradient_of="weight")
    b.phase = Phase.OPTIMIZER
    b.in_place(state, gradient)
    b.in_place(p, gradient)
    found = memory_footprint(b.graph())
    assert (found.parameters, found.optimizer_state, found.buffers, found.gradients) == (128, 256, 16, 128)
    assert found.total_peak == 128 + 256 + 16 + 128
    assert found.activations_peak == 0


def test_unread_gradients_stay_for_the_caller() -> None:
    b = GraphBuilder(phase=Phase.BACKWARD)
    x = b.given(64)
    for _ in range(3):
        b.matmul(x, x, 64, 1, 1, gradient_of="weight")
    assert memory_footprint(b.graph()).gradients == 3 * 128


def test_empty_graph() -> None:
    b = GraphBuilder()
    b.parameter(10)
    found = memory_footprint(b.graph())
    assert (found.parameters, found.total_peak, found.peak_operator) == (20, 20, -1)


def test_activations_grow_with_layers_and_saved_is_a_part_of_the_peak() -> None:
    one = memory_footprint(transformer_training(layers=2).graph())
    two = memory_footprint(transformer_training(layers=4).graph())
    assert two.saved_activations == 2 * one.saved_activations
    assert two.activations_peak >= two.saved_activations
    assert two.parameters == 2 * one.parameters


@settings(max_examples=80, deadline=None)
@given(graph=graphs())
def test_footprint_equals_a_simulation(graph: TrainingGraph) -> None:
    found = memory_footprint(graph)
    peaks = {"total": 0, "activations": 0, "gradients": 0}
    for index in range(len(graph.operators)):
        live = simulated_live(graph, index)
        peaks["total"] = max(peaks["total"], sum(size for size, _ in live.values()))
        for name, roles in (
            ("activations", (TensorRole.ACTIVATION, TensorRole.ACTIVATION_GRADIENT)),
            ("gradients", (TensorRole.GRADIENT,)),
        ):
            peaks[name] = max(peaks[name], sum(size for size, role in live.values() if role in roles))
    if graph.operators:
        assert found.total_peak == peaks["total"]
        assert found.activations_peak == peaks["activations"]
        assert found.gradients == peaks["gradients"]
        assert 0 <= found.peak_operator < len(graph.operators)
    parts = (
        found.parameters
        + found.buffers
        + found.optimizer_state
        + found.inputs
        + found.activations_peak
        + found.gradients
    )
    assert found.total_peak <= parts


def simulated_live(graph: TrainingGraph, index: int) -> dict[int, tuple[int, TensorRole]]:
    """Storage -> size and role of what lives while operator `index` runs, found the slow way."""
    live: dict[int, tuple[int, TensorRole]] = {}
    for storage in {tensor.storage for tensor in graph.tensors}:
        versions = [i for i, tensor in enumerate(graph.tensors) if tensor.storage == storage]
        uses = [
            place
            for place, operator in enumerate(graph.operators)
            if any(access.tensor in versions for access in (*operator.reads, *operator.writes))
        ]
        tensors = [graph.tensors[i] for i in versions]
        roles = [tensor.role for tensor in tensors]
        persistent = [role for role in roles if role in PERSISTENT_ROLES]
        role = persistent[-1] if persistent else roles[0]
        given_ = any(tensor.producer == -1 for tensor in tensors)
        read = any(access.tensor in versions for operator in graph.operators for access in operator.reads)
        start = 0 if given_ else min(uses)
        end = max(uses, default=0)
        if persistent or (given_ and role in (TensorRole.INPUT, TensorRole.GRADIENT)):
            start, end = 0, len(graph.operators)
        if role is TensorRole.GRADIENT and not read:
            end = len(graph.operators)
        if start <= index <= end:
            live[storage] = (tensors[0].bytes, role)
    return live


def test_saved_flags_follow_backward_readers() -> None:
    """The helper that builds graphs marks saved tensors as capture does."""
    graph = transformer_training(layers=1).graph()
    saved = [tensor for tensor in graph.tensors if tensor.saved]
    assert saved
    assert all(graph.operators[tensor.producer].phase is Phase.FORWARD for tensor in saved)
    unsaved = replace(graph, tensors=tuple(replace(tensor, saved=False) for tensor in graph.tensors))
    assert memory_footprint(unsaved).saved_activations == 0
