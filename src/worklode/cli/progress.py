"""Progress on standard error: only on a terminal, only for what lasts over a second, with the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
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
    """Bars of one command. A timer shows them, because a long step may say nothing while it lasts."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._closed = False
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._last: tuple[str, float, float] | None = None
        self._timer = Timer(_DELAY_S, self._open)
        self._timer.daemon = True
        self._timer.start()

    def update(self, label: str, done: float = 0.0, total: float = 0.0) -> None:
        with self._lock:
            self._last = (label, done, total)
            if self._progress is not None:
                self._show(self._progress, *self._last)

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._progress is not None:
                self._progress.stop()

    def _open(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._progress = _make_progress()
            self._progress.start()
            if self._last is not None:
                self._show(self._progress, *self._last)

    def _show(self, progress: Progress, label: str, done: float, total: float) -> None:
        if label not in self._bars:
            for bar in self._bars.values():
                progress.update(bar, visible=False)
            self._bars[label] = progress.add_task(label, total=total or None)
        progress.update(self._bars[label], completed=done, total=total or None)


def _make_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class WhereKnown(ProgressColumn):
        """A column for tasks whose end is known; nothing for others."""

        def __init__(self, column: ProgressColumn) -> None:
            super().__init__()
            self.column = column

        def render(self, task: Task) -> RenderableType:
            return Text("") if task.total is None else self.column(task)

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        WhereKnown(BarColumn()),
        WhereKnown(TextColumn("{task.completed:.0f}/{task.total:.0f}, left:")),
        WhereKnown(Remaining(compact=True)),
        console=Console(stderr=True),
        transient=True,
    )
