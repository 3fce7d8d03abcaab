"""Gathers the faults of independent inputs, so that a command reports all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from worklode.errors import Fault, SpecError

T = TypeVar("T")


class Faults:
    """Faults found so far."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def collect(self, read: Callable[[], T]) -> T | None:
        """What `read` returns; None where it raises a SpecError, whose faults are kept."""
        try:
            return read()
        except SpecError as error:
            self.found.extend(error.faults)
            return None

    def add(self, where: str, problem: str, allowed: str) -> None:
        """Keep one more fault."""
        self.found.append(Fault(where=where, problem=problem, allowed=allowed))

    def finish(self) -> None:
        """Raise everything that was found.

        Raises:
            SpecError: with every fault.
        """
        if self.found:
            raise SpecError(*dict.fromkeys(self.found))
