"""What the books hold: entries of the ledger and requests, page by page with the newest first; and providers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.gateway import schema
from quernel.gateway.ledger import EntryKind
from quernel.gateway.money import Picos
from quernel.gateway.provider_store import load_providers, unknown_provider
from quernel.gateway.providers import Provider
from quernel.gateway.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of the ledger.

    Attributes:
        id: Later ones have greater ids.
        account: Whose money.
        time: When, in milliseconds since 1970.
        kind: Why it came or went.
        amount: How much; below zero where it went.
        reference: The generation that it paid for, or the name of a payment.
        actor: Whose doing it was.
        note: What they say of it.
    """

    id: int
    account: str
    time: int
    kind: str
    amount: Picos
    reference: str
    actor: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which requests.

    Attributes:
        account: Whose; `None` for all.
        where: Column to the value that it must have.
        start: From when, in milliseconds since 1970.
        end: Until when, itself not in it.
    """

    account: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    start: int | None = None
    end: int | None = None


def list_entries(
    connection: Connection, account: str | None, *, most: int, before: int | None = None, kind: EntryKind | None = None
) -> list[Entry]:
    """The latest entries, of an account or of all; `before` continues a list after its last id."""
    table = schema.entries
    found = sa.select(table).order_by(table.c.id.desc()).limit(most)
    if account is not None:
        found = found.filter_by(account=account)
    if kind is not None:
        found = found.filter_by(kind=kind.value)
    if before is not None:
        found = found.where(table.c.id < before)
    return [Entry(**row) for row in connection.execute(found).mappings()]


def list_requests(connection: Connection, wanted: Wanted, *, most: int, before: str | None = None) -> list[Usage]:
    """The latest requests of those that are wanted; `before` continues a list after its last id."""
    table = schema.usage
    found = sa.select(table).filter_by(**wanted.where).order_by(table.c.id.desc()).limit(most)
    if wanted.account is not None:
        found = found.filter_by(account=wanted.account)
    if wanted.start is not None:
        found = found.where(table.c.time >= wanted.start)
    if wanted.end is not None:
        found = found.where(table.c.time < wanted.end)
    if before is not None:
        found = found.where(table.c.id < before)
    return [Usage(**row) for row in connection.execute(found).mappings()]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProvider:
    """A provider, and how it came into the books.

    Attributes:
        provider: The provider, with its prices.
        source: `file` or `api`.
        updated: When it was changed last, in milliseconds since 1970.
    """

    provider: Provider
    source: str
    updated: int


def list_providers(connection: Connection) -> list[StoredProvider]:
    """All providers: those of the configuration in its order, then the others by name."""
    rows = {row.slug: row for row in connection.execute(sa.select(schema.providers))}
    return [
        StoredProvider(provider=provider, source=rows[provider.slug].source, updated=rows[provider.slug].updated)
        for provider in load_providers(connection)
    ]


def find_provider(connection: Connection, slug: str) -> StoredProvider:
    """A provider.

    Raises:
        NotFoundError: There is none.
    """
    found = next((one for one in list_providers(connection) if one.provider.slug == slug), None)
    if found is None:
        raise unknown_provider(slug)
    return found
