"""A fake accelerator, `accel`, on CPU-only torch: fake tensors on it choose the operators a GPU would choose.

It is torch's PrivateUse1 device with the pure-Python backend (a private interface, hence the pinned torch release). A
process can register it once; where another backend holds the place, fake `cpu` tensors stand in.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch._dynamo.config  # fake tensors import it at their first use; here it is left out of collections
from torch import _meta_registrations
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from worklode.frontend.autocast import register_autocast

ACCELERATOR = "accel"
_UNNAMED_BACKEND = "privateuseone"

_WHOLE = ("_fused_rms_norm", "silu_backward", "mish_backward")
"""Operators that are one kernel on a GPU and that torch takes apart on a device without one."""

_libraries: list[Any] = []
"""Registrations live as long as these objects do."""


class _Backend(_DummyBackendModule):  # type: ignore[no-any-unimported, misc, unused-ignore]
    """What torch asks of a device module (`torch.accel`)."""

    _initialized = False  # torch.utils.checkpoint then leaves the device's random state alone

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class AcceleratorFakeMode(FakeTensorMode):
    """Fake tensors on the accelerator.

    `deepcopy` of a fake parameter would copy its mode and corrupt the process, so the mode copies to itself.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True, allow_fallback_kernels=False)

    @property
    def avoid_device_init(self) -> bool:
        """True: there is no device to initialise, though the Python backend says it is available."""
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> AcceleratorFakeMode:
        return self


@cache
def accelerator() -> torch.device:
    """The device that captures run on, registered at first use: `accel:0`, or `cpu` where that cannot be had."""
    name = torch._C._get_privateuse1_backend_name()
    if name == _UNNAMED_BACKEND:
        _setup_privateuseone_for_python_backend(ACCELERATOR, backend_module=_Backend())
        _register_operators()
    elif name != ACCELERATOR:
        return torch.device("cpu")
    return torch.device(ACCELERATOR, 0)


def _register_operators() -> None:
    library: Any = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    library.impl("scaled_dot_product_attention", _attention, "AutogradPrivateUse1")
    for whole in _WHOLE:
        library.impl(whole, _never_run, "PrivateUse1")
    library.impl("_thnn_fused_gru_cell", _gru_cell, "Meta")
    library.impl("_thnn_fused_gru_cell_backward", _gru_cell_backward, "Meta")
    library.impl("_grouped_mm", _grouped_product, "Meta", allow_override=True)
    _libraries.extend(register_autocast(library))


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention as one operator forward and one backward, as flash attention runs it; of the mask only shape counts.

    Where there is no head dimension GPUs have no fused kernel either, and torch writes the products out.
    """
    if query.dim() != 4:
        written_out = torch.ops.aten._scaled_dot_product_attention_math
        parts = written_out(
            query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )
        return parts[0]  # type: ignore[no-any-return]
    mask = None if attn_mask is None else attn_mask.expand(*query.shape[:-1], key.shape[-2])
    fused = torch.ops.aten._scaled_dot_product_fused_attention_overrideable
    result: torch.Tensor = fused(query, key, value, mask, dropout_p, is_causal, scale=scale)[0]
    return result


def _never_run(*args: object) -> None:
    """Kernel of an operator that torch takes apart on devices without one: having it keeps the operator whole.

    RMS norm is then one operator forward and one backward that keep the input and a number per row, as on a GPU; the
    gradients of SiLU and Mish recompute the sigmoid inside. Fake tensors find the shapes on meta, so the kernel itself
    is never reached.
    """
    raise AssertionError("an operator ran on the fake accelerator")


def _grouped_product(
    a: torch.Tensor,
    b: torch.Tensor,
    offsets: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Shape of `_grouped_mm` in every precision: torch's own rule knows bfloat16 only, its kernels take others too."""
    known = torch.bfloat16
    made = _meta_registrations.meta_grouped_mm(a.to(known), b.to(known), offsets, bias, known)
    return made.to(out_dtype or a.dtype)


def _empty(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return like.new_empty(shape or like.shape)


def _gru_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    hidden: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes of `_thnn_fused_gru_cell` (torch has no meta kernel): new state [B, H] and workspace [B, 5H]."""
    batch, width = hidden.shape
    return _empty(hidden), _empty(hidden, batch, 5 * width)


def _gru_cell_backward(grad: torch.Tensor, workspace: torch.Tensor, has_bias: bool) -> tuple[torch.Tensor | None, ...]:
    """Shapes of its backward: both gate gradients [B, 3H], the state's [B, H], both bias gradients [3H]."""
    batch, width = grad.shape
    biases = [_empty(grad, 3 * width) if has_bias else None for _ in range(2)]
    return _empty(grad, batch, 3 * width), _empty(grad, batch, 3 * width), _empty(grad), *biases


class Fakes:
    """Turns real and meta tensors into fake tensors on the accelerator; equal tensors and shared storages stay shared.

    Nothing is allocated: the fake's element is a meta tensor, and the values of a real tensor are dropped.
    """

    def __init__(self, mode: AcceleratorFakeMode, device: torch.device) -> None:
        self._mode = mode
        self._device = device
        self._converted: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake tensor standing for `tensor`, made at first sight; a parameter becomes a parameter."""
        if isinstance(tensor, FakeTensor):
            return tensor
        known = self._converted.get(id(tensor))
        if known is None:
            known = (tensor, self._make(tensor))
            self._converted[id(tensor)] = known
        return known[1]

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            element = tensor.detach() if tensor.is_meta else self._on_meta(tensor)
            fake: torch.Tensor = FakeTensor(self._mode, element, self._device)
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake.requires_grad_() if tensor.requires_grad else fake

    def _on_meta(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        known = self._storages.get(storage._cdata)
        if known is None:
            known = (storage, torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta").untyped_storage())
            self._storages[storage._cdata] = known
        empty = torch.empty(0, dtype=tensor.dtype, device="meta")
        return empty.set_(known[1], tensor.storage_offset(), tensor.size(), tensor.stride())


def make_module_fake(module: torch.nn.Module, fakes: Fakes) -> None:
    """Replace every parameter, buffer and plain tensor attribute of `module` and its children; ties are kept."""
    for child in module.modules():
        for tensors in (child._parameters, child._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fakes(tensor)  # type: ignore[assignment]
        for name, value in list(vars(child).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                converted = _convert(value, fakes)
                if converted is not value:
                    object.__setattr__(child, name, converted)
        if isinstance(child, torch.nn.RNNBase):
            child._flat_weights = [child._parameters.get(name) for name in child._flat_weights_names]


def _convert(value: object, fakes: Fakes) -> object:
    """A tensor, or a list, tuple or dict of them one level deep, made fake; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return fakes(value)
    if type(value) in (list, tuple) and any(isinstance(item, torch.Tensor) for item in value):  # type: ignore[attr-defined]
        return type(value)(_convert(item, fakes) for item in value)  # type: ignore[call-arg, attr-defined]
    if type(value) is dict and any(isinstance(item, torch.Tensor) for item in value.values()):
        return {key: _convert(item, fakes) for key, item in value.items()}
    return value
