"""vLLM's `/score` (query and document to a relevance) and `/pooling` (texts to vectors); its other routes are OpenAI's,
Jina's and Cohere's.

`/score` pairs one query with one document or with each of several, or as many queries with as many documents in order.
`truncate_prompt_tokens` is offered as -1, "as many as the model reads". `/pooling` gives vectors; its tasks for single
tokens and for classes are not offered.

Source: `vllm/entrypoints/pooling` of https://github.com/vllm-project/vllm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from quernel.errors import EmptyInputError, InternalError, InvalidRequestError
from quernel.protocols.body import decode_reply_body, decode_request_body, encode_body
from quernel.protocols.fields import (
    DimensionsField,
    EncodingFormat,
    Ignored,
    ModelName,
    TruncatePromptTokens,
    Usage,
    WireInputs,
    decode_alias,
    decode_inputs,
    decode_tokens,
    decode_truncate_prompt_tokens,
)
from quernel.protocols.rerank import RerankCall, ranked_document
from quernel.protocols.vectors import VectorEncoding, WireVector, decode_vectors, encode_vectors
from quernel.types import EmbeddingRequest, EmbeddingResult, RankedDocument, RerankRequest, RerankResult, Truncate

Texts: TypeAlias = str | list[str]


class ScoreBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Pairs of a query and a document."""

    model: ModelName = None
    queries: Annotated[
        Texts | None, Meta(description="A query for all documents, or one for each.", examples=["capital of France"])
    ] = None
    documents: Annotated[
        Texts | None,
        Meta(
            description="A document, or a list.", examples=[["Bananas are yellow.", "Paris is the capital of France."]]
        ),
    ] = None
    text_1: Annotated[Texts | None, Meta(description="Another name of `queries`.")] = None
    text_2: Annotated[Texts | None, Meta(description="Another name of `documents`.")] = None
    data_1: Annotated[Texts | None, Meta(description="Another name of `queries`.")] = None
    data_2: Annotated[Texts | None, Meta(description="Another name of `documents`.")] = None
    items: Annotated[Texts | None, Meta(description="Another name of `documents`.")] = None
    instruction: Annotated[str | None, Meta(description="What counts as relevant, as one sentence.")] = None
    use_activation: Annotated[
        bool | None, Meta(description="Whether scores are between 0 and 1 (the default) or logits (`false`).")
    ] = None
    max_tokens_per_doc: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Cut each document to so many tokens at its end; 0 for none."),
    ] = None
    truncate_prompt_tokens: TruncatePromptTokens = None
    encoding_format: Ignored = None
    priority: Ignored = None
    request_id: Ignored = None
    user: Ignored = None


class ScoreRow(Struct, kw_only=True):
    """The score of one pair."""

    index: int
    object: Literal["score"] = "score"
    score: Annotated[float, Meta(description="Between 0 and 1; a logit without `use_activation`.")]


class ScoreReply(Struct, kw_only=True):
    """Scores in the order of the pairs."""

    id: str = ""
    object: Literal["list"] = "list"
    created: int = 0
    model: str = ""
    data: list[ScoreRow]
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCall:
    """Pairs to score.

    Attributes:
        requests: Rerank requests whose documents, one request after the other, are the pairs in order.
        model: The name that was asked for; `None` where there was none.
        raw_scores: Whether the reply gives logits.
    """

    requests: tuple[RerankRequest, ...]
    model: str | None = None
    raw_scores: bool = False


def decode_score_request(body: bytes) -> ScoreCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, queries and documents that do not pair.
        EmptyInputError: No query or no document.
    """
    wire = decode_request_body(body, ScoreBody)
    queries = _texts("queries", queries=wire.queries, text_1=wire.text_1, data_1=wire.data_1)
    documents = _texts("documents", documents=wire.documents, text_2=wire.text_2, data_2=wire.data_2, items=wire.items)
    if len(queries) not in (1, len(documents)):
        raise InvalidRequestError(
            f"There are {len(queries)} queries and {len(documents)} documents.",
            param="documents",
            hint="Send one query, or as many as documents.",
        )
    groups = [documents] if len(queries) == 1 else [[document] for document in documents]
    return ScoreCall(
        requests=tuple(
            RerankRequest(
                query=query,
                documents=group,
                instruction=wire.instruction,
                truncate=decode_truncate_prompt_tokens(wire.truncate_prompt_tokens) or Truncate.ERROR,
                max_tokens_per_document=wire.max_tokens_per_doc or None,
            )
            for query, group in zip(queries, groups, strict=True)
        ),
        model=wire.model,
        raw_scores=wire.use_activation is False,
    )


def _texts(name: str, **spellings: Texts | None) -> list[str]:
    """The texts of a field, by whichever of its names it came.

    Raises:
        EmptyInputError: There are none.
        InvalidRequestError: Two names say different things.
    """
    said = decode_alias(**{spelling: _as_tuple(value) for spelling, value in spellings.items()})
    if not said:
        raise EmptyInputError(f"{name} is {'missing' if said is None else 'an empty list'}.", param=name)
    return list(said)


def _as_tuple(value: Texts | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def encode_score_request(call: ScoreCall) -> bytes:
    """The body that asks another server for `call`."""
    first = call.requests[0]
    single = len(call.requests) == 1
    documents = [document for request in call.requests for document in request.documents]
    return encode_body(
        ScoreBody(
            model=call.model,
            queries=first.query if single else [request.query for request in call.requests],
            documents=documents,
            instruction=first.instruction,
            use_activation=False if call.raw_scores else None,
            max_tokens_per_doc=first.max_tokens_per_document,
            truncate_prompt_tokens=None if first.truncate is Truncate.ERROR else -1,
        )
    )


def encode_score_response(results: Sequence[RerankResult], call: ScoreCall, *, request_id: str, created: int) -> bytes:
    """The reply to `call` with the scores of `results`, one for each of its requests."""
    scores = []
    for result in results:
        in_order = sorted(result.results, key=lambda ranked: ranked.index)
        scores += [ranked.logit if call.raw_scores else ranked.relevance_score for ranked in in_order]
    total = sum(sum(result.num_tokens) for result in results)
    return encode_body(
        ScoreReply(
            id=request_id,
            created=created,
            model=results[0].model,
            data=[ScoreRow(index=index, score=score) for index, score in enumerate(scores)],
            usage=Usage(prompt_tokens=total, total_tokens=total),
        )
    )


def decode_score_response(body: bytes, call: ScoreCall) -> list[RerankResult]:
    """The scores of a reply, as a result for each request of `call`, in the order of its documents.

    Raises:
        InternalError: The reply cannot be read, or has not a score for each pair.
    """
    reply = decode_reply_body(body, ScoreReply)
    rows = sorted(reply.data, key=lambda row: row.index)
    counts = [len(request.documents) for request in call.requests]
    if len(rows) != sum(counts):
        raise InternalError(f"The server's reply has {len(rows)} scores for {sum(counts)} pairs.")
    num_tokens, truncated = decode_tokens(reply.usage.total_tokens, None, (), len(rows))
    results, start = [], 0
    for request, count in zip(call.requests, counts, strict=True):
        one = RerankCall(request=request, raw_scores=call.raw_scores)
        ranked: list[RankedDocument] = [
            ranked_document(index, row.score, one) for index, row in enumerate(rows[start : start + count])
        ]
        results.append(
            RerankResult(
                results=tuple(sorted(ranked, key=lambda document: -document.logit)),
                num_tokens=num_tokens[start : start + count],
                truncated=truncated[start : start + count],
                model=reply.model,
            )
        )
        start += count
    return results


class PoolingBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Texts to turn into vectors."""

    model: ModelName = None
    input: Annotated[
        WireInputs,
        Meta(
            description="A text, a list of texts, the token ids of one text, or a list of such id lists.",
            examples=[["Paris is the capital of France.", "Bananas are yellow."]],
        ),
    ]
    task: Annotated[Literal["embed"] | None, Meta(description="Only `embed` is offered, which is the default.")] = None
    dimensions: DimensionsField = None
    encoding_format: EncodingFormat = None
    use_activation: Annotated[
        bool | None, Meta(description="Whether vectors have length 1; by default as the model's files say.")
    ] = None
    instruction: Annotated[str | None, Meta(description="Quernel's own: the task as one sentence.")] = None
    truncate_prompt_tokens: TruncatePromptTokens = None
    priority: Ignored = None
    request_id: Ignored = None
    user: Ignored = None


class PoolingRow(Struct, kw_only=True):
    """One vector."""

    index: int
    object: Literal["pooling"] = "pooling"
    data: WireVector


class PoolingReply(Struct, kw_only=True):
    """Vectors in the order of the texts."""

    id: str = ""
    object: Literal["list"] = "list"
    created: int = 0
    model: str = ""
    data: list[PoolingRow]
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingCall:
    """A request for vectors together with what only the wire knows.

    Attributes:
        request: What to embed.
        model: The name that was asked for; `None` where there was none.
        encoding: How the vectors of the reply are written.
    """

    request: EmbeddingRequest
    model: str | None = None
    encoding: VectorEncoding = VectorEncoding.FLOAT


def decode_pooling_request(body: bytes) -> PoolingCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, a mixed or too long list, another task.
        EmptyInputError: No text at all.
        TokenIdRangeError: An id that no model can have.
    """
    wire = decode_request_body(body, PoolingBody)
    return PoolingCall(
        request=EmbeddingRequest(
            inputs=decode_inputs(wire.input, "input"),
            instruction=wire.instruction,
            dimensions=wire.dimensions,
            normalize=wire.use_activation,
            truncate=decode_truncate_prompt_tokens(wire.truncate_prompt_tokens) or Truncate.ERROR,
        ),
        model=wire.model,
        encoding=wire.encoding_format or VectorEncoding.FLOAT,
    )


def encode_pooling_request(call: PoolingCall) -> bytes:
    """The body that asks another server for `call`.

    Raises:
        InvalidRequestError: Something of it has no field at vLLM: an input type, a prompt's name.
    """
    request = call.request
    for name in ("input_type", "prompt_name"):
        if getattr(request, name) is not None:
            raise InvalidRequestError(f"{name} has no field in vLLM's requests.", param=name, hint="Leave it out.")
    return encode_body(
        PoolingBody(
            model=call.model,
            input=list(request.inputs),  # type: ignore[arg-type]
            dimensions=request.dimensions,
            encoding_format=call.encoding,
            use_activation=request.normalize,
            instruction=request.instruction,
            truncate_prompt_tokens=None if request.truncate is Truncate.ERROR else -1,
        )
    )


def encode_pooling_response(result: EmbeddingResult, call: PoolingCall, *, request_id: str, created: int) -> bytes:
    """The reply to `call` with the vectors of `result`."""
    rows = encode_vectors(result.vectors, call.encoding)
    total = sum(result.num_tokens)
    return encode_body(
        {
            "id": request_id,
            "object": "list",
            "created": created,
            "model": result.model,
            "data": [{"index": index, "object": "pooling", "data": row} for index, row in enumerate(rows)],
            "usage": {"prompt_tokens": total, "total_tokens": total},
        }
    )


def decode_pooling_response(body: bytes) -> EmbeddingResult:
    """The vectors of a reply, in the order of the request's texts; its tokens are spread evenly.

    Raises:
        InternalError: The reply cannot be read.
    """
    reply = decode_reply_body(body, PoolingReply)
    rows = sorted(reply.data, key=lambda row: row.index)
    num_tokens, truncated = decode_tokens(reply.usage.total_tokens, None, (), len(rows))
    return EmbeddingResult(
        vectors=decode_vectors([row.data for row in rows]),
        num_tokens=num_tokens,
        truncated=truncated,
        model=reply.model,
    )
