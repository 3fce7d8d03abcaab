"""Searchers by name: worklode's own, those of installed packages, those of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.search.contest.problems import EXAMPLE, small_contest

from worklode.errors import SpecError
from worklode.search.contest.cell import Budget, run_cell
from worklode.search.contest.registry import SEEDLESS, searcher_maker, searcher_names

PACKAGE = """
class Center:
    def __init__(self, problem, seed):
        self.points = [tuple(length // 2 for length in problem.lengths)]

    def ask(self, most):
        found, self.points = self.points, []
        return found

    def tell(self, results):
        assert len(results) == 1
"""


def install(folder: Path) -> None:
    """A package with an entry point, as pip leaves it."""
    (folder / "their_package.py").write_text(PACKAGE)
    facts = folder / "their_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[worklode.searchers]\ncenter = their_package:Center\n")


def test_an_installed_package_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    assert "center" not in searcher_names()
    monkeypatch.syspath_prepend(tmp_path)
    assert searcher_names()[-1] == "center"
    found = run_cell(small_contest(), "center", searcher_maker("center"), 0, Budget())
    assert found.finished
    assert [step.point for step in found.steps] == [(1, 1, 1, 1, 1, 1, 1)]


def test_every_name_makes_a_searcher_that_asks() -> None:
    names = searcher_names()
    assert len(set(names)) == len(names) >= 11
    assert set(names) > SEEDLESS
    for name in (*names, EXAMPLE):
        problem = small_contest().problem()
        searcher = searcher_maker(name)(problem, 0)
        assert problem.grid.inside(np.array(searcher.ask(1), np.int64)).all()
        close = getattr(searcher, "close", None)
        if close is not None:
            close()


@pytest.mark.parametrize("name", ["magic", "no.such.module:Class", "math:NoClass", "nowhere.py:Class"])
def test_what_cannot_be_loaded_is_refused(name: str) -> None:
    with pytest.raises(SpecError) as refused:
        searcher_maker(name)
    assert repr(name) in str(refused.value)
