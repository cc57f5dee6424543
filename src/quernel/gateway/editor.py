"""Changes that people make to the books, each with its line in the audit."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import sqlalchemy as sa
from msgspec import UNSET, UnsetType
from sqlalchemy.engine import Connection

from quernel.errors import InvalidRequestError, NotFoundError, SettingsError
from quernel.gateway import accounts, byok, keys, ledger, provider_store, schema
from quernel.gateway.accounts import Account, AccountKind, AccountSettings, AccountStatus, Member, Role
from quernel.gateway.audit import note_change
from quernel.gateway.canary import reset_canaries
from quernel.gateway.keys import Key, KeySettings, Minted
from quernel.gateway.ledger import EntryKind
from quernel.gateway.marks import bump
from quernel.gateway.money import Picos, Price, format_dollars
from quernel.gateway.provider_store import API
from quernel.gateway.providers import Provider
from quernel.gateway.registry import KNOWN_FORMATS
from quernel.gateway.usage import TAG_SEPARATOR, plain_tags
from quernel.gateway.vault import Vault
from quernel.protocols.gateway_admin import MOST_LABEL, format_time

UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of characters, which are no part of a name, and which no database need take."""

LABELS = ("models", "providers", "regions", "issuers", "tags")
"""Settings of keys and accounts that are lists of names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Editor:
    """Changes the books for somebody, in one transaction.

    Attributes:
        connection: The transaction.
        actor: Whose doing it is: `api-key:ID`, `oidc:ID` or `cli:USER`.
        now: The time, in milliseconds since 1970.
    """

    connection: Connection
    actor: str
    now: int

    def __post_init__(self) -> None:
        _require_fitting(schema.audit, actor=self.actor)

    def create_key(
        self, minted: Minted, account: str, name: str, settings: KeySettings, *, expires: int | None = None
    ) -> Key:
        """A new key; where the operation is repeated, the one that it made. Errors as `keys.create_key`."""
        _require_words(name=name)
        _require_fitting(schema.keys, name=name)
        _require_labels(settings.shown())
        made = keys.find_minted(self.connection, minted)
        if made is not None:
            return made
        key = keys.create_key(
            self.connection,
            minted,
            account,
            name,
            settings,
            created_by=self.actor,
            now=self.now,
            expires=expires,
        )
        ends = None if expires is None else format_time(expires)
        self._note("key.create", key.id, {"account": account, "name": name, "expires": ends, **settings.shown()})
        return key

    def change_key(
        self,
        key_id: str,
        account: str | None,
        *,
        name: str | None = None,
        rules: Mapping[str, Any] | None = None,
        expires: int | UnsetType | None = UNSET,
    ) -> Key:
        """A key with another name or end, or with some of its settings replaced.

        Args:
            key_id: Its id.
            account: Whose it must be; `None` for anybody's.
            name: What it is for.
            rules: Its settings that are to be others.
            expires: When it ends; `None` for never.

        Raises:
            NotFoundError: There is none, or it is another's.
            InvalidRequestError: No such scope, or an end in the past.
            SettingsError: A limit is none.
        """
        _require_words(name=name)
        _require_fitting(schema.keys, name=name)
        _require_labels(rules or {})
        before = keys.find_key(self.connection, key_id, account)
        settings = KeySettings.parse({**before.settings.shown(), **rules}) if rules else None
        key = keys.change_key(
            self.connection, key_id, account, now=self.now, name=name, settings=settings, expires=expires
        )
        detail: dict[str, Any] = {} if name is None else {"name": name}
        if expires is not UNSET:
            detail["expires"] = None if expires is None else format_time(expires)
        self._note("key.change", key.id, detail | dict(rules or {}))
        return key

    def rotate_key(self, minted: Minted, account: str | None, *, grace_seconds: int) -> Key:
        """A key with a new secret; where the operation is repeated, as it left it. Errors as `keys.rotate_key`."""
        made = keys.find_minted(self.connection, minted)
        if made is not None:
            return made
        key = keys.rotate_key(self.connection, minted, account, grace_seconds=grace_seconds, now=self.now)
        self._note("key.rotate", key.id, {"grace_seconds": grace_seconds})
        return key

    def revoke_key(self, key_id: str, account: str | None) -> Key:
        """End a key, for good.

        Raises:
            NotFoundError: There is none, or it is another's.
        """
        key = keys.revoke_key(self.connection, key_id, account, now=self.now)
        self._note("key.revoke", key.id, {"name": key.name})
        return key

    def create_account(
        self,
        slug: str,
        *,
        account_id: str,
        name: str = "",
        kind: AccountKind = AccountKind.ORGANISATION,
        settings: AccountSettings | None = None,
        welcome: Picos = 0,
    ) -> Account:
        """A new account of this id, with its welcome credit; where the operation is repeated, the one that it made.

        Errors as `accounts.create_account`.
        """
        _require_fitting(schema.accounts, slug=slug, name=name)
        _require_labels({} if settings is None else settings.shown())
        with suppress(NotFoundError):
            return accounts.find_account(self.connection, account_id)
        account = accounts.create_account(
            self.connection,
            slug,
            now=self.now,
            account_id=account_id,
            name=name,
            kind=kind,
            settings=settings,
            welcome=welcome,
            actor=self.actor,
        )
        bump(self.connection)  # gateways may have found that a token's account is not there
        detail = {"slug": slug, "name": account.name, "kind": kind.value, "welcome": format_dollars(welcome)}
        self._note("account.create", account.id, detail | account.settings.shown())
        return account

    def change_account(
        self,
        account: str,
        *,
        name: str | None = None,
        status: AccountStatus | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> Account:
        """An account with another name or status, or with some of its settings replaced.

        Raises:
            NotFoundError: There is none.
            SettingsError: A limit is none.
        """
        _require_words(name=name)
        _require_fitting(schema.accounts, name=name)
        _require_labels(rules or {})
        before = accounts.find_account(self.connection, account)
        settings = AccountSettings.parse({**before.settings.shown(), **rules}) if rules else None
        changed = accounts.change_account(self.connection, account, title=name, status=status, settings=settings)
        said = {"name": name, "status": None if status is None else status.value}
        detail = {field: value for field, value in said.items() if value is not None}
        self._note("account.change", changed.id, detail | dict(rules or {}))
        return changed

    def credit(self, account: str, kind: EntryKind, amount: Picos, *, reference: str, note: str | None = None) -> bool:
        """Add money to an account, or take it, once for each reference.

        Returns:
            Whether it was done now; `False` where it was before.

        Raises:
            NotFoundError: No such account.
            InvalidRequestError: The amount is none of its kind, or more than a ledger holds.
            ConflictError: The reference stands for another amount.
        """
        _require_words(reference=reference)
        _require_fitting(schema.entries, reference=reference, note=note)
        if amount == 0 or (amount < 0 and kind is not EntryKind.ADJUSTMENT):
            raise InvalidRequestError(
                f"amount is {format_dollars(amount)}.",
                param="amount",
                hint="Name one above zero; only an adjustment may be below.",
            )
        entered = ledger.enter(
            self.connection,
            account,
            kind,
            amount,
            reference=reference,
            actor=self.actor,
            now=self.now,
            note=note,
        )
        if entered:
            detail = {"kind": kind.value, "amount": format_dollars(amount), "reference": reference, "note": note}
            self._note("account.credit", account, detail)
        return entered

    def set_member(self, account: str, subject: str, role: Role, *, email: str | None = None) -> Member:
        """Let somebody act for an account, or change what they may do.

        Raises:
            InvalidRequestError: The subject names no issuer.
            QuernelError: As `accounts.set_member` raises.
        """
        _require_words(subject=subject)
        _require_fitting(schema.members, subject=subject, email=email)
        if not all(subject.partition("|")):
            raise InvalidRequestError(
                f"{subject} names nobody at an issuer.",
                param="subject",
                hint="Write the issuer's name here, a bar, and their subject there: google|1093.",
            )
        member = accounts.set_member(self.connection, account, subject, role, now=self.now, email=email)
        self._note("member.set", account, {"subject": subject, "role": role.value, "email": member.email})
        return member

    def remove_member(self, account: str, subject: str) -> None:
        """Let somebody no longer act for an account. Errors as `accounts.remove_member`."""
        accounts.remove_member(self.connection, account, subject)
        self._note("member.remove", account, {"subject": subject})

    def store_credential(self, vault: Vault, account: str, provider: str, key: str) -> None:
        """Keep a customer's key to a provider, in place of the one before."""
        byok.store_credential(self.connection, vault, account, provider, key, now=self.now)
        self._note("credential.store", account, {"provider": provider})

    def drop_credential(self, account: str, provider: str) -> None:
        """Forget a customer's key to a provider. Errors as `byok.drop_credential`."""
        byok.drop_credential(self.connection, account, provider)
        self._note("credential.drop", account, {"provider": provider})

    def save_provider(self, table: Mapping[str, Any]) -> Provider:
        """A provider, new or in place of the one of its slug.

        Raises:
            SettingsError: The table describes none.
            ConflictError: A price of it was another, or the provider is the configuration file's.
        """
        form = table.get("format")
        if isinstance(form, str) and form not in KNOWN_FORMATS:
            raise SettingsError(f"format is {form!r}.", param="format", hint=f"Known: {', '.join(KNOWN_FORMATS)}.")
        provider = provider_store.save_provider(self.connection, table, source=API, now=self.now)
        self._note("provider.save", provider.slug, _described(provider))
        return provider

    def remove_provider(self, slug: str) -> None:
        """Take a provider out. Errors as `provider_store.remove_provider`."""
        provider_store.remove_provider(self.connection, slug)
        self._note("provider.remove", slug, {})

    def switch_provider(self, slug: str, *, enabled: bool) -> None:
        """Ask a provider, or ask it no more. Errors as `provider_store.switch_provider`."""
        provider_store.switch_provider(self.connection, slug, enabled=enabled)
        self._note("provider.switch", slug, {"enabled": enabled})

    def reset_canaries(self, model: str) -> None:
        """Forget the vectors that providers of a model are compared with; the next look stores and compares anew.

        Raises:
            NotFoundError: None are stored.
        """
        if not reset_canaries(self.connection, model):
            raise NotFoundError(f"No vectors of {model} are stored.", param="model", hint="Use its name, no alias.")
        self._note("canaries.reset", model, {})

    def add_price(self, slug: str, model: str, price: Price) -> Price:
        """A new price, from when it says. Errors as `provider_store.add_price`."""
        added = provider_store.add_price(self.connection, slug, model, price, now=self.now)
        detail = {"model": model, "price": added.id, "from": format_time(added.valid_from)}
        units = {"token": added.token, "output_token": added.output_token}
        units |= {"document": added.document, "request": added.request}
        self._note("price.add", slug, detail | {unit: format_dollars(amount) for unit, amount in units.items()})
        return added

    def _note(self, action: str, target: str, detail: Mapping[str, Any]) -> None:
        note_change(self.connection, actor=self.actor, action=action, target=target, detail=detail, now=self.now)


def _require_fitting(table: sa.Table, **texts: str | None) -> None:
    """Refuse what a column does not hold. SQLite would take it, and PostgreSQL fail.

    Args:
        table: The table.
        **texts: Column to what is to be written into it.

    Raises:
        InvalidRequestError: With the name of the text.
    """
    for name, text in texts.items():
        most = cast("sa.String", table.c[name].type).length
        assert most is not None, "all our texts have one"
        if text is not None:
            _require_short(name, text, most)


def _require_labels(rules: Mapping[str, Any]) -> None:
    """Refuse names in settings that are longer than those of what they name can be, or cannot be shown.

    Tags must fit together into the column of a request's: what is over would be left out each time.

    Args:
        rules: As the settings of a key or account are shown.

    Raises:
        InvalidRequestError: With the name of the setting.
    """
    for name in LABELS:
        for label in rules.get(name, ()):
            _require_short(name, label, MOST_LABEL)
    _require_fitting(schema.usage, tags=TAG_SEPARATOR.join(plain_tags(rules.get("tags", ()))))


def _require_short(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidRequestError(f"{name} has {len(text)} letters, more than {most}.", param=name, hint="Shorten it.")
    if UNPRINTABLE.search(text):
        raise InvalidRequestError(f"{name} is {text!r}.", param=name, hint="Leave out what cannot be printed.")


def _require_words(**texts: str | None) -> None:
    """Refuse texts that say nothing where something must be said.

    Raises:
        InvalidRequestError: With the name of the text.
    """
    for name, text in texts.items():
        if not text and text is not None:
            raise InvalidRequestError(f"{name} is empty.", param=name, hint="Write at least a letter.")


def _described(provider: Provider) -> dict[str, Any]:
    """What the audit says of a provider: neither its headers nor more of its address than the host may hold secrets."""
    models: Sequence[str] = [offer.model for offer in provider.models]
    return {
        "format": provider.format,
        "host": urlsplit(provider.base_url).hostname,
        "api_key": provider.api_key,
        "zdr": provider.zdr,
        "no_training": provider.no_training,
        "byok": provider.byok,
        "enabled": provider.enabled,
        "models": models,
    }
