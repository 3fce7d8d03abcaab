"""What `reproduce` prints, and the page it writes: designs on models, and the paper's headlines beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from worklode.report.bench import budget_text, reference_text, row_text
from worklode.report.claims import claims_lines, claims_report
from worklode.report.distributed_evaluation import distributed_evaluation_report, distributed_lines, headline_row
from worklode.report.exactness import exactness_lines, exactness_report
from worklode.report.markdown import markdown_table
from worklode.report.quantity import percent, plain, ratio, seconds
from worklode.report.table import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]

HEAD = """\
# The paper's evaluation

Written by `worklode reproduce`; do not edit. Every figure is a row of a file {where}: designs in evaluation.csv,
headlines in headlines.csv, searches in rows.csv and cells.csv, search times beside one another in speed.csv, rivals in
rivals.csv.

The paper: M. Adnan et al., *Workload-Aware Hardware Accelerator Mining for Distributed Deep Learning Training*, arXiv
2404.14632; its headlines are those of its abstract. Nothing here is tuned to meet them.
"""

WHY = """\
What differs, by construction:

- The space is finer here (arrays of 8 to 256 a side, SRAM, HBM stacks), and the search ends with a proof.
- "Over the budget" compares with a TPUv2-like chip *within the same area and TDP*. Much of a gain is area that TPUv2
  spends on lanes and SRAM that one model does not need: an individual design is allowed what a product is not.
- Spotlight-like and ConfuciuX-like run on this cost model and this space, in compiled code, and are not the released
  tools. The released Spotlight calls another cost model for every sample and takes longer than ours (184 CPU seconds
  for one hardware sample of ResNet-50 at cloud scale): ratios of search time are against a faster opponent here.
- The paper finds 12 times the throughput of Spotlight's designs. Here both search the same template, under the same
  limits, on the same cost model, and their designs are judged by the same schedules: what is left is the search alone,
  and of the forms of the papers what they do not see. The rest of a factor of 12 presumably lies in what the paper's
  comparison does not hold equal: the template and the cost model of an inference tool, used for training.
- In the form of their papers both see forward layers with matrix products only. They have no reason to give a chip
  vector cores, and their chips wait for lanes in training.
- Every design is judged by the best mappings the cost model enumerates, whoever found it with which mappings.
- NVDLA-like is nv_large scaled to the MACs of the budget; the paper's is not published in full.
"""


RATIOS = """\
Ratios are geometric means over the models, with the least and the greatest. Search times are CPU seconds, compared only
where a search came to its own end and was not stopped by the budget of its run (`>` in the tables of designs).
"""


def evaluation_report(document: Document) -> Iterator[RenderableType]:
    """Tables of a document of `reproduce`."""
    from rich.text import Text

    yield Text("Headlines", style="bold")
    numbers = ("paper", "ours", "from", "to", "models")
    yield listing([headline_row({**found, "unit": "x"}) for found in document["headlines"]], right=numbers)
    for model in _models(document):
        yield ""
        yield Text(model, style="bold")
        rows = [design_row(row) for row in document["designs"] if row["model"] == model]
        yield listing(rows, right=("samples/s", "x", "per W, x", "gap", "search", "mm2", "W"))
    yield from claims_report(document["claims"])
    yield from exactness_report(document)
    yield from distributed_evaluation_report(document.get("distributed"))


def evaluation_page(document: Document, where: str = "of the same folder") -> str:
    """Markdown of a document of `reproduce`; `where` says where its CSV files are."""
    return "\n".join(_lines(document, where)) + "\n"


def _lines(document: Document, where: str) -> Iterator[str]:
    bench = document["bench"]
    yield HEAD.format(where=where)
    yield f"Budget: that of {document['budget']}. {bench['objective']}; {budget_text(bench)}.\n"
    yield "## Headlines\n"
    yield from markdown_table([headline_row({**found, "unit": "x"}) for found in document["headlines"]])
    yield RATIOS
    yield WHY
    yield "## Throughput over the budget's own design\n"
    yield from markdown_table(_matrix(document, "over_budget_throughput"))
    yield "## Throughput per TDP over the budget's own design\n"
    yield from markdown_table(_matrix(document, "over_budget_throughput_per_tdp"))
    yield from claims_lines(document["claims"])
    yield from exactness_lines(document)
    yield from distributed_lines(document.get("distributed"))
    yield "## Designs\n"
    for model in _models(document):
        reference = next(found for found in bench["references"] if found["workload"] == model)
        yield f"### {model}\n"
        yield reference_text(reference, bench["objective"]) + ".\n"
        yield from markdown_table([design_row(row) for row in document["designs"] if row["model"] == model])
        yield "Searches:\n"
        yield from markdown_table(
            [row_text(row, bench["objective"]) for row in bench["rows"] if row["workload"] == model]
        )


def design_row(row: Document) -> dict[str, str]:
    """One design on one model."""
    return {
        "design": str(row["design"]) + ("" if row["within_limits"] else " (breaks a limit)"),
        "tensor cores": f"{row['num_tensor_cores']}x{row['tensor_core_rows']}x{row['tensor_core_cols']}",
        "vector": f"{row['num_vector_cores']}x{row['vector_lanes']}",
        "MiB": plain("")(row["sram_bytes"] / 2**20),
        "HBM": str(row["hbm_stacks"]),
        "mm2": plain("")(row["area_mm2"]),
        "W": plain("")(row["tdp_w"]),
        "samples/s": plain("")(row["samples_per_s"]),
        "x": ratio(row["over_budget_throughput"]),
        "per W, x": ratio(row["over_budget_throughput_per_tdp"]),
        "gap": percent(row["gap_to_bound"]),
        "search": ("" if row["search_finished"] else "> ") + seconds(row["search_cpu_s"]),
    }


def _matrix(document: Document, figure: str) -> list[dict[str, str]]:
    """One row for each model, one column for each design."""
    names = list(dict.fromkeys(row["design"] for row in document["designs"]))
    found = {(row["model"], row["design"]): row[figure] for row in document["designs"]}
    return [
        {"model": model, **{name: ratio(found.get((model, name))) for name in names}} for model in _models(document)
    ]


def _models(document: Document) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in document["designs"]))
