"""What there is to see of an answer: an order with what moved, a heat map of similarities, a map of vectors."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quernel.web import vectors
from quernel.web.catalogue import LADDER, TYPES
from quernel.web.trial import Trial

HEAT_LEVELS = 8
"""The strongest colour of the heat map; the weakest is 0."""

MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 560, 360, 36

STEP = 8
"""Of the slider, where all lengths that a model has are that far apart."""

QUERY = "Q"
"""What the query is called among numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A text in an order.

    Attributes:
        number: Its number among the texts, from 1.
        text: The text.
        place: Its place, from 1.
        before: The place that it had in the order to compare with.
        score: Why it is there.
        score_before: Why it was there, where that was a score.
    """

    number: int
    text: str
    place: int
    before: int
    score: float
    score_before: float | None = None

    @property
    def moved(self) -> int:
        """How many places it has gone up."""
        return self.before - self.place


@dataclass(frozen=True, slots=True)
class Cell:
    """A square of the heat map.

    Attributes:
        similarity: Its number.
        level: Its colour.
    """

    similarity: float
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A text among the others.

    Attributes:
        label: Its number, or Q for the query.
        text: The text.
        cells: How like the others it is, in their order.
        neighbour: The label of the one that it is most like; `None` where it is alone.
        likeness: How like that is.
        x: Where it lies on the map.
        y: Where it lies on the map.
    """

    label: str
    text: str
    cells: Sequence[Cell]
    neighbour: str | None
    likeness: float
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to see of vectors.

    Attributes:
        whole: Their length.
        least: The shortest that they may be cut to.
        step: How far apart the lengths of the slider are.
        dimensions: How much of them is looked at.
        ladder: Lengths to choose from.
        sizes: Type of a stored vector, bytes of one of its numbers, bytes of the vector.
        points: The query, if there is one, and the texts.
        low: The least similarity of two of them, uncut.
        high: The highest.
        share: The share of the variance that the map has.
        has_query: Whether the first point is a query.
        numbers: The whole vectors, float32 as base64, one after another.
    """

    whole: int
    least: int
    step: int
    dimensions: int
    ladder: Sequence[int]
    sizes: Sequence[tuple[str, float, int]]
    points: Sequence[Point]
    low: float
    high: float
    share: float
    has_query: bool
    numbers: str


def look_at(model: Mapping[str, Any], trial: Trial, found: Sequence[Mapping[str, Any]]) -> tuple[View, list[Row]]:
    """What there is to see of the vectors of texts, and the texts in the order of a query.

    Args:
        model: The model's entry.
        trial: What was asked.
        found: The API's replies: of the texts and, if there was one, of the query.
    """
    raw = np.concatenate([_vectors_of(reply) for reply in reversed(found)])
    has_query, whole = len(found) > 1, raw.shape[1]
    least = min(model["min_dimensions"] or whole, whole)
    dimensions = trial.length(least, whole)
    full, short = vectors.cut(raw, whole), vectors.cut(raw, dimensions)
    before, now = full @ full.T, short @ short.T
    low, high = vectors.range_of(before)
    places, share = vectors.plane_of(short)
    view = View(
        whole=whole,
        least=least,
        step=STEP if least % STEP == 0 and whole % STEP == 0 else 1,
        dimensions=dimensions,
        ladder=sorted({length for length in LADDER if least <= length <= whole} | {whole}),
        sizes=[(name, width, math.ceil(dimensions * width)) for name, width in TYPES],
        points=_points(trial, now, places, (low, high), has_query=has_query),
        low=low,
        high=high,
        share=share,
        has_query=has_query,
        numbers=b64encode(raw.astype("<f4").tobytes()).decode(),
    )
    return view, _ordered(trial.texts, before[0, 1:].tolist(), now[0, 1:].tolist()) if has_query else []


def reranked(texts: Sequence[str], reply: Mapping[str, Any]) -> list[Row]:
    """Documents in the order of a reranker's reply, beside the order that they were given in."""
    return [
        Row(
            number=found["index"] + 1,
            text=texts[found["index"]],
            place=place,
            before=found["index"] + 1,
            score=found["relevance_score"],
        )
        for place, found in enumerate(reply["results"], start=1)
    ]


def _vectors_of(reply: Mapping[str, Any]) -> vectors.Matrix:
    rows = sorted(reply["data"], key=lambda row: row["index"])
    return np.array([row["embedding"] for row in rows], dtype=np.float64)


def _points(
    trial: Trial, now: vectors.Matrix, places: vectors.Matrix, limits: tuple[float, float], *, has_query: bool
) -> list[Point]:
    texts = trial.texts
    labels = [str(number) for number in range(1, len(texts) + 1)]
    if has_query:
        labels, texts = [QUERY, *labels], [trial.query.strip(), *texts]
    neighbours = vectors.neighbours_of(now)
    shown = vectors.fit(places, MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN)
    return [
        Point(
            label=label,
            text=texts[index],
            cells=[Cell(float(value), _level(float(value), *limits)) for value in now[index]],
            neighbour=None if neighbour is None else labels[neighbour],
            likeness=0.0 if neighbour is None else float(now[index, neighbour]),
            x=float(shown[index, 0]),
            y=float(shown[index, 1]),
        )
        for index, (label, neighbour) in enumerate(zip(labels, neighbours, strict=True))
    ]


def _ordered(texts: Sequence[str], before: Sequence[float], now: Sequence[float]) -> list[Row]:
    order, places = vectors.order_of(now), vectors.places_of(vectors.order_of(before))
    return [
        Row(
            number=index + 1,
            text=texts[index],
            place=place,
            before=places[index],
            score=now[index],
            score_before=before[index],
        )
        for place, index in enumerate(order, start=1)
    ]


def _level(similarity: float, low: float, high: float) -> int:
    share = (similarity - low) / (high - low) if high > low else 1.0
    return min(max(int(share * HEAT_LEVELS + 0.5), 0), HEAT_LEVELS)
