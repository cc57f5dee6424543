"""The client for asynchronous code."""

import asyncio
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from quernel.client.plan import Exchange, Plan, plan_embedding, plan_models, plan_rerank
from quernel.client.retry import RetryPolicy
from quernel.client.transport import Settings, failure_of, unreachable
from quernel.errors import QuernelError
from quernel.types import (
    EmbeddingInput,
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelInfo,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Truncate,
    Vectors,
)

T = TypeVar("T")


class AsyncClient:
    """`Client`, with methods to await; for one event loop.

        async with AsyncClient("http://127.0.0.1:1234") as client:
            vectors = await client.embed_documents(["one", "another"])

    Args:
        base_url: Where the server is; with or without `/v1` at its end.
        model: What is asked for where a call does not say; the server's default where it is None.
        api_key: Sent as `Authorization: Bearer`.
        timeout: Seconds for one request, waiting in the server's queue included.
        retry: When a request is sent again.
        concurrency: Requests under way at once, in one call.
        texts_per_request: Texts in one part.
        progress: Whether long calls show a bar on stderr.
        http: What to send with, in place of an `httpx.AsyncClient` of its own; it is not closed.

    Raises:
        SettingsError: An argument is out of range, or `base_url` is no address.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:1234",
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        retry: RetryPolicy | None = None,
        concurrency: int = 4,
        texts_per_request: int = 128,
        progress: bool = False,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._settings = Settings.of(
            base_url,
            model,
            api_key,
            timeout=timeout,
            retry=retry,
            concurrency=concurrency,
            texts_per_request=texts_per_request,
        )
        self._progress = progress
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections. Safe to call twice."""
        if self._owns_http:
            await self._http.aclose()

    async def embed(self, request: EmbeddingRequest, *, model: str | None = None) -> EmbeddingResult:
        """Vectors for the request's inputs, in their order.

        Raises:
            InvalidRequestError: The server refused it as it is; the message says why.
            UnavailableError: The server could not take it, after all attempts.
        """
        settings = self._settings
        return await self._run(plan_embedding(request, model or settings.model, settings.texts_per_request))

    async def embed_queries(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        model: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
    ) -> Vectors:
        """Vectors of texts that ask, float32 `[N, dimensions]`.

        Args:
            texts: The queries, without any prompt.
            model: The model to ask; the client's where it is None.
            instruction: The task, as one sentence; the model's default (web search) where it is None.
            dimensions: Length of the vectors, from 32 up; all of it where it is None.
            truncate: What happens to a text that is too long: `error`, `end` or `start`.

        Raises:
            InvalidRequestError: The server refused it as it is.
            UnavailableError: The server could not take it, after all attempts.
        """
        request = EmbeddingRequest(
            inputs=texts,
            instruction=instruction,
            input_type=InputType.QUERY,
            dimensions=dimensions,
            truncate=Truncate(truncate),
        )
        return (await self.embed(request, model=model)).vectors

    async def embed_documents(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
    ) -> Vectors:
        """Vectors of texts that answer, float32 `[N, dimensions]`. Arguments and errors as `embed_queries`."""
        request = EmbeddingRequest(
            inputs=texts, input_type=InputType.DOCUMENT, dimensions=dimensions, truncate=Truncate(truncate)
        )
        return (await self.embed(request, model=model)).vectors

    async def rerank(self, request: RerankRequest, *, model: str | None = None) -> RerankResult:
        """The request's documents, best first. Errors as `embed`."""
        settings = self._settings
        return await self._run(plan_rerank(request, model or settings.model, settings.texts_per_request))

    async def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        instruction: str | None = None,
        top_n: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
    ) -> tuple[RankedDocument, ...]:
        """Documents by their relevance to a query, best first.

        Args:
            query: What is asked.
            documents: The texts to order.
            model: The model to ask; the client's where it is None.
            instruction: What counts as relevant, as one sentence.
            top_n: Only the best so many.
            truncate: What happens to a document that is too long: `error`, `end` or `start`.

        Raises:
            InvalidRequestError: The server refused it as it is.
            UnavailableError: The server could not take it, after all attempts.
        """
        request = RerankRequest(
            query=query, documents=documents, instruction=instruction, top_n=top_n, truncate=Truncate(truncate)
        )
        return (await self.rerank(request, model=model)).results

    async def models(self) -> tuple[ModelInfo, ...]:
        """The models that a Quernel server offers. Errors as `embed`."""
        return await self._run(plan_models())

    async def _run(self, plan: Plan[T]) -> T:
        from tqdm import tqdm

        exchanges = plan.exchanges
        total = sum(exchange.num_texts for exchange in exchanges)
        bodies = [b""] * len(exchanges)
        waiting = iter(enumerate(exchanges))
        hidden = not self._progress or len(exchanges) == 1
        with tqdm(total=total, unit=" texts", file=sys.stderr, disable=hidden, leave=False) as bar:

            async def work() -> None:
                for index, exchange in waiting:  # shared by all workers: each takes the next
                    bodies[index] = await self._send(exchange)
                    bar.update(exchange.num_texts)

            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(min(self._settings.concurrency, len(exchanges))):
                        tasks.create_task(work())
            except* QuernelError as failures:
                raise failures.exceptions[0] from None
        return plan.merge(bodies)

    async def _send(self, exchange: Exchange) -> bytes:
        """The body of the answer to one request, sent again where that may help."""
        settings = self._settings
        attempt = 0
        while True:
            attempt += 1
            status, headers = None, httpx.Headers()
            try:
                reply = await self._http.request(
                    exchange.method,
                    settings.base_url + exchange.path,
                    content=exchange.body or None,
                    headers=settings.headers,
                    timeout=settings.timeout,
                )
            except httpx.TransportError as error:
                failure: QuernelError = unreachable(settings.base_url, error)
            else:
                if reply.is_success:
                    return reply.content
                status, headers = reply.status_code, reply.headers
                failure = failure_of(reply)
            seconds = settings.retry.wait(attempt, status, headers, time.time())
            if seconds is None:
                raise failure
            await asyncio.sleep(seconds)
