"""Results of calls met before, made again without asking torch for their shapes.

A step of a deep model repeats few distinct calls (the 96 layers of GPT-3: 20 000 calls, some hundred distinct). Torch
works the shapes out at the first; equal calls after it get fresh fake tensors of the same shapes. That takes a quarter
of the time, and the tests compare it with torch's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map

Remake = Callable[[list[torch.Tensor]], Any]
"""From the tensors among the arguments, depth first, to the result of the call."""


class ResultMaker:
    """Makes remakers for the fake tensors of one mode on one device."""

    def __init__(self, mode: FakeTensorMode, device: torch.device) -> None:
        self._mode = mode
        self._device = device

    def remake(self, *, tensors: list[torch.Tensor], result: Any, is_view: bool, mutates: bool) -> Remake | None:
        """How to make `result` again for an equal call, or None where only torch knows.

        Args:
            tensors: tensors among the arguments, depth first.
            result: what the call returned.
            is_view: the operator is one that returns views of its first argument.
            mutates: the operator writes an argument.
        """
        if not all(map(self._is_plain, tensors)):
            return None
        if mutates:
            return _first_argument if tensors and result is tensors[0] else None
        parts = list(result) if isinstance(result, tuple | list) else [result]
        if not parts or not all(part is None or self._is_plain(part) for part in parts):
            return None
        storages = {tensor.untyped_storage()._cdata for tensor in tensors}
        aliasing = [part.untyped_storage()._cdata in storages for part in parts if part is not None]
        if is_view:
            if not tensors or not _all_views_of(tensors[0], parts):
                return None
            makers = [self._view_maker(tensors[0], part) for part in parts]
        elif any(aliasing):
            return None
        else:
            makers = [self._new_maker(part) for part in parts]
        if not isinstance(result, tuple | list):
            return makers[0]
        sequence = list if isinstance(result, list) else tuple
        return lambda arguments: sequence([make(arguments) for make in makers])

    def on_device(self, arguments: Any) -> Any:
        """Arguments with stand-ins on the device for fake tensors that live elsewhere: for shapes only."""

        def one(value: Any) -> Any:
            if type(value) is not FakeTensor or value.fake_device == self._device:
                return value
            return self._new_maker(value)([])

        return tree_map(one, arguments)

    def _is_plain(self, tensor: Any) -> bool:
        """A strided fake tensor on the device, without known values or conjugation."""
        return (
            type(tensor) is FakeTensor
            and tensor.constant is None
            and tensor.layout is torch.strided
            and tensor.fake_device == self._device
            and not tensor.dtype.is_complex
        )

    def _new_maker(self, part: Any) -> Remake:
        """A fresh tensor like `part`."""
        if part is None:
            return _nothing
        mode, device = self._mode, self._device
        shape, strides, dtype = tuple(part.shape), part.stride(), part.dtype

        def make(arguments: list[torch.Tensor]) -> torch.Tensor:
            with torch._C._DisableTorchDispatch():
                element = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
                return FakeTensor(mode, element, device)

        return make

    def _view_maker(self, source: torch.Tensor, part: torch.Tensor) -> Remake:
        """A view like `part`, of whatever the first argument then is."""
        mode, device = self._mode, self._device
        shape, strides, dtype = tuple(part.shape), part.stride(), part.dtype
        step = part.storage_offset() - source.storage_offset()

        def make(arguments: list[torch.Tensor]) -> torch.Tensor:
            viewed = arguments[0]
            with torch._C._DisableTorchDispatch():
                element = torch.empty((0,), dtype=dtype, device="meta")
                element.set_(viewed.untyped_storage(), viewed.storage_offset() + step, shape, strides)
                return FakeTensor(mode, element, device)

        return make


def _all_views_of(source: torch.Tensor, parts: list[Any]) -> bool:
    """Whether every part is a view of `source` of the same element type."""
    memory = source.untyped_storage()._cdata
    return all(
        part is not None and part.dtype == source.dtype and part.untyped_storage()._cdata == memory for part in parts
    )


def _first_argument(arguments: list[torch.Tensor]) -> torch.Tensor:
    return arguments[0]


def _nothing(arguments: list[torch.Tensor]) -> None:
    return None
