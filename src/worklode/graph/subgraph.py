"""A part of a training graph as a training graph of its own: one instance of a repeated block, or one module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from worklode.errors import Fault, SpecError
from worklode.graph.operator import Access, Operator, Tensor, TensorRole
from worklode.graph.training_graph import TrainingGraph, WorkloadInfo
from worklode.graph.validate import require_valid

WHERE = "part of a graph"


def subgraph(graph: TrainingGraph, operators: Iterable[int], *, name: str = "") -> TrainingGraph:
    """The graph of some operators: what others make exists before the iteration, what others read is left unread.

    Order is kept: an operator that waits for another by way of operators left out still waits for it
    (`Operator.after`), so that the backward of a block follows its forward. What is left out costs nothing. Of two
    versions of a storage that operators left out wrote, the later has a storage of its own, since both are there from
    the start.

    Take parts of a fused graph where their operators shall be those of the whole: at the border of a part of a plain
    graph, fusion sees fewer readers.

    Args:
        graph: the whole.
        operators: indices of those to keep.
        name: of the workload; default the whole's, with the number of operators kept.

    Raises:
        SpecError: no operator, or none of these indices.
    """
    kept = sorted(set(operators))
    _check(graph, kept)
    place = {old: new for new, old in enumerate(kept)}
    tensor_of = {old: new for new, old in enumerate(_tensors_of(graph, kept))}
    waits = _waits(graph, place)
    found = TrainingGraph(
        info=_info(graph, tensor_of, name or f"{graph.info.name}[{len(kept)} operators]"),
        tensors=_tensors(graph, place, tensor_of),
        operators=tuple(_operator(graph.operators[old], tensor_of, waits[old]) for old in kept),
        blocks=graph.blocks,
    )
    return require_valid(found, WHERE)


def block_instance(graph: TrainingGraph, block: int = 0, instance: int = 0) -> TrainingGraph:
    """One instance of a repeated block: its forward, backward and updates.

    Raises:
        SpecError: no such block, no such instance, or it has no operators.
    """
    if not 0 <= block < len(graph.blocks):
        allowed = f"0 to {len(graph.blocks) - 1}" if graph.blocks else "none: the graph has no repeated block"
        raise SpecError(Fault(where=WHERE, path="block", value=str(block), problem="no such block", allowed=allowed))
    run = graph.blocks[block]
    if not 0 <= instance < run.count:
        fault = Fault(
            where=WHERE,
            path="instance",
            value=str(instance),
            problem=f"no such repetition of {run.path}",
            allowed=f"0 to {run.count - 1}",
        )
        raise SpecError(fault)
    chosen = [i for i, o in enumerate(graph.operators) if o.block == block and o.instance == instance]
    return subgraph(graph, chosen, name=f"{graph.info.name}[{run.path}.{run.first + instance}]")


def module_part(graph: TrainingGraph, path: str) -> TrainingGraph:
    """The operators of a module and of the modules inside it.

    Raises:
        SpecError: no operator belongs to such a module.
    """
    chosen = [index for index, o in enumerate(graph.operators) if o.module == path or o.module.startswith(f"{path}.")]
    if not chosen:
        modules = sorted({operator.module.split(".")[0] for operator in graph.operators} - {""})
        fault = Fault(
            where=WHERE,
            path="module",
            value=repr(path),
            problem="no operator belongs to it",
            allowed="a module within " + ", ".join(modules),
        )
        raise SpecError(fault)
    return subgraph(graph, chosen, name=f"{graph.info.name}[{path}]")


def _check(graph: TrainingGraph, kept: list[int]) -> None:
    allowed = f"0 to {len(graph.operators) - 1}"
    if not kept:
        raise SpecError(Fault(where=WHERE, path="operators", problem="none is kept", allowed=allowed))
    faults = [
        Fault(where=WHERE, path="operators", value=str(index), problem="no such operator", allowed=allowed)
        for index in kept
        if not 0 <= index < len(graph.operators)
    ]
    if faults:
        raise SpecError(*faults)


def _tensors_of(graph: TrainingGraph, kept: list[int]) -> list[int]:
    """Tensors that the operators read or write, ascending."""
    return sorted({a.tensor for old in kept for a in (*graph.operators[old].reads, *graph.operators[old].writes)})


def _waits(graph: TrainingGraph, place: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """For every kept operator, in new indices, the kept ones it follows but reads nothing of: `Operator.after`.

    Among them those it follows through operators left out; each of these hands on the kept operators it follows.
    """
    handed_on: dict[int, frozenset[int]] = {}
    waits: dict[int, tuple[int, ...]] = {}
    for index, operator in enumerate(graph.operators):
        before = graph.predecessors(index)
        through = frozenset().union(*(handed_on[p] for p in before if p not in place))
        direct = frozenset(place[p] for p in before if p in place)
        if index not in place:
            handed_on[index] = through | direct
            continue
        explicit = frozenset(place[p] for p in operator.after if p in place)
        producers = {place.get(graph.tensors[access.tensor].producer, -1) for access in operator.reads}
        waits[index] = tuple(sorted(explicit | (through - producers)))
    return waits


def _operator(operator: Operator, tensor_of: Mapping[int, int], after: tuple[int, ...]) -> Operator:
    def moved(accesses: tuple[Access, ...]) -> tuple[Access, ...]:
        return tuple(Access(tensor=tensor_of[access.tensor], bytes=access.bytes) for access in accesses)

    return replace(operator, reads=moved(operator.reads), writes=moved(operator.writes), after=after)


def _tensors(graph: TrainingGraph, place: Mapping[int, int], tensor_of: Mapping[int, int]) -> tuple[Tensor, ...]:
    """The kept tensors, each storage renumbered in the order of first appearance."""
    versions = sorted(tensor_of, key=lambda old: (graph.tensors[old].producer, old))
    current: dict[int, int] = {}
    storage_of: dict[int, int] = {}
    storages = 0
    for old in versions:
        tensor = graph.tensors[old]
        if tensor.storage not in current or tensor.producer not in place:
            current[tensor.storage] = storages
            storages += 1
        storage_of[old] = current[tensor.storage]
    numbers: dict[int, int] = {}
    found = []
    for old in tensor_of:
        tensor = graph.tensors[old]
        storage = numbers.setdefault(storage_of[old], len(numbers))
        found.append(replace(tensor, storage=storage, producer=place.get(tensor.producer, -1)))
    return tuple(found)


def _info(graph: TrainingGraph, tensor_of: Mapping[int, int], name: str) -> WorkloadInfo:
    trained = {t.name for t in graph.tensors if t.role is TensorRole.GRADIENT and t.name}
    elements: dict[int, int] = {}
    trainable: dict[int, int] = {}
    for old in tensor_of:
        tensor = graph.tensors[old]
        if tensor.role is TensorRole.PARAMETER:
            elements[tensor.storage] = tensor.bytes * 8 // max(8, _bits(tensor.dtype))
            if tensor.name in trained:
                trainable[tensor.storage] = elements[tensor.storage]
    return replace(
        graph.info, name=name, parameters=sum(elements.values()), trainable_parameters=sum(trainable.values())
    )


def _bits(dtype: str) -> int:
    """Bits of an element, the first number in the name of its type; a byte where there is none (`bool`)."""
    number = re.search(r"\d+", dtype)
    return int(number.group()) if number else 8
