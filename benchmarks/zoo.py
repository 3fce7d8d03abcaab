"""Every zoo model: what its captured step holds, and what mining finds for it under two budgets.

    python benchmarks/zoo.py [NAME ...]      print the tables
    python benchmarks/zoo.py --write         also put them into docs/zoo.md, between the markers

Times are processor seconds of one process, so that a busy machine changes them little. Captures are fresh; one that is
not counted imports torch and compiles the kernels of the search. Everything else is deterministic.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from worklode import api
from worklode.frontend import zoo
from worklode.graph.operator import Phase
from worklode.search.evaluation import Evaluation
from worklode.search.mining import MiningResult

PAGE = Path(__file__).resolve().parents[1] / "docs" / "zoo.md"
BEGIN, END = "<!-- begin: benchmarks/zoo.py --write -->", "<!-- end: benchmarks/zoo.py -->"
BUDGETS = ("tpuv2", "a100-80gb")
# The smallest step: captured and mined once before anything is timed.
FIRST = "dlrm"

CAPTURED = (
    "name",
    "parameters",
    "forward TFLOP",
    "backward / forward",
    "operators",
    "fused",
    "distinct",
    "saved GiB",
    "FLOPs, bytes modelled",
    "capture s",
)
MINED = ("gain", "schedule gap", "fits", "designs", "s")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model; times in processor seconds."""

    name: str
    parameters: int
    forward_flops: int
    backward_over_forward: float
    operators: int
    fused_operators: int
    distinct_items: int
    saved_bytes: int
    flops_exact: float
    bytes_exact: float
    capture_s: float
    mined: tuple[Mined, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """The best design for a model under one budget."""

    improvement: float
    schedule_gap: float
    fits: bool
    evaluated: int
    mine_s: float


def main() -> int:
    """Measure the named models, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="zoo names; all by default")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.parent.name}/{PAGE.name}")
    arguments = parser.parse_args()
    names = tuple(zoo.entry(name).name for name in arguments.names) or zoo.names()
    if arguments.write and names != zoo.names():
        parser.error("--write takes no names: the page lists all models")
    measure(FIRST)
    text = tables(shown(names))
    print(text)
    if arguments.write:
        write(text)
    return 0


def shown(names: Iterable[str]) -> list[Row]:
    """Measure one model after the other, and say so on standard error."""
    rows = []
    for name in names:
        sys.stderr.write(f"{name}\n")
        rows.append(measure(name))
    return rows


def measure(name: str) -> Row:
    """Capture, fuse and mine a model at its default shape."""
    graph, capture_s = timed(lambda: api.capture(name, use_cache=False))
    evaluator = api.evaluator(graph)
    forward = graph.matrix_flops(Phase.FORWARD, Phase.LOSS)
    return Row(
        name=name,
        parameters=graph.info.parameters,
        forward_flops=forward,
        backward_over_forward=graph.matrix_flops(Phase.BACKWARD) / forward,
        operators=len(graph.operators),
        fused_operators=len(evaluator.fused.operators),
        distinct_items=len(evaluator.arrays.items),
        saved_bytes=graph.saved_bytes(),
        flops_exact=evaluator.coverage.flops_exact,
        bytes_exact=evaluator.coverage.bytes_exact,
        capture_s=capture_s,
        mined=tuple(mined(*timed(partial(api.mine, graph, budget=budget))) for budget in BUDGETS),
    )


def mined(result: MiningResult, mine_s: float) -> Mined:
    """Figures of a mining; the budget's own design is always within its limits, so there is a best one."""
    assert result.best is not None and result.improvement is not None
    best: Evaluation = result.best.evaluations[0]
    return Mined(
        improvement=result.improvement,
        schedule_gap=best.iteration_time_s / best.lower_bound_s - 1,
        fits=best.memory_fits,
        evaluated=result.search.evaluated,
        mine_s=mine_s,
    )


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """A result and the processor time it took [s]."""
    started_s = time.process_time()
    return run(), time.process_time() - started_s


def tables(rows: list[Row]) -> str:
    """Both tables and what they were measured with, as Markdown."""
    captured = table(CAPTURED, [captured_cells(row) for row in rows])
    heads = [f"{budget}: {head}" for budget in BUDGETS for head in MINED]
    found = table(
        ("name", *heads), [(row.name, *(cell for one in row.mined for cell in mined_cells(one))) for row in rows]
    )
    return f"{captured}\n\n{found}\n\n{machine()}"


def captured_cells(row: Row) -> tuple[str, ...]:
    """Cells under `CAPTURED`."""
    return (
        row.name,
        f"{row.parameters:,}",
        f"{row.forward_flops / 1e12:.4g}",
        f"{row.backward_over_forward:.3f}",
        f"{row.operators:,}",
        f"{row.fused_operators:,}",
        f"{row.distinct_items}",
        f"{row.saved_bytes / 2**30:.3f}",
        f"{row.flops_exact:.2%}, {row.bytes_exact:.2%}",
        f"{row.capture_s:.2f}",
    )


def mined_cells(one: Mined) -> tuple[str, ...]:
    """Cells under `MINED`."""
    return (
        f"{one.improvement:.2f}",
        f"{one.schedule_gap:.1%}",
        "yes" if one.fits else "no",
        f"{one.evaluated}",
        f"{one.mine_s:.1f}",
    )


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table: the first column to the left, all others to the right."""
    lines = [heads, ("---", *("---:" for _ in heads[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """What the times were measured on and with."""
    import torch

    return (
        f"Processor seconds on {platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__.partition('+')[0]}."
    )


def write(text: str) -> None:
    """Replace what stands between the markers of the page.

    Raises:
        SystemExit: the page has lost a marker.
    """
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no line {BEGIN if not begin else END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
