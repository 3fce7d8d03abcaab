"""Compiles the package's kernels on tiny inputs, so that the first real command does not wait for them.

`python -m worklode.warmup` is the last step of the launcher's first run. Kernels are compiled once per machine and
kept beside their source by numba; a change of that source compiles them again when they are next used.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from time import perf_counter


def kernel_modules() -> tuple[str, ...]:
    """Names of the modules that hold compiled kernels: those of the packages that import numba themselves."""
    found = []
    for name in ("worklode.cost", "worklode.schedule", "worklode.search"):
        package = importlib.import_module(name)
        found += [module.name for module in pkgutil.walk_packages(package.__path__, prefix=f"{name}.")]
    return tuple(found)


def main() -> int:
    """Import every module of the numeric packages, which compiles kernels with declared signatures."""
    start = perf_counter()
    modules = kernel_modules()
    for name in modules:
        importlib.import_module(name)
    sys.stderr.write(f"worklode: kernels ready after {perf_counter() - start:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
