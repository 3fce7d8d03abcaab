"""`worklode explain-number`: the tree of a figure down to constants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.commands import StepOptions, captured
from worklode.cli.faults import Faults
from worklode.cli.options import FigureName
from worklode.cli.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType


def run_explain(
    figure: FigureName, workload: str | None, step: StepOptions, *, on: str, technology: Path | None
) -> Outcome:
    """Explain a figure of an accelerator, or of a workload on it."""
    from worklode import api
    from worklode.hardware.presets import field_sources, load_accelerator, preset_names
    from worklode.hardware.technology import load_technology
    from worklode.search import explanation

    faults = Faults()
    accelerator = faults.collect(lambda: load_accelerator(on, where="--on"))
    constants = faults.collect(lambda: load_technology(technology))
    if figure in ("time", "energy") and workload is None:
        faults.add("explain-number", f"{figure} is that of a workload", "explain-number time WORKLOAD --on PRESET")
    faults.finish()
    assert accelerator is not None and constants is not None
    sources = field_sources(on) if on in preset_names() else {}
    if figure == "area":
        tree = explanation.explain_area(accelerator, constants, sources)
    elif figure == "tdp":
        tree = explanation.explain_tdp(accelerator, constants, sources)
    else:
        assert workload is not None
        evaluator = api.evaluator(captured(workload, step), technology=constants)
        explain = explanation.explain_time if figure == "time" else explanation.explain_energy
        tree = explain(evaluator, accelerator, sources)
    document: dict[str, Any] = {
        "figure": figure,
        "accelerator": accelerator.name or on,
        "workload": workload,
        "tree": tree.to_dict(),
    }

    def report() -> Iterable[RenderableType]:
        from worklode.report.explanation import explanation_report

        return explanation_report(document)

    return Outcome(document=document, report=report)
