"""Reading hardware files (YAML): strict keys, every fault collected with its place, shipped files already parsed."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from worklode.errors import Fault, SpecError
from worklode.units import Dimension, parse_quantity

PARSED_FILE = "parsed.json"
"""Parsed forms of the YAML files of a folder, by name, each with the SHA-256 of the text it was made from. Parsing YAML
costs 50 ms and more; a stale or missing entry is ignored and the YAML parsed."""

_SHORT = reprlib.Repr()
"""How a value found in a file is quoted: two levels of eight entries, so that aliases cannot fill the screen."""
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 8, 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def near_names(name: str, options: Iterable[str]) -> str:
    """What to say is allowed instead of `name`: the nearest options first where some are near, else all."""
    listed = sorted(options)
    near = difflib.get_close_matches(name, listed, n=3, cutoff=0.55)
    if near:
        return f"did you mean {' or '.join(near)}? (all: {', '.join(listed)})"
    return ", ".join(listed)


def read_yaml(path: Path, *, where: str | None = None) -> Any:
    """Contents of a YAML 1.2 file as plain dicts, lists, strings, numbers and booleans.

    Raises:
        SpecError: no such file, not UTF-8, or not YAML (line and column are in the fault).
    """
    where = where or str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise SpecError(Fault(where=where, problem=problem)) from None
    return _stored(path, data) or _parse(data, where)


def _stored(path: Path, data: bytes) -> Any:
    """Parsed form from `PARSED_FILE` beside `path`, or None where there is none of exactly this text."""
    try:
        entry = json.loads((path.parent / PARSED_FILE).read_text(encoding="utf-8"))[path.name]
        return entry["content"] if entry["sha256"] == hashlib.sha256(data).hexdigest() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parse(data: bytes, where: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SpecError(Fault(where=where, path=f"byte {error.start}", problem="not UTF-8 text")) from None
    except RecursionError:
        raise SpecError(Fault(where=where, problem="is nested too deeply")) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not a YAML document"
        raise SpecError(Fault(where=where, path=place, problem=f"not valid YAML: {problem}")) from None


def write_parsed(folder: Path) -> bool:
    """Bring `PARSED_FILE` of a folder up to date with its YAML files; True where it changed."""
    entries = {}
    for path in sorted(folder.glob("*.yaml")):
        data = path.read_bytes()
        entries[path.name] = {"sha256": hashlib.sha256(data).hexdigest(), "content": _parse(data, path.name)}
    text = json.dumps(entries, indent=None, separators=(",", ":"), ensure_ascii=False) + "\n"
    target = folder / PARSED_FILE
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    target.write_text(text, encoding="utf-8")
    return True


class SpecReader:
    """Takes values out of parsed YAML and collects every fault, so that all are reported at once.

    Methods return the value, or None (an empty mapping) after noting a fault; `finish` raises what was noted.
    """

    def __init__(self, where: str) -> None:
        """`where` names the file or option in every fault."""
        self.where = where
        self.faults: list[Fault] = []

    def fault(self, path: str, problem: str, *, value: object = None, allowed: str = "") -> None:
        """Note one fault."""
        text = "" if value is None else _SHORT.repr(value)
        self.faults.append(Fault(where=self.where, path=path, value=text, problem=problem, allowed=allowed))

    def finish(self) -> None:
        """Raise SpecError where faults were noted."""
        if self.faults:
            raise SpecError(*self.faults)

    def mapping(self, value: object, path: str, allowed: Iterable[str] | None = None) -> dict[str, Any]:
        """A mapping with text keys, all among `allowed` where given."""
        if not isinstance(value, Mapping):
            self.fault(path, "must be a mapping of keys to values", value="nothing" if value is None else value)
            return {}
        names = None if allowed is None else list(allowed)
        for key in value:
            if not isinstance(key, str):
                self.fault(path, "keys must be text", value=key)
            elif names is not None and key not in names:
                self.fault(join(path, key), "unknown key", value=key, allowed=near_names(key, names))
        return {key: item for key, item in value.items() if isinstance(key, str) and (names is None or key in names)}

    def text(self, value: object, path: str, options: Iterable[str] | None = None) -> str | None:
        """Text, one of `options` where given."""
        if not isinstance(value, str):
            self.fault(path, "must be text", value=value, allowed="" if options is None else ", ".join(options))
            return None
        if options is not None and value not in (listed := list(options)):
            self.fault(path, "unknown value", value=value, allowed=near_names(value, listed))
            return None
        return value

    def number(
        self,
        value: object,
        path: str,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float = math.inf,
    ) -> float | None:
        """A finite number within the limits given."""
        lower = (
            f"above {above:g}" if above is not None else f"from {least:g}" if least is not None else "a finite number"
        )
        allowed = lower + (f" up to {most:g}" if math.isfinite(most) else "")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):  # type: ignore[arg-type]
            self.fault(path, "must be a number", value="nothing" if value is None else value, allowed=allowed)
            return None
        number = float(value)  # type: ignore[arg-type]
        if (above is not None and number <= above) or (least is not None and number < least) or number > most:
            self.fault(path, "is out of range", value=value, allowed=allowed)
            return None
        return number

    def whole(self, value: object, path: str, *, least: int = 0, most: float = math.inf) -> int | None:
        """A whole number within the limits given (`4`, also `4.0`)."""
        number = self.number(value, path, least=least, most=most)
        if number is None:
            return None
        if number != int(number):
            self.fault(path, "must be a whole number", value=value)
            return None
        return int(value) if isinstance(value, int) else int(number)

    def quantity(
        self, value: object, dimension: Dimension, path: str, *, allow_zero: bool = False, bare: bool = False
    ) -> float | None:
        """A quantity with a unit (`32MiB`), or a plain number where `bare` (the key carries the unit)."""
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, str) and not plain:
            self.fault(
                path, f"must be a quantity of {dimension.name}", value=value, allowed=f"such as {dimension.example}"
            )
            return None
        try:
            return parse_quantity(str(value), dimension, where=self.where, path=path, allow_zero=allow_zero, bare=bare)
        except SpecError as error:
            self.faults.extend(error.faults)
            return None


def join(path: str, key: str) -> str:
    """Path of `key` under `path`."""
    return f"{path}.{key}" if path else key
