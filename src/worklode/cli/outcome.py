"""What a command hands back, and how it is printed: one JSON document, or tables; messages go to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worklode.errors import InternalError, SpecError, WorklodeError

if TYPE_CHECKING:
    from rich.console import RenderableType

EXIT_OK = 0
EXIT_DEFECT = 1
EXIT_BAD_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_OUT_OF_TIME = 4
EXIT_INTERRUPTED = 130
# 128 + SIGPIPE: what a shell reports of any program whose reader (head, less) has gone.
EXIT_BROKEN_PIPE = 141

# Width of tables where standard output is no terminal: fits a page and the widest table.
_FILE_WIDTH = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of a command.

    Attributes:
        document: what `--json` prints.
        report: makes what is printed otherwise; called only then, so rich is not loaded for JSON.
        messages: lines for standard error after the result (where files were written).
        exit_code: exit status of the process.
    """

    document: Mapping[str, Any]
    report: Callable[[], Iterable[RenderableType]]
    messages: tuple[str, ...] = ()
    exit_code: int = EXIT_OK


def print_outcome(outcome: Outcome, *, as_json: bool, quiet: bool) -> None:
    """Print the result on standard output and the messages on standard error.

    Raises:
        InternalError: the document holds what JSON cannot say (NaN, infinity).
    """
    if as_json:
        sys.stdout.write(json_text(outcome.document))
    else:
        sys.stdout.write(report_text(outcome.report()))
    sys.stdout.flush()
    if not quiet:
        for message in outcome.messages:
            sys.stderr.write(f"{message}\n")


def json_text(document: Mapping[str, Any]) -> str:
    """JSON text of a document, ending in a newline."""
    try:
        return json.dumps(document, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise InternalError(f"a result holds a number that JSON has no word for: {error}") from error


def report_text(parts: Iterable[RenderableType]) -> str:
    """Text of a report as wide as the terminal; colour only on a terminal and without NO_COLOR."""
    from rich.console import Console

    width = None
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        width = _FILE_WIDTH
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    # Tables pad their last column, which only shows where the text is copied or compared.
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def error_document(error: BaseException, exit_code: int) -> dict[str, Any]:
    """JSON form of an error: `{"error": {kind, message, exit_code, faults}}`."""
    faults = (
        [
            {"where": f.where, "path": f.path, "value": f.value, "problem": f.problem, "allowed": f.allowed}
            for f in error.faults
        ]
        if isinstance(error, SpecError)
        else []
    )
    kind = {EXIT_BAD_INPUT: "bad_input", EXIT_INTERRUPTED: "interrupted"}.get(exit_code, "defect")
    return {"error": {"kind": kind, "message": str(error), "exit_code": exit_code, "faults": faults}}


def print_error(error: BaseException, *, exit_code: int, as_json: bool) -> None:
    """Error lines on standard error, without a traceback; with `--json` also a document on standard output."""
    if isinstance(error, SpecError):
        lines = [f"error: {fault}" for fault in error.faults]
    elif isinstance(error, WorklodeError) and not isinstance(error, InternalError):
        lines = [f"error: {error}"]
    else:
        lines = _defect_report(error)
    sys.stderr.write("\n".join(lines) + "\n")
    if as_json:
        sys.stdout.write(json_text(error_document(error, exit_code)))


def _defect_report(error: BaseException) -> list[str]:
    import platform
    import shlex
    import traceback

    from worklode import __version__

    frames = traceback.extract_tb(error.__traceback__)
    where = [f"         {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-3:]]
    return [
        f"error: a defect of worklode, not of your input: {type(error).__name__}: {error}",
        *where,
        "Please file it with this report and the workload, if it can be shared:",
        f"         worklode {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"         {shlex.join(['worklode', *sys.argv[1:]])}",
        "         (WORKLODE_TRACEBACK=1 prints the whole traceback)",
    ]
