"""Terminal tables of results, made from the documents that `--json` prints, so both always say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from worklode.report.quantity import MISSING, area, bandwidth, count, percent, plain, power, ratio, seconds, si, size
from worklode.report.rows import DESIGN_ROWS, FIGURE_ROWS, Document, Row, bound_by

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


_flops = si("FLOP")


def evaluation_report(document: Document) -> Iterator[RenderableType]:
    """What `evaluate` prints: the workload, the design and its figures, area and power by part, memory, warnings."""
    yield title("Evaluation", document)
    yield _figures(("", ""), lambda row: (row.text(document),))
    yield from _uncertainty(document)
    yield from _split_tables(document)
    yield from notes(document)


def mining_report(document: Document) -> Iterator[RenderableType]:
    """What `mine` prints: best design beside the baseline, the next best, how the search went, warnings."""
    best = document.get("best")
    yield title("Mining", {**document, "workload": document.get("workload") or (best or {}).get("workload")})
    if best is None:
        yield from infeasible_lines(document)
        return
    yield comparison_table(best, document.get("budget_baseline"))
    yield from _per_workload(best, document.get("budget_baseline"))
    yield from _verdict(document)
    yield from _uncertainty(document)
    yield from _split_tables(best)
    yield from top_k_table(document.get("top_k", ()))
    yield from _search(document)
    yield from notes(document)


def capture_report(document: Document) -> Iterator[RenderableType]:
    """What `capture` prints: size and work of the step, and how much of it is costed exactly."""
    yield title("Captured", document)
    workload = document["workload"]
    table = _grid("", "")
    _add(table, "parameters", f"{count(workload['parameters'])} ({count(workload['trainable_parameters'])} trainable)")
    _add(table, "operators", count(workload["operators"]))
    _add(table, "FLOPs", f"{_flops(workload['flops'])} ({_flops(workload['flops_forward'])} forward)")
    _add(table, "of them matrix products", _flops(workload["matrix_flops"]))
    _add(table, "kept for backward", size(workload["saved_bytes"]))
    _add(
        table,
        "samples",
        count(workload["samples"]) + (f", {count(workload['tokens'])} tokens" if workload["tokens"] else ""),
    )
    coverage = document.get("coverage", {})
    _add(table, "costed exactly", _coverage(coverage))
    fallback = coverage.get("fallback_operators", ())
    if fallback:
        _add(table, "by bytes and FLOPs only", ", ".join(_fallback_name(entry) for entry in fallback))
    if document.get("graph_file"):
        _add(table, "graph file", str(document["graph_file"]))
    yield table
    yield from _fusion(document.get("fusion"))
    yield from notes(workload)


def _fusion(fusion: Document | None) -> Iterator[RenderableType]:
    """A graph before and after fusion, and what was fused."""
    if fusion is None:
        return
    table = _table()
    table.add_column("", no_wrap=True)
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    for label, name, write in (
        ("operators", "operators", count),
        ("distinct work", "distinct", count),
        ("HBM traffic", "hbm_bytes", size),
    ):
        _add(table, label, write(fusion[f"{name}_before"]), write(fusion[f"{name}_after"]))
    yield ""
    yield table
    rows = [
        {"fused": str(p["pattern"]).replace("_", " "), "groups": p["groups"], "operators": p["operators"]}
        for p in fusion["patterns"]
        if p["groups"]
    ]
    if rows:
        yield ""
        yield listing(rows, right=("groups", "operators"))


def comparison_report(names: Sequence[str], designs: Sequence[Document]) -> Iterator[RenderableType]:
    """What `compare` prints: the design of every run in a column of its own, in the order given."""
    from rich.text import Text

    workloads = {design["workload"]["name"] for design in designs}
    if len(workloads) > 1:
        yield Text(f"warning: the runs are of different workloads: {', '.join(sorted(workloads))}\n", style="yellow")
    yield _figures(("", *names), lambda row: tuple(row.text(design) for design in designs))


def facts(*pairs: tuple[str, str]) -> Table:
    """Two columns: what and how much."""
    table = _grid("", "")
    for label, value in pairs:
        _add(table, label, value)
    return table


def listing(rows: Sequence[Mapping[str, object]], *, right: Sequence[str] = ()) -> Table:
    """Plain table of equal rows; `right` names the columns of numbers."""
    table = _table(padding=(0, 1, 0, 0))
    for column in rows[0]:
        # What has no space in it can only be cut, not wrapped.
        whole = all(" " not in str(row[column]) for row in rows)
        table.add_column(column, justify="right" if column in right else "left", no_wrap=whole)
    for row in rows:
        _add(table, *(str(value) for value in row.values()))
    return table


# -- parts of reports ---------------------------------------------------------------------------------------------


def _table(**options: Any) -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", **options)


def _grid(*columns: str) -> Table:
    table = _table(show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, style="dim" if index == 0 else "", no_wrap=index == 0)
    return table


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    # Text, not markup: a module named `[red]` is a name.
    table.add_row(*(Text(cell) for cell in cells))


def title(what: str, document: Document) -> RenderableType:
    """What was done with which workloads."""
    from rich.text import Text

    workload = document.get("workload") or {}
    names = [w["name"] for w in workload] if isinstance(workload, list | tuple) else [workload.get("name", "")]
    design = (document.get("accelerator") or {}).get("name")
    heading = f"{what}: {', '.join(name for name in names if name)}" + (f" on {design}" if design else "")
    return Text(heading + "\n", style="bold")


def _figures(
    columns: tuple[str, ...], cells: Callable[[Row], tuple[str, ...]], figures: Sequence[Row] = FIGURE_ROWS
) -> Table:
    """The rows of a design, a blank line, and the rows of what it does."""
    table = _grid(*columns)
    for row in DESIGN_ROWS:
        _add(table, row.label, *cells(row))
    _add(table)
    for row in figures:
        _add(table, row.label, *cells(row))
    return table


def comparison_table(best: Document, baseline: Document | None, figures: Sequence[Row] = FIGURE_ROWS) -> Table:
    """The best design beside the budget's own, with the gain of every figure."""
    if baseline is None:
        return _figures(("", "best design"), lambda row: (row.text(best),), figures)
    name = baseline["accelerator"].get("name") or "budget"
    return _figures(
        ("", "best design", name, "gain"),
        lambda row: (row.text(best), row.text(baseline), _gain(row, best, baseline)),
        figures,
    )


def _gain(row: Row, best: Document, baseline: Document) -> str:
    ours, theirs = row.value(best), row.value(baseline)
    if not row.better or not ours or not theirs:
        return ""
    return ratio(ours / theirs if row.better > 0 else theirs / ours)


def _verdict(document: Document) -> Iterator[RenderableType]:
    from rich.text import Text

    sentences = []
    improvement = document.get("improvement")
    if improvement is not None:
        baseline = document["budget_baseline"]["accelerator"].get("name") or "the budget design"
        compared = "better" if improvement >= 1 else "as good: worse"
        sentences.append(
            f"{ratio(improvement)} {compared} than {baseline} in {document.get('objective', 'the objective')}."
        )
    if not (document["best"].get("memory_bytes") or {}).get("fits", True):
        sentences.append("It cannot hold the training step: this compares cores, it is no prediction.")
    gap = document.get("optimality_gap")
    if gap is not None:
        by = "" if gap <= 0 else f" by more than {percent(gap)}"
        sentences.append(f"Proven: no design of this space, however it is scheduled, is better{by}.")
    if sentences:
        yield Text("\n" + " ".join(sentences), style="bold green")


_SPREADS = (("area", "area_mm2", area), ("TDP", "tdp_w", power), ("energy", "energy_j", si("J")))


def _uncertainty(document: Document) -> Iterator[RenderableType]:
    """How far figures move when constants are drawn from their ranges."""
    from rich.text import Text

    found = document.get("uncertainty")
    if not found:
        return
    rows = []
    for label, name, write in (*_SPREADS, ("iteration time", "iteration_time_s", seconds)):
        spread = found[name] or {}
        cells = {column: write(spread.get(key)) for column, key in (("5 %", "p5"), ("median", "p50"), ("95 %", "p95"))}
        rows.append({"uncertainty": label, **cells})
    yield ""
    yield listing(rows, right=("5 %", "median", "95 %"))
    if found["iteration_time_s"] is None:
        yield Text("iteration time: no efficiency was measured for this chip, so no range is known", style="dim")
    sure = document.get("confidence")
    if sure:
        yield Text(
            f"Within the budget's own area in {percent(sure['keeps_area'])} of the draws, its TDP in "
            f"{percent(sure['keeps_tdp'])}, both in {percent(sure['keeps_both'])}."
        )
    yield from _ranking(document)


def _ranking(document: Document) -> Iterator[RenderableType]:
    """In which share of the draws the best design beats the others."""
    from rich.text import Text

    found = document.get("ranking")
    if not found or not found["against"]:
        return
    objective = document["objective"]
    baseline = ((document.get("budget_baseline") or {}).get("accelerator") or {}).get("name") or "the budget"
    rows = []
    for rival in found["against"]:
        if rival["beats"] is None:
            continue
        spread = rival["improvement"]
        rows.append(
            {
                "best against": baseline if rival["rank"] is None else f"#{rival['rank']}",
                "beats it in": percent(rival["beats"]) + (f" (equal: {percent(rival['ties'])})" * bool(rival["ties"])),
                # Neighbours of a search differ by tenths of a percent.
                **{
                    column: f"{spread[key]:.3f}x" for column, key in (("5 %", "p5"), ("median", "p50"), ("95 %", "p95"))
                },
            }
        )
    if rows:
        yield ""
        yield listing(rows, right=("beats it in", "5 %", "median", "95 %"))
        yield Text(f"shares of {count(found['draws'])} draws, and how many times better in {objective}", style="dim")
    if len(rows) < len(found["against"]):
        which = "this ranking does" if not rows else "the rest of the ranking does"
        text = f"{objective}: {which} not depend on the constants drawn (which designs are within the limits may)"
        yield Text(text, style="dim")


def _split_tables(document: Document) -> Iterator[RenderableType]:
    accelerator = document["accelerator"]
    areas, powers = accelerator.get("area_parts_mm2") or {}, accelerator.get("tdp_parts_w") or {}
    if areas or powers:
        parts = [*areas, *(name for name in powers if name not in areas)]
        table = _table()
        table.add_column("part", no_wrap=True)
        for column in ("area", "share", "power", "share"):
            table.add_column(column, justify="right")
        for part in sorted(parts, key=lambda name: -areas.get(name, 0.0)):
            _add(
                table,
                part.replace("_", " "),
                *(area(areas.get(part)), _share(areas, part), power(powers.get(part)), _share(powers, part)),
            )
        yield ""
        yield table


def _share(parts: Mapping[str, float], part: str) -> str:
    total = sum(parts.values())
    return percent(parts[part] / total) if part in parts and total else MISSING


def top_k_table(designs: Sequence[Document], heading: str = "Best designs") -> Iterator[RenderableType]:
    """The best designs, one a line."""
    if not designs:
        return
    table = _table(title=heading, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
    for column in ("#", "tensor cores", "vector", "SRAM", "HBM", "mm2", "W", "time", "samples/s", "per W"):
        table.add_column(column, justify="right", no_wrap=True)
    for rank, design in enumerate(designs, start=1):
        a = design["accelerator"]
        _add(
            table,
            str(rank),
            f"{a['num_tensor_cores']}x{a['tensor_core_rows']}x{a['tensor_core_cols']}",
            f"{a['num_vector_cores']}x{a['vector_lanes']}",
            size(a["sram_bytes"]),
            bandwidth(a["hbm_bytes_per_s"]),
            f"{a['area_mm2']:.0f}",
            f"{a['tdp_w']:.0f}",
            seconds(design.get("iteration_time_s")),
            plain("")(design.get("samples_per_s")),
            plain("")(design.get("samples_per_s_per_w")),
        )
    yield ""
    yield table


def _search(document: Document) -> Iterator[RenderableType]:
    from rich.text import Text

    search = document.get("search")
    if not search:
        return
    done = [f"{count(search['evaluated'])} scheduled"]
    if search.get("within_limits") is not None:
        done.insert(0, f"{count(search['within_limits'])} of them within the limits")
    if search.get("pruned"):
        done.append(f"{count(search['pruned'])} ruled out by bounds")
    if search.get("undecided"):
        done.append(f"{count(search['undecided'])} neither")
    elif search.get("within_limits"):
        done.append("none left: an exhaustive search has the same answer")
    stopped = ""
    if search.get("interrupted"):
        stopped = " Interrupted: a longer search may find better and proves more."
    elif search.get("out_of_time"):
        stopped = " The time was used up: a longer search may find better and proves more."
    took = seconds(search["wall_time_s"])
    yield Text(f"\nSearched {count(search['space_size'])} designs: {', '.join(done)}, in {took}.{stopped}")


# How the limits of a budget are called and written.
_LIMITS = {"area_mm2": ("area", area), "tdp_w": ("TDP", power), "hbm_bytes": ("HBM", size)}


def infeasible_lines(document: Document) -> Iterator[RenderableType]:
    """Why no design keeps the limits, and what would let one."""
    from rich.text import Text

    yield Text("No design of the space keeps the limits. Any of these changes lets one:", style="bold red")
    # Limits of one way out change together and share its remedy.
    for _, way in groupby(document.get("infeasible", ()), key=lambda reason: reason.get("way", reason["constraint"])):
        entries = list(way)
        needed = "; ".join(
            f"{_LIMITS[entry['constraint']][0]}: at least {_LIMITS[entry['constraint']][1](entry['demand'])} needed, "
            f"the limit is {_LIMITS[entry['constraint']][1](entry['limit'])}"
            for entry in entries
        )
        yield Text(f"  {needed}: {entries[0]['remedy']}")
    yield from _search(document)
    yield from notes(document)


def _per_workload(best: Document, baseline: Document | None) -> Iterator[RenderableType]:
    """One line for each workload where there are several."""
    evaluations = best.get("evaluations") or ()
    if not evaluations:
        return
    theirs = (baseline or {}).get("evaluations") or [None] * len(evaluations)
    rows = []
    for ours, other in zip(evaluations, theirs, strict=True):
        row = {
            "workload": ours["workload"]["name"],
            "time": seconds(ours["iteration_time_s"]),
            "samples/s": plain("")(ours["samples_per_s"]),
            "bound by": bound_by(ours),
        }
        if other is not None:
            row["gain"] = ratio(other["iteration_time_s"] / ours["iteration_time_s"])
        rows.append(row)
    yield ""
    yield listing(rows, right=("time", "samples/s", "gain"))


def notes(document: Document) -> Iterator[RenderableType]:
    """Warnings and notes of a document."""
    from rich.text import Text

    if document.get("warnings") or document.get("notes"):
        yield ""
    for warning in document.get("warnings", ()):
        yield Text(f"warning: {warning}", style="yellow")
    for note in document.get("notes", ()):
        yield Text(f"note: {note}", style="dim")


def _coverage(coverage: Document) -> str:
    flops, moved = coverage.get("flops_exact"), coverage.get("bytes_exact")
    return f"{percent(flops)} of FLOPs, {percent(moved)} of bytes"


def _fallback_name(entry: object) -> str:
    if isinstance(entry, Mapping):
        return f"{entry.get('name')} ({entry.get('count')})"
    return str(entry)
