"""The contract between the recorder and the operator table: one recorded ATen call, and what the table makes of it.

Free of torch, so the table can be tested on plain shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from worklode.graph.operator import OperatorKind
from worklode.graph.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMeta:
    """Shape, strides [elements], element type (torch's name without `torch.`) and element size of a recorded tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    element_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements, repeated ones (expanded dimensions) included."""
        return prod(self.shape)

    @property
    def distinct_elements(self) -> int:
        """Number of elements in memory: expanded dimensions (stride 0) and overlapping windows count once."""
        if 0 in self.shape:
            return 0
        extent = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return min(extent, prod(size for size, stride in zip(self.shape, self.strides, strict=True) if stride != 0))

    @property
    def bytes(self) -> int:
        """Bytes in memory, expanded dimensions counted once."""
        return self.distinct_elements * self.element_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an ATen operator, every tensor replaced by its `TensorMeta`, every list by a tuple.

    Attributes:
        name: namespace, packet and overload, `aten.convolution_backward.default`.
        args, kwargs: in the order of the operator's schema; defaults that were not passed are filled in, so `args`
            always has one entry per positional schema argument.
        results: tensors returned, None where the operator returns none in that place; for an operator in place the
            tensors it wrote.
        inputs: tensors among `args` and then `kwargs`, depth first: the order of `Description.read_bytes`.
        outputs: the tensors among `results`: the order of `Description.write_bytes`.
    """

    name: str
    args: tuple[object, ...]
    kwargs: tuple[tuple[str, object], ...] = ()
    results: tuple[TensorMeta | None, ...] = ()
    inputs: tuple[TensorMeta, ...] = ()
    outputs: tuple[TensorMeta, ...] = ()

    @property
    def packet(self) -> str:
        """Name without namespace and overload: `convolution_backward`."""
        return self.name.split(".")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the table says of a call, or of one part of it.

    A call is one operator, except where one ATen call makes both gradients of a product (`convolution_backward`): the
    table then returns one description for each, because the weight gradient is off the critical path.

    Attributes:
        read_bytes, write_bytes: HBM bytes touched of every tensor of `Call.inputs` / `Call.outputs` when each operand
            moves once. An embedding touches the rows looked up, not the table; 0 for a tensor whose values are unused.
        outputs: indices into `Call.outputs` of the tensors this part makes.
        gradient_of: "input" or "weight" where the call itself knows, else "" (the recorder finds out for products).
        exact: False for the bytes-and-flops fallback.
    """

    kind: OperatorKind
    work: Work
    read_bytes: tuple[int, ...]
    write_bytes: tuple[int, ...]
    outputs: tuple[int, ...]
    gradient_of: str = ""
    exact: bool = True
