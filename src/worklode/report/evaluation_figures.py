"""The figures of `reproduce` in one file that needs no network: every design on every model, over the budget's own."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from worklode.report.bench_page import COLOURS, STYLE, figure_html
from worklode.report.distributed_evaluation import charts as distributed_charts
from worklode.report.distributed_figures import parts_charts

Document = Mapping[str, Any]

_CHARTS = {
    "over_budget_throughput": "Throughput over the budget's own design",
    "over_budget_throughput_per_tdp": "Throughput per TDP over the budget's own design",
}
_TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def evaluation_figures(document: Document) -> str:
    """HTML of the figures.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    from plotly.offline import get_plotlyjs

    charts = [f"<h2>{escape(title)}</h2>{_bars(document, figure)}" for figure, title in _CHARTS.items()]
    distributed = document.get("distributed")
    for title, rows, figure in distributed_charts(distributed):
        charts.append(f"<h2>{escape(title)}</h2>{_bars({'designs': rows}, figure)}")
    charts += parts_charts(distributed)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>worklode reproduce</title>',
            f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>",
            f"<h1>The paper's evaluation</h1><p>Budget: that of {escape(document['budget'])}.</p>",
            *charts,
            '<p class="note">Rows of evaluation.csv and distributed.csv. The line is the budget\'s own design.</p>',
            "</body></html>",
        ]
    )


def _bars(document: Document, figure: str) -> str:
    import plotly.graph_objects as graph

    rows = document["designs"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = list(dict.fromkeys(row["design"] for row in rows))[1:]  # the first is what all are compared with
    found = {(row["model"], row["design"]): row[figure] for row in rows}
    chart = graph.Figure()
    for index, name in enumerate(names):
        chart.add_bar(
            x=models,
            y=[found.get((model, name)) for model in models],
            name=name,
            marker={"color": COLOURS[index % len(COLOURS)]},
            hovertemplate="%{x}: %{y:.3g}<extra>" + name + "</extra>",
        )
    chart.add_hline(y=1.0, line={"color": "#222", "width": 1})
    chart.update_layout(
        template="plotly_white",
        barmode="group",
        height=420,
        margin={"l": 60, "r": 10, "t": 10, "b": 50},
        yaxis={"type": "log", "tickvals": list(_TICKS), "ticktext": [f"{tick:g}x" for tick in _TICKS]},
        legend={"orientation": "h", "y": -0.2},
    )
    return figure_html(chart)
