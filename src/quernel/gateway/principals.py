"""Who asks: from the headers of a request to an account, a key and what they may do.

What the database says is kept in memory until its revision changes, which every gateway looks at several times a
second: a key that is revoked anywhere is refused everywhere within one.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from sqlalchemy.engine import Connection

from quernel.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    QuernelError,
    UnavailableError,
)
from quernel.gateway.accounts import (
    PERMISSIONS,
    Account,
    AccountSettings,
    AccountStatus,
    create_account,
    find_account,
    memberships,
)
from quernel.gateway.database import Database
from quernel.gateway.ids import now_ms
from quernel.gateway.keys import KeyMint, KeySettings, Scope, key_id_of, note_use, verify_key
from quernel.gateway.limits import Meter
from quernel.gateway.marks import read_mark
from quernel.gateway.money import Picos
from quernel.gateway.oidc import Identity, looks_like_jwt

logger = logging.getLogger("quernel.gateway")

LOOK_SECONDS = 0.3
"""How often a gateway looks whether the database has changed."""

STALE_SECONDS = 60.0
"""How long what is in memory is believed while the database cannot be read; after that nobody is let in."""

MOST_KEPT = 20_000

IDENTITY_SECONDS = 60.0
"""How long an identity is taken for the account that it was found to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks.

    Attributes:
        account: Who pays.
        key: The id of the key; of an identity its digest.
        name: What it is called in messages and records.
        settings: What it may do, and how much.
        permissions: All that its scopes come to.
        credential: How it proved who it is: `api-key`, `oidc` or `demo`.
        user: For whom it asks, where its credential says so.
        tags: What its usage is filed under.
        meters: The limits that bind it.
    """

    account: Account
    key: str
    name: str
    settings: KeySettings
    permissions: frozenset[Scope]
    credential: str = "api-key"
    user: str = ""
    tags: tuple[str, ...] = ()
    meters: tuple[Meter, ...] = ()

    def require(self, scope: Scope) -> None:
        """Refuse what it may not do.

        Raises:
            PermissionDeniedError: It lacks the scope.
        """
        if scope not in self.permissions:
            raise PermissionDeniedError(
                f"This key lacks the scope {scope.value!r}.",
                param="key.scopes",
                hint="Ask whoever manages the account for one that has it.",
            )

    @property
    def actor(self) -> str:
        """What records of changes say."""
        return f"{self.credential}:{self.key}"


class Verifier(Protocol):
    """Verifies tokens of identity providers."""

    async def verify(self, token: str) -> Identity:
        """Who it is.

        Raises:
            AuthenticationError: The token is not accepted.
        """
        ...


def meters_of(account: Account, key: str, settings: KeySettings) -> tuple[Meter, ...]:
    """The limits that bind a request."""
    return (
        *(Meter(f"key:{key}", limit, "This key") for limit in settings.limits),
        *(Meter(f"account:{account.id}", limit, "This account") for limit in account.settings.limits),
    )


class Principals:
    """Knows who asks.

    Args:
        database: Where keys and accounts are.
        mint: Knows keys again.
        verifier: Knows tokens; `None` where none are accepted.
        welcome: The credit of an account that a token makes.
        clock: Seconds that do not go back.
    """

    def __init__(
        self,
        database: Database,
        mint: KeyMint,
        verifier: Verifier | None = None,
        *,
        welcome: Picos = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._mint = mint
        self._verifier = verifier
        self._welcome = welcome
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._revision: int | None = None
        self._looked = clock()
        self._uses: dict[str, int] = {}
        self.on_change: list[Callable[[], None]] = []

    async def find(self, credential: str) -> Principal:
        """Who has this key or token.

        Raises:
            AuthenticationError: Nobody.
            PermissionDeniedError: The account is suspended.
            UnavailableError: The database has not answered for long.
        """
        now = self._clock()
        if now - self._looked > STALE_SECONDS:
            raise UnavailableError("The gateway's database does not answer.", hint="Ask again shortly.")
        digest = self._mint.digest(credential)
        kept = self._kept.get(digest)
        if kept is None or now >= kept.until:
            kept = await self._look_up(credential, now)
            self._kept[digest] = kept
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        if isinstance(kept.found, QuernelError):
            raise kept.found
        if kept.expires is not None and now_ms() >= kept.expires:
            raise _unknown()
        self._uses[kept.found.key] = now_ms()
        return kept.found

    async def watch(self) -> None:
        """Forget what is in memory whenever the database has changed; until cancelled."""
        while True:
            with suppress(UnavailableError):
                await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """See whether the database has changed.

        Raises:
            UnavailableError: It does not answer.
        """
        started = self._clock()
        revision = await self._database.read(read_mark)
        self._looked = started
        if revision != self._revision:
            self._revision = revision
            self.forget()
            for notify in self.on_change:
                notify()

    def forget(self) -> None:
        """Look everything up anew."""
        self._kept.clear()

    async def write_uses(self) -> None:
        """Write down when keys were last used."""
        uses, self._uses = list(self._uses.items()), {}
        if uses:
            await self._database.write(lambda connection: note_use(connection, uses))

    async def _look_up(self, credential: str, now: float) -> "_Kept":
        revision = self._revision
        if self._verifier is not None and looks_like_jwt(credential):
            identity = await self._verifier.verify(credential)
            found = await self._identified(identity)
            kept = _Kept(found, until=now + IDENTITY_SECONDS, expires=int(identity.expires_at * 1000))
        elif key_id_of(credential) is None:
            return _Kept(_unknown(), until=now)
        else:
            kept = await self._database.read(lambda connection: self._keyed(connection, credential))
        # What was read while the database changed may be of before: it serves this request and no other.
        return kept if revision == self._revision else replace(kept, until=now)

    def _keyed(self, connection: Connection, credential: str) -> "_Kept":
        key = verify_key(connection, self._mint, credential, now=now_ms())
        if key is None:
            return _Kept(_unknown(), until=self._clock() + LOOK_SECONDS)
        account = find_account(connection, key.account)
        refusal = _refusal_of(account)
        if refusal is not None:
            return _Kept(refusal)
        principal = Principal(
            account=account,
            key=key.id,
            name=key.name,
            settings=key.settings,
            permissions=key.settings.permissions,
            tags=key.settings.tags,
            meters=meters_of(account, key.id, key.settings),
        )
        until = _FOREVER
        if key.rotating_until is not None and key.rotating_until > now_ms():
            until = self._clock() + (key.rotating_until - now_ms()) / 1000  # this may be the secret that ends then
        return _Kept(principal, until=until, expires=key.expires)

    async def _identified(self, identity: Identity) -> "Principal | QuernelError":
        try:
            account = await self._database.read(lambda connection: find_account(connection, identity.account))
        except NotFoundError:
            if not identity.auto_provision:
                return PermissionDeniedError(
                    f"There is no account {identity.account!r} for this token.", hint="Ask the operator to make it."
                )
            account = await self._provision(identity)
        if identity.is_by_claim and identity.issuer not in account.settings.issuers:
            # Somebody else may have the same name with an issuer as has the account here.
            return PermissionDeniedError(
                f"Tokens of {identity.issuer} may not name the account {identity.account!r}.",
                hint="The operator allows it by adding the issuer to the account's `issuers`.",
            )
        refusal = _refusal_of(account)
        if refusal is not None:
            return refusal
        subject = f"{identity.issuer}|{identity.subject}"
        roles = await self._database.read(lambda connection: memberships(connection, subject))
        permissions = frozenset(Scope(scope) for scope in identity.scopes)
        for member in roles:
            if member.account == account.id:
                permissions |= PERMISSIONS[member.role]
        key = f"oidc_{identity.digest[:24]}"
        settings = KeySettings(scopes=permissions)
        return Principal(
            account=account,
            key=key,
            name=subject,
            settings=settings,
            permissions=permissions,
            credential="oidc",
            user=identity.user or "",
            tags=identity.tags,
            meters=meters_of(account, key, settings),
        )

    async def _provision(self, identity: Identity) -> Account:
        settings = AccountSettings(issuers=(identity.issuer,) if identity.is_by_claim else ())

        def operation(connection: Connection) -> Account:
            try:
                return create_account(
                    connection, identity.account, now=now_ms(), settings=settings, welcome=self._welcome, actor="oidc"
                )
            except ConflictError:  # another request was first
                return find_account(connection, identity.account)

        return await self._database.write(operation)


_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is known of a credential: who has it, or why nobody does; how long that is believed, and when it ends."""

    found: Principal | QuernelError
    until: float = _FOREVER
    expires: int | None = None


def _unknown() -> AuthenticationError:
    return AuthenticationError("Incorrect API key provided.", hint="Keys are made in the console or by quernel keys.")


def _refusal_of(account: Account) -> QuernelError | None:
    if account.status is AccountStatus.ACTIVE:
        return None
    return PermissionDeniedError(
        f"The account {account.slug} is {account.status.value}.", param="account.status", hint="Ask the operator."
    )
