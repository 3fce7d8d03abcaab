"""Compilation of hot loops: numba's `njit`, typed, cached on disk, without fast-math so that results are reproducible.

Numba's cache notices a change in the file of a kernel, not in the files of the kernels it calls: kernels that call one
another live in one file.
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


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of numbers and arrays at its first call, release the GIL in it, and keep it on disk."""
    return cast(Callable[P, R], njit(cache=True, nogil=True, error_model="numpy")(function))
