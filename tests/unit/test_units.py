"""Sizes and durations: what parses, to what, and how they are shown."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from ckptrun.errors import UsageError
from ckptrun.settings.units import format_duration, format_size, parse_duration, parse_size


@for_all(st.integers(0, 10**15), st.sampled_from(["", "K", "M", "G", "T"]), st.sampled_from(["", "B", "iB"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str, tail: str):
    if tail == "iB" and not unit:
        tail = "B"
    factor = 1024 ** " KMGT".index(unit or " ")
    assert parse_size(f"{number}{unit}{tail}") == number * factor
    assert parse_size(f"{number}{unit.lower()}") == number * factor


@for_all(st.integers(0, 999), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: float, millis: int):
    expected = hours * 3600 + minutes * 60 + seconds + millis / 1000
    assert parse_duration(f"{hours}h{minutes}m{seconds}s{millis}ms") == pytest.approx(expected)


@for_all(st.text(max_size=12))
def test_any_text_is_a_size_or_a_usage_error(text: str):
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(UsageError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    "text", ["", " ", "s", "5 m", "5m5m", "5s1m", "1e3", "٣s", "nan", "inf", "1.s", "--1"]
)
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(UsageError):
        parse_duration(text)


def test_a_number_without_unit_is_seconds_and_bytes():
    assert parse_duration("1.5") == 1.5
    assert parse_size("1.5K") == 1536


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"), (1023 << 20, "0.999 GiB")],
)
def test_sizes_for_people(size: int, text: str):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.254, "0.25 s"), (42.4, "42 s"), (303, "5m 03s"), (7800, "2h 10m"), (273600, "3d 04h")],
)
def test_durations_for_people(seconds: float, text: str):
    assert format_duration(seconds) == text
