"""The routes, as a table: what goes in, what comes out, what can go wrong. OpenAPI and `/docs` are made from it."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from msgspec import Struct

from quernel.errors import (
    AuthenticationError,
    BodyTooLargeError,
    CheckpointError,
    ConfigError,
    DeadlineExceededError,
    DownloadError,
    EmptyInputError,
    EngineClosedError,
    ForeignTokenIdsError,
    InputTooLongError,
    InternalError,
    InvalidDimensionsError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    NonFiniteError,
    OverloadedError,
    PermissionDeniedError,
    QuernelError,
    SettingsError,
    TokenIdRangeError,
    TokenizerError,
    UnavailableError,
    UnsupportedModelError,
)
from quernel.protocols.admin import LoadBody, ModelBody, ModelStatusReply
from quernel.protocols.cohere import (
    CohereEmbedBody,
    CohereEmbedReply,
    CohereFloatsReply,
    CohereRerankBody,
    CohereRerankReply,
)
from quernel.protocols.error_body import UNION, ErrorDialect
from quernel.protocols.openai import (
    EmbeddingBody,
    EmbeddingReply,
    InstructionListReply,
    ModelListReply,
    ModelReply,
)
from quernel.protocols.rerank import RerankBody, RerankReply
from quernel.protocols.tei import (
    TEI_ERRORS,
    DecodeBody,
    InfoReply,
    SimilarityBody,
    TeiEmbedBody,
    TeiRank,
    TeiRerankBody,
    TokenizeBody,
    TokenReply,
)
from quernel.protocols.vllm import PoolingBody, PoolingReply, ScoreBody, ScoreReply
from quernel.server import handlers
from quernel.server.middleware import Handler

ASKED = (AuthenticationError,)
"""Errors of any route that needs a key, where the server has keys."""

FAILURES = (
    OverloadedError,
    InternalError,
    NonFiniteError,
    EngineClosedError,
    ModelNotReadyError,
    DeadlineExceededError,
)
"""Errors of any route that asks a model."""

BODY_ERRORS = (InvalidRequestError, BodyTooLargeError, AuthenticationError)
"""Errors of any route with a body."""

EMBED_ERRORS = (
    *BODY_ERRORS,
    EmptyInputError,
    InputTooLongError,
    InvalidDimensionsError,
    TokenIdRangeError,
    ForeignTokenIdsError,
    ModelNotFoundError,
    *FAILURES,
)
RERANK_ERRORS = (*BODY_ERRORS, EmptyInputError, InputTooLongError, ModelNotFoundError, *FAILURES)
TOKENIZE_ERRORS = (*BODY_ERRORS, EmptyInputError, ModelNotFoundError, ModelNotReadyError)
LOAD_ERRORS = (
    *BODY_ERRORS,
    PermissionDeniedError,
    SettingsError,
    UnsupportedModelError,
    ConfigError,
    CheckpointError,
    TokenizerError,
    DownloadError,
    ModelLoadError,
    ModelNotReadyError,
    InternalError,
)


class StatusReply(Struct):
    """How the server is."""

    status: str


@dataclass(frozen=True, slots=True)
class Tag:
    """What some routes have in common; clients that are made from the description have a part for each.

    Attributes:
        name: Its name.
        about: What the routes are for, as one sentence.
    """

    name: str
    about: str


VECTORS = Tag("Vectors", "Texts to vectors, in the wire formats of OpenAI, Jina, Voyage and Cohere.")
RERANKING = Tag(
    "Reranking", "Documents in the order of their relevance to a query, in the wire formats of Jina, Voyage and Cohere."
)
COMPATIBLE = Tag(
    "Other systems", "What clients of TEI, vLLM and Infinity ask for, at the paths where they look for it."
)
MODELS = Tag("Models", "The models that can be asked, and the instructions that they know.")
SERVER = Tag("This server", "Whether it is well, what it has counted, and this description.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A route.

    Attributes:
        method: Its method. `GET` answers `HEAD` too.
        path: Its path; `{name:path}` is a parameter that may hold slashes.
        handler: What answers.
        summary: What it gives, as one sentence.
        tag: What it is listed under.
        query: Shape of what its URL may say after the question mark.
        headers: Shape of the headers that its requests have besides those of all.
        body: Shape of its request; several where its fields tell which one it is.
        reply: Shape of its reply, for each shape of its request; empty where that is no JSON of ours.
        media_type: Type of its reply.
        error_dialects: How its errors are answered; several where the body says which. The first before it is read.
        errors: Errors it can answer with. All routes have 404, 405 and 500 of HTTP itself besides.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    tag: Tag
    query: type[Struct] | None = None
    headers: type[Struct] | None = None
    body: tuple[type[Struct], ...] = ()
    reply: tuple[Any, ...] = ()
    media_type: str = "application/json"
    error_dialects: tuple[ErrorDialect, ...] = (UNION,)
    errors: tuple[type[QuernelError], ...] = ()


EMBEDDINGS = Endpoint(
    method="POST",
    path="/v1/embeddings",
    handler=handlers.embeddings,
    summary="Vectors for texts, as OpenAI, Jina, Voyage and mistral.rs have it.",
    tag=VECTORS,
    body=(EmbeddingBody,),
    reply=(EmbeddingReply,),
    errors=EMBED_ERRORS,
)
RERANK = Endpoint(
    method="POST",
    path="/v1/rerank",
    handler=handlers.rerank_documents,
    summary="Documents in the order of their relevance to a query, as Jina, Voyage and Cohere (v1) have it.",
    tag=RERANKING,
    body=(RerankBody,),
    reply=(RerankReply,),
    errors=RERANK_ERRORS,
)
SCORE = Endpoint(
    method="POST",
    path="/v1/score",
    handler=handlers.vllm_score,
    summary="Scores of pairs of a query and a document, as vLLM has it.",
    tag=COMPATIBLE,
    body=(ScoreBody,),
    reply=(ScoreReply,),
    errors=RERANK_ERRORS,
)
HEALTH = Endpoint(
    method="GET",
    path="/health",
    handler=handlers.health,
    summary="200 as long as the process answers.",
    tag=SERVER,
    reply=(StatusReply,),
)
TEI_EMBED = Endpoint(
    method="POST",
    path="/embed",
    handler=handlers.tei_embed,
    summary="Vectors for texts as a bare list, as TEI has it.",
    tag=COMPATIBLE,
    body=(TeiEmbedBody,),
    reply=(list[list[float]],),
    error_dialects=(TEI_ERRORS,),
    errors=EMBED_ERRORS,
)

METRICS = Endpoint(
    method="GET",
    path="/metrics",
    handler=handlers.metrics,
    summary="Counts and gauges in the text format of Prometheus.",
    tag=SERVER,
    media_type="text/plain",
)

ENDPOINTS = (
    EMBEDDINGS,
    Endpoint(
        method="POST",
        path="/v2/embed",
        handler=handlers.cohere_embed,
        summary="Vectors for texts in several kinds of numbers, as Cohere (v2) has it.",
        tag=VECTORS,
        body=(CohereEmbedBody,),
        reply=(CohereEmbedReply,),
        errors=EMBED_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/v1/embed",
        handler=partial(handlers.cohere_embed, version="1"),
        summary="Vectors for texts, as Cohere (v1) has it, which LangChain asks for.",
        tag=VECTORS,
        body=(CohereEmbedBody,),
        reply=(CohereFloatsReply, CohereEmbedReply),
        errors=EMBED_ERRORS,
    ),
    RERANK,
    Endpoint(
        method="POST",
        path="/v2/rerank",
        handler=handlers.cohere_rerank,
        summary="Documents in the order of their relevance to a query, as Cohere (v2) has it.",
        tag=RERANKING,
        body=(CohereRerankBody,),
        reply=(CohereRerankReply,),
        errors=RERANK_ERRORS,
    ),
    replace(
        EMBEDDINGS,
        path="/embeddings",
        tag=COMPATIBLE,
        summary="The same as `/v1/embeddings`, where clients of TEI and Infinity look for it.",
    ),
    Endpoint(
        method="POST",
        path="/rerank",
        handler=handlers.rerank_any,
        summary="With `texts`, TEI's request and reply; else the same as `/v1/rerank`.",
        tag=COMPATIBLE,
        body=(RerankBody, TeiRerankBody),
        reply=(RerankReply, list[TeiRank]),
        error_dialects=(UNION, TEI_ERRORS),
        errors=RERANK_ERRORS,
    ),
    TEI_EMBED,
    Endpoint(
        method="POST",
        path="/",
        handler=handlers.tei_root,
        summary="With `query` TEI's `/rerank`, else its `/embed`.",
        tag=COMPATIBLE,
        body=(TeiEmbedBody, TeiRerankBody),
        reply=(list[list[float]], list[TeiRank]),
        error_dialects=(TEI_ERRORS,),
        errors=EMBED_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/similarity",
        handler=handlers.tei_similarity,
        summary="Cosines of sentences to one, as TEI has it.",
        tag=COMPATIBLE,
        body=(SimilarityBody,),
        reply=(list[float],),
        error_dialects=(TEI_ERRORS,),
        errors=EMBED_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/tokenize",
        handler=handlers.tei_tokenize,
        summary="The tokens of texts, as TEI has it.",
        tag=COMPATIBLE,
        body=(TokenizeBody,),
        reply=(list[list[TokenReply]],),
        error_dialects=(TEI_ERRORS,),
        errors=TOKENIZE_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/decode",
        handler=handlers.tei_decode,
        summary="The texts of token ids, as TEI has it.",
        tag=COMPATIBLE,
        body=(DecodeBody,),
        reply=(list[str],),
        error_dialects=(TEI_ERRORS,),
        errors=(*TOKENIZE_ERRORS, TokenIdRangeError),
    ),
    Endpoint(
        method="GET",
        path="/info",
        handler=handlers.tei_info,
        summary="The first model and the server's limits, as TEI has it.",
        tag=COMPATIBLE,
        reply=(InfoReply,),
        error_dialects=(TEI_ERRORS,),
        errors=(*ASKED, ModelNotFoundError, ModelNotReadyError),
    ),
    SCORE,
    replace(SCORE, path="/score", summary="The same as `/v1/score`."),
    Endpoint(
        method="POST",
        path="/pooling",
        handler=handlers.vllm_pooling,
        summary="Vectors for texts, as vLLM has it.",
        tag=COMPATIBLE,
        body=(PoolingBody,),
        reply=(PoolingReply,),
        errors=EMBED_ERRORS,
    ),
    Endpoint(
        method="GET",
        path="/v1/models",
        handler=handlers.list_models,
        summary="The models that are served, as OpenAI has it.",
        tag=MODELS,
        reply=(ModelListReply,),
        errors=ASKED,
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{name:path}",
        handler=handlers.describe_model,
        summary="One model.",
        tag=MODELS,
        reply=(ModelReply,),
        errors=(*ASKED, ModelNotFoundError),
    ),
    Endpoint(
        method="GET",
        path="/v1/instructions",
        handler=handlers.list_instructions,
        summary="The instructions that `prompt_name` may name: those of the family's evaluation.",
        tag=MODELS,
        reply=(InstructionListReply,),
        errors=ASKED,
    ),
    Endpoint(
        method="POST",
        path="/v1/models/load",
        handler=handlers.load_model,
        summary="Load one more model, or one again; answers when it is loaded. Needs the admin key.",
        tag=MODELS,
        body=(LoadBody,),
        reply=(ModelReply,),
        errors=LOAD_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/v1/models/unload",
        handler=handlers.unload_model,
        summary="Give a model's memory back, when its requests are through. Needs the admin key.",
        tag=MODELS,
        body=(ModelBody,),
        reply=(ModelStatusReply,),
        errors=(*BODY_ERRORS, PermissionDeniedError, ModelNotFoundError, ModelNotReadyError),
    ),
    Endpoint(
        method="POST",
        path="/v1/models/reload",
        handler=handlers.reload_model,
        summary="Load a model again that was unloaded or failed. Needs the admin key.",
        tag=MODELS,
        body=(ModelBody,),
        reply=(ModelStatusReply,),
        errors=(*LOAD_ERRORS, ModelNotFoundError),
    ),
    Endpoint(
        method="POST",
        path="/v1/models/status",
        handler=handlers.model_status,
        summary="Whether a model takes requests, as mistral.rs has it.",
        tag=MODELS,
        body=(ModelBody,),
        reply=(ModelStatusReply,),
        errors=(*BODY_ERRORS, ModelNotFoundError),
    ),
    HEALTH,
    replace(HEALTH, path="/ping", summary="The same as `/health`, where SageMaker looks for it."),
    Endpoint(
        method="GET",
        path="/ready",
        handler=handlers.ready,
        summary="200 when all models are loaded and have answered once, 503 before.",
        tag=SERVER,
        reply=(StatusReply,),
        errors=(UnavailableError,),
    ),
    METRICS,
    Endpoint(
        method="GET",
        path="/openapi.json",
        handler=handlers.openapi,
        summary="This description, for machines.",
        tag=SERVER,
    ),
    Endpoint(
        method="GET",
        path="/docs",
        handler=handlers.docs,
        summary="This description, for people.",
        tag=SERVER,
        media_type="text/html",
    ),
)
