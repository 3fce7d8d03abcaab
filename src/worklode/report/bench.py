"""What `bench` prints, from its document: one table for each workload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from worklode.report.quantity import MISSING, count, percent, plain, seconds
from worklode.report.table import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]

NUMBERS = ("designs", "final", "over", "gap", "arrived", "after", "or", "built", "CPU", "times", "split")
_UNIT = {"throughput": "s", "throughput/tdp": "s W", "energy": "J", "energy-delay": "J s"}


def bench_report(document: Document) -> Iterator[RenderableType]:
    """Tables of a document of `bench`."""
    from rich.text import Text

    yield Text(f"Bench: {document['objective']}, {budget_text(document)}", style="bold")
    for reference in document["references"]:
        yield ""
        yield Text(reference_text(reference, document["objective"]), style="bold")
        rows = [row for row in document["rows"] if row["workload"] == reference["workload"]]
        if rows:
            yield listing([row_text(row, document["objective"]) for row in rows], right=NUMBERS)
    yield ""
    yield Text(LEGEND, style="dim")


LEGEND = """\
designs: evaluations; final: best design on thorough schedules; over: above the best anybody found; gap: above the
proven bound; arrived: seeds that came within 1 % of the best known quick schedule, after how many designs or how much
CPU time; built: CPU time when the final design was asked for; CPU: of a whole run; times: over worklode's own;
split: where it went [%]: the searcher's own model / its search of mappings / evaluations. Medians over seeds."""


def budget_text(document: Document) -> str:
    """`1 944 000 designs, 3 seeds, up to 1 000 evaluations each`."""
    limit, times = document["cpu_limit_s"], document["cpu_limit_times_mine"]
    time_text = "" if limit is None else f", {seconds(limit)} of CPU time"
    time_text += "" if times is None else f", {times:g} times the CPU time of mine"
    return (
        f"{count(document['space_size'])} designs, {document['seeds']} seeds, up to {count(document['evaluations'])} "
        f"evaluations{time_text} each"
    )


def reference_text(reference: Document, objective: str) -> str:
    """`resnet18: mine finds 5.82 ms, proven bound 5.65 ms, in 1.9 s of CPU time`."""
    if reference["figure"] is None:
        return f"{reference['workload']}: no design keeps the limits"
    write = figure_writer(objective)
    return (
        f"{reference['workload']}: mine finds {write(reference['figure'])}, proves that none is below "
        f"{write(reference['bound'])}, in {seconds(reference['cpu_s'])} of CPU time"
    )


def figure_writer(objective: str) -> Any:
    """Writer of figures of an objective."""
    unit = _UNIT[objective]
    return seconds if unit == "s" else plain(unit)


def row_text(row: Document, objective: str) -> dict[str, str]:
    """One line of a workload's table."""
    write = figure_writer(objective)
    over = row["over_best_known"]
    split = [row[f"{part}_share"] for part in ("own", "mapping", "evaluation")]
    return {
        "searcher": str(row["searcher"]),
        "designs": count(row["evaluations"]),
        "final": write(row["final_figure"]),
        "over": MISSING if over is None else f"{plain('')(max(over - 1.0, 0.0) * 100.0)} %",
        "gap": percent(row["gap_to_bound"]),
        "arrived": f"{row['arrived'] * 100.0:.0f} %",
        "after": count(row["evaluations_to_arrive"]),
        "or": seconds(row["cpu_s_to_arrive"]),
        "built": seconds(row["cpu_s_to_final"]),
        "CPU": seconds(row["cpu_s"]),
        "times": MISSING if row["cpu_over_worklode"] is None else plain("")(row["cpu_over_worklode"]),
        "split": "/".join(f"{part * 100.0:.0f}" for part in split),
    }
