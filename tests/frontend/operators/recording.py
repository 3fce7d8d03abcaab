"""Calls out of real dispatches, for the tests of the operator table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from worklode.frontend.call import Call, Description
from worklode.frontend.operators import describe
from worklode.frontend.to_call import exploded, is_multi_tensor, to_call

aten = torch.ops.aten


class Dispatches(TorchDispatchMode):
    """Writes down every operator dispatched, multi-tensor ones once per tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if is_multi_tensor(func):
            for one in exploded(func, args, kwargs, result):
                self.calls.append(to_call(func, *one))
        else:
            self.calls.append(to_call(func, args, kwargs, result))
        return result


def dispatched(step: Callable[[], object]) -> list[Call]:
    """Every call that running `step` makes."""
    mode = Dispatches()
    with mode:
        step()
    return mode.calls


def call_of(func: Any, *args: Any, **kwargs: Any) -> Call:
    """The call of one operator, run on its arguments (on the meta device nothing is computed)."""
    return to_call(func, args, kwargs, func(*args, **kwargs))


def descriptions_of(func: Any, *args: Any, **kwargs: Any) -> tuple[Description, ...]:
    """What the table says of one operator run on its arguments."""
    return describe(call_of(func, *args, **kwargs))


def described(func: Any, *args: Any, **kwargs: Any) -> Description:
    """The same where it is one description."""
    (description,) = descriptions_of(func, *args, **kwargs)
    return description


def counted_flops(func: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs torch's own counter gives the operator."""
    return int(flop_registry[func._overloadpacket](*args, out_val=func(*args, **kwargs), **kwargs))


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")
