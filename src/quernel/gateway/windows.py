"""How much of its limits a key or account has used."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.gateway import schema
from quernel.gateway.limits import Meter, Window, window_of
from quernel.gateway.money import Picos


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What is used of a limit, in the window that is now.

    Attributes:
        meter: The limit, and whom it binds.
        window: From when to when.
        requests: Requests so far.
        tokens: Tokens so far; those of requests under way as far as they are known.
        spend: Money so far; of requests under way what they may cost at most.
    """

    meter: Meter
    window: Window
    requests: int = 0
    tokens: int = 0
    spend: Picos = 0


def read_used(connection: Connection, meters: Sequence[Meter], now: int) -> list[Used]:
    """What is used of these limits."""
    table, found = schema.counters, []
    for meter in meters:
        window = window_of(meter.limit.period, now)
        query = sa.select(table).filter_by(subject=meter.subject, period=meter.limit.period.value, start=window.start)
        row = connection.execute(query).one_or_none()
        if row is None:
            found.append(Used(meter=meter, window=window))
        else:
            found.append(Used(meter=meter, window=window, requests=row.requests, tokens=row.tokens, spend=row.spend))
    return found
