"""Money: exact from text to columns and back, or refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.errors import SettingsError
from quernel.gateway.money import (
    FREE,
    MILLION,
    MOST_PICOS,
    Price,
    format_dollars,
    from_decimal,
    parse_dollars,
    parse_price,
)

picos = st.integers(-MOST_PICOS, MOST_PICOS)


def parse(text, **options):
    return parse_dollars(text, place="here", **options)


@given(picos)
def test_what_is_written_is_read_back_exactly(amount):
    assert parse(format_dollars(amount)) == amount


@given(picos)
def test_written_dollars_are_the_decimal_number(amount):
    assert Decimal(format_dollars(amount)).scaleb(12) == amount


@given(st.integers(0, 10**12))
def test_a_price_for_a_million_is_read_back_as_one_for_a_million(amount):
    assert parse(format_dollars(amount, unit=MILLION), unit=MILLION) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("25", 25 * 10**12), (25, 25 * 10**12), ("-0.5", -5 * 10**11), ("0.000000000001", 1), ("0.10", 10**11), ("-0", 0)],
)
def test_amounts_have_the_value_that_is_written(text, amount):
    assert parse(text) == amount


@pytest.mark.parametrize(("amount", "text"), [(0, "0.00"), (95_500_000_000_000, "95.50"), (-8000, "-0.000000008")])
def test_dollars_have_two_decimals_and_all_that_count(amount, text):
    assert format_dollars(amount) == text


@pytest.mark.parametrize("text", [0.1, True, None, "", "1e3", "1,5", ".5", "5.", "$1", " 1", "1\n", "٣", "NaN", "--1"])
def test_what_is_no_decimal_number_is_refused(text):
    with pytest.raises(SettingsError, match="no amount of dollars"):
        parse(text)


def test_what_is_finer_than_a_pico_dollar_is_refused_rather_than_rounded():
    with pytest.raises(SettingsError, match="finer"):
        parse("0.0000000000001")
    with pytest.raises(SettingsError, match="finer"):
        parse("0.0000001", unit=MILLION)
    assert parse("0.000001", unit=MILLION) == 1


def test_what_a_column_does_not_hold_is_refused():
    assert parse("9223372.036854775807") == MOST_PICOS
    for text in ("9223372.036854775808", "-9223372.036854775808", "999999999999"):
        with pytest.raises(SettingsError, match="more than a ledger holds"):
            parse(text)


def test_another_systems_amount_is_taken_to_the_nearest_pico_dollar():
    assert from_decimal(Decimal("0.0000000000014")) == 1
    assert from_decimal(Decimal("-2.5")) == -25 * 10**11


def test_a_cost_is_the_sum_of_its_parts():
    price = Price(token=8000, output_token=3, document=200, request=7)
    assert price.cost(tokens=10, documents=2, output_tokens=5) == 80_000 + 15 + 400 + 7
    assert FREE.cost(tokens=10**9, documents=10**9) == 0


def test_a_price_table_is_read_in_the_units_that_it_names():
    table = {"usd_per_million_tokens": "0.008", "usd_per_thousand_documents": "2", "usd_per_request": 1}
    price = parse_price(table, place="price", valid_from=3)
    assert price == Price(token=8000, document=2 * 10**9, request=10**12, valid_from=3)


def test_a_price_below_zero_is_refused():
    with pytest.raises(SettingsError, match="below zero"):
        parse_price({"usd_per_request": "-1"}, place="price")
