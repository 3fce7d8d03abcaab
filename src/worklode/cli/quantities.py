"""Reads quantities with units from the command line: `600mm2`, `280W`, `90s`."""

from __future__ import annotations

import math
import re

from worklode.errors import Fault

# Factor to the unit the rest of the program uses: mm², W, s.
AREA_UNITS_MM2 = {"": 1.0, "mm2": 1.0, "mm^2": 1.0, "mm²": 1.0, "cm2": 100.0, "cm^2": 100.0, "cm²": 100.0}
POWER_UNITS_W = {"": 1.0, "w": 1.0, "kw": 1e3}
TIME_UNITS_S = {"": 1.0, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}

_QUANTITY = re.compile(r"\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([^\s0-9.]\S*)?\s*")


def read_quantity(text: str, *, option: str, units: dict[str, float], example: str) -> float | Fault:
    """Number in `text` times the factor of its unit, or what is wrong with it.

    `units` maps lower-case unit names to factors; the name "" is a bare number.
    """
    match = _QUANTITY.fullmatch(text)
    allowed = f"a positive number with one of the units {', '.join(unit for unit in units if unit)}, such as {example}"
    if match is None:
        return Fault(where=option, value=repr(text), problem="is not a quantity", allowed=allowed)
    factor = units.get((match[2] or "").lower())
    if factor is None:
        return Fault(where=option, value=repr(match[2]), problem="unknown unit", allowed=allowed)
    value = float(match[1]) * factor
    if not (0.0 < value < math.inf):
        return Fault(where=option, value=repr(text), problem="must be above zero and finite", allowed=allowed)
    return value


def read_area_mm2(text: str) -> float | Fault:
    """Area [mm²] of `--area`."""
    return read_quantity(text, option="--area", units=AREA_UNITS_MM2, example="600mm2")


def read_power_w(text: str) -> float | Fault:
    """Power [W] of `--tdp`."""
    return read_quantity(text, option="--tdp", units=POWER_UNITS_W, example="280W")


def read_time_s(text: str) -> float | Fault:
    """Time [s] of `--max-time`."""
    return read_quantity(text, option="--max-time", units=TIME_UNITS_S, example="90s or 10min")
