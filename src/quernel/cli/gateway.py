"""`quernel gateway`: many providers behind one API, with models of this machine as one of them."""

import os
import sys
import time
from contextlib import ExitStack
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

if TYPE_CHECKING:
    from quernel.gateway.opening import Parts
    from quernel.types import EmbeddingModel, RerankModel

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
@settings_options("server", "gateway", "load", "engine")
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
    database = database_url(gateway)

    if migrate:
        from quernel.gateway.migrate import migrate as bring_up

        before, after = bring_up(database)
        say(f"{before or 'nothing'} -> {after}", quiet=quiet)
        return

    from quernel.engine.process import EngineProcess
    from quernel.gateway.app import create_gateway_app
    from quernel.gateway.opening import Tables, open_gateway
    from quernel.server.serve import bind, run, url_of

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

        run(create_gateway_app(parts, config=server, on_start=on_start), server, listener=listener)


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
