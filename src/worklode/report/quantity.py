"""Numbers as people read them: three significant digits and a prefix."""

from __future__ import annotations

import math

_DECIMAL_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_BINARY_PREFIXES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_MISSING = "-"


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, whole numbers in full, no exponent: 0.0123, 1.23, 12.3, 1234."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    # Rounding may add a digit in front (9.996 -> 10.0), which then needs one decimal less.
    rounded = round(value, decimals)
    if rounded != 0:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{decimals}f}"


def quantity(value: float | None, unit: str) -> str:
    """`value` [unit] with a decimal prefix: `1.23 ms`, `45.0 TB/s`."""
    if value is None:
        return _MISSING
    if value == 0 or not math.isfinite(value):
        return f"{significant(value)} {unit}".rstrip()
    for factor, prefix in _DECIMAL_PREFIXES:
        # 0.9995 of a prefix would be printed as 1000 of the next smaller one.
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)} {prefix}{unit}".rstrip()
    factor, prefix = _DECIMAL_PREFIXES[-1]
    return f"{significant(value / factor)} {prefix}{unit}"


def seconds(value: float | None) -> str:
    """A duration [s]: prefixes below a second, plain seconds to 1000 s."""
    if value is not None and 1.0 <= value < 10_000.0:
        return f"{significant(value)} s"
    return quantity(value, "s")


def size(value: float | None) -> str:
    """Memory [bytes] with a binary prefix: `16 GiB`, `24 MiB`."""
    if value is None:
        return _MISSING
    for factor, prefix in _BINARY_PREFIXES:
        if abs(value) >= factor * 0.9995:
            scaled = value / factor
            return f"{scaled:.0f} {prefix}" if scaled == round(scaled) else f"{significant(scaled)} {prefix}"
    return f"{value:.0f} B"


def percent(value: float | None) -> str:
    """A share as percent: `12.3 %`; a share that is not quite nothing is not printed as 0."""
    if value is None:
        return _MISSING
    shown = value * 100.0
    if 0 < shown < 0.05:
        return "< 0.1 %"
    return f"{shown:.1f} %" if abs(shown) < 99.95 else f"{shown:.0f} %"


def factor(value: float | None) -> str:
    """A ratio: `1.23x`."""
    return _MISSING if value is None else f"{significant(value)}x"


def count(value: float | None) -> str:
    """A whole number with thin groups: `1 234 567`."""
    return _MISSING if value is None else f"{value:,.0f}".replace(",", " ")
