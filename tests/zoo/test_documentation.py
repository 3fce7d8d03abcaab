"""The table of docs/zoo.md against the captured graphs: what no tuning of fusion or search moves."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is an extra of the package")

from worklode.frontend import zoo
from worklode.graph.operator import Phase

from .conftest import ZooModel

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
BEGIN, END = "<!-- begin: benchmarks/zoo.py --write -->", "<!-- end: benchmarks/zoo.py -->"


@cache
def rows() -> dict[str, dict[str, str]]:
    """The cells of both tables by model and column."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    found: dict[str, dict[str, str]] = {}
    heads: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "name":
            heads = cells
        elif line.startswith("|") and not cells[0].startswith("---"):
            found.setdefault(cells[0], {}).update(zip(heads, cells, strict=True))
    return found


def test_every_model_is_listed() -> None:
    assert tuple(rows()) == zoo.names()


def test_the_step_is_the_one_described(model: ZooModel) -> None:
    row, graph = rows()[model.name], model.graph
    forward = graph.matrix_flops(Phase.FORWARD, Phase.LOSS)
    assert row["parameters"] == f"{graph.info.parameters:,}"
    assert row["forward TFLOP"] == f"{forward / 1e12:.4g}"
    assert row["backward / forward"] == f"{graph.matrix_flops(Phase.BACKWARD) / forward:.3f}"
    assert row["operators"] == f"{len(graph.operators):,}"
    assert row["saved GiB"] == f"{graph.saved_bytes() / 2**30:.3f}"
