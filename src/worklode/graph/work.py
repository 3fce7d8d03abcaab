"""What an operator has to compute or to exchange, free of names: matrix products, vector operations, a collective.

Two operators with equal `Work` and equal traffic cost the same on every accelerator, so costs are computed once per
distinct `WorkItem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PatchOperand(StrEnum):
    """Which operand of an implicit-GEMM convolution is the (virtual) matrix of patches.

    Forward: A (input patches). Input gradient: C (column image, summed into the input). Weight gradient: B.
    """

    NONE = "none"
    A = "a"
    B = "b"
    C = "c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """`batch` independent products C[m, n] = A[m, k] B[k, n], each 2·m·n·k FLOPs.

    `*_elements` are the distinct elements behind each operand over the whole batch: batch·m·k for a plain A, fewer
    where patches overlap (convolution) or an operand is shared across the batch. Convolutions are implicit GEMMs with
    `batch` = groups:

        forward          m = N·OH·OW      n = C_out/g           k = C_in/g·KH·KW    patch = A
        input gradient   m = N·OH·OW      n = C_in/g·KH·KW      k = C_out/g         patch = C
        weight gradient  m = C_out/g      n = C_in/g·KH·KW      k = N·OH·OW         patch = B

    `window` is the number of kernel taps (KH·KW), 1 for a plain product. `masked_fraction` is the share of the
    product that a kernel may skip because of a causal mask (0 where none); FLOPs are counted in full, by convention.
    """

    batch: int
    m: int
    n: int
    k: int
    a_elements: int
    b_elements: int
    c_elements: int
    element_bytes: int
    patch: PatchOperand = PatchOperand.NONE
    window: int = 1
    masked_fraction: float = 0.0

    @property
    def flops(self) -> int:
        """Floating-point operations, multiply and add counted apart."""
        return 2 * self.batch * self.m * self.n * self.k


class Collective(StrEnum):
    """What the devices of a group exchange, by the names of MPI and NCCL."""

    ALL_REDUCE = "all_reduce"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    ALL_TO_ALL = "all_to_all"
    BROADCAST = "broadcast"
    POINT_TO_POINT = "point_to_point"


AXES = ("tensor", "expert", "data", "pipeline")
"""Axes of the mesh of devices along which a group of a collective lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Communication:
    """A collective of the devices along one axis of the mesh.

    Attributes:
        collective: what is exchanged.
        bytes: size of the whole tensor [bytes], NCCL's message size: the buffer of an all-reduce, broadcast or
            point-to-point; the input of a reduce-scatter; the output of an all-gather; what one device sends in an
            all-to-all, its own part included.
        axis: one of `AXES`.
        devices: size of the group, 1 included, where nothing is sent.
    """

    collective: Collective
    bytes: int
    axis: str
    devices: int

    def __str__(self) -> str:
        return f"{self.collective} of {self.bytes} bytes over {self.devices} devices of axis {self.axis}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that one operator computes, or the collective it is.

    Attributes:
        products: matrix products, in order; more than one in attention (scores and context) and its backward.
        chained: the products hand their results on inside the core complex (attention): scores never touch HBM.
        simple_ops: lane operations at one per lane and cycle (add, multiply, compare, select, convert, move).
        special_ops: transcendental lane operations (exp, log, tanh, erf, sqrt, divide), at a lower rate.
        vector_elements: elements streamed through the lanes, reads and writes together; bounds port traffic.
        reduction_bytes: bytes that must be seen before the first result leaves (a softmax row, a batch-norm channel);
            0 where results stream. A group that does not fit on chip is read twice.
        random_accesses, random_access_bytes: number and size [bytes] of scattered accesses (embedding rows).
        serial_steps: dependent steps that no number of lanes shortens (scan along a sequence, radix passes of a sort).
        communication: the collective; an operator with one computes nothing itself.
    """

    products: tuple[Product, ...] = ()
    chained: bool = False
    simple_ops: int = 0
    special_ops: int = 0
    vector_elements: int = 0
    reduction_bytes: int = 0
    random_accesses: int = 0
    random_access_bytes: int = 0
    serial_steps: int = 0
    communication: Communication | None = None

    @property
    def matrix_flops(self) -> int:
        """FLOPs of the matrix products."""
        return sum(product.flops for product in self.products)

    @property
    def flops(self) -> int:
        """FLOPs of everything: products plus one per lane operation."""
        return self.matrix_flops + self.simple_ops + self.special_ops


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """The part of an operator that decides its cost: its work and its compulsory HBM bytes."""

    work: Work
    read_bytes: int
    write_bytes: int
