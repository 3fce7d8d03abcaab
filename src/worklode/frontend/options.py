"""What the user may choose about a capture, checked in one place. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches

from worklode.errors import CaptureError, Fault

DTYPES = ("bf16", "fp32", "fp16", "amp")
RECOMPUTE = ("none", "full")
OPTIMIZERS = ("sgd", "sgd-momentum", "adam", "adamw")
DEFAULT_OPTIMIZER = "adamw"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """Options of one capture.

    Attributes:
        batch: samples of one microbatch, None for the workload's own default.
        seq_len: tokens of one sample, None for the workload's own default.
        optimizer: name in `OPTIMIZERS`, a callable from a list of parameters to a torch optimizer, or None for the
            workload's own (AdamW where it has none).
        dtype: "bf16" and "fp16" cast parameters, buffers and inputs; "fp32" casts them to float32; "amp" keeps float32
            parameters and runs forward under bfloat16 autocast.
        recompute: "full" checkpoints every instance of every repeated block.
        accumulation_steps: microbatches whose gradients are summed before the optimizer runs.
    """

    batch: int | None = None
    seq_len: int | None = None
    optimizer: str | Callable[..., object] | None = None
    dtype: str = "bf16"
    recompute: str = "none"
    accumulation_steps: int = 1

    def check(self) -> None:
        """Raise every fault of the options at once.

        Raises:
            CaptureError: an option has a value that is not allowed.
        """
        faults = []
        for name, allowed in (("dtype", DTYPES), ("recompute", RECOMPUTE)):
            value = getattr(self, name)
            if value not in allowed:
                faults.append(_unknown(name, value, allowed))
        if isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS:
            faults.append(_unknown("optimizer", self.optimizer, OPTIMIZERS))
        elif self.optimizer is not None and not isinstance(self.optimizer, str) and not callable(self.optimizer):
            faults.append(_unknown("optimizer", self.optimizer, (*OPTIMIZERS, "a callable from parameters")))
        for name in ("batch", "seq_len", "accumulation_steps"):
            value = getattr(self, name)
            if value is None and name != "accumulation_steps":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                faults.append(
                    Fault(
                        where="capture options",
                        path=name,
                        value=repr(value),
                        problem="not a positive whole number",
                        allowed="1, 2, 3, ...",
                    )
                )
        if faults:
            raise CaptureError(*faults)

    def resolved(self, **found: object) -> tuple[tuple[str, str], ...]:
        """Sorted (option, text) pairs with the values the capture ended up using in place of None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)} | found
        return tuple(sorted((name, option_text(value)) for name, value in values.items() if value is not None))


def option_text(value: object) -> str:
    """The text of an option that is equal in every process: a callable by its qualified name, never its address."""
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return str(value)


def near(name: str, known: tuple[str, ...]) -> str:
    """The known names with the likeliest ones, if any, in front: ready for `Fault.allowed`."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    names = ", ".join(known) or "nothing"
    return f"did you mean {' or '.join(close)}? ({names})" if close else names


def _unknown(option: str, value: object, allowed: tuple[str, ...]) -> Fault:
    return Fault(
        where="capture options",
        path=option,
        value=repr(value) if isinstance(value, str) else option_text(value),
        problem=f"unknown {option}",
        allowed=near(str(value), allowed),
    )
