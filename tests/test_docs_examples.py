"""What the pages tell the reader to type is run: commands with `python -m worklode`, Python in one process a page.

Commands are blocks of ```sh, and indented blocks that begin with `./worklode`; Python is blocks of ```python, and
indented ones that begin with an import. A command that ends otherwise than with 0 says so: `# exit status 3`. Lines
with PLACEHOLDERS are no commands.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

ROOT = Path(__file__).parents[1]

# page -> how many commands and blocks of Python it has at least: no page may drop out because a pattern changed.
PAGES = {"README.md": (3, 1), "docs/tutorial.md": (12, 3), "docs/command-line.md": (0, 0), "docs/bench.md": (2, 0)}

# Longest a command may take, many times what it does (2 s): a hanging test says nothing.
TIMEOUT_S = 120

PLACEHOLDER = re.compile(r"<\w|\b[A-Z]{3,}\b")


@dataclass(frozen=True)
class Command:
    """A command line of a page, and how it must end."""

    text: str
    status: int

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.text, comments=True)[1:]


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of fenced blocks, and of indented ones with language ""."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield language, body
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for body in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, flags=re.MULTILINE):
        yield "", textwrap.dedent(body).strip("\n")


def commands(page: str) -> list[Command]:
    found = []
    for language, body in blocks(page):
        for line in body.splitlines():
            if (language == "sh" or not language) and line.startswith("./worklode ") and not PLACEHOLDER.search(line):
                status = re.search(r"# exit status (\d+)", line)
                found.append(Command(line, int(status[1]) if status else 0))
    return found


def python(page: str) -> list[str]:
    return [
        body
        for language, body in blocks(page)
        if language == "python" or (not language and body.startswith(("import ", "from ")))
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of graphs for all pages, as a reader has one."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the pages name."""
    for folder in ("examples", "specs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(arguments: list[str], folder: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WORKLODE_CACHE": str(cache), "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_what_is_run(page: str) -> None:
    least_commands, least_python = PAGES[page]
    assert len(commands(page)) >= least_commands
    assert len(python(page)) >= least_python


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_do_what_the_page_says(page: str, checkout: Path, cache: Path) -> None:
    for command in commands(page):
        done = run(["-m", "worklode", *command.arguments], checkout, cache)
        assert done.returncode == command.status, f"{command.text}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), command.text
        # Nothing a page shows may end in a warning of Python or of a library.
        assert "Warning" not in done.stderr, f"{command.text}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if python(page)])
def test_python_of_a_page_runs_from_top_to_bottom(page: str, checkout: Path, cache: Path) -> None:
    done = run(["-c", "\n".join(python(page))], checkout, cache)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_example_notebook_runs(checkout: Path, cache: Path) -> None:
    done = run(["examples/notebook.py"], checkout, cache)
    assert done.returncode == 0, done.stderr
    assert "times the throughput of a TPUv2" in done.stdout
    # Less bandwidth is never faster: the last four rows are the sweep.
    times = [float(line.split()[2]) for line in done.stdout.splitlines()[-4:]]
    assert times == sorted(times)


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "models").glob("*.md")]
    names = [str(page.relative_to(ROOT / "docs")) for page in pages]
    assert [name for name in names if name != "README.md" and f"]({name})" not in index] == []


def test_commands_and_options_that_pages_name_exist() -> None:
    """Every `worklode COMMAND --option` of every page, run or not, against the command line's own help."""
    from typer.main import get_command

    from worklode.cli.app import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    options = {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in known.items()
    }
    unknown = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "specs").glob("*.yaml")]:
        for line in page.read_text(encoding="utf-8").splitlines():
            for name, rest in re.findall(r"worklode (capture|evaluate|mine|\w+(?= [A-Z-]))([^`|]*)", line):
                if name not in options:
                    continue
                said = set(re.findall(r"(?<!\w)--[a-z][a-z-]*", rest.split("#")[0]))
                unknown += [f"{page.relative_to(ROOT)}: worklode {name} {o}" for o in said - options[name]]
    assert unknown == []
