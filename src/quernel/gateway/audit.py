"""The audit: who changed what, and when. A line is written in the transaction of its change, and holds no secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.gateway import schema
from quernel.gateway.limits import DAY_MS
from quernel.gateway.usage import DELETED_AT_ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A line of the audit.

    Attributes:
        id: Later ones have greater ids.
        time: When, in milliseconds since 1970.
        actor: Whose doing it was.
        action: Such as `key.revoke`.
        target: What was changed: an id, or the name of a provider.
        detail: What is different since.
    """

    id: int
    time: int
    actor: str
    action: str
    target: str
    detail: Mapping[str, Any]


def note_change(
    connection: Connection, *, actor: str, action: str, target: str, detail: Mapping[str, Any], now: int
) -> None:
    """Write down that something was changed."""
    row = {"time": now, "actor": actor, "action": action, "target": target, "detail": dict(detail)}
    connection.execute(sa.insert(schema.audit), row)


def list_changes(
    connection: Connection,
    *,
    most: int,
    before: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
) -> list[Change]:
    """The latest changes; `before` continues a list after its last id."""
    table = schema.audit
    found = sa.select(table).order_by(table.c.id.desc()).limit(most)
    if before is not None:
        found = found.where(table.c.id < before)
    wanted = {"actor": actor, "action": action, "target": target}
    found = found.filter_by(**{column: value for column, value in wanted.items() if value is not None})
    return [Change(**row) for row in connection.execute(found).mappings()]


def forget_changes(connection: Connection, now: int, *, keep_days: int) -> int:
    """Delete lines that are old, some thousands at a time.

    Returns:
        How many.
    """
    table, before = schema.audit, now - keep_days * DAY_MS
    lines = sa.select(table.c.id, table.c.time).order_by(table.c.id)  # by its id, since time has no index
    first = connection.execute(lines.limit(1)).one_or_none()
    if first is None or first.time >= before:
        return 0
    oldest = connection.execute(lines.limit(DELETED_AT_ONCE).with_for_update()).all()
    old = [line.id for line in oldest if line.time < before]
    return int(connection.execute(sa.delete(table).where(table.c.id.in_(old))).rowcount)
