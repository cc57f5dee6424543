"""`quernel synthesize`: training data written by a language model."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import LoadSettings, open_embedder
from quernel.cli.mine import read_candidates
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import INPUT, MODEL, OUTPUT
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import say
from quernel.engine.config import EngineConfig
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from quernel.train.synthetic import SynthesisSettings, Written
    from quernel.types import EmbeddingModel

KINDS = ("retrieval", "bitext", "similarity", "classification")
WRITING = "Writing"
NUM_SHOWN = 3
AT_ONCE = 64


@click.command(cls=Command, short_help="Have a language model write training data.")
@click.argument("passages", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, section=OUTPUT, help="JSONL.")
@option("--url", required=True, section=WRITING, help="Address of an OpenAI-compatible chat server.")
@option("--chat", required=True, section=WRITING, help="The language model's name there.")
@option("--api-key", envvar="QUERNEL_CHAT_API_KEY", section=WRITING, help="Its key.  [QUERNEL_CHAT_API_KEY]")
@option(
    "--persons",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    section=INPUT,
    help="Who may ask, one a line; retrieval needs it. Persona Hub is such a file.",
)
@option("--kind", type=click.Choice(KINDS), default="retrieval", section=WRITING, help="[default: retrieval]")
@option("--languages", default="English", section=WRITING, help="As in English,German.  [default: English]")
@option("--count", type=click.IntRange(min=1), default=1, section=WRITING, help="Rows of a passage.  [default: 1]")
@option("--concurrency", type=click.IntRange(min=1), default=8, section=WRITING, help="Requests at once.  [default: 8]")
@option("--temperature", type=float, default=0.7, section=WRITING, help="[default: 0.7]")
@option("--seed", type=int, default=0, section=WRITING, help="Of what is drawn.  [default: 0]")
@option("-m", "--model", section=MODEL, help="Embedding model that judges.  [default: quernel/tiny-embedding]")
@option(
    "--least-cosine",
    type=float,
    default=0.7,
    section=WRITING,
    help="Pairs with no more under that model are left out, as in the paper.  [default: 0.7]",
)
@quiet_option
@settings_options("load", "engine")
def command(
    *,
    passages: Path,
    output: Path,
    url: str,
    chat: str,
    api_key: str | None,
    persons: Path | None,
    kind: str,
    languages: str,
    count: int,
    concurrency: int,
    temperature: float,
    seed: int,
    model: str | None,
    least_cosine: float,
    quiet: bool,
    **given: Any,
) -> None:
    """Have a language model write training data about PASSAGES, a JSONL file with `text`.

    Rows are appended to OUTPUT as they are written; a run that was ended goes on where it was when it is started again.

    \b
    quernel synthesize passages.jsonl -o pairs.jsonl --url http://127.0.0.1:8000 --chat Qwen/Qwen3-32B --persons who.txt
    """
    from quernel.train.synthetic import Kind, SynthesisSettings

    texts = read_candidates(passages)
    if not texts:
        raise SettingsError(f"{passages} is empty.", param="passages")
    people = persons.read_text(encoding="utf-8").splitlines() if persons else []
    if kind == "retrieval" and persons is None:
        raise SettingsError("--persons is missing.", param="persons", hint="Name a file of persons, one a line.")
    writing = SynthesisSettings(
        kind=Kind(kind),
        languages=[language.strip() for language in languages.split(",") if language.strip()],
        num_queries=count,
        concurrency=concurrency,
        least_cosine=least_cosine,
        seed=seed,
    )
    settings = Settings(given)
    with open_embedder(model, settings.build("load", LoadSettings), settings.build("engine", EngineConfig)) as judge:
        work = write_all(
            texts,
            [person for person in people if person.strip()],
            output,
            judge,
            writing,
            endpoint={"url": url, "model": chat, "api_key": api_key, "temperature": temperature},
            quiet=quiet,
        )
        asyncio.run(work)


async def write_all(
    passages: Sequence[str],
    persons: Sequence[str],
    output: Path,
    judge: "EmbeddingModel",
    settings: "SynthesisSettings",
    *,
    endpoint: dict[str, Any],
    quiet: bool,
) -> None:
    """Write what is not written yet, and say what came of it."""
    from tqdm import tqdm

    from quernel.train.chat import ChatEndpoint
    from quernel.train.synthetic import Kind, offer_persons, synthesize

    is_retrieval = settings.kind is Kind.RETRIEVAL
    nearest = await offer_persons(judge, passages, persons) if is_retrieval else [[]] * len(passages)
    done = read_done(output)
    total = len(passages) * settings.num_queries - len(done)
    problems: list[str] = []
    counts = {"written": 0, "unlike": 0}
    with output.open("a", encoding="utf-8") as file:
        async with ChatEndpoint(**endpoint) as chat:
            held: list[Written] = []
            hidden = quiet or not sys.stderr.isatty()
            with tqdm(total=total, unit=" rows", file=sys.stderr, disable=hidden, leave=False) as bar:
                try:
                    async for written in synthesize(passages, persons, nearest, chat, settings, done=done):
                        bar.update()
                        if written.row is None:
                            problems.append(written.problem)
                        else:
                            held.append(written)
                        if len(held) >= AT_ONCE:
                            await judge_and_write(held, judge, settings, file, counts)
                            held = []
                finally:
                    await judge_and_write(held, judge, settings, file, counts)
    say(
        f"{output}: {counts['written']:,} rows; {counts['unlike']:,} left out, whose cosine is at most "
        f"{settings.least_cosine}; {len(problems):,} answers could not be used.",
        quiet=quiet,
    )
    for problem in problems[:NUM_SHOWN]:
        say(f"  {problem}", quiet=quiet)


async def judge_and_write(
    held: "Sequence[Written]", judge: "EmbeddingModel", settings: "SynthesisSettings", file: Any, counts: dict[str, int]
) -> None:
    """Append the rows that are kept."""
    from quernel.train.synthetic import Kind, cosines

    rows = [written.row for written in held if written.row is not None]
    if not rows:
        return
    # A label is no paraphrase of its text: the filter is for the kinds whose two sides mean the same.
    is_judged = settings.kind is not Kind.CLASSIFICATION
    found = (await cosines(judge, rows, settings.kind)).tolist() if is_judged else [1.0] * len(rows)
    for written, row, cosine in zip(held, rows, found, strict=True):
        place = {"passage": written.number, "turn": written.turn}
        if cosine > settings.least_cosine:
            file.write(json.dumps({**row, **place, "cosine": round(cosine, 4)}, ensure_ascii=False) + "\n")
            counts["written"] += 1
        else:
            counts["unlike"] += 1
    file.flush()


def read_done(output: Path) -> frozenset[tuple[int, int]]:
    """The passages and turns that an earlier run has written.

    Raises:
        SettingsError: The file holds something else.
    """
    if not output.exists():
        return frozenset()
    found = set()
    for number, line in enumerate(output.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            found.add((int(row["passage"]), int(row["turn"])))
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{output}, line {number} is no row of an earlier run.", param="output", hint="Name a new file."
            ) from error
    return frozenset(found)
