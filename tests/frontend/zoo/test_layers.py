"""The parts that are written another way than their papers write them, against the papers' form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is an extra of the package")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from worklode.frontend.zoo import inception, resnet  # noqa: E402
from worklode.frontend.zoo.llama import RotaryTable, rotate  # noqa: E402
from worklode.frontend.zoo.mobilenet import MOBILENET_V3_LARGE, round_to_eight  # noqa: E402
from worklode.frontend.zoo.moe import MixtureOfExperts  # noqa: E402
from worklode.frontend.zoo.recurrent import BahdanauAttention  # noqa: E402
from worklode.frontend.zoo.t5 import relative_buckets  # noqa: E402

few = settings(max_examples=30, deadline=None)


@few
@given(
    tokens=st.integers(1, 24),
    experts=st.integers(1, 6),
    active=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_experts_compute_what_a_loop_over_tokens_computes(tokens: int, experts: int, active: int, seed: int) -> None:
    """Slow oracle: token by token, expert by expert, each expert serving the first `capacity` requests it gets."""
    active = min(active, experts)
    torch.manual_seed(seed)
    width, inner = 8, 12
    block = MixtureOfExperts(width, inner, experts, active)
    x = torch.randn(1, tokens, width)
    room = [-(-tokens * active // experts)] * experts
    expected = torch.zeros_like(x)
    for token in range(tokens):
        row = x[0, token]
        scores, chosen = block.router(row).topk(active)
        for weight, expert in zip(scores.softmax(-1), chosen.tolist(), strict=True):
            if room[expert] == 0:
                continue
            room[expert] -= 1
            gate, up, down = (part[expert] for part in (block.experts.gate, block.experts.up, block.experts.down))
            expected[0, token] += weight * ((functional.silu(row @ gate) * (row @ up)) @ down)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@few
@given(tokens=st.integers(1, 16), half=st.integers(1, 8), seed=st.integers(0, 1000))
def test_rotation_by_rolling_is_rotation_of_pairs(tokens: int, half: int, seed: int) -> None:
    """As complex numbers: pair (x[i], x[i + d/2]) times exp(i·position·base^(-2i/d)); lengths are kept."""
    torch.manual_seed(seed)
    x = torch.randn(2, 3, tokens, 2 * half)
    table = RotaryTable(tokens + 2, 2 * half, 10_000.0)
    cosine, signed_sine = table(torch.empty(2, tokens, 1))
    frequency = 10_000.0 ** (-torch.arange(half) / half)
    turn = torch.polar(torch.ones(tokens, half), torch.outer(torch.arange(tokens), frequency))
    turned = torch.complex(x[..., :half], x[..., half:]) * turn
    result = rotate(x, cosine, signed_sine)
    torch.testing.assert_close(result, torch.cat((turned.real, turned.imag), dim=-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.norm(dim=-1), x.norm(dim=-1), rtol=1e-4, atol=1e-5)


@few
@given(tokens=st.integers(1, 400), causal=st.booleans())
def test_relative_buckets_are_the_paper_s(tokens: int, causal: bool) -> None:
    """32 buckets; each offset to 8 (16 if causal) its own, logarithmic to 128, the same beyond; sides apart."""
    bucket = relative_buckets(tokens, 32, 128, causal=causal)
    per_side = 32 if causal else 16
    exact = per_side // 2
    for query, key in (
        (0, 0),
        (tokens - 1, 0),
        (0, tokens - 1),
        (tokens // 2, tokens // 3),
        (tokens // 3, tokens // 2),
    ):
        behind = query - key
        distance = max(behind, 0) if causal else abs(behind)
        expected = distance
        if distance >= exact:
            steps = math.log(distance / exact) / math.log(128 / exact) * (per_side - exact)
            if abs(steps - round(steps)) < 1e-4:
                continue  # on the edge of two buckets float32 may fall on either side
            expected = min(exact + int(steps), per_side - 1)
        if not causal and behind < 0:
            expected += per_side
        assert int(bucket[query, key]) == expected


def test_attention_of_gnmt_is_a_weighted_mean_of_the_memory() -> None:
    torch.manual_seed(0)
    attention = BahdanauAttention(8)
    queries, memory = torch.randn(4, 2, 8), torch.randn(5, 2, 8)
    context = attention(queries, memory)
    for target in range(4):
        for sample in range(2):
            direction = attention.vector / attention.vector.norm() * attention.vector_gain
            hidden = attention.query(queries[target, sample]) + attention.key(memory[:, sample]) + attention.bias
            weights = (hidden.tanh() @ direction).softmax(0)
            torch.testing.assert_close(context[target, sample], weights @ memory[:, sample])


def test_widths_of_squeezing_are_the_published_code_s() -> None:
    """Of the blocks with squeeze and excitation: 72, 120, 480, 672, 960 channels (torchvision's fc1 weights)."""
    found = {block.expanded: round_to_eight(block.expanded / 4) for block in MOBILENET_V3_LARGE.blocks if block.squeeze}
    assert found == {72: 24, 120: 32, 480: 120, 672: 168, 960: 240}


def grid(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(module(x).shape[1:])


def test_grids_of_inception_are_those_of_its_table_1() -> None:
    with torch.device("meta"):
        model = inception.InceptionV3(inception.INCEPTION_V3)
        x = torch.randn(2, 3, 299, 299)
    stem = model.stem(x)
    assert tuple(stem.shape[1:]) == (192, 35, 35)
    middle = model.grid_35(stem)
    assert tuple(middle.shape[1:]) == (288, 35, 35)
    last = model.grid_17(middle)
    assert tuple(last.shape[1:]) == (768, 17, 17)
    assert grid(model.grid_8, last) == (2048, 8, 8)


@pytest.mark.parametrize(
    ("config", "channels"), [(resnet.RESNET18, (64, 128, 256, 512)), (resnet.RESNET50, (256, 512, 1024, 2048))]
)
def test_stages_of_resnet_are_those_of_its_table_1(config: resnet.ResNetConfig, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = resnet.ResNet(config)
        x = model.pool(model.stem(torch.randn(1, 3, 224, 224)))
    sizes = []
    for stage in model.stages:
        x = stage(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(width, side, side) for width, side in zip(channels, (56, 28, 14, 7), strict=True)]
