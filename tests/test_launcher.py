"""The launcher's bookkeeping, with a stand-in for Python: what it makes, remakes and leaves alone.

The real first run (downloads, minutes) is what .ci/run does; here `python3.11` and pip are a script that counts its
calls, so that interruption, change and concurrency can be tried in seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAKE_PYTHON = """#!/usr/bin/env bash
# Stands for Python: answers the launcher's questions, makes "environments", logs every call.
echo "$*" >>"$CALLS"
case "$*" in
    "-c import sys"*) exit 0 ;;
    -V) echo "Python 3.11.0" ;;
    "-m venv"*)
        mkdir -p "${@: -1}/bin" && touch "${@: -1}/pyvenv.cfg" && cp "$0" "${@: -1}/bin/python" ;;
    *install*)
        sleep "${INSTALL_S:-0}"
        if [[ ${INSTALL_FAILS:-} && $* == *editable* ]]; then exit 1; fi
        printf '#!/usr/bin/env bash\\necho "ran $*"\\n' >"$(dirname "$0")/worklode"
        chmod +x "$(dirname "$0")/worklode" ;;
esac
"""


class Checkout:
    """A copy of the launcher's files, on a path where only the stand-in and the system's tools are found."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"  # a space, because people have them
        self.root.mkdir()
        for name in ("worklode", "pyproject.toml", "constraints.txt", "scripts"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, self.root / name)
        tools = folder / "bin"
        tools.mkdir()
        (tools / "python3.11").write_text(FAKE_PYTHON)
        (tools / "python3.11").chmod(0o755)
        self.calls_file = folder / "calls"
        self.environment = {
            "PATH": f"{tools}:/usr/bin:/bin",
            "HOME": str(folder),
            "CALLS": str(self.calls_file),
            "WORKLODE_PYTHON": str(tools / "python3.11"),
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "worklode"), *arguments],
            env=self.environment | environment,
            cwd=self.root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, word: str) -> int:
        text = self.calls_file.read_text() if self.calls_file.exists() else ""
        return sum(word in line for line in text.splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_first_run_installs_and_passes_arguments_on(checkout: Checkout) -> None:
    code, out, err = checkout.run("mine", "bert large", "--json")
    assert code == 0
    assert out == "ran mine bert large --json\n", "standard output belongs to the command"
    assert "first run" in err
    assert (checkout.calls("-m venv"), checkout.calls("--editable")) == (1, 1)
    assert checkout.calls("--constraint") == 2


def test_second_run_is_silent_and_starts_nothing(checkout: Checkout) -> None:
    checkout.run("a")
    before = checkout.calls_file.read_text()
    assert checkout.run("b") == (0, "ran b\n", "")
    assert checkout.calls_file.read_text() == before


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_in_place(checkout: Checkout, name: str) -> None:
    checkout.run("a")
    with (checkout.root / name).open("a") as stream:
        stream.write("# changed\n")
    code, out, err = checkout.run("b")
    assert (code, out) == (0, "ran b\n")
    assert "refreshing" in err
    assert (checkout.calls("-m venv"), checkout.calls("--editable")) == (1, 2)
    assert checkout.run("c")[2] == ""


def test_a_moved_checkout_is_noticed(checkout: Checkout) -> None:
    checkout.run("a")
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.run("b")[1] == "ran b\n"
    assert checkout.calls("--editable") == 2


def test_a_failed_install_is_said_and_remade(checkout: Checkout) -> None:
    code, out, err = checkout.run("a", INSTALL_FAILS="1")
    assert (code, out) == (1, "")
    assert "error: installing failed" in err
    assert checkout.run("b")[:2] == (0, "ran b\n")
    assert checkout.calls("-m venv") == 2, "a half-made environment must not be built upon"


def test_an_interrupted_first_run_is_remade(checkout: Checkout) -> None:
    process = checkout.start("a", INSTALL_S="30")
    wait_until(lambda: checkout.calls("install") > 0)
    os.killpg(process.pid, 9)
    process.communicate(timeout=10)
    assert (checkout.root / ".venv").exists()
    assert checkout.run("b")[:2] == (0, "ran b\n")
    assert checkout.calls("-m venv") == 2


def test_two_first_runs_do_not_clash(checkout: Checkout) -> None:
    first = checkout.start("a", INSTALL_S="0.5")
    wait_until(lambda: checkout.calls("-m venv") > 0)
    second = checkout.start("b", INSTALL_S="0.5")
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [out for out, _ in outputs] == ["ran a\n", "ran b\n"]
    assert "waiting" in outputs[1][1]
    assert (checkout.calls("-m venv"), checkout.calls("--editable")) == (1, 1)


def test_works_through_a_link_and_elsewhere(checkout: Checkout, tmp_path: Path) -> None:
    link = tmp_path / "bin" / "worklode"
    link.symlink_to(checkout.root / "worklode")
    environment = checkout.environment | {"WORKLODE_VENV": str(tmp_path / "elsewhere" / "venv")}
    done = subprocess.run([str(link), "x"], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "ran x\n"
    assert not (checkout.root / ".venv").exists()
    assert (tmp_path / "elsewhere" / "venv" / "worklode.stamp").exists()


def test_no_suitable_python_is_explained(checkout: Checkout) -> None:
    code, out, err = checkout.run("a", WORKLODE_PYTHON="/bin/false")
    assert (code, out) == (1, "")
    assert "error: WORKLODE_PYTHON=/bin/false is no Python >= 3.11" in err
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "pyvenv.cfg"])
def test_a_folder_that_others_made_is_left_alone(checkout: Checkout, name: str) -> None:
    (checkout.root / ".venv").mkdir()
    (checkout.root / ".venv" / name).write_text("years of work")
    code, _, err = checkout.run("a")
    assert code == 1
    assert "was not made by worklode" in err
    assert (checkout.root / ".venv" / name).exists()


def test_a_vanished_python_is_replaced(checkout: Checkout) -> None:
    checkout.run("a")
    (checkout.root / ".venv" / "bin" / "python").unlink()
    assert checkout.run("b")[:2] == (0, "ran b\n")
    assert checkout.calls("-m venv") == 2


def test_every_requirement_is_pinned() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pins = {
        Requirement(line).name.lower(): line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    for line in wanted:
        requirement = Requirement(line)
        name = requirement.name.lower().replace(".", "-")
        assert name in pins, f"{name} is not in constraints.txt"
        (pin,) = Requirement(pins[name]).specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version)


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen within 10 s"
        time.sleep(0.01)
