"""What a workload is, and how its text is understood: zoo name, `file.py:function`, configuration or saved graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worklode.errors import CaptureError, Fault
from worklode.frontend.options import OPTIMIZERS, CaptureOptions, near, option_text

CONTRACT = (
    "(module, inputs), (module, inputs, loss) or (module, inputs, loss, optimizer): module a torch.nn.Module, inputs a "
    "tensor, a tuple (positional) or a dict (keywords), loss a callable from the module's output to a scalar, "
    "optimizer a name or a callable from parameters to a torch optimizer"
)
_FORMS = "a zoo name, gpt:layers=..,hidden=..,heads=.., file.py:function, a Hugging Face config.json or a saved graph"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Something to capture.

    Attributes:
        name: how the user called it.
        make: returns the tuple described by `CONTRACT`; called where nothing is allocated.
        batch, seq_len: what it will be made with, where that is known.
        user_file: file whose lines the user wants to see in messages.
        notes: decisions already taken on the user's behalf.
    """

    name: str
    make: Callable[[], object]
    batch: int | None = None
    seq_len: int | None = None
    user_file: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """What a workload function returned, checked."""

    module: Any
    inputs: Any
    loss: Callable[..., Any] | None
    optimizer: str | Callable[..., Any] | None


def saved_graph_path(text: str) -> Path | None:
    """The path of a saved graph, or None where the text means something else."""
    path = Path(text)
    if path.suffix in (".json", ".py") or ".py:" in text or not path.is_file():
        return None
    return path


def find_workload(text: str, options: CaptureOptions) -> Workload:
    """Understand the text of a workload (all forms but the saved graph).

    Raises:
        CaptureError: nothing of that name exists, or it does not have the form it should.
    """
    if ".py:" in text or text.endswith(".py"):
        return _from_file(text, options)
    path = Path(text)
    if path.suffix == ".json" or (path / "config.json").is_file():
        from worklode.frontend.huggingface import from_configuration

        return from_configuration(path if path.suffix == ".json" else path / "config.json", options)
    return _from_zoo(text, options)


def from_function(
    name: str, function: Callable[..., object], options: CaptureOptions, user_file: Path | None = None
) -> Workload:
    """A workload from a function, `batch` and `seq_len` passed where its signature has them.

    Raises:
        CaptureError: it needs an argument that nobody gives.
    """
    given = {"batch": options.batch, "seq_len": options.seq_len}
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    passed = {key: value for key, value in given.items() if value is not None and (key in parameters or takes_all)}
    missing = [
        key
        for key, p in parameters.items()
        if p.default is p.empty and key not in passed and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if missing:
        raise CaptureError(*(_missing_argument(name, key, key in given) for key in missing))
    notes = [
        f"{key}={value} not used: the workload function has no argument {key}"
        for key, value in given.items()
        if value is not None and key not in passed
    ]
    sizes = {key: passed.get(key, _default(parameters.get(key))) for key in given}
    return Workload(
        name=name,
        make=lambda: function(**passed),
        batch=sizes["batch"],
        seq_len=sizes["seq_len"],
        user_file=user_file,
        notes=tuple(notes),
    )


def check_ingredients(workload: Workload, returned: object) -> Ingredients:
    """Check what the function of a workload returned.

    Raises:
        CaptureError: every fault of it.
    """
    from torch import Tensor
    from torch.nn import Module

    if not isinstance(returned, tuple) or not 2 <= len(returned) <= 4:
        raise CaptureError(
            Fault(
                where=workload.name,
                value=describe_value(returned),
                problem="the function did not return what a workload is made of",
                allowed=CONTRACT,
            )
        )
    module, inputs, loss, optimizer = (*returned, None, None)[:4]
    faults = []
    if not isinstance(module, Module):
        faults.append(_wrong_part(workload, "module", module, "a torch.nn.Module"))
    if not isinstance(inputs, Tensor | tuple | list | Mapping):
        faults.append(_wrong_part(workload, "inputs", inputs, "a tensor, a tuple (positional) or a dict (keywords)"))
    if loss is not None and not callable(loss):
        faults.append(_wrong_part(workload, "loss", loss, "a callable from the module's output to a scalar"))
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        faults.append(_wrong_part(workload, "optimizer", optimizer, near(optimizer, OPTIMIZERS)))
    elif optimizer is not None and not isinstance(optimizer, str) and not callable(optimizer):
        allowed = f"{', '.join(OPTIMIZERS)} or a callable from parameters to a torch optimizer"
        faults.append(_wrong_part(workload, "optimizer", optimizer, allowed))
    if faults:
        raise CaptureError(*faults)
    return Ingredients(module=module, inputs=inputs, loss=loss, optimizer=optimizer)


# ------------------------------------------------------------------------------------------------------- files


def workload_folder(text: str) -> Path | None:
    """The folder of a workload file, whose neighbours it may import; None where the text is no workload file."""
    file_text = text.rpartition(":")[0] if ".py:" in text else text
    return Path(file_text).resolve().parent if file_text.endswith(".py") else None


def _from_file(text: str, options: CaptureOptions) -> Workload:
    """`file.py:function`."""
    from worklode.frontend.user_file import load_function

    file_text, separator, function_name = text.rpartition(":")
    if not separator or not file_text.endswith(".py"):
        file_text, function_name = text, ""
    path = Path(file_text)
    if not path.is_file():
        raise CaptureError(Fault(where=text, path=file_text, problem="no such file", allowed=_FORMS))
    return from_function(text, load_function(path, function_name), options, path.resolve())


# --------------------------------------------------------------------------------------------------------- zoo


def _from_zoo(text: str, options: CaptureOptions) -> Workload:
    """A zoo name, or the sizes of a GPT."""
    from worklode.frontend import zoo

    if zoo.is_gpt_text(text):
        return from_function(text, zoo.gpt_function(text), options)
    known: tuple[str, ...] = zoo.names()
    if text not in known:
        looks_like_path = text and ("/" in text or Path(text).suffix or Path(text).is_dir())
        problem = "no workload of this name in the zoo"
        if looks_like_path:
            path = Path(text)
            problem = (
                "a folder without a config.json" if path.is_dir() else "no file" if path.exists() else "no such file"
            )
        raise CaptureError(
            Fault(
                where=text or "WORKLOAD",
                problem=problem,
                allowed=_FORMS if looks_like_path else f"{_FORMS}: {near(text, known)}",
            )
        )
    return from_function(text, zoo.function(text), options)


# ------------------------------------------------------------------------------------------------------ faults


def _default(parameter: inspect.Parameter | None) -> int | None:
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else None


def _missing_argument(name: str, argument: str, is_option: bool) -> Fault:
    if is_option:
        option = f"--{argument.replace('_', '-')}"
        return Fault(
            where=name,
            path=argument,
            problem=f"the workload function needs `{argument}`, which was not given and has no default",
            allowed=f"the option {option}, or a default in the function",
        )
    return Fault(
        where=name,
        path=argument,
        problem=f"the workload function needs `{argument}`",
        allowed="only `batch` and `seq_len` are passed; give every other argument a default",
    )


def _wrong_part(workload: Workload, part: str, value: object, allowed: str) -> Fault:
    return Fault(
        where=workload.name,
        path=part,
        value=describe_value(value),
        problem=f"the function returned no usable {part}",
        allowed=allowed,
    )


def describe_value(value: object) -> str:
    """A value to the user: its type, the types inside a tuple, short texts as they are."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)[:80]
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}: ({', '.join(type(item).__name__ for item in value)})"
    return option_text(value) if inspect.isroutine(value) else type(value).__name__
