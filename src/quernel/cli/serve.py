"""`quernel serve`: models behind HTTP on this machine."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import KINDS, LoadSettings, ModelChoice, open_model
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import MODEL, OUTPUT
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import say, table
from quernel.engine.config import EngineConfig
from quernel.server.config import ServerConfig

if TYPE_CHECKING:
    from quernel.embedder import Embedder
    from quernel.reranker import Reranker
    from quernel.types import ModelInfo

TRIALS = {
    "embedding": ("/v1/embeddings", '{"input": ["hello", "world"]}'),
    "reranker": ("/v1/rerank", '{"query": "hello", "documents": ["good day", "a stone"]}'),
}
"""Kind of model to a request that shows it at work: path and body."""


@click.command(cls=Command, short_help="Answer embedding and rerank requests over HTTP.")
@option(
    "-m",
    "--model",
    "models",
    section=MODEL,
    multiple=True,
    envvar="QUERNEL_MODELS",
    help="Hub id (owner/name, owner/name@revision), folder or built-in name; repeats. Where its files do not say what "
    "it is: embedding=MODEL or reranker=MODEL.  [QUERNEL_MODELS, separated by spaces; default: the built-in pair]",
)
@option(
    "--json", "as_json", section=OUTPUT, is_flag=True, help="When ready, print URL and models as a JSON line on stdout."
)
@quiet_option
@settings_options("server", "load", "engine")
def command(*, models: tuple[str, ...], as_json: bool, quiet: bool, **given: Any) -> None:
    """Answer embedding and rerank requests over HTTP, in the forms of OpenAI, Cohere, Jina and Voyage.

    \b
    quernel serve
    quernel serve -m Qwen/Qwen3-Embedding-0.6B -m Qwen/Qwen3-Reranker-0.6B -p 8000
    """
    started = time.monotonic()
    settings = Settings(given)
    server, engine = settings.build("server", ServerConfig), settings.build("engine", EngineConfig)
    choices = choose_models(models, settings, settings.build("load", LoadSettings))

    from quernel.server.app import create_app
    from quernel.server.serve import bind, run, url_of

    with bind(server) as listener, ExitStack() as opened:
        loaded: list[Embedder | Reranker] = []
        for choice in choices:
            loaded.append(open_model(choice, engine))
            opened.callback(loaded[-1].close)
        app = create_app(loaded, config=server)
        infos = [model.info for model in loaded]
        budgets = [f"{model.info.name}: {model.budget}" for model in loaded]
        say(banner(infos, budgets, url_of(listener), time.monotonic() - started), quiet=quiet)
        if as_json:
            print_ready(infos, url_of(listener))
        run(app, server, listener=listener)


def choose_models(given: Sequence[str], settings: Settings, load: LoadSettings) -> list[ModelChoice]:
    """The models to serve: those of flags or variable, else those of the file, else the built-in pair.

    Raises:
        SettingsError: A `[[models]]` table is wrong.
    """
    entries = given or settings.file.models
    if not entries:
        return [ModelChoice(None, kind, load) for kind in KINDS]
    place = f"{settings.file.name}, [[models]]"
    return [
        ModelChoice.parse(entry, load) if isinstance(entry, str) else ModelChoice.from_table(entry, load, place=place)
        for entry in entries
    ]


def banner(infos: Sequence["ModelInfo"], budgets: Sequence[str], url: str, seconds: float) -> str:
    """What is served, what it takes of the machine, where it is, and how to try it."""
    header = ("MODEL", "KIND", "DTYPE", "DEVICE", "DIMENSIONS", "CONTEXT", "PARAMETERS")
    rows = [
        (
            info.name,
            info.kind.value,
            info.dtype,
            info.device,
            str(info.dimensions),
            str(info.max_tokens),
            f"{info.num_parameters / 1e6:,.0f} M",
        )
        for info in infos
    ]
    path, body = TRIALS[infos[0].kind.value]
    trial = f"curl {url}{path} -H 'content-type: application/json' -d '{body}'"
    listed = "\n".join((table(header, rows, right=(4, 5, 6)), "", *budgets))
    return f"{listed}\n\nReady at {url} after {seconds:.1f} s. Try it:\n\n    {trial}\n"


def print_ready(infos: Sequence["ModelInfo"], url: str) -> None:
    """One JSON line on stdout, for a program that waits for the server."""
    import orjson

    click.echo(orjson.dumps({"url": url, "models": [asdict(info) for info in infos]}))
    sys.stdout.flush()
