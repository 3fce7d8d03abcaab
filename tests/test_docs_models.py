"""docs/models has a page for every file with formulas, and the pages name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "models").glob("*.md"))
# Files of the two packages of formulas that have none, and why.
WITHOUT_FORMULAS = {
    "cost/__init__.py": "exports",
    "cost/compiled.py": "how kernels are compiled",
    "cost/operator_costs.py": "a record",
    "hardware/__init__.py": "exports",
    "hardware/presets.py": "reads files",
    "hardware/spec_file.py": "reads files",
}


def described() -> dict[str, list[str]]:
    """Page -> the source files its first paragraph says it describes."""
    found = {}
    for page in PAGES:
        opening = page.read_text(encoding="utf-8").split("\n\n")[1]
        found[page.name] = re.findall(r"`(?:src/worklode/)?(?:[\w/]+/)?(\w+\.py)`", opening)
    return found


def formula_files() -> list[str]:
    source = ROOT / "src" / "worklode"
    files = [f"{package}/{path.name}" for package in ("cost", "hardware") for path in (source / package).glob("*.py")]
    assert len(files) > 15
    return sorted(file for file in files if file not in WITHOUT_FORMULAS)


@pytest.mark.parametrize("file", formula_files())
def test_every_file_with_formulas_has_a_page(file: str) -> None:
    pages = [page for page, files in described().items() if Path(file).name in files]
    assert pages, f"{file} has no page in docs/models"


def test_the_list_of_files_without_formulas_is_current() -> None:
    assert [file for file in WITHOUT_FORMULAS if not (ROOT / "src" / "worklode" / file).exists()] == []


def test_pages_name_files_that_exist_and_files_name_pages_that_exist() -> None:
    names = {path.name for path in (ROOT / "src").rglob("*.py")} | {p.name for p in (ROOT / "benchmarks").rglob("*.py")}
    assert [(page, file) for page, files in described().items() for file in files if file not in names] == []
    missing = []
    for path in (ROOT / "src").rglob("*.py"):
        for page in re.findall(r"docs/models/\w+\.md", path.read_text(encoding="utf-8")):
            if not (ROOT / page).exists():
                missing.append((path.name, page))
    assert missing == []
