"""Figures of a table: a missing one is a dash, shares are percent, ratios end in x; the rest is `worklode.units`."""

from __future__ import annotations

import math
from collections.abc import Callable

from worklode.units import format_area_mm2, format_bytes, format_bytes_per_s, format_hertz, format_power_w, format_si

MISSING = "-"

Figure = float | None


def si(unit: str) -> Callable[[Figure], str]:
    """Writer of quantities with a decimal prefix: `1.23 ms`."""
    return lambda value: MISSING if value is None else format_si(value, unit).rstrip()


def plain(unit: str) -> Callable[[Figure], str]:
    """Writer without prefixes, three significant digits: `0.355 samples/s/W`, `12 345 samples/s`."""

    def write(value: Figure) -> str:
        if value is None:
            return MISSING
        if value == 0 or not math.isfinite(value):
            return f"{value:g} {unit}".rstrip()
        decimals = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f} {unit}".replace(",", " ").rstrip()

    return write


def _known(write: Callable[[float], str]) -> Callable[[Figure], str]:
    return lambda value: MISSING if value is None else write(value)


seconds = si("s")
size = _known(format_bytes)
bandwidth = _known(format_bytes_per_s)
frequency = _known(format_hertz)
area = _known(format_area_mm2)
power = _known(format_power_w)


def percent(value: Figure) -> str:
    """A share: `12.3 %`. What is not quite nothing is not printed as 0, what is not quite all not as 100."""
    if value is None:
        return MISSING
    shown = value * 100.0
    if 0.0 < shown < 0.05:
        return "< 0.1 %"
    if 99.95 <= shown < 100.0:
        return "> 99.9 %"
    return f"{shown:.0f} %" if shown in (0.0, 100.0) else f"{shown:.1f} %"


def ratio(value: Figure) -> str:
    """A ratio with three significant digits: `1.23x`."""
    if value is None:
        return MISSING
    return f"{plain('')(value)}x"


def count(value: Figure) -> str:
    """A whole number in groups of three: `1 234 567`."""
    return MISSING if value is None else f"{value:,.0f}".replace(",", " ")


def parameters(value: int) -> str:
    """A number of parameters as people say it: `336 M`, `175 B`."""
    for size_, name in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size_:
            return f"{plain('')(value / size_)} {name}"
    return str(value)
