"""Memory of one training iteration on one device: liveness of storages in the operators' order, split by role."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worklode.graph.operator import TensorRole
from worklode.graph.training_graph import TrainingGraph

PERSISTENT_ROLES = (TensorRole.PARAMETER, TensorRole.BUFFER, TensorRole.OPTIMIZER_STATE)
"""Roles whose storages live through every iteration, whoever made them."""

ACTIVATION_ROLES = (TensorRole.ACTIVATION, TensorRole.ACTIVATION_GRADIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFootprint:
    """Bytes of HBM one iteration needs, each storage counted once.

    Attributes:
        parameters, buffers, optimizer_state: persistent storages [bytes].
        inputs: inputs of the step [bytes]; they exist from the start and stay.
        gradients: most bytes of parameter gradients that live at one time [bytes].
        activations_peak: most bytes of activations and their gradients that live at one time [bytes].
        saved_activations: bytes forward keeps for backward, whatever lives beside them.
        total_peak: most bytes of all that live at one time [bytes]; at most the sum of the parts, less where gradients
            grow while activations shrink.
        peak_operator: index of the first operator that runs at `total_peak`, -1 for a graph without operators.
    """

    parameters: int
    gradients: int
    optimizer_state: int
    buffers: int
    inputs: int
    activations_peak: int
    saved_activations: int
    total_peak: int
    peak_operator: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StorageLives:
    """When each of S storages lives, as operator indices, both ends included.

    Attributes:
        bytes: [S] size [bytes].
        first: [S] operator that first writes it, 0 where it exists before the iteration.
        last: [S] last operator that reads or writes it; the last of all where it persists.
        role: [S] role, the persistent one where versions of a storage have several.
    """

    bytes: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    role: tuple[TensorRole, ...]


def memory_footprint(graph: TrainingGraph) -> MemoryFootprint:
    """Peak memory of one iteration that runs the operators one after another in the graph's order.

    A storage lives from the operator that first writes it to the last one that touches any of its versions. Parameters,
    buffers, optimizer state and inputs live throughout, and so does a gradient that exists before the iteration
    (accumulated in place) or that nobody in it reads (left for the caller). What stays on chip in a fused operator
    is no tensor, hence no memory; allocator rounding and workspaces are not counted.

    Args:
        graph: a sound graph, fused or not.
    """
    lives = storage_lives(graph)
    roles = lives.role
    persistent = {role: _bytes_of(lives, role) for role in PERSISTENT_ROLES}
    activations = _live_bytes(graph, lives, [role in ACTIVATION_ROLES for role in roles])
    gradients = _live_bytes(graph, lives, [role is TensorRole.GRADIENT for role in roles])
    total = _live_bytes(graph, lives, [True] * len(roles))
    return MemoryFootprint(
        parameters=persistent[TensorRole.PARAMETER],
        gradients=int(gradients.max(initial=0)),
        optimizer_state=persistent[TensorRole.OPTIMIZER_STATE],
        buffers=persistent[TensorRole.BUFFER],
        inputs=_bytes_of(lives, TensorRole.INPUT),
        activations_peak=int(activations.max(initial=0)),
        saved_activations=graph.saved_bytes(),
        total_peak=int(total.max(initial=0)) if len(graph.operators) else int(lives.bytes.sum()),
        peak_operator=int(total.argmax()) if len(graph.operators) else -1,
    )


def storage_lives(graph: TrainingGraph) -> StorageLives:
    """First and last use of every storage of a sound graph, in order of first appearance among its tensors."""
    place: dict[int, int] = {}
    sizes: list[int] = []
    roles: list[TensorRole] = []
    first: list[int] = []
    last: list[int] = []
    end = max(len(graph.operators) - 1, 0)
    storage_of = [0] * len(graph.tensors)
    for index, tensor in enumerate(graph.tensors):
        storage = place.setdefault(tensor.storage, len(sizes))
        storage_of[index] = storage
        if storage == len(sizes):
            sizes.append(tensor.bytes)
            roles.append(tensor.role)
            first.append(max(tensor.producer, 0))
            last.append(max(tensor.producer, 0))
        first[storage] = min(first[storage], max(tensor.producer, 0))
        last[storage] = max(last[storage], tensor.producer)
        if tensor.role in PERSISTENT_ROLES:
            roles[storage] = tensor.role
        if _stays(tensor.role, tensor.producer):
            first[storage], last[storage] = 0, end
    read = [False] * len(sizes)
    for index, operator in enumerate(graph.operators):
        for access in operator.reads:
            storage = storage_of[access.tensor]
            read[storage] = True
            last[storage] = max(last[storage], index)
    for storage, role in enumerate(roles):
        if role is TensorRole.GRADIENT and not read[storage]:
            last[storage] = end
    return StorageLives(
        bytes=np.array(sizes, np.int64),
        first=np.array(first, np.int64),
        last=np.array(last, np.int64),
        role=tuple(roles),
    )


def _stays(role: TensorRole, producer: int) -> bool:
    """Does a tensor of this role live through the whole iteration?"""
    return role in PERSISTENT_ROLES or (producer == -1 and role in (TensorRole.INPUT, TensorRole.GRADIENT))


def _bytes_of(lives: StorageLives, role: TensorRole) -> int:
    return sum(size for size, found in zip(lives.bytes.tolist(), lives.role, strict=True) if found is role)


def _live_bytes(graph: TrainingGraph, lives: StorageLives, chosen: list[bool]) -> NDArray[np.int64]:
    """[N] bytes of the chosen storages that live while each operator runs."""
    mask = np.array(chosen, bool)
    change = np.zeros(len(graph.operators) + 1, np.int64)
    if not len(graph.operators):
        return change[:0]
    np.add.at(change, lives.first[mask], lives.bytes[mask])
    np.add.at(change, lives.last[mask] + 1, -lives.bytes[mask])
    return np.cumsum(change)[:-1]
