"""`/v1/rerank` as Jina, Voyage and Cohere (v1) have it, in one superset, with Quernel's additions.

Request fields: `model`, `query`, `documents` (texts or `{"text": ...}`), `top_n`, `return_documents`; Jina's and
Voyage's `truncation`; Voyage's `top_k`; Cohere's `max_tokens_per_doc`; Quernel's `instruction`, `truncate` and
`raw_scores`. The reply has what clients of each look for: `results` (all but Voyage's), `data` (Voyage's), Jina's
`object` and `usage`, Cohere's `id` and `meta`. `return_documents` is false where it is not given, as at Cohere and
Voyage (Jina's own service says true).

Source: https://jina.ai/reranker (API), https://docs.cohere.com/v1/reference/rerank,
https://docs.voyageai.com/reference/reranker-api.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from quernel.errors import InvalidRequestError
from quernel.instructions import find_instruction
from quernel.protocols.body import decode_reply_body, decode_request_body, encode_body
from quernel.protocols.fields import (
    CutInputs,
    Ignored,
    ProviderMetadata,
    RequestBody,
    RoutingFields,
    TextBody,
    TokensPerInput,
    TruncateAlias,
    Usage,
    decode_alias,
    decode_tokens,
    decode_truncate,
    decode_truncate_prompt_tokens,
    encode_metadata,
    encode_tokens,
)
from quernel.types import RankedDocument, RerankRequest, RerankResult, Truncate

DOCUMENTS_PER_SEARCH_UNIT = 100
"""What Cohere bills as one search: a query with up to so many documents."""


Flag = bool | Literal["true", "false"]
"""A boolean, which clients of Xinference write as a string."""

Documents = Annotated[
    list[str | TextBody],
    Meta(
        description='Texts, or objects `{"text": ...}`.',
        examples=[["Bananas are yellow.", "Paris is the capital of France."]],
    ),
]
MaxTokens = Annotated[int, Meta(ge=1)]


class RerankBody(RequestBody, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A query and the documents to order by their relevance to it."""

    query: Annotated[str, Meta(description="What is asked.", examples=["capital of France"])]
    documents: Documents
    top_n: Annotated[int | None, Meta(description="Keep only the best so many; by default all.")] = None
    top_k: Annotated[int | None, Meta(description="Another name of `top_n`.")] = None
    return_documents: Annotated[Flag | None, Meta(description="Repeat each document's text in the reply.")] = None
    max_tokens_per_doc: Annotated[
        MaxTokens | None,
        Meta(description="Cut each document to so many tokens at its end, whatever `truncate` says."),
    ] = None
    prompt_name: Annotated[
        str | None, Meta(description="A task of `/v1/instructions`, whose sentence is the instruction.")
    ] = None
    truncation: TruncateAlias = None
    raw_scores: Annotated[
        bool | None, Meta(description='Give the model\'s logit("yes") - logit("no") instead of its sigmoid.')
    ] = None
    max_chunks_per_doc: Ignored = None
    overlap_tokens: Ignored = None
    return_len: Ignored = None


class RankedRow(Struct, kw_only=True, omit_defaults=True):
    """One document's place."""

    index: Annotated[int, Meta(description="Position in the request's documents.")]
    relevance_score: Annotated[float, Meta(description="Between 0 and 1; with `raw_scores` any number.")]
    document: Annotated[TextBody | str | None, Meta(description="With `return_documents`: the text.")] = None


class ApiVersion(Struct, frozen=True):
    """Cohere's name of this dialect."""

    version: str = "1"


class BilledUnits(Struct, frozen=True):
    """What Cohere would count; nothing is billed here."""

    search_units: int = 1


class TokenUnits(Struct, kw_only=True, frozen=True):
    """Tokens, in Cohere's words."""

    input_tokens: int = 0


class RerankMeta(Struct, kw_only=True, frozen=True):
    """What Cohere's clients look for."""

    api_version: ApiVersion = ApiVersion()
    billed_units: BilledUnits = BilledUnits()
    tokens: TokenUnits = TokenUnits()


class RerankReply(Struct, kw_only=True):
    """Documents, best first; equal scores keep the request's order."""

    id: Annotated[str, Meta(description="The request's id, as in the header `x-request-id`.")] = ""
    object: Literal["list"] = "list"
    model: Annotated[str, Meta(description="The model that scored, by its full name.")] = ""
    results: list[RankedRow] = []
    data: Annotated[
        list[RankedRow], Meta(description="The same as `results`, for clients of Voyage; `document` is the text.")
    ] = []
    usage: Usage = Usage()
    meta: RerankMeta = RerankMeta()
    num_tokens: TokensPerInput = None
    truncated: CutInputs = []
    provider_metadata: ProviderMetadata = field(default=None, name="providerMetadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankCall:
    """A request together with what only the wire knows.

    Attributes:
        request: What to order.
        model: The name that was asked for; `None` where there was none.
        return_documents: Whether the reply repeats the texts.
        raw_scores: Whether the reply gives logits.
        routing: What it says to a gateway.
    """

    request: RerankRequest
    model: str | None = None
    return_documents: bool = False
    raw_scores: bool = False
    routing: RoutingFields = RoutingFields()


def decode_rerank_request(body: bytes) -> RerankCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, `top_n` below 1.
        EmptyInputError: No query or no documents.
    """
    wire = decode_request_body(body, RerankBody)
    return RerankCall(
        request=RerankRequest(
            query=wire.query,
            documents=decode_documents(wire.documents),
            instruction=decode_instruction(wire.instruction, wire.prompt_name),
            top_n=decode_alias(top_n=wire.top_n, top_k=wire.top_k),
            truncate=decode_truncate(
                truncate=wire.truncate,
                truncate_sequence=wire.truncate_sequence,
                truncation=wire.truncation,
                truncate_prompt_tokens=decode_truncate_prompt_tokens(wire.truncate_prompt_tokens),
            ),
            max_tokens_per_document=wire.max_tokens_per_doc,
        ),
        model=wire.model,
        return_documents=wire.return_documents in (True, "true"),
        raw_scores=bool(wire.raw_scores),
        routing=wire.routing,
    )


def decode_instruction(instruction: str | None, prompt_name: str | None) -> str | None:
    """The instruction of a request, said as a sentence or by the name of a task.

    Raises:
        InvalidRequestError: No task has that name.
    """
    if instruction is not None or prompt_name is None:
        return instruction
    task = find_instruction(prompt_name)
    if task is None:
        raise InvalidRequestError(
            f"prompt_name is {prompt_name!r}, which no task is called.",
            param="prompt_name",
            hint="Use a name of /v1/instructions, or send an instruction.",
        )
    return task.query


def decode_documents(wire: list[str | TextBody]) -> list[str]:
    """The texts of documents, in either form."""
    return [document if isinstance(document, str) else document.text for document in wire]


def encode_rerank_request(call: RerankCall) -> bytes:
    """The body that asks another server for `call`; fields that keep their default are left out."""
    request = call.request
    fields = {
        "model": call.model,
        "query": request.query,
        "documents": request.documents,
        "instruction": request.instruction,
        "top_n": request.top_n,
        "truncate": None if request.truncate is Truncate.ERROR else request.truncate,
        "max_tokens_per_doc": request.max_tokens_per_document,
        "return_documents": call.return_documents or None,
        "raw_scores": call.raw_scores or None,
    }
    return encode_body({name: value for name, value in fields.items() if value is not None})


def encode_rerank_response(
    result: RerankResult, call: RerankCall, *, request_id: str, metadata: Mapping[str, Any] | None = None
) -> bytes:
    """The reply with the order that `result` gives to the documents of `call`.

    Args:
        result: The order.
        call: The request.
        request_id: The exchange's.
        metadata: What a gateway says of how it was answered.
    """
    results = ranked_rows(result, call)
    return encode_body(
        {
            "id": request_id,
            "object": "list",
            "model": result.model,
            "results": results,
            "data": [row | {"document": row["document"]["text"]} if "document" in row else row for row in results],
            "meta": rerank_meta(result, version="1"),
            **encode_tokens(result.num_tokens, result.truncated),
            **encode_metadata(metadata),
        }
    )


def ranked_rows(result: RerankResult, call: RerankCall) -> list[dict[str, Any]]:
    """The rows of a reply, best first, as Cohere has them."""
    return [_row(ranked, call) for ranked in result.results]


def rerank_meta(result: RerankResult, *, version: str) -> dict[str, Any]:
    """What Cohere's clients look for besides the rows."""
    return {
        "api_version": {"version": version},
        "billed_units": {"search_units": math.ceil(len(result.num_tokens) / DOCUMENTS_PER_SEARCH_UNIT)},
        "tokens": {"input_tokens": sum(result.num_tokens)},
    }


def decode_rerank_response(body: bytes, call: RerankCall) -> RerankResult:
    """The order that another server gives to the documents of `call`.

    With `call.raw_scores` the logits are exact. Without, they follow from the scores, and a score that was rounded to 0
    or 1 gives the largest logit that a float64 score can tell.

    Raises:
        InternalError: The reply cannot be read.
    """
    reply = decode_reply_body(body, RerankReply)
    total = reply.usage.total_tokens or reply.meta.tokens.input_tokens
    num_tokens, truncated = decode_tokens(total, reply.num_tokens, reply.truncated, len(call.request.documents))
    return RerankResult(
        results=tuple(ranked_document(row.index, row.relevance_score, call) for row in reply.results or reply.data),
        num_tokens=num_tokens,
        truncated=truncated,
        model=reply.model,
    )


def _row(ranked: RankedDocument, call: RerankCall) -> dict[str, Any]:
    score = ranked.logit if call.raw_scores else ranked.relevance_score
    row: dict[str, Any] = {"index": ranked.index, "relevance_score": score}
    if call.return_documents:
        row["document"] = {"text": call.request.documents[ranked.index]}
    return row


def ranked_document(index: int, score: float, call: RerankCall) -> RankedDocument:
    """A document's place from a reply's score, which `call` says the meaning of."""
    if call.raw_scores:
        return RankedDocument(index=index, relevance_score=_sigmoid(score), logit=score)
    inside = min(max(score, math.ulp(0.0)), 1.0 - math.ulp(1.0) / 2)
    return RankedDocument(index=index, relevance_score=score, logit=math.log(inside) - math.log1p(-inside))


def _sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)) without overflow at either end."""
    exponential = math.exp(-abs(logit))
    return (1.0 if logit >= 0 else exponential) / (1.0 + exponential)
