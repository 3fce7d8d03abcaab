"""Models of the papers, written in plain PyTorch: names, published facts, workload functions.

Importing this package does not import torch; `function` does. The models, their sources and departures are described in
docs/zoo.md.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from worklode.errors import Fault, SpecError
from worklode.frontend.zoo.entries import ENTRIES, ZooEntry
from worklode.frontend.zoo.gpt_text import is_gpt_text, parse_gpt

__all__ = ["ZooEntry", "entry", "function", "gpt_function", "is_gpt_text", "names"]

_BY_NAME = {entry.name: entry for entry in ENTRIES}


def names() -> tuple[str, ...]:
    """Names of all models: the WHAM paper's eleven first."""
    return tuple(_BY_NAME)


def entry(name: str) -> ZooEntry:
    """What is known about a model.

    Raises:
        SpecError: there is no model of that name.
    """
    if name not in _BY_NAME:
        near = get_close_matches(name, _BY_NAME, n=3, cutoff=0.5)
        known = ", ".join(_BY_NAME)
        allowed = f"did you mean {' or '.join(near)}? ({known})" if near else known
        raise SpecError(
            Fault(where="workload", value=name, problem="there is no such model in the zoo", allowed=allowed)
        )
    return _BY_NAME[name]


def function(name: str) -> Callable[..., tuple[Any, Any, Any, str]]:
    """The workload function of a model, importing torch.

    It takes `batch` (and `seq_len` where a sample is a token sequence) and returns `(module, inputs, loss, optimizer)`;
    called under `torch.device("meta")` or fake tensors it allocates nothing.

    Raises:
        SpecError: there is no model of that name.
    """
    found = entry(name)
    module = import_module(f"{__name__}.{found.module}")
    return getattr(module, found.function_name)  # type: ignore[no-any-return]


def gpt_function(text: str) -> Callable[..., tuple[Any, Any, Any, str]]:
    """The workload function of a GPT of given sizes (`gpt:layers=24,hidden=2304,heads=24`), importing torch.

    Raises:
        SpecError: the text is at fault.
    """
    sizes = parse_gpt(text)
    make = import_module(f"{__name__}.gpt").gpt

    def workload(batch: int = 1, seq_len: int = sizes.context) -> tuple[Any, Any, Any, str]:
        return make(text, sizes, batch, seq_len)  # type: ignore[no-any-return]

    return workload
