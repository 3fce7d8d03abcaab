"""The commands that do the work, on a small workload file with the real engine."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import cli
from worklode.graph.file import GRAPH_SUFFIX

Captured = pytest.CaptureFixture[str]

NET = """
import torch
from torch import nn

def make(batch=4):
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
    return net, torch.randn(batch, 64), lambda out: out.square().mean(), "adamw"

def wrong(batch=4):
    return 3
"""

# A design of the smallest presets' size: the searches of these tests take a fraction of a second.
BUDGET = "tpuv2"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)


def run(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def document(capsys: Captured, *arguments: str, code: int = 0) -> dict[str, Any]:
    found, out, err = run(capsys, *arguments, "--json")
    assert found == code, err
    return dict(json.loads(out))


def test_capture_counts_and_saves(capsys: Captured) -> None:
    name = f"net{GRAPH_SUFFIX}"
    found = document(capsys, "capture", "net.py:make", "--batch", "8", "--out", name, "--fused")
    workload = found["workload"]
    assert workload["parameters"] == 64 * 128 + 128 + 128 * 64 + 64
    # Two products forward, and backward three: the first layer's input needs no gradient.
    assert workload["matrix_flops_forward"] == 2 * 2 * 8 * 64 * 128
    assert workload["matrix_flops"] == 5 * 2 * 8 * 64 * 128
    assert workload["samples"] == 8
    assert found["graph_file"] == name
    assert found["fusion"]["operators_after"] <= found["fusion"]["operators_before"]
    again = document(capsys, "capture", name)
    assert again["workload"] == workload
    code, table, _ = run(capsys, "capture", name, "--fused")
    assert code == 0
    assert "16 576 (16 576 trainable)" in table
    assert "before" in table


def test_the_second_capture_comes_from_the_cache(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    first = document(capsys, "capture", "net.py:make")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("captured again")

    monkeypatch.setattr("worklode.api.capture_workload", fail)
    assert document(capsys, "capture", "net.py:make") == first
    assert cli.run(["capture", "net.py:make", "--no-cache", "-q"]) == 1


def test_evaluate_matches_the_contract(capsys: Captured) -> None:
    found = document(capsys, "evaluate", "net.py:make", "--on", BUDGET)
    assert found["accelerator"]["name"] == BUDGET
    assert found["iteration_time_s"] >= found["lower_bound_s"] > 0
    assert found["samples_per_s"] == pytest.approx(4 / found["iteration_time_s"])
    assert found["samples_per_s_per_w"] == pytest.approx(found["samples_per_s"] / found["accelerator"]["tdp_w"])
    assert sum(found["accelerator"]["area_parts_mm2"].values()) == pytest.approx(found["accelerator"]["area_mm2"])
    for key in ("energy_j", "critical_path_s", "utilization", "memory_bytes", "coverage"):
        assert key in found
    table = run(capsys, "evaluate", "net.py:make", "--on", BUDGET)[1]
    assert table.startswith(f"Evaluation: net.py:make on {BUDGET}\n")


def test_one_core_is_hardly_ever_faster(capsys: Captured) -> None:
    """Every option of one-core is one of split's; a list scheduler may still make a little less of more options."""
    split = document(capsys, "evaluate", "net.py:make", "--on", "tpuv3")
    one = document(capsys, "evaluate", "net.py:make", "--on", "tpuv3", "--mode", "one-core")
    assert (split["mode"], one["mode"]) == ("split", "one-core")
    assert one["iteration_time_s"] >= 0.99 * split["iteration_time_s"]
    assert one["lower_bound_s"] >= split["lower_bound_s"]


def test_mine_writes_a_complete_run(capsys: Captured) -> None:
    found = document(capsys, "mine", "net.py:make", "--budget", BUDGET, "--top-k", "3")
    folder = Path(found.pop("run_directory"))
    assert folder == Path("runs/net-make-1")
    assert found["improvement"] >= 1
    assert len(found["top_k"]) == 3
    for design in found["top_k"]:
        assert design["accelerator"]["area_mm2"] <= found["constraints"]["area_mm2"]
        assert design["accelerator"]["tdp_w"] <= found["constraints"]["tdp_w"]
    assert json.loads((folder / "result.json").read_text()) == found
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["inputs"][0]["name"] == "net.py:make"
    assert len(manifest["inputs"][0]["sha256"]) == 64
    with (folder / "designs.csv").open() as stream:
        times = [float(row["iteration_time_s"]) for row in csv.DictReader(stream)]
    assert times[0] == min(times) == found["best"]["iteration_time_s"]
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    ends = [event["ts"] + event["dur"] for event in events if event["ph"] == "X"]
    assert max(ends) == pytest.approx(found["best"]["iteration_time_s"] * 1e6)
    assert "objective: throughput" in (folder / "config.yaml").read_text()


def test_mining_twice_gives_the_same_answer_and_another_folder(capsys: Captured) -> None:
    first, second = (document(capsys, "mine", "net.py:make", "--budget", BUDGET) for _ in range(2))
    assert (first["run_directory"], second["run_directory"]) == ("runs/net-make-1", "runs/net-make-2")
    for found in (first, second):
        del found["run_directory"], found["search"]["wall_time_s"], found["search"]["proof_time_s"]
    assert first == second


def test_finished_runs_are_reported_and_compared(capsys: Captured) -> None:
    code, mined, err = run(capsys, "mine", "net.py:make", "--area", "500mm2", "--tdp", "250W", "--out", "mined")
    assert (code, err) == (0, "written: mined\n")
    assert run(capsys, "evaluate", "net.py:make", "--on", BUDGET, "--out", "evaluated", "-q")[2] == ""
    assert run(capsys, "report", "mined") == (0, mined, "")
    assert run(capsys, "report", "evaluated")[1].startswith("Evaluation: net.py:make on tpuv2")
    compared = document(capsys, "compare", "mined", "evaluated")
    assert [entry["run"] for entry in compared["runs"]] == ["mined", "evaluated"]
    times = [entry["design"]["iteration_time_s"] for entry in compared["runs"]]
    assert times[0] <= times[1]
    assert "mined" in run(capsys, "compare", "mined", "evaluated")[1]


def test_several_workloads_share_one_design(capsys: Captured) -> None:
    found = document(capsys, "mine", "net.py:make", "net.py:make", "--budget", BUDGET)
    assert len(found["best"]["evaluations"]) == 2
    assert len(found["workload"]) == 2


def test_infeasible_is_3_and_names_the_way_out(capsys: Captured) -> None:
    code, out, _ = run(capsys, "mine", "net.py:make", "--area", "1mm2", "--tdp", "1W")
    assert code == 3
    assert "No design of the space keeps the limits" in out
    assert "raise" in out
    assert "net.py:make" in out
    found = document(capsys, "mine", "net.py:make", "--area", "1mm2", "--tdp", "1W", code=3)
    assert found["best"] is None
    assert {reason["constraint"] for reason in found["infeasible"]} <= {"area_mm2", "tdp_w", "hbm_bytes"}
    assert found["infeasible"]
    assert run(capsys, "report", found["run_directory"])[0] == 3
    assert run(capsys, "compare", found["run_directory"], found["run_directory"])[0] == 2


def test_out_of_time_is_4_with_the_best_so_far(capsys: Captured) -> None:
    found = document(capsys, "mine", "net.py:make", "--budget", BUDGET, "--max-time", "1us", code=4)
    assert found["best"] is not None
    assert found["search"]["out_of_time"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("capture", "net.py:none"), "none"),
        (("capture", "net.py:wrong"), "(module, inputs)"),
        (("capture", "missing.py:make"), "missing.py"),
        (("capture", "bert-lrge"), "bert-large"),
        (("capture", "net.py:make", "--dtype", "int3"), "bf16"),
        (("capture", "net.py:make", "--out", "graph.txt"), GRAPH_SUFFIX),
        (("evaluate", "net.py:make", "--on", "tpu9"), "tpuv2"),
        (("evaluate", "net.py:make", "--on", "missing.yaml"), "missing.yaml"),
        (("evaluate", "net.py:make", "--on", BUDGET, "--mode", "three-core"), "one-core"),
        (("evaluate", "net.py:make", "--on", BUDGET, "--technology", "missing.yaml"), "missing.yaml"),
        (("evaluate", "net.py:make", "--on", BUDGET, "--out", "net.py"), "exists already"),
        (("mine", "net.py:make"), "--budget"),
        (("mine", "net.py:make", "--area", "600"), "600mm2"),
        (("mine", "net.py:make", "--area", "600W"), "mm2"),
        (("mine", "net.py:make", "--tdp", "0W"), "280W"),
        (("mine", "net.py:make", "--budget", BUDGET, "--objective", "speed"), "throughput"),
        (("mine", "net.py:make", "--budget", BUDGET, "--max-time", "soon"), "10min"),
        (("mine", "net.py:make", "--budget", BUDGET, "--space", "missing.yaml"), "missing.yaml"),
        (("report", "nowhere"), "manifest.json"),
        (("compare", "nowhere"), "two or more"),
    ],
)
def test_bad_input_is_2_without_traceback_or_leftovers(capsys: Captured, arguments: tuple[str, ...], said: str) -> None:
    before = set(Path().rglob("*"))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert {path for path in set(Path().rglob("*")) - before if "cache" not in path.parts} == set()


def test_all_faults_of_a_command_come_at_once(capsys: Captured) -> None:
    found = document(
        capsys,
        *("mine", "net.py:make", "--budget", "tpu9", "--tdp", "-5W", "--max-time", "soon", "--objective", "speed"),
        *("--dtype", "int3", "--out", "net.py"),
        code=2,
    )
    assert len(found["error"]["faults"]) == 6


def test_an_overlay_without_effect_is_reported(capsys: Captured) -> None:
    Path("mine.yaml").write_text("constants: {hbm_phy_area: 12, mac_area_int8: 400um2}\n")
    evaluated = document(capsys, "evaluate", "net.py:make", "--on", BUDGET, "--technology", "mine.yaml")
    (warning,) = [text for text in evaluated["warnings"] if "no effect" in text]
    assert "mac_area_int8" in warning and "hbm_phy_area" not in warning
    table = run(capsys, "evaluate", "net.py:make", "--on", BUDGET, "--technology", "mine.yaml")[1]
    assert "warning: mine.yaml had no effect in mac_area_int8" in " ".join(table.split())
    arguments = ("mine", "net.py:make", "--budget", BUDGET, "--top-k", "2", "--technology", "mine.yaml")
    assert warning in document(capsys, *arguments)["warnings"]
    assert "no effect in mac_area_int8" in " ".join(run(capsys, *arguments)[1].split())


def test_ranking_under_drawn_constants_is_printed(capsys: Captured) -> None:
    arguments = ("mine", "net.py:make", "--budget", BUDGET, "--top-k", "3", "--uncertainty")
    found = document(capsys, *arguments, "--objective", "energy")
    against = found["ranking"]["against"]
    assert [rival["rank"] for rival in against] == [2, 3, None]
    assert all(0 <= rival["beats"] <= 1 for rival in against)
    table = run(capsys, *arguments, "--objective", "energy")[1]
    assert "beats it in" in table and "shares of 2 000 draws" in table
    assert all(rival["beats"] is None for rival in document(capsys, *arguments)["ranking"]["against"])
    assert "this ranking does not depend on the constants" in " ".join(run(capsys, *arguments)[1].split())
