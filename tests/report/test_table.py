"""Tables say what the documents say, at the widths people have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from worklode.report.table import capture_report, evaluation_report, listing, mining_report

from .documents import COVERAGE, WORKLOAD, evaluation, mining


def text_of(parts: Iterable[RenderableType], *, width: int = 120) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()


def row(text: str, label: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(label + "  ")]
    return found.removeprefix(label).strip()


def test_evaluation_names_workload_design_and_figures() -> None:
    text = text_of(evaluation_report(evaluation(name="tpuv3")))
    assert text.startswith("Evaluation: bert-large on tpuv3\n")
    assert row(text, "tensor cores") == "4 of 128x128 MACs"
    assert row(text, "iteration time") == "83.1 ms"
    assert row(text, "throughput") == "96.3 samples/s"
    assert row(text, "throughput / TDP") == "0.355 samples/s/W"
    assert row(text, "time bound by") == "tensor cores 71%, HBM 19%, vector cores 10%"
    assert row(text, "time by phase") == "forward 30%, backward 60%, optimizer 10%"
    assert row(text, "memory needed") == "7 GiB of 16 GiB"
    assert row(text, "vector lanes").split() == ["60", "mm2", "10.2", "%", "41.2", "W", "15.2", "%"]
    assert row(text, "leakage").split() == ["-", "-", "40", "W", "14.7", "%"]
    assert "warning: costed by bytes and FLOPs alone: aten.roll" in text


def test_memory_that_does_not_fit_is_said() -> None:
    document = evaluation()
    document["memory_bytes"] = {"activations": 20 * 2**30, "total": 20 * 2**30, "fits": False}
    assert row(text_of(evaluation_report(document)), "memory needed") == "20 GiB of 16 GiB (does not fit)"


def test_mining_compares_best_with_baseline() -> None:
    text = text_of(mining_report(mining()))
    assert row(text, "iteration time").split() == ["51.2", "ms", "83.1", "ms", "1.62x"]
    assert row(text, "energy per iteration").split() == ["14.2", "J", "14.2", "J", "1.00x"]
    assert "1.62x better than tpuv2 in throughput" in text
    assert "no design of this space is better by more than 0.3 %" in text
    assert "Searched 1 204 224 designs: 812 evaluated, 1 203 412 ruled out by bounds, in 1.42 s." in text


@pytest.mark.parametrize(
    ("gap", "said"),
    [(0.0, "Proven: no design of this space is better."), (0.02, "by more than 2.0 %"), (None, "better than tpuv2")],
)
def test_proof_is_worded_by_the_gap(gap: float | None, said: str) -> None:
    document = {**mining(), "optimality_gap": gap}
    text = " ".join(text_of(mining_report(document)).split())
    assert said in text
    assert ("Proven" in text) == (gap is not None)


def test_worse_than_the_baseline_is_not_called_better() -> None:
    text = text_of(mining_report({**mining(), "improvement": 0.9}))
    assert "better than tpuv2" not in text
    assert "worse than tpuv2" in text


def test_without_baseline_there_is_one_column() -> None:
    text = text_of(mining_report({**mining(), "budget_baseline": None, "improvement": None}))
    assert "gain" not in text
    assert row(text, "iteration time") == "51.2 ms"


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(width: int) -> None:
    documents: tuple[tuple[Any, Any], ...] = (
        (evaluation_report, evaluation(name="tpuv3")),
        (mining_report, mining()),
        (capture_report, {"workload": WORKLOAD, "coverage": COVERAGE, "graph_file": "bert.wlg.json.gz"}),
    )
    for report, document in documents:
        text = text_of(report(document), width=width)
        assert "…" not in text
        assert max(len(line) for line in text.splitlines()) <= width


def test_capture_counts() -> None:
    text = text_of(capture_report({"workload": WORKLOAD, "coverage": COVERAGE, "graph_file": "bert.wlg.json.gz"}))
    assert row(text, "parameters") == "336 226 108 (336 226 108 trainable)"
    assert row(text, "costed exactly") == "> 99.9 % of FLOPs, 98.3 % of bytes"
    assert row(text, "by bytes and FLOPs only") == "aten.roll (3)"


def test_names_are_not_read_as_markup() -> None:
    name = "[red]net.py:make[/red]"
    text = text_of(evaluation_report({**evaluation(), "workload": {**WORKLOAD, "name": name}}))
    assert name in text
    assert "[bold]x" in text_of([listing([{"model": "[bold]x"}])])
