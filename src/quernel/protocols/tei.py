"""The native routes of text-embeddings-inference: `/embed`, `/rerank`, `/similarity`, `/tokenize`, `/decode`, `/info`.

Their replies are bare lists, their errors `{"error": ..., "error_type": ...}` with 422 for what is wrong with a
request. Texts that are too long are cut unless `truncate` says otherwise, as TEI does by default. The times that TEI
tells in headers are told too.

Source: `router/src/http/types.rs` and `server.rs` of https://github.com/huggingface/text-embeddings-inference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct

from quernel.errors import InvalidRequestError
from quernel.protocols.body import decode_reply_body, decode_request_body, encode_body
from quernel.protocols.error_body import MAX_MESSAGE, ErrorDialect
from quernel.protocols.fields import DimensionsField, PromptName, WireInputs, check_count, decode_inputs
from quernel.protocols.rerank import RerankCall, ranked_document
from quernel.protocols.vectors import VectorEncoding, decode_vectors, encode_vectors
from quernel.types import (
    EmbeddingInput,
    EmbeddingRequest,
    EmbeddingResult,
    ModelInfo,
    ModelKind,
    RerankRequest,
    RerankResult,
    Timing,
    Token,
    Truncate,
)

DIRECTIONS: Mapping[str, Truncate] = {"right": Truncate.END, "left": Truncate.START}
"""`truncation_direction`, in any letter case: the side from which tokens are dropped."""

Direction = Annotated[
    str, Meta(description="Which end of a text is dropped: `Right` (the default) or `Left`, in any letter case.")
]
Cut = Annotated[
    bool | None, Meta(description="Whether texts that are too long are cut (the default) rather than refused.")
]

TOKENS_HEADER = "x-compute-tokens"
"""How many tokens the model read, which a reply's body has no place for."""


class ErrorType(StrEnum):
    """TEI's classes of errors."""

    UNHEALTHY = "Unhealthy"
    BACKEND = "Backend"
    OVERLOADED = "Overloaded"
    VALIDATION = "Validation"
    TOKENIZER = "Tokenizer"
    EMPTY = "Empty"


class TeiErrorReply(Struct, kw_only=True):
    """An error."""

    error: Annotated[str, Meta(description="What is wrong, and what to do about it.")]
    error_type: Annotated[ErrorType, Meta(description="TEI's class of it.")]


class TeiEmbedBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Texts to turn into vectors."""

    inputs: Annotated[
        WireInputs,
        Meta(
            description="A text, a list of texts, the token ids of one text, or a list of such id lists.",
            examples=[["Paris is the capital of France.", "Bananas are yellow."]],
        ),
    ]
    truncate: Cut = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None
    normalize: Annotated[bool, Meta(description="Whether vectors have length 1.")] = True
    dimensions: DimensionsField = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeiEmbedCall:
    """A request for vectors. TEI serves one model, so a request names none.

    Attributes:
        request: What to embed.
        model: The default one.
    """

    request: EmbeddingRequest
    model: None = None


def decode_embed_request(body: bytes) -> TeiEmbedCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, a mixed or too long list.
        EmptyInputError: No text at all.
        TokenIdRangeError: An id that no model can have.
    """
    wire = decode_request_body(body, TeiEmbedBody)
    return TeiEmbedCall(
        request=EmbeddingRequest(
            inputs=decode_inputs(wire.inputs, "inputs"),
            prompt_name=wire.prompt_name,
            normalize=wire.normalize,
            dimensions=wire.dimensions,
            truncate=_truncate(wire.truncate, wire.truncation_direction),
        )
    )


def encode_embed_request(call: TeiEmbedCall) -> bytes:
    """The body that asks another server for `call`.

    Raises:
        InvalidRequestError: Something of it has no field at TEI: an instruction, an input type.
    """
    request = call.request
    for name, value in (("instruction", request.instruction), ("input_type", request.input_type)):
        if value is not None:
            raise InvalidRequestError(f"{name} has no field in TEI's requests.", param=name, hint="Leave it out.")
    inputs: list[Any] = list(request.inputs)
    return encode_body(
        TeiEmbedBody(
            inputs=inputs,
            prompt_name=request.prompt_name,
            normalize=request.normalize is not False,
            dimensions=request.dimensions,
            **_spell_truncate(request.truncate),
        )
    )


def encode_embed_response(result: EmbeddingResult) -> bytes:
    """The reply: a list of vectors."""
    return encode_body(list(encode_vectors(result.vectors, VectorEncoding.FLOAT)))


def decode_embed_response(body: bytes, call: TeiEmbedCall, *, model: str) -> EmbeddingResult:
    """The vectors of a reply, which says neither tokens nor model.

    Raises:
        InternalError: The reply cannot be read.
    """
    rows = decode_reply_body(body, list[list[float]])
    count = len(call.request.inputs)
    return EmbeddingResult(
        vectors=decode_vectors(rows), num_tokens=(0,) * count, truncated=(False,) * count, model=model
    )


class TeiRerankBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A query and the texts to order by their relevance to it."""

    query: Annotated[str, Meta(description="What is asked.", examples=["capital of France"])]
    texts: Annotated[
        list[str],
        Meta(description="The documents.", examples=[["Bananas are yellow.", "Paris is the capital of France."]]),
    ]
    truncate: Cut = None
    truncation_direction: Direction = "Right"
    raw_scores: Annotated[bool, Meta(description="Whether scores are logits.")] = False
    return_text: Annotated[bool, Meta(description="Whether the reply repeats the texts.")] = False


class TeiRank(Struct, kw_only=True, omit_defaults=True):
    """One text's place."""

    index: Annotated[int, Meta(description="Its position in the request.")]
    score: float
    text: str | None = None


def decode_rerank_request(body: bytes) -> RerankCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type.
        EmptyInputError: No query or no texts.
    """
    wire = decode_request_body(body, TeiRerankBody)
    return RerankCall(
        request=RerankRequest(
            query=wire.query, documents=wire.texts, truncate=_truncate(wire.truncate, wire.truncation_direction)
        ),
        return_documents=wire.return_text,
        raw_scores=wire.raw_scores,
    )


def encode_rerank_request(call: RerankCall) -> bytes:
    """The body that asks another server for `call`; `top_n` is for `decode_rerank_response`.

    Raises:
        InvalidRequestError: Something of it has no field at TEI: an instruction, a limit for documents.
    """
    request = call.request
    for name in ("instruction", "max_tokens_per_document"):
        if getattr(request, name) is not None:
            raise InvalidRequestError(f"{name} has no field in TEI's requests.", param=name, hint="Leave it out.")
    return encode_body(
        TeiRerankBody(
            query=request.query,
            texts=list(request.documents),
            raw_scores=call.raw_scores,
            return_text=call.return_documents,
            **_spell_truncate(request.truncate),
        )
    )


def encode_rerank_response(result: RerankResult, call: RerankCall) -> bytes:
    """The reply: a list, best first."""
    return encode_body(
        [
            TeiRank(
                index=ranked.index,
                score=ranked.logit if call.raw_scores else ranked.relevance_score,
                text=call.request.documents[ranked.index] if call.return_documents else None,
            )
            for ranked in result.results
        ]
    )


def decode_rerank_response(body: bytes, call: RerankCall, *, model: str) -> RerankResult:
    """The order that a reply gives, which says neither tokens nor model.

    Raises:
        InternalError: The reply cannot be read.
    """
    rows = decode_reply_body(body, list[TeiRank])
    count = len(call.request.documents)
    return RerankResult(
        results=tuple(ranked_document(row.index, row.score, call) for row in rows[: call.request.top_n]),
        num_tokens=(0,) * count,
        truncated=(False,) * count,
        model=model,
    )


class SimilarityInputs(Struct, kw_only=True, forbid_unknown_fields=True):
    """A sentence and those to compare with it."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How the sentences are read."""

    truncate: Cut = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None


class SimilarityBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Sentences to compare with one."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


def decode_similarity_request(body: bytes) -> TeiEmbedCall:
    """The sentence first, then those to compare with it, as texts to embed.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, too many sentences.
        EmptyInputError: No sentences.
    """
    wire = decode_request_body(body, SimilarityBody)
    check_count(len(wire.inputs.sentences), "inputs.sentences")
    parameters = wire.parameters or SimilarityParameters()
    return TeiEmbedCall(
        request=EmbeddingRequest(
            inputs=[wire.inputs.source_sentence, *wire.inputs.sentences],
            prompt_name=parameters.prompt_name,
            normalize=True,
            truncate=_truncate(parameters.truncate, parameters.truncation_direction),
        )
    )


def encode_similarity_response(result: EmbeddingResult) -> bytes:
    """The reply: a cosine for each sentence."""
    first, rest = result.vectors[0], result.vectors[1:]
    return encode_body((rest @ first).tolist())


class TokenizeBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Texts to divide into tokens."""

    inputs: Annotated[str | list[str], Meta(description="A text, or a list of texts.", examples=[["Hello, world"]])]
    add_special_tokens: Annotated[bool, Meta(description="Whether the end token closes each text.")] = True
    prompt_name: PromptName = None


class TokenReply(Struct, kw_only=True):
    """One token."""

    id: int
    text: str
    special: bool
    start: Annotated[int | None, Meta(description="Its first character in the text; null where it has none.")] = None
    stop: Annotated[int | None, Meta(description="The character after its last.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeCall:
    """Texts to divide into tokens.

    Attributes:
        texts: The texts.
        add_special_tokens: Whether the end token closes each.
        prompt_name: A prompt that is put before each.
    """

    texts: Sequence[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


def decode_tokenize_request(body: bytes) -> TokenizeCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, too many texts.
        EmptyInputError: No text at all.
    """
    wire = decode_request_body(body, TokenizeBody)
    texts = [wire.inputs] if isinstance(wire.inputs, str) else wire.inputs
    check_count(len(texts), "inputs")
    return TokenizeCall(texts=texts, add_special_tokens=wire.add_special_tokens, prompt_name=wire.prompt_name)


def encode_tokenize_response(texts: Sequence[Sequence[Token]]) -> bytes:
    """The reply: the tokens of each text."""
    return encode_body(
        [
            [
                {
                    "id": token.id,
                    "text": token.text,
                    "special": token.special,
                    "start": token.start,
                    "stop": token.stop,
                }
                for token in tokens
            ]
            for tokens in texts
        ]
    )


class DecodeBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Token ids to turn back into texts."""

    ids: Annotated[
        list[int | list[int]],
        Meta(description="The ids of one text, or of several.", examples=[[[9707, 11, 1879]]]),
    ]
    skip_special_tokens: Annotated[bool, Meta(description="Whether special tokens are left out.")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCall:
    """Token ids to turn back into texts.

    Attributes:
        ids: Those of each text.
        skip_special_tokens: Whether special tokens are left out.
    """

    ids: Sequence[Sequence[int]]
    skip_special_tokens: bool = True


def decode_decode_request(body: bytes) -> DecodeCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type.
        EmptyInputError: No ids at all.
        TokenIdRangeError: An id that no model can have.
    """
    wire = decode_request_body(body, DecodeBody)
    ids: list[Any] = list(wire.ids)
    inputs: Sequence[EmbeddingInput] = decode_inputs(ids, "ids")
    return DecodeCall(
        ids=[row for row in inputs if not isinstance(row, str)], skip_special_tokens=wire.skip_special_tokens
    )


def encode_decode_response(texts: Sequence[str]) -> bytes:
    """The reply: a text for each list of ids."""
    return encode_body(list(texts))


class InfoReply(Struct, kw_only=True):
    """The default model and the server's limits."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: Annotated[
        dict[str, dict[str, Any]], Meta(description="`embedding` with its pooling, or `reranker` with its labels.")
    ]
    max_concurrent_requests: Annotated[
        int, Meta(description="The most texts that a request holds: what is limited here is tokens that wait.")
    ]
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None = None
    docker_label: str | None = None


MODEL_TYPES: Mapping[ModelKind, dict[str, dict[str, Any]]] = {
    ModelKind.EMBEDDING: {"embedding": {"pooling": "last_token"}},
    ModelKind.RERANKER: {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
}


def encode_info(info: ModelInfo, *, name: str, version: str, max_texts: int, max_batch_tokens: int) -> bytes:
    """What `/info` says of a model.

    Args:
        info: The model.
        name: The name that it is served under.
        version: Ours.
        max_texts: The most texts that a request holds.
        max_batch_tokens: The most tokens that are computed at once.
    """
    return encode_body(
        InfoReply(
            model_id=info.name,
            model_sha=info.revision,
            model_dtype=info.dtype,
            served_model_name=name,
            model_type=MODEL_TYPES[info.kind],
            max_concurrent_requests=max_texts,
            max_input_length=info.max_tokens,
            max_batch_tokens=max_batch_tokens,
            max_batch_requests=None,
            max_client_batch_size=max_texts,
            auto_truncate=True,
            tokenization_workers=1,
            version=version,
        )
    )


def timing_headers(
    timing: Timing, *, seconds: float, num_characters: int, num_tokens: int, device: str
) -> dict[str, str]:
    """The headers in which TEI tells where the time of a request went, in milliseconds.

    Args:
        timing: What the model said.
        seconds: Of the whole request.
        num_characters: Of all its texts.
        num_tokens: That the model read.
        device: Where it computed.
    """

    def milliseconds(seconds: float) -> str:
        return str(math.ceil(seconds * 1000))

    return {
        "x-compute-type": "gpu" if device.startswith("cuda") else "cpu",
        "x-compute-time": milliseconds(seconds),
        "x-compute-characters": str(num_characters),
        TOKENS_HEADER: str(num_tokens),
        "x-total-time": milliseconds(seconds),
        "x-tokenization-time": milliseconds(timing.tokenization),
        "x-queue-time": milliseconds(timing.queue),
        "x-inference-time": milliseconds(timing.inference),
    }


def _truncate(cut: bool | None, direction: str) -> Truncate:
    """What to do with long texts.

    Raises:
        InvalidRequestError: No such direction.
    """
    side = DIRECTIONS.get(direction.lower())
    if side is None:
        raise InvalidRequestError(
            f"truncation_direction is {direction!r}.", param="truncation_direction", hint="Use 'Right' or 'Left'."
        )
    return Truncate.ERROR if cut is False else side


def _spell_truncate(truncate: Truncate) -> dict[str, Any]:
    if truncate is Truncate.ERROR:
        return {"truncate": False}
    return {"truncate": True, "truncation_direction": "Left" if truncate is Truncate.START else "Right"}


EMPTY_CODE = "empty_input"

KEPT_STATUSES = (401, 403, 413, 429, 503)
"""Statuses of ours that are TEI's too."""

VALIDATION_STATUS, BACKEND_STATUS, FIRST_SERVER_STATUS = 422, 424, 500

ERROR_TYPES: Mapping[int, ErrorType] = {
    BACKEND_STATUS: ErrorType.BACKEND,
    429: ErrorType.OVERLOADED,
    503: ErrorType.UNHEALTHY,
}


def _status(status: int, code: str) -> int:
    if code == EMPTY_CODE:
        return 400
    if status in KEPT_STATUSES:
        return status
    return BACKEND_STATUS if status >= FIRST_SERVER_STATUS else VALIDATION_STATUS


def _encode_error(message: str, *, status: int, code: str, param: str | None = None) -> bytes:
    kind = ErrorType.EMPTY if code == EMPTY_CODE else ERROR_TYPES.get(_status(status, code), ErrorType.VALIDATION)
    return encode_body(TeiErrorReply(error=message[:MAX_MESSAGE], error_type=kind))


TEI_ERRORS = ErrorDialect(shape=TeiErrorReply, status=_status, encode=_encode_error)
"""How errors are answered on these routes: 422 for a wrong request, 424 for a fault of the model."""
