"""Training examples, however people spell them: JSONL (also gzipped) and Parquet.

A row is a query with its documents, two texts with a judgement, or a text alone. The names of its columns say which:

    query, pos, neg, instruction, pos_scores, neg_scores     FlagEmbedding; `prompt` and `task` are instructions too
    anchor, positive, negative, negative_2, ...              sentence-transformers
    question, answer                                         the same, and query with passage, document or context
    sentence1, sentence2, score                              judged pairs; also `s1` and `s2`, also `label`
    text                                                     a text alone; also `query` where `type` is `text`

`pos` and `neg` hold one text or a list. A folder in BEIR layout is rows too: the queries of `qrels/train.tsv`, and what
was judged relevant to each.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from quernel.errors import ConfigError, SettingsError
from quernel.evaluate.tasks import Place, Retrieval, read_task

V = TypeVar("V")

QUERY = ("query", "anchor", "question", "sentence")
POSITIVE = ("pos", "positive", "positives", "answer", "passage", "document", "context")
NEGATIVE = ("neg", "negative", "negatives")
INSTRUCTION = ("instruction", "prompt", "task")
FIRST, SECOND = ("sentence1", "s1"), ("sentence2", "s2")
SCORE = ("score", "label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A query, and documents that answer it or do not.

    Attributes:
        query: What is asked.
        positives: What answers it, one or more.
        negatives: What does not.
        instruction: Of the query; None where the row has none.
        scores: A teacher's score of each positive, then of each negative; empty where there are none.
        label: Rows of one label are never negatives of each other.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    instruction: str | None = None
    scores: tuple[float, ...] = ()
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """Two texts and how alike people found them, on any scale."""

    first: str
    second: str
    score: float
    instruction: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A text alone: to learn what a teacher says of it, or to make pairs of its spans."""

    text: str


Row: TypeAlias = Example | JudgedPair | Passage


def places_of(values: Sequence[V]) -> dict[V, list[int]]:
    """Where each distinct value stands, in the order of their first places."""
    places: dict[V, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    return places


def read_examples(path: Path) -> list[Row]:
    """The rows of a file in its order, or those of a collection's training half.

    Raises:
        SettingsError: The file cannot be read, holds nothing, or a row is of no known form; says which and why.
    """
    if path.is_dir():
        return list(_read_collection(path))
    rows = [parse_row(raw, f"{path.name}, row {number}") for number, raw in enumerate(_read(path), 1)]
    if not rows:
        raise SettingsError(f"{path} holds no rows.", param="data")
    kinds = {type(row) for row in rows}
    if len(kinds) > 1:
        raise SettingsError(
            f"{path} holds rows of several kinds: {', '.join(sorted(kind.__name__ for kind in kinds))}.",
            param="data",
            hint="Put each kind into a file of its own.",
        )
    return rows


def _read_collection(path: Path) -> Iterator[Example]:
    try:
        task = read_task(Place(path.name, path), split="train")
    except ConfigError as error:
        raise SettingsError(error.message, param="data", hint=error.hint) from error
    if not isinstance(task, Retrieval):
        raise SettingsError(f"{path} is no retrieval task.", param="data")
    for query, text in task.queries.items():
        relevant = [document for document, grade in task.qrels[query].items() if grade > 0]
        yield Example(query=text, positives=tuple(task.documents[document] for document in relevant))


def parse_row(raw: Mapping[str, Any], place: str) -> Row:
    """One row.

    Args:
        raw: Its columns.
        place: Where it stands, for messages.

    Raises:
        SettingsError: A column is missing or of the wrong kind.
    """
    instruction = _text(raw, INSTRUCTION, place, required=False) or None
    if _name(raw, FIRST):
        score = raw.get(_name(raw, SCORE) or "score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise SettingsError(f"{place}: score is {score!r}, which is no number.", param="data")
        first, second = _text(raw, FIRST, place), _text(raw, SECOND, place)
        return JudgedPair(first=first, second=second, score=float(score), instruction=instruction)
    if raw.get("type") == "text" or ("text" in raw and not _name(raw, QUERY)):
        return Passage(text=_text(raw, ("text", *QUERY), place))
    query = _text(raw, QUERY, place)
    positives = _texts(raw, (POSITIVE,), place)
    if not positives:
        raise SettingsError(
            f"{place} has no document that answers its query.",
            param="data",
            hint=f"Name the column one of {', '.join(POSITIVE)}.",
        )
    numbered = tuple((name,) for name in sorted(raw) if name.startswith("negative_"))
    negatives = _texts(raw, (NEGATIVE, *numbered), place)
    scores = (*_numbers(raw, "pos_scores", place), *_numbers(raw, "neg_scores", place))
    if scores and len(scores) != len(positives) + len(negatives):
        raise SettingsError(
            f"{place} has {len(scores)} scores for {len(positives) + len(negatives)} documents.", param="data"
        )
    label = raw.get("label")
    return Example(
        query=query,
        positives=positives,
        negatives=negatives,
        instruction=instruction,
        scores=scores,
        label=None if label is None else str(label),
    )


def _name(raw: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if raw.get(name) is not None), None)


def _text(raw: Mapping[str, Any], names: Sequence[str], place: str, *, required: bool = True) -> str:
    name = _name(raw, names)
    if name is None:
        if required:
            raise SettingsError(f"{place} has none of the columns {', '.join(names)}.", param="data")
        return ""
    value = raw[name]
    if not isinstance(value, str):
        raise SettingsError(f"{place}: {name} is {value!r}, which is no text.", param="data")
    return value


def _texts(raw: Mapping[str, Any], groups: Sequence[Sequence[str]], place: str) -> tuple[str, ...]:
    found: list[str] = []
    for names in groups:
        name = _name(raw, names)
        if name is not None:
            value = raw[name]
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise SettingsError(f"{place}: {name} is neither a text nor a list of texts.", param="data")
            found += texts
    return tuple(found)


def _numbers(raw: Mapping[str, Any], name: str, place: str) -> tuple[float, ...]:
    values = raw.get(name)
    if values is None:
        return ()
    if not isinstance(values, list | tuple) or not all(isinstance(value, int | float) for value in values):
        raise SettingsError(f"{place}: {name} is not a list of numbers.", param="data")
    return tuple(float(value) for value in values)


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
            return
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                raw = json.loads(line)
                if not isinstance(raw, dict):
                    raise SettingsError(f"{path.name}, line {number} is no object.", param="data")
                yield raw
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}.", param="data") from error


def _read_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SettingsError("Parquet needs pyarrow.", param="data", hint="pip install 'quernel[parquet]'.") from error
    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()
