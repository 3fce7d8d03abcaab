"""The part of `reproduce` on many devices: what it prints, its section of the page, the data of its charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worklode.report.distributed_why import OBJECTIVES, reasons
from worklode.report.markdown import markdown_table
from worklode.report.quantity import MISSING, count, percent, plain, ratio, seconds, size
from worklode.report.table import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]

HEAD = """\
The distributed models of the paper, each trained in a pipeline of one microbatch after another (1F1B, nothing
recomputed, no replicas). The paper's full text was not at hand: depth, width and batch are an assumption. Figures are
rows of distributed.csv (designs), distributed_stages.csv, distributed_headlines.csv and distributed_searches.csv.
"""
DESIGNS = """\
Designs, each evaluated in every model's own setting:

- *individual*: one design for all stages, mined for this model and objective. *common*: one for all stages of all
  models, mined in one search over the models, each in its own setting, by the geometric mean of their iterations.
- *heterogeneous*: one design for each distinct stage, the best mix found. *least TDP*: stages with slack have the
  design of least TDP that keeps the pace of the slowest. One search finds them and *individual*, in the time given.
- *of one device*: what `mine` and the searchers found for the model on a single device, put into all stages.
- A design is tensor cores x rows x columns, vector cores x lanes, SRAM [MiB], HBM stacks; mm2 and W are means of a
  device; samples/s are those of the cluster. *gap*: how far from the optimum it is at most, proven (*common*: of that
  mean). *regret*: how far the best of the designs kept for single stages is behind. *waits*: for other stages, of the
  iteration, mean of stages; *network*: exposed collectives and sends, the same way.
"""
RATIOS = {"throughput": "over_budget_throughput", "throughput/tdp": "over_budget_throughput_per_tdp"}
_TITLES = {
    "throughput": "Throughput over the budget's own design, many devices",
    "throughput/tdp": "Throughput per TDP over the budget's own design, many devices",
}
# Parts of an iteration in the order of a bar.
PARTS = {
    "compute_share": "compute",
    "tensor_communication_share": "collectives",
    "point_to_point_share": "sends",
    "pipeline_bubble_share": "waits for other stages",
    "data_parallel_share": "gradients",
    "optimizer_share": "update",
}
_NUMBERS = ("iteration", "samples/s", "x", "per W, x", "gap", "regret", "search", "mm2", "W", "waits", "network")


def distributed_lines(found: Document | None) -> Iterator[str]:
    """The section of the page; nothing where no model was trained on many devices."""
    if not found:
        return
    yield "## Many devices\n"
    yield HEAD
    yield from markdown_table([setting_row(setting) for setting in found["settings"]])
    yield from markdown_table([headline_row(headline) for headline in found["headlines"]])
    yield "Means are geometric, of regret and gap the greatest.\n"
    yield "Why the figures are what they are, by the model:\n"
    for reason in reasons(found):
        yield f"- {reason}"
    yield ""
    yield DESIGNS
    if found["absent"]:
        yield absent_text(found) + "\n"
    for objective in OBJECTIVES:
        yield f"### {_TITLES[objective]}\n"
        yield from markdown_table(matrix(found, objective))
    for model, objective in _parts(found):
        yield f"### {model} on many devices, {objective}\n"
        yield from markdown_table([design_row(row) for row in _of(found["designs"], model, objective)])
        yield "Distinct stages:\n"
        yield from markdown_table([stage_row(row) for row in _of(found["stages"], model, objective)])
    yield "### Searches of many devices\n"
    yield from markdown_table([search_row(row) for row in found["searches"]])


def distributed_evaluation_report(found: Document | None) -> Iterator[RenderableType]:
    """Its tables in the terminal."""
    from rich.text import Text

    if not found:
        return
    yield ""
    yield Text("Many devices", style="bold")
    yield listing([setting_row(setting) for setting in found["settings"]])
    yield ""
    yield listing([headline_row(row) for row in found["headlines"]], right=("paper", "ours", "from", "to", "models"))
    for model, objective in _parts(found):
        yield ""
        yield Text(f"{model} on many devices, {objective}", style="bold")
        rows = [design_row(row) for row in _of(found["designs"], model, objective)]
        brief = [{name: row[name] for name in row if name not in _PAGE_ALONE} for row in rows]
        yield listing(brief, right=_NUMBERS)
    if found["absent"]:
        yield Text(absent_text(found), style="dim")


def charts(found: Document | None) -> Iterator[tuple[str, list[Document], str]]:
    """Title, rows and figure of every chart of ratios."""
    for objective in OBJECTIVES if found else ():
        assert found is not None
        yield _TITLES[objective], [row for row in found["designs"] if row["objective"] == objective], RATIOS[objective]


# What the terminal is too narrow for.
_PAGE_ALONE = ("mm2", "samples/s", "FLOPs of peak", "waits", "network", "regret")


def setting_row(setting: Document) -> dict[str, str]:
    """One setting."""
    return {
        "model": str(setting["model"]),
        "devices": count(setting["devices"]),
        "pipeline": str(setting["pipeline"]),
        "tensor": str(setting["tensor"]) + (" + sequence" if setting["sequence_parallel"] else ""),
        "batch": str(setting["global_batch"]),
        "microbatches": f"{setting['microbatches']} of {setting['microbatch']}",
        "network": str(setting["network"] or MISSING),
    }


def headline_row(headline: Document) -> dict[str, str]:
    """One headline."""
    write = {"x": ratio, "s": seconds, "%": percent}[headline["unit"]]
    return {
        "what": str(headline["name"]),
        "paper": write(headline["paper"]),
        "ours": write(headline["ours"]),
        "from": write(headline["least"]),
        "to": write(headline["most"]),
        "models": str(headline["models"]),
    }


def design_row(row: Document) -> dict[str, str]:
    """One design on one model."""
    faults = [] if row["within_limits"] else ["breaks a limit"]
    faults += [] if row["fits"] else ["a stage does not fit"]
    return {
        "design": str(row["design"]) + (f" ({', '.join(faults)})" if faults else ""),
        "stages: design": str(row["accelerators"]),
        "mm2": plain("")(row["mean_area_mm2"]),
        "W": plain("")(row["mean_tdp_w"]),
        "iteration": seconds(row["iteration_time_s"]),
        "samples/s": plain("")(row["samples_per_s"]),
        "x": ratio(row["over_budget_throughput"]),
        "per W, x": ratio(row["over_budget_throughput_per_tdp"]),
        "gap": percent(row["gap"]),
        "regret": percent(row["regret"]),
        "FLOPs of peak": percent(row["matrix_flops_utilization"]),
        "waits": percent(row["pipeline_bubble_share"]),
        "network": percent(row["tensor_communication_share"] + row["point_to_point_share"]),
        "search": ("" if row["search_finished"] else "> ") + seconds(row["search_cpu_s"]),
    }


def stage_row(row: Document) -> dict[str, str]:
    """One distinct stage on its design."""
    return {
        "design": str(row["design"]),
        "stages": str(row["stages"]),
        "tensor cores": f"{row['num_tensor_cores']}x{row['tensor_core_rows']}x{row['tensor_core_cols']}",
        "vector": f"{row['num_vector_cores']}x{row['vector_lanes']}",
        "MiB": plain("")(row["sram_bytes"] / 2**20),
        "HBM": str(row["hbm_stacks"]),
        "works": seconds(row["busy_s"]),
        "needs": size(row["memory_bytes"]),
        "has": size(row["hbm_bytes"]),
        "mm2": plain("")(row["area_mm2"]),
        "W": plain("")(row["tdp_w"]),
        "W of tensor cores": plain("")(row["tensor_cores_tdp_w"]),
        "vector cores": plain("")(row["vector_cores_tdp_w"]),
        "SRAM": plain("")(row["sram_tdp_w"]),
        "HBM, W": plain("")(row["hbm_tdp_w"]),
    }


def search_row(row: Document) -> dict[str, str]:
    """One search."""
    return {
        "models": ", ".join(row["models"]),
        "objective": str(row["objective"]),
        "designs": count(row["space_size"]),
        "scheduled": count(row["evaluated"]),
        "gap": percent(row["gap"]),
        "gap of mixes": percent(row["mix_gap"]),
        "regret": percent(row["regret"]),
        "HBM held": size(row["hbm_bytes"]) if row["hbm_bytes"] else "no limit",
        "CPU": seconds(row["cpu_s"]),
        "wall": seconds(row["wall_time_s"]),
    }


def absent_text(found: Document) -> str:
    """Which searchers have no design of one device here, counted."""
    by_searcher: dict[str, list[str]] = {}
    for each in found["absent"]:
        by_searcher.setdefault(each["searcher"], []).append(each["model"])
    parts = "; ".join(f"{searcher} ({', '.join(models)})" for searcher, models in by_searcher.items())
    return f"Left out, since this run has no such design of one device, {len(found['absent'])} designs: {parts}."


def matrix(found: Document, objective: str) -> list[dict[str, str]]:
    """One row for each model, one column for each design."""
    rows = [row for row in found["designs"] if row["objective"] == objective]
    names = list(dict.fromkeys(row["design"] for row in rows))
    figures = {(row["model"], row["design"]): row[RATIOS[objective]] for row in rows}
    return [{"model": model, **{name: ratio(figures.get((model, name))) for name in names}} for model in _models(found)]


def _models(found: Document) -> list[str]:
    return [setting["model"] for setting in found["settings"]]


def _parts(found: Document) -> list[tuple[str, str]]:
    """Models and objectives that have designs, in order."""
    return list(dict.fromkeys((row["model"], row["objective"]) for row in found["designs"]))


def _of(rows: Sequence[Document], model: str, objective: str) -> list[Document]:
    return [row for row in rows if row["model"] == model and row["objective"] == objective]
