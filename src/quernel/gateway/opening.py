"""Opening a gateway: from settings and tables of the configuration to its parts, ready to be served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.engine import Connection

from quernel.catalog.catalog import load_cards
from quernel.errors import SettingsError
from quernel.gateway.accounts import AccountKind, create_account, list_accounts
from quernel.gateway.attempts import Attempts
from quernel.gateway.byok import Wallet
from quernel.gateway.canary import Canary
from quernel.gateway.capture import Capture
from quernel.gateway.cards import load_written_cards
from quernel.gateway.config import GatewayConfig
from quernel.gateway.counting import ByteCounter, PromptCounter, TokenCounter
from quernel.gateway.database import Database
from quernel.gateway.fetch import fetch_json_document
from quernel.gateway.health import HealthTable
from quernel.gateway.ids import new_id, now_ms
from quernel.gateway.issuers import parse_issuer
from quernel.gateway.keys import KeyMint, KeySettings, Minted, Scope, create_key, find_minted
from quernel.gateway.migrate import check, migrate
from quernel.gateway.models import GatewayKind, GatewayModel, Models, build_model, parse_entry
from quernel.gateway.oidc import OidcVerifier
from quernel.gateway.principals import Principals
from quernel.gateway.provider_store import FILE, keep_only, load_providers, save_provider
from quernel.gateway.providers import LOCAL
from quernel.gateway.registry import LocalModels, Registry
from quernel.gateway.service import Gateway
from quernel.gateway.transport import Transport
from quernel.gateway.vault import Vault, derive, read_secret_file
from quernel.types import MIN_DIMENSIONS, EmbeddingModel, ModelKind, RerankModel

SQLITE_PREFIX = "sqlite:///"
SECRET_SUFFIX = ".secret"
KEY_PURPOSE = "api keys"

OPERATOR = "operator"
"""The account of whoever runs the gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Tables of the configuration, as they are written.

    Attributes:
        providers: `[[providers]]`.
        catalogue: `[[catalogue]]`.
        issuers: `[[issuers]]`.
    """

    providers: Sequence[Mapping[str, Any]] = ()
    catalogue: Sequence[Mapping[str, Any]] = ()
    issuers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A gateway, opened.

    Attributes:
        gateway: Answers requests.
        principals: Knows who asks.
        mint: Makes keys.
        vault: Encrypts customers' credentials.
        wallet: Finds them.
        local: Models of this process, by name in small letters.
        canary: Watches providers.
        capture: Writes down what accounts want to be captured, if the settings name a file.
        settings: Of the gateway.
        first_key: The operator's key, if it was made now: it is nowhere else.
    """

    gateway: Gateway
    principals: Principals
    mint: KeyMint
    vault: Vault
    wallet: Wallet
    local: LocalModels
    canary: Canary
    capture: Capture | None = None
    settings: GatewayConfig
    first_key: str | None = None
    transport: Transport
    http: httpx.AsyncClient = field(repr=False)

    @property
    def database(self) -> Database:
        """The books."""
        return self.gateway.database

    async def close(self) -> None:
        """Write what waits and close all connections. The local models are not owned."""
        await self.gateway.drain()
        await self.transport.close()
        await self.http.aclose()
        self.database.close()
        if self.capture is not None:
            self.capture.close()


def open_gateway(
    settings: GatewayConfig,
    *,
    database: str,
    tables: Tables | None = None,
    local: Mapping[str, EmbeddingModel | RerankModel] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Parts:
    """The parts of a gateway, with its database made ready.

    Args:
        settings: Its settings.
        database: URL of the database.
        tables: Providers, models and issuers of the configuration.
        local: Models of this process, by the names that they are served under.
        environment: Where providers' keys are found.

    Raises:
        SettingsError: Something in settings or tables is wrong, or the database must be migrated first.
        ConflictError: A price of the tables was another.
    """
    tables = tables or Tables()
    local = {name.lower(): model for name, model in (local or {}).items()}
    secret = read_secret(settings, database)
    mint, vault = KeyMint(derive(secret, KEY_PURPOSE)), Vault(secret)
    issuers = [parse_issuer(table, place=f"issuers[{number}]") for number, table in enumerate(tables.issuers)]
    models = build_models(tables.catalogue, local, settings.cards)
    books = open_books(database, settings)
    capture: Capture | None = None
    try:
        capture = None if settings.capture_file is None else Capture(settings.capture_file)
        first_key = books.write_now(partial(_set_up, minted=mint.new(), settings=settings))
        _save_providers(books, with_local(tables.providers, local))
        transport = Transport()
        http = httpx.AsyncClient()
        registry = Registry(books, models, local=local, transport=transport, environment=environment or {})
        registry.take(books.read_now(load_providers))
        wallet = Wallet(books, vault)
        verifier = OidcVerifier(issuers, partial(fetch_json_document, session=http)) if issuers else None
        principals = Principals(books, mint, verifier, welcome=settings.welcome)
        attempts = Attempts(budget_seconds=settings.attempt_budget_seconds, hedge=settings.hedge)
        health = HealthTable()
        gateway = Gateway(
            books,
            registry,
            attempts=attempts,
            health=health,
            wallet=wallet,
            instance=new_id("gw"),
            capture=capture,
        )
    except BaseException:
        books.close()
        if capture is not None:
            capture.close()
        raise
    principals.on_change.append(wallet.forget)
    books.on_group.append(gateway.counts.note_group)
    return Parts(
        gateway=gateway,
        principals=principals,
        mint=mint,
        vault=vault,
        wallet=wallet,
        local=local,
        canary=Canary(books, registry, attempts=attempts, health=health, settings=settings),
        capture=capture,
        settings=settings,
        first_key=first_key,
        transport=transport,
        http=http,
    )


def open_books(database: str, settings: GatewayConfig) -> Database:
    """The database, migrated: a SQLite file by itself, PostgreSQL by its own command.

    Raises:
        SettingsError: It cannot be opened, or must be migrated first.
    """
    if database.startswith(SQLITE_PREFIX):
        file = Path(database.removeprefix(SQLITE_PREFIX))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(0o600)  # SQLite's journals have the rights of the file
    books = Database(database, durability=settings.durability)
    try:
        if books.is_sqlite:
            migrate(books.engine)
        check(books.engine)
    except BaseException:
        books.close()
        raise
    return books


def read_secret(settings: GatewayConfig, database: str) -> bytes:
    """The gateway's secret; made at the first start beside a SQLite file.

    Raises:
        SettingsError: It is not there, and cannot be made.
    """
    if settings.secret_file is not None:
        return read_secret_file(settings.secret_file, create=False)
    if not database.startswith(SQLITE_PREFIX):
        raise SettingsError(
            "secret_file is missing.",
            param="secret_file",
            hint="With PostgreSQL all gateways need the same: head -c 32 /dev/urandom > FILE; chmod 600 FILE.",
        )
    return read_secret_file(Path(database.removeprefix(SQLITE_PREFIX) + SECRET_SUFFIX), create=True)


def build_models(catalogue: Sequence[Mapping[str, Any]], local: LocalModels, folder: Path | None = None) -> Models:
    """The models of the gateway: the configuration's, those of this process, and the family.

    Args:
        catalogue: `[[catalogue]]`.
        local: Models of this process.
        folder: Where cards of the configuration's models are.

    Raises:
        SettingsError: One of the configuration is wrong, or a card, or two have one name.
    """
    entries = [parse_entry(table, place=f"catalogue[{number}]") for number, table in enumerate(catalogue)]
    cards = {card.name.lower(): card for card in load_cards()}
    written = {} if folder is None else load_written_cards(folder, [entry.name for entry in entries])
    models = [build_model(entry, written.get(entry.name.lower()) or cards.get(entry.name.lower())) for entry in entries]
    named = {name for model in models for name in model.names}
    for name, model in local.items():
        if name not in named:
            models.append(_local_model(name, model, GatewayModel.of_card(cards[name]) if name in cards else None))
            named.add(name)
    models += [GatewayModel.of_card(card) for name, card in cards.items() if name not in named]
    return Models(models)


def _local_model(name: str, model: EmbeddingModel | RerankModel, known: GatewayModel | None) -> GatewayModel:
    info = model.info
    # Models that are fakes have no tokenizer that could be asked.
    prompts = getattr(model, "prompts", None)
    counter: TokenCounter = ByteCounter(info.max_tokens) if prompts is None else PromptCounter(prompts)
    is_embedding = info.kind is ModelKind.EMBEDDING
    return GatewayModel(
        name=info.name if info.name.lower() == name else name,
        kind=GatewayKind(info.kind.value),
        aliases=() if known is None else known.aliases,
        dimensions=info.dimensions if is_embedding else None,
        min_dimensions=min(MIN_DIMENSIONS, info.dimensions) if is_embedding else None,
        max_tokens=info.max_tokens,
        counter=counter,
        card=None if known is None else known.card,
    )


def with_local(providers: Sequence[Mapping[str, Any]], local: LocalModels) -> list[Mapping[str, Any]]:
    """The providers of the configuration, with this machine as one where they do not name it."""
    tables = list(providers)
    if local and all(table.get("format") != LOCAL for table in tables):
        models = [{"model": model.info.name} for model in local.values()]
        tables.insert(
            0,
            {
                "slug": LOCAL,
                "format": LOCAL,
                "name": "This machine",
                "zdr": True,
                "no_training": True,
                "models": models,
            },
        )
    return tables


def _save_providers(books: Database, tables: Sequence[Mapping[str, Any]]) -> None:
    def operation(connection: Connection) -> None:
        saved = [
            save_provider(connection, table, source=FILE, now=now_ms(), position=position)
            for position, table in enumerate(tables)
        ]
        keep_only(connection, [provider.slug for provider in saved])

    books.write_now(operation)


def _set_up(connection: Connection, *, minted: Minted, settings: GatewayConfig) -> str | None:
    """Make the operator's account and key, at the first start.

    Returns:
        The key, if it was made: now, or before where the operation is repeated.
    """
    if find_minted(connection, minted) is not None:
        return minted.text
    if list_accounts(connection, most=1):
        return None
    now = now_ms()
    account = create_account(
        connection,
        OPERATOR,
        now=now,
        name="Operator",
        kind=AccountKind.OPERATOR,
        welcome=settings.welcome,
    )
    scopes = KeySettings(scopes=frozenset({Scope.OPERATE}))
    create_key(connection, minted, account.id, "first key", scopes, created_by="system", now=now)
    return minted.text
