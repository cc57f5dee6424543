"""`quernel mine`: negatives for training data."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import LoadSettings, open_embedder, open_reranker
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import INPUT, MODEL, OUTPUT
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import say
from quernel.engine.config import EngineConfig
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from quernel.evaluate.run import Encoder
    from quernel.train.examples import Example
    from quernel.types import Vectors

NEGATIVES = "Negatives"


@click.command(cls=Command, short_help="Find negatives for training data.")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, section=OUTPUT, help="JSONL.")
@option("-m", "--model", section=MODEL, help="Embedding model that finds them.  [default: quernel/tiny-embedding]")
@option(
    "--scores", section=MODEL, help="Reranker whose scores of all documents are written beside them, to learn from."
)
@option(
    "--candidates",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    section=INPUT,
    help="JSONL of documents (`text`) to choose from, besides the answers of all rows.  [default: a collection's own]",
)
@option("--count", type=click.IntRange(min=1), default=7, section=NEGATIVES, help="Of a query.  [default: 7]")
@option(
    "--range",
    "span",
    default="0:100",
    section=NEGATIVES,
    help="Which of the nearest documents may be taken, as in 10:100.  [default: 0:100]",
)
@option(
    "--share",
    type=click.FloatRange(min=0),
    default=0.95,
    section=NEGATIVES,
    help="Documents above this share of the answer's cosine are likely answers, and left out.  [default: 0.95]",
)
@option("--random", "at_random", is_flag=True, section=NEGATIVES, help="Draw from those that may be taken.")
@option("--seed", type=int, default=0, section=NEGATIVES, help="Of the draw.  [default: 0]")
@quiet_option
@settings_options("load", "engine")
def command(
    *,
    data: Path,
    output: Path,
    model: str | None,
    scores: str | None,
    candidates: Path | None,
    count: int,
    span: str,
    share: float,
    at_random: bool,
    seed: int,
    quiet: bool,
    **given: Any,
) -> None:
    """Give each row of DATA negatives that a model takes for answers, without those that likely are.

    DATA is a file of rows, or a collection in BEIR layout, of which `qrels/train.tsv` is read.

    \b
    quernel mine collection/ -o with-negatives.jsonl
    quernel mine pairs.jsonl -o with-negatives.jsonl -m Qwen/Qwen3-Embedding-0.6B --range 10:100
    """
    from quernel.evaluate.run import Encoder
    from quernel.train.examples import Example, read_examples
    from quernel.train.mining import MiningSettings, mine
    from quernel.types import InputType

    settings = Settings(given)
    load, engine = settings.build("load", LoadSettings), settings.build("engine", EngineConfig)
    first, last = parse_range(span)
    mining = MiningSettings(count=count, first=first, last=last, share=share, at_random=at_random, seed=seed)
    rows = [row for row in read_examples(data) if isinstance(row, Example)]
    if not rows:
        raise SettingsError(f"{data} holds judged pairs.", param="data", hint="Negatives belong to queries.")
    documents = list(
        dict.fromkeys(
            [text for row in rows for text in row.positives] + read_candidates(candidates or own_documents(data))
        )
    )
    num_found = num_likely = 0
    with ExitStack() as stack:
        embedder = stack.enter_context(open_embedder(model, load, engine))
        reranker = None if scores is None else stack.enter_context(open_reranker(scores, load, engine))
        bar = progress(None, len(rows) + len(documents), "texts", quiet=quiet)
        encode = Encoder(embedder, lambda count: bar.update(count) and None)
        queries = embed_queries(encode, rows)
        vectors = encode(documents, input_type=InputType.DOCUMENT)
        bar.close()
        partial = output.with_name(output.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            for mined in progress(mine(rows, documents, queries, vectors, mining), len(rows), "rows", quiet=quiet):
                num_found += len(mined.row.negatives)
                num_likely += mined.num_likely
                written = as_row(mined.row)
                if reranker is not None:
                    texts = [*mined.row.positives, *mined.row.negatives]
                    ranked = reranker.rank(mined.row.query, texts, instruction=mined.row.instruction, truncate="end")
                    logits = {hit.index: hit.logit for hit in ranked}
                    places = len(mined.row.positives)
                    written["pos_scores"] = [logits[index] for index in range(places)]
                    written["neg_scores"] = [logits[index] for index in range(places, len(texts))]
                file.write(json.dumps(written, ensure_ascii=False) + "\n")
        partial.replace(output)
    say(
        f"{output}: {len(rows):,} rows, {num_found / len(rows):.1f} negatives each; {num_likely:,} documents that are "
        "likely answers were left out.",
        quiet=quiet,
    )


def as_row(row: "Example") -> dict[str, Any]:
    """A row as files have it."""
    written: dict[str, Any] = {"query": row.query, "pos": list(row.positives), "neg": list(row.negatives)}
    if row.instruction is not None:
        written["instruction"] = row.instruction
    if row.label is not None:
        written["label"] = row.label
    return written


def parse_range(text: str) -> tuple[int, int]:
    """Two numbers with a colon between them.

    Raises:
        SettingsError: Something else.
    """
    first, _, last = text.partition(":")
    try:
        return int(first), int(last)
    except ValueError as error:
        raise SettingsError(f"range is {text!r}.", param="range", hint="Write it like 10:100.") from error


def own_documents(data: Path) -> Path | None:
    """Where a collection's documents are."""
    return data / "corpus.jsonl" if data.is_dir() else None


def read_candidates(path: Path | None) -> list[str]:
    """The texts of a JSONL file.

    Raises:
        SettingsError: A line has no text.
    """
    if path is None:
        return []
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            texts.append(f"{row.get('title') or ''} {row['text']}".strip())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"{path}, line {number} has no text.", param="candidates") from error
    return texts


def embed_queries(encode: "Encoder", rows: "Sequence[Example]") -> "Vectors":
    """Vectors of the rows' queries, each under its instruction."""
    import numpy as np

    from quernel.train.examples import places_of
    from quernel.types import InputType

    found: dict[int, Vectors] = {}
    for instruction, numbers in places_of([row.instruction for row in rows]).items():
        texts = [rows[number].query for number in numbers]
        found.update(zip(numbers, encode(texts, input_type=InputType.QUERY, instruction=instruction), strict=True))
    return np.stack([found[number] for number in range(len(rows))])


def progress(items: Any, total: int | None, unit: str, *, quiet: bool) -> Any:
    """The items, with a bar on a terminal."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    return tqdm(items, total=total, unit=f" {unit}", file=sys.stderr, disable=hidden, leave=False)
