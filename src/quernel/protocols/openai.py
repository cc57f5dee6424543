"""`/v1/embeddings` and `/v1/models` as OpenAI has them, with what Jina, Voyage and mistral.rs add on the same path.

Request fields of OpenAI: `input`, `model`, `dimensions`, `encoding_format`, `user`. Of Voyage: `input_type`,
`truncation`, `output_dimension`, `output_dtype`. Of Jina: `task`, `normalized`, `embedding_type`, `late_chunking`
(which is refused), objects `{"text": ...}` in `input`. Of mistral.rs: `truncate_sequence`. Quernel's own:
`instruction`, `prompt_name`, `truncate` (Jina's too, as a boolean), `normalize`. The reply has OpenAI's fields, and
`num_tokens` and `truncated` at its top, where clients pass over them.

Source: https://platform.openai.com/docs/api-reference/embeddings and .../models; what the Python client sends and reads
is in `openai/lib/_parsing/_embeddings.py` of https://github.com/openai/openai-python.
https://docs.voyageai.com/reference/embeddings-api, https://jina.ai/embeddings (API),
`mistralrs-server-core/src/openai.rs` of https://github.com/EricLBuehler/mistral.rs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from quernel.errors import InvalidRequestError
from quernel.instructions import named_instructions
from quernel.protocols.body import decode_reply_body, decode_request_body, encode_body
from quernel.protocols.fields import (
    MAX_INPUTS,
    CutInputs,
    DimensionsField,
    EncodingFormat,
    PromptName,
    ProviderMetadata,
    RequestBody,
    RoutingFields,
    TokensPerInput,
    TruncateAlias,
    Usage,
    WireInputs,
    decode_alias,
    decode_inputs,
    decode_tokens,
    decode_truncate,
    decode_truncate_prompt_tokens,
    encode_metadata,
    encode_tokens,
)
from quernel.protocols.tasks import JINA_TASKS, JinaTask
from quernel.protocols.vectors import (
    BITS_PER_BYTE,
    OutputDtype,
    VectorEncoding,
    WireVector,
    decode_vectors,
    encode_vectors,
)
from quernel.types import EmbeddingRequest, EmbeddingResult, InputType, ModelInfo, ModelKind, Truncate

BINARY_DTYPES = (OutputDtype.BINARY, OutputDtype.UBINARY)


class EmbeddingType(StrEnum):
    """How a vector is written, in Jina's words: the kind of its numbers, or base64 of float32."""

    FLOAT = "float"
    BASE64 = "base64"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


EMBEDDING_TYPES: Mapping[EmbeddingType, tuple[OutputDtype, VectorEncoding]] = {
    EmbeddingType.FLOAT: (OutputDtype.FLOAT, VectorEncoding.FLOAT),
    EmbeddingType.BASE64: (OutputDtype.FLOAT, VectorEncoding.BASE64),
    EmbeddingType.INT8: (OutputDtype.INT8, VectorEncoding.FLOAT),
    EmbeddingType.UINT8: (OutputDtype.UINT8, VectorEncoding.FLOAT),
    EmbeddingType.BINARY: (OutputDtype.BINARY, VectorEncoding.FLOAT),
    EmbeddingType.UBINARY: (OutputDtype.UBINARY, VectorEncoding.FLOAT),
}


class EmbeddingBody(RequestBody, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Texts to turn into vectors."""

    input: Annotated[
        WireInputs,
        Meta(
            description="A text, a list of texts, the token ids of one text, or a list of such id lists; not mixed. "
            f'A text may be an object `{{"text": ...}}`. At most {MAX_INPUTS} texts. '
            "An empty text is its end token alone.",
            examples=[["Paris is the capital of France.", "Bananas are yellow."]],
        ),
    ]
    dimensions: DimensionsField = None
    encoding_format: EncodingFormat = None
    output_dtype: Annotated[
        OutputDtype | None,
        Meta(description="float32 (`float`, the default), 8 bits a number, or 1 bit a number, 8 of them to a byte."),
    ] = None
    embedding_type: Annotated[
        EmbeddingType | None, Meta(description="Jina's word for `output_dtype` and `encoding_format` together.")
    ] = None
    output_dimension: Annotated[int | None, Meta(description="Another name of `dimensions`.")] = None
    input_type: Annotated[
        InputType | None,
        Meta(description="`query` puts the model's default instruction before the text, `document` nothing."),
    ] = None
    task: Annotated[
        JinaTask | None,
        Meta(
            description="Jina's word for the purpose: `retrieval.query` and `retrieval.passage` are the two of "
            "`input_type`, the others put an instruction before every text."
        ),
    ] = None
    prompt_name: PromptName = None
    normalize: Annotated[
        bool | None, Meta(description="Whether vectors have length 1; by default as the model's files say.")
    ] = None
    normalized: Annotated[bool | None, Meta(description="Another name of `normalize`.")] = None
    truncation: TruncateAlias = None
    late_chunking: Annotated[
        bool | None, Meta(description="Refused unless `false`: these models read a text from its last token.")
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
    provider_metadata: ProviderMetadata = field(default=None, name="providerMetadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall:
    """A request together with what only the wire knows.

    Attributes:
        request: What to embed.
        model: The name that was asked for; `None` where there was none.
        encoding: How the vectors of the reply are written.
        dtype: What numbers they are made of.
        routing: What it says to a gateway.
    """

    request: EmbeddingRequest
    model: str | None = None
    encoding: VectorEncoding = VectorEncoding.FLOAT
    dtype: OutputDtype = OutputDtype.FLOAT
    routing: RoutingFields = RoutingFields()


def decode_embedding_request(body: bytes) -> EmbeddingCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, an unknown field, a wrong type, a mixed or too long list.
        EmptyInputError: No text at all.
        TokenIdRangeError: An id that no model can have.
    """
    wire = decode_request_body(body, EmbeddingBody)
    if wire.late_chunking:
        raise InvalidRequestError(
            "late_chunking is not offered: it averages the tokens of each chunk, but Qwen3 models are read at the last "
            "token of a text, so chunks of one pass would not be the vectors that the model was trained to give.",
            param="late_chunking",
            hint="Leave it out; each text is embedded by itself.",
        )
    task = JINA_TASKS[wire.task] if wire.task else None
    dtype, encoding = _decode_numbers(wire)
    normalize = decode_alias(normalize=wire.normalize, normalized=wire.normalized)
    dimensions = decode_alias(dimensions=wire.dimensions, output_dimension=wire.output_dimension)
    check_dtype(dtype, dimensions=dimensions, normalize=normalize)
    return EmbeddingCall(
        request=EmbeddingRequest(
            inputs=decode_inputs(wire.input, "input"),
            instruction=task.instruction if task and wire.instruction is None else wire.instruction,
            input_type=decode_alias(input_type=wire.input_type, task=task.input_type if task else None),
            prompt_name=wire.prompt_name,
            dimensions=dimensions,
            normalize=normalize,
            truncate=decode_truncate(
                truncate=wire.truncate,
                truncate_sequence=wire.truncate_sequence,
                truncation=wire.truncation,
                truncate_prompt_tokens=decode_truncate_prompt_tokens(wire.truncate_prompt_tokens),
            ),
        ),
        model=wire.model,
        encoding=encoding,
        dtype=dtype,
        routing=wire.routing,
    )


def _decode_numbers(wire: EmbeddingBody) -> tuple[OutputDtype, VectorEncoding]:
    """How the reply's vectors are written, in either vendor's words."""
    if wire.embedding_type is None:
        return wire.output_dtype or OutputDtype.FLOAT, wire.encoding_format or VectorEncoding.FLOAT
    dtype, encoding = EMBEDDING_TYPES[wire.embedding_type]
    for name, said, meant in (
        ("output_dtype", wire.output_dtype, dtype),
        ("encoding_format", wire.encoding_format, encoding),
    ):
        if said not in (None, meant):
            raise InvalidRequestError(
                f"embedding_type is {wire.embedding_type}, but {name} says {said}.",
                param=name,
                hint="Send embedding_type alone, or the other two.",
            )
    return dtype, encoding


def check_dtype(dtype: OutputDtype, *, dimensions: int | None, normalize: bool | None) -> None:
    """Refuse what numbers of `dtype` cannot hold.

    Raises:
        InvalidRequestError: Vectors that are not to have length 1, or bits that do not fill their last byte.
    """
    if dtype is not OutputDtype.FLOAT and normalize is False:
        raise InvalidRequestError(
            f"Vectors as {dtype} lose their length, but normalize is false.",
            param="normalize",
            hint="Leave it out, or ask for float.",
        )
    if dtype in BINARY_DTYPES and dimensions is not None and dimensions % BITS_PER_BYTE:
        raise InvalidRequestError(
            f"dimensions is {dimensions}, but {dtype} packs eight numbers to a byte.",
            param="dimensions",
            hint="Send a multiple of 8.",
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
        "output_dtype": None if call.dtype is OutputDtype.FLOAT else call.dtype,
    }
    return encode_body({name: value for name, value in fields.items() if value is not None})


def encode_embedding_response(
    result: EmbeddingResult, call: EmbeddingCall, *, metadata: Mapping[str, Any] | None = None
) -> bytes:
    """The reply to `call` with the vectors of `result`, and what a gateway says of how it was answered."""
    rows = encode_vectors(result.vectors, call.encoding, call.dtype)
    return encode_body(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": result.model,
            **encode_tokens(result.num_tokens, result.truncated),
            **encode_metadata(metadata),
        }
    )


def decode_embedding_response(body: bytes, *, dtype: OutputDtype = OutputDtype.FLOAT) -> EmbeddingResult:
    """The vectors of a reply, in the order of the request's texts; those that its numbers stand for, if not float32.

    Raises:
        InternalError: The reply cannot be read.
    """
    reply = decode_reply_body(body, EmbeddingReply)
    rows = sorted(reply.data, key=lambda row: row.index)
    num_tokens, truncated = decode_tokens(reply.usage.total_tokens, reply.num_tokens, reply.truncated, len(rows))
    return EmbeddingResult(
        vectors=decode_vectors([row.embedding for row in rows], dtype),
        num_tokens=num_tokens,
        truncated=truncated,
        model=reply.model,
    )


class ModelStatus(StrEnum):
    """Whether a model takes requests, in the words of mistral.rs where it has them."""

    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"
    UNLOADED = "unloaded"


class ModelReply(Struct, kw_only=True):
    """A model of this server. OpenAI has the first four fields; what is null is not known before it is loaded."""

    id: Annotated[str, Meta(description="The name to ask for it by.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Meta(description="When this server began to serve it, in seconds since 1970.")]
    owned_by: str
    status: Annotated[ModelStatus, Meta(description="Whether it takes requests: only `loaded` does.")] = (
        ModelStatus.LOADED
    )
    error: Annotated[str | None, Meta(description="Why it could not be loaded.")] = None
    aliases: Annotated[list[str], Meta(description="Other names to ask for it by.")] = []
    instruction: Annotated[
        str | None, Meta(description="What this server puts before queries instead of the model's own default.")
    ] = None
    kind: ModelKind | None = None
    dimensions: Annotated[
        int | None, Meta(description="Length of its full vectors; for a reranker its hidden size.")
    ] = None
    max_tokens: Annotated[int | None, Meta(description="Longest input it reads, prompt and end token included.")] = None
    dtype: str | None = None
    device: str | None = None
    num_parameters: int | None = None
    revision: str | None = None
    prompts: Annotated[list[str], Meta(description="Names of the prompts in its files.")] = []


class ModelListReply(Struct, kw_only=True):
    """The models of this server, in the order they were named."""

    object: Literal["list"] = "list"
    data: list[ModelReply]
    instructions: Annotated[
        list[str], Meta(description="Tasks that `prompt_name` may name; their sentences are at `/v1/instructions`.")
    ] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A model as a server lists it.

    Attributes:
        name: Its name.
        created: When the server began to serve it, in seconds since 1970.
        status: Whether it takes requests.
        info: What it is, where it is loaded.
        error: Why it could not be loaded.
        aliases: Its other names.
        instruction: What the server puts before its queries.
    """

    name: str
    created: int
    status: ModelStatus = ModelStatus.LOADED
    info: ModelInfo | None = None
    error: str | None = None
    aliases: Sequence[str] = ()
    instruction: str | None = None


def encode_model(model: ListedModel) -> bytes:
    """The reply that describes one model."""
    return encode_body(_model(model))


def encode_models(models: Sequence[ListedModel]) -> bytes:
    """The reply that lists models."""
    reply = ModelListReply(data=[_model(model) for model in models], instructions=list(named_instructions()))
    return encode_body(reply)


class InstructionReply(Struct, kw_only=True, omit_defaults=True):
    """The sentences of a task."""

    name: str
    query: Annotated[str, Meta(description="Before every text that is not a document.")]
    document: Annotated[str | None, Meta(description="Before documents, in the few tasks that have it.")] = None


class InstructionListReply(Struct, kw_only=True):
    """The tasks that the family was evaluated on, with their instructions."""

    object: Literal["list"] = "list"
    data: list[InstructionReply]


def encode_instructions() -> bytes:
    """The reply that lists instructions by name."""
    return encode_body(
        InstructionListReply(
            data=[
                InstructionReply(name=name, query=task.query, document=task.document)
                for name, task in named_instructions().items()
            ]
        )
    )


def decode_models(body: bytes) -> tuple[ModelInfo, ...]:
    """The loaded models that another Quernel server lists.

    Raises:
        InternalError: The reply cannot be read.
    """
    reply = decode_reply_body(body, ModelListReply)
    return tuple(_info(model) for model in reply.data if model.status is ModelStatus.LOADED)


def _model(model: ListedModel) -> ModelReply:
    owner, slash, _ = model.name.partition("/")
    reply = ModelReply(
        id=model.name,
        created=model.created,
        owned_by=owner if slash else "quernel",
        status=model.status,
        error=model.error,
        aliases=list(model.aliases),
        instruction=model.instruction,
    )
    if model.info is not None:
        for name in INFO_FIELDS:
            setattr(reply, name, getattr(model.info, name))
        reply.prompts = list(model.info.prompts)
    return reply


INFO_FIELDS = ("kind", "dimensions", "max_tokens", "dtype", "device", "num_parameters", "revision")
"""What `ModelReply` has of `ModelInfo` as it is."""


def _info(model: ModelReply) -> ModelInfo:
    """What another server says of a model, with the least that may be where it says nothing."""
    return ModelInfo(
        name=model.id,
        kind=model.kind or ModelKind.EMBEDDING,
        dimensions=model.dimensions or 0,
        max_tokens=model.max_tokens or 0,
        dtype=model.dtype or "",
        device=model.device or "",
        num_parameters=model.num_parameters or 0,
        revision=model.revision,
        prompts=tuple(model.prompts),
    )
