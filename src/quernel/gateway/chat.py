"""Chat models of providers: a request is passed on, and the answer comes back whole or as it is written.

They stand beside embedding models in one configuration, with the same keys, limits, routes and bills. Only providers
that speak OpenAI's format are asked. What a provider charges beyond tokens (searches, faster tiers) it does not say in
tokens, and the gateway does not bill it.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from copy import copy
from dataclasses import dataclass, field
from typing import Self

from quernel.errors import FailureKind, InternalError, ProviderError, SettingsError
from quernel.gateway.attempts import Lasting
from quernel.gateway.options import parse_options
from quernel.gateway.transport import HttpReply, HttpStream, Transport, check_headers, failure_of_reply
from quernel.gateway.upstream import Endpoint, Secret, join_url, key_headers
from quernel.protocols.chat import (
    DONE_DATA,
    STREAM_TYPE,
    ChatCall,
    ChatUsage,
    EventReader,
    Written,
    decode_chat_reply,
    encode_chat_request,
    event_data,
)

FORMATS = frozenset({"openai"})
"""Wire formats that have chats."""

PATH = "/chat/completions"

MOST_REPLY_BYTES = 2**27
"""Of an answer; a stream takes some 300 for each token."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A whole answer.

    Attributes:
        body: As the provider wrote it.
        texts: What it says, by the number of the answer.
        usage: What the provider counted; `None` where it does not say.
        num_bytes: Of the texts.
    """

    body: bytes = field(repr=False)
    texts: Mapping[int, str] = field(repr=False)
    usage: ChatUsage | None
    num_bytes: int


class ChatStream(Lasting):
    """An answer that is still being written. Whoever has it closes it.

    Args:
        call: The request.
        provider: What errors call the provider.

    Attributes:
        usage: What the provider has counted so far; most do at the end only.
        num_bytes: Of the texts.
    """

    def __init__(self, call: ChatCall, provider: str) -> None:
        self.usage: ChatUsage | None = None
        self.num_bytes = 0
        self._call = call
        self._provider = provider
        self._closing = AsyncExitStack()
        self._ahead: list[bytes] = []
        self._texts: dict[int, list[str]] = {}
        self._has_begun = self._has_ended = False

    @property
    def texts(self) -> Mapping[int, str]:
        """What it says so far, by the number of the answer."""
        return {number: "".join(pieces) for number, pieces in self._texts.items()}

    async def begin(self, opening: AbstractAsyncContextManager[HttpStream]) -> None:
        """Wait for the first event that is part of an answer.

        Args:
            opening: The reply, which is let go when this is closed.

        Raises:
            ProviderError: There is none.
        """
        stream = await self._closing.enter_async_context(opening)
        self._events = await self._closing.enter_async_context(aclosing(self._read(stream)))
        async for event in self._events:
            self._ahead.append(event)
            if self._has_begun:
                return
        raise self._failure("sent a stream without an answer", FailureKind.BAD_REPLY)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events as the provider sends them, but for the last one (`[DONE]`); once.

        That of the usage is left out where the caller did not ask for it.

        Raises:
            ProviderError: It breaks off, or the provider says that it failed.
        """
        for event in self._ahead:
            yield event
        async for event in self._events:
            yield event

    def when_closed(self, do: Callable[[], Awaitable[None]]) -> None:
        """Have something done when this is closed."""
        self._closing.push_async_callback(do)

    async def close(self) -> None:
        """Hang up. Safe to call twice."""
        await self._closing.aclose()

    async def _read(self, stream: HttpStream) -> AsyncGenerator[bytes, None]:
        reader = EventReader()
        async for piece in stream.pieces():
            for event in reader.feed(piece):
                data = event_data(event)
                if data == DONE_DATA:
                    return
                if data is None or self._take(data):
                    yield event
        if not self._has_ended:
            raise self._failure("broke off in its answer", FailureKind.UNREACHABLE)

    def _take(self, data: bytes) -> bool:
        """Take note of what an event says; whether it goes to the caller."""
        try:
            written = decode_chat_reply(data)
        except InternalError:
            return True  # vendors send events of their own between the others
        if written.failure is not None:
            raise reported_failure(written.failure, data, self._provider)
        self._has_begun = True
        self._has_ended |= written.is_end or written.usage is not None
        self.usage = written.usage or self.usage
        self.num_bytes += written.num_bytes
        for number, text in written.texts.items():
            self._texts.setdefault(number, []).append(text)
        return self._call.wants_usage or not written.is_usage

    def _failure(self, problem: str, kind: FailureKind) -> ProviderError:
        return ProviderError(f"{self._provider} {problem}.", kind=kind)


class HttpChatModel:
    """A chat model behind HTTP.

    Args:
        endpoint: Where it is.
        transport: What sends.

    Raises:
        SettingsError: The endpoint's format has no chats.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        if endpoint.format not in FORMATS:
            raise SettingsError(
                f"{endpoint.provider}: {endpoint.model} is a chat model, which the format {endpoint.format!r} does not "
                f"have.",
                param="format",
                hint=f"Use {', '.join(sorted(FORMATS))}.",
            )
        self._endpoint = endpoint
        self._transport = transport
        self._key = endpoint.api_key
        self._url = join_url(endpoint.base_url, PATH)

    def with_key(self, key: Secret) -> Self:
        """The same model, asked with another key: a customer's own.

        Raises:
            InvalidRequestError: The key cannot be sent.
        """
        other = copy(self)
        other._key = key
        check_headers(other._headers())
        return other

    def refuses(self, request: ChatCall) -> str | None:
        """Nothing: what a model cannot do, its provider says."""
        return None

    async def answer(self, request: ChatCall) -> ChatReply | ChatStream:
        """The answer: whole, or where the request is for a stream, as soon as it begins.

        Raises:
            ProviderError: The provider failed, or answered what cannot be used.
        """
        body = encode_chat_request(request, self._endpoint.model)
        try:
            return await (self._begin(request, body) if request.is_stream else self._whole(body))
        except ProviderError as error:
            if self._key is not None and error.hint is not None and self._key.reveal() in error.hint:
                error.hint = None
            raise

    async def _whole(self, body: bytes) -> ChatReply:
        endpoint = self._endpoint
        reply = await self._transport.post(
            self._url,
            body,
            self._headers(),
            provider=endpoint.provider,
            timeout=endpoint.timeout_seconds,
            max_reply_bytes=MOST_REPLY_BYTES,
        )
        written = self._read(reply)
        if written.failure is not None:
            raise reported_failure(written.failure, reply.body, endpoint.provider)
        return ChatReply(reply.body, written.texts, written.usage, written.num_bytes)

    def _read(self, reply: HttpReply) -> Written:
        try:
            written = decode_chat_reply(reply.body)
        except InternalError:
            written = Written()
        if not written.texts and written.failure is None:
            raise ProviderError(f"{self._endpoint.provider} sent no answer.", kind=FailureKind.BAD_REPLY)
        return written

    async def _begin(self, request: ChatCall, body: bytes) -> ChatStream:
        endpoint = self._endpoint
        opening = self._transport.stream(
            self._url,
            body,
            {**self._headers(), "accept": STREAM_TYPE},
            provider=endpoint.provider,
            timeout=endpoint.timeout_seconds,
            idle_timeout=endpoint.timeout_seconds,
            max_reply_bytes=MOST_REPLY_BYTES,
        )
        answer = ChatStream(request, endpoint.provider)
        try:
            await answer.begin(opening)
        except BaseException:
            await answer.close()
            raise
        return answer

    def _headers(self) -> dict[str, str]:
        endpoint = self._endpoint
        return {**endpoint.headers, **key_headers(self._key, parse_options(endpoint.options))}


def reported_failure(status: int, body: bytes, provider: str) -> ProviderError:
    """What a failure comes to that a provider reports in a reply which is a success by its own status."""
    return failure_of_reply(HttpReply(status, {}, body), provider, now=time.time())
