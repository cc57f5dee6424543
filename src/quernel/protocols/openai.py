"""OpenAI's embeddings and models, with Quernel's additions.

Request fields of OpenAI: `input`, `model`, `dimensions`, `encoding_format`, `user`. Quernel's own: `instruction`,
`input_type`, `prompt_name`, `truncate` (alias `truncate_sequence`, as mistral.rs has it), `normalize`. The reply has
OpenAI's fields, and `num_tokens` and `truncated` at its top, where OpenAI's clients pass over them.

Source: https://platform.openai.com/docs/api-reference/embeddings and .../models; what the Python client sends and reads
is in `openai/lib/_parsing/_embeddings.py` of https://github.com/openai/openai-python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from quernel.errors import InvalidRequestError, TokenIdRangeError
from quernel.protocols.body import decode_reply_body, decode_request_body, encode_body
from quernel.protocols.fields import (
    CutInputs,
    RequestBody,
    TokensPerInput,
    Usage,
    decode_tokens,
    decode_truncate,
    encode_tokens,
)
from quernel.protocols.vectors import VectorEncoding, WireVector, decode_vectors, encode_vectors
from quernel.types import EmbeddingInput, EmbeddingRequest, EmbeddingResult, InputType, ModelInfo, ModelKind, Truncate

MAX_INPUTS = 2048
"""Texts in one request. OpenAI's own limit, to which its clients cut their batches."""

MAX_TOKEN_ID = 2**32 - 1
"""Largest id that can be any model's; the model has its own, smaller, limit."""

JSON_NAMES = {str: "a string", int: "an integer", list: "an array"}


class EmbeddingBody(RequestBody, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Texts to turn into vectors."""

    input: Annotated[
        str | list[str | int | list[int]],
        Meta(
            description="A text, a list of texts, the token ids of one text, or a list of such id lists; not mixed. "
            f"At most {MAX_INPUTS} texts. An empty text is its end token alone.",
            examples=[["Paris is the capital of France.", "Bananas are yellow."]],
        ),
    ]
    dimensions: Annotated[
        int | None, Meta(description="Length of the vectors, from 32 to the model's own, which is the default.")
    ] = None
    encoding_format: Annotated[
        VectorEncoding | None,
        Meta(description="JSON numbers (`float`, the default) or base64 of little-endian float32 (`base64`)."),
    ] = None
    input_type: Annotated[
        InputType | None,
        Meta(description="`query` puts the model's default instruction before the text, `document` nothing."),
    ] = None
    prompt_name: Annotated[str | None, Meta(description="A prompt named in the model's own files.")] = None
    normalize: Annotated[
        bool | None, Meta(description="Whether vectors have length 1; by default as the model's files say.")
    ] = None


class EmbeddingRow(Struct, kw_only=True):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: Annotated[int, Meta(description="Position of its text in the request.")]
    embedding: WireVector


class EmbeddingReply(Struct, kw_only=True):
    """Vectors in the order of the request's texts."""

    object: Literal["list"] = "list"
    data: list[EmbeddingRow]
    model: Annotated[str, Meta(description="The model that made them, by its full name.")]
    usage: Usage
    num_tokens: TokensPerInput = None
    truncated: CutInputs = []


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall:
    """A request together with what only the wire knows.

    Attributes:
        request: What to embed.
        model: The name that was asked for; `None` where there was none.
        encoding: How the vectors of the reply are written.
    """

    request: EmbeddingRequest
    model: str | None = None
    encoding: VectorEncoding = VectorEncoding.FLOAT


def decode_embedding_request(body: bytes) -> EmbeddingCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, a mixed or too long list.
        EmptyInputError: No text at all.
        TokenIdRangeError: An id that no model can have.
    """
    wire = decode_request_body(body, EmbeddingBody)
    return EmbeddingCall(
        request=EmbeddingRequest(
            inputs=_inputs(wire.input),
            instruction=wire.instruction,
            input_type=wire.input_type,
            prompt_name=wire.prompt_name,
            dimensions=wire.dimensions,
            normalize=wire.normalize,
            truncate=decode_truncate(truncate=wire.truncate, truncate_sequence=wire.truncate_sequence),
        ),
        model=wire.model,
        encoding=wire.encoding_format or VectorEncoding.FLOAT,
    )


def encode_embedding_request(call: EmbeddingCall) -> bytes:
    """The body that asks another server for `call`. Fields that keep their default are left out, so that a server that
    knows only OpenAI's sees nothing else."""
    request = call.request
    fields = {
        "model": call.model,
        "input": request.inputs,
        "instruction": request.instruction,
        "input_type": request.input_type,
        "prompt_name": request.prompt_name,
        "dimensions": request.dimensions,
        "normalize": request.normalize,
        "truncate": None if request.truncate is Truncate.ERROR else request.truncate,
        "encoding_format": call.encoding,
    }
    return encode_body({name: value for name, value in fields.items() if value is not None})


def encode_embedding_response(result: EmbeddingResult, encoding: VectorEncoding) -> bytes:
    """The reply with the vectors of `result`."""
    rows = encode_vectors(result.vectors, encoding)
    return encode_body(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": result.model,
            **encode_tokens(result.num_tokens, result.truncated),
        }
    )


def decode_embedding_response(body: bytes) -> EmbeddingResult:
    """The vectors of a reply, in the order of the request's texts.

    Raises:
        InternalError: The reply cannot be read.
    """
    reply = decode_reply_body(body, EmbeddingReply)
    rows = sorted(reply.data, key=lambda row: row.index)
    num_tokens, truncated = decode_tokens(reply.usage, reply.num_tokens, reply.truncated, len(rows))
    return EmbeddingResult(
        vectors=decode_vectors([row.embedding for row in rows]),
        num_tokens=num_tokens,
        truncated=truncated,
        model=reply.model,
    )


def _inputs(wire: str | list[str | int | list[int]]) -> Sequence[EmbeddingInput]:
    """The texts of `input`, whichever of its four forms it has."""
    if isinstance(wire, str):
        return [wire]
    expected = type(wire[0]) if wire else str
    for index, element in enumerate(wire):
        if type(element) is not expected:
            raise InvalidRequestError(
                f"input[{index}] is {JSON_NAMES[type(element)]}, but input[0] is {JSON_NAMES[expected]}.",
                param=f"input[{index}]",
                hint="Send texts alone, or token ids alone.",
            )
    inputs: list[Any] = [wire] if expected is int else wire
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequestError(
            f"input holds {len(inputs)} texts, but a request takes {MAX_INPUTS}.",
            param="input",
            hint="Send them in several requests.",
        )
    if expected is not str:
        _check_ids(inputs)
    return inputs


def _check_ids(rows: Sequence[Sequence[int]]) -> None:
    for index, ids in enumerate(rows):
        if ids and (min(ids) < 0 or max(ids) > MAX_TOKEN_ID):
            wrong = next(token for token in ids if not 0 <= token <= MAX_TOKEN_ID)
            raise TokenIdRangeError(f"input[{index}] holds {wrong}, which is no token id.", param="input")


class ModelReply(Struct, kw_only=True):
    """A model that is served. OpenAI has the first four fields."""

    id: Annotated[str, Meta(description="The name to ask for it by.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Meta(description="When this server started to serve it, in seconds since 1970.")]
    owned_by: str
    kind: ModelKind
    dimensions: Annotated[int, Meta(description="Length of its full vectors; for a reranker its hidden size.")]
    max_tokens: Annotated[int, Meta(description="Longest input it reads, prompt and end token included.")]
    dtype: str
    device: str
    num_parameters: int
    revision: str | None = None
    prompts: list[str] = []


class ModelListReply(Struct, kw_only=True):
    """The models that are served, in the order they were loaded."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


def encode_model(info: ModelInfo, *, created: int) -> bytes:
    """The reply that describes one model."""
    return encode_body(_model(info, created))


def encode_models(infos: Sequence[ModelInfo], *, created: int) -> bytes:
    """The reply that lists models."""
    return encode_body(ModelListReply(data=[_model(info, created) for info in infos]))


def decode_models(body: bytes) -> tuple[ModelInfo, ...]:
    """The models that another Quernel server lists.

    Raises:
        InternalError: The reply cannot be read.
    """
    return tuple(_info(model) for model in decode_reply_body(body, ModelListReply).data)


def _model(info: ModelInfo, created: int) -> ModelReply:
    owner, slash, _ = info.name.partition("/")
    return ModelReply(
        id=info.name,
        created=created,
        owned_by=owner if slash else "quernel",
        kind=info.kind,
        dimensions=info.dimensions,
        max_tokens=info.max_tokens,
        dtype=info.dtype,
        device=info.device,
        num_parameters=info.num_parameters,
        revision=info.revision,
        prompts=list(info.prompts),
    )


def _info(model: ModelReply) -> ModelInfo:
    return ModelInfo(
        name=model.id,
        kind=model.kind,
        dimensions=model.dimensions,
        max_tokens=model.max_tokens,
        dtype=model.dtype,
        device=model.device,
        num_parameters=model.num_parameters,
        revision=model.revision,
        prompts=tuple(model.prompts),
    )
