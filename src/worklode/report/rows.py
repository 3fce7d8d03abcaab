"""The lines of an evaluation: what each is called, where it is in the document, how it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from worklode.report.quantity import MISSING, area, bandwidth, frequency, percent, plain, power, seconds, si, size

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of an evaluation: what it is called, how it is read from the document and written.

    Attributes:
        better: +1 where more is better, -1 where less is, 0 where neither: decides whether a change is shown.
    """

    label: str
    text: Callable[[Document], str]
    value: Callable[[Document], float | None] = lambda _: None
    better: int = 0


_RESOURCES = {"tensor_core": "tensor cores", "vector_core": "vector cores", "hbm": "HBM"}


def _hardware(name: str) -> Callable[[Document], Any]:
    return lambda document: document["accelerator"].get(name)


def _figure(name: str) -> Callable[[Document], Any]:
    return lambda document: document.get(name)


def _used(name: str) -> Callable[[Document], Any]:
    return lambda document: document.get("utilization", {}).get(name)


def _number(
    label: str, value: Callable[[Document], Any], write: Callable[[float | None], str], *, better: int = 0
) -> Row:
    return Row(label=label, text=lambda document: write(value(document)), value=value, better=better)


def _tensor_cores(document: Document) -> str:
    a = document["accelerator"]
    return f"{a['num_tensor_cores']} of {a['tensor_core_rows']}x{a['tensor_core_cols']} MACs"


def _vector_cores(document: Document) -> str:
    a = document["accelerator"]
    return f"{a['num_vector_cores']} of {a['vector_lanes']} lanes"


def _hbm(document: Document) -> str:
    a = document["accelerator"]
    return f"{size(a['hbm_bytes'])}, {bandwidth(a['hbm_bytes_per_s'])}"


def _clock(document: Document) -> str:
    a = document["accelerator"]
    return f"{frequency(a['clock_hz'])}, {a['node_nm']} nm"


def _efficiency(document: Document) -> str:
    """What holds the chip below its peaks; or that it is taken as ideal."""
    e = document["accelerator"].get("efficiency") or {}
    if not e or (e["clock_share"], e["hbm_share"], e["operator_start_s"], e["operator_fill_s"]) == (1, 1, 0, 0):
        return "ideal (nothing measured)"
    return (
        f"clock x {e['clock_share']:.3g}, HBM x {e['hbm_share']:.3g}, {seconds(e['operator_start_s'])} to start an "
        f"operator, at most {seconds(e['operator_fill_s'])} to fill its buffers"
    )


def _memory_total(document: Document) -> float | None:
    parts = document.get("memory_bytes") or {}
    return parts.get("total", sum(_memory_parts(document).values()) if parts else None)


def _memory_parts(document: Document) -> dict[str, float]:
    """Memory by role; the total and whether it fits are no parts."""
    parts = document.get("memory_bytes") or {}
    return {name: needed for name, needed in parts.items() if name not in ("total", "fits")}


def bound_by(document: Document) -> str:
    """What the iteration time consists of, largest first; what explains less than 1 % is left out."""
    shares = sorted((document.get("bound_by") or {}).items(), key=lambda pair: -pair[1])
    return ", ".join(f"{_RESOURCES.get(name, name)} {share:.0%}" for name, share in shares if share >= 0.01) or MISSING


def _memory(document: Document) -> str:
    total = _memory_total(document)
    capacity = document["accelerator"].get("hbm_bytes")
    if total is None or not capacity:
        return size(total)
    return f"{size(total)} of {size(capacity)}" + (" (does not fit)" if total > capacity else "")


def _phases(document: Document) -> str:
    phases = document.get("phase_time_s") or {}
    total = sum(phases.values())
    return ", ".join(f"{name} {time / total:.0%}" for name, time in phases.items() if time >= 0.01 * total) or MISSING


def _largest_memory(document: Document) -> str:
    parts = sorted(_memory_parts(document).items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name.replace('_', ' ')} {size(needed)}" for name, needed in parts[:3] if needed) or MISSING


DESIGN_ROWS = (
    Row(label="tensor cores", text=_tensor_cores),
    Row(label="vector cores", text=_vector_cores),
    _number("SRAM", _hardware("sram_bytes"), size),
    Row(label="HBM", text=_hbm),
    Row(label="clock, node", text=_clock),
    Row(label="efficiency", text=_efficiency),
    _number("area", _hardware("area_mm2"), area),
    _number("TDP", _hardware("tdp_w"), power),
)

FIGURE_ROWS = (
    _number("iteration time", _figure("iteration_time_s"), seconds, better=-1),
    _number("throughput", _figure("samples_per_s"), plain("samples/s"), better=1),
    _number("throughput / TDP", _figure("samples_per_s_per_w"), plain("samples/s/W"), better=1),
    _number("energy per iteration", _figure("energy_j"), si("J"), better=-1),
    _number("average power", _figure("average_power_w"), power),
    _number("tensor cores busy", _used("tensor_core"), percent),
    _number("vector cores busy", _used("vector_core"), percent),
    _number("HBM busy", _used("hbm"), percent),
    _number("MAC utilisation", _used("macs"), percent),
    Row(label="time bound by", text=bound_by),
    Row(label="time by phase", text=_phases),
    Row(label="memory needed", text=_memory),
    Row(label="most of it", text=_largest_memory),
)
