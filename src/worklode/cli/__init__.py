"""The command line: reads arguments, calls `worklode.api`, prints one document or tables. Entry point `main`."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from worklode.cli.outcome import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_DEFECT,
    EXIT_INTERRUPTED,
    Outcome,
    print_error,
    print_outcome,
)
from worklode.errors import Fault, SpecError, WorklodeError

# What the operating system refuses is no defect: no such folder, no permission, a full disk, a name that is too long.
_REFUSALS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENAMETOOLONG),
}


def main() -> None:
    """Run the command line of this process and exit with its status."""
    # A command makes many long-lived records and hardly any cycles: looking for cycles every 700 new objects cost a
    # tenth of a warm `mine` and freed 2 MB of 183 (bert-large, measured 2026-11).
    gc.set_threshold(200_000, 20, 20)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (until exit)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; nothing is raised for what a user can mend."""
    from typer.exceptions import TyperException

    from worklode.cli.app import app

    as_json = "--json" in arguments
    try:
        # Commands return an Outcome; help and an interrupt come back as exit statuses.
        result = app(args=list(arguments), prog_name="worklode", standalone_mode=False)
        if isinstance(result, Outcome):
            print_outcome(result, as_json=as_json, quiet="--quiet" in arguments or "-q" in arguments)
            return result.exit_code
        status = int(result or 0)
        if status == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        return status
    except KeyboardInterrupt:
        print_error(WorklodeError("interrupted"), exit_code=EXIT_INTERRUPTED, as_json=as_json)
        return EXIT_INTERRUPTED
    except TyperException as error:
        return _usage_error(error, as_json=as_json)
    except WorklodeError as error:
        print_error(error, exit_code=error.exit_code, as_json=as_json)
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone: nothing is left to say, and Python must not say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:  # the last line of defence: a defect is reported, never dumped
        if os.environ.get("WORKLODE_TRACEBACK"):
            raise
        if _is_refusal(error):
            return _refused(error, as_json=as_json)
        print_error(error, exit_code=EXIT_DEFECT, as_json=as_json)
        return EXIT_DEFECT


def _is_refusal(error: Exception) -> TypeGuard[OSError]:
    """Did the operating system refuse something of the user's? Our own files are ours to have in place."""
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return False
    return error.filename is None or not Path(str(error.filename)).is_relative_to(Path(__file__).parents[1])


def _refused(error: OSError, *, as_json: bool) -> int:
    """Report what the operating system refused; standard output may be what is full."""
    place = "standard output" if error.filename is None else str(error.filename)
    fault = Fault(where=place, problem=(error.strerror or str(error)).lower())
    writable = as_json and error.filename is not None
    print_error(SpecError(fault), exit_code=EXIT_BAD_INPUT, as_json=writable)
    if error.filename is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BAD_INPUT


def _usage_error(error: Exception, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "worklode"
    message = getattr(error, "format_message", error.__str__)()
    if message.strip():
        problem = message[0].lower() + message[1:].rstrip(".")
        fault = Fault(where=command, problem=f"{problem} (see {command} --help)")
        print_error(SpecError(fault), exit_code=EXIT_BAD_INPUT, as_json=as_json)
    else:  # no command at all: the help itself is the message
        sys.stderr.write(context.get_help() + "\n" if context is not None else "see worklode --help\n")
    return EXIT_BAD_INPUT
