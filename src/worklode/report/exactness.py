"""Heuristic against exact, as `reproduce` reports it: texts and tables, for the page and for the terminal alike.

Every figure in a text is computed from the rows of the document.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worklode.report.bench import figure_writer
from worklode.report.markdown import markdown_table
from worklode.report.quantity import MISSING, count, percent, plain, ratio, seconds
from worklode.report.table import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]
Table = list[dict[str, str]]

TITLE = "Heuristic against exact"
# Ratios closer to 1 than this [1] are equal but for rounding.
EQUAL = 1e-9
# Of a line of text on the page [characters].
WIDTH = 118

INTRO = """\
The paper compares its critical-path heuristic with an exact formulation (ILP). The same question here, three times:
how much worse than the exact answer is the heuristic alone, and what does the exact answer cost? The heuristic is the
search that climbs along the critical path, with estimates and without bounds (which lead `mine` instead), or the list
scheduler. CPU times are of one process, with compiled code loaded and empty cost tables. Every line is of a row of
exactness.csv.
"""

_COARSE = """\
A space so small that *every* design is scheduled, and nothing has to be believed of bounds: the longest axis of the
space loses every second value, then what is the longest now, until at most a few thousand designs are left. *Heuristic*
climbs along the critical path, *bounds* is what `mine` does: its proof rules out or schedules every other design. All
compare quick schedules; *over best* is how far a figure is above the best of all designs."""

_SPACE = """\
Too many designs to schedule every one. `mine` schedules what its bounds leave open and proves the rest: *over mine* is
what it found that the heuristic missed. *Gap* is how far a figure is above what no design of the
space can be below, on any schedule; *left* are designs between the two that were not scheduled."""

_MISSED = "Where the heuristic alone ends with a worse design (tensor cores, vector cores, SRAM, HBM stacks):"

_SCHEDULE = """\
The design that `mine` finds, scheduled. *Whole gap* is the iteration of the whole model above the lower bound of this
one design. Exact scheduling is for some dozens of operators, so *part* is one repeated block of the model (forward,
backward, update) or, where there is none of that size, its first operators, on the same design. CP-SAT places whole
operators: its schedule, its bound and *list* are without interruptions. *Interrupted* is the list scheduler where it
may interrupt operators, as in all other figures of this page: it may be below the optimum of the others (negative).
*Gap* is how far the schedule of CP-SAT is above its bound; up to 0.1 %, what the rounding of times may leave, is
proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a table compares, what it says in one sentence or two, and the table."""

    title: str
    text: str
    summary: str
    table: Table


def exactness_sections(rows: Sequence[Document], objective: str) -> Iterator[Section]:
    """The parts of the report, in their order."""
    table = [_coarse_row(row, objective) for row in rows]
    yield Section(title="Coarse space", text=_COARSE, summary=_coarse_summary(rows), table=table)
    table = [_space_row(row, objective) for row in rows]
    yield Section(title="Whole space", text=_SPACE, summary=_space_summary(rows), table=table)
    missed = _missed(rows)
    if missed:
        yield Section(title="", text="", summary=_MISSED, table=missed)
    found = [row for row in rows if row["schedule"] is not None]
    table = [_schedule_row(row) for row in found]
    yield Section(title="Schedule", text=_SCHEDULE, summary=_schedule_summary(found), table=table)


def exactness_lines(document: Document) -> Iterator[str]:
    """The section of the page."""
    yield f"## {TITLE}\n"
    yield INTRO
    for section in exactness_sections(document["exactness"], document["bench"]["objective"]):
        if section.title:
            yield f"### {section.title}\n"
        yield from (_wrapped(text) + "\n" for text in (section.text, section.summary) if text)
        if section.table:
            yield from markdown_table(section.table)


def exactness_report(document: Document) -> Iterator[RenderableType]:
    """The same on the terminal, without what the page explains at length."""
    from rich.text import Text

    yield ""
    yield Text(TITLE, style="bold")
    for section in exactness_sections(document["exactness"], document["bench"]["objective"]):
        yield ""
        yield Text(": ".join(text for text in (section.title, section.summary) if text))
        if section.table:
            shown = [{name: row[name] for name in row if name not in _PAGE_ONLY} for row in section.table]
            yield listing(shown, right=[name for name in shown[0] if name not in _WORDS])


# Columns of words, and those for which a terminal has no room.
_WORDS = ("model", "part", "proven", "space", "heuristic's", "exact's")
_PAGE_ONLY = (
    "designs",
    "within limits",
    "heuristic scheduled",
    "bounds scheduled",
    "mine scheduled",
    "heuristic alone",
    "operators",
    "CPU list",
)


def _coarse_row(row: Document, objective: str) -> dict[str, str]:
    found, write = row["coarse"], figure_writer(objective)
    return {
        "model": str(row["model"]),
        "designs": count(found["space_size"]),
        "within limits": count(found["within_limits"]),
        "best": write(found["exhaustive"]["figure"]),
        "heuristic over best": above(found["heuristic_over_exhaustive"]),
        "bounds over best": above(found["pruned_over_exhaustive"]) + ("" if found["complete"] else " (some left)"),
        "heuristic scheduled": count(found["heuristic"]["scheduled"]),
        "bounds scheduled": count(found["pruned"]["scheduled"]),
        "CPU every": seconds(found["exhaustive"]["cpu_s"]),
        "CPU heuristic": seconds(found["heuristic"]["cpu_s"]),
        "CPU bounds": seconds(found["pruned"]["cpu_s"]),
    }


def _space_row(row: Document, objective: str) -> dict[str, str]:
    found, write = row["space"], figure_writer(objective)
    return {
        "model": str(row["model"]),
        "within limits": count(found["within_limits"]),
        "mine": write(found["mined"]["figure"]),
        "heuristic alone": write(found["heuristic"]["figure"]),
        "over mine": above(found["heuristic_over_mined"]),
        "gap mine": percent(found["mined_gap"]),
        "gap heuristic": percent(found["heuristic_gap"]),
        "left": count(found["undecided"]),
        "mine scheduled": count(found["mined"]["scheduled"]),
        "heuristic scheduled": count(found["heuristic"]["scheduled"]),
        "CPU mine": seconds(found["mined"]["cpu_s"]),
        "CPU heuristic": seconds(found["heuristic"]["cpu_s"]),
    }


def _schedule_row(row: Document) -> dict[str, str]:
    found = row["schedule"]
    exact = found["exact"]
    parts = {"model": str(row["model"]), "whole gap": percent(found["gap"]), "part": str(found["part"])}
    parts["operators"] = count(found["operators"])
    if exact is None:
        names = ("CP-SAT", "list over it", "interrupted over it", "gap", "proven", "CPU list", "CPU CP-SAT")
        return {**parts, **dict.fromkeys(names, MISSING)}
    return {
        **parts,
        "CP-SAT": seconds(exact["exact_s"]),
        "list over it": above(exact["listed_over_exact"]),
        "interrupted over it": above(exact["interrupted_s"] / exact["exact_s"]),
        "gap": above(1.0 + exact["exact_gap"]),
        "proven": "yes" if exact["proven"] else "no" + ("" if exact["finished"] else " (stopped)"),
        "CPU list": seconds(exact["listed_cpu_s"]),
        "CPU CP-SAT": seconds(exact["exact_cpu_s"]),
    }


def _missed(rows: Sequence[Document]) -> Table:
    found = []
    for row in rows:
        for space, exact, figure in (
            ("coarse", "exhaustive", "heuristic_over_exhaustive"),
            ("space", "mined", "heuristic_over_mined"),
        ):
            if _worse(row[space][figure]):
                found.append(
                    {
                        "model": str(row["model"]),
                        "space": "whole" if space == "space" else space,
                        "worse by": above(row[space][figure]),
                        "heuristic's": str(row[space]["heuristic"]["design"]),
                        "exact's": str(row[space][exact]["design"]),
                    }
                )
    return found


def _coarse_summary(rows: Sequence[Document]) -> str:
    found = [row["coarse"] for row in rows if row["coarse"]["exhaustive"]["figure"] is not None]
    if not found:
        return "No design of it keeps the limits."
    every = [one["exhaustive"]["cpu_s"] for one in found]
    times = [_mean(every, [one[name]["cpu_s"] for one in found]) for name in ("heuristic", "pruned")]
    scheduled = [one["heuristic"]["scheduled"] / one["within_limits"] for one in found]
    shares = [one["within_limits"] / one["space_size"] for one in found]
    verdict = _verdict(rows, "coarse", "exhaustive", "the best of all designs")
    return (
        f"The heuristic alone {verdict}, and schedules {_span(scheduled, percent)} as many designs as keep the limits. "
        f"Scheduling every design takes {ratio(times[0])} its CPU time, and {ratio(times[1])} that of the search with "
        "bounds (geometric means). That is with the designs outside the limits: a search that looked at the limits "
        f"first would be left with {_span(shares, percent)} of them."
    )


def _space_summary(rows: Sequence[Document]) -> str:
    found = [row["space"] for row in rows if row["space"]["mined"]["figure"] is not None]
    if not found:
        return "No design of it keeps the limits."
    more = _mean([one["mined"]["cpu_s"] for one in found], [one["heuristic"]["cpu_s"] for one in found])
    verdict = _verdict(rows, "space", "mined", "what `mine` finds")
    gaps = _span([one["mined_gap"] for one in found], percent)
    return (
        f"The heuristic alone {verdict}. `mine` takes {ratio(more)} its CPU time (geometric mean), full evaluations of "
        f"the best designs included, and the gap that it proves is {gaps}."
    )


def _schedule_summary(rows: Sequence[Document]) -> str:
    found = [row["schedule"]["exact"] for row in rows if row["schedule"]["exact"] is not None]
    skipped = [row for row in rows if row["schedule"]["skipped"] is not None]
    texts = []
    if found:
        better = [one["listed_over_exact"] for one in found if _worse(one["listed_over_exact"])]
        by = f", by at most {above(max(better))}" if better else ""
        open_ = max(one["exact_gap"] for one in found)
        proven, every = sum(1 for one in found if one["proven"]), len(found)
        texts.append(
            f"With CP-SAT {proven} of {every} schedules are proven optimal, and all are within {above(1.0 + open_)} of "
            f"their bound; it finds a better schedule than the list scheduler for {len(better)} of {every} parts{by}."
        )
    if skipped:
        names = ", ".join(row["model"] for row in skipped)
        texts.append(f"Skipped for {names}: {skipped[0]['schedule']['skipped']}.")
    return " ".join(texts)


def _verdict(rows: Sequence[Document], space: str, exact: str, what: str) -> str:
    """`finds the best of all designs for 9 of 11 models, else it is worse by at most 0.3 % (gnmt), ...`.

    `exact` names the search that the heuristic is compared with; models where that finds nothing are left out.
    """
    figure = f"heuristic_over_{exact}"
    known = [row for row in rows if row[space][exact]["figure"] is not None]
    overs = {str(row["model"]): row[space][figure] for row in known if row[space][figure] is not None}
    nothing = [str(row["model"]) for row in known if row[space][figure] is None]
    worse = [over for over in overs.values() if _worse(over)]
    text = f"finds {what} for {len(overs) - len(worse)} of {len(known)} models"
    if worse:
        model = max(overs, key=lambda name: float(overs[name]))
        mean = statistics.geometric_mean(list(overs.values()))
        text += f", else it is worse by at most {above(max(worse))} ({model}), {above(mean)} on average over all"
    if nothing:
        text += f", and finds no design within the limits for {', '.join(nothing)}"
    return text


def above(over: float | None) -> str:
    """A ratio as what is above 1: `0.346 %`; negative where it is below."""
    if over is None:
        return MISSING
    if abs(over - 1.0) < EQUAL:
        return "0 %"
    return f"{plain('')((over - 1.0) * 100.0)} %"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _worse(over: float | None) -> bool:
    return over is not None and over > 1.0 + EQUAL


def _mean(above_: Sequence[float], below: Sequence[float]) -> float | None:
    """Geometric mean of ratios; what took no time that could be measured is left out."""
    ratios = [one / other for one, other in zip(above_, below, strict=True) if one > 0 and other > 0]
    return statistics.geometric_mean(ratios) if ratios else None


def _span(values: Sequence[float], write: Callable[[float], str]) -> str:
    least, most = write(min(values)), write(max(values))
    return least if least == most else f"{least} to {most}"
