"""Invariants of a training graph: what every stage after capture takes for granted.

Every fault is reported, not only the first, with the place it belongs to (`operators[12].reads[0].tensor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from worklode.errors import Fault, InternalError
from worklode.graph.loops import nest_problems
from worklode.graph.operator import Access, Operator, OperatorKind, Tensor
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import AXES, Communication, Product, Work

GRADIENT_OF = ("", "input", "weight")
"""What a matrix product of backward may be the gradient of (`Operator.gradient_of`)."""

WORK_COUNTS = (
    "simple_ops",
    "special_ops",
    "vector_elements",
    "reduction_bytes",
    "random_accesses",
    "random_access_bytes",
    "serial_steps",
)
"""Fields of `Work` that are counts, hence never negative."""


def graph_faults(graph: TrainingGraph, where: str = "graph") -> list[Fault]:
    """Every broken invariant of a graph; empty where it is sound.

    The invariants: operators are in a topological order; a tensor is written by its producer and by nobody else;
    an access stays inside its storage; versions of one storage are written in the order of their readers; work is
    not negative; collectives compute nothing; blocks, tensors and operators named by index exist.

    Args:
        graph: the graph.
        where: file or function it came from, for the messages.
    """
    faults = _Faults(where)
    for path, problem, value, allowed in _all_problems(graph):
        faults.add(path, problem, value, allowed)
    return faults.found


def require_valid(graph: TrainingGraph, where: str) -> TrainingGraph:
    """The graph itself, for the end of a pass.

    Raises:
        InternalError: the pass broke an invariant.
    """
    faults = graph_faults(graph, where)
    if faults:
        raise InternalError("\n".join(str(fault) for fault in faults))
    return graph


_Problem = tuple[str, str, object, str]


class _Faults:
    """Collects faults of one input."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[Fault] = []

    def add(self, path: str, problem: str, value: object, allowed: str) -> None:
        shown = "" if value is None else str(value)
        self.found.append(Fault(where=self.where, path=path, value=shown, problem=problem, allowed=allowed))


def _all_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    yield from _info_problems(graph)
    yield from _block_problems(graph)
    yield from _tensor_problems(graph)
    yield from _operator_problems(graph)
    yield from _work_problems(graph)
    yield from _storage_order_problems(graph)
    yield from _loop_problems(graph)


def _info_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    info = graph.info
    for name in ("parameters", "trainable_parameters", "samples", "tokens"):
        if getattr(info, name) < 0:
            yield f"info.{name}", "is negative", getattr(info, name), "0 or more"
    if info.trainable_parameters > info.parameters:
        yield (
            "info.trainable_parameters",
            "more than all parameters",
            info.trainable_parameters,
            f"<= {info.parameters}",
        )


def _block_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    for index, block in enumerate(graph.blocks):
        if block.first < 0 or block.count < 1:
            yield f"blocks[{index}]", "empty or negative run", f"first {block.first}, count {block.count}", "count >= 1"


def _tensor_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    operators = len(graph.operators)
    storage_bytes: dict[int, int] = {}
    for index, tensor in enumerate(graph.tensors):
        if tensor.storage >= 0 and tensor.bytes >= 0 and -1 <= tensor.producer < operators:
            known = storage_bytes.setdefault(tensor.storage, tensor.bytes)
            if known == tensor.bytes:
                continue
            yield f"tensors[{index}].bytes", f"storage {tensor.storage} has two sizes", tensor.bytes, f"{known}"
        yield from _tensor_range_problems(index, tensor, operators)


def _tensor_range_problems(index: int, tensor: Tensor, operators: int) -> Iterator[_Problem]:
    if tensor.storage < 0:
        yield f"tensors[{index}].storage", "is negative", tensor.storage, "0 or more"
    if tensor.bytes < 0:
        yield f"tensors[{index}].bytes", "is negative", tensor.bytes, "0 or more"
    if not -1 <= tensor.producer < operators:
        yield f"tensors[{index}].producer", "no such operator", tensor.producer, f"-1 to {operators - 1}"


def _operator_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    tensors = graph.tensors
    written = [False] * len(tensors)
    producer = [tensor.producer for tensor in tensors]
    limit = [tensor.bytes for tensor in tensors]
    for index, operator in enumerate(graph.operators):
        for place, access in enumerate(operator.reads):
            read = access.tensor
            if 0 <= read < len(tensors) and producer[read] < index and 0 <= access.bytes <= limit[read]:
                continue
            yield from _access_problems(graph, f"operators[{index}].reads[{place}]", access)
            if 0 <= access.tensor < len(tensors) and tensors[access.tensor].producer >= index:
                yield (
                    f"operators[{index}].reads[{place}]",
                    "not in a topological order: reads what is written later",
                    f"operator {tensors[access.tensor].producer}",
                    f"operators before {index}",
                )
        for place, access in enumerate(operator.writes):
            path = f"operators[{index}].writes[{place}]"
            if not 0 <= access.tensor < len(tensors):
                yield from _access_problems(graph, path, access)
                continue
            tensor = tensors[access.tensor]
            if tensor.producer != index or written[access.tensor]:
                yield (
                    path,
                    f"tensor {access.tensor} has another writer",
                    f"operator {index}",
                    f"{tensor.producer}, once",
                )
            if not 0 <= access.bytes <= tensor.bytes:
                yield from _access_problems(graph, path, access)
            written[access.tensor] = True
        if operator.after and not (
            operator.after[-1] < index and min(operator.after) >= 0 and _ascends(operator.after)
        ):
            yield (
                f"operators[{index}].after",
                "not in a topological order, or not ascending",
                operator.after,
                f"ascending operators before {index}",
            )
        if operator.block != -1 or operator.instance != -1 or operator.gradient_of:
            yield from _label_problems(graph, index, operator)
    for index, tensor in enumerate(tensors):
        if tensor.producer >= 0 and not written[index]:
            yield (
                f"tensors[{index}].producer",
                "the producer does not write it",
                tensor.producer,
                "an operator that does",
            )


def _ascends(indices: tuple[int, ...]) -> bool:
    return all(one < other for one, other in pairwise(indices))


def _access_problems(graph: TrainingGraph, path: str, access: Access) -> Iterator[_Problem]:
    if not 0 <= access.tensor < len(graph.tensors):
        yield f"{path}.tensor", "no such tensor", access.tensor, f"0 to {len(graph.tensors) - 1}"
        return
    limit = graph.tensors[access.tensor].bytes
    if not 0 <= access.bytes <= limit:
        yield f"{path}.bytes", "outside its storage", access.bytes, f"0 to {limit}"


def _label_problems(graph: TrainingGraph, index: int, operator: Operator) -> Iterator[_Problem]:
    if operator.gradient_of and operator.gradient_of not in GRADIENT_OF:
        yield f"operators[{index}].gradient_of", "unknown", repr(operator.gradient_of), '"", "input", "weight"'
    if operator.block == -1 and operator.instance == -1:
        return
    if not 0 <= operator.block < len(graph.blocks):
        yield f"operators[{index}].block", "no such block", operator.block, f"-1 to {len(graph.blocks) - 1}"
    elif not 0 <= operator.instance < graph.blocks[operator.block].count:
        allowed = f"0 to {graph.blocks[operator.block].count - 1}"
        yield f"operators[{index}].instance", "no such repetition of the block", operator.instance, allowed


def _work_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    # Operators share their work objects wherever capture could intern them: each object is looked at once.
    first_use: dict[int, int] = {}
    for index, operator in enumerate(graph.operators):
        first_use.setdefault(id(operator.work), index)
        if operator.work.communication is not None and operator.kind is not OperatorKind.COLLECTIVE:
            yield f"operators[{index}].kind", "a collective of another kind", operator.kind, OperatorKind.COLLECTIVE
    for index in first_use.values():
        work = graph.operators[index].work
        yield from _one_work_problems(f"operators[{index}].work", work)


def _one_work_problems(path: str, work: Work) -> Iterator[_Problem]:
    for name in WORK_COUNTS:
        if getattr(work, name) < 0:
            yield f"{path}.{name}", "is negative", getattr(work, name), "0 or more"
    if work.chained and len(work.products) < 2:
        yield f"{path}.chained", "a chain of fewer than two products", len(work.products), "2 or more products"
    for place, product in enumerate(work.products):
        yield from _product_problems(f"{path}.products[{place}]", product)
    if work.communication is not None:
        yield from _communication_problems(f"{path}.communication", work.communication)
        if work != Work(communication=work.communication):
            yield path, "a collective computes nothing itself", None, "an operator of its own for the computation"


def _communication_problems(path: str, communication: Communication) -> Iterator[_Problem]:
    if communication.bytes < 0:
        yield f"{path}.bytes", "is negative", communication.bytes, "0 or more"
    if communication.devices < 1:
        yield f"{path}.devices", "an empty group", communication.devices, "1 or more"
    if communication.axis not in AXES:
        yield f"{path}.axis", "unknown", repr(communication.axis), ", ".join(AXES)


def _product_problems(path: str, product: Product) -> Iterator[_Problem]:
    for name in ("batch", "m", "n", "k", "a_elements", "b_elements", "c_elements"):
        if getattr(product, name) < 0:
            yield f"{path}.{name}", "is negative", getattr(product, name), "0 or more"
    for name in ("element_bytes", "window"):
        if getattr(product, name) < 1:
            yield f"{path}.{name}", "is not positive", getattr(product, name), "1 or more"
    if not 0.0 <= product.masked_fraction < 1.0:
        yield f"{path}.masked_fraction", "is no share", product.masked_fraction, "0 <= share < 1"


def _storage_order_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    """A version of a storage must not be read after the next version has been written over it."""
    first: dict[int, int] = {}
    versions: dict[int, list[int]] = {}
    for index, tensor in enumerate(graph.tensors):
        other = first.setdefault(tensor.storage, index)
        if other != index:
            versions.setdefault(tensor.storage, [other]).append(index)
    overwritten_by: dict[int, int] = {}
    for storage in versions.values():
        storage.sort(key=lambda index: (graph.tensors[index].producer, index))
        for older, newer in pairwise(storage):
            overwritten_by[older] = graph.tensors[newer].producer
    if not overwritten_by:
        return
    for index, operator in enumerate(graph.operators):
        for place, access in enumerate(operator.reads):
            writer = overwritten_by.get(access.tensor, index)
            if writer < index:
                yield (
                    f"operators[{index}].reads[{place}]",
                    "reads a value that was overwritten",
                    f"tensor {access.tensor}",
                    f"a reader before operator {writer}",
                )


def _loop_problems(graph: TrainingGraph) -> Iterator[_Problem]:
    """Loops are known of every operator or of none, and name tensors and loops that exist."""
    if graph.loops and len(graph.loops) != len(graph.operators):
        yield "loops", "not one per operator", len(graph.loops), f"0 or {len(graph.operators)}"
    for index, loops in enumerate(graph.loops):
        for problem, value, allowed in nest_problems(loops, len(graph.tensors)):
            yield f"loops[{index}]", problem, value, allowed
