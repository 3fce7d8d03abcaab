"""Run directories: complete or absent, never overwritten, readable again."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from worklode.errors import SpecError
from worklode.study import run_directory
from worklode.study.run_directory import RunContent, check_destination, read_run, slug, write_run

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTENT = RunContent(
    command="mine",
    arguments=("mine", "bert-large", "--budget", "tpuv2"),
    inputs=("bert-large",),
    started=START,
    finished=START + timedelta(seconds=1.5),
    config={"workloads": ("bert-large",), "space": Path("space.yaml"), "top_k": 10, "area_mm2": None},
    result={"objective": "throughput", "best": {"iteration_time_s": 0.5}},
    designs=({"num_tensor_cores": 2, "iteration_time_s": 0.5}, {"num_tensor_cores": 1, "iteration_time_s": 0.9}),
    trace='{"traceEvents":[]}',
)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob(".partial-*")), "an unfinished directory was left behind"


def test_holds_what_was_given() -> None:
    path = write_run(CONTENT, out=Path("out"), name="bert-large")
    assert sorted(p.name for p in path.iterdir()) == [
        "config.yaml",
        "designs.csv",
        "manifest.json",
        "result.json",
        "trace.json",
    ]
    run = read_run(path)
    assert run.result == CONTENT.result
    assert run.manifest["arguments"] == ["mine", "bert-large", "--budget", "tpuv2"]
    assert run.manifest["wall_time_s"] == 1.5
    assert YAML(typ="safe").load(path / "config.yaml") == {
        "workloads": ["bert-large"],
        "space": "space.yaml",
        "top_k": 10,
        "area_mm2": None,
    }
    with (path / "designs.csv").open() as stream:
        assert [row["iteration_time_s"] for row in csv.DictReader(stream)] == ["0.5", "0.9"]


def test_default_names_count_up() -> None:
    paths = [write_run(CONTENT, out=None, name="models/net.py:make") for _ in range(3)]
    assert [path.as_posix() for path in paths] == ["runs/net-make-1", "runs/net-make-2", "runs/net-make-3"]


def test_existing_content_is_never_overwritten() -> None:
    out = Path("out")
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match="exists already"):
        write_run(CONTENT, out=out, name="x")
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    Path("file").write_text("")
    for place in (Path("file"), Path("file/below")):
        with pytest.raises(SpecError):
            check_destination(place)


def test_an_empty_folder_may_be_used() -> None:
    Path("out").mkdir()
    assert read_run(write_run(CONTENT, out=Path("out"), name="x")).result == CONTENT.result


def test_nothing_appears_when_writing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(run_directory, "_write_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        write_run(CONTENT, out=Path("out"), name="x")
    assert not Path("out").exists()


def test_a_folder_filled_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    original = run_directory._write_files

    def slow(content: RunContent, folder: Path) -> None:
        original(content, folder)
        Path("out").mkdir()
        (Path("out") / "other.txt").write_text("another run")

    monkeypatch.setattr(run_directory, "_write_files", slow)
    with pytest.raises(OSError):
        write_run(CONTENT, out=Path("out"), name="x")
    assert [p.name for p in Path("out").iterdir()] == ["other.txt"]


def test_inputs_that_are_files_have_their_digest() -> None:
    Path("net.py").write_text("x = 1\n")
    path = write_run(replace(CONTENT, inputs=("net.py:make", "bert-large")), out=None, name="net")
    inputs = json.loads((path / "manifest.json").read_text())["inputs"]
    # printf 'x = 1\n' | sha256sum
    assert inputs[0]["sha256"] == "9e26bf369911c45c243c684147b23fc9e1dcfcf257d299a1c632016a6fcd33f4"
    assert inputs[1] == {"name": "bert-large", "sha256": None}


def test_no_run_directory_is_said() -> None:
    Path("empty").mkdir()
    with pytest.raises(SpecError, match=r"manifest\.json is missing"):
        read_run(Path("empty"))
    path = write_run(CONTENT, out=Path("out"), name="x")
    (path / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(SpecError, match="99"):
        read_run(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(SpecError, match="cannot be read"):
        read_run(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bert-large", "bert-large"), ("a/b/net.py:f", "net-f"), ("../..", "run"), ("x y:z", "x-y-z"), ("", "run")],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected
