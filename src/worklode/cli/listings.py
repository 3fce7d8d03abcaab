"""`worklode models` and `worklode presets`: what has a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType


def list_models() -> Outcome:
    """The zoo: name, parameters, what a step learns, default batch and sequence length."""
    from worklode.frontend import zoo

    entries = [zoo.entry(name) for name in zoo.names()]
    document = {
        "models": [
            {
                "name": entry.name,
                "task": entry.task,
                "parameters": entry.parameters,
                "parameters_source": entry.parameters_source,
                "batch": entry.batch,
                "seq_len": entry.seq_len or None,
                "optimizer": entry.optimizer,
                "paper": entry.paper,
                "notes": entry.notes,
            }
            for entry in entries
        ]
    }

    def report() -> list[RenderableType]:
        from worklode.report.quantity import parameters
        from worklode.report.table import listing

        rows = [
            {
                "model": entry.name,
                "parameters": parameters(entry.parameters),
                "batch": entry.batch,
                "seq len": entry.seq_len or "",
                "optimizer": entry.optimizer,
                "step": entry.task,
            }
            for entry in entries
        ]
        return [listing(rows, right=("parameters", "batch", "seq len"))]

    return Outcome(document=document, report=report)


def list_presets(technology_file: Path | None) -> Outcome:
    """The presets: their parts, area and TDP by the model, and what is published of both."""
    from dataclasses import asdict

    from worklode.hardware.area import area_mm2
    from worklode.hardware.power import tdp_w
    from worklode.hardware.presets import load_preset, preset_names, published
    from worklode.hardware.technology import load_technology

    technology = load_technology(technology_file)
    presets = []
    for name in preset_names():
        accelerator, known = load_preset(name), published(name)
        presets.append(
            {
                "name": name,
                "title": known.title,
                "accelerator": asdict(accelerator),
                "area_mm2": area_mm2(accelerator, technology).total,
                "tdp_w": tdp_w(accelerator, technology).total,
                "published_area_mm2": known.area_mm2.value,
                "published_tdp_w": known.tdp_w.value,
                "peak_matrix_flops_per_s": accelerator.peak_matrix_flops_per_s,
                "hbm_bytes": accelerator.hbm_bytes,
                "hbm_bytes_per_s": accelerator.hbm_bytes_per_s,
            }
        )
    return Outcome(document={"presets": presets}, report=lambda: _preset_tables(presets))


def _preset_tables(presets: list[dict[str, Any]]) -> list[RenderableType]:
    from worklode.report.quantity import plain, size
    from worklode.report.table import listing

    def modelled(model: float, known: float) -> str:
        return f"{plain('')(model)} ({model / known - 1:+.0%})"

    rows = []
    for preset in presets:
        a = preset["accelerator"]
        rows.append(
            {
                "preset": preset["name"],
                "tensor": f"{a['num_tensor_cores']}x{a['tensor_core_rows']}x{a['tensor_core_cols']}",
                "vector": f"{a['num_vector_cores']}x{a['vector_lanes']}",
                "SRAM": size(a["sram_bytes"]),
                "HBM": size(preset["hbm_bytes"]),
                "GB/s": f"{preset['hbm_bytes_per_s'] / 1e9:.0f}",
                "TFLOP/s": plain("")(preset["peak_matrix_flops_per_s"] / 1e12),
                "mm2": modelled(preset["area_mm2"], preset["published_area_mm2"]),
                "W": modelled(preset["tdp_w"], preset["published_tdp_w"]),
            }
        )
    table = listing(rows, right=tuple(rows[0])[1:])
    return [table, "In brackets: the model against the published figure."]
