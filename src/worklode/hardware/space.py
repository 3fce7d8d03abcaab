"""The design space: legal sets of what a search chooses, and what every design of it shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.design_arrays import SEARCHED_FIELDS, DesignArrays
from worklode.hardware.presets import SHORT_KEYS, TOTAL_KEYS, field_value, load_preset
from worklode.hardware.spec_file import SpecReader, join, read_yaml

KIB, MIB = 2**10, 2**20

DEFAULT_SETS: dict[str, dict[str, tuple[int, ...]]] = {
    "systolic": {
        "tensor_core_rows": (8, 16, 32, 48, 64, 96, 128, 192, 256),
        "tensor_core_cols": (8, 16, 32, 48, 64, 96, 128, 192, 256),
        "vector_lanes": (64, 128, 256, 512, 1024, 2048),
        "num_tensor_cores": (1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
        "num_vector_cores": (1, 2, 3, 4, 6, 8, 16, 32),
        "sram_bytes": tuple(size * MIB for size in (2, 4, 8, 16, 24, 32, 48, 64, 128, 192)),
        "hbm_stacks": (1, 2, 4, 6, 8),
    },
    "simt": {
        "tensor_core_rows": (8, 12, 16, 24, 32, 48, 64, 96, 128),
        "tensor_core_cols": (8, 12, 16, 24, 32, 48, 64, 96, 128),
        "vector_lanes": (32, 64, 96, 128, 256),
        "num_tensor_cores": (16, 32, 64, 96, 128, 192, 256, 384, 512, 768),
        "num_vector_cores": (16, 32, 48, 64, 96, 128, 160, 192),
        "sram_bytes": tuple(size * MIB for size in (10, 20, 30, 40, 50, 60, 80, 120)),
        "hbm_stacks": (2, 3, 4, 5, 6, 8),
    },
    "embedded": {
        "tensor_core_rows": (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
        "tensor_core_cols": (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
        "vector_lanes": (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128),
        "num_tensor_cores": (1, 2, 3, 4, 6, 8, 12, 16),
        "num_vector_cores": (1, 2, 3, 4, 6, 8),
        "sram_bytes": tuple(
            size * KIB
            for size in (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
        ),
        "hbm_stacks": (1,),
    },
}
"""Legal sets by family, each space of over a million designs. Assumptions: steps of 2 and 1.5 around published chips;
one stack where the memory belongs to the system."""

DEFAULT_BASE = "tpuv4"
"""Node, clock and memory of designs when only area and power are given: the newest preset of the systolic family."""

MOST_DESIGNS = 100_000_000
"""Designs of a space, at most: area and power of all of them as arrays take 0.8 GB each then. (Measured: a search took
43 s and 2.4 GB on a space of 2e10, and explaining infeasible limits there ran out of 16 GB.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignSpace:
    """The cross product of legal sets, each ascending, over fields that all designs share.

    A design is told by seven indices, one into each set in the order of `SEARCHED_FIELDS`, or by its position
    (the indices in mixed radix, the last varying fastest).
    """

    tensor_core_rows: tuple[int, ...]
    tensor_core_cols: tuple[int, ...]
    vector_lanes: tuple[int, ...]
    num_tensor_cores: tuple[int, ...]
    num_vector_cores: tuple[int, ...]
    sram_bytes: tuple[int, ...]
    hbm_stacks: tuple[int, ...]
    hbm_stack_bytes: int
    hbm_stack_bytes_per_s: float
    clock_hz: float
    node_nm: int
    mac_dtype: str
    tensor_core_buffer_bytes: int | None = None
    vector_core_buffer_bytes: int | None = None
    num_links: int = 0
    link_bytes_per_s: float = 0.0
    family: str = "systolic"
    spare_fraction: float = 0.0
    provisioned_activity: float = 1.0
    clock_share: float = 1.0
    hbm_share: float = 1.0
    operator_start_s: float = 0.0
    operator_fill_s: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of choices of every searched field, in the order of `SEARCHED_FIELDS`."""
        return tuple(len(getattr(self, name)) for name in SEARCHED_FIELDS)

    @property
    def size(self) -> int:
        """Number of designs."""
        return math.prod(self.shape)

    @property
    def shared(self) -> dict[str, Any]:
        """Fields that all designs share, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in SEARCHED_FIELDS}

    def accelerator(self, indices: Sequence[int]) -> Accelerator:
        """The design at seven indices."""
        chosen = {name: getattr(self, name)[index] for name, index in zip(SEARCHED_FIELDS, indices, strict=True)}
        return Accelerator(**chosen, **self.shared)

    def indices(self, position: int) -> tuple[int, ...]:
        """The seven indices of a position from 0 up to `size`."""
        return tuple(int(index) for index in np.unravel_index(position, self.shape))

    def position(self, indices: Sequence[int]) -> int:
        """The position of seven indices."""
        return int(np.ravel_multi_index(tuple(indices), self.shape))

    def indices_of(self, accelerator: Accelerator) -> tuple[int, ...] | None:
        """Indices of a design, its name ignored, or None where it is not in the space."""
        if any(getattr(accelerator, name) != value for name, value in self.shared.items()):
            return None
        found = []
        for name in SEARCHED_FIELDS:
            legal, value = getattr(self, name), getattr(accelerator, name)
            if value not in legal:
                return None
            found.append(legal.index(value))
        return tuple(found)

    def contains(self, accelerator: Accelerator) -> bool:
        """Whether the design, its name ignored, is in the space."""
        return self.indices_of(accelerator) is not None

    def designs(self, positions: NDArray[np.int64] | None = None) -> DesignArrays:
        """Designs at positions (default: all, in order) as arrays."""
        if positions is None:
            positions = np.arange(self.size, dtype=np.int64)
        axes = np.unravel_index(positions, self.shape)
        columns: dict[str, Any] = {
            name: np.array(getattr(self, name), dtype=np.int64)[axis]
            for name, axis in zip(SEARCHED_FIELDS, axes, strict=True)
        }
        return DesignArrays(**columns, **self.shared)

    def mesh(self) -> DesignArrays:
        """All designs as an open mesh: searched field i varies along axis i alone.

        `area_parts(space.mesh(), technology).total` has the shape `space.shape`; flattened it is in the order of
        positions. Parts broadcast only when they are added up, which makes the whole space many times cheaper than
        `designs()`.
        """
        sets = (np.array(getattr(self, name), dtype=np.int64) for name in SEARCHED_FIELDS)
        columns: dict[str, Any] = dict(
            zip(SEARCHED_FIELDS, np.meshgrid(*sets, indexing="ij", sparse=True), strict=True)
        )
        return DesignArrays(**columns, **self.shared)

    def including(self, accelerator: Accelerator) -> DesignSpace:
        """The space with the searched values of a design added to the legal sets."""
        sets: dict[str, Any] = {
            name: tuple(sorted({*getattr(self, name), getattr(accelerator, name)})) for name in SEARCHED_FIELDS
        }
        return replace(self, **sets)


def default_space(budget: Accelerator | None = None) -> DesignSpace:
    """The default space: the sets of the budget's family, with the budget's own values, node, clock and memory.

    Args:
        budget: the accelerator whose area and power are the budget; without it node, clock and memory are those of
            `DEFAULT_BASE`, at full activity.

    The budget's local buffers are not carried over: designs of other core sizes get them by the written rule, and the
    budget itself is compared as published.
    """
    base = budget or replace(load_preset(DEFAULT_BASE), provisioned_activity=1.0)
    shared: dict[str, Any] = {
        field.name: getattr(base, field.name)
        for field in fields(Accelerator)
        if field.name not in (*SEARCHED_FIELDS, "name", "tensor_core_buffer_bytes", "vector_core_buffer_bytes")
    }
    sets: dict[str, Any] = {**DEFAULT_SETS[base.family]}
    return DesignSpace(**sets, **shared).including(base)


def space_from_mapping(mapping: object, base: DesignSpace, *, where: str = "space", path: str = "space") -> DesignSpace:
    """A space from a mapping of a study file, the rest taken from `base`.

    Searched fields take a list (`sram: [8MiB, 32MiB]`), one value, or a range (`tensor_core_rows: {from: 8, to: 256,
    step: 8}`); the shared fields one value (`clock: 940MHz`).

    Raises:
        SpecError: unknown keys or bad values, every fault at once.
    """
    reader = SpecReader(where)
    names = [field.name for field in fields(DesignSpace)]
    short = {key: field for key, (field, _) in SHORT_KEYS.items()}
    items = reader.mapping(mapping, path, [*names, *short])
    given: dict[str, str] = {}
    changes: dict[str, Any] = {}
    for key, entry in items.items():
        field, place = short.get(key, key), join(path, key)
        if field in given:
            reader.fault(place, f"says the same as {given[field]}", allowed="one of them")
            continue
        given[field] = key
        if field in SEARCHED_FIELDS:
            changes[field] = _legal_set(reader, key, entry, place)
        else:
            changes[field] = field_value(reader, key, entry, place)
    reader.finish()
    space = replace(base, **changes)
    if space.size > MOST_DESIGNS:
        reader.fault(path, "has too many designs", value=space.size, allowed=f"{MOST_DESIGNS} at most: larger steps")
        reader.finish()
    return space


def load_space(path: Path | str, base: DesignSpace) -> DesignSpace:
    """A space from a YAML file, its mapping at the top or under `space:`; see `space_from_mapping`.

    Raises:
        SpecError: the file cannot be read, or every fault in it at once.
    """
    document = read_yaml(Path(path))
    if isinstance(document, dict) and set(document) == {"space"}:
        return space_from_mapping(document["space"], base, where=str(path))
    return space_from_mapping(document, base, where=str(path), path="")


def _legal_set(reader: SpecReader, key: str, entry: object, path: str) -> tuple[int, ...]:
    """Values of one searched field under one of its keys, ascending and distinct; faults are noted in `reader`."""
    if isinstance(entry, dict) and key in SHORT_KEYS:
        reader.fault(
            path, "a range has no units", value=entry, allowed=f"a list, or {SHORT_KEYS[key][0]}: {{from, to}}"
        )
        return ()
    if isinstance(entry, dict):
        entry = _range(reader, entry, path)
    listed = entry if isinstance(entry, list) else [entry]
    if not listed:
        reader.fault(path, "no value is legal", allowed="at least one")
    values = [field_value(reader, key, value, f"{path}[{index}]") for index, value in enumerate(listed)]
    known = [int(value) for value in values if value is not None]
    repeated = sorted(value for value, times in Counter(known).items() if times > 1)
    if repeated:
        reader.fault(path, "values are repeated", value=repeated)
    return tuple(sorted(set(known)))


_MOST_OF_A_RANGE = 100_000
"""A range of more values than this is taken for a typing error."""


def _range(reader: SpecReader, entry: dict[Any, Any], path: str) -> list[int]:
    """Values of `{from, to, step}`, ends included."""
    items = reader.mapping(entry, path, ("from", "to", "step"))
    first = reader.whole(items.get("from"), join(path, "from"), least=1)
    last = reader.whole(items.get("to"), join(path, "to"), least=1)
    step = reader.whole(items.get("step", 1), join(path, "step"), least=1)
    if first is None or last is None or step is None:
        return [1]
    if last < first or (last - first) // step >= _MOST_OF_A_RANGE:
        reader.fault(path, "is not a range", value=entry, allowed=f"from <= to, {_MOST_OF_A_RANGE} values at most")
        return [1]
    return list(range(first, last + 1, step))


assert set(TOTAL_KEYS).isdisjoint(field.name for field in fields(DesignSpace)), "totals are no part of a space"
