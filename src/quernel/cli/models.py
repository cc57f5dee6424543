"""`quernel models`: the models that Quernel knows, and which of them are on this machine."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quernel.cli.options import Command, option
from quernel.cli.talk import table
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from quernel.catalog.card import ModelCard

AVAILABILITY = {"builtin": "built in", "cached": "yes", "partial": "in part", "absent": "no"}
"""Where a model's files are (the value in JSON), and how the table says it."""

HEADER = ("MODEL", "KIND", "PARAMETERS", "DIMENSIONS", "CONTEXT", "LAYERS", "DOWNLOAD", "HERE")


@click.command(cls=Command, short_help="List the models that Quernel knows.")
@option("--json", "as_json", is_flag=True, help="Print JSON lines, one for each model, or each result.")
@option("--results", "model", metavar="MODEL", help="Print what was published for a model, and what makes each number.")
@option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    envvar="QUERNEL_CACHE_DIR",
    help="Folder of downloaded models; by default that of huggingface_hub.  [QUERNEL_CACHE_DIR]",
)
def command(as_json: bool, model: str | None, cache_dir: Path | None) -> None:
    """List the models that Quernel knows: the built-in pair and the six official ones.

    Any other Qwen3 embedding model or reranker can be used by its hub id or its folder.
    """
    from quernel.catalog.catalog import load_cards

    if model is not None:
        show_results(model, as_json=as_json)
        return
    cached = cached_bytes(cache_dir)
    found = [(card, availability(card, cached)) for card in load_cards()]
    if as_json:
        import orjson

        for card, where in found:
            click.echo(orjson.dumps({**asdict(card), "availability": where}))
    else:
        rows = [(*describe(card), AVAILABILITY[where]) for card, where in found]
        click.echo(table(HEADER, rows, right=range(2, 7)))


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
