"""`worklode bench` from the command line: what it prints and keeps, interrupts, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

import worklode
from worklode import cli
from worklode.hardware.accelerator import Accelerator
from worklode.search.candidate import Candidate
from worklode.search.local import LocalSearch

Captured = pytest.CaptureFixture[str]

NET = """
import torch
from torch import nn

def make(batch=4):
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
    return net, torch.randn(batch, 64), lambda out: out.square().mean(), "adamw"
"""
SPACE = """
tensor_core_rows: [16, 32, 64]
tensor_core_cols: [16, 32, 64]
vector_lanes: [64, 128, 256]
num_tensor_cores: [1, 2, 4]
num_vector_cores: [1, 2]
sram: [2MiB, 4MiB]
hbm_stacks: [1, 2]
"""
BENCH = (
    *("bench", "net.py:make", "--budget", "tpuv2", "--space", "space.yaml"),
    *("--searchers", "worklode,random,genetic", "--seeds", "3", "--evaluations", "30", "--out", "out"),
)
# What is measured and so differs from run to run.
MEASURED = (
    *("cpu_s", "cpu_s_to_arrive", "cpu_s_to_final", "cpu_over_worklode"),
    *("own_share", "mapping_share", "evaluation_share"),
)
TABLES = ("result.json", "rows.csv", "cells.csv", "curves.csv", "bench.html")

# Stops the bench as an impatient user would, at its eleventh design.
INTERRUPTING = """
import os

class Interrupting:
    def __init__(self, problem, seed):
        self.problem, self.asked = problem, 0

    def ask(self, most):
        self.asked += 1
        if self.asked > 10 and not os.environ.get("GO_ON"):
            raise KeyboardInterrupt
        return [] if self.asked > 12 else [self.problem.start]

    def tell(self, results):
        pass

"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("space.yaml").write_text(SPACE)
    Path("interrupting.py").write_text(INTERRUPTING)


def document(capsys: Captured, *arguments: str, code: int = 0) -> dict[str, Any]:
    found = cli.run((*arguments, "--json"))
    out, err = capsys.readouterr()
    assert found == code, err
    return dict(json.loads(out))


def kept(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder, "cells").glob("*.json"))}


def tables(folder: str) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in TABLES}


def unmeasured(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in found["rows"]]


def test_it_compares_and_keeps_everything(capsys: Captured) -> None:
    found = document(capsys, *BENCH)
    assert found["searchers"] == ["worklode", "random", "genetic"]
    assert [(row["searcher"], row["seeds"]) for row in found["rows"]] == [
        ("worklode", 1),
        ("random", 3),
        ("genetic", 3),
    ]
    reference = found["references"][0]
    assert reference["bound"] <= reference["best_known"] <= reference["figure"]
    for row in found["rows"]:
        assert row["over_best_known"] >= 1.0
        assert row["gap_to_bound"] >= 0.0
        assert row["own_share"] + row["mapping_share"] + row["evaluation_share"] == pytest.approx(1.0)
    assert len(kept("out")) == 7
    with Path("out/cells.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 7
    with Path("out/rows.csv").open(newline="") as stream:
        assert [float(row["final_figure"]) for row in csv.DictReader(stream)] == [
            row["final_figure"] for row in found["rows"]
        ]
    page = Path("out/bench.html").read_text()
    assert "net.py:make" in page and "<script>" in page and "http" not in page.split("<body>")[0].split("<script>")[0]


def test_the_same_command_again_measures_nothing_and_says_the_same(capsys: Captured) -> None:
    first = document(capsys, *BENCH)
    cells, said = kept("out"), tables("out")
    assert document(capsys, *BENCH) == first
    assert document(capsys, "bench", "--resume", "out") == first
    assert kept("out") == cells
    assert tables("out") == said


def test_with_any_of_its_cells_missing_it_ends_with_the_same_designs(capsys: Captured) -> None:
    """As if it had been interrupted after each of its cells; and a file cut short is made again."""
    whole = document(capsys, *BENCH)
    names = sorted(Path("out/cells").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for count in range(len(names)):
        before = {str(path): path.read_bytes() for path in names[:count]}
        for path in names[count:]:
            path.unlink()
        if count < len(names):
            names[count].write_bytes(next(iter(before.values()), b"{")[:100])
        found = document(capsys, "bench", "--resume", "out")
        assert unmeasured(found) == unmeasured(whole)
        after = kept("out")
        assert {path: after[path] for path in before} == before


def test_killed_in_the_middle_it_goes_on_with_the_same_command(capsys: Captured) -> None:
    whole = document(capsys, *BENCH[:-1], "whole")
    command = [sys.executable, "-m", "worklode", *BENCH, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(worklode.__file__).parents[1])}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
        cells = Path("out/cells")
        limit_s = time.monotonic() + 120.0
        while process.poll() is None and time.monotonic() < limit_s:
            if cells.is_dir() and len(list(cells.glob("*.json"))) >= 2:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
    killed_cells = kept("out")
    assert 2 <= len(killed_cells) < 7
    assert unmeasured(document(capsys, *BENCH)) == unmeasured(whole)
    finished = kept("out")
    assert {path: finished[path] for path in killed_cells} == killed_cells
    said = tables("out")
    document(capsys, *BENCH)
    assert tables("out") == said


def test_an_interrupt_keeps_what_is_finished(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*BENCH]
    arguments[arguments.index("worklode,random,genetic")] = "worklode,interrupting.py:Interrupting"
    document(capsys, *arguments, code=130)
    before = kept("out")
    assert len(before) == 1
    monkeypatch.setenv("GO_ON", "1")
    found = document(capsys, *arguments)
    assert [row["searcher"] for row in found["rows"]] == ["worklode", "interrupting.py:Interrupting"]
    after = kept("out")
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("at", [2, 10])
def test_an_interrupt_of_what_mine_does_ends_the_bench_and_keeps_no_half_answer(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """`mine` answers an interrupt with what it has: no reference, and no reason to go on."""
    schedule, scheduled = LocalSearch.schedule, 0

    def interrupted(self: LocalSearch, accelerator: Accelerator, origin: str) -> Candidate:
        nonlocal scheduled
        scheduled += 1
        if scheduled == at:
            raise KeyboardInterrupt
        return schedule(self, accelerator, origin)

    monkeypatch.setattr(LocalSearch, "schedule", interrupted)
    document(capsys, *BENCH, code=130)
    assert not list(Path("out").glob("references/*.json"))
    found = document(capsys, *BENCH)["references"][0]
    assert found["figure"] == document(capsys, *BENCH[:-1], "whole")["references"][0]["figure"]


def test_workers_share_the_workloads_and_find_the_same(capsys: Captured) -> None:
    Path("wide.py").write_text(NET.replace("64, 128", "64, 256").replace("128, 64", "256, 64"))
    arguments = [*BENCH[:2], "wide.py:make", *BENCH[2:-1]]
    alone = document(capsys, *arguments, "alone")
    shared = document(capsys, *arguments, "shared", "--workers", "2")
    assert unmeasured(shared) == unmeasured(alone)
    # How many work is no setting: the other goes on with either.
    assert document(capsys, *arguments, "shared")["rows"] == shared["rows"]
    assert [row["workload"] for row in shared["rows"]] == ["net.py:make"] * 3 + ["wide.py:make"] * 3


def test_a_worker_that_is_interrupted_ends_all_and_keeps_what_is_finished(capsys: Captured) -> None:
    Path("wide.py").write_text(NET.replace("64, 128", "64, 256").replace("128, 64", "256, 64"))
    arguments = [*BENCH[:2], "wide.py:make", *BENCH[2:], "--workers", "2"]
    arguments[arguments.index("worklode,random,genetic")] = "worklode,interrupting.py:Interrupting"
    document(capsys, *arguments, code=130)
    assert set(kept("out")) == set(kept("out")) and all(".worklode." in name for name in kept("out"))


def test_a_budget_may_be_a_multiple_of_what_mine_takes(capsys: Captured) -> None:
    arguments = [*BENCH, "--cpu-time", "0.001x"]
    found = document(capsys, *arguments)
    assert found["cpu_limit_s"] is None and found["cpu_limit_times_mine"] == 0.001
    assert all(row["evaluations"] <= 16 for row in found["rows"])
    for wrong in ("0x", "x", "-3x", "nanx"):
        message = document(capsys, *BENCH, "--cpu-time", wrong, code=2)["error"]["message"]
        assert "--cpu-time" in message and "100x" in message


def test_report_prints_it_again_and_compare_refuses_it(capsys: Captured) -> None:
    found = document(capsys, *BENCH)
    del found["run_directory"]
    assert document(capsys, "report", "out") == found
    assert cli.run(["report", "out"]) == 0
    assert "hill" not in capsys.readouterr().out
    assert "is a bench" in document(capsys, "compare", "out", "out", code=2)["error"]["message"]


def test_other_settings_do_not_mix(capsys: Captured) -> None:
    document(capsys, *BENCH)
    failure = document(capsys, *BENCH, "--batch", "8", code=2)
    assert "was made with another setting" in failure["error"]["message"]
    assert {fault["path"] for fault in failure["error"]["faults"]} >= {"step", "workload_sha256"}
    Path("net.py").write_text(NET.replace("64, 128", "64, 96").replace("128, 64", "96, 64"))
    failure = document(capsys, *BENCH, code=2)
    assert {fault["path"] for fault in failure["error"]["faults"]} == {"limits", "workload_sha256"}


def test_tables_fit_a_page(capsys: Captured) -> None:
    assert cli.run(BENCH) == 0
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 120
    assert "proves that none is below" in out and "hill" not in out
    assert "written: out" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "net.py:make"), "no silicon budget"),
        (("bench",), "no workload"),
        (("bench", "--resume", "nowhere"), "is no bench"),
        (("bench", "net.py:make", "--resume", "out"), "workloads given"),
        (("bench", "net.py:make", "--budget", "tpuv2", "--searchers", "magic"), "no such searcher"),
        (("bench", "net.py:make", "--budget", "tpuv2", "--searchers", "absent.py:Class"), "cannot be loaded"),
        (("bench", "net.py:make", "--budget", "tpuv2", "--searchers", ","), "none given"),
        (("bench", "net.py:make", "net.py:make", "--budget", "tpuv2"), "twice"),
        (("bench", "net.py:make", "--budget", "tpuv2", "--cpu-time", "soon"), "--cpu-time"),
        (("bench", "net.py:make", "--budget", "tpuv2", "--out", "."), "holds something that is no bench"),
    ],
)
def test_bad_input_is_refused(capsys: Captured, arguments: tuple[str, ...], message: str) -> None:
    failure = document(capsys, *arguments, code=2)
    assert message in failure["error"]["message"]


def test_where_no_design_keeps_the_limits_the_status_says_so(capsys: Captured) -> None:
    arguments = ("--space", "space.yaml", "--searchers", "worklode,random", "--seeds", "1", "--out", "out")
    found = document(capsys, "bench", "net.py:make", "--area", "1mm2", *arguments, code=3)
    assert found["references"][0]["figure"] is None
    assert all(row["final_figure"] is None for row in found["rows"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [(99,) * 7]", "asks for what is no design"),
        ("return [self.problem.start] * (most + 1)", "asks for too many designs at once"),
        ("return self.nothing", "wrong.py:8: raised AttributeError"),
    ],
)
def test_what_a_searcher_does_wrong_is_said_of_it(capsys: Captured, body: str, message: str) -> None:
    Path("wrong.py").write_text(
        "class Wrong:\n"
        "    def __init__(self, problem, seed):\n"
        "        self.problem = problem\n"
        "    def tell(self, results):\n"
        "        pass\n"
        "\n"
        "    def ask(self, most):\n"
        f"        {body}\n"
    )
    arguments = ("--space", "space.yaml", "--searchers", "wrong.py:Wrong", "--out", "out")
    failure = document(capsys, "bench", "net.py:make", "--budget", "tpuv2", *arguments, code=2)
    assert message in failure["error"]["message"]
    assert "wrong.py:Wrong" in failure["error"]["message"]


def test_reproduce_puts_designs_beside_the_budget_and_goes_on(capsys: Captured) -> None:
    arguments = (
        *("reproduce", "net.py:make", "--searchers", "worklode,random,confuciux-like", "--evaluations", "5"),
        *("--rivals", "random,hill-climbing", "--rivals-time", "0.5x"),
    )
    found = document(capsys, *arguments, "--out", "out")
    designs = {row["design"]: row for row in found["designs"]}
    assert list(designs) == ["tpuv2", "nvdla-like", "individual", "common", "random", "confuciux-like"]
    assert designs["tpuv2"]["over_budget_throughput"] == 1.0
    reference = found["bench"]["references"][0]
    assert designs["individual"]["iteration_time_s"] == reference["figure"]
    # One model: one design for all is its own.
    assert designs["common"]["iteration_time_s"] == reference["figure"]
    # nv_large has 64 x 32 and 32 lanes; TPUv2 has 16 times its MACs.
    nvdla = designs["nvdla-like"]
    assert (nvdla["num_tensor_cores"], nvdla["tensor_core_rows"], nvdla["tensor_core_cols"]) == (1, 256, 128)
    assert (nvdla["num_vector_cores"], nvdla["vector_lanes"]) == (1, 512)
    for row in found["designs"]:
        assert row["gap_to_bound"] >= 0.0
        assert row["over_budget_throughput"] == pytest.approx(row["samples_per_s"] / designs["tpuv2"]["samples_per_s"])
    headlines = {row["name"]: row for row in found["headlines"]}
    assert headlines["throughput over the budget's own design"]["ours"] == pytest.approx(
        designs["individual"]["over_budget_throughput"]
    )
    assert headlines["search time of spotlight-like over ours, proof included"]["ours"] is None
    assert found["claims"]["speed"] == [] and found["claims"]["times_more"] == 0.5
    rivals = found["claims"]["rivals"]
    assert [row["rival"] for row in rivals] == ["random", "hill-climbing"]
    for row in rivals:
        assert row["ahead"] == pytest.approx(1.0 - row["figure"] / reference["figure"])
        assert row["evaluations"] > 16
    with Path("out/rivals.csv").open(newline="") as stream:
        assert [float(row["figure"]) for row in csv.DictReader(stream)] == [row["figure"] for row in rivals]
    (exact,) = found["exactness"]
    assert exact["coarse"]["pruned"]["figure"] == exact["coarse"]["exhaustive"]["figure"]
    assert exact["space"]["mined"]["figure"] == reference["figure"]
    page = Path("out/evaluation.md").read_bytes()
    assert b"## Heuristic against exact" in page
    with Path("out/exactness.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["coarse_exhaustive_figure"]) == exact["coarse"]["exhaustive"]["figure"]
    assert row["model"] == "net.py:make"
    assert "nvdla-like" in Path("out/evaluation.html").read_text().rpartition("</script>")[0][-20_000:]
    with Path("out/evaluation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["samples_per_s"]) for row in rows] == [row["samples_per_s"] for row in found["designs"]]
    assert document(capsys, *arguments, "--out", "out", "--write", "page.md") == found
    reported = document(capsys, "report", "out")
    assert reported == {name: value for name, value in found.items() if name != "run_directory"}
    assert cli.run(["report", "out"]) == 0
    assert "Rivals that are given more time" in capsys.readouterr().out
    assert Path("out/evaluation.md").read_bytes() == page
    assert "of the folder `page`" in Path("page.md").read_text()
    assert Path("page/evaluation.csv").read_bytes() == Path("out/evaluation.csv").read_bytes()


def test_its_reference_is_what_mine_finds(capsys: Captured) -> None:
    found = document(capsys, *BENCH)["references"][0]
    mined = document(capsys, "mine", "net.py:make", "--budget", "tpuv2", "--space", "space.yaml")
    assert found["figure"] == mined["best"]["objective_value"]
    assert found["bound"] == mined["bound"]


def test_without_the_extra_packages_there_is_a_table_and_a_word_of_what_is_missing(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ("plotly", "optuna", "sklearn")
    loaded = [name for name in sys.modules if name.partition(".")[0] in absent]
    for name in (*absent, "plotly.offline", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("optuna_searchers", "gaussian", "spotlight", "mapping_search"):
        monkeypatch.delitem(sys.modules, f"worklode.search.contest.{name}", raising=False)
    assert cli.run(BENCH) == 0
    out, err = capsys.readouterr()
    assert "worklode" in out
    assert "without bench.html: plotly" in err and "worklode[bench]" in err
    assert Path("out/result.json").exists() and not Path("out/bench.html").exists()
    for name, package in (("tpe", "optuna"), ("spotlight-like", "sklearn")):
        failure = document(capsys, "bench", "net.py:make", "--budget", "tpuv2", "--searchers", name, code=2)
        assert f"needs a package that is not installed ({package}" in failure["error"]["message"]


def test_more_searchers_and_seeds_go_on_with_what_is_there(capsys: Captured) -> None:
    arguments = [*BENCH]
    arguments[arguments.index("worklode,random,genetic")] = "worklode,random"
    arguments[arguments.index("3")] = "1"
    few = document(capsys, *arguments)
    before = kept("out")
    more = document(capsys, *BENCH)
    after = kept("out")
    assert len(few["rows"]) == 2 and len(more["rows"]) == 3 and len(after) == 7
    assert {path: after[path] for path in before} == before
    # And it is the larger one that is gone on with.
    assert document(capsys, "bench", "--resume", "out") == more
    again = document(capsys, *arguments)
    assert [row["final_figure"] for row in again["rows"]] == [row["final_figure"] for row in few["rows"]]
    assert kept("out") == after


def test_what_another_version_made_is_made_again(capsys: Captured) -> None:
    first = document(capsys, *BENCH)
    path = sorted(Path("out/cells").glob("*random*"))[0]
    before = kept("out")
    path.write_text(json.dumps({**json.loads(path.read_text()), "source_sha256": "of another version"}))
    assert unmeasured(document(capsys, "bench", "--resume", "out")) == unmeasured(first)
    after = kept("out")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {str(path)}
    assert json.loads(path.read_text())["source_sha256"] != "of another version"


BASE = """
class Base:
    def __init__(self, problem, seed):
        self.problem, self.asked = problem, 0

    def ask(self, most):
        self.asked += 1
        return [self.problem.start] if self.asked < 4 else []

    def tell(self, results):
        pass
"""


def test_a_searcher_of_a_file_may_be_added_and_runs_again_when_the_file_is_another(capsys: Captured) -> None:
    Path("mine.py").write_text(BASE)
    arguments = [*BENCH]
    document(capsys, *arguments)
    before = kept("out")
    arguments[arguments.index("worklode,random,genetic")] = "worklode,random,mine.py:Base"
    found = document(capsys, *arguments)["rows"]
    added = kept("out")
    assert found[-1]["evaluations"] == 3
    assert {path: added[path] for path in before} == before and len(added) == 10
    Path("mine.py").write_text(BASE.replace("< 4", "< 3"))
    assert document(capsys, *arguments)["rows"][-1]["evaluations"] == 2
    after = kept("out")
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("method", ["shortlist", "recommended"])
def test_a_searcher_may_count_in_integers_of_numpy(capsys: Captured, method: str) -> None:
    point = "tuple(np.int64(index) for index in self.problem.start)"
    said = f"[{point}]" if method == "shortlist" else point
    Path("counts.py").write_text(f"import numpy as np\n{BASE}\n    def {method}(self):\n        return {said}\n")
    arguments = ("--space", "space.yaml", "--searchers", "counts.py:Base", "--seeds", "1", "--out", "out")
    assert document(capsys, "bench", "net.py:make", "--budget", "tpuv2", *arguments)["rows"][0]["final_figure"] > 0.0


@pytest.mark.parametrize("text", ["def make(:", "raise RuntimeError('at once')", "import json\njson.loads('{')"])
def test_a_searcher_that_cannot_be_loaded_is_said(capsys: Captured, text: str) -> None:
    Path("wrong.py").write_text(text)
    arguments = ("--searchers", "wrong.py:make", "--out", "out")
    message = document(capsys, "bench", "net.py:make", "--budget", "tpuv2", *arguments, code=2)["error"]["message"]
    assert "'wrong.py:make'" in message and "cannot be loaded" in message


def test_a_budget_of_a_file_is_the_same_file(capsys: Captured) -> None:
    Path("own.yaml").write_text("base: tpuv2\n")
    arguments = [*BENCH]
    arguments[arguments.index("tpuv2")] = "own.yaml"
    document(capsys, *arguments)
    Path("own.yaml").write_text("base: tpuv2\n# another\n")
    failure = document(capsys, *arguments, code=2)
    assert {fault["path"] for fault in failure["error"]["faults"]} == {"file_sha256"}


WAITING = """
import os, time
from pathlib import Path

class Waiting:
    def __init__(self, problem, seed):
        pass

    def ask(self, most):
        Path(f"waits.{os.getpid()}").touch()
        time.sleep(600.0)
        return []

    def tell(self, results):
        pass
"""


def running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_killed_with_workers_none_of_them_is_left(victim: str) -> None:
    Path("waiting.py").write_text(WAITING)
    Path("wide.py").write_text(NET.replace("64, 128", "64, 256").replace("128, 64", "256, 64"))
    arguments = [*BENCH[:2], "wide.py:make", *BENCH[2:], "--workers", "2"]
    arguments[arguments.index("worklode,random,genetic")] = "waiting.py:Waiting"
    environment = {**os.environ, "PYTHONPATH": str(Path(worklode.__file__).parents[1])}
    command = [sys.executable, "-m", "worklode", *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        limit_s = time.monotonic() + 120.0
        while len(list(Path().glob("waits.*"))) < 2 and time.monotonic() < limit_s:
            time.sleep(0.02)
        workers = [int(path.suffix[1:]) for path in Path().glob("waits.*")]
        assert len(workers) == 2
        os.kill(process.pid if victim == "parent" else workers[0], signal.SIGKILL)
        try:
            while any(map(running, workers)) and time.monotonic() < limit_s:
                time.sleep(0.02)
            assert not any(map(running, workers))
        finally:
            for worker in filter(running, workers):
                os.kill(worker, signal.SIGKILL)
        _, err = process.communicate(timeout=60.0)
    if victim == "worker":
        assert b"the same command goes on" in err and b"defect" not in err
