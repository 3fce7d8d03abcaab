"""`worklode validate`: the models against published measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType


def run_validate(suites: tuple[str, ...], *, data: Path | None, write: Path | None) -> Outcome:
    """Run suites and, where asked, write their page."""
    from worklode.hardware.presets import load_preset, preset_names
    from worklode.validation.suites import validate

    results = validate(suites, data)
    chips = [load_preset(name) for name in preset_names()]
    document: dict[str, Any] = {
        "suites": [result.to_dict() for result in results],
        "efficiency": [
            {
                "name": chip.name,
                "clock_share": chip.clock_share,
                "hbm_share": chip.hbm_share,
                "operator_start_s": chip.operator_start_s,
                "operator_fill_s": chip.operator_fill_s,
            }
            for chip in chips
        ],
    }
    messages: tuple[str, ...] = ()
    if write is not None:
        from worklode.report.validation_page import validation_page

        write.write_text(validation_page(document), encoding="utf-8")
        messages = (f"written: {write}",)

    def report() -> Iterable[RenderableType]:
        from worklode.report.validation import validation_report

        return validation_report(document)

    return Outcome(document=document, report=report, messages=messages)
