"""The smallest gateway that the AI SDK's clients can be tested against: the codecs, two fake models and a few keys."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quernel.errors import (
    AuthenticationError,
    BodyTooLargeError,
    InsufficientCreditError,
    LimitExceededError,
    ModelNotFoundError,
    ModelNotReadyError,
    NotFoundError,
    PermissionDeniedError,
    QuernelError,
)
from quernel.protocols.ai_gateway import (
    MODEL_HEADER,
    MOUNTS,
    decode_embedding_request,
    decode_reranking_request,
    encode_embedding_reply,
    encode_reranking_reply,
)
from quernel.protocols.ai_gateway_catalogue import (
    CatalogueModel,
    GenerationInfo,
    ReportRow,
    decode_report_query,
    encode_config,
    encode_credits,
    encode_generation,
    encode_report,
)
from quernel.protocols.ai_gateway_errors import AI_GATEWAY_ERRORS
from quernel.protocols.ai_gateway_warnings import Version
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import ModelKind

EMBEDDING, RERANKER, COLD = "alibaba/qwen3-embedding-0.6b", "alibaba/qwen3-reranker-0.6b", "alibaba/cold"
GENERATION = "gen_01"
MAX_BODY_BYTES = 200_000
RETRY_AFTER_MS = 30

OPEN, SPENT, DENIED, LIMITED, BUSY = "key-open", "key-spent", "key-denied", "key-limited", "key-busy"


@dataclass
class Rehearsal:
    """What the application answers with, and what it was asked.

    Attributes:
        embedding: The embedding model.
        reranker: The reranker.
        attempts: Requests so far.
        turns: Of these, those with the key that is refused every other time.
    """

    embedding: FakeEmbeddingModel = field(default_factory=lambda: FakeEmbeddingModel(EMBEDDING))
    reranker: FakeRerankModel = field(default_factory=lambda: FakeRerankModel(RERANKER))
    attempts: int = 0
    turns: int = 0

    def admit(self, request: Request) -> None:
        """Refuse what the key of a request does not open.

        Raises:
            QuernelError: The refusal.
        """
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.attempts += 1
        self.turns += key == BUSY
        if key == SPENT:
            raise InsufficientCreditError("The balance is $0.00.", hint="Add money to the account.")
        if key == DENIED:
            raise PermissionDeniedError("This key may not use the model.", param="models-of-key")
        if key == LIMITED or (key == BUSY and self.turns % 2):
            raise LimitExceededError("60 requests a minute are used up.")
        if key not in (OPEN, BUSY):
            raise AuthenticationError("Incorrect API key provided.")

    def metadata(self, provider: str) -> dict[str, Any]:
        """What replies say of a generation."""
        return {"generationId": GENERATION, "cost": "0.0000012", "routing": {"finalProvider": provider}}

    async def embed(self, request: Request, version: Version) -> bytes:
        """Vectors."""
        model = request.headers[MODEL_HEADER]
        body = await read(request)
        if model == COLD:
            raise ModelNotReadyError("The model is being loaded.")
        if model != EMBEDDING:
            raise ModelNotFoundError(f"The model {model!r} is not offered.", param=model)
        call = decode_embedding_request(body, model=model, version=version)
        result = await self.embedding.embed(call.request)
        metadata = self.metadata(*call.options.order[:1] or ("first",))
        return encode_embedding_reply(result, version=version, warnings=call.warnings, metadata=metadata)

    async def rerank(self, request: Request, version: Version) -> bytes:
        """An order."""
        model = request.headers[MODEL_HEADER]
        if model != RERANKER:
            raise ModelNotFoundError(f"The model {model!r} is not offered.", param=model)
        call = decode_reranking_request(await read(request), model=model, version=version)
        result = await self.reranker.rerank(call.request)
        metadata = self.metadata("first")
        return encode_reranking_reply(result, version=version, warnings=call.warnings, metadata=metadata)

    async def config(self, request: Request, version: Version) -> bytes:
        """The models."""
        models = [
            CatalogueModel(id=EMBEDDING, name="Embedding", kind=ModelKind.EMBEDDING, input_price="0.00000001"),
            CatalogueModel(id=RERANKER, name="Reranker", kind=ModelKind.RERANKER, description="Orders."),
        ]
        return encode_config(models, version)

    async def credits(self, request: Request) -> bytes:
        """The money of the account."""
        return encode_credits("95.50", "4.50")

    async def generation(self, request: Request) -> bytes:
        """One answered request."""
        if request.query_params.get("id") != GENERATION:
            raise NotFoundError("There is no such generation.", param="id")
        return encode_generation(
            GenerationInfo(
                id=GENERATION,
                model=EMBEDDING,
                provider="first",
                created_at=datetime(2026, 11, 2, tzinfo=UTC),
                total_cost="0.0000012",
                latency_seconds=0.012,
                generation_seconds=0.02,
                num_tokens=120,
            )
        )

    async def report(self, request: Request) -> bytes:
        """What was spent; the one row repeats the query, so that a test sees how it was understood."""
        query = decode_report_query(request.query_params)
        group = f"{query.start} {query.end} {query.user} {query.model} {' '.join(query.tags)}"
        row = ReportRow(
            group_by=query.group_by,
            date_part=query.date_part,
            group=group,
            total_cost="1.25",
            market_cost="1.5",
            num_tokens=1000,
            num_requests=3,
        )
        return encode_report([row])


async def read(request: Request) -> bytes:
    """The body.

    Raises:
        BodyTooLargeError: It is larger than `MAX_BODY_BYTES`.
    """
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"The body has {len(body)} bytes, but {MAX_BODY_BYTES} are the most.")
    return body


def create_app(rehearsal: Rehearsal) -> Starlette:
    """The application."""

    def route(method: str, path: str, handler: Callable[..., Any], *arguments: Any) -> Route:
        async def handle(request: Request) -> Response:
            try:
                rehearsal.admit(request)
                return Response(await handler(request, *arguments), media_type="application/json")
            except QuernelError as error:
                body = AI_GATEWAY_ERRORS.encode(str(error), status=error.status, code=error.code, param=error.param)
                headers = {"retry-after-ms": str(RETRY_AFTER_MS)} if error.status == 429 else {}
                status = AI_GATEWAY_ERRORS.status(error.status, error.code)
                return Response(body, status, headers, media_type="application/json")

        return Route(path, handle, methods=[method])

    calls = [
        route(method, mount + path, handler, version)
        for mount, version in MOUNTS.items()
        for method, path, handler in (
            ("POST", "/embedding-model", rehearsal.embed),
            ("POST", "/reranking-model", rehearsal.rerank),
            ("GET", "/config", rehearsal.config),
        )
    ]
    looked_up = [
        route("GET", "/v1/credits", rehearsal.credits),
        route("GET", "/v1/generation", rehearsal.generation),
        route("GET", "/v1/report", rehearsal.report),
    ]
    return Starlette(routes=calls + looked_up)
