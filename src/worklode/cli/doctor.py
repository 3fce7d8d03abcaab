"""`worklode doctor`: what this installation consists of and where it keeps things."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

_PACKAGES = ("torch", "transformers", "numpy", "numba", "pandas", "ortools")


def examine(*, clear: bool) -> Outcome:
    """Gather the facts; with `clear` empty the cache of graphs first."""
    import worklode
    from worklode.study.cache import cache_summary, clear_cache
    from worklode.warmup import compiled_kernels

    messages: tuple[str, ...] = ()
    if clear:
        gone = clear_cache()
        messages = (f"deleted {gone.graphs} cached graphs ({gone.bytes} bytes) in {gone.folder}",)
    cache = cache_summary()
    kernels = compiled_kernels()
    document: dict[str, Any] = {
        "worklode": worklode.__version__,
        "folder": str(Path(worklode.__file__).parent),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cache": {"folder": str(cache.folder), "graphs": cache.graphs, "bytes": cache.bytes},
        "reference_data": _reference_data(),
        "kernels": kernels,
        "advice": _advice(kernels),
    }
    return Outcome(document=document, report=lambda: _report(document), messages=messages)


def _advice(kernels: dict[str, int]) -> list[str]:
    found = []
    if _version("torch") is None:
        found.append("torch is not installed: saved graphs can be used, new workloads cannot be captured")
    if kernels["compiled"] < kernels["kernels"]:
        found.append("some kernels are not compiled yet; python -m worklode.warmup does it ahead of their first use")
    return found


def _reference_data() -> str | None:
    """Folder of the published measurements that tests compare with, or None where there is none."""
    import worklode

    chosen = os.environ.get("WORKLODE_DATA")
    folder = Path(chosen) if chosen else Path(worklode.__file__).parents[3] / "shared" / "data"
    return str(folder) if folder.is_dir() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _report(document: dict[str, Any]) -> Iterator[RenderableType]:
    from worklode.report.quantity import size
    from worklode.report.table import facts

    cache, kernels = document["cache"], document["kernels"]
    yield facts(
        ("worklode", f"{document['worklode']} in {document['folder']}"),
        ("Python", f"{document['python']}, {document['executable']}"),
        ("platform", document["platform"]),
        ("cores", str(document["cores"])),
        *((name, version or "not installed") for name, version in document["packages"].items()),
        ("graph cache", f"{cache['graphs']} graphs, {size(cache['bytes'])} in {cache['folder']}"),
        (
            "reference data",
            document["reference_data"] or "none (only some tests use it; WORKLODE_DATA names its folder)",
        ),
        ("kernels", f"{kernels['compiled']} of {kernels['kernels']} compiled"),
        *(("advice", line) for line in document["advice"]),
    )
