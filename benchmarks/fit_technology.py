"""Fit the effective constants of technology.yaml that no source gives, per chip family, and show what was held out.

    python benchmarks/fit_technology.py [--write]

Area and power are affine in every fitted constant, so each fit is one weighted linear least-squares problem in
relative errors. --write puts the values into technology.yaml and refreshes the parsed forms beside the YAML files;
without it the script only prints. tests/hardware/test_fit.py checks that the committed values are what it finds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import AreaBreakdown, area_mm2
from worklode.hardware.power import tdp_w
from worklode.hardware.presets import PRESETS_FOLDER, load_preset, published
from worklode.hardware.spec_file import write_parsed
from worklode.hardware.technology import TECHNOLOGY_FILE, Technology, load_technology
from worklode.validation.silicon import NVDLA_SIZES, nvdla


@dataclass(frozen=True, kw_only=True)
class Target:
    """A published figure and the design it is for."""

    label: str
    accelerator: Accelerator
    value: float


def die_area(accelerator: Accelerator, technology: Technology) -> float:
    """Modelled die area [mm2]."""
    return area_mm2(accelerator, technology).total


def core_area(accelerator: Accelerator, technology: Technology) -> float:
    """Modelled area of all cores with their buffers [mm2]."""
    parts: AreaBreakdown[float] = area_mm2(accelerator, technology)
    return (
        parts.tensor_core_macs
        + parts.tensor_core_buffers
        + parts.vector_lanes
        + parts.vector_core_buffers
        + parts.core_control
    )


def power(accelerator: Accelerator, technology: Technology) -> float:
    """Modelled power [W]."""
    return tdp_w(accelerator, technology).total


def fit_affine(
    names: Sequence[str],
    targets: Sequence[Target],
    model: Callable[[Accelerator, Technology], float],
    technology: Technology,
) -> dict[str, float]:
    """Constants `names` that minimise the squared relative errors of a model affine in them, in their units."""
    zero = technology.with_values(dict.fromkeys(names, 0.0))
    offset = np.array([model(target.accelerator, zero) for target in targets])
    slopes = np.array(
        [[model(target.accelerator, zero.with_values({name: 1.0})) for name in names] for target in targets]
    )
    wanted = np.array([target.value for target in targets])
    slopes -= offset[:, None]
    solution, *_ = np.linalg.lstsq(slopes / wanted[:, None], 1.0 - offset / wanted, rcond=None)
    return dict(zip(names, (float(value) for value in solution), strict=True))


# area targets of TPUs: where sources give two upper bounds, their middle; a bound as such otherwise
TPU_AREA_MM2 = {"tpuv2": 618.0, "tpuv3": 674.0, "tpuv4": 600.0, "tpuv4i": 400.0}
GA100_CORES_MM2 = 476.25  # LLMCompass die annotation, 128 SM


def preset_target(name: str, value: float) -> Target:
    """A target of a preset."""
    return Target(label=name, accelerator=load_preset(name), value=value)


def fit(technology: Technology) -> dict[str, float]:
    """Every fitted constant, in the unit of technology.yaml's base (mm2, W, ratio)."""
    values: dict[str, float] = {}

    def solve(
        names: Sequence[str], targets: Sequence[Target], model: Callable[[Accelerator, Technology], float]
    ) -> None:
        values.update(fit_affine(names, targets, model, technology.with_values(values)))

    solve(
        ["lane_area_overhead_systolic", "fixed_area_systolic"],
        [preset_target(name, area) for name, area in TPU_AREA_MM2.items()],
        die_area,
    )
    solve(["vector_core_area_simt"], [preset_target("a100-80gb", GA100_CORES_MM2)], core_area)
    solve(
        ["mac_area_overhead_embedded", "sram_area_overhead_embedded", "fixed_area_embedded"],
        [
            Target(label=f"nvdla-{size.macs}", accelerator=nvdla(size, node_nm), value=area)
            for size in NVDLA_SIZES
            for node_nm, area in ((28, size.area_28nm), (16, size.area_16nm))
            if size.fitted
        ],
        die_area,
    )
    solve(
        ["peak_activity_systolic", "fixed_power_systolic"],
        [preset_target(name, published(name).tdp_w.value) for name in ("tpuv2", "tpuv3", "tpuv4i")],
        power,
    )
    solve(["peak_activity_simt"], [preset_target("a100-80gb", 400.0)], power)
    solve(
        ["peak_activity_embedded"],
        [
            Target(label=f"nvdla-{size.macs}", accelerator=nvdla(size, 16), value=size.peak_w)
            for size in NVDLA_SIZES
            if size.fitted
        ],
        power,
    )
    return values


def in_file_units(technology: Technology, values: dict[str, float]) -> dict[str, float]:
    """Values as technology.yaml writes them, four digits: fitted constants are in mm2, W and ratios there as here."""
    assert all(technology.constant(name).unit in ("mm2", "W", "ratio") for name in values)
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def held_out(technology: Technology) -> list[tuple[str, float, float]]:
    """(what, modelled, published) of figures no fit has seen."""
    rows = [
        ("h100 area [mm2]", die_area(load_preset("h100"), technology), 814.0),
        ("h100 TDP [W]", power(load_preset("h100"), technology), 700.0),
        ("a100 area [mm2]", die_area(load_preset("a100-80gb"), technology), 826.0),
        ("tpuv4 power [W]", power(load_preset("tpuv4"), technology), 192.0),
        ("v100 area [mm2]", die_area(V100, technology), 815.0),
        ("v100 TDP [W]", power(V100, technology), 300.0),
        ("h200 TDP [W]", power(H200, technology), 700.0),
    ]
    for size in NVDLA_SIZES:
        if not size.fitted:
            name = f"nvdla-{size.macs}"
            rows.append((f"{name} area 28 nm", die_area(nvdla(size, 28), technology), size.area_28nm))
            rows.append((f"{name} area 16 nm", die_area(nvdla(size, 16), technology), size.area_16nm))
            rows.append((f"{name} power 16 nm [W]", power(nvdla(size, 16), technology), size.peak_w))
    return rows


H200 = replace(load_preset("h100"), name="h200", hbm_stacks=6, hbm_stack_bytes_per_s=800e9)
# V100 SXM2: NVIDIA V100 white paper 2017; 84 SM on the die, 80 enabled
V100 = replace(
    load_preset("a100-80gb"),
    name="v100",
    num_tensor_cores=640,
    tensor_core_rows=8,
    tensor_core_cols=8,
    num_vector_cores=80,
    sram_bytes=6 * 2**20,
    hbm_stacks=4,
    hbm_stack_bytes_per_s=225e9,
    clock_hz=1.53e9,
    node_nm=12,
    mac_dtype="float16",
    tensor_core_buffer_bytes=16 * 2**10,
    num_links=6,
    spare_fraction=0.05,
)


def write(values: dict[str, float]) -> None:
    """Put the values into technology.yaml and refresh the parsed forms."""
    text = TECHNOLOGY_FILE.read_text(encoding="utf-8")
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^(  {name}: {{value: )[^,]+,", rf"\g<1>{value:g},", text)
        assert count == 1, name
    TECHNOLOGY_FILE.write_text(text, encoding="utf-8")
    for folder in (TECHNOLOGY_FILE.parent, PRESETS_FOLDER):
        write_parsed(folder)


def main() -> None:
    """Fit, print, and with --write store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the values into technology.yaml")
    arguments = parser.parse_args()
    shipped = load_technology()
    values = in_file_units(shipped, fit(shipped))
    for name, value in values.items():
        constant = shipped.constant(name)
        print(f"{name:32s} {value:10.4g}   was {constant.value:.4g}, range {constant.low:g} to {constant.high:g}")
    technology = shipped.with_values(values)
    for name in sorted(path.stem for path in PRESETS_FOLDER.glob("*.yaml")):
        accelerator, known = load_preset(name), published(name)
        area, watts = die_area(accelerator, technology), power(accelerator, technology)
        print(
            f"{name:12s} area {area:7.2f} of {known.area_mm2.low:g} to {known.area_mm2.high:g} mm2 "
            f"({area / known.area_mm2.value - 1:+.1%})   power {watts:7.3f} of {known.tdp_w.value:g} W "
            f"({watts / known.tdp_w.value - 1:+.1%})"
        )
    print("held out")
    for what, modelled, truth in held_out(technology):
        print(f"  {what:26s} {modelled:9.3f} of {truth:8.3f} ({modelled / truth - 1:+.1%})")
    if arguments.write:
        write(values)


if __name__ == "__main__":
    main()
