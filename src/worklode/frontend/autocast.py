"""Autocast rules of the fake accelerator: the same operators in low precision and in float32 as on CUDA.

Source: torch 2.13, `ATen/autocast_mode.h`, the operator lists shared by all devices. Kernels cast their arguments and
call on; where torch would ask a reduction for a float32 result instead, the cast is an operator of its own here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_map

_KEY = "AutocastPrivateUse1"
_GPUS = ("cuda", "xpu")

LOW_PRECISION = """
    convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input conv_transpose3d.input prelu
    addmm addmv addr matmul einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot
    _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    scaled_dot_product_attention
"""
"""AT_FORALL_LOWER_PRECISION_FP."""

FULL_PRECISION = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar pow.Tensor_Tensor
    pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim nuclear_norm
    nuclear_norm.dim cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss
    kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss
    triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp
    upsample_nearest1d _upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d
    upsample_bicubic2d _upsample_bicubic2d_aa
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
    linalg_matrix_norm.str_ord sum sum.dim_IntList norm.Scalar norm.ScalarOpt_dim
"""
"""AT_FORALL_FP32, AT_FORALL_FP32_SET_OPT_DTYPE and AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE."""

RECURRENT = "lstm.input lstm.data gru.input gru.data rnn_tanh.input rnn_tanh.data rnn_relu.input rnn_relu.data"
"""Whole recurrent layers: CUDA runs them in cuDNN, whose autocast rule (`ATen/cudnn/AutocastRNN.cpp`) converts inputs,
states and weights once per call; below it the cells would convert a weight at every time step."""

WIDEST = "addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add"
"""AT_FORALL_PROMOTE."""


def register_autocast(library: Any) -> tuple[Any, ...]:
    """Register the rules; everything else falls through. Keep what is returned alive."""
    fallthrough: Any = torch.library.Library("_", "IMPL")
    fallthrough.fallback(torch.library.fallthrough_kernel, _KEY)
    for names, target in (
        (LOW_PRECISION, _low_precision),
        (RECURRENT, _low_precision),
        (FULL_PRECISION, _full_precision),
        (WIDEST, _widest),
    ):
        for name in names.split():
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
            if operator is not None:
                library.impl(name, _kernel(operator, target), _KEY)
    return (fallthrough,)


@contextmanager
def autocast_of_gpus(device: str) -> Iterator[None]:
    """`torch.autocast("cuda")` in user code acts on type `device`, with the type that GPUs default to.

    Without CUDA torch would warn and switch such a region off. One for `cpu` is left alone: on a GPU it has no effect.
    """
    region = torch.amp.autocast_mode.autocast
    enter = region.__init__

    def redirected(self: Any, device_type: str, dtype: torch.dtype | None = None, *rest: Any, **named: Any) -> None:
        if device_type in _GPUS:
            dtype = torch.get_autocast_dtype(device_type) if dtype is None else dtype
            device_type = device
        enter(self, device_type, dtype, *rest, **named)

    region.__init__ = redirected  # type: ignore[method-assign]
    try:
        yield
    finally:
        region.__init__ = enter  # type: ignore[method-assign]


def _low_precision(tensors: list[torch.Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype("accel")


def _full_precision(tensors: list[torch.Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: list[torch.Tensor]) -> torch.dtype:
    dtype = torch.get_autocast_dtype("accel")
    return torch.float32 if any(tensor.dtype == torch.float32 for tensor in tensors) else dtype


def _kernel(operator: Any, target: Callable[[list[torch.Tensor]], torch.dtype]) -> Callable[..., Any]:
    """A kernel that casts the eligible arguments and calls on below autocast."""
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))

    def run(*args: Any, **kwargs: Any) -> Any:
        tensors: list[torch.Tensor] = []
        tree_map(lambda leaf: tensors.append(leaf) if _eligible(leaf) else None, (args, kwargs))
        dtype = target(tensors)

        def cast(leaf: object) -> object:
            return cached_cast(leaf, dtype) if _eligible(leaf) and leaf.dtype != dtype else leaf  # type: ignore[attr-defined, arg-type]

        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return operator(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run


def _eligible(leaf: object) -> bool:
    """Autocast leaves integers and doubles alone."""
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64


class CastCache:
    """Casts of parameters, kept for one forward pass as torch's autocast does: a weight is converted once."""

    def __init__(self) -> None:
        self._casts: dict[tuple[int, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def clear(self) -> None:
        """Forget all casts: at the end of the autocast region."""
        self._casts.clear()

    def cast(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`tensor` in `dtype`, remembered where it is a float32 leaf that needs a gradient."""
        cacheable = (
            tensor.requires_grad and tensor.is_leaf and tensor.dtype == torch.float32 and torch.is_grad_enabled()
        )
        if not cacheable:
            return tensor.to(dtype)
        key = (id(tensor), dtype)
        known = self._casts.get(key)
        if known is None:
            known = (tensor, tensor.to(dtype))
            self._casts[key] = known
        return known[1]


CAST_CACHE = CastCache()
"""Process-wide, as torch's own; the capture clears it around every forward pass."""


def cached_cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast through the cache of the running capture."""
    return CAST_CACHE.cast(tensor, dtype)
