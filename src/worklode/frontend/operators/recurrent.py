"""Fused cells of recurrent networks (their products are operators of their own), and oneDNN's whole layer.

σ(x) = 1/(1 + exp(-x)) is two simple and two special operations, tanh one special. Counts are per hidden unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from worklode.frontend.call import Call, Description
from worklode.frontend.operators.rule import (
    Lanes,
    Rule,
    flag,
    in_all,
    integer,
    matrix_product,
    on_lanes,
    on_tensor_cores,
    optional_tensor,
    same_rule,
    tensor,
)
from worklode.graph.operator import OperatorKind
from worklode.graph.work import Product

# LSTM: i, f, o = σ; g = tanh; sums of input and hidden parts 4; c' = f·c + i·g 3; h' = o·tanh(c') 1.
LSTM_CELL = Lanes(4 + 3 * 2 + 3 + 1, 3 * 2 + 1 + 1)
# dO = dh·tc·o·(1 - o) 4; dC = dc + dh·o·(1 - tc²) 5 and tanh(c'); dI, dF, dG 4 each; dc = dC·f 1.
LSTM_CELL_BACKWARD = Lanes(4 + 5 + 3 * 4 + 1, 1)
# GRU: r, z = σ after an add each; n = tanh(i + r·h) 2; h' = n + z·(h - n) 3.
GRU_CELL = Lanes(2 + 2 * 2 + 2 + 3, 2 * 2 + 1)
# dZ = dh·(h - n)·z·(1 - z) 5; dN = dh·(1 - z)·(1 - n²) 4; dHn = dN·r 1; dR = dN·hn·r·(1 - r) 4; dh·z 1.
GRU_CELL_BACKWARD = Lanes(5 + 4 + 1 + 4 + 1)
# tanh or ReLU cell: an add of the two parts and the activation; gradient: g·(1 - h²), and an add where both meet.
TANH_CELL, RELU_CELL = Lanes(1, 1), Lanes(2)
SIMPLE_CELL_BACKWARD = Lanes(3)
LSTM_GATES, GRU_GATES = 4, 3
BIASES = 2


def cell(per_unit: Lanes, gates: int, *, state: int, first_bias: int) -> Rule:
    """Rule of a cell with its state in `args[state]`; both biases add one operation to each gate."""

    def rule(call: Call) -> tuple[Description, ...]:
        units = tensor(call, state).elements
        biases = sum(optional_tensor(call, first_bias + i) is not None for i in range(BIASES))
        return on_lanes(call, OperatorKind.ELEMENTWISE, per_unit.plus(gates * biases).times(units))

    return rule


def lstm_cell_backward(call: Call) -> tuple[Description, ...]:
    """Gradients of the gates and the cell state; that of the biases adds the gates' over the batch."""
    units = tensor(call, 2).elements
    bias = LSTM_GATES if flag(call, 5) else 0
    return on_lanes(call, OperatorKind.ELEMENTWISE, LSTM_CELL_BACKWARD.plus(bias).times(units))


def gru_cell_backward(call: Call) -> tuple[Description, ...]:
    """Gradients of both sets of gates and the state; those of both biases add the gates' over the batch."""
    units = tensor(call, 0).elements
    bias = BIASES * GRU_GATES if flag(call, 2) else 0
    return on_lanes(call, OperatorKind.ELEMENTWISE, GRU_CELL_BACKWARD.plus(bias).times(units))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One direction of one layer: `steps` dependent steps of a batch."""

    steps: int
    batch: int
    inputs: int
    hidden: int
    gates: int
    element_bytes: int

    @property
    def units(self) -> int:
        """Hidden units computed."""
        return self.steps * self.batch * self.hidden


# torch's numbering of RNN modes: gates, forward and backward of the cell.
MODES: dict[int, tuple[int, Lanes, Lanes]] = {
    0: (1, RELU_CELL, SIMPLE_CELL_BACKWARD),
    1: (1, TANH_CELL, SIMPLE_CELL_BACKWARD),
    2: (LSTM_GATES, LSTM_CELL, LSTM_CELL_BACKWARD),
    3: (GRU_GATES, GRU_CELL, GRU_CELL_BACKWARD),
}


def _layer(call: Call, *, mode: int, hidden: int) -> Layer:
    x = tensor(call, 0)
    steps, batch, inputs = (*(1,) * (3 - len(x.shape)), *x.shape)
    return Layer(
        steps=steps,
        batch=batch,
        inputs=inputs,
        hidden=integer(call, hidden),
        gates=MODES[integer(call, mode)][0],
        element_bytes=x.element_bytes,
    )


def _forward_products(layer: Layer) -> tuple[Product, Product]:
    """All inputs at once (m = T·N); then T dependent products of the state with one weight."""
    width = layer.gates * layer.hidden
    return (
        matrix_product(m=layer.steps * layer.batch, n=width, k=layer.inputs, element_bytes=layer.element_bytes),
        matrix_product(
            batch=layer.steps,
            m=layer.batch,
            n=width,
            k=layer.hidden,
            element_bytes=layer.element_bytes,
            b=layer.hidden * width,
        ),
    )


def _backward_products(layer: Layer) -> tuple[Product, ...]:
    """Input gradient, T state gradients, and both weight gradients over all steps."""
    width, rows = layer.gates * layer.hidden, layer.steps * layer.batch
    size = layer.element_bytes
    return (
        matrix_product(m=rows, n=layer.inputs, k=width, element_bytes=size),
        matrix_product(
            batch=layer.steps, m=layer.batch, n=layer.hidden, k=width, element_bytes=size, b=width * layer.hidden
        ),
        matrix_product(m=width, n=layer.inputs, k=rows, element_bytes=size),
        matrix_product(m=width, n=layer.hidden, k=rows, element_bytes=size),
    )


def layer_forward(call: Call) -> tuple[Description, ...]:
    """`mkldnn_rnn_layer(x, weights, state, ..., mode, hidden, ...)`: one direction of one layer."""
    layer = _layer(call, mode=9, hidden=10)
    biases = BIASES * layer.gates if flag(call, 12) else 0
    lanes = MODES[integer(call, 9)][1].plus(biases).times(layer.units)
    return _whole(call, layer, _forward_products(layer), lanes)


def layer_backward(call: Call) -> tuple[Description, ...]:
    """`mkldnn_rnn_layer_backward`: gates are kept in the workspace; bias gradients add over batch and steps."""
    layer = _layer(call, mode=14, hidden=15)
    biases = BIASES * layer.gates if flag(call, 17) else 0
    lanes = MODES[integer(call, 14)][2].plus(biases).times(layer.units)
    return _whole(call, layer, _backward_products(layer), lanes)


def _whole(call: Call, layer: Layer, products: tuple[Product, ...], lanes: Lanes) -> tuple[Description, ...]:
    """Gates and states pass the lanes; every step waits for the one before."""
    streamed = (layer.gates * 2 + 2) * layer.units
    return on_tensor_cores(
        call,
        OperatorKind.MATMUL,
        products,
        epilogue=in_all(lanes),
        epilogue_elements=streamed,
        serial_steps=layer.steps,
    )


RULES: dict[str, Rule] = {
    "_thnn_fused_lstm_cell": cell(LSTM_CELL, LSTM_GATES, state=2, first_bias=3),
    "_thnn_fused_gru_cell": cell(GRU_CELL, GRU_GATES, state=2, first_bias=3),
    **same_rule(lstm_cell_backward, "_thnn_fused_lstm_cell_backward", "_thnn_fused_lstm_cell_backward_impl"),
    "_thnn_fused_gru_cell_backward": gru_cell_backward,
    "mkldnn_rnn_layer": layer_forward,
    "mkldnn_rnn_layer_backward": layer_backward,
}
