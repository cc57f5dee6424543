"""Cohere's `/v2/embed`, `/v2/rerank` and `/v1/embed`; its v1 rerank is in `quernel.protocols.rerank`.

What a request leaves open is as at Cohere: a text that is too long is cut at its end, and a document to 4096 tokens.
What was cut stands in `truncated`, which Cohere does not have. `input_type` is optional here; without it a text is
embedded as it is. `images` and `max_tokens` are not offered. Quernel's `instruction` works on both routes.

Source: https://docs.cohere.com/reference/embed and https://docs.cohere.com/reference/rerank; what the Python client
sends and reads is in `src/cohere/v2` of https://github.com/cohere-ai/cohere-python.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct, field

from quernel.errors import InternalError, InvalidRequestError
from quernel.protocols.body import decode_reply_body, decode_request_body, encode_body
from quernel.protocols.fields import (
    MAX_INPUTS,
    CutInputs,
    DimensionsField,
    Ignored,
    ModelName,
    TokensPerInput,
    check_count,
    decode_tokens,
    encode_tokens,
)
from quernel.protocols.openai import EMBEDDING_TYPES, EmbeddingType, check_dtype
from quernel.protocols.rerank import (
    ApiVersion,
    Documents,
    MaxTokens,
    RankedRow,
    RerankCall,
    RerankMeta,
    TokenUnits,
    decode_documents,
    ranked_rows,
    rerank_meta,
)
from quernel.protocols.tasks import COHERE_TASKS, CohereInputType
from quernel.protocols.vectors import WireVector, decode_vectors, encode_vectors
from quernel.types import EmbeddingRequest, EmbeddingResult, InputType, RerankRequest, RerankResult, Truncate

API_VERSION: Literal["2"] = "2"

MAX_TOKENS_PER_DOCUMENT = 4096
"""Where a document is cut if a rerank request does not say."""


class CohereTruncate(StrEnum):
    """What happens to a text that is too long, in Cohere's words."""

    NONE = "NONE"
    START = "START"
    END = "END"


TRUNCATES: Mapping[CohereTruncate, Truncate] = {
    CohereTruncate.NONE: Truncate.ERROR,
    CohereTruncate.START: Truncate.START,
    CohereTruncate.END: Truncate.END,
}

INPUT_TYPES: Mapping[InputType, CohereInputType] = {
    InputType.QUERY: CohereInputType.SEARCH_QUERY,
    InputType.DOCUMENT: CohereInputType.SEARCH_DOCUMENT,
}

Instruction = Annotated[str | None, Meta(description="Quernel's own: the task as one sentence, best in English.")]


class CohereContentBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of an input; only text is offered."""

    type: Literal["text"]
    text: str


class CohereInputBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """An input made of parts, which are joined by line ends."""

    content: list[CohereContentBody]


class CohereEmbedBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Texts to turn into vectors."""

    model: ModelName = None
    texts: Annotated[
        list[str] | None,
        Meta(
            description=f"At most {MAX_INPUTS} texts. An empty text is its end token alone.",
            examples=[["Paris is the capital of France.", "Bananas are yellow."]],
        ),
    ] = None
    inputs: Annotated[list[CohereInputBody] | None, Meta(description="The texts as lists of parts.")] = None
    input_type: Annotated[
        CohereInputType | None,
        Meta(
            description="`search_query` puts the model's default instruction before the text, `search_document` "
            "nothing, the others an instruction of their own."
        ),
    ] = None
    instruction: Instruction = None
    embedding_types: Annotated[
        list[EmbeddingType] | None, Meta(description="The kinds of numbers to give, one or more; by default `float`.")
    ] = None
    output_dimension: DimensionsField = None
    truncate: Annotated[
        CohereTruncate | None,
        Meta(
            description="What happens to a text that is too long: its end is dropped (`END`, the default), its start "
            "is, or it is refused (`NONE`)."
        ),
    ] = None
    priority: Ignored = None


class CohereVectors(Struct, kw_only=True, omit_defaults=True):
    """The vectors in each kind of numbers that was asked for."""

    float_: list[WireVector] | None = field(default=None, name="float")
    int8: list[WireVector] | None = None
    uint8: list[WireVector] | None = None
    binary: list[WireVector] | None = None
    ubinary: list[WireVector] | None = None
    base64: list[WireVector] | None = None


class EmbedMeta(Struct, kw_only=True, frozen=True):
    """What Cohere would count; nothing is billed here."""

    api_version: ApiVersion = ApiVersion(API_VERSION)
    billed_units: TokenUnits = TokenUnits()


class CohereEmbedReply(Struct, kw_only=True):
    """Vectors in the order of the request's texts."""

    id: Annotated[str, Meta(description="The request's id, as in the header `x-request-id`.")] = ""
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"
    embeddings: CohereVectors
    texts: Annotated[list[str], Meta(description="The texts once more.")] = []
    meta: EmbedMeta = EmbedMeta()
    model: Annotated[str, Meta(description="The model that made them, by its full name.")] = ""
    num_tokens: TokensPerInput = None
    truncated: CutInputs = []


class CohereFloatsReply(Struct, kw_only=True):
    """Vectors in the order of the request's texts, as version 1 has them where no kinds were asked for."""

    id: Annotated[str, Meta(description="The request's id, as in the header `x-request-id`.")] = ""
    response_type: Literal["embeddings_floats"] = "embeddings_floats"
    embeddings: list[list[float]]
    texts: Annotated[list[str], Meta(description="The texts once more.")] = []
    meta: EmbedMeta = EmbedMeta(api_version=ApiVersion("1"))
    model: Annotated[str, Meta(description="The model that made them, by its full name.")] = ""
    num_tokens: TokensPerInput = None
    truncated: CutInputs = []


@dataclass(frozen=True, slots=True, kw_only=True)
class CohereEmbedCall:
    """A request together with what only the wire knows.

    Attributes:
        request: What to embed.
        model: The name that was asked for; `None` where there was none.
        types: The kinds of numbers to give.
        names_types: Whether the request named them, which version 1 looks at.
    """

    request: EmbeddingRequest
    model: str | None = None
    types: tuple[EmbeddingType, ...] = (EmbeddingType.FLOAT,)
    names_types: bool = True


def decode_embed_request(body: bytes) -> CohereEmbedCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, too many texts, both or neither of `texts` and
            `inputs`.
        EmptyInputError: No text at all.
    """
    wire = decode_request_body(body, CohereEmbedBody)
    if (wire.texts is None) == (wire.inputs is None):
        raise InvalidRequestError(
            f"texts and inputs are {'both missing' if wire.texts is None else 'both there'}.",
            param="texts",
            hint="Send one of them.",
        )
    inputs = wire.texts if wire.texts is not None else [_join(parts) for parts in wire.inputs or ()]
    check_count(len(inputs), "inputs" if wire.texts is None else "texts")
    types = tuple(dict.fromkeys(wire.embedding_types or (EmbeddingType.FLOAT,)))
    for kind in types:
        check_dtype(EMBEDDING_TYPES[kind][0], dimensions=wire.output_dimension, normalize=None)
    task = COHERE_TASKS[wire.input_type] if wire.input_type else None
    return CohereEmbedCall(
        request=EmbeddingRequest(
            inputs=inputs,
            instruction=task.instruction if task and wire.instruction is None else wire.instruction,
            input_type=task.input_type if task else None,
            dimensions=wire.output_dimension,
            truncate=TRUNCATES[wire.truncate or CohereTruncate.END],
        ),
        model=wire.model,
        types=types,
        names_types=bool(wire.embedding_types),
    )


def _join(parts: CohereInputBody) -> str:
    return "\n".join(part.text for part in parts.content)


def encode_embed_request(call: CohereEmbedCall) -> bytes:
    """The body that asks another server for `call`.

    Raises:
        InvalidRequestError: Something of it has no field at Cohere: token ids, a prompt's name, `normalize`.
    """
    request = call.request
    for name, value in (("prompt_name", request.prompt_name), ("normalize", request.normalize)):
        if value is not None:
            raise InvalidRequestError(f"{name} has no field in Cohere's requests.", param=name, hint="Leave it out.")
    if not all(isinstance(text, str) for text in request.inputs):
        raise InvalidRequestError("Cohere's requests take no token ids.", param="input", hint="Send the text.")
    fields = {
        "model": call.model,
        "texts": request.inputs,
        "input_type": INPUT_TYPES[request.input_type] if request.input_type else None,
        "instruction": request.instruction,
        "embedding_types": call.types if call.names_types else None,
        "output_dimension": request.dimensions,
        "truncate": next(wire for wire, meaning in TRUNCATES.items() if meaning is request.truncate),
    }
    return encode_body({name: value for name, value in fields.items() if value is not None})


def encode_embed_response(
    result: EmbeddingResult, call: CohereEmbedCall, *, request_id: str, version: Literal["1", "2"] = API_VERSION
) -> bytes:
    """The reply to `call` with the vectors of `result`, once for each kind of numbers.

    Version 1 answers a request that names no kinds with one list of floats.
    """
    tokens = encode_tokens(result.num_tokens, result.truncated)
    usage = tokens.pop("usage")
    by_type = version == API_VERSION or call.names_types
    embeddings = {kind.value: _vectors(result, kind) for kind in call.types}
    return encode_body(
        {
            "id": request_id,
            "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
            "embeddings": embeddings if by_type else embeddings[EmbeddingType.FLOAT],
            "texts": call.request.inputs,
            "meta": {
                "api_version": {"version": version},
                "billed_units": {"input_tokens": usage["total_tokens"]},
            },
            "model": result.model,
            **tokens,
        }
    )


def _vectors(result: EmbeddingResult, kind: EmbeddingType) -> Any:
    dtype, encoding = EMBEDDING_TYPES[kind]
    return encode_vectors(result.vectors, encoding, dtype)


def decode_embed_response(body: bytes) -> EmbeddingResult:
    """The vectors of a reply, in the order of the request's texts, from the most exact kind of numbers that it has.

    Raises:
        InternalError: The reply cannot be read.
    """
    reply = decode_reply_body(body, CohereEmbedReply)
    found = ((kind, getattr(reply.embeddings, "float_" if kind == "float" else kind)) for kind in EmbeddingType)
    kind, rows = next(((kind, rows) for kind, rows in found if rows is not None), (EmbeddingType.FLOAT, None))
    if rows is None:
        raise InternalError("The server's reply has no vectors.")
    vectors = decode_vectors(rows, EMBEDDING_TYPES[kind][0])
    total = reply.meta.billed_units.input_tokens
    num_tokens, truncated = decode_tokens(total, reply.num_tokens, reply.truncated, len(rows))
    return EmbeddingResult(
        vectors=np.ascontiguousarray(vectors), num_tokens=num_tokens, truncated=truncated, model=reply.model
    )


class CohereRerankBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """A query and the documents to order by their relevance to it."""

    model: ModelName = None
    query: Annotated[str, Meta(description="What is asked.", examples=["capital of France"])]
    documents: Documents
    instruction: Instruction = None
    top_n: Annotated[int | None, Meta(description="Keep only the best so many; by default all.")] = None
    max_tokens_per_doc: Annotated[
        MaxTokens | None,
        Meta(description=f"Cut each document to so many tokens at its end; by default {MAX_TOKENS_PER_DOCUMENT}."),
    ] = None
    return_documents: Annotated[bool | None, Meta(description="Repeat each document's text in the reply.")] = None
    priority: Ignored = None


class CohereRerankReply(Struct, kw_only=True):
    """Documents, best first; equal scores keep the request's order."""

    id: Annotated[str, Meta(description="The request's id, as in the header `x-request-id`.")] = ""
    results: list[RankedRow]
    meta: RerankMeta = RerankMeta(api_version=ApiVersion(API_VERSION))
    model: Annotated[str, Meta(description="The model that scored, by its full name.")] = ""
    num_tokens: TokensPerInput = None
    truncated: CutInputs = []


def decode_rerank_request(body: bytes) -> RerankCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, `top_n` below 1.
        EmptyInputError: No query or no documents.
    """
    wire = decode_request_body(body, CohereRerankBody)
    return RerankCall(
        request=RerankRequest(
            query=wire.query,
            documents=decode_documents(wire.documents),
            instruction=wire.instruction,
            top_n=wire.top_n,
            truncate=Truncate.END,
            max_tokens_per_document=wire.max_tokens_per_doc or MAX_TOKENS_PER_DOCUMENT,
        ),
        model=wire.model,
        return_documents=bool(wire.return_documents),
    )


def encode_rerank_request(call: RerankCall) -> bytes:
    """The body that asks another server for `call`. Of its `truncate` Cohere knows only the end."""
    request = call.request
    fields = {
        "model": call.model,
        "query": request.query,
        "documents": request.documents,
        "instruction": request.instruction,
        "top_n": request.top_n,
        "max_tokens_per_doc": request.max_tokens_per_document,
        "return_documents": call.return_documents or None,
    }
    return encode_body({name: value for name, value in fields.items() if value is not None})


def encode_rerank_response(result: RerankResult, call: RerankCall, *, request_id: str) -> bytes:
    """The reply with the order that `result` gives to the documents of `call`.

    `quernel.protocols.rerank.decode_rerank_response` reads it.
    """
    tokens = encode_tokens(result.num_tokens, result.truncated)
    tokens.pop("usage")
    return encode_body(
        {
            "id": request_id,
            "results": ranked_rows(result, call),
            "meta": rerank_meta(result, version=API_VERSION),
            "model": result.model,
            **tokens,
        }
    )
