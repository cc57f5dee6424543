"""Rows for a reranker that is made from nothing: what its embedding model takes for answers, source by source."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from quernel.embedder import Embedder
from quernel.evaluate.run import Encoder
from quernel.train.examples import Example
from quernel.train.mining import MiningSettings, mine
from quernel.train.pair_settings import MinedSettings
from quernel.train.sources import Row
from quernel.train.vectors import KnownVectors, hashes_of
from quernel.types import InputType


def write_negatives(
    folder: Path,
    model: Path,
    sources: Iterable[str],
    rows_of: Callable[[str], Iterable[Row]],
    settings: MinedSettings,
    *,
    known: KnownVectors | None,
    max_characters: int,
    say: Callable[[str], None],
) -> None:
    """Write a file of rows with negatives for each source; those that are there are left as they are.

    Args:
        folder: Where.
        model: The embedding model.
        sources: Their names.
        rows_of: Reads the rows of one, queries with documents.
        settings: How many, and which.
        known: A teacher's vectors: each document gets its cosine, and rows that it does not have are left out, unless
            too few of a source are left.
        max_characters: Texts are cut to so many.
        say: Told of each source.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mining = MiningSettings(
        count=settings.count, first=settings.first, last=settings.last, share=settings.share, at_random=True
    )
    with Embedder(model) as embedder:
        encode = Encoder(embedder)
        for name in sources:
            target = folder / f"{name}.jsonl"
            if name in settings.without or target.exists():
                continue
            examples = _examples(rows_of(name), max_characters)
            heard = [] if known is None else [row for row in examples if knows(known, row)]
            enough = min(settings.rows, len(examples) // 2)  # it has not read every language
            scored = known if known is not None and len(heard) > enough else None
            chosen, candidates = _choose(examples if scored is None else heard, settings)
            if len(candidates) <= settings.count + settings.first:
                say(f"{name}: too few documents to find negatives among")
                continue
            queries = encode([row.query for row in chosen], input_type=InputType.QUERY)
            documents = encode(candidates, input_type=InputType.DOCUMENT)
            mined = [found.row for found in mine(chosen, candidates, queries, documents, mining)]
            full = [row for row in mined if len(row.negatives) == settings.count]
            partial = target.with_suffix(".partial")
            partial.write_text("".join(_line(row, scored) + "\n" for row in full), encoding="utf-8")
            if full:
                partial.replace(target)
            say(f"{name}: {len(full):,} rows with {settings.count} of {len(candidates):,} documents")


def _examples(rows: Iterable[Row], max_characters: int) -> list[Example]:
    """Queries with all their documents, each query once."""
    found: dict[str, tuple[dict[str, None], str]] = {}
    for row in rows:
        if row.positive is not None:
            documents, _ = found.setdefault(row.query[:max_characters], ({}, row.task))
            documents[row.positive[:max_characters]] = None
    return [
        Example(query=query, positives=tuple(documents), instruction=task or None)
        for query, (documents, task) in found.items()
    ]


def knows(known: KnownVectors, row: Example) -> bool:
    """Whether all texts of a row have a vector."""
    return bool(known.holds(hashes_of([row.query, *row.positives])).all())


def _choose(rows: list[Example], settings: MinedSettings) -> tuple[list[Example], list[str]]:
    """Some rows, and the documents among which their negatives are looked for."""
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    chosen = [rows[number] for number in order[: settings.rows]]
    candidates = dict.fromkeys(text for row in chosen for text in row.positives)
    for number in order[settings.rows :]:
        if len(candidates) >= settings.candidates:
            break
        candidates.update(dict.fromkeys(rows[number].positives))
    return chosen, list(candidates)


def _line(row: Example, known: KnownVectors | None) -> str:
    columns = {"query": row.query, "pos": row.positives, "neg": row.negatives, "instruction": row.instruction}
    if known is None:
        return json.dumps(columns, ensure_ascii=False)
    texts = [row.query, *row.positives, *row.negatives]
    vectors = known.of(hashes_of(texts))
    scores = [round(float(score), 4) for score in vectors[1:] @ vectors[0]]
    count = len(row.positives)
    return json.dumps({**columns, "pos_scores": scores[:count], "neg_scores": scores[count:]}, ensure_ascii=False)
