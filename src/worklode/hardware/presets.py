"""Presets (published accelerators mapped to the template) and user files describing an accelerator."""

from __future__ import annotations

import io
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from worklode.errors import Fault, SpecError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.design import FAMILIES, OPERAND_BYTES
from worklode.hardware.scaling import NODE_RANGE_NM
from worklode.hardware.spec_file import SpecReader, join, near_names, read_yaml
from worklode.units import BYTES, BYTES_PER_S, HERTZ, LENGTH_NM, TIME, Dimension

PRESETS_FOLDER = Path(__file__).with_name("presets")

SHORT_KEYS: dict[str, tuple[str, Dimension]] = {
    "sram": ("sram_bytes", BYTES),
    "hbm_stack": ("hbm_stack_bytes", BYTES),
    "hbm_stack_bandwidth": ("hbm_stack_bytes_per_s", BYTES_PER_S),
    "clock": ("clock_hz", HERTZ),
    "node": ("node_nm", LENGTH_NM),
    "tensor_core_buffer": ("tensor_core_buffer_bytes", BYTES),
    "vector_core_buffer": ("vector_core_buffer_bytes", BYTES),
    "link_bandwidth": ("link_bytes_per_s", BYTES_PER_S),
    "operator_start": ("operator_start_s", TIME),
    "operator_fill": ("operator_fill_s", TIME),
}
"""Keys whose value carries the unit (`sram: 32MiB`) -> field, which takes a plain number too (`sram_bytes: 65536`)."""

TOTAL_KEYS: dict[str, tuple[str, Dimension]] = {
    "hbm": ("hbm_stack_bytes", BYTES),
    "hbm_bytes": ("hbm_stack_bytes", BYTES),
    "hbm_bandwidth": ("hbm_stack_bytes_per_s", BYTES_PER_S),
    "hbm_bytes_per_s": ("hbm_stack_bytes_per_s", BYTES_PER_S),
}
"""Keys for all stacks together -> field of one stack."""

_DIMENSIONS = dict(SHORT_KEYS.values())
_WHOLE_FIELDS = (
    "num_tensor_cores",
    "tensor_core_rows",
    "tensor_core_cols",
    "num_vector_cores",
    "vector_lanes",
    "hbm_stacks",
)
_FIELDS = tuple(field.name for field in fields(Accelerator))
_REQUIRED = tuple(field.name for field in fields(Accelerator) if field.default is MISSING)
_MAY_BE_ZERO = (
    "tensor_core_buffer_bytes",
    "vector_core_buffer_bytes",
    "link_bytes_per_s",
    "operator_start_s",
    "operator_fill_s",
)
_MOST_COUNT = 2**31 - 1
"""Counts above this are typing errors, and would overflow sums of products."""
_RANGES: dict[str, tuple[float, float]] = {
    "B": (1, 2**40),
    "B/s": (1, 1e15),
    "Hz": (1, 1e12),
    "s": (0, 1),
    "nm": NODE_RANGE_NM,
}
"""Least and most of a quantity by its base unit. Outside is a typing error, and far outside overflows; for nodes it is
the scaling table."""
_SECTIONS = ("name", "title", "base", "accelerator", "mapping", "published")
_PUBLISHED_KEYS = ("area_mm2", "tdp_w", "idle_w", "max_measured_w", "shares")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedValue:
    """A published figure.

    Attributes:
        value: the figure, in the unit of its name; a share is a fraction of the die.
        low, high: range where sources differ, else both the value.
        basis: what it is (`thermal design power`, `upper bound`), or "".
        source, date, status: where it comes from, its year, and how it is known (as in technology.yaml).
    """

    value: float
    low: float
    high: float
    basis: str
    source: str
    date: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What is published of a preset: die area [mm2], power [W], and shares of the die by part of `AreaBreakdown`."""

    name: str
    title: str
    mapping: str
    area_mm2: PublishedValue
    tdp_w: PublishedValue
    idle_w: PublishedValue | None = None
    max_measured_w: PublishedValue | None = None
    shares: tuple[tuple[str, PublishedValue], ...] = ()


def preset_names() -> tuple[str, ...]:
    """Names of the presets, sorted; reads no file."""
    return tuple(sorted(path.stem for path in PRESETS_FOLDER.glob("*.yaml")))


def load_preset(name: str, *, where: str = "preset") -> Accelerator:
    """The accelerator of a preset.

    Raises:
        SpecError: unknown preset; the nearest names are offered.
    """
    return _accelerator(_preset_document(name, where), f"preset {name}")


def published(name: str) -> Published:
    """What is published of a preset.

    Raises:
        SpecError: unknown preset; the nearest names are offered.
    """
    document = _preset_document(name, "preset")
    reader = SpecReader(f"preset {name}")
    entries = reader.mapping(document.get("published"), "published", _PUBLISHED_KEYS)
    shares = reader.mapping(entries.get("shares", {}), "published.shares")
    values = {
        key: _published_value(reader, entry, join("published", key))
        for key, entry in entries.items()
        if key != "shares"
    }
    share_values = [
        (part, _published_value(reader, entry, join("published.shares", part))) for part, entry in shares.items()
    ]
    reader.finish()
    area, tdp = values["area_mm2"], values["tdp_w"]
    assert area is not None and tdp is not None
    return Published(
        name=name,
        title=str(document.get("title", name)),
        mapping=str(document.get("mapping", "")),
        area_mm2=area,
        tdp_w=tdp,
        idle_w=values.get("idle_w"),
        max_measured_w=values.get("max_measured_w"),
        shares=tuple((part, value) for part, value in share_values if value is not None),
    )


def field_sources(name: str) -> dict[str, str]:
    """Where each field of a preset's accelerator comes from; a file of the user's has none.

    Raises:
        SpecError: unknown preset; the nearest names are offered.
    """
    found = {}
    for key, entry in _preset_document(name, "preset")["accelerator"].items():
        if isinstance(entry, dict):
            field = (SHORT_KEYS.get(key) or TOTAL_KEYS.get(key) or (key,))[0]
            found[field] = str(entry.get("source", ""))
    return found


def load_accelerator(path_or_name: str | Path, *, where: str = "accelerator") -> Accelerator:
    """The accelerator of a preset's name or of a YAML file.

    A text that ends in .yaml or .yml, or holds a path separator, is a file. A file has the keys of `Accelerator`, at
    the top or under `accelerator:`, with units in the values (`sram: 32MiB`) or in the keys (`sram_bytes: 65536`), each
    plain or as `{value, source}`; `base: PRESET` takes what is missing from a preset.

    Raises:
        SpecError: unknown preset or unreadable file, unknown or missing keys, bad values: every fault at once.
    """
    text = str(path_or_name)
    is_file = isinstance(path_or_name, Path) or text.endswith((".yaml", ".yml")) or "/" in text
    if not is_file and text not in preset_names() and Path(text).is_file():
        is_file = True
    if not is_file:
        return load_preset(text, where=where)
    return _accelerator(read_yaml(Path(path_or_name)), text)


def dump_accelerator(accelerator: Accelerator) -> str:
    """YAML text from which `load_accelerator` makes the same accelerator."""
    from ruamel.yaml import YAML

    values: dict[str, Any] = {}
    for field in fields(Accelerator):
        value = getattr(accelerator, field.name)
        if field.default is MISSING or value != field.default:
            values[field.name] = value
    name = values.pop("name", "")
    stream = io.StringIO()
    document = {"name": name} if name else {}
    YAML(typ="safe", pure=True).dump({**document, "accelerator": values}, stream)
    return stream.getvalue()


def _preset_document(name: str, where: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise SpecError(
            Fault(
                where=where, value=name, problem="unknown preset", allowed=f"{near_names(name, names)}; or a YAML file"
            )
        )
    document: dict[str, Any] = read_yaml(PRESETS_FOLDER / f"{name}.yaml", where=f"preset {name}")
    return document


def _accelerator(document: object, where: str) -> Accelerator:
    """Accelerator of a parsed file: strict, with every fault reported."""
    reader = SpecReader(where)
    keys = set(_FIELDS) | set(SHORT_KEYS) | set(TOTAL_KEYS)
    if isinstance(document, dict) and "accelerator" in document:
        top = reader.mapping(document, "", _SECTIONS)
        items, prefix = reader.mapping(top["accelerator"], "accelerator", keys - {"name"}), "accelerator"
    else:
        top = reader.mapping(document, "", [*sorted(keys), *_SECTIONS])
        items, prefix = {key: value for key, value in top.items() if key in keys and key != "name"}, ""
        if not isinstance(document, dict):
            reader.finish()
    name = reader.text(top.get("name", ""), "name")
    base = _base(reader, top.get("base"))
    values: dict[str, Any] = {} if base is None else {field: getattr(base, field) for field in _FIELDS}
    values["name"] = name
    given: dict[str, str] = {}
    refused: set[str] = set()
    for key, entry in items.items():
        path = join(prefix, key)
        field = (SHORT_KEYS.get(key) or TOTAL_KEYS.get(key) or (key,))[0]
        if field in given:
            reader.fault(path, f"says the same as {given[field]}", allowed="one of them")
            continue
        given[field] = key
        value = field_value(reader, key, _plain(reader, entry, path), path)
        if value is None:
            refused.add(field)
        else:
            values[field] = value
    _share_totals(reader, values, given, prefix)
    unknown_base = base is None and top.get("base") is not None  # its fault is noted; what it would give is unknown
    missing = [field for field in _REQUIRED if field not in values and field not in refused and not unknown_base]
    for field in missing:
        short = next((key for key, (target, _) in SHORT_KEYS.items() if target == field), None)
        reader.fault(join(prefix, field), "is missing", allowed=f"{field}{f' or {short}' if short else ''}, or a base")
    has_links = values.get("num_links", 0) > 0
    if has_links and values.get("link_bytes_per_s", 0.0) == 0 and "link_bytes_per_s" not in refused:
        reader.fault(join(prefix, "link_bytes_per_s"), "is missing: there are links", allowed="link_bandwidth")
    reader.finish()
    return Accelerator(**values)


def _base(reader: SpecReader, name: object) -> Accelerator | None:
    """The preset a file builds on."""
    if name is None or (text := reader.text(name, "base", preset_names())) is None:
        return None
    return load_preset(text)


def _plain(reader: SpecReader, entry: object, path: str) -> object:
    """The value of a plain entry or of `{value, source, note}`."""
    if not isinstance(entry, dict):
        return entry
    items = reader.mapping(entry, path, ("value", "source", "note"))
    return items.get("value")


def field_value(reader: SpecReader, key: str, value: object, path: str) -> Any:
    """Value of one field of `Accelerator` given under one of its keys, checked; None after noting a fault.

    A plain number is taken where the key carries the unit (`sram_bytes: 65536`), and refused where it does not:
    `sram: 32` could be bytes or MiB.
    """
    short = {**SHORT_KEYS, **TOTAL_KEYS}.get(key)
    field = short[0] if short else key
    if field in _DIMENSIONS:
        dimension = _DIMENSIONS[field]
        bare = key not in SHORT_KEYS and key not in ("hbm", "hbm_bandwidth")
        number = reader.quantity(value, dimension, path, allow_zero=field in _MAY_BE_ZERO, bare=bare)
        if number is None:
            return None
        least, most = _RANGES[dimension.base]
        if number != 0 and not least <= number <= most:
            reader.fault(path, "is out of range", value=value, allowed=f"{least:.4g} to {most:.4g} {dimension.base}")
            return None
        return int(number) if dimension.whole else number
    if field in _WHOLE_FIELDS:
        return reader.whole(value, path, least=1, most=_MOST_COUNT)
    if field == "num_links":
        return reader.whole(value, path, least=0, most=_MOST_COUNT)
    if field == "mac_dtype":
        return reader.text(value, path, OPERAND_BYTES)
    if field == "family":
        return reader.text(value, path, FAMILIES)
    if field == "spare_fraction":
        return reader.number(value, path, least=0.0, most=10.0)
    assert field in ("provisioned_activity", "clock_share", "hbm_share")
    return reader.number(value, path, above=0.0, most=1.0)


def _share_totals(reader: SpecReader, values: dict[str, Any], given: dict[str, str], prefix: str) -> None:
    """Divide what was given for all stacks together by their number."""
    stacks = values.get("hbm_stacks")
    for field, key in given.items():
        if key not in TOTAL_KEYS or field not in values or not isinstance(stacks, int):
            continue
        if field == "hbm_stack_bytes":
            if values[field] % stacks:
                reader.fault(join(prefix, key), f"is not a whole number of bytes for each of {stacks} stacks")
            values[field] //= stacks
        else:
            values[field] /= stacks


def _published_value(reader: SpecReader, entry: object, path: str) -> PublishedValue | None:
    allowed = ("value", "low", "high", "bound", "basis", "source", "date", "status")
    items = reader.mapping(entry, path, allowed)
    value = reader.number(items.get("value"), join(path, "value"), above=0.0)
    source = reader.text(items.get("source"), join(path, "source"))
    date = reader.whole(items.get("date"), join(path, "date"), least=1900)
    status = reader.text(items.get("status"), join(path, "status"))
    if value is None or source is None or date is None or status is None:
        return None
    return PublishedValue(
        value=value,
        low=float(items.get("low", value)),
        high=float(items.get("high", value)),
        basis=str(items.get("basis", f"{items['bound']} bound" if "bound" in items else "")),
        source=source,
        date=date,
        status=status,
    )
