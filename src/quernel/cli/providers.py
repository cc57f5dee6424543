"""`quernel providers`: who answers the gateway's requests, and at what price."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.books import books_options, opened_books
from quernel.cli.options import group, option, quiet_option
from quernel.cli.requests import OUTPUT
from quernel.cli.settings import ConfigFile
from quernel.cli.talk import print_json, say, sheet, table
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from quernel.gateway.editor import Editor
    from quernel.protocols.gateway_admin import PriceEntry, ProviderEntry

PRICE = "Price, in dollars"
HEADER = ("SLUG", "NAME", "FORMAT", "REGION", "ZDR", "ENABLED", "SOURCE", "MODELS")
PRICE_HEADER = ("MODEL", "FROM", "$ / M TOKENS", "$ / M OUTPUT TOKENS", "$ / K DOCUMENTS", "$ / REQUEST")

SLUG = click.argument("slug")
as_json = option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print JSON lines, as the HTTP API has them.")

command = group(
    "providers",
    short_help="See, add, price and switch providers of the gateway.",
    help="""See, add, price and switch providers of the gateway, in its database on this machine.

    \b
    quernel providers list
    quernel providers add deepinfra.toml
    quernel providers price deepinfra Qwen/Qwen3-Embedding-4B --per-million-tokens 0.02 --from 2026-01-01

    Providers of the gateway's configuration file are changed there.
    """,
)


@command.command("list", short_help="List providers.")
@as_json
@books_options
def list_(*, as_json: bool, **given: Any) -> None:
    """List providers: those of the configuration first."""
    from quernel.gateway.listings import list_providers
    from quernel.gateway.views import show_provider

    with opened_books(given) as books:
        found = [
            show_provider(stored.provider, source=stored.source, updated=stored.updated)
            for stored in books.read(list_providers)
        ]
    if as_json:
        print_json(*found)
        return
    rows = [
        (
            one.slug,
            one.name,
            one.format,
            one.region or "-",
            "yes" if one.zdr else "no",
            "yes" if one.enabled else "no",
            one.source,
            ", ".join(dict.fromkeys(offer.model for offer in one.models)),
        )
        for one in found
    ]
    click.echo(table(HEADER, rows))


@command.command("show", short_help="Show one provider, with its models and prices.")
@SLUG
@as_json
@books_options
def show(*, slug: str, as_json: bool, **given: Any) -> None:
    """Show a provider, with its models and their prices of today."""
    shown = find(slug, given)
    if as_json:
        print_json(shown)
        return
    rows = [
        ("slug", shown.slug),
        ("name", shown.name),
        ("format", shown.format),
        ("address", shown.base_url),
        ("key", shown.api_key or ""),
        ("headers", " ".join(shown.headers)),
        ("region", shown.region or ""),
        ("headquarters", shown.headquarters or ""),
        ("zdr", "yes" if shown.zdr else "no"),
        ("no training", "yes" if shown.no_training else "no"),
        ("byok", "yes" if shown.byok else "no"),
        ("terms", shown.terms or ""),
        ("enabled", "yes" if shown.enabled else "no"),
        ("source", shown.source),
        ("updated", shown.updated),
    ]
    click.echo(sheet(rows) + "\n")
    from quernel.gateway.ids import now_ms
    from quernel.protocols.gateway_admin import format_time

    now = format_time(now_ms())
    current = []
    for offer in shown.models:
        held = [price for price in offer.prices if price.since <= now]
        cells = price_cells(held[-1])[1:] if held else ("-",) * (len(PRICE_HEADER) - 2)
        current.append((offer.model, offer.quantization, *cells))
    click.echo(table(("MODEL", "WEIGHTS", *PRICE_HEADER[2:]), current, right=range(2, len(PRICE_HEADER))))


@command.command("add", short_help="Add the providers of a file, or replace them.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json
@quiet_option
@books_options
def add(*, file: Path, as_json: bool, quiet: bool, **given: Any) -> None:
    """Add the providers of a TOML file, or replace those of their slugs: all of its [[providers]], or none."""
    tables = ConfigFile.read(file).tables.get("providers", ())
    if not tables:
        raise SettingsError(f"{file} has no providers.", param="file", hint="Write [[providers]] tables.")

    def operation(editor: "Editor") -> list[str]:
        return [editor.save_provider(table).slug for table in tables]

    with opened_books(given) as books:
        slugs = books.change(operation)
    for slug in slugs:
        if as_json:
            print_json(find(slug, given))
        say(f"{slug} is saved.", quiet=quiet)


@command.command("remove", short_help="Take a provider out.")
@SLUG
@quiet_option
@books_options
def remove(*, slug: str, quiet: bool, **given: Any) -> None:
    """Take a provider out. Its prices stay, since usage names them."""
    with opened_books(given) as books:
        books.change(lambda editor: editor.remove_provider(slug))
    say(f"{slug} is removed.", quiet=quiet)


@command.command("enable", short_help="Ask a provider again.")
@SLUG
@as_json
@quiet_option
@books_options
def enable(*, slug: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Ask a provider again."""
    switch(slug, enabled=True, as_json=as_json, quiet=quiet, given=given)


@command.command("disable", short_help="Ask a provider no more.")
@SLUG
@as_json
@quiet_option
@books_options
def disable(*, slug: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Ask a provider no more; until the gateway's next start, where it is the configuration's."""
    switch(slug, enabled=False, as_json=as_json, quiet=quiet, given=given)


@command.command("price", short_help="Add a price of a model.")
@SLUG
@click.argument("model")
@option("--per-million-tokens", "usd_per_million_tokens", section=PRICE, help="Tokens that the model reads.")
@option("--per-million-output-tokens", "usd_per_million_output_tokens", section=PRICE, help="Tokens that it writes.")
@option("--per-thousand-documents", "usd_per_thousand_documents", section=PRICE, help="Documents that it ranks.")
@option("--per-request", "usd_per_request", section=PRICE, help="Each request.")
@option("--from", "since", section=PRICE, help="The day or moment from which it holds.  [default: now]")
@as_json
@quiet_option
@books_options
def price(*, slug: str, model: str, since: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Add a price of a model at a provider. Prices are never changed: a later one follows.

    What is not named costs nothing.
    """
    from quernel.gateway.ids import now_ms
    from quernel.gateway.money import PRICE_KEYS
    from quernel.gateway.providers import parse_dated_price
    from quernel.gateway.views import show_new_price
    from quernel.protocols.gateway_admin import format_time

    named = {key: given[key] for key in PRICE_KEYS if given[key] is not None}
    if not named:
        raise SettingsError("The price is missing.", param="price", hint="Write it like --per-million-tokens 0.02.")
    wanted = parse_dated_price({**named, "from": since or format_time(now_ms())}, place="price")
    with opened_books(given) as books:
        added = books.change(lambda editor: editor.add_price(slug, model, wanted))
    shown = show_new_price(slug, model, added)
    if as_json:
        print_json(shown)
    say(f"From {shown.since} on {slug} asks this price for {model}.", quiet=quiet)


@command.command("prices", short_help="List all prices of a provider.")
@SLUG
@click.argument("model", required=False)
@as_json
@books_options
def prices(*, slug: str, model: str | None, as_json: bool, **given: Any) -> None:
    """List all prices of a provider, or of one model there, past and future ones too."""
    shown = find(slug, given)
    found = [
        (offer.model, one)
        for offer in shown.models
        if model is None or model.lower() == offer.model.lower()
        for one in offer.prices
    ]
    if as_json:
        import msgspec

        print_json(*({"provider": slug, "model": name, **msgspec.to_builtins(one)} for name, one in found))
        return
    rows = [(name, *price_cells(one)) for name, one in found]
    click.echo(table(PRICE_HEADER, rows, right=range(2, len(PRICE_HEADER))))


def price_cells(price: "PriceEntry") -> tuple[str, ...]:
    """A price's cells in the table."""
    return (
        price.since,
        price.usd_per_million_tokens,
        price.usd_per_million_output_tokens,
        price.usd_per_thousand_documents,
        price.usd_per_request,
    )


def find(slug: str, given: dict[str, Any]) -> "ProviderEntry":
    """A provider.

    Raises:
        NotFoundError: There is none.
    """
    from quernel.gateway.listings import find_provider
    from quernel.gateway.views import show_provider

    with opened_books(given) as books:
        stored = books.read(lambda connection: find_provider(connection, slug))
    return show_provider(stored.provider, source=stored.source, updated=stored.updated)


@command.command("recheck", short_help="Compare a model's providers with one another anew.")
@click.argument("model")
@quiet_option
@books_options
def recheck(*, model: str, quiet: bool, **given: Any) -> None:
    """Forget the vectors that providers of MODEL are compared with, as when the model itself was changed."""
    with opened_books(given) as books:
        books.change(lambda editor: editor.reset_canaries(model))
    say(f"Providers of {model} are compared anew.", quiet=quiet)


def switch(slug: str, *, enabled: bool, as_json: bool, quiet: bool, given: dict[str, Any]) -> None:
    """Ask a provider, or ask it no more."""
    with opened_books(given) as books:
        books.change(lambda editor: editor.switch_provider(slug, enabled=enabled))
    if as_json:
        print_json(find(slug, given))
    say(f"{slug} is {'asked' if enabled else 'not asked'} from now on.", quiet=quiet)
