"""Tasks, and the files that hold them.

A task is a folder or a file, and says by its form what it is:

    corpus.jsonl queries.jsonl qrels/*.tsv     retrieval, in BEIR layout
    the same, with `changed_instruction`       following instructions (FollowIR)
    train.jsonl test.jsonl of text and label   classification
    one .jsonl of text and label               clustering
    one .jsonl of sentence1, sentence2, score  similarity (STS)
    one .jsonl of two texts in two languages   translations (bitext mining)

A folder that is none of these is a collection of them. Sources of the forms: https://github.com/beir-cellar/beir,
https://github.com/embeddings-benchmark/mteb.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from quernel.errors import ConfigError

LABELLED = frozenset({"text", "label"})
SIMILAR = frozenset({"sentence1", "sentence2", "score"})
IDS = frozenset({"id", "_id"})


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Queries, documents, and which documents answer which query.

    Attributes:
        name: The task's name.
        documents: Texts by id, title first.
        queries: Texts by id, those with a positive judgement.
        qrels: Grades by query and document; above 0 is relevant.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Following:
    """Queries whose instruction changes, so that some documents are not wanted any more (FollowIR).

    Attributes:
        name: The task's name.
        documents: Texts by id.
        queries: Texts by id.
        instructions: Of each query: before and after the change.
        candidates: Documents to rank for each query.
        qrels: Grades before the change, by query and document.
        changed_qrels: Grades after it.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    instructions: Mapping[str, tuple[str, str]]
    candidates: Mapping[str, Sequence[str]]
    qrels: Mapping[str, Mapping[str, int]]
    changed_qrels: Mapping[str, Mapping[str, int]]

    @property
    def ranked(self) -> list[str]:
        """The documents that any query ranks."""
        return sorted({document for group in self.candidates.values() for document in group})


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Pairs of sentences with how alike people found them."""

    name: str
    first: Sequence[str]
    second: Sequence[str]
    scores: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Translations:
    """Sentences in two languages, each the translation of the one beside it."""

    name: str
    left: Sequence[str]
    right: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Labelled texts to learn from, and others to try on."""

    name: str
    train: Sequence[str]
    train_labels: Sequence[str]
    test: Sequence[str]
    test_labels: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Texts of several groups."""

    name: str
    texts: Sequence[str]
    labels: Sequence[str]


Task: TypeAlias = Retrieval | Following | Similarity | Translations | Classification | Clustering


@dataclass(frozen=True, slots=True)
class Place:
    """A task that was found, not yet read.

    Attributes:
        name: Its name, from its path.
        path: Its folder or file.
    """

    name: str
    path: Path


def find_tasks(path: Path) -> list[Place]:
    """The tasks at or below a path, in the order of their names.

    Raises:
        ConfigError: There is none.
    """
    found = list(_find(path, path.stem if path.is_file() else path.name))
    if not found:
        raise ConfigError(
            f"{path} holds no task.",
            param="data",
            hint="A task is a folder in BEIR layout, or a .jsonl file; see docs/guides/evaluate.md.",
        )
    return found


def _find(path: Path, name: str) -> Iterator[Place]:
    if path.suffix == ".jsonl" and path.is_file():
        yield Place(name, path)
    elif not path.is_dir():
        return
    elif (path / "corpus.jsonl").is_file() or (path / "train.jsonl").is_file():
        yield Place(name, path)
    else:
        for inner in sorted(path.iterdir()):
            yield from _find(inner, f"{name}/{inner.name.removesuffix('.jsonl')}")


def read_task(place: Place, *, split: str = "test") -> Task:
    """A task.

    Args:
        place: Where it is.
        split: Which of the judgements of a retrieval task.

    Raises:
        ConfigError: A file is missing or broken, or its rows are of no known form.
    """
    path = place.path
    if (path / "corpus.jsonl").is_file():
        return _read_retrieval(place.name, path, split)
    if path.is_dir():
        train, test = (read_rows(path / f"{part}.jsonl") for part in ("train", "test"))
        for rows in (train, test):
            _require(rows, LABELLED, path)
        return Classification(
            name=place.name,
            train=_column(train, "text"),
            train_labels=_column(train, "label"),
            test=_column(test, "text"),
            test_labels=_column(test, "label"),
        )
    rows = read_rows(path)
    fields = set(rows[0])
    if fields >= SIMILAR:
        _require(rows, SIMILAR, path)
        scores = [float(row["score"]) for row in rows]
        return Similarity(
            name=place.name, first=_column(rows, "sentence1"), second=_column(rows, "sentence2"), scores=scores
        )
    if fields >= LABELLED:
        _require(rows, LABELLED, path)
        return Clustering(name=place.name, texts=_column(rows, "text"), labels=_column(rows, "label"))
    sides = [name for name in rows[0] if name not in IDS]
    if len(sides) == 2:
        _require(rows, frozenset(sides), path)
        return Translations(name=place.name, left=_column(rows, sides[0]), right=_column(rows, sides[1]))
    raise ConfigError(
        f"{path} has rows of {', '.join(sorted(fields))}, which is no known task.",
        param="data",
        hint="See docs/guides/evaluate.md for the forms.",
    )


def _read_retrieval(name: str, path: Path, split: str) -> Retrieval | Following:
    documents = {
        str(row["_id"]): f"{row.get('title') or ''} {row['text']}".strip() for row in read_rows(path / "corpus.jsonl")
    }
    rows = read_rows(path / "queries.jsonl")
    if "changed_instruction" in rows[0]:
        return _read_following(name, path, documents, rows)
    qrels = read_qrels(_split_file(path, split))
    relevant = {query for query, grades in qrels.items() if max(grades.values()) > 0}
    queries = {str(row["_id"]): str(row["text"]) for row in rows if str(row["_id"]) in relevant}
    if not queries:
        raise ConfigError(f"{path}: no query has a positive judgement in {split}.", param="data")
    return Retrieval(name=name, documents=documents, queries=queries, qrels={query: qrels[query] for query in queries})


def _read_following(
    name: str, path: Path, documents: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> Following:
    qrels, changed = read_qrels(path / "qrels/original.tsv"), read_qrels(path / "qrels/changed.tsv")
    candidates = {
        str(row["_id"]): [str(one) for one in row["documents"]] for row in read_rows(path / "candidates.jsonl")
    }
    return Following(
        name=name,
        documents=documents,
        queries={str(row["_id"]): str(row["text"]) for row in rows},
        instructions={str(row["_id"]): (str(row["instruction"]), str(row["changed_instruction"])) for row in rows},
        candidates=candidates,
        qrels=qrels,
        changed_qrels=changed,
    )


def _split_file(path: Path, split: str) -> Path:
    file = path / "qrels" / f"{split}.tsv"
    if not file.is_file():
        there = ", ".join(sorted(found.stem for found in (path / "qrels").glob("*.tsv"))) or "none"
        raise ConfigError(f"{path} has no judgements for {split}.", param="split", hint=f"There are: {there}.")
    return file


def read_qrels(file: Path) -> dict[str, dict[str, int]]:
    """Judgements by query and document, from a table with a header line.

    Raises:
        ConfigError: The file is missing, or a line is no judgement.
    """
    qrels: dict[str, dict[str, int]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for number, line in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                if number == 1:
                    continue
                query, document, grade = line
                qrels.setdefault(query, {})[document] = int(float(grade))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as judgements: {error}.", param="data") from error
    return qrels


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        ConfigError: The file is missing, empty, or a line is no object.
    """
    rows = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ConfigError(f"{file}, line {number} is no object.", param="data")
                    rows.append(row)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.", param="data") from error
    if not rows:
        raise ConfigError(f"{file} is empty.", param="data")
    return rows


def _require(rows: Sequence[Mapping[str, Any]], names: frozenset[str], path: Path) -> None:
    for number, row in enumerate(rows, 1):
        missing = sorted(names - set(row))
        if missing:
            raise ConfigError(f"{path}, row {number} has no {', '.join(missing)}.", param="data")


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return [str(row[name]) for row in rows]
