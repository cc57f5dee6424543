"""Asking a model for a client: no longer than it waits for the answer, and never handing out what nobody can use."""

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from quernel.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    NonFiniteError,
    QuernelError,
)
from quernel.server.exchange import exchange_of
from quernel.server.middleware import header
from quernel.server.models import ModelTable, RequestDefaults
from quernel.server.served import EmbedCall, application_of
from quernel.server.token_ids import read_token_ids
from quernel.types import EmbeddingRequest, EmbeddingResult, InputType, RerankRequest, RerankResult

T = TypeVar("T")

INSTRUCTION_HEADER = "x-quernel-instruction"
"""What is put before queries, and what counts as relevant, where the body does not say: some clients' cannot."""

INPUT_TYPE_HEADER = "x-quernel-input-type"
"""Whether the texts are queries or documents, where the body does not say."""

TIMEOUT_HEADER = "x-quernel-timeout"
"""Seconds that the client waits for the answer; the work is given up then."""


class LocalAsker:
    """Asks models of this machine.

    Args:
        models: The models.
    """

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    async def embed(self, request: Request, call: EmbedCall) -> EmbeddingResult:
        """What the model that `call` names says to it. Errors as `Asker`."""
        chosen = self._models.embedding_model(call.model)
        exchange = exchange_of(request)
        exchange.model = chosen.place.name
        asked = complete_embedding(request, call.request)
        asked = chosen.place.spec.defaults.complete_embedding(asked)
        if not all(isinstance(text, str) for text in asked.inputs):
            asked = await asyncio.to_thread(
                read_token_ids, asked, chosen.model, application_of(request).config.token_ids
            )
        with chosen.place.running():
            result = await until_done(request, chosen.model.embed(asked))
        check_vectors(result, asked)
        exchange.count(result)
        return replace(result, model=chosen.place.name)

    async def rerank(self, request: Request, name: str | None, *asked: RerankRequest) -> list[RerankResult]:
        """What the reranker of that name says to each of these requests. Errors as `Asker`."""
        chosen = self._models.rerank_model(name)
        exchange = exchange_of(request)
        exchange.model = chosen.place.name
        complete = [chosen.place.spec.defaults.complete_rerank(one) for one in complete_rerank(request, asked)]
        with chosen.place.running():
            results = await until_done(request, gather([chosen.model.rerank(one) for one in complete]))
        for one, result in zip(complete, results, strict=True):
            check_scores(result, one)
            exchange.count(result)
        return [replace(result, model=chosen.place.name) for result in results]

    def device(self, name: str) -> str:
        """Where a model computes."""
        info = self._models.place(name).listed.info
        return "cpu" if info is None else info.device


def complete_embedding(request: Request, asked: EmbeddingRequest) -> EmbeddingRequest:
    """The request with what its headers say, unless it is too large.

    Raises:
        InvalidRequestError: It has too many texts, or a header is wrong.
    """
    most = application_of(request).config.max_texts
    if len(asked.inputs) > most:
        raise _too_many(len(asked.inputs), "texts", most)
    return header_defaults(request).complete_embedding(asked)


def complete_rerank(request: Request, asked: Sequence[RerankRequest]) -> list[RerankRequest]:
    """The requests with what their headers say, unless they are too large.

    Raises:
        InvalidRequestError: They have too many documents, or a header is wrong.
    """
    most = application_of(request).config.max_documents
    count = sum(len(one.documents) for one in asked)
    if count > most:
        raise _too_many(count, "documents", most)
    defaults = header_defaults(request)
    return [defaults.complete_rerank(one) for one in asked]


def header_defaults(request: Request) -> RequestDefaults:
    """What the headers say for a body that does not.

    Raises:
        InvalidRequestError: An input type that there is not.
    """
    instruction, given = (header(request.scope, name.encode()) for name in (INSTRUCTION_HEADER, INPUT_TYPE_HEADER))
    if instruction is None and given is None:
        return NO_DEFAULTS
    kind = None if given is None else given.decode("latin-1")
    if kind is not None and kind not in set(InputType):
        raise InvalidRequestError(
            f"The header {INPUT_TYPE_HEADER} is {kind!r}.", param=INPUT_TYPE_HEADER, hint="Send query or document."
        )
    # An instruction alone makes queries of texts of which nothing is said, as it does in a body.
    input_type = InputType(kind) if kind is not None else InputType.QUERY
    return RequestDefaults(instruction=None if instruction is None else _as_text(instruction), input_type=input_type)


NO_DEFAULTS = RequestDefaults()

WATCH_AFTER_SECONDS = 0.05
"""A request that takes longer is dropped if its client hangs up."""


def _as_text(content: bytes) -> str:
    """A header's text: UTF-8, as clients send it, or Latin-1, as the standard once had it."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _too_many(count: int, what: str, most: int) -> InvalidRequestError:
    field = "input" if what == "texts" else "documents"
    return InvalidRequestError(
        f"The request has {count} {what}, but this server takes {most}.",
        param=field,
        hint="Send them in several requests.",
    )


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


async def until_done(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client hangs up first or its time is over.

    Starlette lets a handler run on when nobody waits for its answer any more; here that would keep a model busy. The
    body must have been read: what `receive` gives after it can only be the disconnect.

    Raises:
        ClientDisconnect: The client hung up.
        DeadlineExceededError: Its time is over.
    """
    try:
        seconds = time_left(request)
    except QuernelError:
        work.close()
        raise
    task = asyncio.current_task()
    assert task is not None, "a request has a task"
    watch = Watch(request.receive, task)
    try:
        if seconds is None:
            return await work
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise DeadlineExceededError(
            "The time for this request is over.", hint="Send fewer texts at once, or allow more time."
        ) from error
    except asyncio.CancelledError:
        if not watch.disconnected:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        watch.stop()


class Watch:
    """Cancels a task when its client hangs up. It looks only after a moment, since most requests are through by then.

    Args:
        receive: What the client sends; nothing more but the disconnect.
        task: The task.

    Attributes:
        disconnected: Whether it was cancelled.
    """

    def __init__(self, receive: Receive, task: "asyncio.Task[Any]") -> None:
        self._receive, self._task = receive, task
        self._looking: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._start)
        self.disconnected = False

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _start(self) -> None:
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        await self._receive()
        self.disconnected = True
        self._task.cancel()


def time_left(request: Request) -> float | None:
    """Seconds that the request may still take; `None` where nobody has set a limit.

    Raises:
        InvalidRequestError: The client's limit is none.
    """
    deadline = deadline_of(request)
    return None if deadline is None else max(deadline - time.perf_counter(), 0.0)


def deadline_of(request: Request) -> float | None:
    """When the request's time is over, by `time.perf_counter`; `None` where nobody has set a limit.

    Raises:
        InvalidRequestError: The client's limit is none.
    """
    limits = []
    content = header(request.scope, TIMEOUT_HEADER.encode())
    if content is not None:
        try:
            seconds = float(content)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise InvalidRequestError(
                f"The header {TIMEOUT_HEADER} is {content.decode('latin-1')!r}.",
                param=TIMEOUT_HEADER,
                hint="Send a number of seconds above 0.",
            )
        limits.append(seconds)
    most = application_of(request).config.request_timeout_seconds
    if most is not None:
        limits.append(most)
    if not limits:
        return None
    return exchange_of(request).started + min(limits)


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
