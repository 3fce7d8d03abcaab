"""From a dispatched operator to a `Call`: schema defaults filled in, tensors replaced by their metadata.

The recorder needs the real tensors beside the call, in the same order: `record_call` returns them. Multi-tensor
operators (`_foreach_add_`, `_fused_adamw_`) are first taken apart with `exploded`: one call per parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch._ops import OpOverload

from worklode.frontend.call import Call, TensorMeta

# Operators that write an argument though their schema does not say so: running statistics of batch norms in training.
_UNDECLARED_WRITES: dict[str, tuple[int, int, int]] = {
    "native_batch_norm": (3, 4, 5),
    "cudnn_batch_norm": (3, 4, 5),
    "miopen_batch_norm": (3, 4, 5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    """What `to_call` needs of a schema.

    Attributes:
        name: `aten.add.Tensor`.
        positional, keywords: (name, default).
        written: places of arguments (keywords counted on) that are written and not returned.
        undeclared: places of two arguments written without notice, and of the flag that says so.
    """

    name: str
    positional: tuple[tuple[str, object], ...]
    keywords: tuple[tuple[str, object], ...]
    written: tuple[int, ...]
    undeclared: tuple[int, int, int] | None


@cache
def _signature(func: OpOverload) -> _Signature:
    schema = func._schema
    returned = {name for r in schema.returns if r.alias_info is not None for name in r.alias_info.before_set}
    positional: list[tuple[str, object]] = []
    keywords: list[tuple[str, object]] = []
    written: list[int] = []
    for index, argument in enumerate(schema.arguments):
        default = _plain(argument.default_value)
        (keywords if argument.kwarg_only else positional).append((argument.name, default))
        alias = argument.alias_info
        if alias is not None and alias.is_write and not (alias.before_set & returned):
            written.append(index)
    namespace, packet = schema.name.split("::")
    return _Signature(
        name=f"{namespace}.{packet}.{schema.overload_name or 'default'}",
        positional=tuple(positional),
        keywords=tuple(keywords),
        written=tuple(written),
        undeclared=_UNDECLARED_WRITES.get(packet) if namespace == "aten" else None,
    )


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@lru_cache(maxsize=1 << 16)
def _meta(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> TensorMeta:
    return TensorMeta(shape=shape, strides=strides, dtype=_dtype_name(dtype), element_bytes=dtype.itemsize)


def tensor_meta(tensor: torch.Tensor) -> TensorMeta:
    """Metadata of a tensor. A sparse one is described by its values: (entries, dense dimensions...)."""
    if tensor.layout is not torch.strided:
        tensor = tensor._values()
    return _meta(tuple(map(int, tensor.shape)), tuple(map(int, tensor.stride())), tensor.dtype)


def _plain(value: object) -> object:
    """A value as it stands in a `Call`: hashable, free of torch."""
    if value is None or isinstance(value, bool | int | float | str | complex):
        return value
    if isinstance(value, torch.Tensor):
        return tensor_meta(value)
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if isinstance(value, torch.SymInt):
        return int(value)
    if isinstance(value, torch.SymFloat):
        return float(value)
    if isinstance(value, torch.SymBool):
        return bool(value)
    return str(value).removeprefix("torch.")


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """Tensors inside nested lists and tuples, depth first."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)


def record_call(
    func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object], result: object
) -> tuple[Call, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """The call, and the real tensors behind `Call.inputs` and `Call.outputs`.

    Args:
        func: the operator dispatched.
        args: positional arguments as a `TorchDispatchMode` gets them; a list may be given as one of its elements
            (see `exploded`).
        kwargs: keyword arguments likewise.
        result: what the operator returned.
    """
    signature = _signature(func)
    passed = len(args)
    values = [
        args[i] if i < passed else kwargs.get(name, default) for i, (name, default) in enumerate(signature.positional)
    ]
    named = [kwargs.get(name, default) for name, default in signature.keywords]
    inputs = (*tensors_of(values), *tensors_of(named))
    returned = result if isinstance(result, tuple | list) else () if result is None else (result,)
    flat: list[torch.Tensor | None] = []
    for item in returned:
        if isinstance(item, list | tuple):
            flat.extend(tensors_of(item))
        else:
            flat.append(item if isinstance(item, torch.Tensor) else None)
    for index in signature.written:
        flat.extend(tensors_of((values + named)[index]))
    if signature.undeclared is not None and values[signature.undeclared[2]]:
        for index in signature.undeclared[:2]:
            flat.extend(tensors_of(values[index]))
    results = tuple(None if t is None else tensor_meta(t) for t in flat)
    call = Call(
        name=signature.name,
        args=tuple(_plain(v) for v in values),
        kwargs=tuple((name, _plain(v)) for (name, _), v in zip(signature.keywords, named, strict=True)),
        results=results,
        inputs=tuple(tensor_meta(t) for t in inputs),
        outputs=tuple(r for r in results if r is not None),
    )
    return call, inputs, tuple(t for t in flat if t is not None)


def to_call(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object], result: object) -> Call:
    """The call alone; see `record_call`."""
    return record_call(func, args, kwargs, result)[0]


def is_multi_tensor(func: OpOverload) -> bool:
    """Whether an operator works on lists of tensors, one entry per parameter."""
    return (
        func._schema.name.startswith(("aten::_foreach_", "aten::_fused_"))
        and func._schema.arguments[0].type.kind() == "ListType"
    )


def exploded(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], Any]]:
    """Arguments and result of a multi-tensor operator, once per entry of its lists.

    An empty list (`max_exp_avg_sqs` without amsgrad) becomes None; a list of numbers is taken apart too.
    """
    count = len(args[0])

    def entry(value: Any, index: int) -> Any:
        if isinstance(value, list | tuple):
            return value[index] if len(value) == count else None
        return value

    for index in range(count):
        yield (
            tuple(entry(v, index) for v in args),
            {name: entry(v, index) for name, v in kwargs.items()},
            entry(result, index),
        )
