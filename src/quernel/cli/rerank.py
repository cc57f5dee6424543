"""`quernel rerank`: documents in the order of their relevance to a query."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import LoadSettings, open_reranker
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.readers import Selection, open_source, read_json_objects, require_texts, split_texts
from quernel.cli.requests import (
    INPUT,
    OUTPUT,
    READABLE,
    REQUEST,
    Texts,
    blaming,
    model_option,
    open_texts,
    reading_options,
    truncate_option,
)
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import Advance, one_line, progress, say, table
from quernel.cli.writers import check_names
from quernel.engine.config import EngineConfig
from quernel.errors import InvalidRequestError, SettingsError

if TYPE_CHECKING:
    from quernel.reranker import Reranker
    from quernel.types import RankedDocument, RerankRequest


RESULT_COLUMNS = ("query_index", "rank", "index", "relevance_score", "logit", "document")
"""The fields of a line of JSON; the first only where there are many queries."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query with its documents.

    Attributes:
        query: What is asked.
        documents: What is ranked.
    """

    query: str
    documents: Texts


@dataclass(frozen=True, slots=True)
class Hit:
    """A ranked document with its text and the columns it came with."""

    ranked: "RankedDocument"
    text: str
    columns: dict[str, Any]


@click.command(cls=Command, short_help="Order documents by their relevance to a query.")
@click.argument("query", required=False)
@click.argument("documents", nargs=-1)
@model_option("quernel/tiny-reranker")
@reading_options("-d", "--documents", "file", texts="documents")
@option(
    "-i",
    "--input",
    section=INPUT,
    type=READABLE,
    help='Many queries: JSON lines of {"query": "...", "documents": ["...", ...]}; - is standard input.',
)
@option("--instruction", section=REQUEST, help="What counts as relevant, in one sentence, best in English.")
@option("-n", "--top-n", section=REQUEST, type=click.IntRange(min=1), help="Keep only the best so many.")
@truncate_option
@option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print JSON lines, one for each document.")
@option(
    "--keep", section=OUTPUT, multiple=True, metavar="COLUMN", help="With --json: carry this column along; repeats."
)
@quiet_option
@settings_options("load", "engine")
def command(
    *,
    query: str | None,
    documents: tuple[str, ...],
    model: str | None,
    file: Path | None,
    format: str,
    column: str,
    batch_size: int,
    input: Path | None,
    instruction: str | None,
    top_n: int | None,
    truncate: str,
    as_json: bool,
    keep: tuple[str, ...],
    quiet: bool,
    **given: Any,
) -> None:
    """Order documents by their relevance to a query.

    DOCUMENTS, or those of a file, or the lines of standard input, are scored from 0 to 1 and printed best first.

    \b
    quernel rerank "capital of France" "Bananas are yellow." "Paris is the capital of France."
    quernel rerank "capital of France" --documents articles.jsonl --column body --top-n 10 --json
    """
    if input is not None and (query is not None or file is not None):
        raise SettingsError("--input brings its own queries and documents.", hint="Give a QUERY or --input.")
    if input is None and query is None:
        raise SettingsError("There is no QUERY.", hint='quernel rerank "what is asked" "a document" "another one"')
    if documents and file is not None:
        raise SettingsError("There are documents on the command line and --documents.", hint="Give one of the two.")
    settings = Settings(given)
    load, engine = settings.build("load", LoadSettings), settings.build("engine", EngineConfig)

    if keep and not as_json:
        raise SettingsError("--keep has no place in the table.", param="keep", hint="Add --json.")
    check_names(keep, RESULT_COLUMNS)

    from quernel.types import RerankRequest, Truncate

    if input is not None:
        questions = read_questions(input, batch_size)
    else:
        selection = Selection(column, keep)
        texts = open_texts(documents, file, format=format, selection=selection, size=batch_size)
        questions = iter([Question(query or "", texts)])
    ask = partial(RerankRequest, instruction=instruction, top_n=top_n, truncate=Truncate(truncate))
    show = print_json if as_json else print_table
    with open_reranker(model, load, engine) as reranker:
        for number, question in enumerate(questions):
            with progress(quiet=quiet) as advance:
                hits, num_truncated = rank(reranker, ask, question, advance)
            show(hits, question.query, None if input is None else number)
            if num_truncated:
                say(f"{question.documents.name}: {num_truncated} documents were cut.", quiet=quiet)


def read_questions(path: Path, size: int) -> Iterator[Question]:
    """The queries of a JSONL file, each with its documents.

    Raises:
        InvalidRequestError: A line is not such an object; or there is none.
    """
    is_empty = True
    with open_source(path) as source:
        for row in read_json_objects(source):
            is_empty = False
            if not isinstance(row, dict) or not (_is_text(row.get("query")) and _is_texts(row.get("documents"))):
                raise InvalidRequestError(
                    f"{source.place}: not a query with its documents.",
                    hint='Write {"query": "...", "documents": ["...", ...]}.',
                )
            chunks = require_texts(split_texts(row["documents"], Selection(), size), source.place)
            yield Question(row["query"], Texts(source.place, chunks))
    if is_empty:
        raise InvalidRequestError(f"{path} holds no queries.", param="input")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def rank(
    reranker: "Reranker", ask: Callable[..., "RerankRequest"], question: Question, advance: Advance
) -> tuple[list[Hit], int]:
    """The documents of a question, best first, and how many were cut.

    Documents are scored a chunk at a time. A score does not depend on its neighbours, so the best of all are the best
    of the best of each chunk, and with a `top_n` no more texts than those are held.
    """
    hits: list[Hit] = []
    num_truncated = 0
    for chunk in question.documents.chunks:
        request = ask(query=question.query, documents=chunk.texts)
        with blaming(question.documents.name, chunk):
            result = reranker.rerank_sync(request)
        rows = chunk.kept_rows()
        for ranked in result.results:
            position = replace(ranked, index=chunk.start + ranked.index)
            hits.append(Hit(position, chunk.texts[ranked.index], rows[ranked.index]))
        # Stable: documents of equal score stay in the order of the input.
        hits.sort(key=lambda hit: -hit.ranked.logit)
        hits = hits[: request.top_n]
        num_truncated += sum(result.truncated)
        advance(chunk)
    return hits, num_truncated


def print_json(hits: Iterable[Hit], query: str, number: int | None) -> None:
    """One JSON line for each document; `number` is the query's position where there are many."""
    import orjson

    stream = sys.stdout.buffer
    for place, hit in enumerate(hits, start=1):
        ranked = hit.ranked
        values = (number, place, ranked.index, ranked.relevance_score, ranked.logit, hit.text)
        line = dict(zip(RESULT_COLUMNS, values, strict=True)) | hit.columns
        if number is None:
            del line["query_index"]
        stream.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    stream.flush()


def print_table(hits: Iterable[Hit], query: str, number: int | None) -> None:
    """A table of the documents, under the query where there are many."""
    width = shutil.get_terminal_size().columns
    header = ("RANK", "SCORE", "INDEX", "DOCUMENT")
    rows = [
        (str(place), f"{hit.ranked.relevance_score:.4f}", str(hit.ranked.index), one_line(hit.text, width - 22))
        for place, hit in enumerate(hits, start=1)
    ]
    if number is not None:
        click.echo(("\n" if number else "") + one_line(query, width))
    click.echo(table(header, rows, right=(0, 1, 2)))
