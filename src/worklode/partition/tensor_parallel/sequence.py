"""Where the sequence is in every tensor: the digit that sequence parallelism divides.

It is known of the inputs ([batch, sequence, ...]; a sample's tokens for integer inputs) and followed through the loops
of the operators.
"""

from __future__ import annotations

from fractions import Fraction

from worklode.errors import Fault
from worklode.graph.fusion.facts import DTYPE_BYTES
from worklode.graph.loops import LoopKind, Nest, OperatorLoops
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.tensor_parallel.layout import Form, Layout, divided, layout_under, locate


def sequence_layouts(graph: TrainingGraph, devices: int, faults: list[Fault]) -> dict[int, Layout]:
    """Tensor -> its layout with the sequence divided, for every tensor that has one."""
    found = _of_inputs(graph, devices, faults)
    if not found and not faults:
        faults.append(
            Fault(
                where=graph.info.name,
                path="sequence_parallel",
                problem="no input has a sequence dimension",
                allowed="inputs [batch, sequence, ...], or tensor parallelism without sequence parallelism",
            )
        )
    both = list(zip(graph.operators, graph.loops, strict=True))
    for operator, loops in (*both, *reversed(both)):  # forwards from the inputs, then back to what only gradients tell
        if loops.nest is not None and operator.phase is not Phase.OPTIMIZER:
            _follow(loops, loops.nest, found, devices)
    return found


def _follow(loops: OperatorLoops, nest: Nest, found: dict[int, Layout], devices: int) -> None:
    """Operands and results that run along the sequence with one that is known."""
    named = [(nest.operand(place), tensor) for place, tensor in enumerate(loops.operands)]
    named += [(nest.result(number), tensor) for number, tensor in enumerate(loops.results)]
    for strides, tensor in named:
        if tensor not in found:
            continue
        cut = locate(nest, strides, found[tensor], devices)
        if cut is None or nest.kinds[cut.loop] is not LoopKind.FREE:
            continue
        for others, other in named:
            layout = layout_under(cut, others)
            if other >= 0 and layout.form is Form.DIVIDED:
                found.setdefault(other, layout)


def _of_inputs(graph: TrainingGraph, devices: int, faults: list[Fault]) -> dict[int, Layout]:
    options = dict(graph.info.options)
    batch = int(options.get("batch", "1"))
    tokens = int(options.get("seq_len", "0"))
    found: dict[int, Layout] = {}
    lengths: set[int] = set()
    for index, tensor in enumerate(graph.tensors):
        if tensor.role is not TensorRole.INPUT or tensor.producer != -1:
            continue
        elements = tensor.bytes // DTYPE_BYTES.get(tensor.dtype, 1)
        is_token = tensor.dtype in {"int64", "int32"}
        length = elements // batch if is_token else tokens or _second_dimension(graph, index)
        if length <= 1 or elements % (batch * length):
            continue
        stride = elements // (batch * length)
        lengths.add(length)
        found[index] = divided(Fraction(stride * length, devices), Fraction(1, devices))
    faults.extend(
        Fault(
            where=graph.info.name,
            path="sequence_parallel",
            value=f"{length} tokens",
            problem=f"{devices} devices do not divide the sequence",
            allowed=f"a sequence length that is a multiple of {devices}, or no sequence parallelism",
        )
        for length in sorted(lengths)
        if length % devices
    )
    return found


def _second_dimension(graph: TrainingGraph, tensor: int) -> int:
    """Size of the second dimension of an input that is read as [batch, sequence, width], 0 where none is."""
    for loops in graph.loops:
        for place, read in enumerate(loops.operands):
            if read == tensor and loops.nest is not None:
                strides = loops.nest.operand(place)
                dims = sorted((i for i, s in enumerate(strides) if s > 0), key=lambda i: -strides[i])
                return loops.nest.sizes[dims[1]] if len(dims) == 3 else 0
    return 0
