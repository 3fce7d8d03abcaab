"""Fast Fourier transforms: 5·N·log2 N operations for a complex transform of N values, half of it for a real one.

The count is that of a radix-2 transform (Cooley and Tukey 1965: N/2·log2 N butterflies of one complex multiply and
two complex adds, 6 + 4 = 10), the convention of FFTW's benchmarks (www.fftw.org/speed). A scale by 1/N is one more.
"""

from __future__ import annotations

from math import ceil, log2

from worklode.frontend.call import Call, Description, TensorMeta
from worklode.frontend.operators.rule import Lanes, Rule, ceil_log2, dimension, integer, integers, on_lanes, tensor
from worklode.graph.operator import OperatorKind

COMPLEX_OPS = 5.0


def transform_ops(lengths: tuple[int, ...], points: int, *, real: bool) -> int:
    """Operations of transforms along each of `lengths` over `points` values in all, rounded up."""
    per_point = COMPLEX_OPS * sum(log2(n) for n in lengths if n > 1)
    return ceil(points * per_point * (0.5 if real else 1.0))


def fourier(call: Call) -> tuple[Description, ...]:
    """`_fft_c2c`, `_fft_r2c`, `_fft_c2r`: the group that has to be held is one line of the longest dimension."""
    x, result = tensor(call, 0), call.outputs[0]
    real = call.packet != "_fft_c2c"
    # The real side has the whole length; the complex side of a one-sided transform a half.
    full: TensorMeta = result if call.packet == "_fft_c2r" else x
    dims = [dimension(d, len(full.shape)) for d in integers(call, 1)]
    lengths = tuple(full.shape[d] for d in dims)
    simple = transform_ops(lengths, full.elements, real=real)
    if integer(call, 2) != 0:
        simple += result.elements * (2 if result.dtype.startswith("complex") else 1)
    return on_lanes(
        call,
        OperatorKind.SCAN,
        Lanes(simple),
        reduction_bytes=max(lengths, default=0) * x.element_bytes if full.elements else 0,
        serial_steps=sum(ceil_log2(n) for n in lengths),
    )


RULES: dict[str, Rule] = {"_fft_c2c": fourier, "_fft_r2c": fourier, "_fft_c2r": fourier}
