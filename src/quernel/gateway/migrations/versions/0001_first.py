"""The first form of the database."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NAME, LABEL = sa.String(64), sa.String(200)
NUMBER, SMALL, REAL = sa.BigInteger(), sa.Integer(), sa.Float()
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TRUTH, DOCUMENT, BYTES, DIGEST = sa.Boolean(), sa.JSON(), sa.LargeBinary(), sa.LargeBinary(32)


def upgrade() -> None:
    """Make all tables."""
    make_accounts()
    make_ledger()
    make_usage()
    make_providers()
    make_rest()


def make_accounts() -> None:
    """Accounts, who belongs to them, and their keys."""
    make(
        "accounts",
        must(id=NAME, slug=NAME, name=LABEL, kind=NAME, status=NAME),
        must(balance=NUMBER, held=NUMBER, spent=NUMBER, settings=DOCUMENT, created=NUMBER),
        sa.UniqueConstraint("slug", name="accounts_slug_uq"),
        primary=["id"],
    )
    make(
        "members",
        must(account=NAME, subject=LABEL, role=NAME),
        may(email=LABEL),
        must(created=NUMBER),
        account_of("members"),
        primary=["account", "subject"],
    )
    make(
        "keys",
        must(id=NAME, account=NAME, name=LABEL, digest=DIGEST),
        may(old_digest=DIGEST, old_until=NUMBER),
        must(settings=DOCUMENT),
        may(expires=NUMBER, revoked=NUMBER),
        must(created=NUMBER, created_by=LABEL),
        may(last_used=NUMBER),
        account_of("keys"),
        primary=["id"],
        indexes=[["account"]],
    )


def make_ledger() -> None:
    """Entries, holds and what limits count."""
    make(
        "entries",
        must(id=SERIAL, account=NAME, time=NUMBER, kind=NAME, amount=NUMBER, reference=LABEL, actor=LABEL),
        may(note=LABEL),
        account_of("entries"),
        sa.UniqueConstraint("account", "kind", "reference", name="entries_account_kind_reference_uq"),
        primary=["id"],
        indexes=[["account", "time"]],
    )
    make(
        "holds",
        must(id=NAME, asker=NAME, account=NAME, key=NAME, amount=NUMBER, tokens=NUMBER),
        must(counters=DOCUMENT, instance=NAME, time=NUMBER),
        account_of("holds"),
        primary=["id"],
        indexes=[["account"], ["instance"]],
    )
    make(
        "counters",
        must(subject=LABEL, period=NAME, start=NUMBER, requests=NUMBER, tokens=NUMBER, spend=NUMBER),
        primary=["subject", "period", "start"],
    )
    make(
        "replays",
        must(account=NAME, key=LABEL, fingerprint=DIGEST, generation=NAME, time=NUMBER),
        account_of("replays"),
        primary=["account", "key"],
        indexes=[["time"]],
    )


def make_usage() -> None:
    """Requests, one by one and by the hour."""
    make(
        "usage",
        must(id=NAME, time=NUMBER, account=NAME, key=NAME, user=LABEL, tags=LABEL, operation=NAME, model=LABEL),
        must(provider=NAME, status=SMALL),
        may(code=NAME),
        must(items=NUMBER, tokens=NUMBER, output_tokens=NUMBER, documents=NUMBER, cost=NUMBER, upstream_cost=NUMBER),
        must(price=NUMBER, milliseconds=REAL, upstream_milliseconds=REAL, attempts=DOCUMENT, byok=TRUTH),
        must(credential=NAME),
        account_of("usage"),
        primary=["id"],
        indexes=[["account", "time"], ["time"]],
    )
    make(
        "rollups",
        must(hour=NUMBER, account=NAME, key=NAME, user=LABEL, tags=LABEL, operation=NAME, model=LABEL),
        must(provider=NAME, credential=NAME),
        must(requests=NUMBER, errors=NUMBER, items=NUMBER, tokens=NUMBER, output_tokens=NUMBER, documents=NUMBER),
        must(cost=NUMBER, upstream_cost=NUMBER, milliseconds=REAL),
        account_of("rollups"),
        primary=["hour", "account", "key", "user", "tags", "operation", "model", "provider", "credential"],
        indexes=[["account", "hour"]],
    )


def make_providers() -> None:
    """Providers, prices, and customers' keys to them."""
    make(
        "providers",
        must(slug=NAME, document=DOCUMENT, enabled=TRUTH, source=NAME, position=sa.Integer(), updated=NUMBER),
        primary=["slug"],
    )
    make(
        "prices",
        must(id=SERIAL, provider=NAME, model=LABEL, valid_from=NUMBER),
        must(token=NUMBER, output_token=NUMBER, document=NUMBER, request=NUMBER, created=NUMBER),
        sa.UniqueConstraint("provider", "model", "valid_from", name="prices_provider_model_valid_from_uq"),
        primary=["id"],
    )
    make(
        "credentials",
        must(account=NAME, provider=NAME, ciphertext=BYTES, created=NUMBER),
        account_of("credentials"),
        primary=["account", "provider"],
    )
    make(
        "canaries",
        must(model=LABEL, number=SMALL, vector=BYTES, provider=NAME, time=NUMBER),
        primary=["model", "number"],
    )


def make_rest() -> None:
    """Gateways that run, single numbers, and who changed what."""
    make("instances", must(id=NAME, heartbeat=NUMBER), primary=["id"])
    make("marks", must(name=NAME, value=NUMBER), primary=["name"])
    make(
        "audit",
        must(id=SERIAL, time=NUMBER, actor=LABEL, action=NAME, target=LABEL, detail=DOCUMENT),
        primary=["id"],
    )


def make(table: str, *parts: Any, primary: list[str], indexes: list[list[str]] | None = None) -> None:
    """A table, with names for all that may have to be changed one day."""
    columns = [column for part in parts for column in (part if isinstance(part, list) else [part])]
    op.create_table(table, *columns, sa.PrimaryKeyConstraint(*primary, name=f"{table}_pk"))
    for names in indexes or []:
        op.create_index(f"{table}_{'_'.join(names)}_ix", table, names)


def must(**columns: Any) -> list[sa.Column[Any]]:
    """Columns that every row has."""
    return [sa.Column(name, kind, nullable=False) for name, kind in columns.items()]


def may(**columns: Any) -> list[sa.Column[Any]]:
    """Columns that a row may have."""
    return [sa.Column(name, kind, nullable=True) for name, kind in columns.items()]


def account_of(table: str) -> sa.ForeignKeyConstraint:
    """What says that the account exists."""
    return sa.ForeignKeyConstraint(["account"], ["accounts.id"], name=f"{table}_account_fk")
