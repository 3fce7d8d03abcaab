"""`worklode reproduce` on many devices from the command line: tables, page, document, and where it says nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import cli
from worklode.cli.reproducing_distributed import DISTRIBUTED_TABLES
from worklode.report.distributed_evaluation import design_row, headline_row, search_row, stage_row
from worklode.search.parallel import ParallelSetting
from worklode.study.distributed_evaluation import SETTINGS

Captured = pytest.CaptureFixture[str]
GPT = "gpt:layers=4,hidden=128,heads=2,vocab=4096,context=64"
NET = """
import torch
from torch import nn

def make(batch=4):
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
    return net, torch.randn(batch, 64), lambda out: out.square().mean(), "adamw"
"""
SEARCH = ("--searchers", "worklode,random", "--evaluations", "3", "--rivals", "")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    # The models of the paper take long; a small one in their place.
    monkeypatch.setitem(SETTINGS, GPT, ParallelSetting(pipeline=2, global_batch=8))
    Path("net.py").write_text(NET)


def document(capsys: Captured, *arguments: str) -> dict[str, Any]:
    assert cli.run((*arguments, "--json")) == 0
    return dict(json.loads(capsys.readouterr().out))


def rows(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def line(row: dict[str, str]) -> str:
    return "| " + " | ".join(row.values()) + " |"


@pytest.mark.slow
def test_every_row_is_in_the_tables_and_on_the_page_and_again_the_same(capsys: Captured) -> None:
    arguments = ("reproduce", GPT, "net.py:make", *SEARCH, "--out", "out")
    found = document(capsys, *arguments)["distributed"]
    assert {row["model"] for row in found["designs"]} == {GPT}
    names = {row["design"] for row in found["designs"]}
    assert {"tpuv2", "nvdla-like", "individual", "heterogeneous", "random of one device"} <= names
    page = Path("out/evaluation.md").read_text()
    assert page.startswith("# The paper's evaluation\n")
    assert page.index("## Throughput per TDP") < page.index("## Many devices") < page.index("\n## Designs")
    tables = {"distributed.csv": "designs", "distributed_stages.csv": "stages"}
    for file, key in tables.items():
        written = rows(f"out/{file}")
        assert len(written) == len(found[key]) > 5
        for ours, theirs in zip(written, found[key], strict=True):
            assert {name: "" if value is None else str(value) for name, value in theirs.items()} == ours
    for key, write in (
        ("designs", design_row),
        ("stages", stage_row),
        ("headlines", headline_row),
        ("searches", search_row),
    ):
        for row in found[key]:
            assert line(write(row)) in page
    assert "spotlight-like-inference" in page and "Left out" in page
    charts = Path("out/evaluation.html").read_text()
    assert "where an iteration goes" in charts and "random of one device" in charts
    kept = {name: Path("out", name).read_bytes() for name in (*DISTRIBUTED_TABLES, "evaluation.md", "evaluation.html")}
    again = document(capsys, *arguments, "--write", "page.md")
    assert again["distributed"] == found
    assert {name: Path("out", name).read_bytes() for name in kept} == kept
    assert all(Path("page", name).read_bytes() == kept[name] for name in DISTRIBUTED_TABLES)
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert "Many devices" in out
    assert max(map(len, out.splitlines())) <= 120


def test_without_such_a_model_it_says_nothing(capsys: Captured) -> None:
    found = document(capsys, "reproduce", "net.py:make", *SEARCH, "--out", "out")
    assert found["distributed"] is None
    assert "Many devices" not in Path("out/evaluation.md").read_text()
    assert not any(Path("out", name).exists() for name in DISTRIBUTED_TABLES)


def test_a_budget_without_a_network_is_said(capsys: Captured) -> None:
    arguments = ("reproduce", GPT, "--budget", "nvdla-large", *SEARCH, "--out", "out")
    assert cli.run((*arguments, "--json")) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["distributed"] is None
    assert "many devices left out" in err and "no network is known for nvdla-large" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rivals", "magic"), "--rivals: no such searcher"),
        (("--rivals-time", "5"), "--rivals-time: is no multiple"),
        (("--write", "page"), "--write: page would be file and folder"),
        (("--write", "folder.md"), "is in the way"),
        (("--write", "net.md"), "is in the way"),
    ],
)
def test_what_is_asked_in_vain_is_refused_before_anything_is_measured(
    capsys: Captured, arguments: tuple[str, ...], message: str
) -> None:
    Path("folder.md").mkdir()
    Path("net").touch()
    assert cli.run(("reproduce", "net.py:make", *SEARCH[:4], *arguments, "--out", "out", "--json")) == 2
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not Path("out").exists()
