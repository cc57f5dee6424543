"""The gateway's routes: those of the server that ask models, the AI SDK's, the catalogue, and money."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct, field

from quernel.errors import (
    ConflictError,
    InsufficientCreditError,
    InvalidRequestError,
    LimitExceededError,
    ModelNotFoundError,
    NoRouteError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    QuernelError,
    UnavailableError,
)
from quernel.gateway import handlers
from quernel.gateway.admin_routes import ADMIN, KEYS, MONEY, OPERATING
from quernel.gateway.chat_route import chat_completions
from quernel.gateway.keys import Scope
from quernel.protocols.ai_gateway import (
    MODEL_HEADER,
    MOUNTS,
    GatewayEmbeddingBody,
    GatewayEmbeddingReply,
    GatewayRerankBody,
    GatewayRerankReply,
)
from quernel.protocols.ai_gateway_catalogue import (
    GatewayConfigReply,
    GatewayCreditsReply,
    GatewayGenerationReply,
    GatewayReportParams,
    GatewayReportReply,
)
from quernel.protocols.ai_gateway_errors import AI_GATEWAY_ERRORS
from quernel.protocols.chat import ChatBody, ChatReplyBody
from quernel.protocols.gateway import EndpointsReply, GenerationQuery, ModelEntry, ModelEntryList, ModelQuery
from quernel.protocols.gateway_card import CardReply
from quernel.server.routes import (
    ASKED,
    BODY_ERRORS,
    COMPATIBLE,
    EMBED_ERRORS,
    ENDPOINTS,
    FAILURES,
    METRICS,
    MODELS,
    RERANK_ERRORS,
    RERANKING,
    SERVER,
    VECTORS,
    Endpoint,
    StatusReply,
    Tag,
)

AI_SDK = Tag(
    "AI SDK",
    "What `embed`, `embedMany` and `rerank` of Vercel's AI SDK ask for: `ai` 5 below `/v1/ai`, 6 below `/v3/ai`, 7 "
    "below `/v4/ai`.",
)

BILLED: tuple[type[QuernelError], ...] = (
    InsufficientCreditError,
    PermissionDeniedError,
    NoRouteError,
    ConflictError,
    LimitExceededError,
    ProviderError,
)
"""Errors that a route which asks models has in a gateway besides those of a server."""

NOT_HERE = frozenset(
    {
        "/tokenize",
        "/decode",
        "/info",
        "/ready",
        METRICS.path,
        "/v1/models",
        "/v1/models/{name:path}",
        "/v1/models/load",
        "/v1/models/unload",
        "/v1/models/reload",
        "/v1/models/status",
    }
)
"""Routes of a server that a gateway has in another form, or not at all: most are about the models of one machine."""

SHARED = tuple(
    replace(endpoint, errors=(*endpoint.errors, *BILLED)) if endpoint.method == "POST" else endpoint
    for endpoint in ENDPOINTS
    if endpoint.path not in NOT_HERE
)


class ModelHeaders(Struct):
    """Which model a request of the AI SDK is for."""

    model: Annotated[str, Meta(description="The model, by a name of `/v1/models`.")] = field(name=MODEL_HEADER)


SDK = tuple(
    endpoint
    for mount, version in MOUNTS.items()
    for endpoint in (
        Endpoint(
            method="POST",
            path=f"{mount}/embedding-model",
            handler=partial(handlers.sdk_embed, version=version),
            summary="Vectors for texts, as `embed` and `embedMany` of the AI SDK ask for them.",
            tag=AI_SDK,
            headers=ModelHeaders,
            body=(GatewayEmbeddingBody,),
            reply=(GatewayEmbeddingReply,),
            error_dialects=(AI_GATEWAY_ERRORS,),
            errors=(*EMBED_ERRORS, *BILLED),
        ),
        Endpoint(
            method="POST",
            path=f"{mount}/reranking-model",
            handler=partial(handlers.sdk_rerank, version=version),
            summary="Documents in the order of their relevance, as `rerank` of the AI SDK asks for it.",
            tag=AI_SDK,
            headers=ModelHeaders,
            body=(GatewayRerankBody,),
            reply=(GatewayRerankReply,),
            error_dialects=(AI_GATEWAY_ERRORS,),
            errors=(*RERANK_ERRORS, *BILLED),
        ),
        Endpoint(
            method="GET",
            path=f"{mount}/config",
            handler=partial(handlers.sdk_config, version=version),
            summary="The models, as `getAvailableModels` of the AI SDK asks for them.",
            tag=AI_SDK,
            reply=(GatewayConfigReply,),
            error_dialects=(AI_GATEWAY_ERRORS,),
            errors=ASKED,
        ),
    )
)

CHAT = Endpoint(
    method="POST",
    path="/v1/chat/completions",
    handler=chat_completions,
    summary="An answer in words, passed on to a provider as OpenAI has it; with `stream` as server-sent events.",
    tag=Tag("Chat", "Answers in words, passed on to a provider."),
    body=(ChatBody,),
    reply=(ChatReplyBody,),
    errors=(*BODY_ERRORS, ModelNotFoundError, *FAILURES, *BILLED),
)

OWN = (
    Endpoint(
        method="GET",
        path="/ready",
        handler=handlers.ready,
        summary="200 when requests are taken, 503 when the database does not answer.",
        tag=SERVER,
        reply=(StatusReply,),
        errors=(UnavailableError,),
    ),
    replace(
        METRICS,
        summary=f"{METRICS.summary} Scope `{Scope.METRICS.value}`.",
        errors=(*ASKED, PermissionDeniedError),
    ),
    Endpoint(
        method="GET",
        path="/v1/models",
        handler=handlers.models,
        summary="The models that anybody offers, with prices; searched, narrowed and sorted by the query.",
        tag=MODELS,
        query=ModelQuery,
        reply=(ModelEntryList,),
        errors=(InvalidRequestError,),
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{name:path}/endpoints",
        handler=handlers.endpoints,
        summary="Who offers a model, at what price, and how they are doing.",
        tag=MODELS,
        reply=(EndpointsReply,),
        errors=(ModelNotFoundError,),
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{name:path}/card",
        handler=handlers.card,
        summary="The page of a model: facts, what it is for, questions, scores, related models.",
        tag=MODELS,
        reply=(CardReply,),
        errors=(ModelNotFoundError,),
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{name:path}",
        handler=handlers.model,
        summary="One model.",
        tag=MODELS,
        reply=(ModelEntry,),
        errors=(ModelNotFoundError,),
    ),
    Endpoint(
        method="GET",
        path="/v1/credits",
        handler=handlers.credits,
        summary="What the account has left and has spent.",
        tag=MONEY,
        reply=(GatewayCreditsReply,),
        error_dialects=(AI_GATEWAY_ERRORS,),
        errors=ASKED,
    ),
    Endpoint(
        method="GET",
        path="/v1/generation",
        handler=handlers.generation,
        summary="One request: who served it, how long it took, what it cost.",
        tag=MONEY,
        query=GenerationQuery,
        reply=(GatewayGenerationReply,),
        error_dialects=(AI_GATEWAY_ERRORS,),
        errors=(*ASKED, NotFoundError),
    ),
    Endpoint(
        method="GET",
        path="/v1/report",
        handler=handlers.spend_report,
        summary="What was spent, by day, user, model, tag, provider or credential.",
        tag=MONEY,
        query=GatewayReportParams,
        reply=(GatewayReportReply,),
        error_dialects=(AI_GATEWAY_ERRORS,),
        errors=(*BODY_ERRORS, PermissionDeniedError),
    ),
)

TAGS = (VECTORS, RERANKING, CHAT.tag, AI_SDK, COMPATIBLE, MODELS, KEYS, MONEY, OPERATING, SERVER)
"""In the order in which routes are listed."""

GATEWAY_ENDPOINTS = tuple(
    sorted((*SHARED, *SDK, CHAT, *OWN, *ADMIN), key=lambda endpoint: TAGS.index(endpoint.tag)),
)
