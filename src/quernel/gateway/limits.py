"""Limits by calendar minute, day and month, in requests, tokens and money.

They are taken at admission, all or none, under the lock of the account, and so are exact for any number of gateways on
one database. A window is that of the calendar in UTC: a month begins on its first day, whatever the time zone.
"""

import calendar
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import InsufficientCreditError, LimitExceededError, QuernelError, SettingsError
from quernel.gateway import schema
from quernel.gateway.money import Picos, format_dollars, parse_dollars
from quernel.gateway.statement import Statement
from quernel.protocols.gateway_admin import MOST_COUNT

MINUTE_MS, DAY_MS = 60_000, 86_400_000


class Period(StrEnum):
    """How long a window is."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Window:
    """A window of the calendar, in milliseconds since 1970.

    Attributes:
        start: Its first.
        end: The first of the next.
    """

    start: int
    end: int


def window_of(period: Period, now: int) -> Window:
    """The window that a moment lies in."""
    if period is Period.MONTH:
        moment = datetime.fromtimestamp(now / 1000, UTC)
        first = datetime(moment.year, moment.month, 1, tzinfo=UTC)
        start = int(first.timestamp()) * 1000
        return Window(start, start + calendar.monthrange(moment.year, moment.month)[1] * DAY_MS)
    length = MINUTE_MS if period is Period.MINUTE else DAY_MS
    return Window(now - now % length, now - now % length + length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The most that a window takes; `None` where it has no limit of that kind.

    Attributes:
        period: How long the window is.
        requests: Requests.
        tokens: Tokens that models read.
        spend: Money.
    """

    period: Period
    requests: int | None = None
    tokens: int | None = None
    spend: Picos | None = None


LIMIT_KEYS = ("requests", "tokens", "usd")


def parse_limits(table: Mapping[str, Any], *, place: str) -> tuple[Limit, ...]:
    """Limits from `{"minute": {"requests": 60, "tokens": 100000, "usd": "0.50"}, "month": {...}}`.

    Raises:
        SettingsError: An unknown key, or a value below zero.
    """
    limits = []
    for period, most in table.items():
        if period not in set(Period) or not isinstance(most, Mapping):
            raise SettingsError(
                f"{place}.{period} is no limit.", param=place, hint=f"Known periods: {', '.join(Period)}."
            )
        for key, value in most.items():
            if key not in LIMIT_KEYS:
                raise SettingsError(
                    f"{place}.{period}.{key} is no limit.", param=place, hint=f"Known: {', '.join(LIMIT_KEYS)}."
                )
            if key != "usd" and not (type(value) is int and 0 <= value <= MOST_COUNT):
                raise SettingsError(
                    f"{place}.{period}.{key} is {value!r}.", param=place, hint=f"Set a whole number, 0 to {MOST_COUNT}."
                )
        spend = None if most.get("usd") is None else parse_dollars(most["usd"], place=f"{place}.{period}.usd")
        if spend is not None and spend < 0:
            raise SettingsError(f"{place}.{period}.usd is {most['usd']!r}.", param=place, hint="Set 0 or more.")
        limits.append(
            Limit(period=Period(period), requests=most.get("requests"), tokens=most.get("tokens"), spend=spend)
        )
    return tuple(limits)


def show_limits(limits: Sequence[Limit]) -> dict[str, dict[str, int | str]]:
    """Limits as `parse_limits` reads them."""
    shown = {}
    for limit in limits:
        usd = None if limit.spend is None else format_dollars(limit.spend)
        most = {"requests": limit.requests, "tokens": limit.tokens, "usd": usd}
        shown[limit.period.value] = {name: value for name, value in most.items() if value is not None}
    return shown


@dataclass(frozen=True, slots=True)
class Meter:
    """A limit and whom it binds.

    Attributes:
        subject: Whose use is counted: the id of a key or account, or an address.
        limit: The most.
        label: What it is called in a refusal.
    """

    subject: str
    limit: Limit
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What a window still takes, after a request; for the tightest of the limits by the minute.

    Attributes:
        limit: What it takes in all.
        remaining: What it still takes.
        resets: When the next begins, in milliseconds since 1970.
    """

    limit: int
    remaining: int
    resets: int


def take(
    connection: Connection, meters: Sequence[Meter], *, tokens: int, spend: Picos, now: int
) -> tuple[list[tuple[str, str, int]], dict[str, Remaining]]:
    """Count a request against all meters, or refuse it and count nothing. The account's row must be locked.

    Returns:
        The counters that were raised (subject, period, start), and what is left of requests and tokens this minute.

    Raises:
        LimitExceededError: Requests or tokens; `retry_after` says when the window ends.
        InsufficientCreditError: Money: the budget of the window is spent.
    """
    windows = [(meter, window_of(meter.limit.period, now)) for meter in meters]
    used = {}
    for meter, window in windows:
        place = {"subject": meter.subject, "period": meter.limit.period.value, "start": window.start}
        row = FIND.row(connection, place)
        used[meter.subject, meter.limit.period] = row or (0, 0, 0)
    left: dict[str, Remaining] = {}
    for meter, window in windows:
        limit = meter.limit
        asked = (("requests", limit.requests, 1), ("tokens", limit.tokens, tokens), ("spend", limit.spend, spend))
        for (what, most, wanted), so_far in zip(asked, used[meter.subject, limit.period], strict=True):
            if most is None:
                continue
            if wanted and so_far + wanted > most:
                raise _refusal(meter, what, most=most, so_far=so_far, wanted=wanted, wait=window.end - now)
            if limit.period is Period.MINUTE and what != "spend":
                rest = Remaining(limit=most, remaining=most - so_far - wanted, resets=window.end)
                if what not in left or rest.remaining < left[what].remaining:
                    left[what] = rest
    raised = []
    for meter, window in windows:
        counter = (meter.subject, meter.limit.period.value, window.start)
        add(connection, counter, requests=1, tokens=tokens, spend=spend)
        raised.append(counter)
    return raised, left


FIND = Statement(
    sa.select(schema.counters.c.requests, schema.counters.c.tokens, schema.counters.c.spend).where(
        schema.counters.c.subject == sa.bindparam("subject"),
        schema.counters.c.period == sa.bindparam("period"),
        schema.counters.c.start == sa.bindparam("start"),
    )
)

RAISE = Statement(
    sa.update(schema.counters)
    .where(
        schema.counters.c.subject == sa.bindparam("subject_is"),
        schema.counters.c.period == sa.bindparam("period_is"),
        schema.counters.c.start == sa.bindparam("start_is"),
    )
    .values(
        requests=schema.counters.c.requests + sa.bindparam("more_requests"),
        tokens=schema.counters.c.tokens + sa.bindparam("more_tokens"),
        spend=schema.counters.c.spend + sa.bindparam("more_spend"),
    )
)

BEGIN = Statement(sa.insert(schema.counters), ["subject", "period", "start", "requests", "tokens", "spend"])


def add(connection: Connection, place: Sequence[Any], *, requests: int = 0, tokens: int = 0, spend: Picos = 0) -> None:
    """Raise or lower one counter, which begins at zero."""
    subject, period, start = place
    more = {"more_requests": requests, "more_tokens": tokens, "more_spend": spend}
    if not RAISE.change(connection, {"subject_is": subject, "period_is": period, "start_is": start, **more}):
        first = {"requests": requests, "tokens": tokens, "spend": spend}
        BEGIN.change(connection, {"subject": subject, "period": period, "start": start, **first})


def _refusal(meter: Meter, what: str, *, most: int, so_far: int, wanted: int, wait: int) -> QuernelError:
    period = meter.limit.period.value
    if what == "spend":
        return InsufficientCreditError(
            f"{meter.label} may spend ${format_dollars(most)} a {period}; ${format_dollars(so_far)} are spent or "
            f"reserved, and this request costs ${format_dollars(wanted)}.",
            hint=f"Raise the budget, or wait for the next {period}.",
        )
    refusal = LimitExceededError(
        f"{meter.label} may use {most} {what} a {period}; {so_far} are used, and this request has {wanted}.",
        hint=f"Wait for the next {period}." if wanted <= most else "Send fewer texts at once.",
    )
    refusal.retry_after = max(wait, 1) / 1000
    return refusal
