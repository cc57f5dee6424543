"""What was used: a row for each request, rolled up by the hour, and reports over both.

A row says how much, by whom, where and at what price, never what. Rows are kept for a while, sums by the hour for
longer, those by the day for longest. A report reads sums up to the mark until which they are made, and rows after it,
so that it never counts twice; it begins where sums are kept, and is refused what would part a day that is one sum.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from quernel.errors import InvalidRequestError, NotFoundError
from quernel.gateway import schema
from quernel.gateway.ledger import EntryKind
from quernel.gateway.limits import DAY_MS, Period
from quernel.gateway.marks import lock_mark, read_mark, set_mark
from quernel.gateway.money import Picos
from quernel.gateway.replays import KEPT_MS
from quernel.gateway.statement import Statement, write_json
from quernel.protocols.gateway_admin import format_time

HOUR_MS = 3_600_000
ROLLED = "rolled_until"
"""The mark until which usage is rolled up."""

FOLDED = "folded_until"
"""The mark until which the sums of hours have gone into those of their days."""

FORGOTTEN = "forgotten_until"
"""The mark until which sums are no longer kept."""

SETTLING_MS = 600_000
"""Hours are rolled up so long after their end, when no gateway writes into them any more."""

MOST_LABEL = 200
TAG_SEPARATOR = ","

DELETED_AT_ONCE = 5_000
"""Rows of a table that go in one transaction, which requests wait for."""

HOURS_AT_ONCE = 24
"""Hours whose sums go in one transaction."""

COUNTERS_KEPT_MS = {Period.MINUTE: DAY_MS, Period.DAY: 40 * DAY_MS, Period.MONTH: 40 * DAY_MS}
"""How long a counter is kept after the beginning of its window: longer than any request into it can be under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One request, as it is written down.

    Attributes:
        id: The generation.
        time: When it was settled, in milliseconds since 1970.
        account: Who paid.
        key: Whose request it was.
        user: For whom, in the caller's words.
        tags: What it was filed under, in order, joined by commas.
        operation: `embed`, `rerank` or `chat`.
        model: The model that served it.
        provider: Who did; empty where nobody could.
        status: What was answered.
        code: The error that was answered.
        items: Texts or documents.
        tokens: Tokens that the model read.
        output_tokens: Tokens that it wrote.
        documents: Documents that it ranked.
        cost: What was charged.
        upstream_cost: What it cost at the provider's price, charged or not.
        price: The row of the price table.
        milliseconds: From the request to the answer.
        upstream_milliseconds: Of that, at the provider that answered.
        attempts: Who was asked.
        byok: Whether the customer's own key to the provider was used.
        credential: Whose key to the provider that was: `system` or `byok`.
    """

    id: str
    time: int
    account: str
    key: str
    user: str = ""
    tags: str = ""
    operation: str
    model: str
    provider: str = ""
    status: int = 200
    code: str | None = None
    items: int = 0
    tokens: int = 0
    output_tokens: int = 0
    documents: int = 0
    cost: Picos = 0
    upstream_cost: Picos = 0
    price: int = 0
    milliseconds: float = 0.0
    upstream_milliseconds: float = 0.0
    attempts: Sequence[Mapping[str, Any]] = ()
    byok: bool = False
    credential: str = "system"


def join_tags(tags: Sequence[str]) -> str:
    """Tags as a column holds them: each once, in order, no more than fit."""
    joined = ""
    for tag in plain_tags(tags):
        longer = f"{joined}{TAG_SEPARATOR}{tag}" if joined else tag
        if len(longer) > MOST_LABEL:
            break
        joined = longer
    return joined


def plain_tags(tags: Sequence[str]) -> list[str]:
    """Tags as a column can hold them, if they fit: each once, in order."""
    return sorted({_plain(tag).replace(TAG_SEPARATOR, " ").strip() for tag in tags} - {""})


def record(connection: Connection, row: Usage) -> None:
    """Write a request down, once."""
    values = {name: getattr(row, name) for name in COLUMN_NAMES}
    values["attempts"] = write_json(list(row.attempts))
    values["user"] = _plain(row.user)[:MOST_LABEL]
    _INSERT[connection.dialect.name].change(connection, values)


def _plain(text: str) -> str:
    """A caller's words as every database can hold them: PostgreSQL has no NUL, and neither has half a character."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def find_usage(connection: Connection, generation: str, account: str | None = None) -> Usage:
    """The request of that id.

    Args:
        connection: The transaction.
        generation: Its id.
        account: Who must have paid for it; `None` for anybody.

    Raises:
        NotFoundError: There is none, it is another's, or its row is no longer kept.
    """
    row = connection.execute(sa.select(schema.usage).filter_by(id=generation)).mappings().one_or_none()
    if row is None or account not in (None, row["account"]):
        raise NotFoundError(
            f"There is no generation {generation}.", param="id", hint="Rows of requests are kept for some days."
        )
    return Usage(**row)


COLUMN_NAMES = tuple(column.name for column in schema.usage.columns)

INSERTS: Mapping[str, Callable[[sa.Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Inserts that may meet a row which is there already, by the name of the database."""

_INSERT: Mapping[str, Statement] = {
    name: Statement(insert(schema.usage).on_conflict_do_nothing(), COLUMN_NAMES) for name, insert in INSERTS.items()
}


class Grouping(StrEnum):
    """What a report is divided by."""

    DAY = "day"
    HOUR = "hour"
    ACCOUNT = "account"
    KEY = "key"
    USER = "user"
    TAG = "tag"
    MODEL = "model"
    PROVIDER = "provider"
    CREDENTIAL = "credential"
    OPERATION = "operation"


@dataclass(slots=True, kw_only=True)
class Line:
    """A line of a report.

    Attributes:
        group: Grouping to its value.
        requests: Requests, failed ones too.
        errors: Those that failed.
        items: Texts and documents.
        tokens: Tokens that models read.
        output_tokens: Tokens that they wrote.
        documents: Documents that they ranked.
        cost: What was charged.
        upstream_cost: What it was at the providers' prices.
        milliseconds: Time of all requests together.
    """

    group: dict[str, str]
    requests: int = 0
    errors: int = 0
    items: int = 0
    tokens: int = 0
    output_tokens: int = 0
    documents: int = 0
    cost: Picos = 0
    upstream_cost: Picos = 0
    milliseconds: float = 0.0


MEASURES = (
    "requests",
    "errors",
    "items",
    "tokens",
    "output_tokens",
    "documents",
    "cost",
    "upstream_cost",
    "milliseconds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report is about.

    Attributes:
        start: From when, in milliseconds since 1970, on a full hour.
        end: Until when, on a full hour, itself not in it.
        by: What it is divided by; several at once are allowed.
        account: Of whom; `None` for all.
        where: Column to the value that it must have.
        tags: Tags of which a request must have one; empty for any.
    """

    start: int
    end: int
    by: tuple[Grouping, ...] = (Grouping.DAY,)
    account: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()


def report(connection: Connection, wanted: Report) -> list[Line]:
    """The lines of a report, in the order of their groups.

    Raises:
        InvalidRequestError: As `clipped`.
    """
    wanted, until = clipped(connection, wanted), read_mark(connection, ROLLED)
    lines: dict[tuple[str, ...], Line] = {}
    sources = (
        (schema.rollups, schema.rollups.c.hour, max(wanted.start, 0), min(wanted.end, until)),
        (schema.usage, schema.usage.c.time, max(wanted.start, until), wanted.end),
    )
    for table, moment, start, end in sources:
        if start >= end:
            continue
        for row in connection.execute(_grouped(table, moment, wanted).where(moment >= start, moment < end)).mappings():
            for values in _groups(dict(row), wanted.by):
                line = lines.setdefault(values, Line(group=dict(zip(wanted.by, values, strict=True))))
                for measure in MEASURES:
                    setattr(line, measure, getattr(line, measure) + type(getattr(line, measure))(row[measure]))
    return [lines[group] for group in sorted(lines)]


def clipped(connection: Connection, wanted: Report) -> Report:
    """As much of a report as sums are kept for.

    Raises:
        InvalidRequestError: It parts a day whose hours are no longer kept.
    """
    start, folded = min(max(wanted.start, read_mark(connection, FORGOTTEN)), wanted.end), read_mark(connection, FOLDED)
    hint = f"Sums by the hour are kept from {format_time(folded)} on: begin there, or take whole days and no hours."
    for name, moment in (("start", start), ("end", wanted.end)):
        if moment < folded and moment % DAY_MS:
            raise InvalidRequestError(f"{name} is {format_time(moment)}.", param=name, hint=hint)
    if start < min(wanted.end, folded) and Grouping.HOUR in wanted.by:
        raise InvalidRequestError(f"by is hour, and start {format_time(start)}.", param="by", hint=hint)
    return replace(wanted, start=start)


COLUMNS: Mapping[Grouping, str] = {
    Grouping.ACCOUNT: "account",
    Grouping.KEY: "key",
    Grouping.USER: "user",
    Grouping.TAG: "tags",
    Grouping.MODEL: "model",
    Grouping.PROVIDER: "provider",
    Grouping.CREDENTIAL: "credential",
    Grouping.OPERATION: "operation",
}

WIDTHS: Mapping[Grouping, tuple[int, str]] = {
    Grouping.DAY: (DAY_MS, "%Y-%m-%d"),
    Grouping.HOUR: (HOUR_MS, "%Y-%m-%dT%H:00Z"),
}


def _grouped(table: sa.Table, moment: Any, wanted: Report) -> sa.Select[Any]:
    widths = [WIDTHS[grouping][0] for grouping in wanted.by if grouping in WIDTHS]
    columns = [table.c[COLUMNS[grouping]] for grouping in wanted.by if grouping in COLUMNS]
    if widths:
        columns.append((moment - moment % min(widths)).label("moment"))
    query = sa.select(*columns, *_sums(table)).group_by(*columns)
    if wanted.account is not None:
        query = query.where(table.c.account == wanted.account)
    for column, value in wanted.where.items():
        query = query.where(table.c[column] == value)
    if wanted.tags:
        query = query.where(sa.or_(*(_has_tag(table.c.tags, tag) for tag in wanted.tags)))
    return query


def _sums(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    """The measures of many rows, or of many hours."""
    if table is schema.rollups:
        return [_sum(table.c[measure]).label(measure) for measure in MEASURES]
    counted = {"requests": sa.func.count(), "errors": _sum(sa.case((table.c.status >= FIRST_ERROR, 1), else_=0))}
    summed = {measure: _sum(table.c[measure]) for measure in MEASURES if measure not in counted}
    return [column.label(measure) for measure, column in (counted | summed).items()]


def _sum(column: Any) -> sa.ColumnElement[Any]:
    """A sum, which is 0 of no rows."""
    return sa.func.coalesce(sa.func.sum(column), 0)


FIRST_ERROR = 400


def _has_tag(column: Any, tag: str) -> sa.ColumnElement[bool]:
    closed: sa.ColumnElement[str] = sa.literal(TAG_SEPARATOR) + column + TAG_SEPARATOR
    return closed.contains(f"{TAG_SEPARATOR}{tag}{TAG_SEPARATOR}", autoescape=True)


def _groups(row: Mapping[str, Any], by: Sequence[Grouping]) -> list[tuple[str, ...]]:
    """The groups that a row belongs to: one, or one for each of its tags."""
    groups: list[tuple[str, ...]] = [()]
    for grouping in by:
        if grouping in WIDTHS:
            width, form = WIDTHS[grouping]
            moment = int(row["moment"])
            values = [datetime.fromtimestamp((moment - moment % width) / 1000, UTC).strftime(form)]
        elif grouping is Grouping.TAG:
            values = row["tags"].split(TAG_SEPARATOR)
        else:
            values = [row[COLUMNS[grouping]]]
        groups = [(*group, value) for group in groups for value in values]
    return groups


def roll_up(connection: Connection, now: int) -> int:
    """Make the hours that are over; each once, however many gateways try.

    Returns:
        How many lines were made.
    """
    start = lock_mark(connection, ROLLED)
    end = now - SETTLING_MS
    end -= end % HOUR_MS
    if start >= end:
        return 0
    table = schema.usage
    hour = (table.c.time - table.c.time % HOUR_MS).label("hour")
    keys = [hour, *(table.c[name] for name in DIMENSIONS)]
    grouped = sa.select(*keys, *_sums(table)).where(table.c.time >= start, table.c.time < end).group_by(*keys)
    names = ["hour", *DIMENSIONS, *MEASURES]
    making = sa.insert(schema.rollups).from_select(names, grouped)
    made = connection.execute(making, execution_options={"preserve_rowcount": True})
    set_mark(connection, ROLLED, end)
    return int(made.rowcount)


DIMENSIONS = ("account", "key", "user", "tags", "operation", "model", "provider", "credential")


def forget(connection: Connection, now: int, *, keep_days: int) -> int:
    """Delete rows that are old and rolled up, some thousands at a time, with counters and idempotency keys of the past.

    Returns:
        How many rows.
    """
    before = min(now - keep_days * DAY_MS, read_mark(connection, ROLLED))
    old = sa.select(schema.usage.c.id).where(schema.usage.c.time < before).limit(DELETED_AT_ONCE)
    deleted = connection.execute(sa.delete(schema.usage).where(schema.usage.c.id.in_(old))).rowcount
    counters = schema.counters
    for period, kept in COUNTERS_KEPT_MS.items():
        past = sa.delete(counters).where(counters.c.period == period.value, counters.c.start < now - kept)
        connection.execute(past)
    connection.execute(sa.delete(schema.replays).where(schema.replays.c.time < now - KEPT_MS))
    return int(deleted)


def fold_hours(connection: Connection, now: int, *, keep_days: int) -> int:
    """Put the sums of hours that are long over into those of their days, some at a time. Sums over days stay the same.

    Returns:
        How many lines went into others.
    """
    hour, start = schema.rollups.c.hour, lock_mark(connection, FOLDED)
    end = min(now - keep_days * DAY_MS, read_mark(connection, ROLLED))
    end -= end % DAY_MS
    folded = 0
    for _ in range(HOURS_AT_ONCE):
        first = connection.execute(sa.select(sa.func.min(hour)).where(hour >= start, hour < end)).scalar()
        if first is None:
            start = max(start, end)
            break
        if first % DAY_MS:
            folded += _fold(connection, first)
        start = first + HOUR_MS
        if folded >= DELETED_AT_ONCE:
            break
    set_mark(connection, FOLDED, start)
    return folded


def _fold(connection: Connection, moment: int) -> int:
    table = schema.rollups
    day = sa.literal(moment - moment % DAY_MS, sa.BigInteger).label("hour")
    kept = [table.c[name] for name in (*DIMENSIONS, *MEASURES)]
    adding = INSERTS[connection.dialect.name](table).from_select(
        ["hour", *DIMENSIONS, *MEASURES], sa.select(day, *kept).where(table.c.hour == moment)
    )
    more = {measure: table.c[measure] + adding.excluded[measure] for measure in MEASURES}
    connection.execute(adding.on_conflict_do_update(index_elements=["hour", *DIMENSIONS], set_=more))
    return int(connection.execute(sa.delete(table).where(table.c.hour == moment)).rowcount)


def forget_sums(connection: Connection, now: int, *, keep_days: int) -> int:
    """Delete the sums of days that are long over, some at a time; reports begin after those days from now on.

    Returns:
        How many lines.
    """
    hour, start = schema.rollups.c.hour, lock_mark(connection, FORGOTTEN)
    end = min(now - keep_days * DAY_MS, read_mark(connection, ROLLED))
    start = max(start, end - end % DAY_MS)
    set_mark(connection, FORGOTTEN, start)
    deleted = 0
    for _ in range(HOURS_AT_ONCE):
        first = connection.execute(sa.select(sa.func.min(hour)).where(hour < start)).scalar()
        if first is None or deleted >= DELETED_AT_ONCE:
            break
        deleted += connection.execute(sa.delete(schema.rollups).where(hour == first)).rowcount
    return int(deleted)


def close_days(connection: Connection, now: int, *, keep_days: int) -> int:
    """Put the charges of days that are long over into one entry for each account and day, some thousands at a time.
    Sums stay what they are.

    Returns:
        How many charges went into them.
    """
    table = schema.entries
    before = now - keep_days * DAY_MS
    before -= before % DAY_MS
    charges = sa.select(table.c.id, table.c.account, table.c.time, table.c.amount).order_by(table.c.id)
    charges = charges.where(table.c.kind == EntryKind.CHARGE.value)
    first = connection.execute(charges.limit(1)).one_or_none()
    if first is None or first.time >= before:
        return 0
    oldest = connection.execute(charges.limit(DELETED_AT_ONCE).with_for_update()).all()
    old = [row for row in oldest if row.time < before]
    connection.execute(sa.delete(table).where(table.c.id.in_([row.id for row in old])))
    sums: dict[tuple[str, int], Picos] = {}
    for row in old:
        place = row.account, row.time - row.time % DAY_MS
        sums[place] = sums.get(place, 0) + row.amount
    for (account, day), amount in sorted(sums.items()):
        _close(connection, account, day, amount)
    return len(old)


def _close(connection: Connection, account: str, day: int, amount: Picos) -> None:
    table = schema.entries
    closing = {
        "account": account,
        "kind": EntryKind.CLOSING.value,
        "reference": datetime.fromtimestamp(day / 1000, UTC).strftime("%Y-%m-%d"),
    }
    more = sa.update(table).filter_by(**closing).values(amount=table.c.amount + amount)
    if not connection.execute(more).rowcount:
        row = {**closing, "time": day, "amount": amount, "actor": "system", "note": None}
        connection.execute(sa.insert(table), row)
