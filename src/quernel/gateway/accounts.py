"""Accounts: who pays, who belongs to whom, and what the requests of an account may do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import ConflictError, InvalidRequestError, NotFoundError
from quernel.gateway import ledger, schema
from quernel.gateway.ids import new_id
from quernel.gateway.keys import IMPLIED, Scope
from quernel.gateway.ledger import EntryKind
from quernel.gateway.limits import Limit, parse_limits, show_limits
from quernel.gateway.marks import bump
from quernel.gateway.money import Picos
from quernel.gateway.providers import SLUG


class AccountKind(StrEnum):
    """What an account is."""

    ORGANISATION = "organisation"
    PERSON = "person"
    OPERATOR = "operator"
    """Of whoever runs the gateway."""
    DEMO = "demo"
    """Of visitors who have no key."""


class AccountStatus(StrEnum):
    """Whether an account's requests are answered."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class Role(StrEnum):
    """What a member may do for an account."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"


PERMISSIONS: Mapping[Role, frozenset[Scope]] = {
    Role.VIEWER: IMPLIED[Scope.READ],
    Role.MEMBER: IMPLIED[Scope.READ] | IMPLIED[Scope.INFER],
    Role.ADMIN: IMPLIED[Scope.MANAGE] | IMPLIED[Scope.INFER],
    Role.OWNER: IMPLIED[Scope.MANAGE] | IMPLIED[Scope.INFER],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """What the requests of an account may do, and how much.

    Attributes:
        limits: The most that it takes of a minute, day or month.
        zdr: Only providers that keep nothing.
        no_training: Only providers that do not train on requests.
        models: Models that it may ask; empty for all.
        providers: Providers that may answer it; empty for all.
        regions: Regions in which its requests may be computed; empty for all.
        issuers: Issuers whose tokens may name it by a claim.
        capture: Whether its requests and replies are written to the capture file of the gateway, if it has one.
    """

    limits: tuple[Limit, ...] = ()
    zdr: bool = False
    no_training: bool = False
    models: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    capture: bool = False

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> "AccountSettings":
        """Settings from what `shown` gives.

        Raises:
            SettingsError: A limit is none.
        """
        return cls(
            limits=parse_limits(table.get("limits", {}), place="limits"),
            zdr=bool(table.get("zdr", False)),
            no_training=bool(table.get("no_training", False)),
            models=tuple(table.get("models", ())),
            providers=tuple(table.get("providers", ())),
            regions=tuple(table.get("regions", ())),
            issuers=tuple(table.get("issuers", ())),
            capture=bool(table.get("capture", False)),
        )

    def shown(self) -> dict[str, Any]:
        """As the database and replies have it."""
        return {
            "limits": show_limits(self.limits),
            "zdr": self.zdr,
            "no_training": self.no_training,
            "models": list(self.models),
            "providers": list(self.providers),
            "regions": list(self.regions),
            "issuers": list(self.issuers),
            "capture": self.capture,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who pays.

    Attributes:
        id: Its id.
        slug: Its name in addresses and tokens.
        name: Its name for people.
        kind: What it is.
        status: Whether its requests are answered.
        settings: What they may do.
        balance: Its money, in pico-dollars.
        held: What of it requests under way have reserved.
        spent: What requests have cost.
        created: When it was made, in milliseconds since 1970.
    """

    id: str
    slug: str
    name: str
    kind: AccountKind
    status: AccountStatus
    settings: AccountSettings = field(default_factory=AccountSettings)
    balance: Picos = 0
    held: Picos = 0
    spent: Picos = 0
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who may act for an account.

    Attributes:
        account: Its id.
        subject: `issuer|subject` of an identity provider.
        role: What it may do.
        email: As its identity provider says.
        created: When it was added, in milliseconds since 1970.
    """

    account: str
    subject: str
    role: Role
    email: str | None
    created: int


def create_account(
    connection: Connection,
    slug: str,
    *,
    now: int,
    account_id: str | None = None,
    name: str = "",
    kind: AccountKind = AccountKind.ORGANISATION,
    settings: AccountSettings | None = None,
    welcome: Picos = 0,
    actor: str = "system",
) -> Account:
    """A new account, with its welcome credit.

    Args:
        connection: The transaction.
        slug: Its name in addresses and tokens.
        now: The time.
        account_id: Its id, where it is known before.
        name: Its name for people; the slug where it has none.
        kind: What it is.
        settings: What its requests may do.
        welcome: Its first credit.
        actor: Whose doing it is.

    Raises:
        InvalidRequestError: The slug is none.
        ConflictError: It is another's, or another's id.
    """
    if SLUG.fullmatch(slug) is None:
        raise InvalidRequestError(
            f"{slug!r} is no name of an account.", param="slug", hint="Use small letters, digits, dots and dashes."
        )
    table = schema.accounts.c
    if connection.execute(sa.select(table.id).where((table.slug == slug) | (table.id == slug))).first() is not None:
        raise ConflictError(f"There is an account {slug} already.", param="slug", hint="Use another slug.")
    account_id = account_id or new_id("acc")
    row = {
        "id": account_id,
        "slug": slug,
        "name": name or slug,
        "kind": kind.value,
        "status": AccountStatus.ACTIVE.value,
        "balance": 0,
        "held": 0,
        "spent": 0,
        "settings": (settings or AccountSettings()).shown(),
        "created": now,
    }
    connection.execute(sa.insert(schema.accounts), row)
    if welcome:
        ledger.enter(connection, account_id, EntryKind.GRANT, welcome, reference="welcome", actor=actor, now=now)
    return find_account(connection, account_id)


def find_account(connection: Connection, name: str) -> Account:
    """The account of that id or slug.

    Raises:
        NotFoundError: There is none.
    """
    table = schema.accounts
    row = connection.execute(sa.select(table).where((table.c.id == name) | (table.c.slug == name))).one_or_none()
    if row is None:
        raise unknown_account(name)
    return _account(row)


def unknown_account(name: str) -> NotFoundError:
    """The error where there is no account of that name, or none to see."""
    return NotFoundError(f"There is no account {name}.", param="account", hint="Use the id or slug of an account.")


def list_accounts(connection: Connection, *, most: int, after: str | None = None) -> list[Account]:
    """Accounts by slug; `after` continues a list after its last slug."""
    found = sa.select(schema.accounts).order_by(schema.accounts.c.slug).limit(most)
    if after is not None:
        found = found.where(schema.accounts.c.slug > after)
    return [_account(row) for row in connection.execute(found)]


def change_account(
    connection: Connection,
    name: str,
    *,
    title: str | None = None,
    status: AccountStatus | None = None,
    settings: AccountSettings | None = None,
) -> Account:
    """Rename an account, suspend it, or change what its requests may do.

    Raises:
        NotFoundError: There is none.
    """
    account = find_account(connection, name)
    changes: dict[str, Any] = {}
    if title is not None:
        changes["name"] = title
    if status is not None:
        changes["status"] = status.value
    if settings is not None:
        changes["settings"] = settings.shown()
    if changes:
        connection.execute(sa.update(schema.accounts).filter_by(id=account.id).values(changes))
        bump(connection)
    return find_account(connection, account.id)


def set_member(
    connection: Connection, account: str, subject: str, role: Role, *, now: int, email: str | None = None
) -> Member:
    """Let somebody act for an account, or change what they may do.

    Raises:
        NotFoundError: There is no such account.
        ConflictError: It would leave the account without an owner.
    """
    ledger.lock(connection, account)
    members = schema.members
    before = [member for member in list_members(connection, account) if member.subject == subject]
    if before:
        if role is not Role.OWNER:
            _require_other_owner(connection, account, subject)
        changed = sa.update(members).filter_by(account=account, subject=subject)
        connection.execute(changed.values(role=role.value, email=email or before[0].email))
    else:
        row = {"account": account, "subject": subject, "role": role.value, "email": email, "created": now}
        connection.execute(sa.insert(members), row)
    bump(connection)
    return next(member for member in list_members(connection, account) if member.subject == subject)


def remove_member(connection: Connection, account: str, subject: str) -> None:
    """Let somebody no longer act for an account.

    Raises:
        NotFoundError: They could not.
        ConflictError: It would leave the account without an owner.
    """
    ledger.lock(connection, account)
    _require_other_owner(connection, account, subject)
    removed = connection.execute(sa.delete(schema.members).filter_by(account=account, subject=subject))
    if not removed.rowcount:
        raise NotFoundError(
            f"{subject} is no member of this account.", param="subject", hint="The list of members has their subjects."
        )
    bump(connection)


def list_members(connection: Connection, account: str) -> list[Member]:
    """Who may act for an account."""
    found = sa.select(schema.members).filter_by(account=account).order_by(schema.members.c.created)
    return [Member(**{**row._mapping, "role": Role(row.role)}) for row in connection.execute(found)]


def memberships(connection: Connection, subject: str) -> list[Member]:
    """The accounts that somebody may act for."""
    found = sa.select(schema.members).filter_by(subject=subject).order_by(schema.members.c.created)
    return [Member(**{**row._mapping, "role": Role(row.role)}) for row in connection.execute(found)]


def _require_other_owner(connection: Connection, account: str, subject: str) -> None:
    owners = [member.subject for member in list_members(connection, account) if member.role is Role.OWNER]
    if owners == [subject]:
        raise ConflictError("This is the only owner of the account.", hint="Make somebody else an owner first.")


def _account(row: Any) -> Account:
    return Account(
        id=row.id,
        slug=row.slug,
        name=row.name,
        kind=AccountKind(row.kind),
        status=AccountStatus(row.status),
        settings=AccountSettings.parse(row.settings),
        balance=row.balance,
        held=row.held,
        spent=row.spent,
        created=row.created,
    )
