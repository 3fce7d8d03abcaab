"""Sequences: recurrent, convolutional, attention, state space, Fourier."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from .entry import training_step


class WaveNet(nn.Module):
    """Causal 1-D convolutions, each twice as dilated as the one before; gates, residual and skip connections."""

    def __init__(self, width: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(layers))
        self.mixes = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(layers))
        self.end = nn.Conv1d(width, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        total = torch.zeros_like(x)
        for index, (gate, mix) in enumerate(zip(self.gates, self.mixes, strict=True)):
            a, b = gate(F.pad(x, (2**index, 0))).chunk(2, dim=1)
            residual, skip = mix(torch.tanh(a) * torch.sigmoid(b)).chunk(2, dim=1)
            x, total = x + residual, total + skip
        return self.end(F.relu(total))


@training_step("WaveNet: dilated causal 1-D convolutions, gates, skip connections")
def wavenet() -> Any:
    labels = torch.zeros(2, 32, dtype=torch.long)
    return WaveNet(), torch.randn(2, 1, 32), lambda scores: F.cross_entropy(scores, labels)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 12, padding_idx=0)
        self.recurrent = nn.LSTM(12, 10, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)
        self.narrow = nn.LSTM(20, 10, proj_size=5, batch_first=True)
        self.head = nn.Linear(5, 6)

    def forward(self, ids: Tensor) -> Tensor:
        h, _ = self.recurrent(self.words(ids))
        return self.head(self.narrow(h)[0])


@training_step("tagger: two bidirectional LSTM layers with dropout between, and one with a projected state")
def bidirectional_lstm() -> Any:
    labels = torch.zeros(3 * 7, dtype=torch.long)
    ids = torch.ones(3, 7, dtype=torch.long)
    return Tagger(), ids, lambda scores: F.cross_entropy(scores.flatten(0, 1), labels, ignore_index=0)


class AttentiveDecoder(nn.Module):
    """A Python loop over time: a GRU cell that attends to the encoder's states at every step."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.GRU(5, width, batch_first=True)
        self.cell = nn.GRUCell(width + 5, width)
        self.query, self.head = nn.Linear(width, width), nn.Linear(2 * width, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(source)
        state, outputs = last[-1], []
        for step in range(target.shape[1]):
            scores = torch.bmm(memory, self.query(state).unsqueeze(2)).squeeze(2)
            context = torch.bmm(scores.softmax(1).unsqueeze(1), memory).squeeze(1)
            state = self.cell(torch.cat((target[:, step], context), 1), state)
            outputs.append(self.head(torch.cat((state, context), 1)))
        return torch.stack(outputs, 1)


@training_step("GRU encoder, GRU cell with attention in a Python loop over time")
def gru_with_attention() -> Any:
    return AttentiveDecoder(), (torch.randn(3, 6, 5), torch.randn(3, 4, 5))


@training_step("plain recurrent layers (tanh and ReLU) without biases, and an LSTM cell in a loop")
def elman_network() -> Any:
    return Elman(), torch.randn(5, 3, 6)


class Elman(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.RNN(6, 8, nonlinearity="tanh", bias=False)
        self.second = nn.RNN(8, 8, nonlinearity="relu")
        self.cell = nn.LSTMCell(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x)[0])[0]
        state = (x.new_zeros(x.shape[1], 4), x.new_zeros(x.shape[1], 4))
        for step in x:
            state = self.cell(step, state)
        return state[0]


class Mamba(nn.Module):
    """Selective state space: the state runs through the sequence one step at a time, input decides how."""

    def __init__(self, width: int = 8, inner: int = 16, states: int = 4) -> None:
        super().__init__()
        self.inner, self.states = inner, states
        self.enter, self.leave = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.smooth = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.choose, self.step_size = nn.Linear(inner, 2 * states + 2), nn.Linear(2, inner)
        self.decay = nn.Parameter(torch.log(torch.arange(1, states + 1, dtype=torch.float32).repeat(inner, 1)))
        self.passing = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        u, gate = self.enter(x).chunk(2, -1)
        u = F.silu(self.smooth(u.transpose(1, 2))[..., :length].transpose(1, 2))
        b, c, small = self.choose(u).split((self.states, self.states, 2), -1)
        delta = F.softplus(self.step_size(small))
        keep = torch.exp(delta.unsqueeze(-1) * -torch.exp(self.decay))
        new = (delta * u).unsqueeze(-1) * b.unsqueeze(2)
        state, outputs = torch.zeros_like(new[:, 0]), []
        for t in range(length):
            state = keep[:, t] * state + new[:, t]
            outputs.append((state * c[:, t].unsqueeze(1)).sum(-1))
        y = torch.stack(outputs, 1) + u * self.passing
        return self.leave(y * F.silu(gate))


@training_step("Mamba: selective state-space scan in plain PyTorch, a step per token")
def state_space_scan() -> Any:
    return Mamba(), torch.randn(2, 9, 8)


class LongConvolution(nn.Module):
    """S4-like: a diagonal complex state makes a kernel as long as the sequence, applied by Fourier transform."""

    def __init__(self, width: int = 6, states: int = 4) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.zeros(width, 1))
        self.log_decay, self.frequency = (
            nn.Parameter(torch.zeros(width, states)),
            nn.Parameter(torch.ones(width, states)),
        )
        self.mix = nn.Parameter(torch.randn(width, states, 2))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        pole = torch.complex(-self.log_decay.exp(), self.frequency) * self.log_step.exp()
        powers = torch.exp(pole.unsqueeze(-1) * torch.arange(length, device=x.device))
        kernel = (torch.view_as_complex(self.mix).unsqueeze(-1) * powers).sum(1).real
        spectrum = torch.fft.rfft(kernel, n=2 * length) * torch.fft.rfft(x.transpose(1, 2), n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length].transpose(1, 2)
        return self.out(F.gelu(y))


@training_step("S4-like long convolution: complex parameters, real Fourier transforms forth and back")
def complex_state_space() -> Any:
    return LongConvolution(), torch.randn(2, 10, 6)


class FNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_1(x + torch.fft.fft2(x.float(), dim=(-2, -1)).real.to(x.dtype))
        return self.norm_2(x + self.down(F.gelu(self.up(x))))


@training_step("FNet: tokens mixed by a two-dimensional Fourier transform")
def fourier_mixing() -> Any:
    return FNet(), torch.randn(2, 8, 16)


@training_step("nn.Transformer: encoder and decoder of the library, causal mask, its copied layers")
def library_transformer() -> Any:
    module = nn.Transformer(16, 2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=32, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    return module, {"src": torch.randn(2, 7, 16), "tgt": torch.randn(2, 5, 16), "tgt_mask": mask, "tgt_is_causal": True}


@training_step("nn.TransformerEncoder, pre-norm and GELU, with a mask of padded tokens")
def library_encoder() -> Any:
    layer = nn.TransformerEncoderLayer(16, 2, 32, norm_first=True, activation="gelu", batch_first=True)
    module = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(16), enable_nested_tensor=False)
    padded = torch.zeros(2, 6, dtype=torch.bool)
    return module, {"src": torch.randn(2, 6, 16), "src_key_padding_mask": padded}


class Perceiver(nn.Module):
    """Learned queries attend to inputs of another width; the weights of the attention are asked for in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 16))
        self.cross = nn.MultiheadAttention(16, 4, kdim=10, vdim=10, batch_first=True, add_bias_kv=True)
        self.inner = nn.MultiheadAttention(16, 2, batch_first=True, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        latent, weights = self.cross(self.queries.expand(x.shape[0], -1, -1), x, x)
        latent, _ = self.inner(latent, latent, latent, need_weights=False)
        return latent.mean() + weights.square().mean()


@training_step("nn.MultiheadAttention: other key width, attention weights asked for, dropout in a fused one")
def multihead_attention() -> Any:
    return Perceiver(), torch.randn(2, 9, 10)


class GroupedQueryBlock(nn.Module):
    """What decoders look like now: RMS norm, rotary positions as complex numbers, fewer key heads, SwiGLU, ALiBi."""

    def __init__(self, width: int = 16, heads: int = 4, key_heads: int = 2) -> None:
        super().__init__()
        self.heads, self.key_heads, self.size = heads, key_heads, width // heads
        self.norm_1, self.norm_2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * key_heads * self.size, bias=False)
        self.gate_up, self.down = nn.Linear(width, 64, bias=False), nn.Linear(32, width, bias=False)

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(x.shape[2], device=x.device), torch.tensor([1.0, 0.1], device=x.device))
        turn = torch.polar(torch.ones_like(angle), angle)
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).flatten(3).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm_1(x)
        q = self.rotated(self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2))
        k, v = self.kv(h).unflatten(-1, (2, self.key_heads, -1)).permute(2, 0, 3, 1, 4)
        slope = 2.0 ** -torch.arange(1, self.heads + 1, device=x.device, dtype=x.dtype)
        place = torch.arange(x.shape[1], device=x.device)
        bias = (place - place.unsqueeze(1)).clamp(max=0) * slope.view(-1, 1, 1)
        bias = bias.masked_fill(place > place.unsqueeze(1), -math.inf).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, self.rotated(k), v, attn_mask=bias, enable_gqa=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


@training_step("decoder block: grouped queries, complex rotary positions, a bias on the scores, RMS norm, SwiGLU")
def grouped_queries() -> Any:
    return nn.Sequential(GroupedQueryBlock(), GroupedQueryBlock()), torch.randn(2, 6, 16)


class LinearAttention(nn.Module):
    """Attention without a softmax: running sums of keys times values (causal), by cumulative sums."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        sums = torch.einsum("bti,btj->btij", k, v).cumsum(1)
        return torch.einsum("bti,btij->btj", q, sums) / (q * k.cumsum(1)).sum(-1, keepdim=True)


@training_step("linear attention: cumulative sums over time, einsum of many indices")
def linear_attention() -> Any:
    return LinearAttention(), torch.randn(2, 7, 8)
