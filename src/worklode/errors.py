"""Errors and faults: what users can mend is a `SpecError`, an impossible budget is a value, the rest is a defect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with an input.

    Attributes:
        where: file, command-line option or function the input came from.
        path: place inside it (`accelerator.tensor_cores.rows`, line, argument), or "".
        value: what was found, as text, or "" where nothing was found.
        problem: what is wrong with it, a clause without a full stop.
        allowed: what would be accepted, or "".
    """

    where: str
    path: str = ""
    value: str = ""
    problem: str
    allowed: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: {self.path}" if self.path else self.where
        found = f" (found {self.value})" if self.value else ""
        remedy = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{place}: {self.problem}{found}{remedy}"


class WorklodeError(Exception):
    """Base of every error this package raises on purpose. `exit_code` is the command line's."""

    exit_code = 1


class SpecError(WorklodeError):
    """Bad input: carries every fault found at once. Exit code 2."""

    exit_code = 2

    def __init__(self, *faults: Fault) -> None:
        assert faults, "a SpecError without a fault says nothing"
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class CaptureError(SpecError):
    """A workload that cannot be captured: the construct and the user's line are in the fault. Exit code 2."""


class InternalError(WorklodeError):
    """A broken invariant of ours (negative cost, utilisation above 1, invalid schedule). Exit code 1."""
