"""Numbers as pages show them, at their edges."""

import re
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quernel.gateway.money import format_dollars
from quernel.web import numbers
from quernel.web.numbers import (
    NONE,
    count,
    day,
    milliseconds,
    minute,
    money,
    per_million,
    per_thousand,
    percent,
    rounded,
    second,
    short,
    size,
)
from quernel.web.pages import FILTERS

NUMBERS = [name for name in FILTERS if hasattr(numbers, name)]
GAP = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_not_known_is_a_dash(name):
    assert FILTERS[name](None) == NONE


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1,000"), (32_768, "32,768"), (-1234, "-1,234"), (2**63, f"{2**63:,}")],
)
def test_a_count_has_its_thousands_apart(number, shown):
    assert count(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (0.4, "0"),
        (999, "999"),
        (999.4, "999"),
        (999.5, "1K"),
        (1000, "1K"),
        (1049, "1K"),
        (1050, "1.1K"),
        (9_949, "9.9K"),
        (9_960, "10K"),
        (32_768, "33K"),
        (100_000, "100K"),
        (999_499, "999K"),
        (999_500, "1M"),
        (999_999, "1M"),
        (1_234_567, "1.2M"),
        (999_500_000, "1B"),
        (7_570_000_000, "7.6B"),
        (10**12, "1T"),
        (1.234e15, "1,234T"),
        (-5000, "-5,000"),
    ],
)
def test_a_large_number_is_short(number, shown):
    assert short(number) == shown


@settings(deadline=None)
@given(st.floats(0, 1e14))
def test_a_short_number_is_never_a_thousand_of_the_smaller_unit_and_near_the_number(number):
    found = re.fullmatch(r"([\d.]+)([KMBT]?)", short(number))
    scaled, unit = float(found[1]), {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[found[2]]
    assert scaled < 1000
    assert abs(scaled * unit - number) <= max(0.0501 * number, 0.5)


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        ("0", "$0.00"),
        ("0.00", "$0.00"),
        ("-0.00", "$0.00"),
        ("0.02", "$0.02"),
        ("95.5", "$95.50"),
        ("0.000000008", "$0.000000008"),
        ("-1.234500", "-$1.2345"),
        ("1E-12", "$0.000000000001"),
        ("1234567.10", "$1,234,567.10"),
        ("9223372.036854775807", "$9,223,372.036854775807"),
    ],
)
def test_an_amount_is_shown_exactly(dollars, shown):
    assert money(dollars) == shown


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63))
def test_no_digit_of_an_amount_is_lost(picos):
    shown = money(format_dollars(picos))
    assert Decimal(shown.replace("$", "").replace(",", "")) == Decimal(picos).scaleb(-12)


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        ("0", "$0.00"),
        ("0.00005", "$0.0001"),
        ("0.00004999", "$0.00"),
        ("-0.00005", "-$0.0001"),
        ("-0.00001", "$0.00"),
        ("0.99996", "$1.00"),
        ("1.005", "$1.01"),
        ("-12.34565", "-$12.35"),
        ("9223372.036854775807", "$9,223,372.04"),
    ],
)
def test_an_amount_for_a_glance_is_to_the_cent_and_a_small_one_to_four_places(dollars, shown):
    assert rounded(dollars) == shown


def test_prices_are_of_a_million_tokens_and_a_thousand_documents():
    assert (per_million("0.00000002"), per_thousand("0.00000002")) == ("$0.02", "$0.00002")
    assert (per_million("0.00"), per_thousand("0.00")) == ("$0.00", "$0.00")
    assert per_million("0.000000000001") == "$0.000001"
    assert per_million("9223372.036854775807") == "$9,223,372,036,854.775807"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0.0 ms"),
        (0.04, "0.0 ms"),
        (0.8, "0.8 ms"),
        (9.94, "9.9 ms"),
        (9.96, "10 ms"),
        (43.4, "43 ms"),
        (999.4, "999 ms"),
        (999.6, "1.0 s"),
        (1234, "1.2 s"),
        (60_000, "60.0 s"),
    ],
)
def test_a_time_is_in_the_unit_that_fits(number, shown):
    assert milliseconds(number) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0.0"), (0.9994, "99.9"), (0.99951, "100.0"), (1, "100.0"), (12.5, "1250.0")]
)
def test_a_share_is_in_percent(share, shown):
    assert percent(share) == f"{shown}%"
    assert percent(0.123456, 3) == "12.346%"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (4096, "4 KiB"),
        (102_399, "100.0 KiB"),
        (102_401, "100 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**20, "1 MiB"),
        (4_096_000_000, "3.8 GiB"),
        (2**30 - 1, "1.0 GiB"),
        (16_384_000_000, "15.3 GiB"),
        (2**50, "1,048,576 GiB"),
    ],
)
def test_bytes_are_in_the_unit_that_fits(number, shown):
    assert size(number) == shown.replace(" ", GAP)


@pytest.fixture
def far_away(monkeypatch):
    """A machine whose clock is not on UTC."""
    if not hasattr(time, "tzset"):
        pytest.skip("a process cannot change its time zone here")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize(
    ("moment", "days", "minutes", "seconds"),
    [
        ("2025-06-05", "5 Jun 2025", "5 Jun 2025, 00:00 UTC", "5 Jun 2025, 00:00:00"),
        ("2025-06-05T14:03:07Z", "5 Jun 2025", "5 Jun 2025, 14:03 UTC", "5 Jun 2025, 14:03:07"),
        ("2025-06-05T14:03:07.999999Z", "5 Jun 2025", "5 Jun 2025, 14:03 UTC", "5 Jun 2025, 14:03:07"),
        ("2024-12-31T23:30:00-05:00", "1 Jan 2025", "1 Jan 2025, 04:30 UTC", "1 Jan 2025, 04:30:00"),
        ("2024-02-29T00:00:00", "29 Feb 2024", "29 Feb 2024, 00:00 UTC", "29 Feb 2024, 00:00:00"),
        ("9999-12-31T23:59:59Z", "31 Dec 9999", "31 Dec 9999, 23:59 UTC", "31 Dec 9999, 23:59:59"),
    ],
)
def test_a_moment_is_in_utc_wherever_the_gateway_is(moment, days, minutes, seconds):
    assert (day(moment), minute(moment), second(moment)) == (days, minutes, seconds)


def test_no_moment_is_a_dash():
    assert day("") == minute("") == second("") == NONE
