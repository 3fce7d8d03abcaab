"""Progress: nothing where nobody looks, nothing for what is quick, and shown where a long step says nothing more."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

PROGRAM = """
import time
from worklode.cli.progress import shown_progress
with shown_progress(quiet={quiet}) as progress:
    progress("building")
    time.sleep({first_s})
    progress("scheduling", 3, 20)
    time.sleep(0.3)
"""


def on_terminal(*, quiet: bool = False, first_s: float) -> str:
    """What the program writes to a terminal as its standard error."""
    ours, theirs = pty.openpty()
    program = PROGRAM.format(quiet=quiet, first_s=first_s)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", program], stderr=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the program has ended
                break
            if not chunk:
                break
            seen += chunk
        process.wait()
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


def test_a_long_silent_step_is_shown_with_the_time_left() -> None:
    seen = on_terminal(first_s=1.3)
    assert "building" in seen
    assert "3/20" in seen
    assert "left:" in seen


def test_quick_work_shows_nothing() -> None:
    assert on_terminal(first_s=0.0) == ""


def test_quiet_shows_nothing() -> None:
    assert on_terminal(quiet=True, first_s=1.3) == ""


def test_nothing_where_standard_error_is_a_file() -> None:
    program = PROGRAM.format(quiet=False, first_s=1.3)
    start_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert time.monotonic() - start_s > 1.3
    assert done.stderr == ""
