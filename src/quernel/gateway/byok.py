"""Customers' own keys to providers: brought with a request, or stored and encrypted."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import InvalidRequestError, NotFoundError
from quernel.gateway import schema
from quernel.gateway.database import Database
from quernel.gateway.marks import bump
from quernel.gateway.providers import Provider
from quernel.gateway.upstream import Secret
from quernel.gateway.vault import Vault

if TYPE_CHECKING:
    from quernel.gateway.service import Ask

KEY_NAMES = ("apiKey", "api_key", "key")
"""What the key is called in a credential of the AI SDK, whichever provider it is for."""


def store_credential(connection: Connection, vault: Vault, account: str, provider: str, key: str, *, now: int) -> None:
    """Keep a customer's key to a provider, in place of the one before."""
    remove = sa.delete(schema.credentials).filter_by(account=account, provider=provider)
    connection.execute(remove)
    ciphertext = vault.lock(key, owner=f"{account}/{provider}")
    row = {"account": account, "provider": provider, "ciphertext": ciphertext, "created": now}
    connection.execute(sa.insert(schema.credentials), row)
    bump(connection)


def drop_credential(connection: Connection, account: str, provider: str) -> None:
    """Forget a customer's key.

    Raises:
        NotFoundError: There is none.
    """
    dropped = connection.execute(sa.delete(schema.credentials).filter_by(account=account, provider=provider))
    if not dropped.rowcount:
        raise NotFoundError(
            f"No key to {provider} is stored.", param="provider", hint="The list of credentials has those that are."
        )
    bump(connection)


def list_credentials(connection: Connection, account: str) -> dict[str, int]:
    """Providers to which an account has a key stored, and since when."""
    rows = connection.execute(sa.select(schema.credentials).filter_by(account=account))
    return {row.provider: row.created for row in rows}


class Wallet:
    """Finds the customer's keys for a request.

    Args:
        database: Where stored ones are.
        vault: Opens them.
    """

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._stored: dict[str, dict[str, bytes]] = {}

    def forget(self) -> None:
        """Read anew what is stored."""
        self._stored.clear()

    async def keys(self, ask: "Ask", providers: Sequence[Provider], *, zdr: bool) -> Mapping[str, Secret]:
        """The customer's keys by provider: those of the request, else those of the account; none where there are none.

        With zero data retention there are none: what a provider promises the customer is not what it promises us.

        Raises:
            InvalidRequestError: A credential of the request cannot be used.
        """
        open_to = {provider.slug for provider in providers if provider.byok}
        if not open_to or zdr:
            return {}
        brought = {slug: _key_of(slug, credentials) for slug, credentials in ask.options.byok.items()}
        wrong = set(brought) - open_to
        if wrong:
            raise InvalidRequestError(
                f"{min(wrong)} takes no keys of customers.",
                param="providerOptions.gateway.byok",
                hint=f"These do: {', '.join(sorted(open_to))}.",
            )
        if brought:
            return brought
        account = ask.principal.account.id
        if account not in self._stored:
            self._stored[account] = await self._database.read(lambda connection: _ciphertexts(connection, account))
        return {
            slug: Secret(self._vault.open(ciphertext, owner=f"{account}/{slug}"))
            for slug, ciphertext in self._stored[account].items()
            if slug in open_to
        }


def _ciphertexts(connection: Connection, account: str) -> dict[str, bytes]:
    rows = connection.execute(sa.select(schema.credentials).filter_by(account=account))
    return {row.provider: bytes(row.ciphertext) for row in rows}


def _key_of(slug: str, credentials: Sequence[Mapping[str, object]]) -> Secret:
    for credential in credentials:
        for name in KEY_NAMES:
            key = credential.get(name)
            if isinstance(key, str) and key:
                return Secret(key)
    raise InvalidRequestError(
        f"The credential for {slug} has no key.",
        param="providerOptions.gateway.byok",
        hint='Send it as {"apiKey": "..."}.',
    )
