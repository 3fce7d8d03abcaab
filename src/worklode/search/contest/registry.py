"""Searchers by name: those that come with worklode, and those of installed packages (group `worklode.searchers`)."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

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


def searcher_maker(name: str) -> Maker:
    """What makes a searcher: a callable of (problem, seed).

    Names with a colon, `file.module:Class`, are imported as they are.

    Raises:
        SpecError: no such searcher, or it cannot be loaded.
    """
    try:
        if name in _OWN:
            module, attribute = _OWN[name]
            found = getattr(import_module(f"{_HERE}.{module}"), attribute)
        elif ":" in name:
            module, _, attribute = name.partition(":")
            found = getattr(import_module(module), attribute)
        else:
            entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
            if not entries:
                raise SpecError(_unknown(name, "no such searcher"))
            found = entries[0].load()
    except ModuleNotFoundError as error:
        problem = f"needs a package that is not installed ({error.name})"
        raise SpecError(_unknown(name, problem, "pip install 'worklode[bench]'")) from None
    except (ImportError, AttributeError) as error:
        raise SpecError(_unknown(name, f"cannot be loaded: {error}")) from None
    maker: Maker = found
    return maker


def _unknown(name: str, problem: str, allowed: str | None = None) -> Fault:
    known = f"{', '.join(searcher_names())}, or module:Class" if allowed is None else allowed
    return Fault(where="--searchers", value=repr(name), problem=problem, allowed=known)
