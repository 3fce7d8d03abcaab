"""What a user waits for at the command line: medians over separate processes, as a table.

python benchmarks/startup.py [--repeat N] [--json] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULE = (sys.executable, "-m", "worklode")

COMMANDS: dict[str, tuple[str, ...]] = {
    "python": (sys.executable, "-c", "pass"),
    "help": (*MODULE, "--help"),
    "help through launcher": (str(ROOT / "worklode"), "--help"),
    "models": (*MODULE, "models", "--json"),
    "presets": (*MODULE, "presets", "--json"),
    "capture bert-large": (*MODULE, "capture", "bert-large", "--json", "--no-cache"),
    "capture bert-large, cached": (*MODULE, "capture", "bert-large", "--json"),
    "capture resnet18": (*MODULE, "capture", "resnet18", "--json", "--no-cache"),
    "capture gpt3-175b": (*MODULE, "capture", "gpt3-175b", "--json", "--no-cache"),
    "evaluate bert-large": (*MODULE, "evaluate", "bert-large", "--on", "tpuv2", "--json"),
    "mine bert-large": (*MODULE, "mine", "bert-large", "--budget", "tpuv2", "--json"),
}
# What the project promises on 2 cores that do nothing else: wall time [s] and peak memory [bytes], infinite where only
# time is promised.
TARGETS: dict[str, tuple[float, float]] = {
    "help through launcher": (0.4, float("inf")),
    "capture resnet18": (3.0, float("inf")),
    "capture gpt3-175b": (10.0, 1e9),
    "mine bert-large": (3.0, float("inf")),
}
# Ratios are to this row.
REFERENCE = "help"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Medians over the processes of one command."""

    name: str
    wall_s: float
    spread_s: float
    cpu_s: float
    peak_bytes: float
    exit_code: int


def run_once(command: tuple[str, ...], folder: str) -> Sample:
    """Run a command in a folder of its own, with a graph cache of its own, and account for it and its children."""
    environment = os.environ | {"WORKLODE_CACHE": str(Path(folder) / "cache")}
    start_s = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Sample(
        wall_s=time.perf_counter() - start_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        exit_code=process.returncode,
    )


def measure(name: str, *, repeat: int) -> Measurement:
    """Medians of one command over `repeat` processes, after one that is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        samples = [run_once(COMMANDS[name], folder) for _ in range(repeat + 1)][1:]
    walls = [sample.wall_s for sample in samples]
    return Measurement(
        name=name,
        wall_s=statistics.median(walls),
        spread_s=max(walls) - min(walls),
        cpu_s=statistics.median(sample.cpu_s for sample in samples),
        peak_bytes=statistics.median(sample.peak_bytes for sample in samples),
        exit_code=max(sample.exit_code for sample in samples),
    )


def main() -> int:
    """Measure the named commands, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMMANDS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in COMMANDS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(COMMANDS)}")
    chosen = arguments.names or list(COMMANDS)
    measured = [measure(name, repeat=arguments.repeat) for name in chosen]
    if arguments.json:
        print(json.dumps([asdict(row) for row in measured], indent=2))
    else:
        print_table(measured)
    return max(row.exit_code for row in measured)


def print_table(rows: list[Measurement]) -> None:
    """Print medians, and ratios to the reference where it was measured."""
    reference = next((row.wall_s for row in rows if row.name == REFERENCE), None)
    print(f"{'command':28} {'wall':>9} {'spread':>9} {'CPU':>9} {'memory':>10} {'x help':>8}  {'exit':>4}  target")
    for row in rows:
        ratio = f"{row.wall_s / reference:8.1f}" if reference else f"{'-':>8}"
        print(
            f"{row.name:28} {row.wall_s:7.3f} s {row.spread_s:7.3f} s {row.cpu_s:7.3f} s "
            f"{row.peak_bytes / 2**20:6.0f} MiB {ratio}  {row.exit_code:4}  {verdict(row)}"
        )


def verdict(row: Measurement) -> str:
    """The row's target and whether its median keeps it; nothing where there is none."""
    if row.name not in TARGETS:
        return ""
    most_s, most_bytes = TARGETS[row.name]
    memory = f", {most_bytes / 1e9:g} GB" if most_bytes < float("inf") else ""
    met = row.wall_s <= most_s and row.peak_bytes <= most_bytes
    return f"{most_s:g} s{memory}: {'met' if met else 'missed'}"


if __name__ == "__main__":
    sys.exit(main())
