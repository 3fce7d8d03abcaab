"""The real step on a CPU, its matrix products counted by torch's own counter where that is right.

What it does not count, or not as a GPU runs it, is counted here: weight gradients of grouped convolutions (torch's
formula leaves `groups` out), products it has no formula for (matrix and vector, experts' grouped products, bilinear
layers, affine grids), and the
scores that fused attention computes again in backward (the CPU keeps them).
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any, allow-untyped-calls
from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .entry import Build

aten = torch.ops.aten


class Counted(NamedTuple):
    """Parameters and matrix FLOPs of a real step; `recomputed` is the share of backward that attention does again."""

    parameters: int
    trainable: int
    forward: int
    backward: int


class Counter(TorchDispatchMode):
    """Sums torch's formulas over the operators that run.

    `FlopCounterMode` itself raises where autograd.grad runs inside forward (its module hooks), so only its formulas,
    `flop_registry`, are used; `test_modules` compares the two where both run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.corrected = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in OWN:
            self.corrected = True
            self.total += OWN[packet](*args)
        elif packet in flop_counter.flop_registry:
            self.total += flop_counter.flop_registry[packet](*args, **kwargs, out_val=result)
        return result


def convolution_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, biases: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, wanted: list[bool],
) -> int:  # fmt: skip
    """Every weight meets every pixel of the smaller side once, in forward and in both gradients."""
    pixels = x if transposed else gradient
    each: int = 2 * weight.numel() * pixels.shape[0] * prod(pixels.shape[2:])
    return each * (wanted[0] + wanted[1])


def affine_grid(theta: Tensor, size: Any, *rest: Any) -> int:
    """A product of the homogeneous places [places, 3] with every sample's matrix [3, 2], one dimension more in 3-D."""
    samples, rows, columns = theta.shape
    return 2 * samples * prod(size[2:]) * columns * rows


def trilinear(a: Tensor, b: Tensor, c: Tensor, *expand: Any) -> int:
    """A sum over products of three factors, run as matrix products: a multiplication and an addition per term."""
    shapes = [reduce(Tensor.unsqueeze, dims, factor).shape for factor, dims in zip((a, b, c), expand, strict=False)]
    return 2 * prod(map(max, zip(*shapes, strict=True)))


OWN: dict[Any, Any] = {
    aten.convolution_backward: convolution_gradients,
    aten.affine_grid_generator: affine_grid,
    aten._trilinear: trilinear,
    aten._grouped_mm: lambda a, b, *rest: 2 * a.numel() * b.shape[-1],
    aten.mv: lambda a, x: 2 * a.numel(),
    aten.addmv: lambda y, a, x: 2 * a.numel(),
    aten.dot: lambda a, b: 2 * a.numel(),
}


class Attentions:
    """Scores that a fused attention computes a second time in backward [FLOPs]: 2·B·H·Sq·Sk·D per call."""

    def __init__(self) -> None:
        self.again = 0
        self._kept = nn.functional.scaled_dot_product_attention

    def __enter__(self) -> Attentions:
        def counted(query: Tensor, key: Tensor, *rest: Any, **named: Any) -> Tensor:
            if query.dim() == 4 and torch.is_grad_enabled():
                self.again += 2 * query.numel() * key.shape[-2]
            return self._kept(query, key, *rest, **named)

        nn.functional.scaled_dot_product_attention = counted
        return self

    def __exit__(self, *error: object) -> None:
        nn.functional.scaled_dot_product_attention = self._kept


def default_loss(output: Any) -> Tensor:
    """The loss of the workload contract: itself, `.loss`, ["loss"], or the mean of the first tensor."""
    if isinstance(output, Tensor):
        return output.mean()
    found = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if found is not None:
        return found
    first: Tensor = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return first.mean()


def run(module: nn.Module, inputs: Any, loss: Any) -> Tensor:
    """Forward and loss."""
    if isinstance(inputs, dict):
        output = module(**inputs)
    else:
        output = module(*inputs) if isinstance(inputs, tuple) else module(inputs)
    return loss(output) if loss is not None else default_loss(output)


def real_step(build: Build, steps: int = 1) -> Counted:
    """Run forward and backward on real tensors `steps` times, and count.

    Attention is written out and mkldnn off, so that recurrent cells and attention are products that can be counted.
    """
    module, inputs, *rest = build()
    module.train()
    parameters = list(module.parameters())
    forward = backward = 0
    written_out, cells = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
    eager = torch.compiler.set_stance("force_eager")
    with eager, written_out, cells, Attentions() as attentions, Counter() as counter:
        for _ in range(steps):
            value = run(module, inputs, rest[0] if rest else None)
            forward += counter.total
            counter.total, again = 0, attentions.again
            attentions.again = 0
            value.backward()
            backward += counter.total + again
            counter.total = 0
    return Counted(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        forward=forward,
        backward=backward,
    )
