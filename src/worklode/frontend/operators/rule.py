"""What every family of the operator table is made of: a rule turns a call into descriptions.

Conventions (docs/models/operators.md): an operand touches its distinct elements once; a lane operation is one add,
multiply, compare, select, convert or move of one element (no fused multiply-add is assumed), conversions on the way in
and out of the lanes are free; transcendental operations and divisions are special.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.graph.operator import OperatorKind
from worklode.graph.work import Product, Work

Rule = Callable[[Call], tuple[Description, ...]]
Rules = Mapping[str, Rule]


class Lanes(NamedTuple):
    """Lane operations, per element or in all: `simple` at one per lane and cycle, `special` transcendental ones."""

    simple: int = 0
    special: int = 0

    def plus(self, simple: int = 0, special: int = 0) -> Lanes:
        """These and some more."""
        return Lanes(self.simple + simple, self.special + special)

    def times(self, elements: int) -> Lanes:
        """The same for every one of `elements`."""
        return Lanes(self.simple * elements, self.special * elements)


def in_all(*parts: Lanes) -> Lanes:
    """Sum of lane operations."""
    return Lanes(sum(p.simple for p in parts), sum(p.special for p in parts))


# --------------------------------------------------------------------------------------------- reading a call


def tensor(call: Call, index: int) -> TensorMeta:
    """Positional argument `index`, which the schema says is a tensor."""
    value = call.args[index]
    assert isinstance(value, TensorMeta), f"{call.name}: argument {index} is no tensor"
    return value


def optional_tensor(call: Call, index: int) -> TensorMeta | None:
    """Positional argument `index` where it is a tensor, else None."""
    value = call.args[index] if index < len(call.args) else None
    return value if isinstance(value, TensorMeta) else None


def integer(call: Call, index: int) -> int:
    """Positional argument `index` as an integer."""
    value = call.args[index]
    assert isinstance(value, int), f"{call.name}: argument {index} is no integer"
    return value


def integers(call: Call, index: int, length: int = 0) -> tuple[int, ...]:
    """Positional argument `index` as integers; a single one is repeated to `length` (as torch's `int[2]` does)."""
    value = call.args[index]
    if isinstance(value, int):
        return (value,) * max(1, length)
    if value is None:
        return ()
    assert isinstance(value, tuple), f"{call.name}: argument {index} is no list of integers"
    found = tuple(int(v) for v in value)
    return found * length if len(found) == 1 and length > 1 else found


def flag(call: Call, index: int, default: bool = False) -> bool:
    """Positional argument `index` as a truth value."""
    return bool(call.args[index]) if index < len(call.args) else default


def keyword(call: Call, name: str, default: object = None) -> object:
    """Keyword argument `name`."""
    return next((value for key, value in call.kwargs if key == name), default)


def overload(call: Call) -> str:
    """Overload part of the name: `Tensor_Scalar`."""
    return call.name.split(".")[2]


def in_place(call: Call) -> bool:
    """Whether the operator writes into its first argument."""
    return call.packet.endswith("_")


def writes_out_argument(call: Call) -> bool:
    """Whether tensors among the keywords only receive results (`out=`), so that their old values are not read."""
    name = overload(call)
    return name.endswith("out") or name in {"grad_input", "output", "values", "dim_values"}


def tensors_in(value: object) -> Iterator[TensorMeta]:
    """Tensors inside an argument, depth first."""
    if isinstance(value, TensorMeta):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors_in(item)


def output_index(call: Call, result: int) -> int | None:
    """Index into `Call.outputs` of result number `result`, None where it is absent."""
    if result >= len(call.results) or call.results[result] is None:
        return None
    return sum(r is not None for r in call.results[:result])


def dimension(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim + rank if dim < 0 else dim


def first_output(call: Call) -> TensorMeta | None:
    """The first tensor made, None where there is none."""
    return call.outputs[0] if call.outputs else None


def largest(tensors: Iterable[TensorMeta]) -> int:
    """Most elements any of the tensors has."""
    return max((t.elements for t in tensors), default=0)


def ceil_log2(n: int) -> int:
    """Depth of a balanced tree over n leaves; 0 for n <= 1."""
    return max(0, n - 1).bit_length()


# --------------------------------------------------------------------------------------------- making descriptions


def touched_reads(call: Call, reads: Mapping[int, int] | None = None) -> tuple[int, ...]:
    """Bytes read of every input [bytes]: all of it once, or what `reads` says for a positional argument.

    Args:
        call: the call.
        reads: positional argument -> bytes touched of each tensor in it (0: values unused).
    """
    found: list[int] = []
    for index, value in enumerate(call.args):
        for t in tensors_in(value):
            found.append(t.bytes if reads is None or index not in reads else min(reads[index], t.bytes))
    unread = writes_out_argument(call)
    for _, value in call.kwargs:
        found.extend(0 if unread else t.bytes for t in tensors_in(value))
    return tuple(found)


def touched_writes(call: Call, writes: Mapping[int, int] | None = None) -> tuple[int, ...]:
    """Bytes written of every output [bytes]: all of it once, or what `writes` says for an output."""
    return tuple(
        t.bytes if writes is None or i not in writes else min(writes[i], t.bytes) for i, t in enumerate(call.outputs)
    )


def streamed_elements(call: Call, read_bytes: tuple[int, ...], write_bytes: tuple[int, ...]) -> int:
    """Elements that pass the lanes when every touched byte passes them once."""
    return sum(b // t.element_bytes for b, t in zip(read_bytes, call.inputs, strict=True)) + sum(
        b // t.element_bytes for b, t in zip(write_bytes, call.outputs, strict=True)
    )


def on_lanes(
    call: Call,
    kind: OperatorKind,
    lanes: Lanes,
    *,
    reads: Mapping[int, int] | None = None,
    writes: Mapping[int, int] | None = None,
    reduction_bytes: int = 0,
    random_accesses: int = 0,
    random_access_bytes: int = 0,
    serial_steps: int = 0,
    outputs: tuple[int, ...] | None = None,
    exact: bool = True,
) -> tuple[Description, ...]:
    """Describe a call that runs on vector lanes alone.

    Args:
        call: the call.
        kind: what it does.
        lanes: lane operations in all.
        reads: positional argument -> bytes touched, where that is not everything once.
        writes: output -> bytes touched, where that is not everything once.
        reduction_bytes: size of a group that has to be seen before its first result leaves [bytes].
        random_accesses: scattered accesses.
        random_access_bytes: size of one of them [bytes].
        serial_steps: dependent steps.
        outputs: indices of the outputs made, where those are not all.
        exact: False for the fallback.
    """
    read_bytes = touched_reads(call, reads)
    write_bytes = touched_writes(call, writes)
    work = Work(
        simple_ops=lanes.simple,
        special_ops=lanes.special,
        vector_elements=streamed_elements(call, read_bytes, write_bytes),
        reduction_bytes=min(reduction_bytes, sum(read_bytes)),
        random_accesses=random_accesses,
        random_access_bytes=random_access_bytes if random_accesses else 0,
        serial_steps=serial_steps,
    )
    return (
        Description(
            kind=kind,
            work=work,
            read_bytes=read_bytes,
            write_bytes=write_bytes,
            outputs=tuple(range(len(call.outputs))) if outputs is None else outputs,
            exact=exact,
        ),
    )


def on_tensor_cores(
    call: Call,
    kind: OperatorKind,
    products: tuple[Product, ...],
    *,
    epilogue: Lanes = Lanes(),  # noqa: B008 (an immutable value)
    epilogue_elements: int = 0,
    reads: Mapping[int, int] | None = None,
    chained: bool = False,
    serial_steps: int = 0,
) -> tuple[Description, ...]:
    """Describe a call whose main work is matrix products.

    Args:
        call: the call.
        kind: what it does.
        products: its matrix products; those of no FLOPs are left out.
        epilogue: lane operations in all.
        epilogue_elements: elements streamed through the lanes.
        reads: positional argument -> bytes touched, where that is not everything once.
        chained: the products hand their results on inside the core complex.
        serial_steps: dependent steps.
    """
    work = Work(
        products=tuple(p for p in products if p.flops),
        chained=chained,
        simple_ops=epilogue.simple,
        special_ops=epilogue.special,
        vector_elements=epilogue_elements,
        serial_steps=serial_steps,
    )
    return (
        Description(
            kind=kind,
            work=work,
            read_bytes=touched_reads(call, reads),
            write_bytes=touched_writes(call),
            outputs=tuple(range(len(call.outputs))),
        ),
    )


def matrix_product(
    *, batch: int = 1, m: int, n: int, k: int, element_bytes: int, a: int | None = None, b: int | None = None
) -> Product:
    """A plain product; `a`, `b` are the distinct elements of an operand where they are shared across the batch."""
    return Product(
        batch=batch,
        m=m,
        n=n,
        k=k,
        a_elements=batch * m * k if a is None else min(a, batch * m * k),
        b_elements=batch * k * n if b is None else min(b, batch * k * n),
        c_elements=batch * m * n,
        element_bytes=element_bytes,
    )


def same_rule(rule: Rule, *packets: str) -> dict[str, Rule]:
    """The same rule under several names."""
    return dict.fromkeys(packets, rule)
