"""The directory of a bench: one file for every finished cell, so that an interrupted bench goes on where it stopped.

    bench.json              what was asked: settings that decide the cells, resolved
    manifest.json           versions, arguments, digests of the inputs, times
    references/WORKLOAD.json     what `mine` finds and proves
    cells/WORKLOAD.SEARCHER.SEED.json    a finished cell, every evaluation in it
    under_way/WORKLOAD.SEARCHER.SEED.json    where a long cell stands, of a searcher that can go on from there
    result.json, rows.csv, cells.csv, curves.csv, bench.html    what all of them say

A file appears complete or not at all. CPU times are measured once, when a cell is made; all else is computed from the
files, so a bench that was interrupted ends with the table its files say.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worklode.errors import Fault, SpecError
from worklode.study.run_directory import slug

SETTINGS = "bench.json"
_SOURCE = "source_sha256"
# Key of the settings that a directory may be gone on with others of.
MAY_CHANGE = "cells"
# Raised when a file of the directory changes its meaning.
BENCH_FORMAT = 2
_CELLS, _REFERENCES, _UNDER_WAY = "cells", "references", "under_way"


class BenchDirectory:
    """The files of one bench."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the directory, or go on with one that was made for the same settings.

        Those under `MAY_CHANGE` say which cells there are and not what is in them: they may be others.

        Raises:
            SpecError: the place holds something else, or a bench of other settings.
        """
        wanted = {"format": BENCH_FORMAT, **settings}
        place = self.path / SETTINGS
        if place.is_file():
            known, wanted = _read_json(place), json.loads(json.dumps(wanted))
            self._check_same(known, wanted)
            if known != wanted:
                write_atomically(place, _json(wanted))
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            problem, allowed = "holds something that is no bench", "a new or empty folder, or a bench to go on with"
            raise SpecError(Fault(where="--out", value=str(self.path), problem=problem, allowed=allowed))
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(place, _json(wanted))

    def settings(self) -> dict[str, Any]:
        """What the directory was made for.

        Raises:
            SpecError: it is no bench.
        """
        place = self.path / SETTINGS
        if not place.is_file():
            allowed = "a folder that `bench` wrote"
            raise SpecError(Fault(where=str(self.path), problem=f"is no bench: {SETTINGS} is missing", allowed=allowed))
        return _read_json(place)

    # What is kept was made by source with a digest (`study.sources`): what another source made is not there.

    def cell(self, workload: str, searcher: str, seed: int, *, source: str) -> dict[str, Any] | None:
        """The document of a finished cell; None where there is none, or a damaged one: it is then made again."""
        return _read_if_of(self._cell_path(workload, searcher, seed), source)

    def write_cell(self, workload: str, searcher: str, seed: int, document: Mapping[str, Any], *, source: str) -> None:
        """Keep a finished cell."""
        text = _json({**document, _SOURCE: source}, indent=None)
        write_atomically(self._cell_path(workload, searcher, seed), text)
        self._under_way_path(workload, searcher, seed).unlink(missing_ok=True)

    def under_way(self, workload: str, searcher: str, seed: int, *, source: str) -> dict[str, Any] | None:
        """Where a cell stands that is not finished; None as for `cell`."""
        return _read_if_of(self._under_way_path(workload, searcher, seed), source)

    def write_under_way(
        self, workload: str, searcher: str, seed: int, document: Mapping[str, Any], *, source: str
    ) -> None:
        """Keep where a cell stands."""
        text = _json({**document, _SOURCE: source}, indent=None)
        write_atomically(self._under_way_path(workload, searcher, seed), text)

    def reference(self, name: str, *, source: str) -> dict[str, Any] | None:
        """The document of anything else that takes long to make; None as for `cell`."""
        return _read_if_of(self._reference_path(name), source)

    def write_reference(self, name: str, document: Mapping[str, Any], *, source: str) -> None:
        """Keep it."""
        write_atomically(self._reference_path(name), _json({**document, _SOURCE: source}))

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table as CSV; all rows have the keys of the first. An empty one is no file."""
        if not rows:
            (self.path / name).unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".partial-") as partial:
            place = Path(partial) / name
            with place.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            place.replace(self.path / name)

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """A document."""
        write_atomically(self.path / name, json.dumps(document, indent=2, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Any other file."""
        write_atomically(self.path / name, text)

    def _cell_path(self, workload: str, searcher: str, seed: int) -> Path:
        return self.path / _CELLS / f"{_file_name(workload)}.{_file_name(searcher)}.{seed}.json"

    def _under_way_path(self, workload: str, searcher: str, seed: int) -> Path:
        return self.path / _UNDER_WAY / self._cell_path(workload, searcher, seed).name

    def _reference_path(self, workload: str) -> Path:
        return self.path / _REFERENCES / f"{_file_name(workload)}.json"

    def _check_same(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        names = dict.fromkeys((*wanted, *found))
        faults = [
            Fault(
                where=str(self.path / SETTINGS),
                path=name,
                value=json.dumps(found.get(name)),
                problem="was made with another setting",
                allowed=f"{json.dumps(wanted.get(name))}, or another --out",
            )
            for name in names
            if name != MAY_CHANGE and found.get(name) != wanted.get(name)
        ]
        if faults:
            raise SpecError(*faults)


def write_atomically(place: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=place.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).chmod(0o666 & ~_umask())
        Path(partial).replace(place)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _file_name(name: str) -> str:
    """A name as part of a file name; a digest keeps apart what the short form does not."""
    short = slug(name)
    return short if short == name else f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _json(document: Mapping[str, Any], indent: int | None = 1) -> str:
    return json.dumps(document, indent=indent, allow_nan=False) + "\n"


def _read_json(place: Path) -> dict[str, Any]:
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(Fault(where=str(place), problem=f"cannot be read: {error}")) from None
    if not isinstance(document, dict):
        raise SpecError(Fault(where=str(place), problem="is no object"))
    return document


def _read_if_of(place: Path, source: str) -> dict[str, Any] | None:
    """A document that this source made; None where there is none, or one that is damaged."""
    try:
        document = _read_json(place)
    except SpecError:
        return None
    return document if document.pop(_SOURCE, None) == source else None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
