"""One device for everything: user code that names `cuda` or `cpu` runs on the device of the capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

_STAY = frozenset((torch.Tensor.cuda, torch.Tensor.cpu))
_PINNING = frozenset((torch.Tensor.pin_memory,))


class OneDevice(TorchFunctionMode):
    """New tensors are made on `device` whatever device is asked for, and existing ones do not move.

    A fake tensor on `cuda` would end the process on a CPU-only torch, and a meta tensor cannot be copied to `cpu`.
    """

    def __init__(
        self, device: torch.device | str, before_call: Callable[[Callable[..., Any], Any], None] | None = None
    ) -> None:
        """Take the device, and what is told of every function of torch and its first argument before it runs."""
        super().__init__()
        self.device = torch.device(device)
        self._before_call = before_call

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` with every device replaced."""
        kwargs = kwargs or {}
        if func in _STAY or func in _PINNING:
            return args[0]
        if func is torch.Tensor.to:
            return self._to(args, kwargs)
        if self._before_call is not None and args:
            self._before_call(func, args[0])
        if func is torch.Tensor.__format__ and args[1] and args[0].is_floating_point():
            return format(args[0].item(), args[1])
        if kwargs.get("device") is not None or func in _device_constructors():
            kwargs = {**kwargs, "device": self.device}
            kwargs.pop("pin_memory", None)
        return func(*args, **kwargs)

    def _to(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`tensor.to(...)` without its device: a conversion of type, or the tensor itself."""
        kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        rest = list(args[1:])
        if rest and (rest[0] is None or isinstance(rest[0], torch.device | str | int)):
            rest = rest[1:]
        if rest and isinstance(rest[0], torch.Tensor):
            rest[0] = rest[0].dtype
        if isinstance(kwargs.get("other"), torch.Tensor):
            kwargs["dtype"] = kwargs.pop("other").dtype
        asks_for_type = bool(rest and rest[0] is not None) or kwargs.get("dtype") is not None
        if not asks_for_type and not kwargs.get("copy"):
            return args[0]
        return torch.Tensor.to(args[0], *rest, **kwargs)
