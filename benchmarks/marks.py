"""Puts what a benchmark prints between two marks of a page; the rest of the page is written by hand."""

from __future__ import annotations

import sys
from pathlib import Path


def put(text: str, page: Path | None, program: str) -> None:
    """Write the text between the marks of `benchmarks/PROGRAM.py` in a page, or to the terminal where there is none.

    Raises:
        SystemExit: the page lacks the marks; it is left as it is.
    """
    if page is None:
        sys.stdout.write(text + "\n")
        return
    begin, end = (f"<!-- {edge}: benchmarks/{program}.py -->" for edge in ("begin", "end"))
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    if not rest or not after:
        raise SystemExit(f"{page} lacks the marks {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
