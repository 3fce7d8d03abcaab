"""Figures as text: prefixes, missing ones, and no rounding to what is not true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklode.report.quantity import count, parameters, percent, plain, ratio, seconds, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0 %"), (1.0, "100 %"), (0.0003, "< 0.1 %"), (0.9999, "> 99.9 %"), (0.123, "12.3 %")],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@given(st.floats(min_value=1e-6, max_value=1 - 1e-6))
def test_percent_says_nothing_and_all_only_when_true(share: float) -> None:
    assert percent(share) not in ("0 %", "0.0 %", "100 %", "100.0 %")


@pytest.mark.parametrize(
    ("value", "text"), [(0.3553, "0.355 u"), (12345.0, "12 345 u"), (1.0, "1.00 u"), (0.0, "0 u"), (None, "-")]
)
def test_plain(value: float | None, text: str) -> None:
    assert plain("u")(value) == text


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_plain_keeps_three_digits(value: float) -> None:
    shown = float(plain("")(value).replace(" ", ""))
    assert shown == pytest.approx(value, rel=5.1e-3)


def test_units() -> None:
    assert seconds(0.0831) == "83.1 ms"
    assert size(48 * 2**20) == "48 MiB"
    assert ratio(1.623) == "1.62x"
    assert count(1_204_224) == "1 204 224"
    assert [parameters(n) for n in (175_000_000_000, 336_226_108, 12)] == ["175 B", "336 M", "12"]
    assert [write(None) for write in (seconds, size, ratio, count)] == ["-"] * 4
