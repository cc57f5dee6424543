"""`quernel evaluate`: how good models are, and whether one is better than another."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import LoadSettings, open_embedder, open_reranker
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import MODEL, OUTPUT
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import say
from quernel.engine.config import EngineConfig
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from quernel.evaluate.run import Report, Result
    from quernel.types import EmbeddingModel, RerankModel

NUMBERS = ("float", "int8", "uint8", "binary", "ubinary")
TASK = "Task"


@click.command(cls=Command, short_help="Measure how good models are on your data, and compare them.")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@option(
    "-m",
    "--model",
    "models",
    section=MODEL,
    multiple=True,
    help="Embedding model: hub id, folder, built-in name, or http://host:port#model; repeats, and the others are "
    "compared with the first. [default: quernel/tiny-embedding]",
)
@option(
    "-r",
    "--reranker",
    "rerankers",
    section=MODEL,
    multiple=True,
    help="Reranker of what the first embedding model found in retrieval tasks; repeats.",
)
@option("--api-key", section=MODEL, envvar="QUERNEL_API_KEY", help="Key of the endpoints.  [QUERNEL_API_KEY]")
@option(
    "--prompts",
    type=click.Choice(("fields", "qwen3", "none")),
    default="fields",
    section=MODEL,
    help="How an endpoint is told what a text is: in Quernel's fields, by the family's prompt before it, or not at "
    "all.  [default: fields]",
)
@option("--dimensions", section=TASK, help="Lengths of vectors to try, as in 256,64,32; the first is what is compared.")
@option(
    "--numbers",
    section=TASK,
    default="float",
    help=f"Kinds of numbers to try, of {', '.join(NUMBERS)}.  [default: float]",
)
@option("--instruction", section=TASK, help="Of retrieval queries; the model's default where it is not given.")
@option(
    "--instructions/--no-instructions",
    default=True,
    section=TASK,
    help="Whether texts of the other kinds of tasks get their task's instruction.  [default: yes]",
)
@option("--split", default="test", section=TASK, help="Which judgements of retrieval tasks.  [default: test]")
@option(
    "--measures",
    default="nDCG@10,R@100,RR@10",
    section=TASK,
    help="Of retrieval, as ir-measures names them; the first is what is compared.  [default: nDCG@10,R@100,RR@10]",
)
@option(
    "--depth",
    type=click.IntRange(min=1),
    default=100,
    section=TASK,
    help="Documents of a query that are kept and reranked. [default: 100]",
)
@option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), section=OUTPUT, help="Folder for the report."
)
@option("--plots/--no-plots", default=True, section=OUTPUT, help="Whether the report has pictures.  [default: yes]")
@option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print the results as JSON.")
@quiet_option
@settings_options("load", "engine")
def command(
    *, data: tuple[Path, ...], output: Path | None, plots: bool, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Measure how good models are on your data, with intervals, and compare them.

    DATA is a task or a folder of tasks: retrieval in BEIR layout, similarity, translations, classification, clustering.

    \b
    quernel evaluate cranfield/
    quernel evaluate tests/ -m quernel/tiny-embedding -m http://127.0.0.1:1234#mine --dimensions 256,64 -o report/
    """
    from quernel.evaluate.report import as_json as to_json
    from quernel.evaluate.report import render_markdown, write_report

    shown = " ".join(["quernel", *sys.argv[1:]]) if sys.argv[1:2] == ["evaluate"] else "quernel evaluate"
    results = list(run(data, quiet=quiet, given=given))
    if as_json:
        import orjson

        click.echo(orjson.dumps(to_json(results, command=shown), option=orjson.OPT_SERIALIZE_NUMPY))
    else:
        click.echo(render_markdown(results, command=shown), nl=False)
    if output is not None:
        for path in write_report(output, results, command=shown, plots=plots):
            say(f"{path}", quiet=quiet)


def run(data: Sequence[Path], *, quiet: bool, given: dict[str, Any]) -> "Iterator[Result]":
    """The results of every model on every task, task by task."""
    from quernel.evaluate.endpoints import RemoteEmbeddingModel, RemoteRerankModel
    from quernel.evaluate.run import Settings as EvaluationSettings
    from quernel.evaluate.run import evaluate_embedding, evaluate_reranker
    from quernel.evaluate.tasks import Retrieval, find_tasks, read_task
    from quernel.protocols.vectors import OutputDtype

    places = [place for path in data for place in find_tasks(path)]
    settings = EvaluationSettings(
        dimensions=parse_dimensions(given["dimensions"]),
        dtypes=tuple(OutputDtype(name) for name in parse_words(given["numbers"], NUMBERS, "numbers")),
        instructions=given["instructions"],
        instruction=given["instruction"],
        depth=given["depth"],
        measures=parse_measures(given["measures"]),
    )
    with ExitStack() as stack:
        embedding = partial(RemoteEmbeddingModel, prompts=given["prompts"])
        models: list[EmbeddingModel] = [
            stack.enter_context(opened(name, given, remote=embedding, local=open_embedder))
            for name in given["models"] or ("quernel/tiny-embedding",)
        ]
        rerankers: list[RerankModel] = [
            stack.enter_context(opened(name, given, remote=RemoteRerankModel, local=open_reranker))
            for name in given["rerankers"]
        ]
        for place in places:
            task = read_task(place, split=given["split"])
            found = None
            for model in models:
                with progress(place.name, model.info.name, quiet=quiet) as report:
                    results, ranked = evaluate_embedding(model, task, settings, report=report)
                yield from results
                found = found or (results[0], ranked)
            if isinstance(task, Retrieval) and found is not None and found[1] is not None:
                for reranker in rerankers:
                    with progress(place.name, reranker.info.name, quiet=quiet) as report:
                        yield evaluate_reranker(reranker, task, found[1], settings, first=found[0], report=report)


def parse_dimensions(text: str | None) -> tuple[int, ...]:
    """Numbers with commas between them.

    Raises:
        SettingsError: Something else.
    """
    try:
        found = tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"dimensions is {text!r}.", param="dimensions", hint="Write it like 256,64.") from error
    if any(number < 1 for number in found):
        raise SettingsError(f"dimensions is {text!r}.", param="dimensions", hint="Lengths are 1 or more.")
    return found


def parse_measures(text: str) -> tuple[str, ...]:
    """Names of measures with commas between them.

    Raises:
        SettingsError: `ir_measures` does not know one.
    """
    import ir_measures

    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in found:
        try:
            ir_measures.parse_measure(name)
        except (NameError, ValueError) as error:
            raise SettingsError(
                f"measures holds {name!r}.", param="measures", hint="See https://ir-measur.es for their names."
            ) from error
    return found


def parse_words(text: str, known: Sequence[str], name: str) -> tuple[str, ...]:
    """Words with commas between them.

    Raises:
        SettingsError: One that is not known.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for word in found:
        if word not in known:
            raise SettingsError(f"{name} holds {word!r}.", param=name, hint=f"Of {', '.join(known)}.")
    return found


@contextmanager
def opened(
    name: str, given: dict[str, Any], *, remote: Callable[..., Any], local: Callable[..., AbstractContextManager[Any]]
) -> Iterator[Any]:
    """A model behind an address, or here, for as long as the context lasts."""
    from quernel.evaluate.endpoints import is_endpoint, split_endpoint

    if is_endpoint(name):
        with closing(remote(*split_endpoint(name), api_key=given["api_key"])) as model:
            yield model
        return
    settings = Settings(given)
    with local(name, settings.build("load", LoadSettings), settings.build("engine", EngineConfig)) as model:
        yield model


@contextmanager
def progress(task: str, model: str, *, quiet: bool) -> "Iterator[Report]":
    """A bar of texts on stderr, on a terminal."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(desc=f"{task}, {model}", unit=" texts", file=sys.stderr, disable=hidden, leave=False) as bar:
        yield lambda count: bar.update(count) and None
