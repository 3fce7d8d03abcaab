"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from worklode.report.quantity import MISSING


def markdown_table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Lines of a table of equal rows, an empty one behind it."""
    if not rows:
        yield MISSING
        return
    columns = list(rows[0])
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row[column].replace("|", "/") for column in columns) + " |"
    yield ""
