"""The page of a bench: tables and curves in one file that needs no network (plotly, an extra: `worklode[bench]`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from math import log10
from typing import Any

from worklode.report.bench import LEGEND, budget_text, reference_text, row_text

Document = Mapping[str, Any]

# Twelve colours that can be told apart (Paul Tol, Colour Schemes, SRON/EPS/TN/09-002, 2021: bright and muted).
COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"),
    *("#332288", "#999933", "#882255", "#44aa99", "#cc6677", "#555555"),
)
_AXES = {"evaluations": "designs asked for", "cpu_s": "CPU time [s]"}
# What is drawn [1]: how far above the best known a searcher's best is. Nearer than the least counts as there, what is
# further than the most is off the chart.
_LEAST, _MOST = 1e-3, 3.0
_TICKS = {
    _LEAST: "< 0.1 %",
    0.003: "0.3 %",
    0.01: "1 %",
    0.03: "3 %",
    0.1: "10 %",
    0.3: "30 %",
    1.0: "100 %",
    3.0: "300 %",
}
_PARTS = (("own_share", "own model"), ("mapping_share", "search of mappings"), ("evaluation_share", "evaluations"))
_PART_COLOURS = ("#4477aa", "#ccbb44", "#bbbbbb")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
p.note { color: #666; max-width: 60em }
div.row { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1em }
@media (max-width: 60em) { div.row { grid-template-columns: minmax(0, 1fr) } }
"""


def bench_page(document: Document, curves: Sequence[Document]) -> str:
    """HTML of a bench.

    Args:
        document: what `bench --json` prints.
        curves: rows of curves.csv.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    from plotly.offline import get_plotlyjs

    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>worklode bench</title>',
            f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>",
            f"<h1>Searchers compared</h1><p>{escape(document['objective'])}: {escape(budget_text(document))}.</p>",
            *_sections(document, curves),
            f'<p class="note">{escape(LEGEND)}</p>',
            f'<p class="note">Bands: {document["confidence"]:.0%} confidence of the median over seeds, by resampling '
            "them. A searcher that judges its designs by a model of its own is drawn by the design it would build, not "
            "by the best it came across, and is not charged for evaluations.</p></body></html>",
        ]
    )


def _sections(document: Document, curves: Sequence[Document]) -> Iterator[str]:
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(document["searchers"])}
    for reference in document["references"]:
        name = reference["workload"]
        rows = [row for row in document["rows"] if row["workload"] == name]
        yield f"<h2>{escape(name)}</h2><p>{escape(reference_text(reference, document['objective']))}.</p>"
        if not rows:
            continue
        yield _table([row_text(row, document["objective"]) for row in rows])
        yield '<div class="row">'
        for along in _AXES:
            mine = [row for row in curves if row["workload"] == name and row["along"] == along]
            yield f"<div>{_curves(mine, along, colours)}</div>"
        yield "</div>"
        yield _split(rows)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row.values()) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _curves(rows: Sequence[Document], along: str, colours: Mapping[str, str]) -> str:
    """Median and band of every searcher along one axis."""
    import plotly.graph_objects as graph

    figure = graph.Figure()
    for name, colour in colours.items():
        mine = [row for row in rows if row["searcher"] == name and row["median"] is not None]
        if not mine:
            continue
        banded = [row for row in mine if row["low"] is not None and row["high"] is not None]
        places = [row["place"] for row in banded]
        edges = [_above(row["high"]) for row in banded] + [_above(row["low"]) for row in reversed(banded)]
        figure.add_scatter(
            x=places + places[::-1],
            y=edges,
            fill="toself",
            fillcolor=colour,
            opacity=0.15,
            line={"width": 0, "shape": "hv"},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
        figure.add_scatter(
            x=[row["place"] for row in mine],
            y=[_above(row["median"]) for row in mine],
            text=[f"{row['median'] - 1.0:.2%}" for row in mine],
            name=name,
            legendgroup=name,
            mode="lines+markers" if len(mine) == 1 else "lines",
            line={"color": colour, "shape": "hv", "width": 2},
            hovertemplate="%{x:.4g}: %{text}<extra>" + name + "</extra>",
        )
    figure.update_layout(
        template="plotly_white",
        height=420,
        margin={"l": 60, "r": 10, "t": 30, "b": 50},
        xaxis={"type": "log", "title": _AXES[along]},
        yaxis={
            "title": "best so far, above the best known",
            "type": "log",
            "range": [log10(_LEAST * 0.9), log10(_MOST)],
            "tickvals": list(_TICKS),
            "ticktext": list(_TICKS.values()),
        },
        legend={"orientation": "h", "y": -0.2},
    )
    return figure_html(figure)


def _split(rows: Sequence[Document]) -> str:
    """Where the CPU time of every searcher went, as bars."""
    import plotly.graph_objects as graph

    figure = graph.Figure()
    names = [row["searcher"] for row in rows]
    for (part, label), colour in zip(_PARTS, _PART_COLOURS, strict=True):
        figure.add_bar(
            y=names,
            x=[row[part] * row["cpu_s"] for row in rows],
            name=label,
            orientation="h",
            marker={"color": colour},
            hovertemplate="%{x:.3g} s<extra>" + label + "</extra>",
        )
    figure.update_layout(
        template="plotly_white",
        barmode="stack",
        height=110 + 32 * len(rows),
        margin={"l": 60, "r": 10, "t": 30, "b": 50},
        xaxis={"title": "CPU time of a run [s]: own model, search of mappings, evaluations"},
        yaxis={"autorange": "reversed", "automargin": True},
        legend={"orientation": "h", "y": 1.15},
    )
    return figure_html(figure)


def figure_html(figure: Any) -> str:
    """A chart as part of a page."""
    # The id of a figure would be drawn at random otherwise: the same bench gives the same page.
    name = sha256(figure.to_json().encode()).hexdigest()[:12]
    config = {"responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=config))


def _above(ratio: float) -> float:
    """How far above the best known, where it is drawn."""
    return max(ratio - 1.0, _LEAST)
