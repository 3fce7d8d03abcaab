"""Optimizers by name, and running one as it runs on an accelerator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import optimizer as torch_optimizer

from worklode.errors import CaptureError, Fault

LEARNING_RATE = 1e-3
"""Assumption: any value, the graph does not depend on it."""

MOMENTUM = 0.9
"""The usual value; only whether it is zero shapes the graph."""

_CLASSES: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {
    "sgd": (torch.optim.SGD, {}),
    "sgd-momentum": (torch.optim.SGD, {"momentum": MOMENTUM}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
}


def make_optimizer(choice: str | Callable[..., Any], parameters: list[torch.nn.Parameter], where: str) -> Any:
    """The optimizer of a name, or what the user's callable makes of the parameters.

    Raises:
        CaptureError: what the callable returns has no `step`, or one that needs a closure.
    """
    optimizer = _named(choice, parameters) if isinstance(choice, str) else choice(parameters)
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
    if _needs_closure(optimizer):
        raise CaptureError(
            Fault(
                where=where,
                path="optimizer",
                value=type(optimizer).__name__,
                problem="its step needs a closure that runs forward and backward again, as often as the values ask for",
                allowed="an optimizer whose step() takes the gradients of one backward pass",
            )
        )
    return optimizer


def _needs_closure(optimizer: Any) -> bool:
    """Whether `step` cannot be called without arguments (LBFGS)."""
    try:
        inspect.signature(optimizer.step).bind()
    except TypeError:
        return True
    except ValueError:  # no signature to be had
        return False
    return False


def _named(name: str, parameters: list[torch.nn.Parameter]) -> Any:
    """An optimizer by name, in its fused form; that one refuses sparse gradients and complex parameters."""
    make, options = _CLASSES[name]
    fused = not any(p.is_complex() or (p.grad is not None and p.grad.layout is not torch.strided) for p in parameters)
    return make(parameters, lr=LEARNING_RATE, fused=fused, **options)


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
