"""Which of worklode's own source decides a result, and its digest: results are kept while that stays the same."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

import worklode


@cache
def source_digest(*modules: str) -> str:
    """Digest of the source of modules and of all of worklode's own that they import, and of the constants of hardware.

    Found by their imports, wherever in a file these are: how a page is written does not matter to what is on it.
    """
    root = Path(worklode.__file__).parent
    files = {*loaded_sources(*modules), *root.joinpath("hardware").rglob("*.yaml")}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def loaded_sources(*modules: str) -> frozenset[Path]:
    """Files of worklode's own that modules are made of, directly or not; the package's own front door apart."""
    waiting = [path for module in modules for path in _files(module)]
    found = set(waiting)
    while waiting:
        for name in _imported(waiting.pop()):
            new = [path for path in _files(name) if path not in found]
            found.update(new)
            waiting += new
    return frozenset(found)


def _files(module: str) -> list[Path]:
    place = Path(worklode.__file__).parent.parent.joinpath(*module.split("."))
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]


@cache
def _imported(path: Path) -> frozenset[str]:
    """Modules of worklode that a file names in an import; packages on the way to them too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = [name.split(".") for name in names if name.split(".")[0] == "worklode"]
    return frozenset(".".join(parts[:length]) for parts in own for length in range(2, len(parts) + 1))
