"""The routes, as a table: what goes in, what comes out, what can go wrong. OpenAPI and `/docs` are made from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from quernel.errors import (
    EmptyInputError,
    EngineClosedError,
    InputTooLongError,
    InternalError,
    InvalidDimensionsError,
    InvalidRequestError,
    ModelNotFoundError,
    NonFiniteError,
    OverloadedError,
    QuernelError,
    TokenIdRangeError,
    UnavailableError,
)
from quernel.protocols.cohere import CohereEmbedBody, CohereEmbedReply, CohereRerankBody, CohereRerankReply
from quernel.protocols.error_body import UNION, ErrorDialect
from quernel.protocols.openai import EmbeddingBody, EmbeddingReply, ModelListReply, ModelReply
from quernel.protocols.rerank import RerankBody, RerankReply
from quernel.server import handlers

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

FAILURES = (OverloadedError, InternalError, NonFiniteError, EngineClosedError)
"""Errors of any route that asks a model."""

EMBED_ERRORS = (
    InvalidRequestError,
    EmptyInputError,
    InputTooLongError,
    InvalidDimensionsError,
    TokenIdRangeError,
    ModelNotFoundError,
    *FAILURES,
)
RERANK_ERRORS = (InvalidRequestError, EmptyInputError, InputTooLongError, ModelNotFoundError, *FAILURES)


class StatusReply(Struct):
    """How the server is."""

    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A route.

    Attributes:
        method: Its method. `GET` answers `HEAD` too.
        path: Its path; `{name:path}` is a parameter that may hold slashes.
        handler: What answers.
        summary: What it gives, as one sentence.
        body: Shape of its request; several where its fields tell which one it is.
        reply: Shape of its reply, for each shape of its request; empty where that is no JSON of ours.
        media_type: Type of its reply.
        error_dialect: How its errors are answered.
        errors: Errors it can answer with. All routes have 404, 405, 413 and 500 of HTTP itself besides.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    summary: str
    body: tuple[type[Struct], ...] = ()
    reply: tuple[Any, ...] = ()
    media_type: str = "application/json"
    error_dialect: ErrorDialect = UNION
    errors: tuple[type[QuernelError], ...] = ()


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/embeddings",
        handler=handlers.embeddings,
        summary="Vectors for texts, as OpenAI, Jina, Voyage and mistral.rs have it.",
        body=(EmbeddingBody,),
        reply=(EmbeddingReply,),
        errors=EMBED_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/v1/rerank",
        handler=handlers.rerank_documents,
        summary="Documents in the order of their relevance to a query, as Jina, Voyage and Cohere (v1) have it.",
        body=(RerankBody,),
        reply=(RerankReply,),
        errors=RERANK_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/v2/embed",
        handler=handlers.cohere_embed,
        summary="Vectors for texts in several kinds of numbers, as Cohere (v2) has it.",
        body=(CohereEmbedBody,),
        reply=(CohereEmbedReply,),
        errors=EMBED_ERRORS,
    ),
    Endpoint(
        method="POST",
        path="/v2/rerank",
        handler=handlers.cohere_rerank,
        summary="Documents in the order of their relevance to a query, as Cohere (v2) has it.",
        body=(CohereRerankBody,),
        reply=(CohereRerankReply,),
        errors=RERANK_ERRORS,
    ),
    Endpoint(
        method="GET",
        path="/v1/models",
        handler=handlers.list_models,
        summary="The models that are served, as OpenAI has it.",
        reply=(ModelListReply,),
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{name:path}",
        handler=handlers.describe_model,
        summary="One model.",
        reply=(ModelReply,),
        errors=(ModelNotFoundError,),
    ),
    Endpoint(
        method="GET",
        path="/health",
        handler=handlers.health,
        summary="200 as long as the process answers.",
        reply=(StatusReply,),
    ),
    Endpoint(
        method="GET",
        path="/ready",
        handler=handlers.ready,
        summary="200 when the models take requests, 503 before.",
        reply=(StatusReply,),
        errors=(UnavailableError,),
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        handler=handlers.metrics,
        summary="Counts and gauges in the text format of Prometheus.",
        media_type="text/plain",
    ),
    Endpoint(
        method="GET",
        path="/openapi.json",
        handler=handlers.openapi,
        summary="This description, for machines.",
    ),
    Endpoint(
        method="GET",
        path="/docs",
        handler=handlers.docs,
        summary="This description, for people.",
        media_type="text/html",
    ),
)
