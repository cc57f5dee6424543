"""The client for code that is not asynchronous."""

import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
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


class Client:
    """A Quernel server, or anything that speaks OpenAI's `/v1/embeddings` and Jina's `/v1/rerank`, from Python.

    Lists of any size may be given: they are sent in parts, several at a time. What fails for a reason that may pass is
    sent again. Any number of threads may use one client.

        with Client("http://127.0.0.1:1234") as client:
            vectors = client.embed_documents(["one", "another"])

    Args:
        base_url: Where the server is; with or without `/v1` at its end.
        model: What is asked for where a call does not say; the server's default where it is None.
        api_key: Sent as `Authorization: Bearer`.
        timeout: Seconds for one request, waiting in the server's queue included.
        retry: When a request is sent again.
        concurrency: Requests under way at once, in one call.
        texts_per_request: Texts in one part.
        progress: Whether long calls show a bar on stderr.
        http: What to send with, in place of an `httpx.Client` of its own; it is not closed.

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
        http: httpx.Client | None = None,
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
        self._http = http or httpx.Client(timeout=timeout)
        if http is None:
            weakref.finalize(self, self._http.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections. Safe to call twice."""
        if self._owns_http:
            self._http.close()

    def embed(self, request: EmbeddingRequest, *, model: str | None = None) -> EmbeddingResult:
        """Vectors for the request's inputs, in their order.

        Raises:
            InvalidRequestError: The server refused it as it is; the message says why.
            UnavailableError: The server could not take it, after all attempts.
        """
        settings = self._settings
        return self._run(plan_embedding(request, model or settings.model, settings.texts_per_request))

    def embed_queries(
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
        return self.embed(request, model=model).vectors

    def embed_documents(
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
        return self.embed(request, model=model).vectors

    def rerank(self, request: RerankRequest, *, model: str | None = None) -> RerankResult:
        """The request's documents, best first. Errors as `embed`."""
        settings = self._settings
        return self._run(plan_rerank(request, model or settings.model, settings.texts_per_request))

    def rank(
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
        return self.rerank(request, model=model).results

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that a Quernel server offers. Errors as `embed`."""
        return self._run(plan_models())

    def _run(self, plan: Plan[T]) -> T:
        exchanges = plan.exchanges
        if len(exchanges) == 1:
            return plan.merge([self._send(exchanges[0])])
        with self._bar(sum(exchange.num_texts for exchange in exchanges)) as advance:
            pool = ThreadPoolExecutor(min(self._settings.concurrency, len(exchanges)))
            try:
                sent: dict[Future[bytes], Exchange] = {pool.submit(self._send, each): each for each in exchanges}
                for future in as_completed(sent):
                    future.result()
                    advance(sent[future].num_texts)
                return plan.merge([future.result() for future in sent])
            finally:
                pool.shutdown(cancel_futures=True)  # what is not sent yet need not be, once one has failed

    def _send(self, exchange: Exchange) -> bytes:
        """The body of the answer to one request, sent again where that may help."""
        settings = self._settings
        attempt = 0
        while True:
            attempt += 1
            status, headers = None, httpx.Headers()
            try:
                reply = self._http.request(
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
            time.sleep(seconds)

    @contextmanager
    def _bar(self, total: int) -> Iterator[Callable[[int], object]]:
        from tqdm import tqdm

        with tqdm(total=total, unit=" texts", file=sys.stderr, disable=not self._progress, leave=False) as bar:
            yield bar.update
