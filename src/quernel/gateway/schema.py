"""The tables, the same for SQLite and PostgreSQL.

Money is in pico-dollars, times are milliseconds since 1970, names are those of `quernel.gateway.ids`. No table has room
for a text of a user's: what was asked and answered is kept nowhere. `entries` only grows, and is where money is:
`accounts.balance` is the sum of an account's entries, `spent` that of its charges, `held` that of its holds, at the end
of every transaction.
"""

import sqlalchemy as sa

NAME = sa.String(64)
"""A name of ours or of a provider."""

LABEL = sa.String(200)
"""What people write: the name of an account, a tag, a model."""

TIME = sa.BigInteger
MONEY = sa.BigInteger
COUNT = sa.BigInteger

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "ix": "%(table_name)s_%(column_0_N_name)s_ix",
        "uq": "%(table_name)s_%(column_0_N_name)s_uq",
    }
)


def _account() -> sa.Column[str]:
    return sa.Column("account", NAME, sa.ForeignKey("accounts.id"), nullable=False)


def _required(name: str, kind: object) -> sa.Column[object]:
    return sa.Column(name, kind, nullable=False)  # type: ignore[arg-type]


accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("slug", NAME, nullable=False, unique=True),
    _required("name", LABEL),
    _required("kind", NAME),
    _required("status", NAME),
    _required("balance", MONEY),
    _required("held", MONEY),
    _required("spent", MONEY),
    _required("settings", sa.JSON),
    _required("created", TIME),
)
"""Who pays. `settings` holds its limits and what its requests may do (`quernel.gateway.accounts`)."""

members = sa.Table(
    "members",
    metadata,
    _account(),
    sa.Column("subject", LABEL, nullable=False),
    _required("role", NAME),
    sa.Column("email", LABEL),
    _required("created", TIME),
    sa.PrimaryKeyConstraint("account", "subject"),
)
"""Who may act for an account: `issuer|subject` of an identity provider."""

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    _account(),
    _required("name", LABEL),
    _required("digest", sa.LargeBinary(32)),
    sa.Column("old_digest", sa.LargeBinary(32)),
    sa.Column("old_until", TIME),
    _required("settings", sa.JSON),
    sa.Column("expires", TIME),
    sa.Column("revoked", TIME),
    _required("created", TIME),
    _required("created_by", LABEL),
    sa.Column("last_used", TIME),
    sa.Index(None, "account"),
)
"""API keys: the digest, never the key. `old_digest` is that of before a rotation, good until `old_until`."""

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _account(),
    _required("time", TIME),
    _required("kind", NAME),
    _required("amount", MONEY),
    _required("reference", LABEL),
    _required("actor", LABEL),
    sa.Column("note", LABEL),
    sa.UniqueConstraint("account", "kind", "reference"),
    sa.Index(None, "account", "time"),
)
"""The ledger. `reference` makes an entry happen once: the generation it pays for, or a caller's idempotency key."""

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    _required("asker", NAME),
    _account(),
    _required("key", NAME),
    _required("amount", MONEY),
    _required("tokens", COUNT),
    _required("counters", sa.JSON),
    _required("instance", NAME),
    _required("time", TIME),
    sa.Index(None, "account"),
    sa.Index(None, "instance"),
)
"""Money that requests under way have taken and not yet paid."""

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("subject", LABEL, nullable=False),
    sa.Column("period", NAME, nullable=False),
    sa.Column("start", TIME, nullable=False),
    _required("requests", COUNT),
    _required("tokens", COUNT),
    _required("spend", MONEY),
    sa.PrimaryKeyConstraint("subject", "period", "start"),
)
"""What a key, an account or an address has used in a minute, day or month; only where it has a limit."""

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    _required("time", TIME),
    _account(),
    _required("key", NAME),
    _required("user", LABEL),
    _required("tags", LABEL),
    _required("operation", NAME),
    _required("model", LABEL),
    _required("provider", NAME),
    _required("status", sa.Integer),
    sa.Column("code", NAME),
    _required("items", COUNT),
    _required("tokens", COUNT),
    _required("output_tokens", COUNT),
    _required("documents", COUNT),
    _required("cost", MONEY),
    _required("upstream_cost", MONEY),
    _required("price", sa.BigInteger),
    _required("milliseconds", sa.Float),
    _required("upstream_milliseconds", sa.Float),
    _required("attempts", sa.JSON),
    _required("byok", sa.Boolean),
    _required("credential", NAME),
    sa.Index(None, "account", "time"),
    sa.Index(None, "time"),
)
"""One row a request: how much, by whom, where, never what."""

rollups = sa.Table(
    "rollups",
    metadata,
    sa.Column("hour", TIME, nullable=False),
    _account(),
    sa.Column("key", NAME, nullable=False),
    sa.Column("user", LABEL, nullable=False),
    sa.Column("tags", LABEL, nullable=False),
    sa.Column("operation", NAME, nullable=False),
    sa.Column("model", LABEL, nullable=False),
    sa.Column("provider", NAME, nullable=False),
    sa.Column("credential", NAME, nullable=False),
    _required("requests", COUNT),
    _required("errors", COUNT),
    _required("items", COUNT),
    _required("tokens", COUNT),
    _required("output_tokens", COUNT),
    _required("documents", COUNT),
    _required("cost", MONEY),
    _required("upstream_cost", MONEY),
    _required("milliseconds", sa.Float),
    sa.PrimaryKeyConstraint("hour", "account", "key", "user", "tags", "operation", "model", "provider", "credential"),
    sa.Index(None, "account", "hour"),
)
"""Usage by the hour, which is kept when its rows are not; of days that are long over, at their first hour."""

providers = sa.Table(
    "providers",
    metadata,
    sa.Column("slug", NAME, primary_key=True),
    _required("document", sa.JSON),
    _required("enabled", sa.Boolean),
    _required("source", NAME),
    _required("position", sa.Integer),
    _required("updated", TIME),
)
"""Providers as `quernel.gateway.providers` reads them, in the operator's order; `source` is `file` or `api`."""

prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _required("provider", NAME),
    _required("model", LABEL),
    _required("valid_from", TIME),
    _required("token", MONEY),
    _required("output_token", MONEY),
    _required("document", MONEY),
    _required("request", MONEY),
    _required("created", TIME),
    sa.UniqueConstraint("provider", "model", "valid_from"),
)
"""Prices and from when they hold. A row is never changed: usage names the one it was paid by."""

credentials = sa.Table(
    "credentials",
    metadata,
    _account(),
    sa.Column("provider", NAME, nullable=False),
    _required("ciphertext", sa.LargeBinary),
    _required("created", TIME),
    sa.PrimaryKeyConstraint("account", "provider"),
)
"""Customers' own keys to providers, encrypted."""

replays = sa.Table(
    "replays",
    metadata,
    _account(),
    sa.Column("key", LABEL, nullable=False),
    _required("fingerprint", sa.LargeBinary(32)),
    _required("generation", NAME),
    _required("time", TIME),
    sa.PrimaryKeyConstraint("account", "key"),
    sa.Index(None, "time"),
)
"""Idempotency keys: which request each stands for, as a keyed digest of its body."""

canaries = sa.Table(
    "canaries",
    metadata,
    sa.Column("model", LABEL, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    _required("vector", sa.LargeBinary),
    _required("provider", NAME),
    _required("time", TIME),
    sa.PrimaryKeyConstraint("model", "number"),
)
"""What the fixed texts of `quernel.gateway.canary` come to, by the provider that every other is compared with."""

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    _required("heartbeat", TIME),
)
"""Gateways that run, so that the holds of one that died are found."""

marks = sa.Table(
    "marks",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    _required("value", sa.BigInteger),
)
"""Single numbers: the revision of what gateways keep in memory, until when usage is rolled up."""

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _required("time", TIME),
    _required("actor", LABEL),
    _required("action", NAME),
    _required("target", LABEL),
    _required("detail", sa.JSON),
)
"""Who changed what."""
