"""The cyclic garbage collector, held back while a graph is built."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collector_paused() -> Iterator[None]:
    """Hold the cyclic garbage collector back: a graph is many small objects without cycles that all live on.

    Measured on GPT-3 175B: a sixth of the time of loading and of fusion goes to collections that free nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
