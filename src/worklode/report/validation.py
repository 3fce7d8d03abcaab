"""What `validate` prints, from its document: a line for each group, then the worst points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from worklode.report.quantity import percent, plain, si
from worklode.report.table import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]


def validation_report(document: Document) -> Iterator[RenderableType]:
    """Tables of every suite of a document of `validate`."""
    from rich.text import Text

    for suite in document["suites"]:
        yield Text(f"{suite['suite']}: {suite['title']}", style="bold")
        yield listing([group_row(group) for group in suite["groups"]], right=NUMBERS)
        for group in suite["groups"]:
            if group["max_error"] > 0:
                worst = "; ".join(point_text(point, group["unit"]) for point in group["worst"])
                yield Text(f"worst of {group['name']}: {worst}", style="dim")
            if group["note"]:
                yield Text(f"note on {group['name']}: {group['note']}", style="dim")
        for skipped in suite["skipped"]:
            yield Text(f"left out: {skipped['count']} ({skipped['reason']})", style="dim")
        yield ""
    chips = document["efficiency"]
    if chips:
        yield Text("Efficiency constants in use", style="bold")
        yield listing([efficiency_row(chip) for chip in chips], right=("clock", "HBM", "start", "fill"))


NUMBERS = ("n", "mean", "max", "rank", "fitted", "held out", "naive", "target")


def group_row(group: Document) -> dict[str, str]:
    """One line of a suite's table."""
    return {
        "group": str(group["name"]),
        "n": str(group["points"]),
        "mean": percent(group["mean_error"]),
        "max": percent(group["max_error"]),
        "rank": "-" if group["rank_correlation"] is None else f"{group['rank_correlation']:.3f}",
        "fitted": percent(group["fitted_error"]),
        "held out": percent(group["held_out_error"]),
        "naive": percent(group["baseline_error"]),
        "target": target_text(group),
    }


def target_text(group: Document) -> str:
    """`< 10 % met`, or a dash."""
    if group["target"] is None:
        return "-"
    goal = (
        "exact"
        if group["target"] == 0
        else f"{'all' if group['target_of'] == 'every point' else '<'} {group['target']:.0%}"
    )
    return f"{goal} {'met' if group['met'] else 'MISSED'}"


def point_text(point: Document, unit: str) -> str:
    """`512x64 12.3 us for 10.1 us (+22 %)`: predicted, measured, error."""
    write = si("s") if unit == "s" else plain(unit)
    return f"{point['name']} {write(point['predicted'])} for {write(point['measured'])} ({point['ratio'] - 1:+.0%})"


def efficiency_row(chip: Document) -> dict[str, str]:
    """One line of the table of constants."""
    return {
        "chip": str(chip["name"]),
        "clock": f"x {chip['clock_share']:.3g}",
        "HBM": f"x {chip['hbm_share']:.3g}",
        "start": si("s")(chip["operator_start_s"]),
        "fill": si("s")(chip["operator_fill_s"]),
    }
