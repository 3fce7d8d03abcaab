"""Technology constants with unit, source, date and uncertainty, and the user's private overlay of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from worklode.hardware.scaling import Node, dynamic_energy_scale, logic_area_scale, sram_area_scale
from worklode.hardware.spec_file import SpecReader, join, near_names, read_yaml

TECHNOLOGY_FILE = Path(__file__).with_name("technology.yaml")

UNITS: Mapping[str, tuple[float, str]] = {
    "um2": (1e-6, "mm2"),
    "mm2": (1.0, "mm2"),
    "pJ": (1e-12, "J"),
    "fJ": (1e-15, "J"),
    "J": (1.0, "J"),
    "mW": (1e-3, "W"),
    "W": (1.0, "W"),
    "B": (1.0, "B"),
    "KiB": (1024.0, "B"),
    "GB/s": (1e9, "B/s"),
    "B/s": (1.0, "B/s"),
    "ratio": (1.0, "ratio"),
}
"""Unit in the file -> size in the unit of `Constant.value`, and that unit."""

SCALES: Mapping[str, Callable[[Sequence[Node], float], float] | None] = {
    "logic_area": logic_area_scale,
    "sram_area": sram_area_scale,
    "dynamic_energy": dynamic_energy_scale,
    "none": None,
}
STATUSES = ("seen", "derived", "secondary", "general", "assumption", "fitted", "overlay")
_MOST = 1e15
"""Values above this, in the unit they are written in, are typing errors and would overflow sums."""
_QUANTITY = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z][A-Za-z0-9/]*)\s*")
_FIELDS = ("value", "unit", "node_nm", "scales", "low", "high", "date", "status", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One technology constant.

    Attributes:
        value, low, high: value and range of what it could as well be, in `unit`.
        unit: mm2, J, W, B, B/s or ratio.
        written_unit: unit it has in its file, a key of `UNITS`; what a plain number of an overlay is in.
        node_nm: node the value is for [nm], None where it does not scale.
        scales: rule that takes it to another node, a key of `SCALES`.
        source, date, status: where it comes from, year of the source, how it is known (one of `STATUSES`).
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    written_unit: str
    node_nm: int | None
    scales: str
    source: str
    date: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Technology:
    """All constants, the node table, and which constants a private overlay changed.

    Attributes:
        constants: by name, in the order of the file.
        nodes: the node table.
        overlaid: names that the overlay changed.
        overlay: the overlay's path, or "".
    """

    constants: tuple[Constant, ...]
    nodes: tuple[Node, ...]
    overlaid: tuple[str, ...] = ()
    overlay: str = ""
    _index: dict[str, Constant] = field(init=False, repr=False, compare=False)
    _scaled: dict[tuple[str, float], float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {constant.name: constant for constant in self.constants})
        object.__setattr__(self, "_scaled", {})

    def constant(self, name: str) -> Constant:
        """The constant of that name."""
        return self._index[name]

    def value(self, name: str) -> float:
        """Value of a constant that does not depend on the node, in the constant's unit."""
        constant = self._index[name]
        assert constant.scales == "none", f"{name} scales with the node: use at()"
        return constant.value

    def at(self, name: str, node_nm: float) -> float:
        """Value of a constant scaled to `node_nm` [nm], in the constant's unit."""
        key = (name, node_nm)
        if key not in self._scaled:
            constant = self._index[name]
            rule = SCALES[constant.scales]
            factor = 1.0
            if rule is not None and constant.node_nm is not None:
                factor = rule(self.nodes, node_nm) / rule(self.nodes, constant.node_nm)
            self._scaled[key] = constant.value * factor
        return self._scaled[key]

    def with_values(self, values: Mapping[str, float]) -> Technology:
        """The same technology with some constants changed, values in their units (for sensitivity and fitting)."""
        unknown = set(values) - set(self._index)
        assert not unknown, f"unknown constants {sorted(unknown)}"
        changed = tuple(
            replace(constant, value=values[constant.name]) if constant.name in values else constant
            for constant in self.constants
        )
        return replace(self, constants=changed)


def load_technology(overlay: Path | str | None = None) -> Technology:
    """Shipped technology constants, with a private overlay file laid over them where given.

    Args:
        overlay: YAML with `constants: {name: value}` or `constants: {name: {value, unit, source, ...}}`. A value is a
            number in the unit the shipped file writes, or text with a unit of the same kind (`450fJ`).

    Raises:
        SpecError: the overlay cannot be read or names unknown constants, units or keys; every fault is listed.
    """
    shipped = _shipped()
    return shipped if overlay is None else _overlaid(shipped, Path(overlay))


@lru_cache(maxsize=1)
def _shipped() -> Technology:
    where = "technology.yaml"
    reader = SpecReader(where)
    document = reader.mapping(read_yaml(TECHNOLOGY_FILE, where=where), "", ("version", "constants", "nodes"))
    entries = reader.mapping(document.get("constants"), "constants")
    constants = [_constant(reader, name, entry) for name, entry in entries.items()]
    nodes = [_node(reader, row, f"nodes[{index}]") for index, row in enumerate(document.get("nodes", ()))]
    reader.finish()
    return Technology(
        constants=tuple(constant for constant in constants if constant is not None),
        nodes=tuple(node for node in nodes if node is not None),
    )


def _constant(reader: SpecReader, name: str, entry: object, base: Constant | None = None) -> Constant | None:
    """Constant from its mapping; what is missing is taken from `base` where there is one."""
    path = join("constants", name)
    noted = len(reader.faults)
    items = reader.mapping(entry, path, _FIELDS)
    if base is None:
        for key in set(_FIELDS) - {"node_nm"} - set(items):
            reader.fault(join(path, key), "is missing")
        if len(reader.faults) > noted:
            return None
    given = items.get("unit", base.written_unit if base else None)
    unit = None if given is None else reader.text(given, join(path, "unit"), UNITS)
    factor, base_unit = UNITS.get(unit or "", (1.0, ""))
    if base is not None and unit is not None and base_unit != base.unit:
        allowed = ", ".join(listed for listed, (_, result) in UNITS.items() if result == base.unit)
        reader.fault(join(path, "unit"), f"does not fit {name}", value=unit, allowed=allowed)
    # Sizes and rates are divided by; anything else may be absent from a chip.
    limits = {"above": 0.0} if base_unit in ("B", "B/s") else {"least": 0.0}
    numbers = {
        key: reader.number(items[key], join(path, key), most=_MOST, **limits)
        for key in ("value", "low", "high")
        if key in items
    }
    if base is not None and "value" not in items:
        reader.fault(join(path, "value"), "is missing")
    rule = items.get("scales", base.scales if base else None)
    scales = reader.text(rule, join(path, "scales"), SCALES)
    node = items.get("node_nm", base.node_nm if base else None)
    node_nm = None if node is None else reader.whole(node, join(path, "node_nm"), least=3, most=130)
    default_status = "overlay" if base is not None else ""
    status = reader.text(items.get("status", default_status), join(path, "status"), STATUSES)
    source = reader.text(items.get("source", f"overlay {reader.where}"), join(path, "source"))
    date = reader.whole(items.get("date", base.date if base else None), join(path, "date"), least=1900)
    if len(reader.faults) > noted:
        return None
    assert numbers["value"] is not None and scales is not None and status is not None and source is not None
    assert date is not None and unit is not None
    value = numbers["value"] * factor
    low = value if numbers.get("low") is None else float(numbers["low"] or 0.0) * factor
    high = value if numbers.get("high") is None else float(numbers["high"] or 0.0) * factor
    if not low <= value <= high:
        reader.fault(path, "the value is outside its own range low to high", value=items["value"])
        return None
    return Constant(
        name=name, value=value, low=low, high=high, unit=base_unit, written_unit=unit, node_nm=node_nm, scales=scales,
        source=source, date=date, status=status,
    )  # fmt: skip


def _as_mapping(entry: object) -> object:
    """The long form of `1.2` and `450fJ`; anything else as it is."""
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        return {"value": entry}
    if isinstance(entry, str) and (match := _QUANTITY.fullmatch(entry)):
        try:
            return {"value": float(match[1]), "unit": match[2]}
        except ValueError:
            return entry
    return entry


def _node(reader: SpecReader, row: Any, path: str) -> Node | None:
    if not isinstance(row, list) or len(row) != 7:
        reader.fault(path, "must be a list of seven values", value=row)
        return None
    node_nm, cell, supply, area, polynomial, density, energy = row
    return Node(
        node_nm=int(node_nm),
        bit_cell_um2=float(cell),
        supply_v=float(supply),
        area_to_7nm=area,
        energy_polynomial=None if polynomial is None else (polynomial[0], polynomial[1], polynomial[2]),
        logic_mtr_per_mm2=density,
        energy_to_7nm=energy,
    )


def _overlaid(shipped: Technology, path: Path) -> Technology:
    """The shipped technology with the constants of an overlay file."""
    where = str(path)
    reader = SpecReader(where)
    document = reader.mapping(read_yaml(path), "", ("version", "constants"))
    entries = reader.mapping(document.get("constants"), "constants")
    changed: dict[str, Constant] = {}
    for name, entry in entries.items():
        base = shipped._index.get(name)
        if base is None:
            reader.fault(
                join("constants", name), "unknown constant", value=name, allowed=near_names(name, shipped._index)
            )
            continue
        items = _as_mapping(entry)
        if not isinstance(items, dict):
            allowed = f"a number in {base.written_unit}, text with a unit, or {{value: ..., unit: ..., source: ...}}"
            reader.fault(join("constants", name), "is no value of a constant", value=entry, allowed=allowed)
            continue
        constant = _constant(reader, name, items, base)
        if constant is not None:
            changed[name] = constant
    reader.finish()
    return replace(
        shipped,
        constants=tuple(changed.get(constant.name, constant) for constant in shipped.constants),
        overlaid=tuple(changed),
        overlay=where,
    )
