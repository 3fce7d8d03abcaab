"""The figures of `reproduce` in one file that needs no network: every design on every model, over the budget's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
_DECADES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


def evaluation_figures(document: Document) -> str:
    """HTML of the figures.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    from plotly.offline import get_plotlyjs

    charts = [f"<h2>{escape(title)}</h2>{_bars(document, figure)}" for figure, title in _CHARTS.items()]
    charts += _speed(document["claims"])
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
            '<p class="note">Rows of evaluation.csv, speed.csv and distributed.csv. At 1x is the budget\'s own '
            "design, and worklode's own search.</p>",
            "</body></html>",
        ]
    )


def _bars(document: Document, figure: str) -> str:
    """Ratios to the first design of each model, whose bars begin at that design: up is better."""
    rows = document["designs"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = list(dict.fromkeys(row["design"] for row in rows))[1:]  # the first is what all are compared with
    found = {(row["model"], row["design"]): row[figure] for row in rows}
    return _grouped(models, {name: [found.get((model, name)) for model in models] for name in names}, _TICKS)


def _speed(claims: Document) -> Iterator[str]:
    """How many times the CPU time of worklode's search each form of Spotlight-like takes, model by model."""
    rows = claims["speed"]
    if not rows:
        return
    models = list(dict.fromkeys(row["model"] for row in rows))
    bars = {}
    for opponent in dict.fromkeys(row["opponent"] for row in rows):
        by_model = {row["model"]: row for row in rows if row["opponent"] == opponent}
        for figure, label in (("times_to_final", "until our design"), ("times_whole", "proof included")):
            bars[f"{opponent}, {label}"] = [by_model.get(model, {}).get(figure) for model in models]
    yield "<h2>CPU time of Spotlight-like at its default budget over ours</h2>"
    yield _grouped(models, bars, _DECADES)


def _grouped(models: Sequence[str], bars: Mapping[str, Sequence[float | None]], ticks: Sequence[float]) -> str:
    """A group of bars for each model on a logarithmic axis; all begin at 1."""
    import plotly.graph_objects as graph

    chart = graph.Figure()
    for index, (name, values) in enumerate(bars.items()):
        chart.add_bar(
            x=models,
            base=1.0,
            y=[None if value is None else value - 1.0 for value in values],
            customdata=values,
            name=name,
            marker={"color": COLOURS[index % len(COLOURS)]},
            hovertemplate="%{x}: %{customdata:.3g}x<extra>" + name + "</extra>",
        )
    chart.add_hline(y=1.0, line={"color": "#222", "width": 1})
    chart.update_layout(
        template="plotly_white",
        barmode="group",
        height=420,
        margin={"l": 60, "r": 10, "t": 10, "b": 50},
        yaxis={"type": "log", "tickvals": list(ticks), "ticktext": [f"{tick:g}x" for tick in ticks]},
        legend={"orientation": "h", "y": -0.2},
    )
    return figure_html(chart)
