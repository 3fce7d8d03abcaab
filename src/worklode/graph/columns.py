"""Columns of the graph file: how one field of many records becomes JSON and comes back, checked.

Every decoder checks types and ranges on the whole column, reports faults to its `Reader` and returns values only where
the column is sound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate, chain
from typing import Any

from worklode.errors import Fault

INT_LIMIT = 2**63
"""Integers of a file stay below this: graphs become int64 arrays later on."""

FAULTS_SHOWN = 20
"""Faults of one file after which reading stops (assumption: nobody reads more, and a wrong file has millions)."""

Json = Any
"""A decoded JSON value: the one place where values have no static type is the boundary that checks them."""


class Pool:
    """Texts of a file, each once, in order of first use."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Index of a text."""
        return self.index.setdefault(text, len(self.index))


class Reader:
    """What decoding needs: where the file is, its texts, the faults found so far."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.strings: list[str] = []
        self.faults: list[Fault] = []

    def fault(self, path: str, problem: str, value: object = None, allowed: str = "") -> None:
        """Note a fault; the value is shown shortened."""
        shown = "" if value is None else _shortened(value)
        self.faults.append(Fault(where=self.where, path=path, value=shown, problem=problem, allowed=allowed))

    def keys(self, found: Json, path: str, required: Iterable[str]) -> bool:
        """Is it an object with exactly these keys? Missing and unknown ones are faults."""
        if not isinstance(found, dict):
            self.fault(path, "is no object", found, "an object")
            return False
        names = list(required)
        before = len(self.faults)
        for name in names:
            if name not in found:
                self.fault(_join(path, name), "missing key", None, f"keys {', '.join(names)}")
        for name in found:
            if name not in names:
                self.fault(_join(path, name), "unknown key", None, f"keys {', '.join(names)}")
        return len(self.faults) == before

    def ints(self, found: Json, path: str, low: int, high: int = INT_LIMIT - 1) -> list[int]:
        """A list of integers of a range."""
        if not isinstance(found, list):
            self.fault(path, "is no list", found, "a list of integers")
            return []
        if set(map(type, found)) - {int}:
            place = next(i for i, value in enumerate(found) if type(value) is not int)
            self.fault(f"{path}[{place}]", "is no integer", found[place], "an integer")
            return []
        if found and not (low <= min(found) and max(found) <= high):
            place = next(i for i, value in enumerate(found) if not low <= value <= high)
            self.fault(f"{path}[{place}]", "outside its range", found[place], f"{low} to {high}")
            return []
        return found

    def deltas(self, found: Json, path: str, low: int, high: int = INT_LIMIT - 1) -> list[int]:
        """Integers of a range that were stored as differences."""
        differences = self.ints(found, path, -INT_LIMIT, INT_LIMIT - 1)
        return self.ints(list(accumulate(differences)), path, low, high)

    def text(self, found: Json, path: str) -> str:
        """One text."""
        if isinstance(found, str):
            return found
        self.fault(path, "is no text", found, "a text")
        return ""


def deltas_of(values: Iterable[int]) -> list[int]:
    """Differences of neighbours: repeated blocks become repeated text, which compresses."""
    differences, last = [], 0
    for value in values:
        differences.append(value - last)
        last = value
    return differences


class Column(ABC):
    """How one field of a table's records is stored."""

    @abstractmethod
    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """JSON of the column."""

    @abstractmethod
    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """Values of the column; empty, with a fault noted, where it is unsound."""


class Ints(Column):
    """Integers as they are, from `low` on."""

    def __init__(self, low: int = 0) -> None:
        self.low = low

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """The values."""
        return list(values)

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """The values."""
        return reader.ints(found, path, self.low)


class Deltas(Ints):
    """Integers that mostly ascend, as differences."""

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """Differences of neighbours."""
        return deltas_of(values)

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """Running sums."""
        return reader.deltas(found, path, self.low)


class Flags(Column):
    """Booleans as 0 and 1."""

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """0 or 1."""
        return [int(value) for value in values]

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """False or True."""
        return list(map((False, True).__getitem__, reader.ints(found, path, 0, 1)))


class Shares(Column):
    """Finite numbers from 0 up to 1."""

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """The values; JSON keeps every bit of a float."""
        return [float(value) for value in values]

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """The values."""
        if not isinstance(found, list):
            reader.fault(path, "is no list", found, "a list of numbers")
            return []
        for place, value in enumerate(found):
            if type(value) is not float or not 0.0 <= value < 1.0:
                reader.fault(f"{path}[{place}]", "is no share", value, "0.0 <= number < 1.0")
                return []
        return found


class Texts(Column):
    """Texts, as indices into the file's strings."""

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """Indices."""
        return [pool.add(value) for value in values]

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """Texts."""
        indices = reader.ints(found, path, 0, len(reader.strings) - 1)
        return list(map(reader.strings.__getitem__, indices))


class Enums(Texts):
    """Members of an enumeration, by their text."""

    def __init__(self, members: type[StrEnum]) -> None:
        self.by_text: dict[str, StrEnum] = {str(member): member for member in members}

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """Members."""
        texts = super().decode(found, reader, path)
        try:
            return list(map(self.by_text.__getitem__, texts))
        except KeyError:
            place = next(i for i, text in enumerate(texts) if text not in self.by_text)
            reader.fault(f"{path}[{place}]", "unknown", repr(texts[place]), ", ".join(self.by_text))
            return []


class Tuples(Column):
    """Tuples of integers: their lengths, and all values after one another as differences."""

    def __init__(self, low: int = 0) -> None:
        self.low = low

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """Lengths and values."""
        return {"lengths": [len(value) for value in values], "values": deltas_of(chain.from_iterable(values))}

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """Tuples of integers."""
        if not reader.keys(found, path, ("lengths", "values")):
            return []
        values = self.decode_values(found["values"], reader, f"{path}.values")
        return cut(found["lengths"], values, reader, path)

    def decode_values(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """The values of all tuples."""
        return reader.deltas(found, path, self.low)


class TextTuples(Tuples):
    """Tuples of texts."""

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """Lengths and indices of texts."""
        indices = [pool.add(text) for text in chain.from_iterable(values)]
        return {"lengths": [len(value) for value in values], "values": indices}

    def decode_values(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """The texts of all tuples."""
        return Texts().decode(found, reader, path)


class EnumTuples(TextTuples):
    """Tuples of members of an enumeration, by their texts."""

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.member = Enums(members)

    def decode_values(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """The members of all tuples."""
        return self.member.decode(found, reader, path)


class References(Column):
    """One record of another table each, by its index there. The table is given when reading starts."""

    def __init__(self, table: str) -> None:
        self.table = table

    def encode(self, values: Sequence[Any], pool: Pool) -> Json:
        """Indices."""
        return list(values)

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """Indices; `resolve` makes records of them."""
        return reader.ints(found, path, 0)


class OptionalReferences(References):
    """One record of another table or none each, by its index there or -1."""

    def decode(self, found: Json, reader: Reader, path: str) -> Sequence[Any]:
        """Indices, -1 for none; `resolve` makes records of them."""
        return reader.ints(found, path, -1)


class ReferenceTuples(Tuples):
    """Tuples of records of another table, by their index there."""

    def __init__(self, table: str) -> None:
        super().__init__(low=0)
        self.table = table


def resolve(
    column: References | ReferenceTuples, values: Sequence[Any], records: Sequence[object], reader: Reader, path: str
) -> Sequence[Any]:
    """Records in place of their indices."""
    try:
        if isinstance(column, OptionalReferences):
            return [None if index < 0 else records[index] for index in values]
        if isinstance(column, References):
            return list(map(records.__getitem__, values))
        return [tuple(map(records.__getitem__, indices)) for indices in values]
    except IndexError:
        reader.fault(path, f"index beyond the table {column.table}", None, f"0 to {len(records) - 1}")
        return []


def cut(found: Json, values: Sequence[Any], reader: Reader, path: str) -> list[tuple[Any, ...]]:
    """Cut values into tuples of the given lengths."""
    lengths = reader.ints(found, f"{path}.lengths", 0)
    if sum(lengths) != len(values):
        reader.fault(path, "lengths and values disagree", f"{sum(lengths)} and {len(values)}", "equal sums")
        return []
    tuples, start = [], 0
    for length in lengths:
        tuples.append(tuple(values[start : start + length]) if length else ())
        start += length
    return tuples


def encode_table(records: Sequence[object], columns: Mapping[str, Column], pool: Pool) -> dict[str, Json]:
    """A table: one column per field."""
    return {name: column.encode([getattr(r, name) for r in records], pool) for name, column in columns.items()}


def decode_table(
    found: Json,
    columns: Mapping[str, Column],
    reader: Reader,
    path: str,
    tables: Mapping[str, Sequence[object]] | None = None,
) -> list[Sequence[Any]]:
    """The columns of a table, all of one length; empty columns, with faults noted, where it is unsound."""
    empty: list[Sequence[Any]] = [[] for _ in columns]
    if not reader.keys(found, path, columns):
        return empty
    before = len(reader.faults)
    decoded: list[Sequence[Any]] = []
    for name, column in columns.items():
        values = column.decode(found[name], reader, f"{path}.{name}")
        if isinstance(column, References | ReferenceTuples):
            values = resolve(column, values, (tables or {})[column.table], reader, f"{path}.{name}")
        decoded.append(values)
    if len(reader.faults) > before:
        return empty
    sizes = {name: len(values) for name, values in zip(columns, decoded, strict=True)}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        reader.fault(path, "columns of different lengths", shown, "equal lengths")
        return empty
    return decoded


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shortened(value: object, limit: int = 60) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
