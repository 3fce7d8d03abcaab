"""The entry points of capture. Free of torch until something is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worklode.frontend.environment import garbage_collector_paused, importing_torch, require_torch
from worklode.frontend.options import CaptureOptions
from worklode.frontend.workload import Workload, find_workload, saved_graph_path, workload_folder
from worklode.graph.training_graph import TrainingGraph

Progress = Callable[[str], None]


def capture(
    workload: str | Workload, options: CaptureOptions | None = None, *, progress: Progress | None = None
) -> TrainingGraph:
    """Capture one training step: forward, loss, backward, gradient accumulation and optimizer.

    Nothing is allocated and nothing runs on a device: the step runs on tensors that have shapes only.

    Args:
        workload: a zoo name, `file.py:function`, a Hugging Face `config.json`, a saved graph, or a `Workload`.
        options: batch, sequence length, optimizer, precision and so on; the workload's own where None.
        progress: called with a short text as the capture goes on.

    Returns:
        The graph; the same input gives the same graph in every process.

    Raises:
        CaptureError: the workload, an option or the step is at fault; every message names the place.
    """
    options = options or CaptureOptions()
    options.check()
    if isinstance(workload, str):
        saved = saved_graph_path(workload)
        if saved is not None:
            from worklode.graph.file import load_graph

            return load_graph(saved)
    require_torch()
    with garbage_collector_paused():
        with importing_torch():
            from worklode.frontend.session import run_capture
            from worklode.frontend.user_file import python_left_as_found

        with python_left_as_found(workload_folder(workload) if isinstance(workload, str) else None):
            found = find_workload(workload, options) if isinstance(workload, str) else workload
            return run_capture(found, options, progress or _silent)


def capture_module(
    module: Any,
    inputs: Any,
    loss: Callable[..., Any] | None = None,
    *,
    optimizer: str | Callable[..., Any] | None = None,
    options: CaptureOptions | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> TrainingGraph:
    """Capture a live module, as in a notebook.

    Args:
        module: a `torch.nn.Module`, which is left as it is (its structure is copied, its weights are not), or a
            callable without arguments that makes one, which then allocates nothing.
        inputs: a tensor, a tuple (positional) or a dict (keywords), or a callable that returns one of these.
        loss: from the module's output to a scalar; by default the output's own.
        optimizer: name, or callable from parameters to a torch optimizer; `options.optimizer` comes first.
        options: as for `capture`; `batch` and `seq_len` are the inputs' own.
        name: what to call the workload; the module's class by default.
        progress: called with a short text as the capture goes on.

    Raises:
        CaptureError: an option or the step is at fault.
    """
    options = options or CaptureOptions()
    options.check()
    require_torch()
    with garbage_collector_paused():
        with importing_torch():
            from torch.nn import Module

            from worklode.frontend.building import copy_without_weights
            from worklode.frontend.session import run_capture
            from worklode.frontend.user_file import python_left_as_found

        def make() -> object:
            made = copy_without_weights(module) if isinstance(module, Module) else module()
            return made, inputs() if callable(inputs) else inputs, loss, optimizer

        default = type(module).__name__ if isinstance(module, Module) else getattr(module, "__qualname__", "module")
        with python_left_as_found(None):
            return run_capture(Workload(name=name or default, make=make), options, progress or _silent)


def _silent(text: str) -> None:
    """No progress."""
