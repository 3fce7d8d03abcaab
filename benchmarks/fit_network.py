"""Fit the constants of the GPU network presets on half of the measured collectives, and show the other half.

    python benchmarks/fit_network.py [--data DIR] [--write]

Six constants a machine, seven where the switch adds up (docs/models/network.md): start of a collective, latency of a
step, share of the bandwidth of short messages, start of long messages, sustained share, rate of the copy of the own
part, sustained share of the adding switch. Each is found by coordinate descent; what is minimised is the mean relative
error of the rows a fit may see (`worklode.validation.collectives`). Machines with the same links share their constants.
--write puts the values into the presets; without it the script only prints. tests/validation/test_fit_network.py checks
that the committed values are what it finds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from worklode.hardware.network import Network
from worklode.hardware.network_file import NETWORKS_FOLDER, load_network
from worklode.hardware.spec_file import write_parsed
from worklode.validation.collectives import MeasuredCollective, measured_collectives, predict_s
from worklode.validation.tables import Sieve, data_folder

# Machine whose rows are fitted: machines with the same links, which take its constants.
SHARED = {
    "dgx-a100": ("selene", "vtrain-testbed"),
    "dgx-h100": ("hgx-h200",),
    "dgx-b200": ("aws-p6-b200",),
}
# name: (start, coarse step, least, most); times in us, the copy as a multiple of the link bandwidth.
CONSTANTS = {
    "start": (8.0, 1.0, 0.0, 30.0),
    "latency": (1.0, 0.2, 0.0, 5.0),
    "eager_share": (0.3, 0.04, 0.05, 1.0),
    "bulk_start": (10.0, 4.0, 0.0, 60.0),
    "sustained_share": (0.8, 0.04, 0.3, 1.0),
    "copy": (2.0, 0.4, 0.2, 10.0),
}
OF_ADDING_SWITCH = {"reduction_share": (0.6, 0.04, 0.3, 1.0)}
# Steps are halved down to this share of the coarse ones.
FINEST = 0.25


def measurements(folder: Path) -> tuple[MeasuredCollective, ...]:
    """Measured collectives, all systems."""
    return tuple(measured_collectives(folder, Sieve()))


def seconds(microseconds: float) -> float:
    """Microseconds as a preset's file has them, to the last bit [s]."""
    return float(f"{microseconds:g}e-6")


def with_constants(network: Network, values: Mapping[str, float]) -> Network:
    """A network with other constants."""
    first, *outer = network.levels
    latency_s = seconds(values["latency"])
    first = replace(
        first,
        sustained_share=values["sustained_share"],
        latency_s=latency_s,
        bulk_latency_s=latency_s,
        reduction_share=values.get("reduction_share", 0.0),
    )
    return replace(
        network,
        levels=(first, *outer),
        start_s=seconds(values["start"]),
        bulk_start_s=seconds(values["bulk_start"]),
        eager_share=values["eager_share"],
        copy_bytes_per_s=values["copy"] * first.bandwidth_bytes_per_s,
    )


def mean_error(measured: Sequence[MeasuredCollective], network: Network) -> float:
    """Mean relative error [1] of measurements of one network."""
    times = predict_s(measured, dict.fromkeys({m.network for m in measured}, network))
    return float(np.mean(np.abs(times / np.array([m.measured_s for m in measured]) - 1.0)))


def fit(preset: str, found: Sequence[MeasuredCollective]) -> dict[str, float]:
    """The constants of a preset."""
    base = load_network(preset)
    seen = [m for m in found if m.network in (preset, *SHARED[preset]) and m.by_script]
    constants = {**CONSTANTS, **(OF_ADDING_SWITCH if base.levels[0].reduction_share else {})}
    values = {name: start for name, (start, *_) in constants.items()}
    best, fineness = mean_error(seen, with_constants(base, values)), 1.0
    while fineness >= FINEST:
        improved = False
        for name, (_, step, least, most) in constants.items():
            for sign in (1.0, -1.0):
                tried = float(f"{min(most, max(least, values[name] + sign * step * fineness)):.4g}")
                figure = mean_error(seen, with_constants(base, {**values, name: tried}))
                if figure < best * (1 - 1e-6):
                    values[name], best, improved = tried, figure, True
        if not improved:
            fineness /= 2
    return values


def show(preset: str, values: Mapping[str, float], found: Sequence[MeasuredCollective]) -> None:
    """Print the constants and the errors of both halves and of other systems."""
    print(f"{preset}: " + ", ".join(f"{name} {value:g}" for name, value in values.items()))
    same = (preset, *SHARED[preset])
    for group in dict.fromkeys(m.group for m in found if m.network in same):
        for label, half in (("fitted", True), ("held out", False)):
            some = [m for m in found if m.group == group and m.fitted is half]
            if some:
                error = mean_error(some, with_constants(load_network(some[0].network), values))
                print(f"  {group:75s} {label:9s} {len(some):4d} rows: {error:.1%}")


def write(preset: str, values: Mapping[str, float], rows: int) -> None:
    """Put the values into the files of the preset and of those that share its links."""
    source = f'source: "fit: benchmarks/fit_network.py, {rows} measured collectives of {preset}"'
    for name in (preset, *SHARED[preset]):
        path = NETWORKS_FOLDER / f"{name}.yaml"
        bandwidth = load_network(name).levels[0].bandwidth_bytes_per_s
        shown = {
            "start": f"{values['start']:g}us",
            "bulk_start": f"{values['bulk_start']:g}us",
            "eager_share": f"{values['eager_share']:g}",
            "copy": f"{values['copy'] * bandwidth / 1e9:g}GB/s",
            "  latency": f"{values['latency']:g}us",
            "  bulk_latency": f"{values['latency']:g}us",
            "  sustained_share": f"{values['sustained_share']:g}",
            "  reduction_share": f"{values.get('reduction_share', 0.0):g}",
        }
        text = path.read_text(encoding="utf-8")
        for key, value in shown.items():  # the first place of a key of a level is in the innermost one
            indent = "  " if key.startswith(" ") else ""
            line = rf"(?m)^{indent}{key}: .*$"
            text = re.sub(line, f"{indent}{key}: {{value: {value}, {source}}}", text, count=1)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """Fit, print, and with --write store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the reference tables")
    parser.add_argument("--write", action="store_true", help="put the values into the presets")
    arguments = parser.parse_args()
    found = measurements(data_folder(arguments.data))
    for preset, others in SHARED.items():
        values = fit(preset, found)
        show(preset, values, found)
        if arguments.write:
            write(preset, values, sum(m.network in (preset, *others) and m.by_script for m in found))
    if arguments.write:
        write_parsed(NETWORKS_FOLDER)


if __name__ == "__main__":
    main()
