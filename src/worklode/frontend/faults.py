"""From an exception somewhere inside torch to a fault that names the user's line and the construct."""

from __future__ import annotations

import linecache
import re
import traceback
from pathlib import Path

import torch
from torch._subclasses import fake_tensor

from worklode.errors import CaptureError, Fault, InternalError, SpecError
from worklode.frontend.policy import REFUSED, DataDependentError

_OWN_FOLDER = str(Path(__file__).parent)
_LIBRARY_FOLDERS = (
    str(Path(torch.__file__).parent),
    _OWN_FOLDER,
    str(Path(traceback.__file__).parent),
    "<frozen",
    "<string",
)
_DATA_DEPENDENT = (
    DataDependentError,
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
)

_HIDDEN = (
    (
        r"no rule registered for HigherOrderOperator (\w+)",
        "torch's higher-order operator {0}",
        "the branch or loop written in Python",
    ),
    (
        "FlexAttention is only supported on",
        "flex_attention",
        "torch.nn.functional.scaled_dot_product_attention, with a mask or bias tensor where it is needed",
    ),
    (
        "self.shape_env must not be None",
        "rows of different lengths (torch.nested)",
        "padded tensors: the lengths are in the data",
    ),
)
"""Messages of torch that do not name what the user wrote: pattern, construct, what to write instead."""


def user_line(error: BaseException, user_file: Path | None = None) -> str:
    """`line 12: y = x[mask]` of the user's innermost frame, the file in front where it is not the user's own.

    Frames of `user_file` come first, then those outside of torch, Python's library and this package.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if user_file is not None and Path(frame.filename) == user_file]
    outside = [frame for frame in frames if not frame.filename.startswith(_LIBRARY_FOLDERS)]
    for found in (own, outside):
        if found:
            frame = found[-1]
            text = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            place = "" if own else f"{Path(frame.filename).name} "
            return f"{place}line {frame.lineno}: {text}"
    return ""


def step_fault(error: Exception, *, where: str, doing: str, user_file: Path | None = None) -> CaptureError:
    """The error to raise when the user's step failed.

    Args:
        error: what was raised.
        where: the workload.
        doing: what failed, "forward", "the loss", ...
        user_file: file the workload came from.

    Raises:
        InternalError: an assertion of this package failed.
    """
    if isinstance(error, SpecError):  # already told as it should be
        return error if isinstance(error, CaptureError) else CaptureError(*error.faults)
    if isinstance(error, AssertionError) and _raised_here(error):
        raise InternalError(f"{where}: {doing}: {error}") from error
    path = user_line(error, user_file)
    if isinstance(error, _DATA_DEPENDENT):
        return CaptureError(
            Fault(
                where=where,
                path=path,
                value=_construct(error),
                problem=f"{doing} depends on the values of tensors, and a capture has none",
                allowed="shapes, sizes and branches that follow from the shapes of the inputs",
            )
        )
    if isinstance(error, fake_tensor.UnsupportedOperatorException):
        return CaptureError(
            Fault(
                where=where,
                path=path,
                value=str(error.func),
                problem=f"{doing} uses an operator whose shapes torch cannot work out without running it",
                allowed="operators with a meta kernel (for an operator of your own: torch.library.register_fake)",
            )
        )
    for pattern, construct, allowed in _HIDDEN:
        found = re.search(pattern, str(error))
        if found is not None:
            value = construct.format(*found.groups())
            return CaptureError(
                Fault(
                    where=where,
                    path=path,
                    value=value,
                    problem=f"{doing} uses what a capture cannot follow",
                    allowed=allowed,
                )
            )
    text = " ".join(str(error).split()).partition(" Exception raised from")[0][:500]
    return CaptureError(Fault(where=where, path=path, problem=f"{doing} raised {type(error).__name__}: {text}"))


def _raised_here(error: BaseException) -> bool:
    """Whether an exception was raised by this package itself: a defect of ours, not the user's."""
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return innermost.startswith(_OWN_FOLDER) and not innermost.startswith(str(Path(_OWN_FOLDER) / "zoo"))


def _construct(error: BaseException) -> str:
    """The operator or Python construct that asked for values."""
    if isinstance(error, DataDependentError):
        return error.construct
    name = str(getattr(error, "func", "") or error)
    return REFUSED.get(name, name)
