"""Network presets and user files describing a network."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import MISSING, fields
from math import prod
from pathlib import Path
from typing import Any

from worklode.errors import Fault, SpecError
from worklode.hardware.network import Level, Network, Topology
from worklode.hardware.spec_file import SpecReader, join, near_names, read_yaml
from worklode.units import BYTES_PER_S, TIME, Dimension

NETWORKS_FOLDER = Path(__file__).with_name("networks")

_QUANTITIES: dict[str, tuple[str, Dimension]] = {
    "bandwidth": ("bandwidth_bytes_per_s", BYTES_PER_S),
    "burst": ("burst_bytes_per_s", BYTES_PER_S),
    "copy": ("copy_bytes_per_s", BYTES_PER_S),
    "latency": ("latency_s", TIME),
    "bulk_latency": ("bulk_latency_s", TIME),
    "start": ("start_s", TIME),
    "bulk_start": ("bulk_start_s", TIME),
}
"""Keys whose value carries the unit (`latency: 1us`) -> field, which takes a plain number too (`latency_s: 1e-6`)."""
_SHORT_OF = {field: key for key, (field, _) in _QUANTITIES.items()}
_SHARES = ("sustained_share", "eager_share", "reduction_share")
"""Shares of a bandwidth; only `reduction_share` may be 0, for a switch that cannot."""
_RANGES = {"B/s": (1.0, 1e15), "s": (0.0, 1.0)}
"""Least and most of a quantity by its base unit; outside is a typing error."""
_MOST_DEVICES = 2**31 - 1
_NETWORK_FIELDS = tuple(field.name for field in fields(Network) if field.name not in ("name", "levels"))
_LEVEL_FIELDS = tuple(field.name for field in fields(Level))
_SECTIONS = ("name", "title", "mapping", "levels")


def network_names() -> tuple[str, ...]:
    """Names of the network presets, sorted; reads no file."""
    return tuple(sorted(path.stem for path in NETWORKS_FOLDER.glob("*.yaml")))


def load_network(path_or_name: str | Path, *, where: str = "network") -> Network:
    """The network of a preset's name or of a YAML file; what a file holds is in docs/models/network.md.

    A text that ends in .yaml or .yml, or holds a path separator, is a file.

    Raises:
        SpecError: unknown preset or unreadable file, unknown or missing keys, bad values: every fault at once.
    """
    text, names = str(path_or_name), network_names()
    is_file = isinstance(path_or_name, Path) or text.endswith((".yaml", ".yml")) or "/" in text
    if not is_file and text not in names and Path(text).is_file():
        is_file = True
    if is_file:
        return _network(read_yaml(Path(path_or_name)), text)
    if text not in names:
        allowed = f"{near_names(text, names)}; or a YAML file"
        raise SpecError(Fault(where=where, value=text, problem="unknown network", allowed=allowed))
    shown = f"network {text}"
    return _network(read_yaml(NETWORKS_FOLDER / f"{text}.yaml", where=shown), shown)


def dump_network(network: Network) -> str:
    """YAML text from which `load_network` makes the same network."""
    from ruamel.yaml import YAML

    document: dict[str, Any] = _changed(network, ("levels",))
    document["levels"] = [_changed(level, ()) for level in network.levels]
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(document, stream)
    return stream.getvalue()


def _changed(record: Network | Level, left_out: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a record that are not their defaults."""
    found: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name in left_out or value is None or (field.default is not MISSING and value == field.default):
            continue
        found[field.name] = (
            list(value) if isinstance(value, tuple) else str(value) if field.name == "topology" else value
        )
    return found


def _network(document: object, where: str) -> Network:
    reader = SpecReader(where)
    keys = [*_SECTIONS, *_keys_of(_NETWORK_FIELDS)]
    top = reader.mapping(document, "", keys)
    name = reader.text(top.get("name", ""), "name") or ""
    values = _values(reader, {key: top[key] for key in top if key not in _SECTIONS}, "")
    entries = top.get("levels")
    if not isinstance(entries, list) or not entries:
        reader.fault("levels", "must be a list of levels, the innermost first", value=entries)
        entries = []
    levels = [_level(reader, entry, f"levels[{at}]", at == len(entries) - 1) for at, entry in enumerate(entries)]
    names = [level.name for level in levels if level is not None]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        reader.fault("levels", "two levels of one name", value=twice)
    reader.finish()
    return Network(name=name, levels=tuple(level for level in levels if level is not None), **values)


def _level(reader: SpecReader, entry: object, path: str, outermost: bool) -> Level | None:
    """One level; None after noting a fault."""
    before = len(reader.faults)
    items = reader.mapping(entry, path, _keys_of(_LEVEL_FIELDS))
    values = _values(reader, items, path)
    for field in ("name", "topology", "bandwidth_bytes_per_s"):
        if field not in values and not any(fault.path.startswith(join(path, _short(field))) for fault in reader.faults):
            reader.fault(join(path, _short(field)), "is missing")
    if len(reader.faults) > before:
        return None
    dimensions = values.get("dimensions", ())
    values["devices"] = values.get("devices", prod(dimensions) if dimensions else None)
    torus = values["topology"] is Topology.TORUS
    if torus != bool(dimensions):
        problem = "a torus has dimensions" if torus else "only a torus has dimensions"
        reader.fault(join(path, "dimensions"), problem, value=list(dimensions))
    elif torus and prod(dimensions) != values["devices"]:
        reader.fault(join(path, "dimensions"), "do not multiply to the devices", value=list(dimensions))
    if values["devices"] is None and (not outermost or values["topology"] is not Topology.SWITCH):
        problem = "is missing: only an outermost switch joins as many as are needed"
        reader.fault(join(path, "devices"), problem, allowed="a whole number")
    values.setdefault("burst_bytes_per_s", values["bandwidth_bytes_per_s"])
    if values["burst_bytes_per_s"] < values["bandwidth_bytes_per_s"]:
        reader.fault(join(path, "burst"), "is below the bandwidth", allowed="the bandwidth or more")
    values.setdefault("bulk_latency_s", values.get("latency_s", 0.0))
    return None if len(reader.faults) > before else Level(**values)


def _keys_of(names: tuple[str, ...]) -> list[str]:
    return [*names, *(_SHORT_OF[name] for name in names if name in _SHORT_OF)]


def _short(field: str) -> str:
    return _SHORT_OF.get(field, field)


def _values(reader: SpecReader, items: Mapping[str, object], path: str) -> dict[str, Any]:
    """Checked values by field; each entry plain or `{value, source, note}`."""
    found: dict[str, Any] = {}
    given: dict[str, str] = {}
    for key, entry in items.items():
        field = _QUANTITIES[key][0] if key in _QUANTITIES else key
        place = join(path, key)
        if field in given:
            reader.fault(place, f"says the same as {given[field]}", allowed="one of them")
            continue
        given[field] = key
        plain = (
            reader.mapping(entry, place, ("value", "source", "note")).get("value") if isinstance(entry, dict) else entry
        )
        value = _value(reader, key, field, plain, place)
        if value is not None:
            found[field] = value
    return found


def _value(reader: SpecReader, key: str, field: str, value: object, path: str) -> Any:
    """One checked value; None after noting a fault."""
    if field in _SHORT_OF:
        dimension = _QUANTITIES[_SHORT_OF[field]][1]
        is_time = dimension is TIME
        number = reader.quantity(value, dimension, path, allow_zero=is_time, bare=key == field)
        least, most = _RANGES[dimension.base]
        if number is not None and not (number == 0 and is_time) and not least <= number <= most:
            reader.fault(path, "is out of range", value=value, allowed=f"{least:g} to {most:g} {dimension.base}")
            return None
        return number
    if field == "reduction_share":
        return reader.number(value, path, least=0.0, most=1.0)
    if field in _SHARES:
        return reader.number(value, path, above=0.0, most=1.0)
    if field == "collective_cores":
        return reader.whole(value, path, least=0, most=_MOST_DEVICES)
    if field == "devices":
        return reader.whole(value, path, least=1, most=_MOST_DEVICES)
    if field == "topology":
        text = reader.text(value, path, list(Topology))
        return None if text is None else Topology(text)
    if field == "tree":
        if not isinstance(value, bool):
            reader.fault(path, "must be true or false", value=value)
            return None
        return value
    if field == "dimensions":
        if not isinstance(value, list) or not value:
            reader.fault(path, "must be a list of sizes", value=value, allowed="such as [16, 16, 16]")
            return None
        sizes = [reader.whole(size, f"{path}[{at}]", least=1, most=_MOST_DEVICES) for at, size in enumerate(value)]
        return tuple(size for size in sizes if size is not None) if None not in sizes else None
    assert field == "name"
    return reader.text(value, path)
