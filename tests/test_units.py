"""Quantities with units."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.units import (
    AREA,
    BYTES,
    BYTES_PER_S,
    HERTZ,
    POWER,
    TIME,
    Dimension,
    format_area_mm2,
    format_bytes,
    format_bytes_per_s,
    format_hertz,
    format_power_w,
    format_si,
    format_time_s,
    parse_area_mm2,
    parse_bytes,
    parse_bytes_per_s,
    parse_hertz,
    parse_power_w,
    parse_quantity,
    parse_time_s,
)


def test_parses_what_people_write() -> None:
    assert parse_area_mm2("600mm2") == 600.0
    assert parse_area_mm2(" 6 cm² ") == 600.0
    assert parse_area_mm2("2.5e5 um2") == 0.25
    assert parse_power_w("280W") == 280.0
    assert parse_power_w("1.5 kW") == 1500.0
    assert parse_power_w("766mW") == 0.766
    assert parse_bytes("32MiB") == 33_554_432
    assert parse_bytes("0.1GB") == 100_000_000
    assert parse_bytes("80 gb") == 80_000_000_000
    assert parse_bytes_per_s("700GB/s") == 7e11
    assert parse_bytes_per_s("100Gb/s") == 12.5e9
    assert parse_bytes_per_s("400 Gbit/s") == 50e9
    assert parse_hertz("700MHz") == 7e8
    assert parse_hertz("1.05 GHz") == 1.05e9
    assert parse_time_s("10min") == 600.0
    assert parse_time_s("0s", allow_zero=True) == 0.0


@pytest.mark.parametrize(
    ("text", "dimension", "problem"),
    [
        ("600", AREA, "the unit is missing"),
        ("", AREA, "not a quantity of area"),
        ("mm2", AREA, "not a quantity of area"),
        ("nan mm2", AREA, "not a quantity of area"),
        ("inf W", POWER, "not a quantity of power"),
        ("600mm", AREA, "unknown or ambiguous unit 'mm' of area"),
        ("280 mw", POWER, "unknown or ambiguous unit 'mw' of power"),  # milli or mega
        ("100gb/s", BYTES_PER_S, "unknown or ambiguous unit 'gb/s' of bandwidth"),  # bits or bytes
        ("-5W", POWER, "power cannot be negative"),
        ("0mm2", AREA, "area must be above zero"),
        ("0.3B", BYTES, "size must be a whole number of B"),
        ("1e999Hz", HERTZ, "the number is out of range"),
        ("1e-999Hz", HERTZ, "the number is out of range"),
        ("1e300GHz", HERTZ, "the number is out of range"),
        ("1_0 s s", TIME, "unknown or ambiguous unit 's s' of time"),
    ],
)
def test_refuses_what_is_not_a_quantity(text: str, dimension: Dimension, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_quantity(text, dimension, where="--option", path="place")
    (fault,) = caught.value.faults
    assert (fault.where, fault.path, fault.value, fault.problem) == ("--option", "place", repr(text), problem)
    assert dimension.example in fault.allowed


def test_bare_number_only_where_the_key_has_the_unit() -> None:
    assert parse_quantity("700e6", HERTZ, bare=True) == 7e8
    with pytest.raises(SpecError, match="the unit is missing"):
        parse_quantity("700e6", HERTZ)


@given(st.sampled_from([AREA, POWER, BYTES, BYTES_PER_S, HERTZ, TIME]), st.data())
def test_every_unit_is_its_size(dimension: Dimension, data: st.DataObject) -> None:
    unit, size = data.draw(st.sampled_from(dimension.units))
    count = data.draw(st.integers(1, 10**6))
    assert parse_quantity(f"{count}{unit}", dimension) == pytest.approx(count * size, rel=1e-15)


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_a_spec_error(text: str) -> None:
    for dimension in (AREA, BYTES, TIME):
        with suppress(SpecError):
            assert parse_quantity(text, dimension) > 0


def test_formats_for_people() -> None:
    assert format_si(0.00123, "s") == "1.23 ms"
    assert format_si(999.96e-6, "s") == "1 ms"
    assert format_si(0.0, "W") == "0 W"
    assert format_si(-2.5e12, "FLOP/s") == "-2.5 TFLOP/s"
    assert format_si(float("inf"), "s") == "inf s"
    assert format_bytes(33_554_432) == "32 MiB"
    assert format_bytes(1023) == "1023 B"
    assert format_bytes_per_s(7e11) == "700 GB/s"
    assert format_hertz(1.05e9) == "1.05 GHz"
    assert format_time_s(7200) == "2 h"
    assert format_time_s(90) == "90 s"
    assert format_area_mm2(611.23) == "611 mm2"
    assert format_power_w(0.766) == "766 mW"


@given(st.floats(1e-14, 1e18))
def test_formatted_power_reads_back(value: float) -> None:
    text = format_si(value, "W", digits=6)
    number, unit = text.split(" ")
    prefix = {"f": -15, "p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
    assert float(number) * 10.0 ** prefix[unit[:-1]] == pytest.approx(value, rel=1e-5)


@given(st.integers(1, 2**62))
def test_formatted_bytes_read_back(value: int) -> None:
    number, unit = format_bytes(value, digits=6).split(" ")
    power = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    assert float(number) * 1024.0**power == pytest.approx(value, rel=1e-5)
