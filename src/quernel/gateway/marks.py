"""Single numbers that all gateways of a database share."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.gateway import schema

REVISION = "revision"
"""Raised by every change of what gateways keep in memory: keys, accounts, providers, prices."""

_FIND = sa.select(schema.marks.c.value).where(schema.marks.c.name == sa.bindparam("mark"))


def read_mark(connection: Connection, name: str = REVISION) -> int:
    """The number of that name; 0 before it was set."""
    return int(connection.execute(_FIND, {"mark": name}).scalar_one_or_none() or 0)


def set_mark(connection: Connection, name: str, value: int) -> None:
    """Set a number."""
    found = connection.execute(sa.update(schema.marks).filter_by(name=name).values(value=value))
    if not found.rowcount:
        connection.execute(sa.insert(schema.marks), {"name": name, "value": value})


def lock_mark(connection: Connection, name: str) -> int:
    """The number of that name, which nobody else changes until the transaction ends."""
    same = sa.update(schema.marks).filter_by(name=name).values(value=schema.marks.c.value)
    if not connection.execute(same).rowcount:
        connection.execute(sa.insert(schema.marks), {"name": name, "value": 0})
    return read_mark(connection, name)


def bump(connection: Connection) -> None:
    """Tell all gateways that what they keep in memory has changed."""
    raised = sa.update(schema.marks).filter_by(name=REVISION).values(value=schema.marks.c.value + 1)
    if not connection.execute(raised).rowcount:
        connection.execute(sa.insert(schema.marks), {"name": REVISION, "value": 1})
