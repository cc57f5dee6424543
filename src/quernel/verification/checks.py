"""Compares a model with published values and with the reference; every compared number is one `Check`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from quernel.types import EmbeddingModel, EmbeddingRequest, RerankModel, RerankRequest, Vectors
from quernel.verification.golden import CosineCase, GoldenCase, RerankCase, SimilarityCase, VectorCase

Numbers = npt.NDArray[np.float64]

COSINE_TOLERANCE: Mapping[str, float] = {"float32": 1e-5, "float16": 1e-4, "bfloat16": 3e-3, "int8": 3e-2}
LOGIT_TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.3, "int8": 1.0}
"""How far a run may be from the reference in the same type.

Source: the spread between published backends, from which the tolerances in `golden.json` were set too. For logits in
float32 those are wider: they were recorded on other machines, and here both run on one."""


class Outcome(StrEnum):
    """What a comparison says."""

    PASS = "pass"
    FAIL = "fail"
    DOUBTFUL = "doubtful"
    """It differs, but from a value of low confidence."""
    SKIPPED = "skipped"
    """Nothing could be compared; `why` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One compared number.

    Attributes:
        case: What it belongs to: the id of a published case, or `reference`.
        what: Which number of that it is.
        expected: The value elsewhere.
        got: The value here.
        difference: How far they are apart, in the unit of `tolerance`.
        tolerance: How far they may be apart; `None` where the comparison is another.
        outcome: What it says.
        why: A remark: why it was skipped, what to think of a failure, further numbers.
        source: Where the value elsewhere comes from.
    """

    case: str
    what: str
    expected: float | None = None
    got: float | None = None
    difference: float | None = None
    tolerance: float | None = None
    outcome: Outcome
    why: str | None = None
    source: str


async def check_embedding(model: EmbeddingModel, case: GoldenCase) -> list[Check]:
    """An embedding model against one published case.

    Args:
        model: The model under test; its type of computing decides on the tolerance.
        case: One of an embedding model.
    """
    dtype = model.info.dtype
    if dtype not in case.tolerance:
        return [_skipped(case, dtype)]
    match case:
        case SimilarityCase():
            queries = await _embed(model, case.queries, instruction=case.instruction)
            similarities = _cosines(queries, await _embed(model, case.documents))
            return [
                _judge(case, f"query {row + 1}, document {column + 1}", expected, got, case.tolerance[dtype])
                for row, line in enumerate(case.expected)
                for column, (expected, got) in enumerate(zip(line, similarities[row], strict=True))
            ]
        case VectorCase():
            return _check_vector(case, (await _embed(model, [case.input]))[0], dtype)
        case CosineCase():
            left, right = await _embed(model, case.inputs)
            return [_judge(case, "cosine", case.expected, _cosines([left], [right])[0, 0], case.tolerance[dtype])]
        case RerankCase():
            raise AssertionError(f"{case.id} is a reranker's case")


async def check_reranker(model: RerankModel, case: GoldenCase) -> list[Check]:
    """A reranker against one published case; arguments as `check_embedding`."""
    assert isinstance(case, RerankCase), f"{case.id} is an embedding model's case"
    dtype = model.info.dtype
    if case.bounds is None and dtype not in case.tolerance:
        return [_skipped(case, dtype)]
    logits, scores = await _rerank(model, case.query, case.documents, case.instruction)
    values = logits if case.unit == "logit_difference" else scores
    names = [f"document {number}" for number in range(1, len(values) + 1)]
    if case.bounds is not None:
        return _check_bounds(case, names, values)
    return [
        _judge(case, name, expected, got, case.tolerance[dtype])
        for name, expected, got in zip(names, case.expected, values, strict=True)
    ]


async def embed_texts(model: EmbeddingModel, texts: Sequence[str], instruction: str) -> Vectors:
    """Every text as a document, then every text as a query: float32 `[2N, D]`, not normalised."""
    documents = await model.embed(EmbeddingRequest(inputs=texts, normalize=False))
    queries = await model.embed(EmbeddingRequest(inputs=texts, instruction=instruction, normalize=False))
    return np.concatenate([documents.vectors, queries.vectors])


async def rerank_texts(model: RerankModel, query: str, documents: Sequence[str], instruction: str) -> list[float]:
    """The logit of each document, in their order."""
    logits, _ = await _rerank(model, query, documents, instruction)
    return logits


def compare_vectors(names: Iterable[str], got: Vectors, expected: Vectors, *, dtype: str, source: str) -> list[Check]:
    """Vectors here against those of the reference, row by row: by cosine, with the largest difference as a remark.

    Args:
        names: What each row is.
        got: float32 `[N, D]`, of any length.
        expected: float32 `[N, D]`, of any length.
        dtype: What both were computed in.
        source: What computed `expected`.
    """
    checks = []
    for name, ours, theirs in zip(names, _unit(got), _unit(expected), strict=True):
        cosine = float(ours @ theirs)
        difference = abs(1 - cosine)
        checks.append(
            Check(
                case="reference",
                what=name,
                expected=1.0,
                got=cosine,
                difference=difference,
                tolerance=COSINE_TOLERANCE[dtype],
                outcome=Outcome.PASS if difference <= COSINE_TOLERANCE[dtype] else Outcome.FAIL,
                why=f"cosine of the vectors; largest difference {np.abs(ours - theirs).max():.1e}",
                source=source,
            )
        )
    return checks


def compare_logits(
    names: Iterable[str], got: Sequence[float], expected: Sequence[float], *, dtype: str, source: str
) -> list[Check]:
    """Logits here against those of the reference, one by one; arguments as `compare_vectors`."""
    return [
        Check(
            case="reference",
            what=name,
            expected=theirs,
            got=ours,
            difference=abs(ours - theirs),
            tolerance=LOGIT_TOLERANCE[dtype],
            outcome=Outcome.PASS if abs(ours - theirs) <= LOGIT_TOLERANCE[dtype] else Outcome.FAIL,
            source=source,
        )
        for name, ours, theirs in zip(names, got, expected, strict=True)
    ]


def reads_as_token(check: Check) -> Check:
    """The check of a text that names a token, which the reference obeys and Quernel's reranker reads as text."""
    return replace(
        check, outcome=Outcome.SKIPPED, why="it names a token, which the reference obeys and Quernel reads as text"
    )


async def _embed(model: EmbeddingModel, texts: Sequence[str], instruction: str | None = None) -> Vectors:
    return (await model.embed(EmbeddingRequest(inputs=texts, instruction=instruction, normalize=False))).vectors


async def _rerank(
    model: RerankModel, query: str, documents: Sequence[str], instruction: str
) -> tuple[list[float], list[float]]:
    """Logits and scores, in the order of the documents."""
    result = await model.rerank(RerankRequest(query=query, documents=documents, instruction=instruction))
    in_order = sorted(result.results, key=lambda ranked: ranked.index)
    return [ranked.logit for ranked in in_order], [ranked.relevance_score for ranked in in_order]


def _check_vector(case: VectorCase, vector: npt.NDArray[np.float32], dtype: str) -> list[Check]:
    if len(vector) != len(case.expected):
        return [
            Check(
                case=case.id,
                what="length",
                expected=len(case.expected),
                got=len(vector),
                outcome=Outcome.FAIL,
                why="another model",
                source=case.source,
            )
        ]
    tolerance = case.tolerance[dtype]
    cosine = float(_cosines([vector], [case.expected])[0, 0])
    largest = np.abs(vector - np.asarray(case.expected, np.float32)).max()
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    return [
        _judge(case, "cosine", 1.0, cosine, 1 - tolerance.cosine, remark=f"largest difference {largest:.1e}"),
        _judge(case, "norm", case.expected_norm, norm, tolerance.norm_relative * case.expected_norm),
    ]


def _check_bounds(case: RerankCase, names: Sequence[str], values: Sequence[float]) -> list[Check]:
    assert case.bounds is not None
    checks = [
        Check(
            case=case.id,
            what=name,
            expected=expected,
            got=got,
            outcome=Outcome.PASS if low <= got <= high else _miss(case),
            why=f"between {low:g} and {high:g}",
            source=case.source,
        )
        for name, expected, got, (low, high) in zip(names, case.expected, values, case.bounds, strict=True)
    ]
    if len(values) > 1:
        same = sorted(names, key=dict(zip(names, values, strict=True)).__getitem__) == sorted(
            names, key=dict(zip(names, case.expected, strict=True)).__getitem__
        )
        outcome = Outcome.PASS if same else _miss(case)
        checks.append(Check(case=case.id, what="order", outcome=outcome, source=case.source))
    return checks


def _judge(
    case: GoldenCase, what: str, expected: float, got: float, tolerance: float, *, remark: str | None = None
) -> Check:
    difference = abs(float(got) - expected)
    outcome = Outcome.PASS if difference <= tolerance else _miss(case)  # NaN compares false and misses.
    remarks = [remark, case.note if outcome is not Outcome.PASS else None]
    return Check(
        case=case.id,
        what=what,
        expected=expected,
        got=float(got),
        difference=difference,
        tolerance=tolerance,
        outcome=outcome,
        why="; ".join(filter(None, remarks)) or None,
        source=case.source,
    )


def _miss(case: GoldenCase) -> Outcome:
    return Outcome.DOUBTFUL if case.confidence == "low" else Outcome.FAIL


def _skipped(case: GoldenCase, dtype: str) -> Check:
    return Check(
        case=case.id,
        what="all",
        outcome=Outcome.SKIPPED,
        why=f"recorded in {case.dtype} with {case.backend}; no tolerance is known for {dtype}",
        source=case.source,
    )


def _cosines(left: npt.ArrayLike, right: npt.ArrayLike) -> Numbers:
    """Cosines between rows, `[L, R]`."""
    similarities: Numbers = _unit(left) @ _unit(right).T
    return similarities


def _unit(vectors: npt.ArrayLike) -> Numbers:
    rows = np.asarray(vectors, np.float64)
    unit: Numbers = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
