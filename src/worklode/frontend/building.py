"""Making the user's module without its weights: on meta, or with only the parameters on meta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from worklode.errors import CaptureError
from worklode.frontend.devices import OneDevice
from worklode.frontend.faults import step_fault
from worklode.frontend.workload import Ingredients, Workload, check_ingredients

CAST_TO = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "amp": torch.float32}


def build(workload: Workload, dtype: str) -> Ingredients:
    """Call the workload's function where nothing is allocated, and bring the module into training in `dtype`.

    Raises:
        CaptureError: the function raised, or returned something else than a workload.
    """
    try:
        returned = _call_without_weights(workload.make)
    except Exception as error:
        raise step_fault(
            error, where=workload.name, doing="the workload function", user_file=workload.user_file
        ) from error
    ingredients = check_ingredients(workload, returned)
    try:
        _settle_lazy_parameters(ingredients)
        with OneDevice("meta"):
            _convert(ingredients.module.train(), CAST_TO[dtype])
    except Exception as error:
        raise step_fault(
            error, where=workload.name, doing="preparing the module", user_file=workload.user_file
        ) from error
    return ingredients


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Parameters and buffers in `dtype`: the real ones, since `Module.to` would drop the imaginary part of others."""
    for child in module.modules():
        if isinstance(child, nn.DataParallel):
            child.device_ids = []  # one device: it then calls the module inside
    module._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def copy_without_weights(module: nn.Module) -> nn.Module:
    """A copy of a live module whose parameters and buffers are on meta: the module itself is left as it is.

    Raises:
        CaptureError: the module cannot be copied.
    """
    memo: dict[int, Any] = {}
    attributes = [value for child in module.modules() for value in vars(child).values()]
    for tensor in (*module.parameters(), *module.buffers(), *attributes):
        if not isinstance(tensor, torch.Tensor) or is_lazy(tensor):
            continue
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise step_fault(error, where=type(module).__name__, doing="copying the module") from error


@contextmanager
def without_scripting() -> Iterator[None]:
    """`torch.jit.script` returns what it is given: scripted helpers hide their operators and refuse fake tensors."""
    enabled = torch.jit._state._enabled.enabled
    torch.jit._state.disable()
    try:
        yield
    finally:
        if enabled:
            torch.jit._state.enable()


def _call_without_weights(make: Callable[[], object]) -> object:
    """Call a function on meta; where its constructors need values, only parameters are on meta."""
    try:
        with without_scripting(), OneDevice("meta"):
            return make()
    except Exception as error:
        if isinstance(error, CaptureError) or not _needs_values(error):
            raise
    with without_scripting(), _parameters_on_meta(), OneDevice("cpu"):
        return make()


def _needs_values(error: Exception) -> bool:
    """Whether an exception says that meta tensors have no values."""
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters lose their memory when a module takes them in; ties survive."""
    register = nn.Module.register_parameter
    replaced: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is None or parameter.is_meta or is_lazy(parameter):
            return
        known = replaced.get(id(parameter))
        if known is None:
            empty = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype, device="meta")
            known = (parameter, nn.Parameter(empty, requires_grad=parameter.requires_grad))
            replaced[id(parameter)] = known
        module._parameters[name] = known[1]

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _settle_lazy_parameters(ingredients: Ingredients) -> None:
    """Run forward once on meta where a module finds out its shapes at the first call."""
    module = ingredients.module
    if not any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        return
    module.to("meta")
    args, kwargs = arguments(ingredients.inputs, lambda tensor: tensor.to("meta"))
    with torch.no_grad(), OneDevice("meta"):
        module(*args, **kwargs)


def arguments(inputs: Any, convert: Callable[[torch.Tensor], torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of forward, every tensor converted."""
    from torch.utils._pytree import tree_map

    def one(leaf: Any) -> Any:
        return convert(leaf) if isinstance(leaf, torch.Tensor) else leaf

    if isinstance(inputs, torch.Tensor):
        return (one(inputs),), {}
    if isinstance(inputs, tuple | list):
        return tuple(tree_map(one, tuple(inputs))), {}
    return (), {str(name): tree_map(one, value) for name, value in inputs.items()}
