"""Ways of training: gradients, precision, checkpoints, losses, optimizers."""

# Calling an nn.Module is untyped, and so is autograd.Function.apply.
# mypy: no-warn-return-any, allow-untyped-calls
from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from .entry import Entry, training_step


class RoundedStraightThrough(torch.autograd.Function):
    """Rounds forward, passes the gradient where the value was not clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        steps = x / scale
        ctx.save_for_backward(steps, scale)
        return steps.round().clamp(-8, 7) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        steps, scale = ctx.saved_tensors
        inside = (steps > -8) & (steps < 7)
        return gradients[0] * inside, (gradients[0] * (steps.round() - steps) * inside).sum().view_as(scale)


class Quantized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        weight = RoundedStraightThrough.apply(self.first.weight, self.scale)
        h = F.relu(F.linear(x, weight, self.first.bias))
        return self.second(RoundedStraightThrough.apply(h, self.scale))


@training_step("quantisation-aware training: a custom autograd.Function with its own backward")
def custom_function() -> Any:
    return Quantized(), torch.randn(6, 8)


class FusedMlp(torch.autograd.Function):
    """Products inside a custom function, its backward written by hand; the hidden layer is computed twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        ctx.save_for_backward(x, up, down)
        return F.relu(x @ up) @ down

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, up, down = ctx.saved_tensors
        gradient = gradients[0]
        h = F.relu(x @ up)
        inner = (gradient @ down.T) * (h > 0)
        return inner @ up.T, x.T @ inner, h.T @ gradient


class HandWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 8)
        self.up, self.down = nn.Parameter(torch.randn(8, 32)), nn.Parameter(torch.randn(32, 8))

    def forward(self, x: Tensor) -> Tensor:
        return FusedMlp.apply(self.start(x), self.up, self.down)


@training_step("a custom autograd.Function with products in forward and in its handwritten backward")
def custom_function_with_products() -> Any:
    return HandWritten(), torch.randn(6, 8)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.start = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 8))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=self.reentrant)
        return x


@training_step("checkpointed blocks, non-reentrant: forward runs again in backward")
def checkpointed() -> Any:
    return Checkpointed(reentrant=False), torch.randn(6, 8)


@training_step("checkpointed blocks, reentrant: a backward inside backward")
def checkpointed_reentrant() -> Any:
    return Checkpointed(reentrant=True), torch.randn(6, 8)


class MixedPrecision(nn.Module):
    """bfloat16 inside, float32 for the part where the user asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            h = F.gelu(self.first(x))
            h = self.second(h) + self.second(h.square())
            with torch.autocast(x.device.type, enabled=False):
                h = F.normalize(h.float(), dim=-1)
        return self.head(h)


@training_step("autocast regions inside forward, one switched off within another")
def autocast_region() -> Any:
    return MixedPrecision(), torch.randn(6, 8)


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's transpose; token embedding and output layer are one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.inner, self.head = (
            nn.Embedding(30, 16),
            nn.Linear(16, 6, bias=False),
            nn.Linear(16, 30, bias=False),
        )
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        code = torch.tanh(self.inner(self.tokens(ids)))
        return self.head(F.linear(code, self.inner.weight.t()))


@training_step("tied weights: one parameter under two names, another used transposed")
def tied_weights() -> Any:
    ids = torch.zeros(3, 5, dtype=torch.long)
    return TiedAutoencoder(), ids, lambda scores: F.cross_entropy(scores.transpose(1, 2), ids)


class ManyTasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Mish())
        self.heads = nn.ModuleDict({"kind": nn.Linear(16, 5), "size": nn.Linear(16, 1), "tags": nn.Linear(16, 7)})
        self.uncertainty = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in ("kind", "size", "tags")})

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
        h = self.body(x) * scale
        return {"heads": {name: head(h) for name, head in self.heads.items()}, "uncertainty": dict(self.uncertainty)}


@training_step("many tasks: nested dictionaries out, several losses weighed by learned scalars, keyword inputs")
def several_losses() -> Any:
    def loss(output: dict[str, Any]) -> Tensor:
        heads, uncertainty = output["heads"], output["uncertainty"]
        losses = {
            "kind": F.cross_entropy(heads["kind"], heads["kind"].new_zeros(6, dtype=torch.long), label_smoothing=0.1),
            "size": F.huber_loss(heads["size"], torch.zeros_like(heads["size"])),
            "tags": F.multilabel_soft_margin_loss(heads["tags"], torch.zeros_like(heads["tags"])),
        }
        return sum(value * torch.exp(-uncertainty[name]) + uncertainty[name] for name, value in losses.items())

    return ManyTasks(), {"x": torch.randn(6, 8), "scale": 0.5}, loss


class TupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.a(x), [self.b(x)]


@training_step("no loss given and a tuple out: the mean of its first tensor; the other head gets no gradient")
def tuple_without_a_loss() -> Any:
    return TupleOutput(), torch.randn(6, 8)


class LowRankAdapted(nn.Module):
    """LoRA: a frozen network, small trained factors beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.ModuleList(nn.Linear(16, 16) for _ in range(2)).requires_grad_(False)
        self.down = nn.ParameterList(torch.randn(16, 2) for _ in range(2))
        self.up = nn.ParameterList(torch.zeros(2, 16) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for base, down, up in zip(self.base, self.down, self.up, strict=True):
            x = F.relu(base(x) + 0.5 * (x @ down @ up))
        return x


@training_step("frozen parameters: low-rank adapters beside them (LoRA)")
def frozen_with_adapters() -> Any:
    return LowRankAdapted(), torch.randn(6, 16)


@training_step(
    "weight norm and spectral norm as parametrizations of convolutions and layers", options={"optimizer": "adam"}
)
def parametrized_weights() -> Any:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv1d(4, 8, 3, padding=1)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Conv1d(8, 8, 3, padding=1)),
        nn.Flatten(),
        parametrizations.spectral_norm(nn.Linear(8 * 6, 4)),
    ), torch.randn(3, 4, 6)


@training_step(
    "orthogonal weights by a parametrization: a matrix exponential",
    fallback={"aten.linalg_matrix_exp": "the number of its terms and squarings follows the norm of the matrix"},
)
def orthogonal_weights() -> Any:
    return nn.Sequential(
        nn.Linear(96, 256), nn.GELU(), nn.Linear(256, 16), parametrizations.orthogonal(nn.Linear(16, 16))
    ), torch.randn(128, 96)  # fmt: skip


@training_step("modules that find out their sizes at the first call")
def lazy_layers() -> Any:
    return nn.Sequential(
        nn.LazyConv2d(6, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    ), torch.randn(2, 3, 6, 6)  # fmt: skip


class WithAHelper(nn.Module):
    """A scripted function inside a compiled module: the step is that of the Python beneath."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.activate = torch.jit.script(scaled_softplus)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activate(self.first(x), 2.0))


def scaled_softplus(x: Tensor, scale: float) -> Tensor:
    return F.softplus(x) * scale


@training_step("torch.compile around a module that calls a scripted function")
def compiled_and_scripted() -> Any:
    return torch.compile(WithAHelper()), torch.randn(6, 8)


class MomentumTeacher(nn.Module):
    """A teacher that follows the student by an exponential average inside forward, copied from it."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.predict = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
            wanted = self.teacher(b)
        return 2 - 2 * F.cosine_similarity(self.predict(self.student(a)), wanted, dim=-1).mean()


@training_step("momentum teacher (BYOL): deepcopy in the constructor, an average kept in forward, no gradient for it")
def momentum_teacher() -> Any:
    return MomentumTeacher(), (torch.randn(6, 8), torch.randn(6, 8))


class Distillation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5)).requires_grad_(False)
        self.student = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.softmax(self.teacher(x) / 2, -1)
        return F.kl_div(F.log_softmax(self.student(x) / 2, -1), wanted, reduction="batchmean")


@training_step(
    "distillation: a frozen teacher without gradients, gradients summed over three microbatches",
    options={"accumulation_steps": 3},
)
def distillation() -> Any:
    return Distillation(), torch.randn(6, 8)


class CodeBook(nn.Module):
    """VQ-VAE: the nearest code, straight through; codes follow by an average kept in buffers."""

    codes: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 4), nn.Linear(4, 8)
        self.register_buffer("codes", torch.randn(10, 4))
        self.register_buffer("counts", torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x)
        distance = z.square().sum(1, keepdim=True) - 2 * z @ self.codes.T + self.codes.square().sum(1)
        chosen = F.one_hot(distance.argmin(1), 10).to(z.dtype)
        near = chosen @ self.codes
        with torch.no_grad():
            self.counts.mul_(0.99).add_(chosen.sum(0), alpha=0.01)
            self.codes.lerp_((chosen.T @ z) / self.counts.unsqueeze(1), 0.01)
        return F.mse_loss(self.decode(z + (near - z).detach()), x) + 0.25 * F.mse_loss(z, near.detach())


@training_step("vector quantisation: nearest codes, straight-through gradient, buffers updated in place")
def code_book() -> Any:
    return CodeBook(), torch.randn(6, 8)


# ------------------------------------------------------------------------------------------------------ optimizers


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum (Chen et al., arXiv 2302.06675), the way users write it: a loop."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-4, decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                parameter.mul_(1 - group["lr"] * group["decay"])
                update = momentum.mul(0.9).add(parameter.grad, alpha=0.1).sign_()
                parameter.add_(update, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 0.01)


class ClippedSgd(torch.optim.SGD):
    """Clips the norm of all gradients before it steps, and keeps an average of the weights."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        super().step()
        with torch.no_grad():
            for parameter in parameters:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter, 0.001)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum: Newton-Schulz iterations are matrix products inside the optimizer."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.02})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or parameter.dim() != 2:
                    continue
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.mul_(0.95).add_(parameter.grad)
                x = buffer / (buffer.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
                parameter.add_(x, alpha=-group["lr"])


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.SELU(), nn.Linear(16, 4))


def trained_with(name: str, shows: str, optimizer: Callable[..., Any]) -> Entry:
    """The same small network under another optimizer."""
    return Entry(name=name, shows=shows, build=lambda: (perceptron(), torch.randn(6, 8), None, optimizer))


def two_groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    matrices, others = ([p for p in parameters if (p.dim() > 1) is wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, foreach=True)


OPTIMIZERS = (
    trained_with("lion", "own optimizer: sign of the momentum, a Python loop over parameters", Lion),
    trained_with(
        "clipped-sgd",
        "own optimizer: clips the norm of all gradients, averages the weights",
        partial(ClippedSgd, lr=0.1, momentum=0.9),
    ),
    trained_with("muon", "own optimizer with matrix products in its step (Muon)", Muon),
    trained_with("adagrad", "Adagrad", torch.optim.Adagrad),
    trained_with(
        "rmsprop",
        "RMSprop, centred, with momentum and weight decay",
        partial(torch.optim.RMSprop, momentum=0.9, centered=True, weight_decay=0.1),
    ),
    trained_with("adafactor", "Adafactor: factored second moments, of rows and of columns", torch.optim.Adafactor),
    trained_with(
        "amsgrad",
        "AdamW with amsgrad, one tensor at a time",
        partial(torch.optim.AdamW, amsgrad=True, maximize=True, foreach=False, fused=False),
    ),
    trained_with("radam", "RAdam: rectified once enough steps have been made", torch.optim.RAdam),
    trained_with("parameter-groups", "AdamW, foreach, two groups of parameters: only matrices decay", two_groups),
)
