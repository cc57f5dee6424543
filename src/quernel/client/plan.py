"""What a call to the SDK sends and how the answers make up its result. No I/O: both clients share it.

Large lists go out in parts, which the server packs into batches with whatever else it has; parts keep a failure small
and progress visible.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from quernel.protocols.openai import (
    EmbeddingCall,
    decode_embedding_response,
    decode_models,
    encode_embedding_request,
)
from quernel.protocols.rerank import RerankCall, decode_rerank_response, encode_rerank_request
from quernel.protocols.vectors import VectorEncoding
from quernel.types import EmbeddingRequest, EmbeddingResult, ModelInfo, RankedDocument, RerankRequest, RerankResult

T = TypeVar("T")

MAX_PART_CHARACTERS = 400_000
"""Of the texts in one part, about 100,000 tokens; a longer text goes alone."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to send.

    Attributes:
        method: Its method.
        path: Its path.
        body: Its body; empty for none.
        num_texts: Texts in it, for progress.
    """

    method: str
    path: str
    body: bytes = b""
    num_texts: int = 0


@dataclass(frozen=True, slots=True)
class Plan(Generic[T]):
    """Requests, and what their answers come to.

    Attributes:
        exchanges: To send, in any order.
        merge: The result, from the bodies of the answers in the order of `exchanges`.
    """

    exchanges: tuple[Exchange, ...]
    merge: Callable[[Sequence[bytes]], T]


def plan_embedding(request: EmbeddingRequest, model: str | None, texts_per_request: int) -> Plan[EmbeddingResult]:
    """Texts in parts; vectors in the order of the request."""
    exchanges = []
    for part in cut([len(text) for text in request.inputs], texts_per_request):
        call = EmbeddingCall(
            request=replace(request, inputs=request.inputs[part]), model=model, encoding=VectorEncoding.BASE64
        )
        exchanges.append(Exchange("POST", "/v1/embeddings", encode_embedding_request(call), len(call.request.inputs)))
    return Plan(tuple(exchanges), _merge_embeddings)


def _merge_embeddings(bodies: Sequence[bytes]) -> EmbeddingResult:
    parts = [decode_embedding_response(body) for body in bodies]
    return EmbeddingResult(
        vectors=np.concatenate([part.vectors for part in parts]),
        num_tokens=tuple(count for part in parts for count in part.num_tokens),
        truncated=tuple(cut for part in parts for cut in part.truncated),
        model=parts[0].model,
    )


def plan_rerank(request: RerankRequest, model: str | None, texts_per_request: int) -> Plan[RerankResult]:
    """Documents in parts, each with the query; ordered together, since a score does not depend on other documents."""
    calls, starts = [], []
    for part in cut([len(text) for text in request.documents], texts_per_request):
        documents = request.documents[part]
        calls.append(
            RerankCall(request=replace(request, documents=documents, top_n=None), model=model, raw_scores=True)
        )
        starts.append(part.start)
    exchanges = tuple(
        Exchange("POST", "/v1/rerank", encode_rerank_request(call), len(call.request.documents)) for call in calls
    )
    return Plan(exchanges, partial(_merge_ranked, calls, starts, request.top_n))


def _merge_ranked(
    calls: Sequence[RerankCall], starts: Sequence[int], top_n: int | None, bodies: Sequence[bytes]
) -> RerankResult:
    parts = [decode_rerank_response(body, call) for body, call in zip(bodies, calls, strict=True)]
    ranked = [
        RankedDocument(start + document.index, document.relevance_score, document.logit)
        for start, part in zip(starts, parts, strict=True)
        for document in part.results
    ]
    ranked.sort(key=lambda document: (-document.logit, document.index))
    return RerankResult(
        results=tuple(ranked[:top_n]),
        num_tokens=tuple(count for part in parts for count in part.num_tokens),
        truncated=tuple(cut for part in parts for cut in part.truncated),
        model=parts[0].model,
    )


def plan_models() -> Plan[tuple[ModelInfo, ...]]:
    """The models that are served."""
    return Plan((Exchange("GET", "/v1/models"),), lambda bodies: decode_models(bodies[0]))


def cut(lengths: Sequence[int], most: int) -> list[slice]:
    """Texts of these lengths in parts of at most `most` texts and `MAX_PART_CHARACTERS` characters, in order."""
    parts = []
    start = held = 0
    for index, length in enumerate(lengths):
        if index > start and (index - start >= most or held + length > MAX_PART_CHARACTERS):
            parts.append(slice(start, index))
            start, held = index, 0
        held += length
    return [*parts, slice(start, len(lengths))]
