"""Accounts, holds and a look into the tables, for tests of the gateway's books."""

import sqlalchemy as sa

from quernel.gateway import ledger, schema
from quernel.gateway.accounts import create_account
from quernel.gateway.ids import new_id
from quernel.gateway.ledger import EntryKind, Hold

NOW = 1_800_000_000_000
"""Friday, 15 January 2027, 8:00, in milliseconds since 1970."""


def new_account(database, credit=0, *, now=NOW):
    """The id of a new account that has so much."""
    slug = new_id("test").replace("_", "-")
    return database.write_now(lambda connection: create_account(connection, slug, welcome=credit, now=now)).id


def hold_of(account, amount, *, tokens=0, meters=(), instance="here", asker=None, key="key", name=None):
    """A hold with a name of its own."""
    name = name or new_id("gen")
    return Hold(
        id=name,
        asker=asker or name,
        account=account,
        key=key,
        amount=amount,
        tokens=tokens,
        meters=meters,
        instance=instance,
    )


def hold(database, wanted, *, now=NOW):
    """Hold, in a transaction of its own."""
    return database.write_now(lambda connection: ledger.hold(connection, wanted, now=now))


def settle(database, wanted, *, cost=None, tokens=None, now=NOW):
    """Settle, in a transaction of its own; at what was held where nothing else is said."""
    cost = wanted.amount if cost is None else cost
    tokens = wanted.tokens if tokens is None else tokens
    return database.write_now(lambda connection: ledger.settle(connection, wanted, cost=cost, tokens=tokens, now=now))


def void(database, wanted):
    """Void, in a transaction of its own."""
    return database.write_now(lambda connection: ledger.void(connection, wanted.id, wanted.account))


def grant(database, account, amount, *, reference="grant", kind=EntryKind.GRANT, now=NOW):
    """Give credit, in a transaction of its own."""
    return database.write_now(
        lambda connection: ledger.enter(connection, account, kind, amount, reference=reference, actor="test", now=now)
    )


def balance_of(database, account):
    """The money of an account."""
    return database.read_now(lambda connection: ledger.balance_of(connection, account))


def reconcile(database):
    """Where the books do not agree with themselves."""
    return database.read_now(ledger.reconcile)


def rows_of(database, table, **values):
    """The rows of a table that have these values, in the order of its key."""
    found = sa.select(table).filter_by(**values).order_by(*table.primary_key.columns)
    return database.read_now(lambda connection: connection.execute(found).all())


def entries_of(database, account):
    """Kind and amount of an account's entries, in their order."""
    return [(row.kind, row.amount) for row in rows_of(database, schema.entries, account=account)]


def counter_of(database, subject, **values):
    """Requests, tokens and money that are counted for a subject, in all windows together."""
    rows = rows_of(database, schema.counters, subject=subject, **values)
    return tuple(sum(getattr(row, what) for row in rows) for what in ("requests", "tokens", "spend"))
