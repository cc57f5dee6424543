"""Money as whole pico-dollars, and prices made of it.

$0.008 per million tokens is 8,000 pico-dollars a token, so that every price in use is a whole number of them, and sums
are exact. A signed 64-bit integer holds nine million dollars. On the wire money is a decimal string in dollars.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from quernel.errors import SettingsError

Picos: TypeAlias = int
"""Pico-dollars: 10^-12 of a US dollar."""

PICOS_PER_DOLLAR = 10**12
DIGITS = 12
LEAST_DECIMALS = 2

MOST_PICOS = 2**63 - 1
"""What a column holds: 9,223,372 dollars."""

AMOUNT = re.compile(r"-?\d{1,12}(\.\d{1,30})?", re.ASCII)

MILLION, THOUSAND = 10**6, 10**3


def parse_dollars(text: object, *, place: str, unit: int = 1) -> Picos:
    """Pico-dollars from dollars, exactly.

    Args:
        text: A decimal number as text or whole number (`"0.008"`, `25`); never a float, which is not what was written.
        place: Where it stands, for messages.
        unit: The amount is for so many: 1,000,000 where it is a price for a million tokens.

    Raises:
        SettingsError: Not such a number, finer than a pico-dollar each, or more than a column holds.
    """
    written = str(text) if isinstance(text, int) and not isinstance(text, bool) else text
    if not isinstance(written, str) or AMOUNT.fullmatch(written) is None:
        raise SettingsError(
            f"{place} is {text!r}, which is no amount of dollars.", param=place, hint='Write it as text, like "0.008".'
        )
    # A Decimal's own precision is 28 digits; whole numbers have no limit.
    whole, _, decimals = written.partition(".")
    numerator = int(whole + decimals) * PICOS_PER_DOLLAR
    divisor: int = 10 ** len(decimals) * unit
    picos, rest = divmod(numerator, divisor)
    if rest:
        raise SettingsError(
            f"{place} is {written}, which is finer than a pico-dollar each.", param=place, hint="Round it."
        )
    if not -MOST_PICOS <= picos <= MOST_PICOS:
        raise SettingsError(f"{place} is {written}, which is more than a ledger holds.", param=place)
    return picos


def format_dollars(picos: Picos, *, unit: int = 1) -> str:
    """Dollars as a decimal string with all digits that count, and at least two: `"95.50"`, `"0.000000008"`."""
    sign, amount = ("-", -picos) if picos < 0 else ("", picos)
    whole, decimals = divmod(amount * unit, PICOS_PER_DOLLAR)
    digits = f"{decimals:0{DIGITS}d}".rstrip("0").ljust(LEAST_DECIMALS, "0")
    return f"{sign}{whole}.{digits}"


def from_decimal(dollars: Decimal) -> Picos:
    """The nearest pico-dollars to an amount that another system reports."""
    return int((dollars * PICOS_PER_DOLLAR).to_integral_value())


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one request costs, in pico-dollars; the parts add up.

    Attributes:
        token: For each token that the model reads.
        output_token: For each token that a chat model writes.
        document: For each document that is ranked.
        request: For each request.
        id: The row of the price table; 0 for a price that is in none.
        valid_from: From when, in milliseconds since 1970.
    """

    token: Picos = 0
    output_token: Picos = 0
    document: Picos = 0
    request: Picos = 0
    id: int = 0
    valid_from: int = 0

    def cost(self, *, tokens: int, documents: int = 0, output_tokens: int = 0) -> Picos:
        """The cost of a request that has so many tokens and documents."""
        return self.token * tokens + self.output_token * output_tokens + self.document * documents + self.request


FREE = Price()

PRICE_KEYS = {
    "usd_per_million_tokens": ("token", MILLION),
    "usd_per_million_output_tokens": ("output_token", MILLION),
    "usd_per_thousand_documents": ("document", THOUSAND),
    "usd_per_request": ("request", 1),
}
"""Key of a price table to the field of `Price`, and how many the amount is for."""


def parse_price(table: dict[str, Any], *, place: str, valid_from: int = 0) -> Price:
    """A price from its keys; what is not named costs nothing.

    Raises:
        SettingsError: An amount is none, or below zero.
    """
    parts = {}
    for key, (field, unit) in PRICE_KEYS.items():
        amount = parse_dollars(table.get(key, 0), place=f"{place}.{key}", unit=unit)
        if amount < 0:
            raise SettingsError(f"{place}.{key} is {table[key]!r}, below zero.", param=key)
        parts[field] = amount
    return Price(**parts, valid_from=valid_from)
