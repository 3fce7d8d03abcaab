"""Autocast rules of the fake accelerator: the same operators in low precision and in float32 as on CUDA.

Lists: torch 2.13 documentation, "Automatic Mixed Precision package", section "CUDA Op-Specific Behavior" (read 2025).
Names here are ATen's; Python-only functions of that list (`normalize`, `LSTMCell`, ...) call these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

_KEY = "AutocastPrivateUse1"

LOW_PRECISION = ["addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot", "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input", "linear", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "matmul", "mm", "mv", "einsum", "prelu", "scaled_dot_product_attention"]

FULL_PRECISION = ["acos", "asin", "cosh", "sinh", "tan", "erfinv", "exp", "expm1", "log", "log10", "log1p", "log2", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "reciprocal", "rsqrt", "softplus", "cumprod", "cumsum", "prod", "prod.dim_int", "sum", "sum.dim_IntList", "norm.Scalar", "norm.ScalarOpt_dim", "linalg_vector_norm", "dist", "cdist", "pdist", "renorm", "cosine_similarity", "layer_norm", "group_norm", "softmax.int", "log_softmax.int", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss", "multi_margin_loss", "multilabel_margin_loss", "nll_loss", "nll_loss_nd", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss", "triplet_margin_loss"]

WIDEST = ["addcdiv", "addcmul", "atan2", "bilinear", "dot", "vdot", "grid_sampler", "index_put", "scatter_add", "tensordot", "cat", "stack", "linalg_cross"]


def register_autocast(library: torch.library.Library) -> tuple[torch.library.Library, ...]:
    """Register the rules; everything else falls through. Keep what is returned alive."""
    fallthrough = torch.library.Library("_", "IMPL")
    fallthrough.fallback(torch.library.fallthrough_kernel, _KEY)
    for names, target in ((LOW_PRECISION, _low_precision), (FULL_PRECISION, _full_precision), (WIDEST, _widest)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
            if operator is not None:
                library.impl(name, _kernel(operator, target), _KEY)
    return (fallthrough,)


def _low_precision(tensors: list[torch.Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype("accel")


def _full_precision(tensors: list[torch.Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: list[torch.Tensor]) -> torch.dtype:
    dtype = torch.get_autocast_dtype("accel")
    return torch.float32 if any(tensor.dtype == torch.float32 for tensor in tensors) else dtype


def _kernel(operator: Any, target: Callable[[list[torch.Tensor]], torch.dtype]) -> Callable[..., Any]:
    """A kernel that casts the eligible arguments and calls on below autocast."""
    excluded = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

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
