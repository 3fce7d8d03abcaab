"""What `evaluate` prints of a parallel setting: figures, where the time goes, a table of stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from worklode.report.quantity import percent, plain, seconds, size

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]


def parallel_report(document: Document) -> Iterator[RenderableType]:
    """The lines of a document of `evaluate` with a parallel setting."""
    from rich.table import Table
    from rich.text import Text

    setting, time_s = document["parallel"], document["iteration_time_s"]
    shape = (
        f"{setting['devices']} = pipeline {setting['pipeline']} x tensor {setting['tensor']} x data {setting['data']}"
    )
    yield Text(f"{document['workload']['name']} on {shape} of {document['accelerator']['name']}", style="bold")
    figures = Table(show_header=False, box=None)
    for label, text in (
        ("iteration", seconds(time_s)),
        ("samples/s", plain("")(document["samples_per_s"])),
        ("matrix FLOPs of peak", percent(setting["flops_utilization"])),
        ("schedule", f"{setting['schedule']}, {setting['microbatches']} microbatches of {setting['microbatch']}"),
        ("recompute", setting["recompute"]),
        *((name.replace("_", " "), f"{seconds(part)} ({percent(part / time_s)})") for name, part in _parts(setting)),
    ):
        figures.add_row(label, text)
    yield figures
    stages = Table(box=None)
    for name in ("stage", "segments", "busy", "waits for tensor", "sends", "bubble", "data", "update", "HBM", "fits"):
        stages.add_column(name, justify="right")
    for place, stage in enumerate(document["stages"]):
        memory = stage["stage_memory_bytes"]
        stages.add_row(
            str(place),
            " ".join(f"{chunk['first']}-{chunk['stop'] - 1}" for chunk in stage["segments"]),
            *(
                seconds(stage[name])
                for name in (
                    "busy_s",
                    "tensor_communication_s",
                    "sending_s",
                    "bubble_s",
                    "data_parallel_s",
                    "update_s",
                )
            ),
            size(memory["total"]),
            "yes" if memory["fits"] else "no",
        )
    yield stages
    for warning in document["warnings"]:
        yield Text(f"warning: {warning}", style="yellow")


def _parts(setting: Document) -> list[tuple[str, float]]:
    return list(setting["time_parts_s"].items())
