"""`quernel gateway`: many providers behind one API, with models of this machine as one of them."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.books import database_url, require_gateway
from quernel.cli.composition import LoadSettings, ModelChoice, open_model
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import MODEL, OUTPUT
from quernel.cli.serve import choose_models
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import say, table
from quernel.engine.config import EngineConfig
from quernel.gateway.config import GatewayConfig
from quernel.server.config import ServerConfig
from quernel.web.config import WebConfig

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from quernel.gateway.opening import Parts
    from quernel.types import EmbeddingModel, RerankModel
    from quernel.web.code_flow import Door

TRIAL = (
    "curl {url}/v1/embeddings -H 'authorization: Bearer {key}' -H 'content-type: application/json' "
    '-d \'{{"input": ["hello", "world"]}}\''
)


@click.command(cls=Command, short_help="Put many providers, accounts and prices behind one API.")
@option(
    "-m",
    "--model",
    "models",
    section=MODEL,
    multiple=True,
    envvar="QUERNEL_MODELS",
    help="Model of this machine to offer, as for quernel serve; repeats. "
    "[QUERNEL_MODELS, separated by spaces; default: the built-in pair]",
)
@option("--no-local", section=MODEL, is_flag=True, help="Load no model: only providers of the configuration.")
@option("--migrate", is_flag=True, help="Bring the database to this version's tables, and end.")
@option("--json", "as_json", section=OUTPUT, is_flag=True, help="When ready, print URL and key as a JSON line.")
@quiet_option
@settings_options("server", "gateway", "web", "load", "engine")
def command(
    *, models: tuple[str, ...], no_local: bool, migrate: bool, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Put many providers behind one API, with keys, limits, prices, a ledger and reports.

    \b
    quernel gateway
    quernel gateway --config gateway.toml -p 8000

    Without a configuration it offers the built-in pair as provider "local". The operator's key is printed at the first
    start and never again; quernel keys makes others.
    """
    started = time.monotonic()
    require_gateway()
    settings = Settings(given)
    server, gateway = settings.build("server", ServerConfig), settings.build("gateway", GatewayConfig)
    engine, load = settings.build("engine", EngineConfig), settings.build("load", LoadSettings)
    web = settings.build("web", WebConfig)
    database = database_url(gateway)

    if migrate:
        from quernel.gateway.migrate import migrate as bring_up

        before, after = bring_up(database)
        say(f"{before or 'nothing'} -> {after}", quiet=quiet)
        return

    from quernel.engine.process import EngineProcess
    from quernel.gateway.app import create_gateway_app
    from quernel.gateway.fetch import fetch_json_document
    from quernel.gateway.opening import Tables, open_gateway
    from quernel.server.serve import bind, run, url_of
    from quernel.web.code_flow import CodeFlow
    from quernel.web.storefront import Storefront

    specs = [] if no_local else choose_models(models, settings)
    choices = [ModelChoice.of(spec, load) for spec in specs]
    with ExitStack() as stack:
        listener = stack.enter_context(bind(server))
        process = stack.enter_context(EngineProcess()) if server.engine_process and choices else None
        local: dict[str, EmbeddingModel | RerankModel] = {}
        for spec, choice in zip(specs, choices, strict=True):
            model = open_model(choice, engine, process)
            stack.callback(model.close)
            local[spec.name or model.info.name] = model
        tables = Tables(**settings.file.tables)
        parts = open_gateway(gateway, database=database, tables=tables, local=local, environment=os.environ)
        url = url_of(listener, tls=server.tls_cert is not None)

        def on_start() -> None:
            say(banner(parts, url, time.monotonic() - started), quiet=quiet)
            if as_json:
                print_ready(parts, url)

        app: ASGIApp = create_gateway_app(parts, config=server, on_start=on_start)
        if web.pages:
            secret = parts.mint.digest("sessions of the storefront")
            fetch = partial(fetch_json_document, session=parts.http)
            doors = [CodeFlow(door, fetch) for door in doors_of(tables.issuers, os.environ)]
            app = Storefront(app, config=web, secret=secret, root_path=server.root_path, doors=doors)
        run(app, server, listener=listener)


def doors_of(tables: Sequence[Mapping[str, Any]], environment: Mapping[str, str]) -> "list[Door]":
    """The issuers by which people may sign in to the pages.

    Args:
        tables: `[[issuers]]` of the configuration.
        environment: Where their secrets are found.

    Raises:
        SettingsError: A table is no issuer, or its secret is not where it says.
    """
    from quernel.gateway.issuers import parse_issuer
    from quernel.gateway.providers import read_secret
    from quernel.web.code_flow import Door

    issuers = [parse_issuer(table, place=f"issuers[{number}]") for number, table in enumerate(tables)]
    return [
        Door(
            name=issuer.name,
            label=issuer.sign_in or f"Sign in with {issuer.name}",
            issuer=issuer.issuer,
            client_id=issuer.client_id,
            client_secret=read_secret(issuer.client_secret, environment, place=f"issuer {issuer.name}"),
        )
        for issuer in issuers
        if issuer.client_id is not None
    ]


def banner(parts: "Parts", url: str, seconds: float) -> str:
    """What is offered by whom, the operator's key if it is new, and how to try it."""
    from quernel.gateway.ids import now_ms
    from quernel.gateway.money import MILLION, format_dollars

    rows = [
        (
            offer.model,
            provider.slug,
            offer.quantization,
            format_dollars(offer.price(now_ms()).token, unit=MILLION),
            "yes" if provider.zdr else "no",
        )
        for provider, offer, _ in parts.gateway.registry.offered()
    ]
    offered = table(("MODEL", "PROVIDER", "WEIGHTS", "$ / M TOKENS", "ZDR"), rows, right=(3,))
    lines = [offered, ""]
    if parts.first_key is not None:
        lines += ["The operator's key, which is not shown again:", "", f"    {parts.first_key}", ""]
    trial = TRIAL.format(url=url, key=parts.first_key or "$KEY")
    return "\n".join((*lines, f"Ready at {url} after {seconds:.1f} s. Try it:", "", f"    {trial}", ""))


def print_ready(parts: "Parts", url: str) -> None:
    """One JSON line on stdout, for a program that waits for the gateway."""
    import orjson

    models = [model.name for _, _, model in parts.gateway.registry.offered()]
    click.echo(orjson.dumps({"url": url, "key": parts.first_key, "models": list(dict.fromkeys(models))}))
    sys.stdout.flush()
