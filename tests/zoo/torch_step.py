"""The same training step told by torch alone: its FLOP counter on meta tensors, and autograd's hooks of saved tensors.

Nothing of the recorder, the operator table or the lowering takes part; for saved tensors the fake device does, since
which operators run, and so what they keep, depends on the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from worklode.frontend import zoo
from worklode.frontend.devices import OneDevice
from worklode.frontend.fake_device import AcceleratorFakeMode, Fakes, accelerator, make_module_fake


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchStep:
    """What torch says of one step.

    Attributes:
        forward_flops, backward_flops: FLOPs of matrix products and convolutions, loss included in forward.
        scores_flops: FLOPs of the products query times key of all attention calls, which a backward that kept no
            scores (flash attention, arXiv 2205.14135, section 3.1) computes once more.
        saved_bytes: sizes of the distinct storages autograd keeps for backward [bytes], with their number; without
            those that exist before the step (parameters, buffers, inputs, targets).
    """

    forward_flops: int
    backward_flops: int
    scores_flops: int
    saved_bytes: Counter[int]


def torch_step(name: str) -> TorchStep:
    """A zoo model's default step."""
    forward, backward, scores = _counted_flops(name)
    return TorchStep(
        forward_flops=forward, backward_flops=backward, scores_flops=scores, saved_bytes=_saved_storages(name)
    )


# -------------------------------------------------------------------------------------------------------- FLOPs


def _counted_flops(name: str) -> tuple[int, int, int]:
    """Forward, backward and attention's score products; on meta, torch writes attention and LSTM cells out."""
    own_formulas = {
        torch.ops.aten.convolution_backward: _convolution_backward_flops,
        torch.ops.aten.mv: _matrix_vector_flops,
    }
    with torch.device("meta"), torch.autograd.set_multithreading_enabled(False):
        module, inputs, loss, _ = zoo.function(name)()
        module.train()
        with _ScoreProducts() as scores, FlopCounterMode(display=False, custom_mapping=own_formulas) as counter:
            value = loss(_run(module, inputs))
            forward = counter.get_total_flops()
            value.backward()
    return forward, counter.get_total_flops() - forward, scores.flops


def _convolution_backward_flops(
    gradient: tuple[int, ...],
    x: tuple[int, ...],
    weight: tuple[int, ...],
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    output_padding: object,
    groups: int,
    output_mask: tuple[bool, bool, bool],
    **_: object,
) -> int:
    """Either gradient takes the multiplications of forward, N·C_out·OH·OW·(C_in/g)·KH·KW, once more.

    torch 2.13's own formula forgets the groups in the weight gradient (backward 13 times too much for MobileNetV3).
    """
    assert not transposed  # another formula, and no model of the zoo has one
    samples, channels, *places = gradient
    forward = 2 * samples * channels * prod(places) * prod(weight[1:])
    return forward * sum(output_mask[:2])


def _matrix_vector_flops(matrix: tuple[int, int], vector: tuple[int], **_: object) -> int:
    """torch's counter does not know `aten.mv`, the last step of GNMT's attention scores."""
    return 2 * prod(matrix)


class _ScoreProducts(TorchFunctionMode):
    """Sums 2·batch·heads·queries·keys·width over the calls of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            query, key = args[:2]
            self.flops += 2 * query.numel() * key.shape[-2]
        return func(*args, **(kwargs or {}))


# ------------------------------------------------------------------------------------------------ saved tensors


def _saved_storages(name: str) -> Counter[int]:
    """Sizes of storages that autograd's own hooks see packed during forward and loss, on the fake device in bf16."""
    device = accelerator()
    with OneDevice("meta"):
        module, inputs, loss, _ = zoo.function(name)()
        module.train().to(torch.bfloat16)
    mode = AcceleratorFakeMode()
    fakes = Fakes(mode, device)
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that its address stays its own
        return tensor

    def to_input(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        fake = fakes(leaf)
        return fake.to(torch.bfloat16) if fake.is_floating_point() else fake

    outside = _FromOutside(fakes)
    with mode, OneDevice(device):
        make_module_fake(module, fakes)
        inputs = tree_map(to_input, inputs)
        with outside, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss(_run(module, inputs))
        before = _storages((*module.parameters(), *module.buffers(), *tree_leaves(inputs), *outside.seen))
        del value
    return Counter(storage.nbytes() for key, storage in kept.items() if key not in before and storage.nbytes())


class _FromOutside(TorchDispatchMode):
    """Makes fake what a loss holds of its own (targets) when it first meets an operator."""

    def __init__(self, fakes: Fakes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []
        self._fakes = fakes

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(self._to_fake, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _to_fake(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or isinstance(leaf, FakeTensor):
            return leaf
        self.seen.append(self._fakes(leaf))
        return self.seen[-1]


def _storages(tensors: Iterable[Any]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors if isinstance(tensor, Tensor)}


def _run(module: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)
