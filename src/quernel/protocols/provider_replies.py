"""Replies of providers, read leniently: of what the vendors leave out, add or count wrongly, only the vectors, scores
and their places have to be right.

The codecs beside this file read replies of servers that keep to their format.

Source: as in those; https://openrouter.ai/docs/api-reference (`usage.cost`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, TypeVar

import numpy as np
from msgspec import Struct

from quernel.errors import InternalError
from quernel.protocols.body import decode_reply_body
from quernel.protocols.cohere import CohereVectors
from quernel.protocols.fields import decode_tokens
from quernel.protocols.rerank import RerankCall, ranked_document
from quernel.protocols.tei import TOKENS_HEADER, TeiRank
from quernel.protocols.vectors import RawVector, WireVector, decode_vectors
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult

R = TypeVar("R", EmbeddingResult, RerankResult)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[R]):
    """What a provider answered.

    Attributes:
        result: The vectors or scores. Where the provider only counts all tokens together, each text has its share.
        reported_tokens: Tokens that it says it read; `None` where it does not say.
        reported_cost: USD that it says it charges; `None` where it does not say.
    """

    result: R
    reported_tokens: int | None = None
    reported_cost: Decimal | None = None


class _Counted(Struct, kw_only=True):
    """What replies say of themselves. It is taken as it is: a wrong count must not cost the vectors."""

    usage: Any = None
    meta: Any = None
    num_tokens: Any = None
    truncated: Any = None


class _Vector(Struct):
    embedding: RawVector
    index: int | None = None


class _Vectors(_Counted, kw_only=True):
    data: list[_Vector]


class _CohereVectors(_Counted, kw_only=True):
    embeddings: CohereVectors


class _Rank(Struct):
    index: int
    relevance_score: float


class _Ranking(_Counted, kw_only=True):
    results: list[_Rank] | None = None
    data: list[_Rank] | None = None


def decode_embeddings(body: bytes, request: EmbeddingRequest, *, model: str) -> Reply[EmbeddingResult]:
    """The vectors of a reply as OpenAI, Jina and Voyage have it.

    Args:
        body: The reply's body.
        request: What was asked.
        model: Our name of the model.

    Raises:
        InternalError: They cannot be read, or are not one for each text.
    """
    wire = decode_reply_body(body, _Vectors)
    rows = wire.data
    if any(row.index is not None for row in rows):
        rows = sorted(rows, key=lambda row: -1 if row.index is None else row.index)
        _check_places([row.index for row in rows], len(request.inputs))
    return _vectors([row.embedding for row in rows], wire, request, model)


def decode_cohere_embeddings(body: bytes, request: EmbeddingRequest, *, model: str) -> Reply[EmbeddingResult]:
    """The vectors of a reply of Cohere's. Otherwise as `decode_embeddings`."""
    wire = decode_reply_body(body, _CohereVectors)
    return _vectors(wire.embeddings.float_ or [], wire, request, model)


def decode_tei_embeddings(
    body: bytes, request: EmbeddingRequest, headers: Mapping[str, str], *, model: str
) -> Reply[EmbeddingResult]:
    """The vectors of a reply of TEI's, whose headers say how many tokens it read. Otherwise as `decode_embeddings`."""
    return _vectors(decode_reply_body(body, list[list[float]]), _counted_by_tei(headers), request, model)


def decode_ranking(body: bytes, request: RerankRequest, *, model: str, raw_scores: bool) -> Reply[RerankResult]:
    """The order in a reply as Cohere, Jina and Voyage have it.

    Args:
        body: The reply's body.
        request: What was asked.
        model: Our name of the model.
        raw_scores: Whether scores are logits.

    Raises:
        InternalError: It cannot be read, does not have each document once, or scores are not between 0 and 1.
    """
    wire = decode_reply_body(body, _Ranking)
    rows = wire.results or wire.data or []
    return _ranking([(row.index, row.relevance_score) for row in rows], wire, request, model, raw_scores=raw_scores)


def decode_tei_ranking(
    body: bytes, request: RerankRequest, headers: Mapping[str, str], *, model: str
) -> Reply[RerankResult]:
    """The order in a reply of TEI's that was asked for logits. Otherwise as `decode_ranking`."""
    rows = decode_reply_body(body, list[TeiRank])
    places = [(row.index, row.score) for row in rows]
    return _ranking(places, _counted_by_tei(headers), request, model, raw_scores=True)


def _counted_by_tei(headers: Mapping[str, str]) -> _Counted:
    told = headers.get(TOKENS_HEADER, "")
    return _Counted(usage={"total_tokens": int(told)} if told.isdecimal() and len(told) < 16 else None)


def _check_places(indices: Sequence[int | None], count: int) -> None:
    """Refuse sorted places that are not each one of `count` texts once.

    Raises:
        InternalError: Places are missing, doubled or none.
    """
    if list(indices) != list(range(count)):
        raise InternalError(f"The reply does not have each of {count} texts once.")


def _vectors(
    rows: Sequence[RawVector | WireVector], wire: _Counted, request: EmbeddingRequest, model: str
) -> Reply[EmbeddingResult]:
    count = len(request.inputs)
    if len(rows) != count:
        raise InternalError(f"The reply has {len(rows)} vectors for {count} texts.")
    total = _total_tokens(wire)
    num_tokens, truncated = _tokens(wire, total, count)
    with np.errstate(over="ignore"):  # a number that is too large becomes infinite, which is found later
        vectors = decode_vectors(rows)
    result = EmbeddingResult(vectors=vectors, num_tokens=num_tokens, truncated=truncated, model=model)
    return Reply(result=result, reported_tokens=total, reported_cost=_cost(wire))


def _ranking(
    rows: Sequence[tuple[int, float]], wire: _Counted, request: RerankRequest, model: str, *, raw_scores: bool
) -> Reply[RerankResult]:
    count = len(request.documents)
    _check_places(sorted(index for index, _ in rows), count)
    if not raw_scores and not all(0 <= score <= 1 for _, score in rows):
        raise InternalError("The reply has scores that are not between 0 and 1. If they are logits, set raw_scores.")
    call = RerankCall(request=request, raw_scores=raw_scores)
    total = _total_tokens(wire)
    num_tokens, truncated = _tokens(wire, total, count)
    result = RerankResult(
        results=tuple(ranked_document(index, score, call) for index, score in rows),
        num_tokens=num_tokens,
        truncated=truncated,
        model=model,
    )
    return Reply(result=result, reported_tokens=total, reported_cost=_cost(wire))


def _tokens(wire: _Counted, total: int | None, count: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Tokens of each text, and whether each was cut, as far as the reply says."""
    each = wire.num_tokens if _are_counts(wire.num_tokens) and len(wire.num_tokens) == count else None
    return decode_tokens(total or 0, each, wire.truncated if _are_counts(wire.truncated) else (), count)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


TOKEN_PLACES = (
    ("usage", "total_tokens"),
    ("usage", "prompt_tokens"),
    ("meta", "tokens", "input_tokens"),
    ("meta", "billed_units", "input_tokens"),
)
"""Where replies count tokens: OpenAI's, Jina's and Voyage's, and Cohere's."""


def _total_tokens(wire: _Counted) -> int | None:
    """Tokens that a reply says were read. A text has one at least, so that none is as good as no word."""
    for place in TOKEN_PLACES:
        said = _at(wire, place)
        if isinstance(said, int | float) and 1 <= said < 2**53:
            return int(said)
    return None


def _cost(wire: _Counted) -> Decimal | None:
    """USD that a reply says were charged; what is no amount is as good as no word."""
    said = _at(wire, ("usage", "cost"))
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        cost = Decimal(str(said))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and cost >= 0 else None


def _at(wire: _Counted, place: Sequence[str]) -> Any:
    found = getattr(wire, place[0])
    for name in place[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return found
