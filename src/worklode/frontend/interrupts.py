"""Ctrl-C while torch's C++ code runs the step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_after() -> Iterator[None]:
    """Raise a KeyboardInterrupt of the block behind it, a second one at once.

    Autograd calls back into Python from C++ frames that an exception must not cross: some interrupts of a backward pass
    (4 of 90 of GPT-3's) ended the process with std::terminate (torch 2.13.0, measured 2026-11). Only the main thread is
    told of signals, so in others nothing is done.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            handler(number, frame)
        interrupted = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if interrupted:
            signal.raise_signal(signal.SIGINT)
