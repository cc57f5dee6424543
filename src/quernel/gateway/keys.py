"""API keys: how they are made, kept and known again.

    quernel_<id: 10 letters>_<secret: 52 letters><checksum: 7 letters>

The secret has 256 random bits, so a slow hash would protect nothing: what is stored is an HMAC under a pepper that is
not in the database. The prefix lets secret scanners know a key, and the checksum lets a mistyped one be refused before
anything is looked up.
"""

import hashlib
import hmac
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from msgspec import UNSET, UnsetType
from sqlalchemy.engine import Connection

from quernel.errors import ConflictError, InvalidRequestError, NotFoundError
from quernel.gateway import schema
from quernel.gateway.ids import base32
from quernel.gateway.limits import Limit, parse_limits, show_limits
from quernel.gateway.marks import bump
from quernel.protocols.gateway_admin import LAST_MOMENT, LONGEST_GRACE_SECONDS, format_time

PREFIX = "quernel_"
ID_LETTERS, SECRET_LETTERS, CHECKSUM_LETTERS = 10, 52, 7

KEY = re.compile(
    rf"quernel_(?P<id>[0-9a-z]{{{ID_LETTERS}}})_[0-9a-z]{{{SECRET_LETTERS}}}[0-9a-z]{{{CHECKSUM_LETTERS}}}", re.ASCII
)

ID_BITS, SECRET_BITS = 50, 256


class Scope(StrEnum):
    """What a key may do."""

    INFER = "infer"
    """Ask models."""
    READ = "read"
    """See the account's keys, money and usage."""
    MANAGE = "manage"
    """Make and revoke the account's keys, and change its settings and members."""
    METRICS = "metrics"
    """Read `/metrics`, which is of all accounts together: for Prometheus, and nothing else."""
    OPERATE = "operate"
    """Everything, for every account, and providers and prices: the operator's."""


IMPLIED: Mapping[Scope, frozenset[Scope]] = {
    Scope.INFER: frozenset({Scope.INFER}),
    Scope.READ: frozenset({Scope.READ}),
    Scope.MANAGE: frozenset({Scope.READ, Scope.MANAGE}),
    Scope.METRICS: frozenset({Scope.METRICS}),
    Scope.OPERATE: frozenset(Scope),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """What a key may do, and how much.

    Attributes:
        scopes: What it may do.
        models: Models that it may ask; empty for all.
        providers: Providers that may answer it; empty for all.
        limits: The most that it takes of a minute, day or month.
        zdr: Only providers that keep nothing.
        no_training: Only providers that do not train on requests.
        tags: What its usage is filed under.
    """

    scopes: frozenset[Scope] = frozenset({Scope.INFER})
    models: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    zdr: bool = False
    no_training: bool = False
    tags: tuple[str, ...] = ()

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> "KeySettings":
        """Settings from what `shown` gives.

        Raises:
            SettingsError: A limit is none.
            InvalidRequestError: No such scope.
        """
        unknown = [scope for scope in table.get("scopes", ()) if scope not in set(Scope)]
        if unknown:
            raise InvalidRequestError(
                f"There is no scope {unknown[0]!r}.", param="scopes", hint=f"Scopes: {', '.join(Scope)}."
            )
        return cls(
            scopes=frozenset(Scope(scope) for scope in table.get("scopes", (Scope.INFER,))),
            models=tuple(table.get("models", ())),
            providers=tuple(table.get("providers", ())),
            limits=parse_limits(table.get("limits", {}), place="limits"),
            zdr=bool(table.get("zdr", False)),
            no_training=bool(table.get("no_training", False)),
            tags=tuple(table.get("tags", ())),
        )

    def shown(self) -> dict[str, Any]:
        """As the database and replies have it."""
        return {
            "scopes": sorted(self.scopes),
            "models": list(self.models),
            "providers": list(self.providers),
            "limits": show_limits(self.limits),
            "zdr": self.zdr,
            "no_training": self.no_training,
            "tags": list(self.tags),
        }

    @property
    def permissions(self) -> frozenset[Scope]:
        """All that its scopes come to."""
        return frozenset().union(*(IMPLIED[scope] for scope in self.scopes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key, without its secret.

    Attributes:
        id: Its id, which is a part of it.
        account: Whose it is.
        name: What it is for, in its maker's words.
        settings: What it may do.
        created: When it was made, in milliseconds since 1970; so are the other times.
        created_by: Who made it.
        expires: When it ends; `None` for never.
        revoked: When it was ended; `None` where it was not.
        rotating_until: Until when the one before the last rotation is good, too.
        last_used: About when it was last used.
    """

    id: str
    account: str
    name: str
    settings: KeySettings = field(default_factory=KeySettings)
    created: int
    created_by: str
    expires: int | None = None
    revoked: int | None = None
    rotating_until: int | None = None
    last_used: int | None = None

    @property
    def prefix(self) -> str:
        """How its owner recognises it."""
        return f"{PREFIX}{self.id}"

    @property
    def place(self) -> "Place":
        """Where it stands in a list."""
        return self.created, self.id

    def is_valid(self, now: int) -> bool:
        """Whether it opens anything."""
        return self.revoked is None and (self.expires is None or now < self.expires)


Place: TypeAlias = tuple[int, str]
"""Where a key stands in a list: when it was made, and its id."""


class Minted(NamedTuple):
    """A key, or a new secret of one, before it is in the database.

    It is drawn before the operation that writes it: an operation may be repeated, and must then find what it wrote.

    Attributes:
        id: The key's id.
        text: The key itself, which is shown once.
        digest: What is kept of it.
    """

    id: str
    text: str
    digest: bytes


class KeyMint:
    """Makes keys and their digests.

    Args:
        pepper: At least 32 random bytes that are not in the database.
    """

    def __init__(self, pepper: bytes) -> None:
        assert len(pepper) >= 32, "whoever reads the pepper checks it"
        self._pepper = pepper

    def new(self, key_id: str | None = None) -> Minted:
        """A new key.

        Args:
            key_id: Of the key whose secret is to be replaced.
        """
        key_id = base32(int.from_bytes(os.urandom(8)) >> 64 - ID_BITS, ID_LETTERS) if key_id is None else key_id
        secret = base32(int.from_bytes(os.urandom(SECRET_BITS // 8)), SECRET_LETTERS)
        body = f"{PREFIX}{key_id}_{secret}"
        text = body + _checksum(body)
        return Minted(key_id, text, self.digest(text))

    def digest(self, text: str) -> bytes:
        """What is kept of a key, or of anything that must be known again and not read."""
        return hmac.digest(self._pepper, text.encode("utf-8", "surrogatepass"), hashlib.sha256)


def key_id_of(text: str) -> str | None:
    """The id in a key; `None` where it is no key, or mistyped."""
    matched = KEY.fullmatch(text)
    if matched is None or not hmac.compare_digest(_checksum(text[:-CHECKSUM_LETTERS]), text[-CHECKSUM_LETTERS:]):
        return None
    return matched["id"]


def _checksum(body: str) -> str:
    return base32(zlib.crc32(body.encode()), CHECKSUM_LETTERS)


def create_key(
    connection: Connection,
    minted: Minted,
    account: str,
    name: str,
    settings: KeySettings,
    *,
    created_by: str,
    now: int,
    expires: int | None = None,
) -> Key:
    """A new key.

    Raises:
        InvalidRequestError: It would have expired already, or ends in no year that is written with four digits.
    """
    _require_future(expires, now)
    row = {
        "id": minted.id,
        "account": account,
        "name": name,
        "digest": minted.digest,
        "settings": settings.shown(),
        "expires": expires,
        "created": now,
        "created_by": created_by,
    }
    connection.execute(sa.insert(schema.keys), row)
    return find_key(connection, minted.id)


def _require_future(expires: int | None, now: int) -> None:
    if expires is not None and expires <= now:
        raise InvalidRequestError(
            f"expires is {format_time(expires)}, which is in the past.", param="expires", hint="Name a later moment."
        )
    if expires is not None and expires > LAST_MOMENT:
        raise InvalidRequestError(
            "expires is after the year 9999.", param="expires", hint="A key that nobody gives an end never expires."
        )


def find_minted(connection: Connection, minted: Minted) -> Key | None:
    """The key that has this secret already, which an operation finds that is repeated; `None` before it was written."""
    row = connection.execute(_FIND, {"key": minted.id}).one_or_none()
    return _key(row) if row is not None and minted.digest in (row.digest, row.old_digest) else None


def find_key(connection: Connection, key_id: str, account: str | None = None) -> Key:
    """A key.

    Args:
        connection: The transaction.
        key_id: Its id.
        account: Whose it must be; `None` for anybody's.

    Raises:
        NotFoundError: There is none, or it is another's.
    """
    return _key(_row(connection, key_id, account))


def list_keys(
    connection: Connection, account: str | None = None, *, most: int, before: Place | None = None
) -> list[Key]:
    """The latest keys, of an account or of all; `before` continues a list after its last place."""
    created, key_id = schema.keys.c.created, schema.keys.c.id
    found = sa.select(schema.keys).order_by(created.desc(), key_id.desc()).limit(most)
    if account is not None:
        found = found.filter_by(account=account)
    if before is not None:
        found = found.where(sa.tuple_(created, key_id) < before)
    return [_key(row) for row in connection.execute(found)]


def change_key(
    connection: Connection,
    key_id: str,
    account: str | None,
    *,
    now: int,
    name: str | None = None,
    settings: KeySettings | None = None,
    expires: int | UnsetType | None = UNSET,
) -> Key:
    """Rename a key, or change what it may do, or until when; `expires` is `None` for ever.

    Raises:
        NotFoundError: There is none, or it is another's.
        InvalidRequestError: It would have expired already, or ends in no year that is written with four digits.
    """
    key = find_key(connection, key_id, account)
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name
    if settings is not None:
        changes["settings"] = settings.shown()
    if expires is not UNSET:
        _require_future(expires, now)
        changes["expires"] = expires
    if changes:
        connection.execute(sa.update(schema.keys).filter_by(id=key.id).values(changes))
        bump(connection)
    return find_key(connection, key_id, account)


def rotate_key(connection: Connection, minted: Minted, account: str | None, *, grace_seconds: int, now: int) -> Key:
    """A key with a new secret; the old one stays good for a while.

    Raises:
        NotFoundError: There is none of that id, or it is another's.
        ConflictError: It was revoked, or has expired.
        InvalidRequestError: The while is longer than any may be.
    """
    if not 0 <= grace_seconds <= LONGEST_GRACE_SECONDS:
        raise InvalidRequestError(
            f"grace is {grace_seconds} seconds, and at most {LONGEST_GRACE_SECONDS} may be.",
            param="grace_seconds",
            hint="Rotate the key again later, or make another one.",
        )
    row = _row(connection, minted.id, account, lock=True)
    if not _key(row).is_valid(now):
        raise ConflictError(f"The key {minted.id} is no longer good.", param="key", hint="Make a new one.")
    changes = {"digest": minted.digest, "old_digest": row.digest, "old_until": now + 1000 * grace_seconds}
    connection.execute(sa.update(schema.keys).filter_by(id=minted.id).values(changes))
    bump(connection)
    return find_key(connection, minted.id, account)


def revoke_key(connection: Connection, key_id: str, account: str | None, *, now: int) -> Key:
    """End a key, for good. Every gateway knows within a second.

    Raises:
        NotFoundError: There is none, or it is another's.
    """
    key = find_key(connection, key_id, account)
    if key.revoked is None:
        connection.execute(sa.update(schema.keys).filter_by(id=key_id).values(revoked=now))
        bump(connection)
    return find_key(connection, key_id, account)


def verify_key(connection: Connection, mint: KeyMint, text: str, *, now: int) -> Key | None:
    """The key that a text is; `None` where it is none that opens anything."""
    key_id = key_id_of(text)
    if key_id is None:
        return None
    row = connection.execute(_FIND, {"key": key_id}).one_or_none()
    digest = mint.digest(text)
    # An id that there is not is compared too, so that time tells nothing.
    current = b"\0" * len(digest) if row is None else row.digest
    is_current = hmac.compare_digest(digest, current)
    is_old = hmac.compare_digest(digest, current if row is None or row.old_digest is None else row.old_digest)
    if row is None or not (is_current or (is_old and row.old_until is not None and now < row.old_until)):
        return None
    key = _key(row)
    return key if key.is_valid(now) else None


def note_use(connection: Connection, uses: Sequence[tuple[str, int]]) -> None:
    """Write down when keys were last used."""
    for key_id, moment in uses:
        connection.execute(sa.update(schema.keys).filter_by(id=key_id).values(last_used=moment))


_FIND = sa.select(schema.keys).where(schema.keys.c.id == sa.bindparam("key"))


def _row(connection: Connection, key_id: str, account: str | None, *, lock: bool = False) -> Any:
    row = connection.execute(_FIND.with_for_update() if lock else _FIND, {"key": key_id}).one_or_none()
    if row is None or account not in (None, row.account):
        raise NotFoundError(f"There is no key {key_id}.", param="key", hint="The list of keys has their ids.")
    return row


def _key(row: Any) -> Key:
    return Key(
        id=row.id,
        account=row.account,
        name=row.name,
        settings=KeySettings.parse(row.settings),
        created=row.created,
        created_by=row.created_by,
        expires=row.expires,
        revoked=row.revoked,
        rotating_until=row.old_until,
        last_used=row.last_used,
    )
