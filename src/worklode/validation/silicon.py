"""Suites of silicon: die area and power of chips, energy of events, SRAM macros."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_mm2, sram_area_mm2
from worklode.hardware.energy import energy_constants, energy_per_mac_j, sram_energy_per_byte_j
from worklode.hardware.power import tdp_w
from worklode.hardware.presets import load_preset, preset_names, published
from worklode.hardware.technology import Technology, load_technology
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import Sieve, read_table

# ------------------------------------------------------------------------------------------------------ area, TDP


@dataclass(frozen=True, slots=True, kw_only=True)
class NvdlaSize:
    """One published size of NVDLA: rows, columns, lanes, buffer [KiB], DRAM [GB/s], areas [mm2], peak power [W].

    Source: nvdla/nvdla.github.io@0fa0e49a, primer, "Example Area and Performance with NVDLA". Rows (input channels at
    once), columns (kernels at once) and lanes (SDP_BS and SDP_BN throughput) of 2048, 1024, 256 and 64 multipliers from
    spec/defs of nvdla/hw: nv_large@33aaf827, nv_medium_1024_full and nv_small_256_full@1ffb775d, nv_small@95f8b03c; the
    others by halving. `fitted`: benchmarks/fit_technology.py saw it.
    """

    macs: int
    rows: int
    cols: int
    lanes: int
    buffer_kib: int
    dram_gb_s: float
    area_28nm: float
    area_16nm: float
    peak_w: float
    fitted: bool


NVDLA_SIZES = tuple(
    NvdlaSize(
        macs=macs,
        rows=rows,
        cols=cols,
        lanes=lanes,
        buffer_kib=kib,
        dram_gb_s=dram,
        area_28nm=area28,
        area_16nm=area16,
        peak_w=peak,
        fitted=macs not in (1024, 128),
    )
    for macs, rows, cols, lanes, kib, dram, area28, area16, peak in (
        (2048, 64, 32, 32, 512, 20, 5.5, 3.3, 0.766),
        (1024, 64, 16, 8, 256, 15, 3.0, 1.8, 0.375),
        (256, 32, 8, 2, 256, 5, 1.7, 1.0, 0.135),
        (128, 16, 8, 2, 256, 2, 1.4, 0.84, 0.082),
        (64, 8, 8, 2, 128, 1, 0.91, 0.55, 0.055),
        (32, 8, 4, 2, 128, 0.5, 0.85, 0.51, 0.045),
    )
)
# Presets whose area or power a fit has seen (docs/models/area.md, power.md).
FITTED_AREA = {"tpuv2", "tpuv3", "tpuv4", "tpuv4i"}
FITTED_POWER = {"tpuv2", "tpuv3", "tpuv4i", "a100-80gb"}


def nvdla(size: NvdlaSize, node_nm: int) -> Accelerator:
    """The accelerator of a size of NVDLA at a node."""
    return replace(
        load_preset("nvdla-large"),
        name=f"nvdla-{size.macs}",
        tensor_core_rows=size.rows,
        tensor_core_cols=size.cols,
        vector_lanes=size.lanes,
        sram_bytes=size.buffer_kib * 1024,
        hbm_stack_bytes_per_s=size.dram_gb_s * 1e9,
        node_nm=node_nm,
    )


def silicon() -> SuiteResult:
    """Suite `silicon`; needs no table."""
    technology = load_technology()
    names = [name for name in preset_names() if not name.startswith("nvdla")]
    areas, powers, shares = [], [], []
    for name in names:
        accelerator, known = load_preset(name), published(name)
        area, power = area_mm2(accelerator, technology), tdp_w(accelerator, technology).total
        areas.append(Point(name=name, measured=known.area_mm2.value, predicted=area.total, fitted=name in FITTED_AREA))
        powers.append(Point(name=name, measured=known.tdp_w.value, predicted=power, fitted=name in FITTED_POWER))
        shares += [
            Point(
                name=f"{name}: {part}",
                measured=share.value * known.area_mm2.value,
                predicted=float(getattr(area, part)),
            )
            for part, share in known.shares
        ]
    engine_areas = [
        Point(
            name=f"nvdla-{size.macs} at {node} nm",
            measured=measured,
            predicted=area_mm2(nvdla(size, node), technology).total,
            fitted=size.fitted,
        )
        for size in NVDLA_SIZES
        for node, measured in ((28, size.area_28nm), (16, size.area_16nm))
    ]
    engine_powers = [
        Point(
            name=f"nvdla-{size.macs}",
            measured=size.peak_w,
            predicted=tdp_w(nvdla(size, 16), technology).total,
            fitted=size.fitted,
        )
        for size in NVDLA_SIZES
    ]
    bound = "TPU areas are published as upper bounds"
    return SuiteResult(
        suite="silicon",
        title="Die area and thermal design power",
        groups=(
            _guessed("die area of chips", "mm2", areas, note=bound),
            _guessed("TDP of chips", "W", powers, note="tpuv4: maximum measured in production"),
            _guessed("area of NVDLA", "mm2", engine_areas),
            _guessed("peak power of NVDLA at 16 nm", "W", engine_powers),
            Group(
                name="parts of published floor plans",
                unit="mm2",
                points=tuple(shares),
                note="as far as a floor plan is published",
            ),
        ),
    )


def _guessed(name: str, unit: str, points: list[Point], *, note: str = "") -> Group:
    """A group with the naive guess that every chip is like the (geometric) mean of the others."""
    logs = np.log([point.measured for point in points])
    others = np.exp((logs.sum() - logs) / (len(points) - 1))
    guessed = tuple(replace(p, baseline=float(o)) for p, o in zip(points, others, strict=True))
    return Group(
        name=name,
        unit=unit,
        points=guessed,
        baseline="mean of the others",
        target=0.10,
        of_all=True,
        note=note,
    )


# --------------------------------------------------------------------------------------------------------- energy


def energy(folder: Path) -> SuiteResult:
    """Suite `energy`: constants against the table of sources; those a constant was taken from are told apart."""
    technology = load_technology()
    a100, h100 = load_preset("a100-80gb"), load_preset("h100")
    at_a100, at_h100 = energy_constants(a100, technology), energy_constants(h100, technology)
    # (component or operation, element type or size, node) of the table -> prediction in the unit of the table
    independent = {
        ("MAC int8 (mul+add32)", "int8", "45"): _mac_pj(technology, 45, "int8"),
        ("MAC fp16 (mul+add fp32)", "fp16/fp32", "45"): _mac_pj(technology, 45, "float16"),
        ("control+datapath", "fp16", ""): (at_a100.mac_j + at_a100.mac_operand_j) / 2 * 1e12,
        ("control+datapath", "per bit", "A100"): at_a100.hbm_byte_j / 8 * 1e12,
        ("control+datapath", "per bit", "GH200"): at_h100.hbm_byte_j / 8 * 1e12,
        ("link", "per bit", "112G PAM4 LR SerDes 5nm"): at_h100.link_byte_j / 8 * 1e12,
    }
    sources = {
        ("MAC bf16 (mul bf16 + add fp32)", "bf16/fp32", "7"): technology.at("mac_energy_bfloat16", 7) * 1e12,
        ("MAC int8 (mul+add32)", "int8", "7"): technology.at("mac_energy_int8", 7) * 1e12,
        ("total incl. ECC", "per bit", "HBM2"): technology.value("hbm_energy_per_byte") / 8 * 1e12,
        ("core+IO", "per bit", "HBM3"): technology.value("hbm3_energy_per_byte") / 8 * 1e12,
        ("core+IO", "per bit", "HBM3e"): technology.value("hbm3e_energy_per_byte") / 8 * 1e12,
        ("link", "per bit", "112G PAM4 LR SerDes 7nm"): technology.value("link_energy_per_byte") / 8 * 1e12,
        ("SRAM 8KiB bank N7", "", "7"): sram_energy_per_byte_j(technology, 7, 8 * 1024) / 8 * 1e12,
        ("SRAM 256KiB bank N7", "", "7"): sram_energy_per_byte_j(technology, 7, 256 * 1024) / 8 * 1e12,
        ("RF bit access N7 (64 entries)", "", "7"): technology.at("register_file_energy_per_byte", 7) / 8 * 1e12,
    }
    rows = read_table(folder, "energy_area.csv", ("node_nm", "component", "op", "dtype_or_size", "energy_pJ", "status"))
    sieve = Sieve()
    found: dict[bool, list[Point]] = {True: [], False: []}
    for row in rows:
        match = None
        for is_source, table in ((False, independent), (True, sources)):
            for (operation, size, where), value in table.items():
                place = where in (row["node_nm"], "") or _starts(row["component"], where)
                if row["op"] == operation and row["dtype_or_size"] == size and place and match is None:
                    match = (is_source, float(value))
        number = _number(row["energy_pJ"])
        if match is None or number is None or "unverified" in row["status"]:
            sieve.out("an event the model does not have, an area, or a figure from memory")
            continue
        label = " ".join(part for part in (row["component"], row["op"], row["dtype_or_size"], row["node_nm"]) if part)
        found[match[0]].append(Point(name=label, measured=number, predicted=match[1], fitted=match[0]))
    note = "measured on boards, or at another node than the constant's: nothing here was used to set a constant"
    groups = []
    if found[False]:
        groups.append(Group(name="independent figures", unit="pJ", points=tuple(found[False]), note=note))
    if found[True]:
        what = "the constants were taken from these: the comparison shows only that units and scaling are right"
        groups.append(Group(name="sources of constants", unit="pJ", points=tuple(found[True]), note=what))
    return SuiteResult(suite="energy", title="Energy of single events", groups=tuple(groups), skipped=sieve.skipped())


def _mac_pj(technology: Technology, node_nm: int, dtype: str) -> float:
    """Multiply and add without the overhead of pipeline registers, as the table counts it [pJ]."""
    return energy_per_mac_j(technology, node_nm, dtype) / technology.value("datapath_energy_overhead") * 1e12


def _starts(component: str, where: str) -> bool:
    return component == where or component.startswith(f"{where} ") or component.endswith(f", {where}")


def _number(text: str) -> float | None:
    """The first number of `3.2 (3.0-3.5)`, the sum of `0.37+0.33`; None where there is none."""
    if re.fullmatch(r"[\d.]+(\+[\d.]+)+", text):
        return sum(float(part) for part in text.split("+"))
    found = re.match(r"\d+(?:\.\d+)?", text)
    return float(found[0]) if found else None


# ----------------------------------------------------------------------------------------------------------- SRAM

# The leakage of other cells is not what an accelerator's memory is made of.
CACTI_CELL = "itrs-hp"
CACTI_BASELINE = "the same per byte, or per bit, whatever the size (the median)"


def sram(folder: Path) -> SuiteResult:
    """Suite `sram`: area and read energy of memories against CACTI 7."""
    technology = load_technology()
    needed = ("tech_nm", "cell", "size_bytes", "width_bits", "read_pJ_per_bit", "area_mm2")
    sieve = Sieve()
    areas, energies = [], []
    for row in read_table(folder, "sram_cacti7.csv", needed):
        if row["cell"] != CACTI_CELL:
            sieve.out("another cell than high performance")
            continue
        node, size = int(row["tech_nm"]), int(row["size_bytes"])
        name = f"{size / 1024:g} KiB, {row['width_bits']} bits, {node} nm"
        area = float(sram_area_mm2(technology, node, "embedded", size))
        read = float(sram_energy_per_byte_j(technology, node, size)) / 8 * 1e12
        areas.append((size, Point(name=name, measured=float(row["area_mm2"]), predicted=area)))
        energies.append((1, Point(name=name, measured=float(row["read_pJ_per_bit"]), predicted=read)))
    return SuiteResult(
        suite="sram",
        title="Memories against CACTI 7",
        groups=(
            _scaled("area", "mm2", areas, "the overhead of NVDLA's memories (family `embedded`) over bare cells"),
            _scaled("read energy", "pJ/bit", energies, "product memories at 7 nm, scaled to these nodes"),
        ),
        skipped=sieve.skipped(),
    )


def _scaled(name: str, unit: str, sized: list[tuple[int, Point]], note: str) -> Group:
    """A group with the naive guess of one figure per size."""
    typical = float(np.median([point.measured / size for size, point in sized]))
    points = tuple(replace(point, baseline=typical * size) for size, point in sized)
    return Group(name=name, unit=unit, points=points, baseline=CACTI_BASELINE, note=note)
