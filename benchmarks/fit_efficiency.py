"""Fit the efficiency constants of the GPU presets on half of the measured operators, and show the other half.

    python benchmarks/fit_efficiency.py [--data DIR] [--write]

Four constants for each chip (docs/models/efficiency.md): sustained over stated clock, sustained over pin bandwidth,
start of an operator, most time its buffers take to fill. Each is found by coordinate descent on a grid; what is
minimised is the sum over kinds of (mean error / target)^4, so that the worst counts: products from 1 GFLOP, shorter
products, attention. Rows a fit may see are those of `worklode.validation.tables.fitted_half`. Vector operators and
layers are not seen at all. --write puts the values into the presets; without it the script only prints.
tests/validation/test_fit.py checks that the committed values are what it finds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import PRESETS_FOLDER, load_preset
from worklode.hardware.spec_file import write_parsed
from worklode.validation.gpu import (
    LARGE,
    SMALL,
    Measurement,
    Predictor,
    attention_measurements,
    product_measurements,
    vector_measurements,
)
from worklode.validation.tables import Sieve, data_folder

PRESETS = ("a100-80gb", "h100")
TARGETS = {"products": 0.10, "short products": 0.20, "attention": 0.15}
# name: (start, coarse step, least, most), values in the unit of `Accelerator`
CONSTANTS = {
    "clock_share": (0.80, 0.04, 0.40, 1.0),
    "hbm_share": (0.80, 0.04, 0.40, 1.0),
    "operator_start_s": (4e-6, 1e-6, 0.0, 2e-5),
    "operator_fill_s": (2e-6, 1e-6, 0.0, 2e-5),
}
# Steps are halved down to this share of the coarse ones: a percent of clock, a quarter of a microsecond.
FINEST = 0.25


def measurements(folder: Path) -> dict[str, tuple[Measurement, ...]]:
    """Measured operators by kind."""
    sieve = Sieve()
    products = product_measurements(folder, sieve)
    return {
        "products": _large(products),
        "short products": tuple(m for m in products if m.group.endswith(SMALL) and "not stated" not in m.group),
        "attention": _large(attention_measurements(folder, sieve)),
        "vector": tuple(vector_measurements(folder, sieve)),
    }


def _large(found: Sequence[Measurement]) -> tuple[Measurement, ...]:
    return tuple(m for m in found if m.group.endswith(LARGE) and "not stated" not in m.group)


def mean_error(predictor: Predictor, accelerator: Accelerator, preset: str) -> float:
    """Mean relative error of a set of measurements on one chip [1]."""
    predicted = np.array(predictor.predict_s({preset: accelerator}))
    measured = np.array([m.measured_s for m in predictor.measurements])
    return float(np.mean(np.abs(predicted / measured - 1.0)))


def fit(preset: str, found: dict[str, tuple[Measurement, ...]]) -> dict[str, float]:
    """The constants of a preset."""
    seen = {kind: Predictor([m for m in found[kind] if m.preset == preset and m.fitted]) for kind in TARGETS}
    base = load_preset(preset)

    def objective(values: dict[str, float]) -> float:
        chip = replace(base, **values)
        return sum((mean_error(p, chip, preset) / TARGETS[kind]) ** 4 for kind, p in seen.items())

    values = {name: start for name, (start, *_) in CONSTANTS.items()}
    best, fineness = objective(values), 1.0
    while fineness >= FINEST:
        improved = False
        for name, (_, step, least, most) in CONSTANTS.items():
            for sign in (1.0, -1.0):
                tried = float(f"{min(most, max(least, values[name] + sign * step * fineness)):.4g}")
                figure = objective({**values, name: tried})
                if figure < best * (1 - 1e-6):
                    values[name], best, improved = tried, figure, True
        if not improved:
            fineness /= 2
    return values


def show(preset: str, values: dict[str, float], found: dict[str, tuple[Measurement, ...]]) -> None:
    """Print the constants and the errors of both halves."""
    chip = replace(load_preset(preset), **values)
    print(f"{preset}: " + ", ".join(f"{name} {value:g}" for name, value in values.items()))
    for kind, of_kind in found.items():
        for label, half in (("fitted", True), ("held out", False)):
            some = [m for m in of_kind if m.preset == preset and m.fitted is half]
            seen = label if kind in TARGETS else "not fitted"
            if some:
                print(f"  {kind:14s} {seen:10s} {len(some):4d} rows: {mean_error(Predictor(some), chip, preset):.1%}")


def write(preset: str, values: dict[str, float], rows: int) -> None:
    """Put the values into the preset's file."""
    path = PRESETS_FOLDER / f"{preset}.yaml"
    text = re.sub(
        r"(?m)^  (clock_share|hbm_share|operator_start|operator_fill|chain_overlap): .*\n", "", path.read_text("utf-8")
    )
    source = f"fit: benchmarks/fit_efficiency.py, {rows} measured products and attentions"
    lines = [
        f'  clock_share: {{value: {values["clock_share"]:g}, source: "{source}"}}',
        f'  hbm_share: {{value: {values["hbm_share"]:g}, source: "{source}"}}',
        f'  operator_start: {{value: {values["operator_start_s"] * 1e6:g}us, source: "{source}"}}',
        f'  operator_fill: {{value: {values["operator_fill_s"] * 1e6:g}us, source: "{source}"}}',
    ]
    head, tail = text.split("published:\n")
    path.write_text(head + "\n".join(lines) + "\npublished:\n" + tail, encoding="utf-8")


def main() -> None:
    """Fit, print, and with --write store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the reference tables")
    parser.add_argument("--write", action="store_true", help="put the values into the presets")
    arguments = parser.parse_args()
    found = measurements(data_folder(arguments.data))
    for preset in PRESETS:
        values = fit(preset, found)
        show(preset, values, found)
        if arguments.write:
            rows = sum(m.preset == preset and m.fitted for kind in TARGETS for m in found[kind])
            write(preset, values, rows)
    if arguments.write:
        write_parsed(PRESETS_FOLDER)


if __name__ == "__main__":
    main()
