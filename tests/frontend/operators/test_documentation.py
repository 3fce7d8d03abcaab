"""The page of the operator table says what the table says."""

from __future__ import annotations

import re
from pathlib import Path

from worklode.frontend.operators import FAMILIES, attention
from worklode.frontend.operators.elementwise import COUNTS
from worklode.frontend.operators.random_numbers import PHILOX_OPS, PHILOX_WORDS, random_bits

PAGE = Path(__file__).parents[3] / "docs" / "models" / "operators.md"


def test_counts_per_element_are_those_of_the_table() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Operations per result element")[1]
    found = {}
    for names, simple, special in re.findall(r"^\| (`.*`) \| (\d+) \| (\d+) \|$", section, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = (int(simple), int(special))
    assert found == COUNTS


def row(name: str) -> str:
    """The operations that the page gives for `name`."""
    found = re.search(rf"^\| {re.escape(name)} \| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, name
    return found[1]


def test_random_numbers_of_dropout_are_those_of_the_table() -> None:
    decisions = PHILOX_WORDS * 32 // attention.DROPOUT_BITS
    assert row("random word; byte") == f"{PHILOX_OPS}/{PHILOX_WORDS}; {PHILOX_OPS}/{decisions}"
    assert random_bits(decisions, attention.DROPOUT_BITS) == PHILOX_OPS
    for phase, lanes in (("forward", attention.DROPOUT_FORWARD), ("backward", attention.DROPOUT_BACKWARD)):
        assert f"dropout +{lanes.simple} and a random byte" in row(f"attention {phase}, per visible score")
        assert lanes.special == 0


def test_every_family_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for family in FAMILIES:
        assert f"`{family.__name__.rsplit('.', 1)[1]}.py`" in text
