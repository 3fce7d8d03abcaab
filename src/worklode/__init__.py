"""worklode mines accelerators for training deep networks.

    import worklode

    graph = worklode.capture("bert-large")
    result = worklode.mine(graph, budget="tpuv2")
    result.to_frame()

The names below come from `worklode.api`, which is imported when one of them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worklode.api import capture, capture_module, evaluate, evaluator, mine

__version__ = "0.1.0.dev0"
__all__ = ["__version__", "capture", "capture_module", "evaluate", "evaluator", "mine"]


def __getattr__(name: str) -> Any:
    """Names of the public interface, loaded on first use so that importing the package costs nothing."""
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'worklode' has no attribute {name!r}")
    found = getattr(import_module("worklode.api"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Public names, those not loaded yet included."""
    return sorted(__all__)
