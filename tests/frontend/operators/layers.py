"""Layers, functions and optimizers of PyTorch, small, for sweeps over whatever operators they dispatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Build = Callable[[], Callable[..., Any]]


@dataclass(frozen=True)
class Layer:
    """Something to run forward and backward: `build` makes it, `inputs` its arguments."""

    name: str
    build: Build
    inputs: tuple[torch.Tensor, ...]

    def step(self) -> None:
        """One forward and backward pass."""
        layer = self.build()
        result = layer(*(x.clone().requires_grad_(self._learns(x)) for x in self.inputs))
        while isinstance(result, tuple):
            result = result[0]
        if result.requires_grad:
            result.sum().backward()

    def _learns(self, x: torch.Tensor) -> bool:
        return x.is_floating_point() and x is self.inputs[0]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


ROWS, IMAGE = normal(3, 4), normal(2, 4, 6, 6)
CLASSES, TOKENS = torch.tensor([0, 3, 2]), torch.tensor([[0, 1, 7, 7], [9, 2, 3, 1], [4, 4, 4, 5]])
PLACES, PAIRS = torch.tensor([0, 1, 4]), torch.zeros(3, 2, dtype=torch.long)


def of(function: Callable[..., Any], *parameters: torch.Tensor) -> Build:
    """A function as a layer, with parameters after its inputs."""
    return lambda: lambda *x: function(*x, *(p.clone().requires_grad_() for p in parameters))


ACTIVATIONS = (
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
    "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax2d", "Softplus", "Softshrink",
    "Softsign", "Tanh", "Tanhshrink", "Identity", "Flatten", "Dropout", "Dropout2d", "AlphaDropout",
    "FeatureAlphaDropout",
)  # fmt: skip


def _activations() -> list[Layer]:
    layers = [Layer(name, getattr(nn, name), (IMAGE,)) for name in ACTIVATIONS]
    for name in ("Softmax", "LogSoftmax", "Softmin"):
        layers.append(Layer(name, lambda name=name: getattr(nn, name)(1), (IMAGE,)))  # type: ignore[misc]
    layers.append(Layer("Threshold", lambda: nn.Threshold(0.1, 0.2), (IMAGE,)))
    layers.append(Layer("GELU tanh", lambda: nn.GELU("tanh"), (ROWS,)))
    return layers


def _spatial(d: int) -> list[Layer]:
    x = normal(2, 4, *(6,) * d)
    layers = []

    def add(name: str, *args: Any, **kwargs: Any) -> None:
        layers.append(Layer(f"{name}{d}d", lambda: getattr(nn, f"{name}{d}d")(*args, **kwargs), (x,)))

    add("Conv", 4, 8, 3, padding=1, groups=2)
    add("Conv", 4, 8, 3, padding=1, padding_mode="reflect")
    add("Conv", 4, 8, 3, padding=1, padding_mode="circular")
    add("ConvTranspose", 4, 8, 3, stride=2, groups=2)
    add("MaxPool", 2)
    add("AvgPool", 2)
    add("LPPool", 2, 2)
    add("AdaptiveAvgPool", 4)
    add("AdaptiveAvgPool", 1)
    add("AdaptiveMaxPool", 4)
    add("BatchNorm", 4)
    add("InstanceNorm", 4, affine=True)
    add("ReflectionPad", 2)
    add("ReplicationPad", 2)
    add("ZeroPad", 2)
    add("CircularPad", 2)
    add("ConstantPad", 2, 1.0)
    add("Dropout")

    def unpool(images: torch.Tensor) -> Any:
        pooled, indices = getattr(functional, f"max_pool{d}d")(images, 2, return_indices=True)
        return getattr(functional, f"max_unpool{d}d")(pooled, indices, 2)

    layers.append(Layer(f"MaxUnpool{d}d", of(unpool), (x,)))
    layers.append(Layer(f"BatchNorm{d}d eval", lambda: getattr(nn, f"BatchNorm{d}d")(4).eval(), (x,)))
    modes = {1: ("nearest", "linear"), 2: ("nearest", "nearest-exact", "bilinear", "bicubic"), 3: ("trilinear",)}
    for mode in modes[d]:
        layers.append(Layer(f"Upsample {mode}", lambda mode=mode: nn.Upsample(scale_factor=2, mode=mode), (x,)))  # type: ignore[misc]
    return layers


def _smaller(x: torch.Tensor, mode: str) -> torch.Tensor:
    return functional.interpolate(x, size=(3, 3), mode=mode, antialias=True)


def _sampled(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return functional.grid_sample(x, grid, align_corners=True)


def _affine(theta: torch.Tensor) -> torch.Tensor:
    return functional.affine_grid(theta, [2, 4, 5, 5], align_corners=True)


def _images() -> list[Layer]:
    return [
        Layer("FractionalMaxPool2d", lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5), (IMAGE,)),
        Layer("FractionalMaxPool3d", lambda: nn.FractionalMaxPool3d(2, output_ratio=0.5), (normal(2, 4, 6, 6, 6),)),
        Layer("bilinear aa", of(lambda x: _smaller(x, "bilinear")), (IMAGE,)),
        Layer("bicubic aa", of(lambda x: _smaller(x, "bicubic")), (IMAGE,)),
        Layer("grid_sample", of(_sampled, normal(2, 5, 5, 2)), (IMAGE,)),
        Layer("grid_sample 3d", of(_sampled, normal(2, 5, 5, 5, 3)), (normal(2, 4, 6, 6, 6),)),
        Layer("affine_grid", of(_affine), (normal(2, 2, 3),)),
        Layer("PixelShuffle", lambda: nn.PixelShuffle(2), (IMAGE,)),
        Layer("PixelUnshuffle", lambda: nn.PixelUnshuffle(2), (IMAGE,)),
        Layer("ChannelShuffle", lambda: nn.ChannelShuffle(2), (IMAGE,)),
        Layer("Fold", lambda: nn.Fold((4, 4), 2), (normal(2, 16, 9),)),
        Layer("Unfold", lambda: nn.Unfold(2), (normal(2, 4, 4, 4),)),
    ]


def _dense() -> list[Layer]:
    weighted = nn.utils.parametrizations.weight_norm
    spectral = nn.utils.parametrizations.spectral_norm
    return [
        Layer("GroupNorm", lambda: nn.GroupNorm(2, 4), (IMAGE,)),
        Layer("LayerNorm", lambda: nn.LayerNorm(6), (IMAGE,)),
        Layer("RMSNorm", lambda: nn.RMSNorm(6), (IMAGE,)),
        Layer("LocalResponseNorm", lambda: nn.LocalResponseNorm(2), (IMAGE,)),
        Layer("Linear", lambda: nn.Linear(6, 5), (IMAGE,)),
        Layer("Linear of a vector", lambda: nn.Linear(6, 5), (normal(6),)),
        Layer("Bilinear", lambda: nn.Bilinear(5, 6, 7), (normal(4, 5), normal(4, 6))),
        Layer("weight_norm", lambda: weighted(nn.Linear(6, 5)), (IMAGE,)),
        Layer("spectral_norm", lambda: spectral(nn.Linear(6, 5)), (IMAGE,)),
        Layer("CosineSimilarity", nn.CosineSimilarity, (ROWS, normal(3, 4))),
        Layer("PairwiseDistance", nn.PairwiseDistance, (ROWS, normal(3, 4))),
        Layer("cdist", of(torch.cdist, normal(5, 4)), (ROWS,)),
        Layer("cdist p=1", of(lambda a, b: torch.cdist(a, b, p=1), normal(5, 4)), (ROWS,)),
        Layer("pdist", of(functional.pdist), (normal(5, 4),)),
    ]


def _embeddings() -> list[Layer]:
    return [
        Layer("Embedding", lambda: nn.Embedding(10, 6), (TOKENS,)),
        Layer("Embedding frequency", lambda: nn.Embedding(10, 6, padding_idx=0, scale_grad_by_freq=True), (TOKENS,)),
        Layer("Embedding renorm", lambda: nn.Embedding(10, 6, max_norm=1.0), (TOKENS,)),
        Layer("Embedding sparse", lambda: nn.Embedding(10, 6, sparse=True), (TOKENS,)),
        Layer("EmbeddingBag sum", lambda: nn.EmbeddingBag(10, 6, mode="sum"), (TOKENS,)),
        Layer("EmbeddingBag mean", lambda: nn.EmbeddingBag(10, 6, mode="mean"), (TOKENS,)),
        Layer("EmbeddingBag max", lambda: nn.EmbeddingBag(10, 6, mode="max"), (TOKENS,)),
        Layer("EmbeddingBag sparse", lambda: nn.EmbeddingBag(10, 6, mode="sum", sparse=True), (TOKENS,)),
        Layer(
            "EmbeddingBag weights",
            of(
                lambda i, w, p: functional.embedding_bag(i, w, per_sample_weights=p, mode="sum"),
                normal(10, 6),
                normal(3, 4),
            ),
            (TOKENS,),
        ),
    ]


def _sequences() -> list[Layer]:
    layers = []
    for name in ("RNN", "LSTM", "GRU"):
        layers.append(
            Layer(name, lambda name=name: getattr(nn, name)(5, 6, 2, bidirectional=True), (normal(4, 3, 5),))  # type: ignore[misc]
        )
        layers.append(Layer(f"{name}Cell", lambda name=name: getattr(nn, f"{name}Cell")(5, 6), (normal(3, 5),)))  # type: ignore[misc]
    attention = nn.MultiheadAttention(8, 2, dropout=0.1)
    words = normal(4, 3, 8)
    return [
        *layers,
        Layer("LSTM projection", lambda: nn.LSTM(5, 6, proj_size=3), (normal(4, 3, 5),)),
        Layer("MultiheadAttention", of(lambda x: attention(x, x, x)[0]), (words,)),
        Layer("TransformerEncoderLayer", lambda: nn.TransformerEncoderLayer(8, 2, 16), (words,)),
        Layer("TransformerDecoderLayer", lambda: nn.TransformerDecoderLayer(8, 2, 16), (words, words.clone())),
        Layer("Transformer", lambda: nn.Transformer(8, 2, 1, 1, 16), (words, words.clone())),
    ]


def _losses() -> list[Layer]:
    target, signs = normal(3, 4) + 0.1, torch.tensor([1.0, -1.0, 1.0])
    margins = torch.tensor([[0, 1, -1, -1]] * 3)
    lengths = (torch.tensor([6, 6]), torch.tensor([3, 3]))
    labels = torch.tensor([[1, 2, 3], [4, 1, 2]])
    adaptive = nn.AdaptiveLogSoftmaxWithLoss(6, 10, [4])
    names = ["L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss", "KLDivLoss", "PoissonNLLLoss"]
    return [
        *(Layer(name, getattr(nn, name), (ROWS, target)) for name in names),
        Layer("SoftMarginLoss", nn.SoftMarginLoss, (ROWS, target.sign())),
        Layer("HingeEmbeddingLoss", nn.HingeEmbeddingLoss, (ROWS, target.sign())),
        Layer("BCELoss", of(lambda x: functional.binary_cross_entropy(x.sigmoid(), uniform(3, 4))), (ROWS,)),
        Layer("BCEWithLogitsLoss", lambda: nn.BCEWithLogitsLoss(pos_weight=uniform(4)), (ROWS, uniform(3, 4))),
        Layer("CrossEntropyLoss", nn.CrossEntropyLoss, (ROWS, CLASSES)),
        Layer("label smoothing", lambda: nn.CrossEntropyLoss(uniform(4), label_smoothing=0.1), (ROWS, CLASSES)),
        Layer("soft targets", nn.CrossEntropyLoss, (ROWS, target.softmax(1))),
        Layer("CrossEntropyLoss 2d", nn.CrossEntropyLoss, (normal(2, 4, 5, 5), torch.ones(2, 5, 5, dtype=torch.long))),
        Layer("NLLLoss", nn.NLLLoss, (ROWS, CLASSES)),
        Layer("MultiMarginLoss", nn.MultiMarginLoss, (ROWS, CLASSES)),
        Layer("MultiLabelMarginLoss", nn.MultiLabelMarginLoss, (ROWS, margins)),
        Layer("MultiLabelSoftMarginLoss", nn.MultiLabelSoftMarginLoss, (ROWS, uniform(3, 4))),
        Layer("TripletMarginLoss", nn.TripletMarginLoss, (ROWS, target, normal(3, 4))),
        Layer("MarginRankingLoss", nn.MarginRankingLoss, (normal(3), uniform(3), signs)),
        Layer("CosineEmbeddingLoss", nn.CosineEmbeddingLoss, (ROWS, target, signs)),
        Layer("GaussianNLLLoss", nn.GaussianNLLLoss, (ROWS, target, uniform(3, 4))),
        Layer("CTCLoss", of(lambda x: functional.ctc_loss(x.log_softmax(2), labels, *lengths)), (normal(6, 2, 5),)),
        Layer("AdaptiveLogSoftmax", of(lambda x: adaptive(x, torch.tensor([0, 3, 5, 9, 1]))[1]), (normal(5, 6),)),
    ]


FUNCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "cummax": lambda x: x.cummax(1)[0],
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "sort": lambda x: x.sort(1)[0],
    "topk": lambda x: x.topk(2, 1)[0],
    "median": lambda x: x.median(1)[0],
    "gather": lambda x: x.gather(1, PAIRS),
    "scatter": lambda x: x.scatter(1, PAIRS, 1.0),
    "scatter_add": lambda x: torch.zeros(3, 4).scatter_add(1, torch.zeros(3, 4, dtype=torch.long), x),
    "scatter_reduce": lambda x: torch.zeros(3, 4).scatter_reduce(1, torch.zeros(3, 4, dtype=torch.long), x, "amax"),
    "index_add": lambda x: torch.zeros(5, 4).index_add(0, PLACES, x),
    "index_copy": lambda x: torch.zeros(5, 4).index_copy(0, PLACES, x),
    "index_fill": lambda x: x.index_fill(0, CLASSES[:1], 0.0),
    "index_select": lambda x: x.index_select(0, CLASSES[[0, 2]]),
    "index": lambda x: x[CLASSES[[0, 2]]],
    "index_put": lambda x: torch.zeros(5, 4).index_put((PLACES,), x),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x[x.nonzero()[:, 0]],
    "take": lambda x: x.take(CLASSES),
    "put": lambda x: x.put(CLASSES[:2], torch.ones(2)),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.0),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, torch.ones(3, 4)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "clamp": lambda x: x.clamp(0, 1),
    "rfft": lambda x: torch.fft.rfft(x).abs(),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)),
    "complex": lambda x: (torch.fft.fft(x) * torch.fft.fft(x)).real,
    "stft": lambda x: torch.stft(x, 4, return_complex=True, window=torch.hann_window(4)).abs(),
    "polar": lambda x: torch.polar(x, x).real,
    "var": lambda x: x.var(1),
    "std": lambda x: x.std(1),
    "norm": lambda x: x.norm(dim=1),
    "norm of order 3": lambda x: x.norm(3, dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
    "amax": lambda x: x.amax(1),
    "aminmax": lambda x: x.aminmax()[0],
    "max": lambda x: x.max(1)[0],
    "max of all": lambda x: x.max(),
    "mean": lambda x: x.mean(1),
    "prod": lambda x: x.prod(1),
    "argmax": lambda x: x * x.argmax(1, keepdim=True),
    "einsum": lambda x: torch.einsum("ab,cb->ac", x, x),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "dot": lambda x: torch.dot(x[0], x[1]),
    "addr": lambda x: torch.addr(x, x[:, 0], x[0]),
    "addmv": lambda x: torch.addmv(x[:, 0], x, x[0]),
    "baddbmm": lambda x: torch.baddbmm(x[None], x[None, :, :3], x[None, :3]),
    "roll": lambda x: x.roll(1, 0),
    "flip": lambda x: x.flip(0),
    "rot90": lambda x: x.rot90(),
    "repeat": lambda x: x.repeat(2, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "tril": lambda x: x.tril(),
    "trace": torch.trace,
    "diagonal": torch.diagonal,
    "diag_embed": torch.diag_embed,
    "stack": lambda x: torch.stack([x, x]),
    "cat": lambda x: torch.cat([x, x]),
    "split": lambda x: x.split(2, 1)[0],
    "slice": lambda x: x[:, 1:3],
    "select": lambda x: x[1],
    "unfold": lambda x: x.unfold(1, 3, 1),
    "as_strided": lambda x: x.as_strided((2, 2), (1, 2)),
    "expand": lambda x: x[None].expand(2, 3, 4) + 1,
    "pow": lambda x: x.abs() ** 1.5,
    "atan2": lambda x: torch.atan2(x, x),
    "lerp": lambda x: torch.lerp(x, x, 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "bucketize": lambda x: x * torch.bucketize(x, torch.arange(5.0)),
    "searchsorted": lambda x: x * torch.searchsorted(torch.arange(5.0), x.detach()),
    "histc": lambda x: x * torch.histc(x.detach(), 4),
    "bincount": lambda x: x * torch.bincount(torch.tensor([0, 1, 3, 2])),
    "one_hot": lambda x: x * functional.one_hot(CLASSES, 4),
    "unique": lambda x: x * torch.unique(CLASSES).sum(),
    "unique_consecutive": lambda x: x * torch.unique_consecutive(CLASSES).sum(),
    "isin": lambda x: x * torch.isin(torch.tensor([1, 2, 3, 4]), CLASSES),
    "gumbel_softmax": lambda x: functional.gumbel_softmax(x, hard=True),
    "multinomial": lambda x: x * torch.multinomial(uniform(3, 4), 1),
    "randperm": lambda x: x[torch.randperm(3)],
    "scaled_dot_product_attention": lambda x: functional.scaled_dot_product_attention(
        x[None, None], x[None, None], x[None, None]
    ),
    "normalize": functional.normalize,
    "renorm": lambda x: x.renorm(2, 0, 1.0),
    "quantile": lambda x: torch.quantile(x, 0.5),
    "cov": torch.cov,
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, :3]),
    "kron": lambda x: torch.kron(x, x),
    "nan_to_num": lambda x: x.nan_to_num(),
    "erfinv": lambda x: x.tanh().erfinv(),
    "fake_quantize": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "cholesky": lambda x: torch.linalg.cholesky(x[:, :3] @ x[:, :3].T + 5 * torch.eye(3)),
    "solve": lambda x: torch.linalg.solve(x[:, :3] + 5 * torch.eye(3), x),
    "inv": lambda x: torch.linalg.inv(x[:, :3] + 5 * torch.eye(3)),
    "svdvals": torch.linalg.svdvals,
    "eigvalsh": lambda x: torch.linalg.eigvalsh(x[:, :3] @ x[:, :3].T),
    "lgamma": lambda x: torch.lgamma(x.abs()),
}

LAYERS: tuple[Layer, ...] = (
    *_activations(),
    *_spatial(1),
    *_spatial(2),
    *_spatial(3),
    *_images(),
    *_dense(),
    *_embeddings(),
    *_sequences(),
    *_losses(),
    *(Layer(name, of(function), (ROWS,)) for name, function in FUNCTIONS.items()),
)

OPTIMIZERS = [
    "SGD",
    "Adam",
    "AdamW",
    "Adagrad",
    "RMSprop",
    "Adamax",
    "NAdam",
    "RAdam",
    "Adafactor",
    "Adadelta",
    "Rprop",
    "ASGD",
]
IMPLEMENTATIONS: tuple[dict[str, bool], ...] = ({"foreach": False}, {"foreach": True}, {"fused": True})


def optimizer_step(name: str, implementation: dict[str, bool]) -> Callable[[], object] | None:
    """The second step of an optimizer on two parameters; None where torch has no such implementation."""
    parameters = [nn.Parameter(normal(3, 4)), nn.Parameter(normal(5))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    decay = {} if name == "Rprop" else {"weight_decay": 0.1}
    momentum = {"momentum": 0.9} if name in {"SGD", "RMSprop"} else {}
    try:
        optimizer = getattr(torch.optim, name)(parameters, lr=0.1, **decay, **momentum, **implementation)
    except (TypeError, RuntimeError):
        return None
    optimizer.step()
    return optimizer.step  # type: ignore[no-any-return]
