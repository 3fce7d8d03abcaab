"""An entry of the catalogue: a small training step, and all that makes it different from the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Build = Callable[[], tuple[Any, ...]]
"""Returns (module, inputs), (module, inputs, loss) or (module, inputs, loss, optimizer): a workload function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A training step to capture.

    Attributes:
        name: of the function that builds it.
        shows: what is special about it.
        build: makes module, inputs and so on; called once where nothing is allocated, once for the real step.
        options: of the capture; float32 unless said otherwise, since the CPU of the real step has no better.
        fallback: operators that only the fallback describes, with the reason.
        notes: beginnings of the decisions that capture has to announce.
        count: matrix FLOPs of forward and of backward, counted by hand, where the real step is not the reference.
        why_counted: why it is not.
        configuration: of a Hugging Face model, or None; captured from a `config.json`.
    """

    name: str
    shows: str
    build: Build
    options: dict[str, Any] = field(default_factory=dict)
    fallback: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    count: Callable[[], tuple[int, int]] | None = None
    why_counted: str = ""
    configuration: dict[str, Any] | None = None


def training_step(shows: str, **rest: Any) -> Callable[[Build], Entry]:
    """Turn a build function into an entry of its name."""
    return lambda build: Entry(name=build.__name__.replace("_", "-"), shows=shows, build=build, **rest)
