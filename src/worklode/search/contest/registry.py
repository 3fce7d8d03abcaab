"""Searchers by name: those that come with worklode, and those of installed packages (group `worklode.searchers`)."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from worklode.errors import Fault, SpecError
from worklode.search.contest.cell import Maker

GROUP = "worklode.searchers"
_HERE = "worklode.search.contest"

# Name -> module and class. A module is loaded when its searcher is made: optuna and scikit-learn take a second each.
_OWN = {
    "worklode": ("worklode_own", "Worklode"),
    "exhaustive": ("simple", "Exhaustive"),
    "random": ("simple", "Random"),
    "hill-climbing": ("simple", "HillClimbing"),
    "genetic": ("genetic", "Genetic"),
    "tpe": ("optuna_searchers", "Tpe"),
    "nsga2": ("optuna_searchers", "Nsga2"),
    "spotlight-like": ("spotlight", "SpotlightTraining"),
    "spotlight-like-inference": ("spotlight", "SpotlightInference"),
    "confuciux-like": ("confuciux", "ConfuciuxTraining"),
    "confuciux-like-inference": ("confuciux", "ConfuciuxInference"),
}
# Searchers that do the same whatever the seed: one run says all.
SEEDLESS = frozenset({"worklode", "exhaustive"})


def searcher_names() -> tuple[str, ...]:
    """Every name there is: worklode's first, then those of installed packages."""
    return (*_OWN, *sorted(entry.name for entry in entry_points(group=GROUP) if entry.name not in _OWN))


def is_own(name: str) -> bool:
    """Whether a searcher comes with worklode."""
    return name in _OWN


def own_module(name: str) -> str:
    """Module of this package that holds a searcher that comes with worklode."""
    return _OWN[name][0]


def searcher_file(name: str) -> Path | None:
    """The user's Python file that a name such as `file.py:Class` is of; None where it is none."""
    module = name.rpartition(":")[0]
    return Path(module) if name not in _OWN and module.endswith(".py") else None


def searcher_maker(name: str) -> Maker:
    """What makes a searcher: a callable of (problem, seed).

    A name may also be `module:Class` or `file.py:Class`.

    Raises:
        SpecError: no such searcher, or it cannot be loaded.
    """
    try:
        if name in _OWN:
            module, attribute = _OWN[name]
            found = getattr(import_module(f"{_HERE}.{module}"), attribute)
        elif ":" in name:
            module, _, attribute = name.rpartition(":")
            found = getattr(_of_file(Path(module)) if module.endswith(".py") else import_module(module), attribute)
        else:
            entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
            if not entries:
                raise SpecError(_unknown(name, "no such searcher"))
            found = entries[0].load()
    except ModuleNotFoundError as error:
        problem = f"needs a package that is not installed ({error.name})"
        raise SpecError(_unknown(name, problem, "pip install 'worklode[bench]'")) from None
    except SpecError:
        raise
    except (ImportError, AttributeError) as error:
        raise SpecError(_unknown(name, f"cannot be loaded: {error}")) from None
    except Exception as error:  # whatever the module of a user's searcher does while it is loaded
        if name in _OWN:
            raise
        problem = f"cannot be loaded: {type(error).__name__}: {error}"
        raise SpecError(_unknown(name, problem, "a module that can be imported")) from error
    maker: Maker = found
    return maker


def _of_file(path: Path) -> ModuleType:
    """The module of a Python file of the user's."""
    name = f"worklode_searcher_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} is no Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _unknown(name: str, problem: str, allowed: str | None = None) -> Fault:
    known = f"{', '.join(searcher_names())}, module:Class or file.py:Class" if allowed is None else allowed
    return Fault(where="--searchers", value=repr(name), problem=problem, allowed=known)
