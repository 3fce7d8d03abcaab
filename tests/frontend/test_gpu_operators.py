"""Operators that are one kernel on a GPU stay whole on the fake device."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra of the package")

from torch import nn  # noqa: E402

from worklode.frontend import CaptureOptions, Workload, capture, capture_module  # noqa: E402
from worklode.frontend.zoo.llama import LlamaConfig, language_model  # noqa: E402
from worklode.graph.operator import Phase  # noqa: E402

ROWS, WIDTH = 6, 8


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "amp"])
@pytest.mark.parametrize(("activation", "name"), [(nn.SiLU, "aten.silu"), (nn.Mish, "aten.mish")])
def test_the_gradient_of_an_activation_is_one_operator(activation: type[nn.Module], name: str, dtype: str) -> None:
    """It reads the gradient and the input of the activation, which is all that is kept, and writes one gradient."""
    module: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), activation())  # noqa: E731
    graph = capture_module(module, torch.randn(ROWS, WIDTH), options=CaptureOptions(dtype=dtype))
    inside = [o for o in graph.operators if o.module == "1" and o.phase is Phase.BACKWARD]
    assert [o.name for o in inside] == [f"{name}_backward"]
    size = ROWS * WIDTH * (4 if dtype == "fp32" else 2)
    assert [access.bytes for access in inside[0].reads] == [size, size]
    assert [access.bytes for access in inside[0].writes] == [size]


def test_a_llama_layer_has_one_gradient_of_its_gate() -> None:
    layers = 3
    config = LlamaConfig(
        width=32, layers=layers, heads=4, key_value_heads=2, feed_forward_width=48, vocabulary=40, context=16
    )
    graph = capture(Workload(name="llama", make=lambda: language_model("llama", config, 1, 16)))
    modules = [o.module for o in graph.operators if o.name == "aten.silu_backward"]
    assert len(modules) == len(set(modules)) == layers
    assert not any(o.name in ("aten.sigmoid", "aten.rsub", "aten.fill_", "aten.sub_") for o in graph.operators)
