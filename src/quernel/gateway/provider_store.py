"""Providers and prices in the database: what the configuration says at the start, and what operators change after.

Providers of the file are written at every start and cannot be changed elsewhere; others come from the API. A price is
a row of its own that is never changed, so that every bill can be made again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import ConflictError, NotFoundError
from quernel.gateway import schema
from quernel.gateway.marks import bump
from quernel.gateway.money import Price
from quernel.gateway.providers import Provider, parse_provider

FILE, API = "file", "api"


def save_provider(
    connection: Connection, table: Mapping[str, Any], *, source: str, now: int, position: int = 0
) -> Provider:
    """Write a provider down, new or in place of the one of its slug.

    Args:
        connection: The transaction.
        table: As the configuration has it.
        source: `FILE` or `API`.
        now: The time.
        position: Its place in the file.

    Raises:
        SettingsError: The table describes none.
        ConflictError: A price of it was another, or the provider is the file's.
    """
    provider = parse_provider(table, place="provider")
    before = _row(connection, provider.slug)
    if before is not None and before.source == FILE and source == API:
        raise ConflictError(
            f"The provider {provider.slug} is of the configuration file.", param="slug", hint="Change it there."
        )
    prices = list_prices(connection, provider.slug)
    for offer in provider.models:
        for price in offer.prices:
            if not _is_known(provider.slug, offer.model, price, prices.get(offer.model.lower(), ())):
                _add(connection, provider.slug, offer.model, price, now)
    document = {**table, "models": [_without_prices(offer) for offer in table.get("models", [])]}
    said = {"document": document, "enabled": provider.enabled, "source": source, "position": position}
    values = {**said, "updated": now}
    if before is None:
        connection.execute(sa.insert(schema.providers), {"slug": provider.slug, **values})
    elif any(getattr(before, name) != value for name, value in said.items()):
        connection.execute(sa.update(schema.providers).filter_by(slug=provider.slug).values(values))
    else:
        return provider
    bump(connection)
    return provider


def keep_only(connection: Connection, slugs: Sequence[str]) -> list[str]:
    """Take out the providers that the file no longer has.

    Returns:
        Their slugs.
    """
    table = schema.providers
    gone = sa.select(table.c.slug).where(table.c.source == FILE, table.c.slug.not_in(slugs))
    removed = list(connection.execute(gone).scalars())
    for slug in removed:
        connection.execute(sa.delete(table).filter_by(slug=slug))
    if removed:
        bump(connection)
    return removed


def remove_provider(connection: Connection, slug: str) -> None:
    """Take a provider out; its prices stay, since usage names them.

    Raises:
        NotFoundError: There is none.
        ConflictError: It is the file's.
    """
    row = _row(connection, slug)
    if row is None:
        raise unknown_provider(slug)
    if row.source == FILE:
        raise ConflictError(f"The provider {slug} is of the configuration file.", param="slug", hint="Change it there.")
    connection.execute(sa.delete(schema.providers).filter_by(slug=slug))
    bump(connection)


def switch_provider(connection: Connection, slug: str, *, enabled: bool) -> None:
    """Ask a provider, or ask it no more; until the next start where it is the file's.

    Raises:
        NotFoundError: There is none.
    """
    changed = connection.execute(sa.update(schema.providers).filter_by(slug=slug).values(enabled=enabled))
    if not changed.rowcount:
        raise unknown_provider(slug)
    bump(connection)


def add_price(connection: Connection, slug: str, model: str, price: Price, *, now: int) -> Price:
    """A new price, from when it says.

    Raises:
        NotFoundError: The provider does not offer the model.
        ConflictError: From then on there is another already.
    """
    row = _row(connection, slug)
    if row is None:
        raise unknown_provider(slug)
    offered = [offer.model for offer in parse_provider(row.document, place=slug).models]
    name = next((offer for offer in offered if offer.lower() == model.lower()), None)
    if name is None:
        raise NotFoundError(f"{slug} does not offer {model}.", param="model", hint=f"It offers {', '.join(offered)}.")
    if not _is_known(slug, name, price, list_prices(connection, slug).get(name.lower(), ())):
        _add(connection, slug, name, price, now)
        bump(connection)
    return next(one for one in list_prices(connection, slug)[name.lower()] if one.valid_from == price.valid_from)


def load_providers(connection: Connection) -> list[Provider]:
    """All providers with their prices: those of the file in its order, then the others by name."""
    table = schema.providers.c
    found = sa.select(schema.providers).order_by(table.source.desc(), table.position, table.slug)
    return [_provider(connection, row) for row in connection.execute(found)]


def list_prices(connection: Connection, slug: str) -> dict[str, tuple[Price, ...]]:
    """The prices of a provider by model, in small letters; each in the order of their beginnings."""
    table = schema.prices
    rows = connection.execute(sa.select(table).filter_by(provider=slug).order_by(table.c.valid_from))
    prices: dict[str, tuple[Price, ...]] = {}
    for row in rows:
        price = Price(
            id=row.id,
            valid_from=row.valid_from,
            token=row.token,
            output_token=row.output_token,
            document=row.document,
            request=row.request,
        )
        prices[row.model.lower()] = (*prices.get(row.model.lower(), ()), price)
    return prices


def _provider(connection: Connection, row: Any) -> Provider:
    provider = parse_provider(row.document, place=f"provider {row.slug}")
    prices = list_prices(connection, row.slug)
    models = tuple(replace(offer, prices=prices.get(offer.model.lower(), ())) for offer in provider.models)
    return replace(provider, enabled=row.enabled, models=models)


def _is_known(slug: str, model: str, price: Price, known: Sequence[Price]) -> bool:
    """Whether a price is there already.

    Raises:
        ConflictError: There is another from the same time on.
    """
    same = next((one for one in known if one.valid_from == price.valid_from), None)
    if same is not None and replace(same, id=0) != replace(price, id=0):
        raise ConflictError(
            f"{slug} has another price for {model} from the same time on.",
            param="prices",
            hint="A price is never changed: add one with a later `from`.",
        )
    return same is not None


def _add(connection: Connection, slug: str, model: str, price: Price, now: int) -> None:
    row = {
        "provider": slug,
        "model": model,
        "valid_from": price.valid_from,
        "token": price.token,
        "output_token": price.output_token,
        "document": price.document,
        "request": price.request,
        "created": now,
    }
    connection.execute(sa.insert(schema.prices), row)


def _row(connection: Connection, slug: str) -> Any:
    return connection.execute(sa.select(schema.providers).filter_by(slug=slug)).one_or_none()


def _without_prices(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != "prices"}


def unknown_provider(slug: str) -> NotFoundError:
    """The error where there is no provider of that slug."""
    hint = "The list of providers has their slugs."
    return NotFoundError(f"There is no provider {slug}.", param="provider", hint=hint)
