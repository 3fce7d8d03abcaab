"""The slow way: the same step on a real CPU, watched by tools of torch or by a recorder of a few lines."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

MODELS_FILE = Path(__file__).parent / "small_models.py"
_ALLOCATES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh")


def load(path: Path = MODELS_FILE) -> Any:
    spec = importlib.util.spec_from_file_location("small_models_for_real_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(name: str) -> tuple[torch.nn.Module, Any, Callable[[], Any]]:
    """Module, a function that runs forward and returns the loss; the recurrent cells visible (no mkldnn)."""
    module, inputs, *rest = getattr(load(), name)()
    module.train()

    def loss() -> Any:
        if isinstance(inputs, dict):
            output = module(**inputs)
        else:
            output = module(*inputs) if isinstance(inputs, tuple) else module(inputs)
        if rest:
            return rest[0](output)
        if isinstance(output, dict):
            return output["loss"]
        return output.mean()

    return module, inputs, loss


def as_on_a_gpu() -> tuple[Any, Any]:
    """Attention and recurrent cells as matrix products the flop counter sees."""
    return sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)


def counted_flops(name: str, *, backward: bool) -> int:
    """FLOPs of forward, or of forward and backward, by torch's own counter on real tensors."""
    _, _, loss = built(name)
    attention, cells = as_on_a_gpu()
    with attention, cells, FlopCounterMode(display=False) as counter:
        value = loss()
        if backward:
            value.backward()
    return int(counter.get_total_flops())


def saved_storages(name: str) -> list[int]:
    """Bytes of the storages autograd keeps for backward, without parameters, buffers and inputs."""
    module, inputs, loss = built(name)
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    outside = [
        *module.parameters(),
        *module.buffers(),
        *(t for t in tree_leaves(inputs) if isinstance(t, torch.Tensor)),
    ]
    known = {tensor.untyped_storage().data_ptr() for tensor in outside}
    del value
    return sorted(storage.nbytes() for pointer, storage in kept.items() if pointer not in known and storage.nbytes())


class RealOperator(NamedTuple):
    name: str
    shapes: tuple[tuple[int, ...], ...]
    reads: frozenset[int]
    writes: frozenset[int]


class RealRecorder(TorchDispatchMode):
    """Operators as they run on real tensors: name, storages read, storages written. Views and allocations left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[RealOperator] = []
        self._kept: list[torch.UntypedStorage] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        reads = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        results = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        # storages, not tensors: autograd takes over a gradient only while nobody else holds it
        self._kept.extend(t.untyped_storage() for t in (*reads, *results))
        namespace, packet = func._schema.name.split("::")
        if namespace != "aten" or packet in _ALLOCATES or torch.Tag.inplace_view in func.tags:
            return result
        written = {
            id(value)
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
        }
        before = {t.untyped_storage().data_ptr() for t in reads}
        if not written and results and all(t.untyped_storage().data_ptr() in before for t in results):
            return result
        pointers = [t.untyped_storage().data_ptr() for t in reads]
        writes = {t.untyped_storage().data_ptr() for t in results} | {
            t.untyped_storage().data_ptr() for t in reads if id(t) in written
        }
        shapes = tuple(tuple(t.shape) for t in reads)
        self.operators.append(RealOperator(f"aten.{packet}", shapes, frozenset(pointers), frozenset(writes)))
        return result


def recorded(name: str, optimizer: Callable[..., Any] | None = None) -> list[RealOperator]:
    """Operators of forward and backward (and of an optimizer's second step) on real tensors."""
    module, _, loss = built(name)
    recorder = RealRecorder()
    with torch.backends.mkldnn.flags(enabled=False):
        with recorder:
            loss().backward()
        if optimizer is not None:
            stepping = optimizer([p for p in module.parameters() if p.requires_grad])
            stepping.step()
            with recorder:
                stepping.step()
    return recorder.operators
