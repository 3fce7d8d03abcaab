"""Loading the user's workload file, and leaving Python as it was found."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from worklode.errors import CaptureError, Fault
from worklode.frontend.building import without_scripting
from worklode.frontend.faults import step_fault
from worklode.frontend.options import near
from worklode.frontend.workload import describe_value


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """The function `name` of a workload file.

    Raises:
        CaptureError: the file is no Python, has no such function, or raises.
    """
    functions, others = _names_in(path)
    if name not in functions + others:
        problem = f"no function `{name}` in this file" if name else "the name of a function is missing"
        allowed = near(name, functions or others) or "a file with a function that returns (module, inputs)"
        raise CaptureError(Fault(where=str(path), path=name, problem=problem, allowed=allowed))
    function: Any = getattr(_load(path), name, None)
    if not callable(function):
        raise CaptureError(Fault(where=str(path), path=name, value=describe_value(function), problem="not a function"))
    return function  # type: ignore[no-any-return]


def _names_in(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Functions a file defines at top level, and other names it assigns or imports from elsewhere.

    So a wrong name is told before the file runs.
    """
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = f"line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise CaptureError(Fault(where=str(path), path=line, problem=f"not valid Python: {error}")) from error
    functions: list[str] = []
    others: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            others.extend(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            others.extend(target.id for target in node.targets if isinstance(target, ast.Name))
    return tuple(functions), tuple(others)


def _load(path: Path) -> ModuleType:
    """Run a workload file as a module of its own."""
    resolved = path.resolve()
    spec = importlib.util.spec_from_file_location(f"_worklode_workload_{path.stem}", resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    with without_scripting():
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise step_fault(error, where=str(path), doing="the file", user_file=resolved) from error
    return module


@contextmanager
def python_left_as_found(folder: Path | None) -> Iterator[None]:
    """Let user code import its neighbours, and undo what it may change for the whole process.

    Undone: the import path; modules of the user's folder, so that an edited file is read again; torch's default type,
    default device and gradient mode. No bytecode is written beside the user's files.
    """
    loaded, wrote = set(sys.modules), sys.dont_write_bytecode
    dtype, gradients, device = torch.get_default_dtype(), torch.is_grad_enabled(), torch.utils._device.CURRENT_DEVICE
    if folder is not None:
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
    try:
        yield
    finally:
        if device != torch.utils._device.CURRENT_DEVICE:
            torch.set_default_device(device)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        sys.dont_write_bytecode = wrote
        if folder is not None:
            if str(folder) in sys.path:
                sys.path.remove(str(folder))
            for name in set(sys.modules) - loaded:
                file = getattr(sys.modules[name], "__file__", None)
                if file is not None and Path(file).is_relative_to(folder):
                    del sys.modules[name]
