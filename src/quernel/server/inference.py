"""Asking a model for a client: no longer than it waits for the answer, and never handing out what nobody can use."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from quernel.errors import InternalError, NonFiniteError
from quernel.server.middleware import exchange_of
from quernel.server.served import served_by
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult

T = TypeVar("T")


class EmbedCall(Protocol):
    """A request for vectors in any wire format."""

    @property
    def request(self) -> EmbeddingRequest:
        """What to embed."""
        ...

    @property
    def model(self) -> str | None:
        """The name that was asked for."""
        ...


async def embed(request: Request, call: EmbedCall) -> EmbeddingResult:
    """What the model that `call` names says to it.

    Raises:
        QuernelError: It has none, or not one that can be handed out.
        ClientDisconnect: The client hung up.
    """
    model = served_by(request).models.embedding_model(call.model)
    result = await until_disconnect(request.receive, model.embed(call.request))
    check_vectors(result, call.request)
    exchange_of(request).count(model.info, result.num_tokens, result.truncated)
    return result


async def rerank(request: Request, name: str | None, *asked: RerankRequest) -> list[RerankResult]:
    """What the reranker of that name says to each of these requests; the first failure ends them all.

    Raises:
        QuernelError: It has none, or not one that can be handed out.
        ClientDisconnect: The client hung up.
    """
    model = served_by(request).models.rerank_model(name)
    results = await until_disconnect(request.receive, gather([model.rerank(one) for one in asked]))
    for one, result in zip(asked, results, strict=True):
        check_scores(result, one)
        exchange_of(request).count(model.info, result.num_tokens, result.truncated)
    return results


async def gather(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all works, done at the same time; when one fails or this is cancelled, the others are cancelled.

    `asyncio.TaskGroup` does this too, but wraps the failure.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


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
