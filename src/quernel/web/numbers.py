"""Numbers as pages show them."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

NONE = "\N{EM DASH}"
"""Where there is nothing to show."""

MILLION = Decimal(1_000_000)


def count(number: float | None) -> str:
    """A number with its thousands apart: 32,768."""
    return NONE if number is None else f"{number:,.0f}"


def short(number: float | None) -> str:
    """A large number in few characters: 33K, 1.2M, 7.6B, 3T."""
    if number is None:
        return NONE
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * size:  # else it would be rounded to a thousand of the smaller
            scaled = number / size
            return f"{scaled:.1f}".removesuffix(".0") + letter if scaled < 10 else f"{scaled:,.0f}{letter}"
    return f"{number:,.0f}"


def money(dollars: str | None) -> str:
    """An amount as the API writes it, in dollars, exactly: $0.02, $0.000000008."""
    if dollars is None:
        return NONE
    amount = Decimal(dollars)
    whole, _, part = f"{abs(amount):,f}".partition(".")
    return f"{'-' if amount < 0 else ''}${whole}.{part.rstrip('0').ljust(2, '0')}"


def rounded(dollars: str | None) -> str:
    """An amount for a glance, to the cent or, below a dollar, to four places; it is on the page exactly, too."""
    if dollars is None:
        return NONE
    amount = Decimal(dollars)
    return money(str(amount.quantize(Decimal("0.01" if abs(amount) >= 1 else "0.0001"), ROUND_HALF_UP)))


def per_million(dollars: str | None) -> str:
    """The price of a token as that of a million."""
    return NONE if dollars is None else money(str(Decimal(dollars) * MILLION))


def per_thousand(dollars: str | None) -> str:
    """The price of a document as that of a thousand."""
    return NONE if dollars is None else money(str(Decimal(dollars) * 1000))


def milliseconds(number: float | None) -> str:
    """A time: 0.8 ms, 43 ms, 1.2 s."""
    if number is None:
        return NONE
    if number >= 999.5:  # which would be rounded to 1000 ms
        return f"{number / 1000:.1f} s"
    return f"{number:.0f} ms" if number >= 9.95 else f"{number:.1f} ms"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one: 99.9%."""
    return NONE if share is None else f"{share * 100:.{digits}f}%"


def size(number: float | None) -> str:
    """Bytes: 4 KiB, 1.1 GiB."""
    if number is None:
        return NONE
    for unit, letter in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit * 2047 / 2048:  # else it would be rounded to 1,024 of the smaller
            digits = 0 if number >= 100 * unit or number % unit == 0 else 1
            return f"{number / unit:,.{digits}f}\N{NO-BREAK SPACE}{letter}"
    return f"{number:.0f}\N{NO-BREAK SPACE}B"


def day(moment: str | None) -> str:
    """A date or moment as the API writes it, as a day in UTC: 5 Jun 2025."""
    if not moment:
        return NONE
    found = _utc(moment)
    return f"{found.day} {found:%b %Y}"


def minute(moment: str | None) -> str:
    """A moment as the API writes it, to the minute: 5 Jun 2025, 14:03 UTC."""
    if not moment:
        return NONE
    found = _utc(moment)
    return f"{found.day} {found:%b %Y, %H:%M} UTC"


def second(moment: str | None) -> str:
    """A moment as the API writes it, to the second, in UTC: 5 Jun 2025, 14:03:07."""
    if not moment:
        return NONE
    found = _utc(moment)
    return f"{found.day} {found:%b %Y, %H:%M:%S}"


def _utc(moment: str) -> datetime:
    """A moment; one that names no zone, as a date does, is in UTC."""
    found = datetime.fromisoformat(moment)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
