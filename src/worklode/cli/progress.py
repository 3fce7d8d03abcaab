"""Progress on standard error: only on a terminal, only for what lasts over a second, with the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_DELAY_S = 1.0


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Callable[..., None]]:
    """Give a callback `(label, done=0, total=0)`, total 0 where it is unknown.

    Its bars appear after a second and are gone at the end.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda label, done=0.0, total=0.0: None
        return
    display = _Display()
    try:
        yield display.update
    finally:
        display.close()


class _Display:
    """Bars of one command; rich is loaded when the first bar is due."""

    def __init__(self) -> None:
        self._start_s = monotonic()
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def update(self, label: str, done: float = 0.0, total: float = 0.0) -> None:
        if self._progress is None:
            if monotonic() - self._start_s < _DELAY_S:
                return
            self._progress = _make_progress()
            self._progress.start()
        if label not in self._bars:
            for bar in self._bars.values():
                self._progress.update(bar, visible=False)
            self._bars[label] = self._progress.add_task(label, total=total or None)
        self._progress.update(self._bars[label], completed=done, total=total or None)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _make_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
