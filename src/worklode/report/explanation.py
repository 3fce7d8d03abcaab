"""The tree that `explain-number` prints, from its document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from worklode.report.quantity import percent
from worklode.units import format_si

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

Document = Mapping[str, Any]


def explanation_report(document: Document) -> Iterator[RenderableType]:
    """The tree of a figure: value, share or elasticity, formula, source."""
    from rich.text import Text

    yield Text(f"{document['figure']} of {document['accelerator']}, and where it comes from\n", style="bold")
    yield _tree(document["tree"])
    yield Text("\nx 0.5: a rise of 1 % raises the figure above by 0.5 %", style="dim")


def _tree(node: Document) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(_label(node)))
    for child in node["children"]:
        tree.children.append(_tree(child))
    return tree


def _label(node: Document) -> str:
    parts = [f"{node['name']}  {_value(node['value'], node['unit'])}"]
    if node["share"] is not None:
        parts.append(percent(node["share"]))
    if node["elasticity"] is not None:
        parts.append(f"x {node['elasticity']:.2g}")
    text = "  ".join(parts)
    for more in (node["how"], node["source"]):
        if more:
            text += f"; {more}"
    return text


def _value(value: float, unit: str) -> str:
    """Areas, shares and counts as they are, the rest with a decimal prefix."""
    if unit in ("mm2", "1", "ratio"):
        return f"{value:.4g} {'' if unit in ('1', 'ratio') else unit}".rstrip()
    return format_si(value, unit)
