"""Compilation of hot loops: numba's `njit` with a declared signature, cached on disk, no fast-math (reproducible).

Declared signatures compile at import, so a first import (`python -m worklode.warmup`) leaves nothing to compile later.
Numba's cache notices a change in the file of a kernel only: kernels that call one another, and the constants they use,
live in one file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def compiled(signature: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function of numbers and C-contiguous arrays for this signature; it releases the GIL."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return cast(Callable[P, R], njit(signature, cache=True, nogil=True, error_model="numpy")(function))

    return decorate
