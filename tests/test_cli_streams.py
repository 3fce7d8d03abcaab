"""What the surroundings refuse: closed streams, a reader that went away, full disks, places without permission."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worklode import cli
from worklode.errors import SpecError
from worklode.study.cache import cached_graph
from worklode.study.run_directory import check_destination

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[1]

NET = """
import torch

def make(batch=4):
    return torch.nn.Linear(8, 8), torch.randn(batch, 8)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKLODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WORKLODE_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which $worklode is the program."""
    environment = {**os.environ, "worklode": f"{sys.executable} -m worklode", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False, env=environment
    )


def test_a_reader_that_goes_away_is_sigpipe_and_silent() -> None:
    done = shell("set -o pipefail; $worklode models --json | head -c 0")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", ["models", "models --json", "mine net.py:make"])
def test_closed_streams_are_not_a_defect(arguments: str) -> None:
    expected = 2 if arguments.startswith("mine") else 0
    assert shell(f"$worklode {arguments} >&-").returncode == expected
    assert shell(f"$worklode {arguments} 2>&-").returncode == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_said_in_one_line() -> None:
    for arguments in ("models", "models --json"):
        done = shell(f"$worklode {arguments} > /dev/full")
        assert (done.returncode, done.stderr) == (2, "error: standard output: no space left on device\n")


def test_a_default_folder_that_cannot_be_made_is_said_before_the_search(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("captured before the destination was checked")

    monkeypatch.setattr("worklode.api.capture", fail)
    Path("runs").write_text("a file")
    assert cli.run(["mine", "net.py:make", "--budget", "tpuv2"]) == 2
    assert "--out DIR elsewhere" in capsys.readouterr().err
    Path("runs").unlink()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SpecError, match="is no folder that can be written"):
        check_destination(None)


@pytest.mark.parametrize("arguments", [("mine", "--budget"), ("evaluate", "--out", "here", "--on")])
def test_a_result_is_printed_where_its_folder_cannot_be_written(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    pytest.importorskip("torch", reason="workloads are captured with torch")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs")

    monkeypatch.setattr("worklode.study.run_directory._write_files", full)
    command, *rest = arguments
    assert cli.run([command, "net.py:make", *rest, "tpuv2", "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["run_directory"] is None
    assert (document.get("best") or document)["iteration_time_s"] > 0
    assert "could not be written" in err and "No space left" in err
    assert not Path("here").exists()
    assert not list(Path().glob("runs/*"))


def test_a_workload_file_that_cannot_be_read_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("worklode.study.cache.file_digest", refuse)
    with pytest.raises(SpecError, match=r"net\.py: cannot be read: Permission denied"):
        cached_graph("net.py:make", {}, lambda: pytest.fail("captured"))


def test_what_the_system_refuses_is_no_defect(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    monkeypatch.setattr("worklode.cli.listings.list_models", refuse)
    assert cli.run(["models", "--json"]) == 2
    out, err = capsys.readouterr()
    assert err == "error: /somewhere: permission denied\n"
    assert json.loads(out)["error"]["kind"] == "bad_input"


def test_a_file_of_our_own_that_is_missing_is_a_defect(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(ROOT / "src/worklode/hardware/x.yaml"))

    monkeypatch.setattr("worklode.cli.listings.list_models", refuse)
    assert cli.run(["models"]) == 1
    assert "Please file it" in capsys.readouterr().err
