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


def test_a_gain_of_a_step_that_does_not_fit_is_qualified() -> None:
    document = mining()
    assert "no prediction" not in text_of(mining_report(document))
    document["best"]["memory_bytes"]["fits"] = False
    assert "cannot hold the training step" in text_of(mining_report(document))


def test_mining_compares_best_with_baseline() -> None:
    text = text_of(mining_report(mining()))
    assert row(text, "iteration time").split() == ["51.2", "ms", "83.1", "ms", "1.62x"]
    assert row(text, "energy per iteration").split() == ["14.2", "J", "14.2", "J", "1.00x"]
    assert "1.62x better than tpuv2 in throughput" in text
    proven = "Proven: no design of this space, however it is scheduled, is better by more than 0.3 %."
    assert proven in " ".join(text.split())
    assert "Searched 1 204 224 designs: 640 000 of them within the limits, 812 scheduled, 639 000 ruled out" in text
    assert "188 neither" in text


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (0.0, "Proven: no design of this space, however it is scheduled, is better."),
        (0.02, "by more than 2.0 %"),
        (None, "better than tpuv2"),
    ],
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


def test_infeasible_names_limits_and_ways_out() -> None:
    document = {
        **mining(),
        "best": None,
        "top_k": [],
        "infeasible": [
            {"constraint": "area_mm2", "demand": 52.31, "limit": 10.0, "remedy": "raise the area limit to 52.31 mm2"},
            {"constraint": "hbm_bytes", "demand": 40 * 2.0**30, "limit": 16 * 2.0**30, "remedy": "a smaller batch"},
        ],
    }
    text = text_of(mining_report(document))
    assert "No design of the space keeps the limits" in text
    assert "area: at least 52.3 mm2 needed, the limit is 10 mm2: raise the area limit to 52.31 mm2" in text
    assert "HBM: at least 40 GiB needed, the limit is 16 GiB: a smaller batch" in text


def test_several_workloads_have_a_line_each() -> None:
    document = mining()
    other = {**WORKLOAD, "name": "resnet50"}
    for design, time_s in ((document["best"], 0.01), (document["budget_baseline"], 0.03)):
        design["evaluations"] = [dict(design), {**evaluation(time_s=time_s), "workload": other}]
    document["workload"] = [WORKLOAD, other]
    text = text_of(mining_report(document))
    assert text.startswith("Mining: bert-large, resnet50\n")
    assert row(text, "resnet50").split()[:2] == ["10", "ms"]
    assert row(text, "resnet50").endswith("3.00x")


def test_fusion_is_shown_before_and_after() -> None:
    fusion = {
        "operators_before": 4213,
        "operators_after": 1803,
        "distinct_before": 200,
        "distinct_after": 120,
        "hbm_bytes_before": 40 * 2**30,
        "hbm_bytes_after": 25 * 2**30,
        "tensors_eliminated": 2000,
        "patterns": [{"pattern": "multi_tensor_update", "groups": 12, "operators": 390}],
    }
    document = {"workload": WORKLOAD, "coverage": COVERAGE, "graph_file": None, "fusion": fusion}
    text = text_of(capture_report(document))
    (operators,) = [line for line in text.splitlines() if line.startswith("operators  ") and "1 803" in line]
    assert operators.split() == ["operators", "4", "213", "1", "803"]
    assert row(text, "HBM traffic").split() == ["40", "GiB", "25", "GiB"]
    assert row(text, "multi tensor update").split() == ["12", "390"]


def test_a_search_that_ran_out_of_time_says_so() -> None:
    document = mining()
    document["search"]["out_of_time"] = True
    assert "The time was used up" in " ".join(text_of(mining_report(document)).split())
