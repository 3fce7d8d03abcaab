"""Real training steps of every architecture at a small size: finite loss, gradients everywhere, descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra of the package")

from torch import nn  # noqa: E402

from worklode.frontend import zoo  # noqa: E402
from worklode.frontend.zoo import (  # noqa: E402
    bert,
    convolution,
    diffusion,
    gpt,
    inception,
    llama,
    mobilenet,
    moe,
    recommendation,
    recurrent,
    resnet,
    t5,
    vgg,
    vit,
)
from worklode.frontend.zoo.workload import random_ids, token_cross_entropy  # noqa: E402

SMALL_LLAMA = llama.LlamaConfig(
    width=32, layers=2, heads=4, key_value_heads=2, feed_forward_width=48, vocabulary=50, context=16
)


def images(module: nn.Module, size: int) -> Any:
    return convolution.image_classification("small", module, 4, "sgd-momentum", image=size)


def small_resnet(published: resnet.ResNetConfig) -> Any:
    return images(resnet.ResNet(replace(published, blocks=(1, 2), stem=8)), 32)


def small_gpt(published: gpt.GptConfig) -> Any:
    config = replace(published, width=32, layers=2, heads=4, context=16, vocabulary=50)
    return gpt.language_model("small", config, 3, 12)


def small_mobilenet() -> Any:
    config = replace(mobilenet.MOBILENET_V3_LARGE, blocks=mobilenet.MOBILENET_V3_LARGE.blocks[3:8:2])
    return images(mobilenet.MobileNetV3(config), 32)


def small_inception() -> Any:
    module = inception.InceptionV3(inception.InceptionConfig(divide=8, classes=10))
    targets = random_ids(10, 2)
    pictures = torch.randn(2, 3, inception.INCEPTION_V3.image, inception.INCEPTION_V3.image)
    return module, pictures, partial(two_losses, targets), "sgd-momentum"


def two_losses(targets: Any, outputs: Any) -> Any:
    return sum(token_cross_entropy(targets)(logits) for logits in outputs)


def small_vit() -> Any:
    module = vit.VisionTransformer(
        vit.VitConfig(width=32, layers=2, heads=4, feed_forward_width=48, patch=4, image=16, classes=10)
    )
    return module, torch.randn(4, 3, 16, 16), token_cross_entropy(random_ids(10, 4)), "adamw"


def small_gnmt() -> Any:
    module = recurrent.Gnmt(recurrent.GnmtConfig(width=16, vocabulary=50))
    inputs = {"source": random_ids(50, 6, 3), "target": random_ids(50, 5, 3)}
    return module, inputs, token_cross_entropy(random_ids(50, 5, 3), 0.1), "adam"


def small_unet() -> Any:
    config = diffusion.UnetConfig(
        width=16, multipliers=(1, 2), attention=(True, False), blocks=1, heads=2, context_width=24, context_tokens=5,
        latent_size=8, norm_groups=4,
    )  # fmt: skip
    return diffusion.noise_prediction(config, 2)


def small_dlrm() -> Any:
    config = recommendation.DlrmConfig(
        dense_features=3, table_rows=(5, 7, 11), embedding_width=4, bottom=(8,), top=(8, 6)
    )
    return recommendation.click_prediction(config, 16)


SMALL: dict[str, Callable[[], Any]] = {
    "mobilenet-v3-large": small_mobilenet,
    "resnet18": lambda: small_resnet(resnet.RESNET18),
    "inception-v3": small_inception,
    "resnext101-32x8d": lambda: small_resnet(resnet.RESNEXT101_32X8D),
    "vgg16": lambda: images(vgg.Vgg(vgg.VggConfig(stages=((1, 8), (2, 16)), image=16, hidden=32)), 16),
    "gnmt": small_gnmt,
    "bert-base": lambda: bert.pre_training(
        "small",
        bert.BertConfig(width=32, layers=2, heads=4, feed_forward_width=64, vocabulary=50, positions=16),
        3,
        12,
    ),
    "opt-1.3b": lambda: small_gpt(gpt.OPT_1_3B),
    "gpt2-xl": lambda: small_gpt(gpt.GPT2_XL),
    "resnet50": lambda: small_resnet(resnet.RESNET50),
    "vit-l16": small_vit,
    "t5-base": lambda: t5.span_corruption(
        "small",
        t5.T5Config(width=32, layers=2, heads=4, head_width=8, feed_forward_width=48, vocabulary=50),
        3,
        24,
    ),
    "llama3-8b": lambda: llama.language_model("small", SMALL_LLAMA, 3, 12),
    "mixtral-8x7b": lambda: llama.language_model(
        "small", SMALL_LLAMA, 3, 12, partial(moe.MixtureOfExperts, 32, 48, 4, 2)
    ),
    "dlrm": small_dlrm,
    "sd-unet": small_unet,
}
# Other sizes of an architecture that is in the list.
SAME_CODE = {
    "bert-large": "bert-base",
    "gpt3-175b": "gpt2-xl",
    "llama2-7b": "llama3-8b",
    "llama3-70b": "llama3-8b",
}


def test_every_model_of_the_zoo_has_a_small_one() -> None:
    assert set(SMALL) | set(SAME_CODE) == set(zoo.names())
    assert set(SAME_CODE.values()) <= set(SMALL)


def loss_of(module: nn.Module, inputs: Any, loss: Any) -> Any:
    return loss(module(**inputs) if isinstance(inputs, dict) else module(inputs))


@pytest.mark.parametrize("name", SMALL)
def test_a_step_trains_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    module, inputs, loss, _ = SMALL[name]()
    before = loss_of(module, inputs, loss)
    assert before.shape == ()
    assert torch.isfinite(before)
    before.backward()
    silent = []
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        gradient = parameter.grad.to_dense()
        assert torch.isfinite(gradient).all(), f"{key} has a gradient that is not finite"
        if not gradient.any():
            silent.append(key)
    # A bias in front of a batch normalisation has no effect; the zoo has none: what has no gradient is not wired.
    assert silent == []


@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_descend(name: str) -> None:
    torch.manual_seed(0)
    module, inputs, loss, _ = SMALL[name]()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    # Tables whose gradients are sparse have rows, not moments.
    sparse = any(getattr(part, "sparse", False) for part in module.modules())
    choice: Any = torch.optim.SGD if sparse else torch.optim.Adam
    optimizer = choice(module.parameters(), lr=0.1 if sparse else 3e-3)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss_of(module, inputs, loss)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    module, inputs, _, _ = SMALL[name]()
    module.eval()
    first, second = (module(**inputs) if isinstance(inputs, dict) else module(inputs) for _ in range(2))
    torch.testing.assert_close(first, second)
