"""Numbers that count the lane operations done on them: the slow oracle of the operator table.

A formula written on `Counted` gives its value, to be compared with torch's, and the operations it took, to be compared
with the table's. Counting starts where values meet: constants are folded by the writer of the formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

Number = "Counted | float"


@dataclass
class Tally:
    """Operations done so far."""

    simple: int = 0
    special: int = 0


@dataclass
class Counted:
    """A value whose operations are tallied."""

    value: float
    tally: Tally = field(repr=False)

    def _simple(self, value: float) -> Counted:
        self.tally.simple += 1
        return Counted(value, self.tally)

    def special(self, value: float) -> Counted:
        self.tally.special += 1
        return Counted(value, self.tally)

    def __add__(self, other: Counted | float) -> Counted:
        return self._simple(self.value + raw(other))

    __radd__ = __add__

    def __sub__(self, other: Counted | float) -> Counted:
        return self._simple(self.value - raw(other))

    def __rsub__(self, other: Counted | float) -> Counted:
        return self._simple(raw(other) - self.value)

    def __mul__(self, other: Counted | float) -> Counted:
        return self._simple(self.value * raw(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Counted | float) -> Counted:
        if not isinstance(other, Counted):
            return self._simple(self.value / other)  # multiply by the reciprocal of a constant
        return self.special(self.value / other.value)

    def __rtruediv__(self, other: float) -> Counted:
        return self.special(other / self.value)

    def __neg__(self) -> Counted:
        return self._simple(-self.value)

    def __abs__(self) -> Counted:
        return self._simple(abs(self.value))

    def __gt__(self, other: Counted | float) -> Condition:
        self.tally.simple += 1
        return Condition(self.value > raw(other), self.tally)

    def __lt__(self, other: Counted | float) -> Condition:
        self.tally.simple += 1
        return Condition(self.value < raw(other), self.tally)


@dataclass
class Condition:
    """The outcome of a compare, already tallied."""

    holds: bool
    tally: Tally = field(repr=False)


def raw(x: Counted | float) -> float:
    return x.value if isinstance(x, Counted) else x


def select(condition: Condition, yes: Counted | float, no: Counted | float) -> Counted:
    condition.tally.simple += 1
    return Counted(raw(yes) if condition.holds else raw(no), condition.tally)


def least(x: Counted, y: Counted | float) -> Counted:
    return x._simple(min(x.value, raw(y)))


def most(x: Counted, y: Counted | float) -> Counted:
    return x._simple(max(x.value, raw(y)))


def _special(function: Callable[[float], float]) -> Callable[[Counted], Counted]:
    return lambda x: x.special(function(x.value))


exp = _special(math.exp)
log = _special(math.log)
tanh = _special(math.tanh)
erf = _special(math.erf)
sqrt = _special(math.sqrt)


def counted(formula: Callable[..., object], *values: float) -> tuple[list[float], Tally]:
    """Results of a formula on these values, and the operations it took."""
    tally = Tally()
    found = formula(*(Counted(v, tally) for v in values))
    results = found if isinstance(found, tuple) else (found,)
    return [raw(r) for r in results], tally
