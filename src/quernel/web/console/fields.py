"""Fields of the console's forms that several of them have, as bodies of the API: limits, lists of names, times."""

from collections.abc import Iterable
from typing import Any

from starlette.datastructures import QueryParams

PERIODS = ("minute", "day", "month")
LIMITS = ("requests", "tokens", "usd")

MOST_DIGITS = 18
"""Longer numbers are for the API to refuse, as they were written."""


def limits_of(form: QueryParams) -> dict[str, dict[str, int | str]]:
    """Limits; an empty field has none."""
    found: dict[str, dict[str, int | str]] = {}
    for period in PERIODS:
        for kind in LIMITS:
            text = form.get(f"{period}-{kind}", "").strip()
            if text:
                found.setdefault(period, {})[kind] = text if kind == "usd" else number_or_text(text)
    return found


def number_or_text(text: str) -> int | str:
    """A whole number, with or without thousands apart; any other text as it is, for the API to refuse."""
    digits = text.replace(",", "").replace(" ", "")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS else text


def words_of(form: QueryParams, name: str) -> list[str]:
    """Names with commas or line breaks between them."""
    texts = form.get(name, "").replace("\n", ",").split(",")
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def chosen(form: QueryParams, name: str) -> list[str]:
    """Boxes that are ticked."""
    return list(dict.fromkeys(form.getlist(name)))


def is_ticked(form: QueryParams, name: str) -> bool:
    """Whether a box is ticked."""
    return form.get(name) == "true"


def said(**texts: str) -> dict[str, Any]:
    """Those that say something."""
    return {name: text.strip() for name, text in texts.items() if text.strip()}


def joined(*lists: Iterable[str]) -> list[str]:
    """Names of several lists, each once."""
    return list(dict.fromkeys(name for names in lists for name in names))
