"""`quernel serve`: models behind HTTP on this machine."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import KINDS, LoadSettings, ModelChoice, open_model
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import MODEL, OUTPUT
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import say, table
from quernel.engine.config import EngineConfig
from quernel.errors import SettingsError
from quernel.server.config import ServerConfig

if TYPE_CHECKING:
    from quernel.errors import QuernelError
    from quernel.server.models import ModelSpec, ServedModel

BUILTIN = {"embedding": "quernel/tiny-embedding", "reranker": "quernel/tiny-reranker"}
"""Kind of model to the built-in one."""

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
    "--alias",
    "aliases",
    section=MODEL,
    multiple=True,
    metavar="NAME=MODEL",
    envvar="QUERNEL_ALIASES",
    help="Another name of a model, such as text-embedding-3-small=quernel/tiny-embedding; repeats.  [QUERNEL_ALIASES]",
)
@option(
    "--instruction",
    section=MODEL,
    envvar="QUERNEL_INSTRUCTION",
    help="What is put before queries, and says what is relevant, where a request has no instruction.  "
    "[QUERNEL_INSTRUCTION; default: the model's own]",
)
@option(
    "--json", "as_json", section=OUTPUT, is_flag=True, help="When ready, print URL and models as a JSON line on stdout."
)
@quiet_option
@settings_options("server", "load", "engine")
def command(
    *,
    models: tuple[str, ...],
    aliases: tuple[str, ...],
    instruction: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Answer embedding and rerank requests over HTTP, in the forms of OpenAI, Cohere, Jina, Voyage, TEI and vLLM.

    \b
    quernel serve
    quernel serve -m Qwen/Qwen3-Embedding-0.6B -m Qwen/Qwen3-Reranker-0.6B -p 8000
    """
    started = time.monotonic()
    settings = Settings(given)
    for note in settings.file.notes:
        say(note, quiet=quiet)
    server, engine = settings.build("server", ServerConfig), settings.build("engine", EngineConfig)
    load = settings.build("load", LoadSettings)

    from quernel.engine.process import EngineProcess
    from quernel.server.app import create_app
    from quernel.server.serve import Stop, bind, run, url_of

    specs = choose_models(models, settings, aliases=aliases, instruction=instruction)
    for spec in specs:
        ModelChoice.of(spec, load)  # A wrong option is told before anything is loaded.
    stop = Stop()
    failures: list[QuernelError] = []

    with ExitStack() as stack:
        listener = stack.enter_context(bind(server))
        process = stack.enter_context(EngineProcess()) if server.engine_process else None
        url = url_of(listener, tls=server.tls_cert is not None)

        def on_loaded(places: "Sequence[ServedModel]") -> None:
            loaded = [place for place in places if place.model is not None]
            if not loaded:
                failures.extend(place.error for place in places if place.error is not None)
                stop()
                return
            say(banner(places, url, time.monotonic() - started), quiet=quiet)
            if as_json:
                print_ready(loaded, url)

        app = create_app(
            config=server,
            specs=specs,
            load=lambda spec: open_model(ModelChoice.of(spec, load), engine, process),
            on_loaded=on_loaded,
        )
        run(app, server, listener=listener, stop=stop)
    if failures:
        raise failures[0]


def choose_models(
    given: Sequence[str], settings: Settings, *, aliases: Sequence[str] = (), instruction: str | None = None
) -> "list[ModelSpec]":
    """The models to serve: those of flags or variable, else those of the file, else the built-in pair.

    Args:
        given: As flags have them.
        settings: With the file's.
        aliases: `NAME=MODEL`.
        instruction: For models that have none of their own.

    Raises:
        SettingsError: A `[[models]]` table is wrong, or an alias is of no model.
    """
    from quernel.server.models import ModelSpec
    from quernel.server.specs import parse_spec
    from quernel.types import ModelKind

    place = f"{settings.file.name}, [[models]]"
    entries: Sequence[str | Mapping[str, Any]] = given or settings.file.models
    specs = []
    for entry in entries:
        if isinstance(entry, str):
            choice = ModelChoice.parse(entry, LoadSettings())
            specs.append(ModelSpec(source=choice.model, kind=ModelKind(choice.kind) if choice.kind else None))
        else:
            specs.append(parse_spec(entry, place=place))
    if not specs:
        specs = [ModelSpec(source=BUILTIN[kind], kind=ModelKind(kind)) for kind in KINDS]
    if instruction is not None:
        specs = [
            replace(spec, defaults=replace(spec.defaults, instruction=spec.defaults.instruction or instruction))
            for spec in specs
        ]
    return add_aliases(specs, aliases)


def add_aliases(specs: "list[ModelSpec]", aliases: Sequence[str]) -> "list[ModelSpec]":
    """The models with more names.

    Raises:
        SettingsError: Not `NAME=MODEL`, or no such model.
    """
    for alias in aliases:
        name, sign, source = alias.partition("=")
        found = next((spec for spec in specs if source in (spec.source, spec.name)), None)
        if not (name and sign) or found is None:
            offered = ", ".join(spec.label for spec in specs)
            raise SettingsError(
                f"--alias {alias} names no model that is served.",
                param="alias",
                hint=f"Write NAME=MODEL, with MODEL one of: {offered}.",
            )
        specs[specs.index(found)] = replace(found, aliases=(*found.aliases, name))
    return specs


def banner(places: "Sequence[ServedModel]", url: str, seconds: float) -> str:
    """What is served, what it takes of the machine, what failed, where it is, and how to try it."""
    header = ("MODEL", "KIND", "DTYPE", "DEVICE", "DIMENSIONS", "CONTEXT", "PARAMETERS")
    rows, budgets, failed = [], [], []
    for place in places:
        if place.model is None:
            failed.append(f"{place.name} could not be loaded: {place.error}")
            continue
        info = place.model.info
        rows.append(
            (
                place.name,
                info.kind.value,
                info.dtype,
                info.device,
                str(info.dimensions),
                str(info.max_tokens),
                f"{info.num_parameters / 1e6:,.0f} M",
            )
        )
        budgets.append(f"{place.name}: {place.model.budget}")  # type: ignore[union-attr]
    path, body = TRIALS[rows[0][1]]
    socket, scheme = ("", url) if not url.startswith("unix:") else (f" --unix-socket {url[5:]}", "http://localhost")
    trial = f"curl{socket} {scheme}{path} -H 'content-type: application/json' -d '{body}'"
    listed = "\n".join((table(header, rows, right=(4, 5, 6)), "", *budgets, *failed))
    return f"{listed}\n\nReady at {url} after {seconds:.1f} s. Try it:\n\n    {trial}\n"


def print_ready(places: "Sequence[ServedModel]", url: str) -> None:
    """One JSON line on stdout, for a program that waits for the server."""
    import orjson

    models = [asdict(place.model.info) | {"name": place.name} for place in places if place.model is not None]
    click.echo(orjson.dumps({"url": url, "models": models}))
    sys.stdout.flush()
