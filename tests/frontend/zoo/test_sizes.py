"""Parameters and forward products of every model at full size, on the meta device, against published figures."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra of the package")

from torch import Tensor, nn  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from worklode.frontend import zoo  # noqa: E402
from worklode.frontend.zoo import recommendation, recurrent  # noqa: E402

# Figures written down apart from the zoo's own table. Sources: torchvision 0.28 (num_params of its weights) for the
# convolutional networks and ViT; transformers 5.18 for the language models; apex ("MLPerf GNMT has 160671297
# parameters"); DLRM, arXiv 1906.00091, section 5.1; diffusers (stable-diffusion-v1-5, num_parameters).
PARAMETERS = {
    "mobilenet-v3-large": 5_483_032,
    "resnet18": 11_689_512,
    "inception-v3": 27_161_264,
    "resnext101-32x8d": 88_791_336,
    "vgg16": 138_357_544,
    "gnmt": 160_671_297,
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
    "opt-1.3b": 1_315_758_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-175b": 174_604_259_328,
    "resnet50": 25_557_032,
    "vit-l16": 304_326_632,
    "t5-base": 222_903_552,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "mixtral-8x7b": 46_702_792_704,
    "dlrm": 540_677_217,
    "sd-unet": 859_520_964,
}

# Multiply-accumulates [10^9] of one sample's inference. torchvision 0.28: operations of its weights, to three decimals.
# sd-unet: diffusers 0.42.1, UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8) on 64 x 64 latents and
# 77 tokens, under torch 2.13's FLOP counter. All of them were also counted from those libraries' models by that
# counter; the counts are the zoo's to the last digit.
PUBLISHED_GMACS = {
    "mobilenet-v3-large": 0.217,
    "resnet18": 1.814,
    "inception-v3": 5.713,
    "resnext101-32x8d": 16.414,
    "vgg16": 15.470,
    "resnet50": 4.089,
    "vit-l16": 61.555,
    "sd-unet": 401.637,
}

# Inception's auxiliary head normalises a 1x1 grid in training: two images are the least.
SAMPLES = 2


def built(name: str, **shape: int) -> tuple[nn.Module, Any, Any, str]:
    with torch.device("meta"):
        return zoo.function(name)(**shape)


def call(module: nn.Module, inputs: Any) -> Any:
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def forward_macs(module: nn.Module, inputs: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        call(module, inputs)
    return float(counter.get_total_flops()) / 2


@pytest.mark.parametrize("name", zoo.names())
def test_parameters_are_the_published_ones(name: str) -> None:
    module, _, _, _ = built(name)
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[name]
    assert zoo.entry(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", zoo.names())
def test_a_default_workload_is_built_on_meta_and_follows_the_contract(name: str) -> None:
    module, inputs, loss, optimizer = built(name)
    assert all(parameter.is_meta for parameter in module.parameters())
    entry = zoo.entry(name)
    assert isinstance(inputs, Tensor | tuple | dict)
    assert callable(loss)
    assert optimizer == entry.optimizer
    tensors = [*module.parameters(), *module.buffers(), *tree_leaves(inputs)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert all(entry.batch in tensor.shape for tensor in tree_leaves(inputs))
    if entry.seq_len:
        assert any(entry.seq_len in tensor.shape for tensor in tree_leaves(inputs))


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.entry(name).forward_macs is not None])
def test_forward_products_are_the_published_ones(name: str) -> None:
    module, inputs, _, _ = built(name, batch=SAMPLES)
    macs = forward_macs(module.eval(), inputs) / SAMPLES
    assert round(macs / 1e9, 3) == PUBLISHED_GMACS[name]
    assert zoo.entry(name).forward_macs == pytest.approx(PUBLISHED_GMACS[name] * 1e9)


def test_every_published_figure_is_checked() -> None:
    assert set(PUBLISHED_GMACS) == {name for name in zoo.names() if zoo.entry(name).forward_macs is not None}


def test_the_auxiliary_head_of_inception_costs_its_three_products() -> None:
    """768 -> 128 on the pooled 5x5 grid, 5x5 to 768, 768 -> 1000."""
    module, inputs, _, _ = built("inception-v3", batch=SAMPLES)
    extra = forward_macs(module.train(), inputs) - forward_macs(module.eval(), inputs)
    assert extra / SAMPLES == 768 * 128 * 25 + 128 * 768 * 25 + 768 * 1000


def test_gnmt_products_follow_from_its_sizes() -> None:
    """Nine LSTM directions (4·width gates over input and state), two projections of attention, context, classifier."""
    batch, tokens, width = 3, 5, recurrent.GNMT_V2.width
    module, inputs, _, _ = built("gnmt", batch=batch, seq_len=tokens)
    # Encoder: both directions, the layer over both, two more; decoder: the first, three over state and context.
    encoder, decoder = (1 + 1, 1 + 1, 2 + 1, 1 + 1, 1 + 1), (1 + 1, 2 + 1, 2 + 1, 2 + 1)
    expected = (
        batch * tokens * (4 * width**2 * sum(encoder + decoder) + 2 * width**2 + width * recurrent.GNMT_V2.vocabulary)
    )
    context = batch * tokens**2 * width
    # The product of scores and their vector is a matrix-vector one, which torch's counter does not know.
    assert forward_macs(module, inputs) == expected + context


def test_dlrm_products_follow_from_its_sizes() -> None:
    batch = 7
    module, inputs, _, _ = built("dlrm", batch=batch)
    perceptrons = 13 * 512 + 512 * 256 + 256 * 64 + 64 * 16 + (16 + 27 * 26 // 2) * 512 + 512 * 256 + 256
    assert forward_macs(module, inputs) == batch * (perceptrons + 27 * 27 * 16)
    assert sum(recommendation.CRITEO_KAGGLE_ROWS) == 33_762_577


@pytest.mark.parametrize("seq_len", [256, 1024])
def test_mixtral_spends_two_flops_per_active_parameter_and_token(seq_len: int) -> None:
    """Expert products of the whole model: 2·tokens·(2 of 8 experts), beside the attention, routers and head."""
    module, inputs, _, _ = built("mixtral-8x7b", batch=1, seq_len=seq_len)
    layers, width, inner, vocabulary, active, experts = 32, 4096, 14_336, 32_000, 2, 8
    key_value_width = width // 32 * 8
    dense = layers * (2 * width**2 + 2 * width * key_value_width + width * experts) + width * vocabulary
    expert = layers * active * 3 * width * inner
    attention = layers * 2 * seq_len * width
    assert forward_macs(module, inputs) == seq_len * (dense + expert + attention)


@pytest.mark.parametrize(
    ("name", "path", "count"),
    [
        ("gpt3-175b", "layers", 96),
        ("bert-large", "layers", 24),
        ("llama3-70b", "layers", 80),
        ("mixtral-8x7b", "layers", 32),
        ("t5-base", "decoder.layers", 12),
        ("vit-l16", "layers", 24),
    ],
)
def test_repeated_blocks_are_equal_siblings(name: str, path: str, count: int) -> None:
    module, _, _, _ = built(name)
    siblings = list(module.get_submodule(path).children())
    assert len(siblings) == count
    shapes = {tuple((key, value.shape) for key, value in sibling.named_parameters()) for sibling in siblings}
    assert len(shapes) == 1
