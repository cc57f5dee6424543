"""How limits, spans of time and moments are written on the command line."""

import re
from collections.abc import Iterable, Mapping

from quernel.errors import SettingsError

SPAN = re.compile(r"(?P<count>\d{1,6})(?P<unit>[smhdw])", re.ASCII)
UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
"""Letter to seconds."""

HOUR_MS, DAY_MS = 3_600_000, 86_400_000

LIMIT = re.compile(r"(?P<period>\w+):(?P<what>\w+)=(?P<most>\S+)", re.ASCII)
LIMIT_FORM = "minute:requests=60"


def parse_span(text: str, *, place: str) -> int:
    """Seconds, from a number with the letter of its unit: `90d`, `12h`.

    Raises:
        SettingsError: Something else.
    """
    matched = SPAN.fullmatch(text)
    if matched is None:
        raise SettingsError(
            f"{place} is {text!r}.", param=place, hint=f"Write it like 90d or 12h; units: {', '.join(UNITS)}."
        )
    return int(matched["count"]) * UNITS[matched["unit"]]


def parse_future(text: str, *, place: str, now: int) -> int:
    """Milliseconds since 1970 of a moment that is a span from now (`90d`), or is named.

    Raises:
        SettingsError: Neither.
    """
    return now + 1000 * parse_span(text, place=place) if SPAN.fullmatch(text) else _moment(text, place=place)


def parse_past(text: str, *, place: str, now: int) -> int:
    """Milliseconds since 1970 of a moment that is a span ago, or is named.

    Spans of days (`7d`) reach to the beginning of their first day in UTC, shorter ones (`12h`) to that of their hour.

    Raises:
        SettingsError: Neither.
    """
    if SPAN.fullmatch(text) is None:
        return _moment(text, place=place)
    moment = now - 1000 * parse_span(text, place=place)
    return moment - moment % (DAY_MS if text.endswith(("d", "w")) else HOUR_MS)


def _moment(text: str, *, place: str) -> int:
    from quernel.errors import InvalidRequestError
    from quernel.protocols.gateway_admin import parse_time

    try:
        return parse_time(text, place=place)
    except InvalidRequestError as error:
        raise SettingsError(
            f"{place} is {text!r}.", param=place, hint="Write it like 7d, 2026-01-31 or 2026-01-31T12:00:00Z."
        ) from error


def parse_limit_flags(flags: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """Limits as `quernel.gateway.limits.parse_limits` reads them, from texts such as `minute:requests=60`.

    Raises:
        SettingsError: No limit.
    """
    table: dict[str, dict[str, int | str]] = {}
    for flag in flags:
        matched = LIMIT.fullmatch(flag)
        if matched is None:
            raise SettingsError(f"{flag!r} is no limit.", param="limit", hint=f"Write it like {LIMIT_FORM}.")
        most = matched["most"]
        is_number = matched["what"] != "usd" and most.isdecimal()
        table.setdefault(matched["period"], {})[matched["what"]] = int(most) if is_number else most
    return table


def show_limit_flags(table: Mapping[str, Mapping[str, object]]) -> str:
    """Limits in a line, as flags have them."""
    return " ".join(f"{period}:{what}={most}" for period, kinds in table.items() for what, most in kinds.items())
