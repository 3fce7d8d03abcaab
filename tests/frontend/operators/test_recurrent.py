"""oneDNN's fused recurrent layer against the same layer taken apart by torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.frontend.call import Call
from worklode.frontend.operators import describe

from .recording import dispatched

size = st.integers(1, 6)


def matrix_flops(calls: list[Call]) -> int:
    return sum(part.work.matrix_flops for call in calls for part in describe(call))


def lstm_step(steps: int, batch: int, inputs: int, hidden: int) -> list[Call]:
    layer = torch.nn.LSTM(inputs, hidden)
    x = torch.randn(steps, batch, inputs, requires_grad=True)
    state = tuple(torch.randn(1, batch, hidden, requires_grad=True) for _ in range(2))
    return dispatched(lambda: layer(x, state)[0].sum().backward())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@settings(max_examples=15)
@given(size, size, size, size)
def test_fused_layers_execute_the_products_of_their_steps(steps: int, batch: int, inputs: int, hidden: int) -> None:
    fused = lstm_step(steps, batch, inputs, hidden)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        apart = lstm_step(steps, batch, inputs, hidden)
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
    assert "mkldnn_rnn_layer" in {c.packet for c in fused}
    assert "mkldnn_rnn_layer" not in {c.packet for c in apart}
    assert matrix_flops(fused) == matrix_flops(apart)
    layers = [describe(c)[0].work for c in fused if c.packet.startswith("mkldnn_rnn_layer")]
    assert [work.serial_steps for work in layers] == [steps, steps]
    (_, recurrence) = layers[0].products
    assert (recurrence.batch, recurrence.b_elements) == (steps, 4 * hidden * hidden)
