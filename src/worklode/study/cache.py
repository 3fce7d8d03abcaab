"""Keeps captured graphs between runs, so that a workload is captured once.

An entry is found by everything that decides a capture and can be known before it: the workload's name and, for a file,
its content; the options; the versions of torch, transformers and this package; the source of the packages that record.
What only the capture itself finds out - the user's own modules its workload file imported - is written into the entry
and compared when the entry is used. Data a workload file reads is not seen: `--no-cache` captures again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import worklode
from worklode.errors import Fault, SpecError
from worklode.graph.file import GRAPH_SUFFIX, load_graph, save_graph
from worklode.graph.training_graph import TrainingGraph

_ENTRY_SUFFIX = ".entry.json"
# Packages whose versions decide what is recorded.
_RECORDED_PACKAGES = ("torch", "transformers")
# Our own packages whose source decides what is recorded, and how it is written.
_RECORDING_SOURCES = ("frontend", "graph")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary:
    """Where the cache is, how many graphs it holds, and their size [bytes]."""

    folder: Path
    graphs: int
    bytes: int


def cache_folder() -> Path:
    """Folder of the cache: `WORKLODE_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("WORKLODE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("worklode", appauthor=False)


def cached_graph(
    workload: str,
    options: Mapping[str, object],
    make: Callable[[], TrainingGraph],
    *,
    note: Callable[[str], None] = lambda text: None,
    refresh: bool = False,
) -> TrainingGraph:
    """The graph of `workload` under `options`: from the cache where an entry fits, else made and put there.

    Args:
        workload: as the user wrote it; a file in it is read for its content.
        options: everything that decides the capture besides the workload; compared by name and text.
        make: captures the graph.
        note: is told what the user should know: a damaged entry, a cache that cannot be written.
        refresh: capture even where an entry fits, and replace it.

    Raises:
        SpecError: the workload's file cannot be read.
    """
    if workload.endswith(GRAPH_SUFFIX):
        return make()  # reading a saved graph is what the cache would do
    folder = cache_folder() / "graphs"
    key = graph_key(workload, options)
    if not refresh:
        graph = _read_entry(folder, key, note)
        if graph is not None:
            return graph
    graph = make()
    try:
        _write_entry(folder, key, workload, graph)
    except (OSError, SpecError) as error:
        note(f"the captured graph could not be cached in {folder}: {error}")
    return graph


def graph_key(workload: str, options: Mapping[str, object]) -> str:
    """Name of the entry: a digest of all that decides the capture and is known before it."""
    path = workload_file(workload)
    facts = {
        "workload": workload,
        "file": None if path is None else [str(path.resolve()), _digest_of_workload(path)],
        "options": {name: str(value) for name, value in sorted(options.items()) if value is not None},
        "versions": [worklode.__version__, *(_version(package) for package in _RECORDED_PACKAGES)],
        "python": list(sys.version_info[:2]),
        "source": _source_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def workload_file(workload: str) -> Path | None:
    """The file behind a workload (`file.py:function`, configuration or its folder, graph); None for a zoo name."""
    head = workload.rpartition(":")[0]
    for path in (Path(workload), Path(workload) / "config.json", Path(head) if head else None):
        if path is not None and path.is_file():
            return path
    return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_of_workload(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise SpecError(Fault(where=str(path), problem=problem)) from None


def cache_summary() -> CacheSummary:
    """What the cache holds."""
    folder = cache_folder()
    files = [path for path in (folder / "graphs").glob("*") if path.is_file()]
    return CacheSummary(
        folder=folder,
        graphs=sum(path.name.endswith(_ENTRY_SUFFIX) for path in files),
        bytes=sum(path.stat().st_size for path in files),
    )


def clear_cache() -> CacheSummary:
    """Delete every cached graph, and nothing else; what was there is returned."""
    before = cache_summary()
    for path in (before.folder / "graphs").glob("*"):
        if path.is_file():
            path.unlink(missing_ok=True)
    return before


def _read_entry(folder: Path, key: str, note: Callable[[str], None]) -> TrainingGraph | None:
    entry_path, graph_path = folder / f"{key}{_ENTRY_SUFFIX}", folder / f"{key}{GRAPH_SUFFIX}"
    try:
        entry = json.loads(entry_path.read_text(encoding="utf-8"))
        if any(not Path(path).is_file() or file_digest(Path(path)) != digest for path, digest in entry["modules"]):
            return None  # the user changed a module: not damage, just another workload
        if file_digest(graph_path) != entry["graph_sha256"]:
            raise ValueError("its content changed")
        return load_graph(graph_path)
    except (FileNotFoundError, NotADirectoryError):
        if entry_path.exists():
            note(f"the cached graph {graph_path.name} is missing; capturing again")
        return None
    except (OSError, ValueError, KeyError, TypeError, SpecError) as error:
        note(f"the cached graph {graph_path.name} is damaged ({error}); capturing again")
        return None


def _write_entry(folder: Path, key: str, workload: str, graph: TrainingGraph) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        graph_path = Path(partial) / f"{key}{GRAPH_SUFFIX}"
        save_graph(graph, graph_path)
        entry = {
            "workload": workload,
            "graph_sha256": file_digest(graph_path),
            "modules": [] if workload_file(workload) is None else _user_modules(),
        }
        entry_path = Path(partial) / f"{key}{_ENTRY_SUFFIX}"
        entry_path.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        # The entry goes last: it exists only where its graph does.
        graph_path.replace(folder / graph_path.name)
        entry_path.replace(folder / entry_path.name)


def _user_modules() -> list[tuple[str, str]]:
    """Loaded Python files that belong to neither this package, an installed one nor Python, with their digests."""
    installed = {Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed.add(Path(worklode.__file__).resolve().parent)
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    paths = {Path(file).resolve() for file in files if file and file.endswith(".py")}
    own = sorted(path for path in paths if path.is_file() and not installed.intersection(path.parents))
    return [(str(path), file_digest(path)) for path in own]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


@cache
def _source_digest() -> str:
    """Digest of our own source that decides what is recorded."""
    digest = hashlib.sha256()
    root = Path(worklode.__file__).parent
    for package in _RECORDING_SOURCES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
