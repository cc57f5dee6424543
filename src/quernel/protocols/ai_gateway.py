"""Embedding and reranking as `@ai-sdk/gateway` asks for them: what `embed`, `embedMany` and `rerank` of `ai` send.

Three majors of `ai` are in use, each with a version of this protocol and, in its default address, a path of its own:
`ai` 5 speaks version 2, 6 version 3 and 7 version 4. The name of the model is no field but a header. What is asked of
the providers is in `quernel.protocols.provider_options`, warnings and errors are in `ai_gateway_warnings` and
`ai_gateway_errors` beside this file, and what a client looks up (models, credits, spend) is in `ai_gateway_catalogue`.

Vectors are JSON numbers; the protocol has no base64. Nor has it a field for the tokens of a rerank request, but its
clients pass over fields that they do not know, so that `usage` can stand there too.

Fields beyond the protocol's own are read under `providerOptions`, where every version lets a caller put what it likes:
`instruction`, `inputType`, `promptName`, `truncate`, `normalize`, `maxTokensPerDoc`, and `dimensions`, for which there
was no field before version 4 (https://github.com/vercel/ai/issues/8278).

Source: `packages/gateway/src` of https://github.com/vercel/ai: `gateway-embedding-model.ts`,
`gateway-reranking-model.ts`; versions 2.0.168, 3.0.232 and 4.0.146.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Annotated, Any, Generic, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import fields as struct_fields

from quernel.errors import InternalError, InvalidRequestError
from quernel.protocols.ai_gateway_warnings import (
    GatewayWarning,
    GatewayWarningReply,
    Version,
    WarningKind,
    cut_warnings,
    decode_warning,
    encode_warning,
)
from quernel.protocols.body import decode_reply_body, decode_request_body, encode_body, field_names
from quernel.protocols.error_body import MAX_PARAM
from quernel.protocols.fields import check_count, decode_alias, decode_tokens, decode_truncate
from quernel.protocols.provider_options import (
    ProviderOptions,
    choose,
    convert_option,
    decode_provider_options,
    encode_provider_options,
)
from quernel.protocols.rerank import RerankCall, ranked_document
from quernel.protocols.vectors import VectorEncoding, decode_vectors, encode_vectors
from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelKind,
    RerankRequest,
    RerankResult,
    Truncate,
)

R = TypeVar("R", EmbeddingResult, RerankResult)

MOUNTS: Mapping[str, Version] = {"/v1/ai": "2", "/v3/ai": "3", "/v4/ai": "4"}
"""Path at the end of a client's `baseURL`, to the version that the client speaks."""

MODEL_HEADER = "ai-model-id"
SPECIFICATION_HEADERS: Mapping[ModelKind, str] = {
    ModelKind.EMBEDDING: "ai-embedding-model-specification-version",
    ModelKind.RERANKER: "ai-reranking-model-specification-version",
}
PROTOCOL_VERSION = "0.0.1"

LATEST: Version = "4"

MAX_WARNINGS = 16
"""Fields and options that a reply warns of: a request may have thousands."""

RawOptions = Annotated[
    dict[str, Any] | None,
    Meta(
        description="Options by provider. `gateway`: where the request may go. `quernel`: `instruction`, `inputType`, "
        "`promptName`, `truncate`, `normalize`, `dimensions`, and for reranking `maxTokensPerDoc`."
    ),
]


class GatewayEmbeddingBody(Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """Texts to turn into vectors; the header `ai-model-id` names the model."""

    values: Annotated[
        list[str] | None,
        Meta(description="The texts.", examples=[["Paris is the capital of France.", "Bananas are yellow."]]),
    ] = None
    input: Annotated[str | list[str] | None, Meta(description="Their name in version 2: a text, or several.")] = None
    dimensions: Annotated[int | None, Meta(description="Length of the vectors; since version 4.")] = None
    provider_options: RawOptions = None


class GatewayTexts(Struct, tag_field="type", tag="text"):
    """Documents that are texts."""

    values: list[str]


class GatewayObjects(Struct, tag_field="type", tag="object"):
    """Documents that are objects. Each is read as JSON text, with its keys in the order in which they were sent."""

    values: list[dict[str, Any]]


class GatewayRerankBody(Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """A query and the documents to order by their relevance to it; the header `ai-model-id` names the model."""

    documents: GatewayTexts | GatewayObjects
    query: Annotated[str, Meta(description="What is asked.", examples=["capital of France"])]
    top_n: Annotated[int | None, Meta(description="Keep only the best so many; by default all.")] = None
    provider_options: RawOptions = None


class GatewayUsage(Struct, kw_only=True):
    """Tokens that the model read."""

    tokens: float = 0


Metadata = Annotated[
    dict[str, dict[str, Any]] | None,
    Meta(description="`gateway`: the id of the generation, its cost in USD as decimal text, how it was routed."),
]


class GatewayEmbeddingReply(Struct, kw_only=True, rename="camel"):
    """Vectors in the order of the request's texts."""

    embeddings: list[list[float]]
    usage: GatewayUsage | None = None
    warnings: list[GatewayWarningReply] | None = None
    provider_metadata: Metadata = None


class GatewayRank(Struct, kw_only=True, rename="camel"):
    """One document's place."""

    index: Annotated[int, Meta(description="Position in the request's documents.", ge=0)]
    relevance_score: Annotated[float, Meta(description="Between 0 and 1.")]


class GatewayRerankReply(Struct, kw_only=True, rename="camel"):
    """Documents, best first. Vercel's clients pass over `usage`."""

    ranking: list[GatewayRank]
    usage: GatewayUsage | None = None
    warnings: list[GatewayWarningReply] | None = None
    provider_metadata: Metadata = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayEmbeddingCall:
    """A request for vectors together with what only the wire knows.

    Attributes:
        request: What to embed.
        model: The name that was asked for.
        version: Of the protocol.
        options: Where it may go, and for whom it is.
        warnings: What to say in the reply.
    """

    request: EmbeddingRequest
    model: str
    version: Version
    options: ProviderOptions
    warnings: tuple[GatewayWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRerankCall:
    """A request for an order together with what only the wire knows.

    Attributes:
        request: What to order.
        model: The name that was asked for.
        version: Of the protocol.
        options: Where it may go, and for whom it is.
        warnings: What to say in the reply.
    """

    request: RerankRequest
    model: str
    version: Version
    options: ProviderOptions
    warnings: tuple[GatewayWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAnswer(Generic[R]):
    """What another gateway answered.

    Attributes:
        result: The vectors or the order. Only the sum of its tokens is told; what was cut is not.
        cost: What it charges, in USD; `None` where it does not say.
        generation_id: Its name for the request.
        warnings: What its caller should know.
    """

    result: R
    cost: Decimal | None = None
    generation_id: str | None = None
    warnings: tuple[GatewayWarning, ...] = ()


INPUT_TYPES: Mapping[str, InputType] = {kind.value: kind for kind in InputType}

EMBEDDING_OPTIONS: Mapping[str, tuple[str, Any]] = {
    "dimensions": ("dimensions", int),
    "instruction": ("instruction", str),
    "inputType": ("input_type", str),
    "input_type": ("input_type", str),
    "promptName": ("prompt_name", str),
    "prompt_name": ("prompt_name", str),
    "truncate": ("truncate", Truncate | bool),
    "normalize": ("normalize", bool),
}
"""Options of a request for vectors: how they are spelt, to the field they are of and its shape."""

RERANK_OPTIONS: Mapping[str, tuple[str, Any]] = {
    "instruction": ("instruction", str),
    "truncate": ("truncate", Truncate | bool),
    "maxTokensPerDoc": ("max_tokens_per_document", int),
    "max_tokens_per_doc": ("max_tokens_per_document", int),
}

OWN = "quernel"
"""Whose options are nobody else's: one that is not known is worth a warning."""

READ_IN_FULL = (OWN, "gateway", "alibaba")
"""Whose options are read with all their spellings."""

READ_FOR_DIMENSIONS = ("qwen", "openai", "openaiCompatible", "deepinfra")
"""Whose options are read only for `dimensions`: where callers of earlier versions put it."""


def decode_embedding_request(body: bytes, *, model: str, version: Version) -> GatewayEmbeddingCall:
    """What a client asks for.

    Args:
        body: The body.
        model: What the header `ai-model-id` says.
        version: Of the protocol, by the path.

    Raises:
        InvalidRequestError: Not JSON, a wrong type, too many texts, both or neither of `values` and `input`, an option
            that cannot be read, or two that contradict each other.
        EmptyInputError: No text at all.
    """
    wire = decode_request_body(body, GatewayEmbeddingBody)
    if (wire.values is None) == (wire.input is None):
        raise InvalidRequestError(
            f"values and input are {'both missing' if wire.values is None else 'both there'}.",
            param="values",
            hint="Send one of them.",
        )
    values = [wire.input] if isinstance(wire.input, str) else wire.input if wire.values is None else wire.values
    assert values is not None, "one of them is there"
    check_count(len(values), "input" if wire.values is None else "values")
    said = _read_options(wire.provider_options, EMBEDDING_OPTIONS)
    kinds = {place: choose(word, INPUT_TYPES, place) for place, word in said["input_type"].items()}
    options = decode_provider_options(wire.provider_options, read_elsewhere=EMBEDDING_OPTIONS)
    return GatewayEmbeddingCall(
        request=EmbeddingRequest(
            inputs=values,
            instruction=decode_alias(**said["instruction"]),
            input_type=decode_alias(**kinds),
            prompt_name=decode_alias(**said["prompt_name"]),
            dimensions=decode_alias(dimensions=wire.dimensions, **said["dimensions"]),
            normalize=decode_alias(**said["normalize"]),
            truncate=decode_truncate(**said["truncate"]),
        ),
        model=model,
        version=version,
        options=options,
        warnings=(
            *(_misplaced_dimensions(place) for place in said["dimensions"]),
            *_unknown(body, GatewayEmbeddingBody, wire.provider_options, options, EMBEDDING_OPTIONS),
        ),
    )


def decode_reranking_request(body: bytes, *, model: str, version: Version) -> GatewayRerankCall:
    """What a client asks for. A document that is an object becomes compact JSON, as `JSON.stringify` has it: with its
    keys in the order in which they were sent, since the caller's first key is likely to be the one that says most.

    Args:
        body: The body.
        model: What the header `ai-model-id` says.
        version: Of the protocol, by the path.

    Raises:
        InvalidRequestError: Not JSON, a wrong type, `topN` below 1, an option that cannot be read, or two that
            contradict each other.
        EmptyInputError: No query or no documents.
    """
    wire = decode_request_body(body, GatewayRerankBody)
    said = _read_options(wire.provider_options, RERANK_OPTIONS)
    options = decode_provider_options(wire.provider_options, read_elsewhere=RERANK_OPTIONS)
    converted = isinstance(wire.documents, GatewayObjects)
    return GatewayRerankCall(
        request=RerankRequest(
            query=wire.query,
            documents=_decode_documents(wire.documents),
            instruction=decode_alias(**said["instruction"]),
            top_n=wire.top_n,
            truncate=decode_truncate(**said["truncate"]),
            max_tokens_per_document=decode_alias(**said["max_tokens_per_document"]),
        ),
        model=model,
        version=version,
        options=options,
        warnings=(
            *((OBJECTS_WARNING,) if converted else ()),
            *_unknown(body, GatewayRerankBody, wire.provider_options, options, RERANK_OPTIONS),
        ),
    )


OBJECTS_WARNING = GatewayWarning(
    WarningKind.COMPATIBILITY,
    "Each object was read as JSON text, with its keys in the order in which they were sent.",
    "object documents",
)


def _decode_documents(documents: GatewayTexts | GatewayObjects) -> list[str]:
    if isinstance(documents, GatewayTexts):
        return documents.values
    try:
        # The standard library writes integers of any size, which orjson refuses.
        return [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in documents.values]
    except RecursionError as error:
        raise InvalidRequestError("A document is nested too deeply.", param="documents.values") from error


def _read_options(
    raw: Mapping[str, Any] | None, table: Mapping[str, tuple[str, Any]]
) -> Mapping[str, Mapping[str, Any]]:
    """What the options say of each field of the request: the place of each, to its value."""
    said: dict[str, dict[str, Any]] = {field: {} for field, _ in table.values()}
    for owner in (*READ_IN_FULL, *READ_FOR_DIMENSIONS):
        place = f"providerOptions.{owner}"
        options = (raw or {}).get(owner)
        for name, value in (convert_option(options, dict[str, Any], place) if options is not None else {}).items():
            read = name in table and (owner in READ_IN_FULL or name == "dimensions")
            if read and value is not None:
                field, shape = table[name]
                said[field][f"{place}.{name}"] = convert_option(value, shape, f"{place}.{name}")
    return said


def _misplaced_dimensions(place: str) -> GatewayWarning:
    message = "It works, but since ai 7 dimensions is an option of embed and embedMany themselves."
    return GatewayWarning(WarningKind.DEPRECATED, message, place)


def _unknown(
    body: bytes,
    shape: type[Struct],
    raw: Mapping[str, Any] | None,
    options: ProviderOptions,
    table: Mapping[str, tuple[str, Any]],
) -> Iterable[GatewayWarning]:
    """A warning for each field and option that changed nothing."""
    fields = field_names(body).difference(field.encode_name for field in struct_fields(shape))
    own = (f"providerOptions.{OWN}.{name}" for name in (raw or {}).get(OWN) or {} if name not in table)
    places = (*sorted(fields), *options.unknown, *own)
    for place in islice(places, MAX_WARNINGS):
        yield GatewayWarning(WarningKind.UNSUPPORTED, "It is not known here and changed nothing.", place[:MAX_PARAM])


def encode_embedding_reply(
    result: EmbeddingResult,
    *,
    version: Version,
    warnings: Sequence[GatewayWarning] = (),
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """The reply with the vectors of `result`.

    Args:
        result: What a model answered. A warning says which of its texts were cut.
        version: Of the request.
        warnings: What else the caller should know.
        metadata: What `providerMetadata.gateway` says; `None` for nothing.
    """
    return encode_body(
        {
            "embeddings": encode_vectors(result.vectors, VectorEncoding.FLOAT),
            **_encode_rest(result, "texts", version, warnings, metadata),
        }
    )


def encode_reranking_reply(
    result: RerankResult,
    *,
    version: Version,
    warnings: Sequence[GatewayWarning] = (),
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """The reply with the order of `result`.

    Args:
        result: What a model answered. A warning says which of its documents were cut.
        version: Of the request.
        warnings: What else the caller should know.
        metadata: What `providerMetadata.gateway` says; `None` for nothing.
    """
    return encode_body(
        {
            "ranking": [{"index": ranked.index, "relevanceScore": ranked.relevance_score} for ranked in result.results],
            **_encode_rest(result, "documents", version, warnings, metadata),
        }
    )


def _encode_rest(
    result: EmbeddingResult | RerankResult,
    noun: str,
    version: Version,
    warnings: Sequence[GatewayWarning],
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    told = [encode_warning(warning, version) for warning in (*warnings, *cut_warnings(result.truncated, noun))]
    rest: dict[str, Any] = {"usage": {"tokens": sum(result.num_tokens)}, "warnings": told}
    return rest if metadata is None else rest | {"providerMetadata": {"gateway": metadata}}


def encode_embedding_call(
    request: EmbeddingRequest,
    version: Version = LATEST,
    *,
    options: ProviderOptions | None = None,
    to_quernel: bool = False,
) -> bytes:
    """The body that asks another gateway for `request`.

    Args:
        request: What to embed.
        version: Of the protocol.
        options: Who asks, and what binds whoever answers.
        to_quernel: Whether the other is a Quernel, which reads what the protocol has no field for as an option. Any
            other would pass over it and answer another vector than was asked for.

    Raises:
        InvalidRequestError: Something of it has no field: token ids, or, unless `to_quernel`, an instruction, an input
            type, a prompt's name, `normalize`, a cut at the start, dimensions before version 4.
    """
    if not all(isinstance(text, str) for text in request.inputs):
        raise InvalidRequestError("This protocol takes no token ids.", param="input", hint="Send the text.")
    own = {
        "instruction": request.instruction,
        "inputType": request.input_type,
        "promptName": request.prompt_name,
        "normalize": request.normalize,
        "dimensions": None if version == LATEST else request.dimensions,
        "truncate": _option_of(request.truncate, to_quernel),
    }
    values = list(request.inputs)
    return encode_body(
        {
            **({"input": values[0] if len(values) == 1 else values} if version == "2" else {"values": values}),
            **({"dimensions": request.dimensions} if version == LATEST and request.dimensions is not None else {}),
            **_encode_options(own, options, to_quernel),
        }
    )


def encode_reranking_call(
    request: RerankRequest, *, options: ProviderOptions | None = None, to_quernel: bool = False
) -> bytes:
    """The body that asks another gateway for `request`; the same in all versions that have it.

    Args:
        request: What to order.
        options: Who asks, and what binds whoever answers.
        to_quernel: Whether the other is a Quernel, which reads what the protocol has no field for as an option.

    Raises:
        InvalidRequestError: Something of it has no field, unless `to_quernel`: an instruction, a cut at the start, a
            limit for documents.
    """
    own = {
        "instruction": request.instruction,
        "maxTokensPerDoc": request.max_tokens_per_document,
        "truncate": _option_of(request.truncate, to_quernel),
    }
    return encode_body(
        {
            "documents": {"type": "text", "values": request.documents},
            "query": request.query,
            **({} if request.top_n is None else {"topN": request.top_n}),
            **_encode_options(own, options, to_quernel),
        }
    )


def _option_of(truncate: Truncate, to_quernel: bool) -> Truncate | None:
    """A cut as an option. To leave texts alone is the default; to cut the end is what others do without being asked."""
    return truncate if truncate is Truncate.START or (to_quernel and truncate is Truncate.END) else None


def _encode_options(own: Mapping[str, Any], options: ProviderOptions | None, to_quernel: bool) -> dict[str, Any]:
    said = {name: value for name, value in own.items() if value is not None}
    if said and not to_quernel:
        name = next(iter(said))
        raise InvalidRequestError(f"{name} has no field in this protocol.", param=name, hint="Leave it out.")
    raw = (encode_provider_options(options) if options else {}) | ({OWN: said} if said else {})
    return {"providerOptions": raw} if raw else {}


def request_headers(model: str, kind: ModelKind, version: Version = LATEST) -> dict[str, str]:
    """The headers of a request to another gateway, without the credential."""
    return {
        "content-type": "application/json",
        "ai-gateway-protocol-version": PROTOCOL_VERSION,
        "ai-gateway-auth-method": "api-key",
        SPECIFICATION_HEADERS[kind]: version,
        MODEL_HEADER: model,
    }


def decode_embedding_reply(body: bytes, *, model: str) -> GatewayAnswer[EmbeddingResult]:
    """What another gateway answered; `model` is the name it was asked for.

    Raises:
        InternalError: The reply cannot be read.
    """
    reply = decode_reply_body(body, GatewayEmbeddingReply)
    num_tokens, truncated = decode_tokens(_total(reply.usage), None, (), len(reply.embeddings))
    result = EmbeddingResult(
        vectors=decode_vectors(reply.embeddings), num_tokens=num_tokens, truncated=truncated, model=model
    )
    return _answer(result, reply)


def decode_reranking_reply(body: bytes, request: RerankRequest, *, model: str) -> GatewayAnswer[RerankResult]:
    """What another gateway answered to `request`; `model` is the name it was asked for. Vercel's tells no tokens.

    Raises:
        InternalError: The reply cannot be read, or ranks a document twice or one that there is not.
    """
    reply = decode_reply_body(body, GatewayRerankReply)
    count = len(request.documents)
    indices = [row.index for row in reply.ranking]
    if len(set(indices)) < len(indices) or max(indices, default=0) >= count:
        raise InternalError(f"The server's ranking of {count} documents names one twice, or one that there is not.")
    rows = sorted(reply.ranking, key=lambda row: -row.relevance_score)
    num_tokens, truncated = decode_tokens(_total(reply.usage), None, (), count)
    call = RerankCall(request=request)
    result = RerankResult(
        results=tuple(ranked_document(row.index, row.relevance_score, call) for row in rows[: request.top_n]),
        num_tokens=num_tokens,
        truncated=truncated,
        model=model,
    )
    return _answer(result, reply)


def _total(usage: GatewayUsage | None) -> int:
    return 0 if usage is None else int(usage.tokens)


def _answer(result: R, reply: GatewayEmbeddingReply | GatewayRerankReply) -> GatewayAnswer[R]:
    told = (reply.provider_metadata or {}).get("gateway", {})
    generation_id = told.get("generationId")
    return GatewayAnswer(
        result=result,
        cost=_decode_cost(told.get("cost")),
        generation_id=generation_id if isinstance(generation_id, str) else None,
        warnings=tuple(map(decode_warning, reply.warnings or ())),
    )


def _decode_cost(told: object) -> Decimal | None:
    """An amount that another gateway charges. One that is no amount is as good as none: it must not fail an answer."""
    try:
        cost = Decimal(str(told))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and cost >= 0 else None
