"""Run directories: everything one run was given and found, in plain files.

    manifest.json   versions, arguments, digests of the inputs, times
    config.yaml     every setting, resolved
    designs.csv     every design that was evaluated
    result.json     the document of `--json`
    trace.json      the schedule of the best design, for ui.perfetto.dev

A directory appears complete or not at all: it is written under another name beside its place and then renamed.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import worklode
from worklode.errors import Fault, SpecError
from worklode.study.cache import file_digest, workload_file

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
DESIGNS = "designs.csv"
RESULT = "result.json"
TRACE = "trace.json"

# Raised when a file of the directory changes its meaning.
FORMAT_VERSION = 1
_DEFAULT_PARENT = "runs"
_VERSIONED_PACKAGES = ("torch", "transformers", "numpy", "numba")
_MAX_NAME_LENGTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """What a run directory is made of.

    Attributes:
        command: the worklode command.
        arguments: the command line after the program's name.
        inputs: workloads, presets and files as the user named them; files among them are recorded with a digest.
        started, finished: wall-clock times, with time zone.
        config: every setting, resolved; plain values, mappings and sequences.
        result: the document of `--json`.
        designs: one mapping per evaluated design, all with the same keys; None where the command evaluates one only.
        trace: events for Perfetto, as the text of a JSON file, or None.
    """

    command: str
    arguments: Sequence[str]
    inputs: Sequence[str]
    started: datetime
    finished: datetime
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    designs: Sequence[Mapping[str, Any]] | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run directory that was read."""

    path: Path
    manifest: Mapping[str, Any]
    result: Mapping[str, Any]


def check_destination(out: Path | None) -> None:
    """Refuse a place that holds something already or cannot be written, before any work is done for it.

    Args:
        out: where; None is the default, a new folder in `runs` under the working directory.

    Raises:
        SpecError: `out` exists and is not an empty folder, or the place is no folder that can be written.
    """
    if out is None:
        _check_writable(Path(_DEFAULT_PARENT) / "new", where="the run directory", allowed="--out DIR elsewhere")
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise SpecError(
            Fault(
                where="--out",
                value=str(out),
                problem="exists already",
                allowed="a new or empty folder; runs are never overwritten",
            )
        )
    _check_writable(out, where="--out")


def _check_writable(place: Path, *, where: str, allowed: str = "") -> None:
    """Refuse a place whose nearest existing parent is no folder one may write to."""
    for parent in place.absolute().parents:
        if parent.exists():
            if not parent.is_dir() or not os.access(parent, os.W_OK):
                problem = f"{parent} is no folder that can be written"
                raise SpecError(Fault(where=where, value=str(place), problem=problem, allowed=allowed))
            return


def write_run(content: RunContent, *, out: Path | None, name: str) -> Path:
    """Write a run directory and return its path.

    Args:
        content: what goes in.
        out: where; None takes the first free `runs/NAME-N` under the working directory.
        name: what a default name is made of, usually the workload.

    Raises:
        SpecError: `out` holds something already.
        OSError: the place cannot be written.
    """
    if out is not None:
        check_destination(out)
    parent = Path(_DEFAULT_PARENT) if out is None else out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=parent, prefix=".partial-"))
    try:
        _write_files(content, partial)
        partial.chmod(0o777 & ~_umask())  # mkdtemp's 0700 would hide a run from colleagues
        return _publish(partial, out, parent, name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        SpecError: it is none, or was written by a later version.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        result = json.loads((path / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise SpecError(Fault(where=str(path), problem=f"is no run directory: {missing} is missing")) from None
    except (OSError, ValueError) as error:
        raise SpecError(Fault(where=str(path), problem=f"cannot be read: {error}")) from None
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION:
        raise SpecError(
            Fault(
                where=str(path / MANIFEST),
                path="format_version",
                value=repr(found),
                problem="is not known",
                allowed=str(FORMAT_VERSION),
            )
        )
    return Run(path=path, manifest=manifest, result=result)


def slug(name: str) -> str:
    """`name` as part of a file name: `models/net.py:make` becomes `net-make`."""
    base = re.split(r"[/\\]", name)[-1]
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", base.replace(".py:", "-")).strip("-.")
    return cleaned[:_MAX_NAME_LENGTH] or "run"


def _publish(partial: Path, out: Path | None, parent: Path, name: str) -> Path:
    if out is not None:
        partial.replace(out)  # fails on a folder that has been filled meanwhile
        return out
    number = 1
    while True:
        target = parent / f"{slug(name)}-{number}"
        try:
            # Renaming onto an empty folder would succeed; making it first shows whether the name is free.
            target.mkdir()
        except FileExistsError:
            number += 1
            continue
        partial.replace(target)
        return target


def _write_files(content: RunContent, folder: Path) -> None:
    _write_json(folder / MANIFEST, manifest(content))
    _write_yaml(folder / CONFIG, content.config)
    _write_json(folder / RESULT, content.result)
    if content.designs is not None:
        _write_csv(folder / DESIGNS, content.designs)
    if content.trace is not None:
        (folder / TRACE).write_text(content.trace, encoding="utf-8")


def manifest(content: RunContent) -> dict[str, Any]:
    """What a run was: versions, arguments, digests of its inputs, times."""
    files = {name: path for name in content.inputs if (path := workload_file(name)) is not None}
    return {
        "format_version": FORMAT_VERSION,
        "worklode": worklode.__version__,
        "command": content.command,
        "arguments": list(content.arguments),
        "inputs": [
            {"name": name, "sha256": file_digest(files[name]) if name in files else None} for name in content.inputs
        ],
        "started": content.started.isoformat(timespec="milliseconds"),
        "finished": content.finished.isoformat(timespec="milliseconds"),
        "wall_time_s": (content.finished - content.started).total_seconds(),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in _VERSIONED_PACKAGES}},
        "platform": platform.platform(),
        "seeds": {},  # nothing in a run is random
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_yaml(path: Path, document: Mapping[str, Any]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(_plain(document), stream)


def _plain(value: Any) -> Any:
    """`value` with what YAML has no plain form for (paths, enumerations, tuples) as text and lists."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)


def _write_csv(path: Path, designs: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        if designs:
            writer = csv.DictWriter(stream, fieldnames=list(designs[0]))
            writer.writeheader()
            writer.writerows(designs)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
