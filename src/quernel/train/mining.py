"""Hard negatives: documents that a model takes for answers and that are none.

Shapes:
    N   queries                               M   candidate documents
    C   width of a vector
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from quernel.errors import SettingsError
from quernel.train.examples import Example
from quernel.types import Vectors

QUERIES_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Which documents are taken.

    Attributes:
        count: Negatives of a query.
        first: So many of the nearest are passed over.
        last: None beyond so many is taken.
        share: One that scores above this share of the positive's cosine is likely an answer too, and left out.
        at_random: Whether they are drawn from those that are left; else the nearest are taken.
        seed: Of the draw.

    Source: "TopK-PercPos" of NV-Retriever, arXiv 2407.15831, with its share of 95 %.
    """

    count: int = 7
    first: int = 0
    last: int = 100
    share: float = 0.95
    at_random: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise SettingsError(
                f"The range from {self.first} to {self.last} holds nothing.", param="range", hint="As in 10:100."
            )


@dataclass(frozen=True)
class Mined:
    """What was found for a row.

    Attributes:
        row: The row, with its negatives.
        num_likely: Documents that were left out since they are likely answers.
    """

    row: Example
    num_likely: int


def mine(
    rows: Sequence[Example],
    candidates: Sequence[str],
    queries: Vectors,
    documents: Vectors,
    settings: MiningSettings,
) -> Iterator[Mined]:
    """Each row with negatives from the candidates, in place of those it had.

    Never taken are the row's own positives, and those of other rows with the same query.

    Args:
        rows: The rows.
        candidates: Documents to choose from, each once; the rows' positives among them.
        queries: Unit vectors of the rows' queries, `[N, C]`.
        documents: Unit vectors of the candidates, `[M, C]`.
        settings: Which are taken.
    """
    place = {text: number for number, text in enumerate(candidates)}
    answers: dict[str, set[int]] = {}
    for row in rows:
        answers.setdefault(row.query, set()).update(place[text] for text in row.positives)
    draw = np.random.default_rng(settings.seed)
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        part = rows[start : start + QUERIES_AT_ONCE]
        scores = queries[start : start + QUERIES_AT_ONCE] @ documents.T
        for row, row_scores in zip(part, scores, strict=True):
            own = answers[row.query]
            limit = settings.share * min(float(row_scores[place[text]]) for text in row.positives)
            depth = min(len(candidates), settings.last + len(own))
            nearest = np.argpartition(-row_scores, depth - 1)[:depth]
            ranked = nearest[np.argsort(-row_scores[nearest], kind="stable")].tolist()
            others = [number for number in ranked if number not in own][settings.first : settings.last]
            fit = [number for number in others if row_scores[number] <= limit]
            if settings.at_random:
                fit = draw.permutation(fit).tolist() if fit else fit
            negatives = tuple(candidates[number] for number in fit[: settings.count])
            mined = Example(
                query=row.query,
                positives=row.positives,
                negatives=negatives,
                instruction=row.instruction,
                label=row.label,
            )
            yield Mined(mined, len(others) - len(fit))
