"""`quernel models`: the models that Quernel knows, which of them are on this machine, and what is known of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

from quernel.cli.options import Group, option, refuse_options
from quernel.cli.talk import sheet, table
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from quernel.catalog.card import ModelCard
    from quernel.catalog.page import ModelPage

AVAILABILITY = {"builtin": "built in", "cached": "yes", "partial": "in part", "absent": "no"}
"""Where a model's files are (the value in JSON), and how the table says it."""

WIDTH = 100
"""Letters in a line of prose."""

HEADER = ("MODEL", "KIND", "PARAMETERS", "DIMENSIONS", "CONTEXT", "LAYERS", "DOWNLOAD", "HERE")


@click.group(cls=Group, invoke_without_command=True, short_help="List the models that Quernel knows.")
@option("--json", "as_json", is_flag=True, help="Print JSON lines, one for each model, or each result.")
@option("--results", "model", metavar="MODEL", help="Print what was published for a model, and what makes each number.")
@option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    envvar="QUERNEL_CACHE_DIR",
    help="Folder of downloaded models; by default that of huggingface_hub.  [QUERNEL_CACHE_DIR]",
)
@click.pass_context
def command(ctx: click.Context, /, *, as_json: bool, model: str | None, cache_dir: Path | None) -> None:
    """List the models that Quernel knows: the built-in pair and the six official ones.

    \b
    quernel models
    quernel models show Qwen3-Embedding-0.6B

    Any other Qwen3 embedding model or reranker can be used by its hub id or its folder.
    """
    if ctx.invoked_subcommand is not None:
        refuse_options(ctx)
        return
    from quernel.catalog.catalog import load_cards

    if model is not None:
        show_results(model, as_json=as_json)
        return
    cached = cached_bytes(cache_dir)
    found = [(card, availability(card, cached)) for card in load_cards()]
    if as_json:
        import orjson

        for card, where in found:
            facts = {name: value for name, value in asdict(card).items() if name != "page"}
            click.echo(orjson.dumps({**facts, "availability": where}))
    else:
        rows = [(*describe(card), AVAILABILITY[where]) for card, where in found]
        click.echo(table(HEADER, rows, right=range(2, 7)))


@command.command("show", short_help="Print what is known of a model.")
@click.argument("name", metavar="NAME")
@option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(name: str, as_json: bool) -> None:
    """Print what is known of a model: facts, what it is for and when another is better, questions, links.

    NAME is a hub id or built-in name, or its last part. A gateway answers the same at /v1/models/NAME/card.
    """
    from quernel.catalog.catalog import load_cards
    from quernel.catalog.specs import card_specs

    cards = load_cards()
    wanted = name.lower()
    card = next((one for one in cards if wanted in (one.name.lower(), one.name.lower().rpartition("/")[2])), None)
    if card is None:
        known = ", ".join(one.name for one in cards)
        raise SettingsError(f"{name} is no model that Quernel knows.", param="name", hint=f"Those are {known}.")
    page, specs = card.page, card_specs(card)
    assert page is not None, "every model of the catalogue has a page"
    if as_json:
        import orjson

        facts = {**asdict(card), "specs": [asdict(spec) for spec in specs]}
        facts["page"]["languages"]["names"] = page.languages.natural
        click.echo(orjson.dumps(facts))
        return
    specified = sheet([(spec.name, spec.value) for spec in specs])
    click.echo("\n\n".join([f"{page.title} ({card.name})", fill(page.summary, WIDTH), specified, *told(page)]))


def told(page: "ModelPage") -> Iterator[str]:
    """What a page says in words, block by block."""
    yield from (fill(paragraph, WIDTH) for paragraph in page.about)
    yield listed("Best for", [f"{point.title}: {point.text}" for point in page.best_for])
    others = [f"{one.title}: {one.text}" + (f" ({one.model})" if one.model else "") for one in page.alternatives]
    yield listed("Consider another model when", others)
    if page.instructions is not None:
        said = page.instructions
        lines = [said.gain, said.advice, said.default and f"Default: {said.default}."]
        yield listed("Instructions", [line for line in lines if line])
    yield listed("Questions", [f"{one.question} {one.answer}" for one in page.faq])
    yield listed("Links", [f"{link.title}: {link.url}" for link in page.links])


def listed(heading: str, points: Sequence[str]) -> str:
    """A heading with points below it."""
    return "\n".join([heading, *(fill(point, WIDTH, initial_indent="- ", subsequent_indent="  ") for point in points)])


def show_results(model: str, *, as_json: bool) -> None:
    """The published results of a model, with their commands.

    Raises:
        SettingsError: Nothing was published for it.
    """
    from quernel.catalog.published import published_scores

    scores = published_scores(model)
    if not scores:
        raise SettingsError(
            f"No results were published for {model}.", param="results", hint="Name one of Qwen's models, by its hub id."
        )
    if as_json:
        import orjson

        for score in scores:
            click.echo(orjson.dumps(asdict(score)))
        return
    for command_line in dict.fromkeys(score.command for score in scores):
        chosen = [score for score in scores if score.command == command_line]
        rows = [(score.measure, f"{score.score:.2f}", score.benchmark, score.source) for score in chosen]
        click.echo(f"$ {command_line}\n")
        click.echo(table(("MEASURE", "PUBLISHED", "BENCHMARK", "SOURCE"), rows, right=(1,)) + "\n")


def describe(card: "ModelCard") -> tuple[str, ...]:
    """The card's cells in the table."""
    return (
        card.name,
        card.kind.value,
        f"{card.num_parameters / 1e6:,.0f} M",
        str(card.dimensions),
        str(card.max_tokens),
        str(card.num_layers),
        "-" if card.is_builtin else f"{card.weights_bytes / 1e9:.1f} GB",
    )


def cached_bytes(cache_dir: Path | None) -> Mapping[str, int]:
    """Hub id to the bytes of it that are in the hub's cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return {repo.repo_id: repo.size_on_disk for repo in scan_cache_dir(cache_dir).repos}
    except CacheNotFound:
        return {}


def availability(card: "ModelCard", cached: Mapping[str, int]) -> str:
    """Where the files of a model are: a key of `AVAILABILITY`."""
    if card.is_builtin:
        return "builtin"
    size = cached.get(card.name, 0)
    return "cached" if size >= card.weights_bytes else "partial" if size else "absent"
