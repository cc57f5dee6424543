"""What each route does: decode, ask a model, check, encode.

A handler raises errors of `quernel.errors`; `quernel.server.middleware` turns them into replies.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive

from quernel.errors import InternalError, NonFiniteError, UnavailableError
from quernel.protocols import openai, rerank
from quernel.protocols.body import encode_body
from quernel.server.config import ServerConfig
from quernel.server.docs_page import render_docs
from quernel.server.middleware import exchange_of, json_response
from quernel.server.models import ModelTable
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult

T = TypeVar("T")

TRUNCATED_HEADER = "x-quernel-truncated"
"""How many texts of the request were cut; absent if none was."""

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The documentation page fetches nothing, and the browser holds it to that."""


@dataclass(frozen=True)
class Served:
    """What the handlers share.

    Attributes:
        models: The models.
        config: The server's settings.
        ready: Whether the models take requests.
        created: When the server started to serve them, in seconds since 1970.
        document: The OpenAPI document.
    """

    models: ModelTable
    config: ServerConfig
    ready: Callable[[], bool]
    created: int
    document: dict[str, Any]

    @cached_property
    def docs_page(self) -> str:
        """The OpenAPI document as an HTML page."""
        return render_docs(self.document)


def served_by(request: Request) -> Served:
    """What the application of this request serves."""
    return cast("Served", request.app.state.served)


async def embeddings(request: Request) -> Response:
    """Vectors for texts."""
    call = openai.decode_embedding_request(await request.body())
    model = served_by(request).models.embedding_model(call.model)
    result = await until_disconnect(request.receive, model.embed(call.request))
    check_vectors(result, call.request)
    exchange_of(request).num_tokens = sum(result.num_tokens)
    return json_response(
        openai.encode_embedding_response(result, call.encoding), headers=_truncation_header(result.truncated)
    )


async def rerank_documents(request: Request) -> Response:
    """Documents in the order of their relevance to a query."""
    call = rerank.decode_rerank_request(await request.body())
    model = served_by(request).models.rerank_model(call.model)
    result = await until_disconnect(request.receive, model.rerank(call.request))
    check_scores(result, call.request)
    exchange = exchange_of(request)
    exchange.num_tokens = sum(result.num_tokens)
    return json_response(
        rerank.encode_rerank_response(result, call, request_id=exchange.request_id),
        headers=_truncation_header(result.truncated),
    )


async def list_models(request: Request) -> Response:
    """The models that are served."""
    served = served_by(request)
    return json_response(openai.encode_models(served.models.infos, created=served.created))


async def describe_model(request: Request) -> Response:
    """One model."""
    served = served_by(request)
    return json_response(openai.encode_model(served.models.info(request.path_params["name"]), created=served.created))


async def health(request: Request) -> Response:
    """Whether the process answers."""
    return json_response(encode_body({"status": "ok"}))


async def ready(request: Request) -> Response:
    """Whether the models take requests."""
    served = served_by(request)
    if not (served.models.infos and served.ready()):
        raise UnavailableError("The models are not ready.", hint="Ask again shortly.")
    return json_response(encode_body({"status": "ready"}))


async def openapi(request: Request) -> Response:
    """The OpenAPI document of this server."""
    return json_response(encode_body(served_by(request).document))


async def docs(request: Request) -> Response:
    """The OpenAPI document as a page for people."""
    headers = {"content-security-policy": DOCS_POLICY}
    return Response(served_by(request).docs_page, media_type="text/html", headers=headers)


async def root(request: Request) -> Response:
    """To the page for people."""
    return RedirectResponse("/docs")


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client hangs up first.

    Starlette lets a handler run on when nobody waits for its answer any more; here that would keep a model busy. The
    body must have been read: what `receive` gives after it can only be the disconnect.

    Raises:
        ClientDisconnect: The client hung up.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for unfinished in (task, disconnect):
            unfinished.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


def check_vectors(result: EmbeddingResult, request: EmbeddingRequest) -> None:
    """Refuse to hand out what no caller can use.

    Raises:
        NonFiniteError: A number is NaN or infinite.
        InternalError: Not one vector for each text, or not of the length that was asked for.
    """
    vectors = result.vectors
    finite = np.isfinite(vectors).all(axis=-1)
    if not finite.all():
        raise NonFiniteError(f"{result.model} gave a vector with NaN or infinity for text {int(finite.argmin())}.")
    count, dimensions = vectors.shape
    if count != len(request.inputs) or request.dimensions not in (None, dimensions):
        raise InternalError(
            f"{result.model} gave {count} vectors of {dimensions} numbers for {len(request.inputs)} texts"
            f" (dimensions: {request.dimensions})."
        )


def check_scores(result: RerankResult, request: RerankRequest) -> None:
    """Refuse to hand out what no caller can use.

    Raises:
        NonFiniteError: A score is NaN or infinite.
        InternalError: Not as many documents as were asked for, or one that was not in the request.
    """
    for ranked in result.results:
        if not np.isfinite((ranked.relevance_score, ranked.logit)).all():
            raise NonFiniteError(f"{result.model} gave document {ranked.index} a score of NaN or infinity.")
    indices = {ranked.index for ranked in result.results}
    expected = min(request.top_n or len(request.documents), len(request.documents))
    if len(result.results) != expected or not indices <= set(range(len(request.documents))):
        raise InternalError(f"{result.model} ranked {len(indices)} documents where {expected} were asked for.")


def _truncation_header(truncated: Sequence[bool]) -> dict[str, str]:
    return {TRUNCATED_HEADER: str(sum(truncated))} if any(truncated) else {}
