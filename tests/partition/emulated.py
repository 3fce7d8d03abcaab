"""Tensor parallelism by hand: a small GPT on t devices, each a thread with its own weights; collectives are barriers.

Written against the papers (arXiv 1909.08053 and 2205.05198), not against the pass: every device runs ordinary modules
of its local sizes, and every collective says what it moves.
"""

# `Function.apply` is untyped.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from worklode.frontend.zoo.gpt import Gpt


@dataclass
class Group:
    """Devices that wait for one another; `moved` counts (collective, elements of the whole tensor, during backward)."""

    size: int
    moved: Counter[tuple[str, int, bool]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=60)
        self.slots: list[Tensor] = [torch.empty(0)] * self.size

    def exchange(
        self, rank: int, kind: str, x: Tensor, combine: Callable[[list[Tensor]], Tensor], whole: int, back: bool
    ) -> Tensor:
        if rank == 0:
            self.moved[kind, whole, back] += 1
        self.slots[rank] = x.detach()
        self.barrier.wait()
        result = combine(list(self.slots)).clone()
        self.barrier.wait()
        return result


@dataclass
class Device:
    """One rank of a group; `sequence`: sequence parallelism."""

    group: Group
    rank: int
    sequence: bool

    def all_reduce(self, x: Tensor, back: bool, largest: bool = False) -> Tensor:
        def combine(parts: list[Tensor]) -> Tensor:
            stacked = torch.stack(parts)
            return stacked.amax(0) if largest else stacked.sum(0)

        return self.group.exchange(self.rank, "all_reduce", x, combine, x.numel(), back)

    def all_gather(self, x: Tensor, back: bool) -> Tensor:
        whole = x.numel() * self.group.size
        return self.group.exchange(self.rank, "all_gather", x, lambda parts: torch.cat(parts, 1), whole, back)

    def reduce_scatter(self, x: Tensor, back: bool) -> Tensor:
        def combine(parts: list[Tensor]) -> Tensor:
            return torch.stack(parts).sum(0).chunk(self.group.size, 1)[self.rank]

        return self.group.exchange(self.rank, "reduce_scatter", x, combine, x.numel(), back)

    def collect(self, x: Tensor, back: bool) -> Tensor:
        """Partial sums to what the norms and residuals work on."""
        return self.reduce_scatter(x, back) if self.sequence else self.all_reduce(x, back)

    def spread(self, x: Tensor, back: bool) -> Tensor:
        """What norms work on to what products need."""
        return self.all_gather(x, back) if self.sequence else x


class ColumnParallel(torch.autograd.Function):
    """y = spread(x) Wᵀ + b; backward spreads x again and collects the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, device: Device) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.device, ctx.has_bias = device, bias is not None
        return functional.linear(device.spread(x, back=False), weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        whole = ctx.device.spread(x, back=True)
        rows = gradient.flatten(0, 1)
        d_weight = rows.t() @ whole.flatten(0, 1)
        d_x = ctx.device.collect((rows @ weight).view(*gradient.shape[:2], -1), back=True)
        return d_x, d_weight, rows.sum(0) if ctx.has_bias else None, None


class RowParallel(torch.autograd.Function):
    """y = collect(x Wᵀ); the bias is added to the sum, outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, device: Device) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.device = device
        return device.collect(functional.linear(x, weight), back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        whole = ctx.device.spread(gradients[0], back=True)
        rows = whole.flatten(0, 1)
        d_weight = rows.t() @ x.flatten(0, 1)
        return (rows @ weight).view(*whole.shape[:2], -1), d_weight, None


class VocabularyEmbedding(torch.autograd.Function):
    """Rows of this device, zero elsewhere, collected."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, device: Device) -> Tensor:
        local = ids - device.rank * table.shape[0]
        here = (local >= 0) & (local < table.shape[0])
        ctx.save_for_backward(local.where(here, torch.zeros_like(local)), here)
        ctx.device, ctx.rows = device, table.shape[0]
        found = table[local.where(here, torch.zeros_like(local))] * here.unsqueeze(-1)
        return device.collect(found, back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        local, here = ctx.saved_tensors
        gradient = ctx.device.spread(gradients[0], back=True) * here.unsqueeze(-1)
        table = torch.zeros(ctx.rows, gradient.shape[-1], dtype=gradient.dtype)
        return None, table.index_add(0, local.flatten(), gradient.flatten(0, 1)), None


class VocabularyLoss(torch.autograd.Function):
    """Mean cross-entropy of logits whose classes are divided: three numbers a row travel, none in backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, device: Device) -> Tensor:
        top = device.all_reduce(logits.amax(-1), back=False, largest=True)
        exponentials = (logits - top.unsqueeze(-1)).exp()
        total = device.all_reduce(exponentials.sum(-1), back=False)
        local = targets - device.rank * logits.shape[-1]
        here = (local >= 0) & (local < logits.shape[-1])
        local = local.where(here, torch.zeros_like(local))
        own = logits.gather(-1, local.unsqueeze(-1)).squeeze(-1) * here
        target = device.all_reduce(own, back=False)
        ctx.save_for_backward(exponentials / total.unsqueeze(-1), local, here)
        return (total.log() + top - target).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        softmax, local, here = ctx.saved_tensors
        d_logits = softmax.scatter_add(-1, local.unsqueeze(-1), -here.to(softmax.dtype).unsqueeze(-1))
        return d_logits * gradients[0] / softmax.shape[0], None, None


@dataclass
class Emulation:
    """What came out on the devices."""

    losses: list[float]
    gradients: list[dict[str, Tensor]]
    moved: Counter[tuple[str, int, bool]]
    flops: int


def _part(weight: Tensor, rank: int, devices: int, dim: int, parts: int = 1) -> Tensor:
    """A device's part of a weight; of several matrices side by side, its part of each."""
    pieces = [piece.chunk(devices, dim)[rank] for piece in weight.chunk(parts, dim)]
    return torch.cat(pieces, dim).detach().clone().requires_grad_()


def local_weights(model: Gpt, rank: int, devices: int) -> dict[str, Tensor]:
    """The weights of one device."""
    found = {}
    for name, weight in model.named_parameters():
        if "query_key_value" in name:
            found[name] = _part(weight, rank, devices, 0, parts=3)
        elif "up." in name or name.startswith("token_embedding"):
            found[name] = _part(weight, rank, devices, 0)
        elif name.endswith(("output.weight", "down.weight")):
            found[name] = _part(weight, rank, devices, 1)
        else:
            found[name] = weight.detach().clone().requires_grad_()
    return found


def _forward(w: dict[str, Tensor], model: Gpt, ids: Tensor, targets: Tensor, device: Device) -> Tensor:
    devices, width = device.group.size, w["final_norm.weight"].shape[0]
    heads = int(model.layers[0].attention.heads) // devices  # type: ignore[union-attr, arg-type]
    x = VocabularyEmbedding.apply(ids, w["token_embedding.weight"], device)
    positions = w["position_embedding.weight"][: ids.shape[1]]
    x = x + (positions.chunk(devices, 0)[device.rank] if device.sequence else positions)

    def norm(name: str, y: Tensor) -> Tensor:
        return functional.layer_norm(y, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    for number in range(len(model.layers)):
        at = f"layers.{number}"
        own = w[f"{at}.attention.query_key_value.weight"], w[f"{at}.attention.query_key_value.bias"]
        mixed = ColumnParallel.apply(norm(f"{at}.attention_norm", x), *own, device)
        query, key, value = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in mixed.chunk(3, -1))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.transpose(1, 2).flatten(-2)
        x = x + RowParallel.apply(attended, w[f"{at}.attention.output.weight"], device)
        x = x + w[f"{at}.attention.output.bias"]
        own = w[f"{at}.feed_forward.up.weight"], w[f"{at}.feed_forward.up.bias"]
        inner = functional.gelu(
            ColumnParallel.apply(norm(f"{at}.feed_forward_norm", x), *own, device), approximate="tanh"
        )
        x = x + RowParallel.apply(inner, w[f"{at}.feed_forward.down.weight"], device)
        x = x + w[f"{at}.feed_forward.down.bias"]
    logits = ColumnParallel.apply(norm("final_norm", x), w["token_embedding.weight"], None, device)
    return VocabularyLoss.apply(logits.flatten(0, 1), targets.flatten(), device)


# torch's counter knows the kernels of GPUs, by the same counts: 2 products forward, 5 backward.
ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *a, **kw: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *a, **kw: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}


def emulate(model: Gpt, ids: Tensor, targets: Tensor, devices: int, *, sequence: bool) -> Emulation:
    """One forward and backward on all devices at once."""
    group = Group(devices)
    weights = [local_weights(model, rank, devices) for rank in range(devices)]
    losses, flops = [0.0] * devices, [0] * devices
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU)
            with counter:
                loss = _forward(weights[rank], model, ids, targets, Device(group, rank, sequence))
                loss.backward()
            losses[rank], flops[rank] = float(loss.detach()), counter.get_total_flops()
        except BaseException as error:
            errors.append(error)
            group.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(devices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    gradients = [{name: w.grad for name, w in own.items() if w.grad is not None} for own in weights]
    assert len(set(flops)) == 1, "every device does the same work"
    return Emulation(losses=losses, gradients=gradients, moved=group.moved, flops=flops[0])


def whole_gradients(model: Gpt, emulation: Emulation, *, sequence: bool) -> dict[str, Tensor]:
    """Gradients of the whole weights, put together from those of the devices."""
    found = {}
    devices = len(emulation.gradients)
    for name, weight in model.named_parameters():
        parts = [own[name] for own in emulation.gradients]
        if parts[0].shape == weight.shape:
            partial = sequence and not name.startswith("token_embedding")
            found[name] = torch.stack(parts).sum(0) if partial else parts[0]
        elif "query_key_value" in name:
            pieces = [part.chunk(3, 0) for part in parts]
            found[name] = torch.cat([torch.cat([p[i] for p in pieces], 0) for i in range(3)], 0)
        else:
            found[name] = torch.cat(parts, 0 if parts[0].shape[0] * devices == weight.shape[0] else 1)
    return found


# ------------------------------------------------------------------------------------------- a local layer to capture


class _Identity(torch.autograd.Function):
    """A collective as an operator stream sees it: nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].view_as(gradients[0])


class LocalLayer(nn.Module):
    """A GPT layer with the local sizes of one of `devices` devices, collectives left out."""

    def __init__(self, width: int, heads: int, devices: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads // devices, dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width // devices)
        self.output = nn.Linear(width // devices, width)
        self.attention_dropout = nn.Dropout(dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width // devices)
        self.down = nn.Linear(4 * width // devices, width)
        self.feed_forward_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        local = self.query_key_value(_Identity.apply(self.attention_norm(x))).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in local)
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout, is_causal=True)
        summed = _Identity.apply(self.output(mixed.transpose(1, 2).flatten(-2)))
        x = x + self.attention_dropout(summed)
        inner = functional.gelu(self.up(_Identity.apply(self.feed_forward_norm(x))), approximate="tanh")
        return x + self.feed_forward_dropout(_Identity.apply(self.down(inner)))


class LocalLayers(nn.Module):
    """Layers one after another."""

    def __init__(self, layers: int, width: int, heads: int, devices: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LocalLayer(width, heads, devices, dropout) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
