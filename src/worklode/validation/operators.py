"""Work of single operators as the operator table describes them, and their time alone on a chip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worklode.cost.model import CostModel
from worklode.frontend.call import Call, TensorMeta
from worklode.frontend.operators import describe
from worklode.graph.work import Work, WorkItem
from worklode.hardware.accelerator import Accelerator

ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
# Assumption of the naive baseline: time to start a kernel [s].
ROOFLINE_START_S = 5e-6


def tensor(*shape: int, dtype: str = "float16") -> TensorMeta:
    """A contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return TensorMeta(shape=shape, strides=tuple(strides), dtype=dtype, element_bytes=ELEMENT_BYTES[dtype])


def call_item(
    name: str, args: tuple[object, ...], results: tuple[TensorMeta, ...], kwargs: tuple[tuple[str, object], ...] = ()
) -> WorkItem:
    """Work of one ATen call."""
    inputs = tuple(arg for arg in args if isinstance(arg, TensorMeta))
    call = Call(name=f"aten.{name}", args=args, kwargs=kwargs, results=results, inputs=inputs, outputs=results)
    (found,) = describe(call)
    assert found.exact, f"{name} has no model"
    return WorkItem(work=found.work, read_bytes=sum(found.read_bytes), write_bytes=sum(found.write_bytes))


def product(m: int, n: int, k: int, batch: int = 1, dtype: str = "float16") -> WorkItem:
    """C[m, n] = A[m, k] B[k, n], `batch` times."""
    a, b, c = (tensor(batch, *shape, dtype=dtype) for shape in ((m, k), (k, n), (m, n)))
    return call_item("bmm.default", (a, b), (c,))


def softmax(rows: int, cols: int, dtype: str = "float16") -> WorkItem:
    """Softmax of rows."""
    x = tensor(rows, cols, dtype=dtype)
    return call_item("_softmax.default", (x, -1, False), (x,))


def layer_norm(rows: int, cols: int, dtype: str = "float16") -> WorkItem:
    """LayerNorm of rows with scale and shift."""
    x, w, moment = tensor(rows, cols, dtype=dtype), tensor(cols, dtype=dtype), tensor(rows, 1, dtype="float32")
    return call_item("native_layer_norm.default", (x, (cols,), w, w, 1e-5), (x, moment, moment))


def rms_norm(rows: int, cols: int, dtype: str = "float16") -> WorkItem:
    """RMSNorm of rows with scale."""
    x, w, moment = tensor(rows, cols, dtype=dtype), tensor(cols, dtype=dtype), tensor(rows, 1, dtype="float32")
    return call_item("_fused_rms_norm.default", (x, (cols,), w, 1e-5), (x, moment))


def gelu(elements: int, dtype: str = "float16") -> WorkItem:
    """GELU."""
    x = tensor(elements, dtype=dtype)
    return call_item("gelu.default", (x,), (x,))


def add(elements: int, dtype: str = "float16") -> WorkItem:
    """Sum of two tensors."""
    x = tensor(elements, dtype=dtype)
    return call_item("add.Tensor", (x, x), (x,))


def silu_and_multiply(elements: int, dtype: str = "float16") -> WorkItem:
    """silu(gate)·up in one kernel; `elements` results."""
    x = tensor(elements, dtype=dtype)
    parts = [call_item("silu.default", (x,), (x,)), call_item("mul.Tensor", (x, x), (x,))]
    return _fused(parts, read_bytes=2 * x.bytes, write_bytes=x.bytes)


def rotary(elements: int, dtype: str = "float16") -> WorkItem:
    """Rotary embedding x·cos + rotated(x)·sin in one kernel; the tables of cos and sin stay on chip."""
    x = tensor(elements, dtype=dtype)
    multiply, total = call_item("mul.Tensor", (x, x), (x,)), call_item("add.Tensor", (x, x), (x,))
    return _fused([multiply, multiply, total], read_bytes=x.bytes, write_bytes=x.bytes)


def sequence_offsets(batch: int) -> WorkItem:
    """Kernel of a serving engine that adds up the lengths of the sequences: hardly more than its start."""
    return WorkItem(work=Work(simple_ops=batch), read_bytes=4 * batch, write_bytes=4 * batch)


def rotary_into_cache(batch: int, heads: int, seq: int, head_dim: int, dtype: str = "bfloat16") -> WorkItem:
    """Kernel before attention in a serving engine: packed Q, K, V in; Q and K rotated, K and V into the cache."""
    tokens = tensor(batch, heads, seq, head_dim, dtype=dtype)
    rotated = rotary(2 * tokens.elements, dtype)
    return _fused([rotated], read_bytes=3 * tokens.bytes, write_bytes=3 * tokens.bytes)


def causal_attention(batch: int, heads: int, seq: int, head_dim: int, dtype: str = "bfloat16") -> WorkItem:
    """Fused causal self-attention, forward."""
    x = tensor(batch, heads, seq, head_dim, dtype=dtype)
    lse = tensor(batch, heads, seq, dtype="float32")
    return call_item("_scaled_dot_product_flash_attention.default", (x, x, x, 0.0, True, False), (x, lse))


def _fused(parts: Sequence[WorkItem], *, read_bytes: int, write_bytes: int) -> WorkItem:
    """Parts in one kernel that passes its elements through the lanes once."""
    work = Work(
        simple_ops=sum(part.work.simple_ops for part in parts),
        special_ops=sum(part.work.special_ops for part in parts),
        vector_elements=(read_bytes + write_bytes) // 2,
    )
    return WorkItem(work=work, read_bytes=read_bytes, write_bytes=write_bytes)


def alone_s(items: Sequence[WorkItem], accelerator: Accelerator) -> NDArray[np.float64]:
    """[U] time of each item alone on the chip with its best allocation [s]: what a schedule of one operator takes."""
    return alone_with(CostModel(items), accelerator)


def alone_with(model: CostModel, accelerator: Accelerator) -> NDArray[np.float64]:
    """As `alone_s`, of the items of a model."""
    costs = model.on(accelerator)
    options = np.maximum(costs.compute_s, costs.hbm_bytes / accelerator.sustained_hbm_bytes_per_s)
    return np.asarray(np.minimum.reduceat(options, costs.option_start[:-1]))


def roofline_s(item: WorkItem, accelerator: Accelerator) -> float:
    """The naive baseline [s]: max(visible FLOPs / peak, bytes / pin bandwidth) + 5 us."""
    flops = sum(p.flops * (1.0 - p.masked_fraction) for p in item.work.products)
    moving_s = (item.read_bytes + item.write_bytes) / accelerator.hbm_bytes_per_s
    return max(flops / accelerator.peak_matrix_flops_per_s, moving_s) + ROOFLINE_START_S
