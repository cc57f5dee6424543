"""What was published of the official checkpoints' outputs, as data: `golden.json`, and the types of its cases."""

from functools import cache
from importlib import resources
from typing import Literal, TypeAlias

import msgspec


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every published value comes with.

    Attributes:
        id: Its name.
        model: The hub id of the checkpoint.
        source: Where it is published.
        dtype: What it was computed in.
        backend: What computed it.
        confidence: `low` for a single user's report: shown, but no reason to fail.
        note: What to think of where it differs.
    """

    id: str
    model: str
    source: str
    dtype: str
    backend: str
    confidence: Literal["high", "low"] = "high"
    note: str | None = None


class SimilarityCase(Case, frozen=True, kw_only=True, tag="similarity"):
    """Cosines between queries and documents.

    Attributes:
        instruction: The queries' instruction.
        queries: Q texts.
        documents: D texts.
        expected: `[Q, D]`.
        tolerance: Largest absolute difference, by the type of the run under test.
    """

    instruction: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    expected: tuple[tuple[float, ...], ...]
    tolerance: dict[str, float]


class VectorTolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How near a vector has to be: smallest cosine, and largest relative difference of the norms."""

    cosine: float
    norm_relative: float


class VectorCase(Case, frozen=True, kw_only=True, tag="vector"):
    """The hidden state of one document, not normalised.

    Attributes:
        input: The document.
        expected: `[D]`.
        expected_norm: Its length.
        tolerance: By the type of the run under test.
    """

    input: str
    expected: tuple[float, ...]
    expected_norm: float
    tolerance: dict[str, VectorTolerance]


class CosineCase(Case, frozen=True, kw_only=True, tag="cosine"):
    """The cosine between two documents."""

    inputs: tuple[str, str]
    expected: float
    tolerance: dict[str, float]


class RerankCase(Case, frozen=True, kw_only=True, tag="rerank"):
    """Scores of documents for a query.

    Attributes:
        instruction: What counts as relevant.
        query: The query.
        documents: D texts.
        unit: Whether the values are logit(yes) - logit(no), or its sigmoid.
        expected: `[D]`.
        tolerance: Largest absolute difference, by the type of the run under test.
        bounds: Lowest and highest value for each document; there instead of a tolerance where digits mean nothing.
    """

    instruction: str
    query: str
    documents: tuple[str, ...]
    unit: Literal["logit_difference", "score"]
    expected: tuple[float, ...]
    tolerance: dict[str, float]
    bounds: tuple[tuple[float, float], ...] | None = None


GoldenCase: TypeAlias = SimilarityCase | VectorCase | CosineCase | RerankCase


class _GoldenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: str
    cases: tuple[GoldenCase, ...]


@cache
def load_golden() -> tuple[GoldenCase, ...]:
    """All published cases, in the order of the file."""
    content = (resources.files("quernel.verification") / "golden.json").read_bytes()
    return msgspec.json.decode(content, type=_GoldenFile).cases


def published_models() -> tuple[str, ...]:
    """Hub ids of the checkpoints with published values."""
    return tuple(dict.fromkeys(case.model for case in load_golden()))
