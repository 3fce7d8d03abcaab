"""Where an iteration on many devices goes, as bars of parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from worklode.report.bench_page import COLOURS, figure_html
from worklode.report.distributed_evaluation import PARTS

Document = Mapping[str, Any]


def parts_charts(found: Document | None) -> Iterator[str]:
    """One chart for each model: parts of the iteration of every design, mean over stages.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    for setting in found["settings"] if found else ():
        assert found is not None
        model = setting["model"]
        rows = [row for row in found["designs"] if row["model"] == model and row["objective"] == "throughput"]
        yield f"<h2>{escape(model)} on {setting['devices']} devices: where an iteration goes</h2>{_parts(rows)}"


def _parts(rows: list[Document]) -> str:
    import plotly.graph_objects as graph

    chart = graph.Figure()
    names = [row["design"] for row in rows]
    for index, (part, label) in enumerate(PARTS.items()):
        chart.add_bar(
            y=names,
            x=[row[part] * row["iteration_time_s"] for row in rows],
            name=label,
            orientation="h",
            marker={"color": COLOURS[index]},
            hovertemplate="%{y}: %{x:.3g} s<extra>" + label + "</extra>",
        )
    chart.update_layout(
        template="plotly_white",
        barmode="stack",
        height=120 + 28 * len(names),
        margin={"l": 220, "r": 10, "t": 10, "b": 40},
        xaxis={"title": "s"},
        yaxis={"autorange": "reversed"},
        legend={"orientation": "h", "y": -0.25},
    )
    return figure_html(chart)
