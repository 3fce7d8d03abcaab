"""`mine` for many devices on the command line: tables, run directories, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import cli

Captured = pytest.CaptureFixture[str]

GPT = "gpt:layers=4,hidden=128,heads=4,vocab=512,context=64"
SPACE = """
tensor_core_rows: [64, 128]
tensor_core_cols: [128]
vector_lanes: [512, 1024]
num_tensor_cores: [2, 4, 8]
num_vector_cores: [1, 2]
sram: [4MiB, 16MiB]
hbm_stacks: [1, 2]
"""
BASE = ("--seq-len", "64", "--budget", "tpuv3", "--space", "space.yaml", "--top-k", "3")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")  # words of a cell stay together
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)


def run(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def document(capsys: Captured, *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return dict(json.loads(out))


def test_a_setting_is_mined_reported_again_and_compared(capsys: Captured) -> None:
    setting = ("--pipeline", "2", "--tensor", "2", "--global-batch", "8", "--sequence-parallel")
    code, table, _ = run(capsys, "mine", GPT, *BASE, *setting, "--out", "run")
    assert code == 0
    words = " ".join(table.split())
    assert "4 devices = pipeline 2 x tensor 2 x data 1" in words
    for part in ("one design a stage", "least TDP", "local search", "Proven: no single design"):
        assert part in words
    assert run(capsys, "report", "run")[1] == table
    found = json.loads(Path("run/result.json").read_text())
    assert [each["stages"] for each in found["stages"]] == [[0], [1]]
    assert sum(chunk["stop"] - chunk["first"] for chunk in found["pipeline"][0]["chunks"]) == 6
    trace = json.loads(Path("run/trace.json").read_text())
    assert trace["otherData"]["stages"] == 2
    assert Path("run/designs.csv").read_text().count("\n") > 3
    run(capsys, "mine", GPT, *BASE, "--pipeline", "4", "--global-batch", "8", "--out", "other")
    code, table, _ = run(capsys, "compare", "run", "other")
    assert code == 0
    assert "iteration time" in table


def test_devices_choose_the_setting_too(capsys: Captured) -> None:
    found = document(capsys, "mine", GPT, *BASE, "--devices", "4", "--global-batch", "8", "--microbatch", "1")
    chosen = found["pipeline"][0]
    assert chosen["devices"] == 4
    assert found["settings"]["best"][0]["pipeline"] == chosen["pipeline"]
    assert found["settings"]["simulated"] >= found["settings"]["compared"] >= found["settings"]["mined"] >= 1
    table = run(capsys, "mine", GPT, *BASE, "--devices", "4", "--global-batch", "8", "--microbatch", "1")[1]
    assert "settings simulated" in table


def test_a_set_of_workloads_is_weighed(capsys: Captured) -> None:
    """All the weight on one of two workloads is mining that one, on one device and on several."""
    other = "gpt:layers=2,hidden=512,heads=4,vocab=512,context=64"
    for setting in ((), ("--pipeline", "2", "--global-batch", "4")):
        alone = document(capsys, "mine", other, *BASE, *setting)
        both = document(capsys, "mine", GPT, other, *BASE, *setting, "--weights", "1e-9,1")
        found = both["best"]["evaluations"][1]["iteration_time_s"]
        assert found == pytest.approx(alone["best"]["iteration_time_s"], rel=1e-6)
    for wrong, message in (("1", "one for each workload"), ("1,x", "is no list"), ("1,0", "positive")):
        code, _, err = run(capsys, "mine", GPT, other, *BASE, "--weights", wrong)
        assert code == 2
        assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tensor", "3", "--global-batch", "3"), "3 devices do not divide"),
        (("--pipeline", "9", "--global-batch", "9"), "at most 6"),
        (("--data", "2", "--global-batch", "3"), "2 or 4"),
        (("--pipeline", "2", "--global-batch", "4", "--objective", "energy"), "not minimised over many devices"),
        (("--pipeline", "2", "--global-batch", "4", "--uncertainty"), "--uncertainty"),
        (("--pipeline", "2", "--global-batch", "4", "--evaluations", "3"), "--evaluations"),
        (("--pipeline", "2", "--global-batch", "3", "--schedule", "interleaved:2"), "multiple of its 2 stages"),
        (("--pipeline", "2", "--global-batch", "2", "--recompute", "some"), "none, selective, full"),
        (("--devices", "4"), "--global-batch"),
        (("--pipeline", "2", "--microbatch", "0"), "--microbatch"),
        (("--devices", "4", "--global-batch", "4", "--batch", "4", "--microbatch", "2"), "--batch"),
        (("--devices", "4", "--global-batch", "4", "--objective", "energy"), "--objective"),
        (("--pipeline", "2", "--global-batch", "2", "--network", "none"), "--network"),
        (("--devices", "6", "--tensor", "4", "--global-batch", "6"), "a multiple of 4"),
        (("--devices", "4", "--global-batch", "4", "--max-time", "1s"), "--max-time"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(
    capsys: Captured, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, "mine", GPT, *BASE, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert not Path("runs").exists()


def test_too_little_memory_is_a_result_that_says_what_is_needed(capsys: Captured) -> None:
    """6.4 billion parameters with their state in bf16 are 48 GiB; the space has 32 GiB at most."""
    large = (
        "mine",
        "gpt:layers=8,hidden=8192,heads=4,vocab=512,context=64",
        *BASE,
        "--data",
        "2",
        "--global-batch",
        "2",
    )
    code, table, _ = run(capsys, *large, "--memory", "fit")
    assert code == 3
    assert "HBM: at least" in table
    code, table, _ = run(capsys, *large)
    assert code == 0
    assert "warning: memory was no limit" in table
