"""Reference tables: where they are, how a row is read, which half of the rows a fit may see."""

from __future__ import annotations

import csv
import os
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from worklode.errors import Fault, SpecError
from worklode.validation.score import Skipped

Row = Mapping[str, str]

# Devices of the tables and the presets they are.
PRESET_OF_DEVICE: Mapping[str, str] = {
    "A100-SXM4-80GB": "a100-80gb",
    "A100 (device not stated)": "a100-80gb",
    "H100-SXM-80GB": "h100",
    "H100-SXM5-80GB": "h100",
}


def data_folder(given: Path | None) -> Path:
    """Folder of the reference tables: the one given, else that of WORKLODE_DATA, else `../shared/data` of a checkout.

    Raises:
        SpecError: there is none.
    """
    named = given or (Path(os.environ["WORKLODE_DATA"]) if os.environ.get("WORKLODE_DATA") else None)
    folder = named or Path(__file__).parents[3].parent / "shared" / "data"
    if not folder.is_dir():
        where, value = ("--data", str(given)) if given else ("WORKLODE_DATA", str(named) if named else "not set")
        raise SpecError(
            Fault(
                where=where,
                value=value,
                problem="no folder of reference tables",
                allowed="a folder with the tables of docs/validation.md, by --data or WORKLODE_DATA",
            )
        )
    return folder


def read_table(folder: Path, name: str, needed: tuple[str, ...]) -> list[Row]:
    """Rows of a table.

    Raises:
        SpecError: it is absent, empty, or lacks a column.
    """
    path = folder / name
    if not path.is_file():
        raise SpecError(Fault(where=str(path), problem="reference table is absent"))
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows: list[Row] = list(reader)
    missing = [column for column in needed if column not in (reader.fieldnames or ())]
    if missing or not rows:
        problem = f"columns are missing: {', '.join(missing)}" if missing else "has no rows"
        raise SpecError(Fault(where=str(path), problem=problem))
    return rows


def fitted_half(row: Row) -> bool:
    """Whether a fit may see this row: a coin tossed by the row's own text, so that other rows do not change it."""
    return zlib.crc32("\x1f".join(f"{key}={row[key]}" for key in sorted(row)).encode()) % 2 == 0


class Sieve:
    """Counts what is left out of a table, by reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def out(self, reason: str) -> None:
        """Leave one row out."""
        self._counts[reason] += 1

    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out, most first."""
        return tuple(Skipped(count=count, reason=reason) for reason, count in self._counts.most_common())
