"""`capture`, `evaluate` and `mine`: from options to an outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.outcome import Outcome
from worklode.cli.progress import shown_progress

if TYPE_CHECKING:
    from worklode.graph.training_graph import TrainingGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """How a workload is captured; None takes the workload's own value."""

    batch: int | None
    seq_len: int | None
    optimizer: str | None
    dtype: str | None
    recompute: str | None
    accumulation_steps: int | None
    use_cache: bool
    quiet: bool

    def given(self) -> dict[str, Any]:
        """Options of the capture the user set, by name."""
        values = asdict(self)
        del values["use_cache"], values["quiet"]
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class MineRequest:
    """Options of `mine` as they were typed."""

    budget: str | None
    area: str | None
    tdp: str | None
    objective: str
    top_k: int
    space: Path | None
    max_time: str | None
    mode: str
    technology: Path | None
    out: Path | None


def run_capture(workload: str, step: StepOptions, *, out: Path | None, fused: bool) -> Outcome:
    """Capture a workload; save it where asked."""
    from worklode.graph.file import save_graph
    from worklode.search.evaluation import coverage, workload_summary

    graph = _capture(workload, step)
    document: dict[str, Any] = {
        "workload": workload_summary(graph).to_dict(),
        "coverage": coverage(graph).to_dict(),
        "graph_file": None,
    }
    if out is not None:
        save_graph(graph, out)
        document["graph_file"] = str(out)

    def report() -> Any:
        from worklode.report.table import capture_report

        return capture_report(document)

    return Outcome(document=document, report=report)


def _capture(workload: str, step: StepOptions) -> TrainingGraph:
    from worklode import api

    with shown_progress(quiet=step.quiet) as progress:
        return api.capture(
            workload, **step.given(), use_cache=step.use_cache, note=_notes(step.quiet), progress=progress
        )


def _notes(quiet: bool) -> Callable[[str], None]:
    def note(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"note: {text}\n")

    return note
