"""Two training steps of one's own, as worklode reads them. Nothing here imports worklode.

    worklode capture examples/workloads.py:mixer
    worklode mine examples/workloads.py:byte_transformer --budget tpuv2 --batch 16 --seq-len 1024

A workload function is called where tensors have shapes but no values, so nothing is allocated, however large the model.
It takes `batch` and `seq_len` if it wants them set from the command line, and returns two to four things:

    module      a torch.nn.Module
    inputs      what its forward takes: a tensor, a tuple (positional) or a dict (keywords)
    loss        from the module's output to a scalar; by default the output itself if it is a scalar, its `.loss` or
                ["loss"], else the mean of its first tensor
    optimizer   "sgd", "sgd-momentum", "adam", "adamw" (the default), or a callable from parameters to a torch optimizer

The step must not look at values: no `.item()`, no `if tensor > 0`. Repeated layers in an nn.ModuleList or nn.Sequential
are recognised and costed once.
"""

import torch
from torch import nn
from torch.nn import functional


class MixerBlock(nn.Module):
    """One perceptron across the patches, one across the channels (MLP-Mixer, arXiv 2105.01601)."""

    def __init__(self, patches: int, channels: int) -> None:
        super().__init__()
        self.patch_norm, self.channel_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.across_patches = self.perceptron(patches, patches // 2)
        self.across_channels = self.perceptron(channels, 4 * channels)

    @staticmethod
    def perceptron(width: int, hidden: int) -> nn.Sequential:
        """Linear, GELU, linear."""
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, patches, channels] to the same shape."""
        x = x + self.across_patches(self.patch_norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.across_channels(self.channel_norm(x))


class Mixer(nn.Module):
    """Images to logits."""

    def __init__(self, channels: int = 512, layers: int = 8, classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, kernel_size=16, stride=16)
        self.layers = nn.Sequential(*(MixerBlock(14 * 14, channels) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of images [batch, 3, 224, 224]."""
        x = self.layers(self.patches(images).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(dim=1))


def mixer(batch: int = 64):
    """The short form: a module, one tensor, a loss; AdamW by default."""
    targets = torch.randint(1000, (batch,))
    return Mixer(), torch.randn(batch, 3, 224, 224), lambda logits: functional.cross_entropy(logits, targets)


class Layer(nn.Module):
    """Pre-norm transformer layer with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, tokens, width] to the same shape."""
        batch, tokens, width = x.shape
        projected = self.query_key_value(self.attention_norm(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.mlp_norm(x))


class ByteTransformer(nn.Module):
    """Predicts the next byte."""

    def __init__(self, width: int = 512, heads: int = 8, layers: int = 6, context: int = 2048) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(256, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Logits [batch, tokens, 256] of bytes [batch, tokens]."""
        x = self.token(text) + self.position.weight[: text.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def byte_transformer(batch: int = 8, seq_len: int = 512):
    """The long form: keyword inputs, a loss with a term of its own, an optimizer with parameter groups."""
    text = torch.randint(256, (batch, seq_len + 1))

    def loss(logits: torch.Tensor) -> torch.Tensor:
        # Cross-entropy, and a penalty that keeps the logits' normaliser near 1 (z-loss, arXiv 2204.02311, section 5).
        normaliser = logits.logsumexp(dim=-1)
        return functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()) + 1e-4 * normaliser.square().mean()

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        decayed = [parameter for parameter in parameters if parameter.dim() > 1]
        others = [parameter for parameter in parameters if parameter.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=3e-4, fused=True)

    return ByteTransformer(), {"text": text[:, :-1]}, loss, optimizer
