"""The page of the operator table says what the table says."""

from __future__ import annotations

import re
from pathlib import Path

from worklode.frontend.operators import FAMILIES
from worklode.frontend.operators.elementwise import COUNTS

PAGE = Path(__file__).parents[3] / "docs" / "models" / "operators.md"


def test_counts_per_element_are_those_of_the_table() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Operations per result element")[1]
    found = {}
    for names, simple, special in re.findall(r"^\| (`.*`) \| (\d+) \| (\d+) \|$", section, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = (int(simple), int(special))
    assert found == COUNTS


def test_every_family_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for family in FAMILIES:
        assert f"`{family.__name__.rsplit('.', 1)[1]}.py`" in text
