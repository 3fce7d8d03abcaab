"""Optimizers by name, and running one as it runs on an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import optimizer as torch_optimizer

from worklode.errors import CaptureError, Fault

Make = Callable[[list[torch.nn.Parameter]], Any]

LEARNING_RATE = 1e-3
"""Assumption: any value, the graph does not depend on it."""

MOMENTUM = 0.9
"""The usual value; only whether it is zero shapes the graph."""

_MAKERS: dict[str, Make] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE, fused=True),
    "sgd-momentum": lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True),
}


def make_optimizer(choice: str | Callable[..., Any], parameters: list[torch.nn.Parameter], where: str) -> Any:
    """The optimizer of a name, or what the user's callable makes of the parameters.

    Raises:
        CaptureError: what the callable returns has no `step`.
    """
    optimizer = _MAKERS[choice](parameters) if isinstance(choice, str) else choice(parameters)
    if not callable(getattr(optimizer, "step", None)):
        raise CaptureError(
            Fault(
                where=where,
                path="optimizer",
                value=type(optimizer).__name__,
                problem="the optimizer callable returned no optimizer",
                allowed="a torch.optim.Optimizer, or an object with a `step` method",
            )
        )
    return optimizer


@contextmanager
def multi_tensor_allowed() -> Iterator[None]:
    """Optimizers take their multi-tensor (`foreach`) path for fake parameters, as they do for real ones on a GPU."""
    types = torch_optimizer._foreach_supported_types
    types.append(FakeTensor)
    try:
        yield
    finally:
        types.remove(FakeTensor)


def state_tensors(optimizer: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(parameter, state tensor) pairs of an optimizer that keeps torch's `state` mapping."""
    for parameter, state in getattr(optimizer, "state", {}).items():
        for value in state.values() if isinstance(state, dict) else ():
            if isinstance(value, torch.Tensor) and isinstance(parameter, torch.Tensor):
                yield parameter, value
