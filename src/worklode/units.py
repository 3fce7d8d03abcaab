"""Quantities with units: text to SI (areas stay in mm2) where files and command lines are read, and back for people.

Everything inside the package is in SI units, named in the identifier; this is the one place where conversion happens.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from worklode.errors import Fault, SpecError

_NUMBER = re.compile(r"\s*([+-]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(.*?)\s*", re.DOTALL)
_LEAST_SUFFIX_EXPONENT, _GREATEST_SUFFIX_EXPONENT = -15, 18
_SI_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A kind of quantity: the units it may be written in and how many base units each is.

    Attributes:
        name: for messages ("area").
        base: unit of the parsed result ("mm2").
        units: accepted spelling -> size in base units. Spellings are tried as written, then without regard to case
            where that is unambiguous (`mib` is MiB, but `mw` could be mW or MW and is refused).
        example: for messages ("600mm2").
        whole: the result must be a whole number of base units.
    """

    name: str
    base: str
    units: tuple[tuple[str, float], ...]
    example: str
    whole: bool = False

    @property
    def unit_names(self) -> str:
        """Accepted units, for messages."""
        return ", ".join(name for name, _ in self.units)

    def factor(self, unit: str) -> float | None:
        """Base units in one `unit`, or None where the unit is unknown or, its case ignored, ambiguous."""
        for name, size in self.units:
            if name == unit:
                return size
        sizes = {size for name, size in self.units if name.lower() == unit.lower()}
        return sizes.pop() if len(sizes) == 1 else None


_BYTE_UNITS = tuple(
    [("B", 1.0)]
    + [(f"{prefix}B", 10.0**exponent) for prefix, exponent in (("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15))]
    + [(f"{prefix}iB", 2.0**exponent) for prefix, exponent in (("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50))]
)
_BIT_UNITS = tuple((f"{prefix}b", 10.0**exponent / 8) for prefix, exponent in (("k", 3), ("M", 6), ("G", 9), ("T", 12)))

AREA = Dimension(
    name="area",
    base="mm2",
    units=(("mm2", 1.0), ("mm^2", 1.0), ("mm²", 1.0), ("cm2", 100.0), ("cm^2", 100.0), ("cm²", 100.0), ("um2", 1e-6)),
    example="600mm2",
)
POWER = Dimension(name="power", base="W", units=(("W", 1.0), ("mW", 1e-3), ("kW", 1e3), ("MW", 1e6)), example="280W")
BYTES = Dimension(name="size", base="B", units=_BYTE_UNITS, example="32MiB", whole=True)
BYTES_PER_S = Dimension(
    name="bandwidth",
    base="B/s",
    units=tuple((f"{name}/s", size) for name, size in _BYTE_UNITS + _BIT_UNITS)
    + tuple((f"{name}it/s", size) for name, size in _BIT_UNITS),
    example="700GB/s",
)
HERTZ = Dimension(
    name="frequency", base="Hz", units=(("Hz", 1.0), ("kHz", 1e3), ("MHz", 1e6), ("GHz", 1e9)), example="700MHz"
)
TIME = Dimension(
    name="time",
    base="s",
    units=(
        ("s", 1.0),
        ("ms", 1e-3),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ns", 1e-9),
        ("min", 60.0),
        ("h", 3600.0),
        ("d", 86400.0),
    ),
    example="10min",
)
LENGTH_NM = Dimension(name="technology node", base="nm", units=(("nm", 1.0),), example="7nm", whole=True)


def parse_quantity(
    text: str,
    dimension: Dimension,
    *,
    where: str = "argument",
    path: str = "",
    allow_zero: bool = False,
    bare: bool = False,
) -> float:
    """Read a quantity such as `600mm2` or `1.5 GHz`.

    Args:
        text: number and unit, with or without a space between.
        dimension: what it must be a quantity of.
        where: file or option it came from, for the message.
        path: place inside it, for the message.
        allow_zero: accept 0 (never a negative quantity).
        bare: accept a number without a unit, in base units: for keys whose name carries the unit.

    Returns:
        The value in base units of the dimension.

    Raises:
        SpecError: not a number, no or unknown unit, negative, zero where not allowed, or not whole where it must be.
    """

    def refuse(problem: str) -> SpecError:
        allowed = f"a number and a unit ({dimension.unit_names}), for example {dimension.example}"
        if bare:
            allowed += f", or a plain number in {dimension.base}"
        return SpecError(Fault(where=where, path=path, value=repr(text), problem=problem, allowed=allowed))

    match = _NUMBER.fullmatch(text)
    if match is None:
        raise refuse(f"not a quantity of {dimension.name}")
    number, unit = match.group(1).replace("_", ""), match.group(2)
    if not unit and not bare:
        raise refuse("the unit is missing")
    factor = dimension.factor(unit) if unit else 1.0
    if factor is None:
        raise refuse(f"unknown or ambiguous unit {unit!r} of {dimension.name}")
    exponent = re.search(r"[eE]([+-]?[0-9]+)", number)
    if exponent is not None and abs(int(exponent.group(1))) > 300:  # keep Fraction and float within range
        raise refuse("the number is out of range")
    # exact arithmetic, rounded once: 0.1GB is 1e8 bytes and no more
    exact = Fraction(number) * Fraction(factor if factor >= 1 else repr(factor))
    if exact < 0:
        raise refuse(f"{dimension.name} cannot be negative")
    if exact == 0 and not allow_zero:
        raise refuse(f"{dimension.name} must be above zero")
    if dimension.whole and exact.denominator != 1:
        raise refuse(f"{dimension.name} must be a whole number of {dimension.base}")
    try:
        value = float(exact)
    except OverflowError:
        raise refuse("the number is out of range") from None
    if value == 0 and exact != 0:
        raise refuse("the number is out of range")
    return value


def parse_area_mm2(text: str, *, where: str = "argument", path: str = "") -> float:
    """Area [mm2], above zero; see `parse_quantity`."""
    return parse_quantity(text, AREA, where=where, path=path)


def parse_power_w(text: str, *, where: str = "argument", path: str = "") -> float:
    """Power [W], above zero; see `parse_quantity`."""
    return parse_quantity(text, POWER, where=where, path=path)


def parse_bytes(text: str, *, where: str = "argument", path: str = "", allow_zero: bool = False) -> int:
    """Size [bytes]; kB, MB, GB are powers of ten, KiB, MiB, GiB powers of two; see `parse_quantity`."""
    return int(parse_quantity(text, BYTES, where=where, path=path, allow_zero=allow_zero))


def parse_bytes_per_s(text: str, *, where: str = "argument", path: str = "", allow_zero: bool = False) -> float:
    """Bandwidth [bytes/s]; a small b is bits (`100Gb/s`); see `parse_quantity`."""
    return parse_quantity(text, BYTES_PER_S, where=where, path=path, allow_zero=allow_zero)


def parse_hertz(text: str, *, where: str = "argument", path: str = "") -> float:
    """Frequency [Hz], above zero; see `parse_quantity`."""
    return parse_quantity(text, HERTZ, where=where, path=path)


def parse_time_s(text: str, *, where: str = "argument", path: str = "", allow_zero: bool = False) -> float:
    """Duration [s]; see `parse_quantity`."""
    return parse_quantity(text, TIME, where=where, path=path, allow_zero=allow_zero)


def parse_times(text: str, *, where: str = "argument", path: str = "") -> float:
    """Multiple of something [1], written `100x`; positive.

    Raises:
        SpecError: it is no such number.
    """
    number = text.strip().removesuffix("x")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf or number == text.strip():
        raise SpecError(
            Fault(where=where, path=path, value=repr(text), problem="is no multiple", allowed="such as 100x, > 0")
        )
    return value


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """Quantity with an SI prefix: `format_si(0.00123, "s")` is "1.23 ms".

    Args:
        value: in `unit`.
        unit: unprefixed unit ("s", "B/s", "FLOP/s", "W").
        digits: significant digits.
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    exponent = math.floor(math.log10(abs(value)) / 3) * 3
    exponent = min(max(exponent, _LEAST_SUFFIX_EXPONENT), _GREATEST_SUFFIX_EXPONENT)
    text = _significant(value / 10.0**exponent, digits)
    if abs(float(text)) >= 1000 and exponent < _GREATEST_SUFFIX_EXPONENT:  # rounding reached the next prefix
        exponent += 3
        text = _significant(value / 10.0**exponent, digits)
    return f"{text} {_SI_PREFIXES[exponent]}{unit}"


def format_bytes(value: float, digits: int = 3) -> str:
    """Size with a binary prefix: `format_bytes(33554432)` is "32 MiB"."""
    prefixes = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
    index = 0
    while abs(value) >= 1024 and index < len(prefixes) - 1:
        value /= 1024
        index += 1
    return f"{_significant(value, max(digits, 4) if abs(value) >= 1000 else digits)} {prefixes[index]}B"


def format_bytes_per_s(value: float, digits: int = 3) -> str:
    """Bandwidth with an SI prefix: "700 GB/s"."""
    return format_si(value, "B/s", digits)


def format_hertz(value: float, digits: int = 4) -> str:
    """Frequency with an SI prefix: "700 MHz"."""
    return format_si(value, "Hz", digits)


def format_time_s(value: float, digits: int = 3) -> str:
    """Duration: an SI prefix below a minute, minutes, hours or days above."""
    for size, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if value >= 2 * size:
            return f"{_significant(value / size, digits)} {name}"
    return format_si(value, "s", digits)


def format_area_mm2(value: float, digits: int = 3) -> str:
    """Area: "611 mm2"."""
    return f"{_significant(value, digits)} mm2"


def format_power_w(value: float, digits: int = 3) -> str:
    """Power with an SI prefix: "280 W"."""
    return format_si(value, "W", digits)


def _significant(value: float, digits: int) -> str:
    """Decimal text with `digits` significant digits, whole digits kept, no exponent, no trailing zeros."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
