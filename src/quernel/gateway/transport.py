"""HTTP to providers: one pool of connections a process; a body goes out, a body or a stream comes back.

Whatever goes wrong comes out as a `ProviderError` with its kind. Nothing is followed to another address, kept as a
cookie or read from the environment, and a reply that unfolds to more than was expected is dropped on the way. Errors
name the provider and its status, never the address, a header or a text.

Source: RFC 9110, sections 10.2.3 (Retry-After) and 15.
"""

import asyncio
import errno
import math
import re
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from quernel._version import __version__
from quernel.errors import FailureKind, InternalError, InvalidRequestError, ProviderError
from quernel.gateway.http1 import (
    BrokenError,
    ClosedError,
    ConnectError,
    Connection,
    Pool,
    ReplyError,
    Target,
    head_of,
    parse_target,
)
from quernel.protocols.body import decode_reply_body

ERROR_BYTES, ERROR_SECONDS = 2**16, 2.0
"""What is read of a reply that only says what is wrong, and how long is waited for each piece of it."""

MAX_HINT = 300
"""Characters of what a provider says is wrong."""

HEADERS = {
    "accept": "application/json",
    "accept-encoding": "gzip",
    "content-type": "application/json",
    "user-agent": f"quernel/{__version__}",
}

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "cookie"})
"""Headers that frame a request; another value would make it two requests, or none."""

KIND_OF_STATUS: Mapping[int, FailureKind] = {
    401: FailureKind.CREDENTIALS,
    402: FailureKind.CREDENTIALS,
    403: FailureKind.CREDENTIALS,
    404: FailureKind.FAILED,
    405: FailureKind.FAILED,
    408: FailureKind.TIMEOUT,
    410: FailureKind.FAILED,
    424: FailureKind.FAILED,
    429: FailureKind.RATE_LIMITED,
    499: FailureKind.FAILED,
    504: FailureKind.TIMEOUT,
}
"""What a status means where it is not what its hundred means. A provider that does not have the path or the model (404,
405, 410) is set up wrongly, which is no fault of the request: another provider may have it. 424 is TEI's word for a
fault of the model, 499 Cohere's for a request that it gave up."""

KIND_OF_HUNDRED: Mapping[int, FailureKind] = {4: FailureKind.REFUSED, 5: FailureKind.FAILED}
"""Other statuses than success, redirections among them, are replies that cannot be used."""

KIND_OF_CODE: Mapping[str, FailureKind] = {
    "insufficient_quota": FailureKind.CREDENTIALS,
    "invalid_api_key": FailureKind.CREDENTIALS,
    "model_not_found": FailureKind.FAILED,
    "input_model_not_found": FailureKind.FAILED,
}
"""What a provider's own code means, whatever its status: OpenAI says 429 where the money is spent, others 400 for a
model that they do not have."""

FAILURES: Mapping[type[Exception], tuple[FailureKind, str]] = {
    TimeoutError: (FailureKind.TIMEOUT, "did not answer in time"),
    ClosedError: (FailureKind.UNREACHABLE, "closed the connection"),
    BrokenError: (FailureKind.UNREACHABLE, "broke off in its reply"),
    ReplyError: (FailureKind.BAD_REPLY, "answered what is no HTTP"),
}
"""What an error comes to."""

FAILED: tuple[type[Exception], ...] = (*FAILURES, ConnectError)
"""Everything that goes wrong outside."""

NO_CONNECTION = "cannot be connected to"

CONNECT_FAILURES: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "could not be connected to in time"),
    (ssl.SSLCertVerificationError, "has a certificate that is not trusted"),
    (ssl.SSLError, "has no TLS that can be agreed on"),
    (socket.gaierror, "has a host name that is not known"),
    (Exception, NO_CONNECTION),
)
"""Why there is no connection, the first that fits."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole reply.

    Attributes:
        status: Its status.
        headers: Its headers, with names in small letters.
        body: Its body, unpacked.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class HttpStream:
    """A reply whose body is still coming.

    Attributes:
        status: Its status.
        headers: Its headers, with names in small letters.
    """

    def __init__(
        self, connection: Connection, provider: str, *, max_bytes: int, idle_seconds: float | None = None
    ) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection = connection
        self._provider = provider
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, unpacked; once.

        Raises:
            ProviderError: It breaks off, pauses for too long, is too large, or cannot be unpacked.
        """
        unpack = self._unpacker()
        room = self._max_bytes
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    data = await self._connection.read()
            except FAILED as error:
                failure = failure_of(error, self._provider)
                break
            piece = unpack(data, room + 1)
            if len(piece) > room:
                raise self._unusable("is larger than any that was expected")
            if piece:
                yield piece
            if not data:
                return
            room -= len(piece)
        raise failure

    def _unpacker(self) -> Callable[[bytes, int], bytes]:
        """What unpacks the next bytes into at most so many; no bytes are the end."""
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding == "identity":
            if int(self.headers.get("content-length", 0)) > self._max_bytes:
                raise self._unusable("is larger than any that was expected")
            return lambda data, most: data
        if encoding not in ("gzip", "deflate"):
            raise self._unusable("is packed in a way that was not asked for")
        packed = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, as its head says

        def unpack(data: bytes, most: int) -> bytes:
            try:
                piece = packed.decompress(data, most)
            except zlib.error:
                piece, broken = b"", True
            else:
                broken = bool(packed.unused_data) or (not data and not packed.eof)
            if broken:
                raise self._unusable("cannot be unpacked")
            return piece

        return unpack

    def _unusable(self, problem: str) -> ProviderError:
        return ProviderError(
            f"{self._provider} sent a reply that {problem}.", kind=FailureKind.BAD_REPLY, upstream_status=self.status
        )


class Transport:
    """Connections to all providers, kept open between requests; for one event loop.

    Args:
        max_per_host: Connections to one host at once. Requests beyond it wait, within their time.
        tls: What certificates are checked with; by default the system's authorities.
        clock: Seconds since 1970, for pauses that a provider asks for by a date.
    """

    def __init__(
        self,
        *,
        max_per_host: int = 256,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._pool = Pool(max_per_place=max_per_host, tls=tls or ssl.create_default_context())

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        self._pool.close()

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        provider: str,
        timeout: float,
        max_reply_bytes: int,
    ) -> HttpReply:
        """The reply to a body, in memory.

        Args:
            url: Where to.
            body: What.
            headers: Besides the usual ones, which they replace.
            provider: What errors call the other side.
            timeout: Seconds until all of the reply is here, a wait for a free connection included.
            max_reply_bytes: Its most bytes, unpacked.

        Raises:
            InvalidRequestError: A header cannot be sent.
            ProviderError: There was no reply, not a whole one, or one that says what is wrong.
        """
        target = parse_target(url)
        head = self._head(target, body, headers)
        try:
            async with asyncio.timeout(timeout):
                connection = await self._open(target, head, body)
                try:
                    stream = await self._accepted(connection, provider, max_reply_bytes, None)
                    pieces = [piece async for piece in stream.pieces()]
                    return HttpReply(stream.status, stream.headers, b"".join(pieces))
                finally:
                    self._pool.give_back(target.place, connection)
        except FAILED as error:
            failure = failure_of(error, provider)
        raise failure

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        provider: str,
        timeout: float,
        idle_timeout: float,
        max_reply_bytes: int,
    ) -> AsyncIterator[HttpStream]:
        """The reply to a body, piece by piece, as it comes. The connection is closed where not all of it is read.

        Args:
            url: Where to.
            body: What.
            headers: Besides the usual ones, which they replace.
            provider: What errors call the other side.
            timeout: Seconds until the reply begins.
            idle_timeout: Seconds until its next piece.
            max_reply_bytes: Its most bytes in all, unpacked.

        Raises:
            InvalidRequestError: A header cannot be sent.
            ProviderError: There was no reply, or one that says what is wrong; from `pieces` what happens later.
        """
        target = parse_target(url)
        # Bytes that wait to be packed together would come late.
        head = self._head(target, body, {"accept-encoding": "identity", **headers})
        failure: ProviderError | None = None
        connection: Connection | None = None
        try:
            try:
                async with asyncio.timeout(timeout):
                    connection = await self._open(target, head, body)
                    stream = await self._accepted(connection, provider, max_reply_bytes, idle_timeout)
            except FAILED as error:
                failure = failure_of(error, provider)
            if failure is not None:
                raise failure
            yield stream
        finally:
            if connection is not None:
                self._pool.give_back(target.place, connection)

    @staticmethod
    def _head(target: Target, body: bytes, headers: Mapping[str, str]) -> bytes:
        check_headers(headers)
        given = {name.lower(): value for name, value in headers.items()}
        return head_of(target, {**HEADERS, **given}, len(body))

    async def _open(self, target: Target, head: bytes, body: bytes) -> Connection:
        """A connection on which a reply to a body has begun.

        A connection of the pool may have been closed by the other side at the moment that it is used, which says
        nothing of the provider: the request, which is safe to repeat, then goes out once more on a new connection.
        """
        try:
            return await self._send(target, head, body, fresh=False)
        except ClosedError as error:
            if not error.is_stale:
                raise
        return await self._send(target, head, body, fresh=True)

    async def _send(self, target: Target, head: bytes, body: bytes, *, fresh: bool) -> Connection:
        connection = await self._pool.take(target.place, fresh=fresh)
        try:
            await connection.send(head, body)
        except BaseException:
            self._pool.give_back(target.place, connection)
            raise
        return connection

    async def _accepted(
        self, connection: Connection, provider: str, max_bytes: int, idle_seconds: float | None
    ) -> HttpStream:
        """The reply as a stream, if it is a success.

        Raises:
            ProviderError: It says what is wrong.
        """
        if 200 <= connection.status < 300:
            return HttpStream(connection, provider, max_bytes=max_bytes, idle_seconds=idle_seconds)
        stream = HttpStream(connection, provider, max_bytes=ERROR_BYTES, idle_seconds=ERROR_SECONDS)
        pieces = []
        with suppress(ProviderError):
            async for piece in stream.pieces():
                pieces.append(piece)
        reply = HttpReply(stream.status, stream.headers, b"".join(pieces))
        raise failure_of_reply(reply, provider, now=self._clock())


def is_sendable(name: str, value: str) -> bool:
    """Whether a header can be sent as it is: its name is one, it does not frame the request, and nothing ends it."""
    return bool(HEADER_NAME.fullmatch(name)) and name.lower() not in OURS and not CONTROL.search(value)


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that would end before their end. A customer's own key is one.

    Raises:
        InvalidRequestError: With the header's name; its value may be a secret.
    """
    for name, value in headers.items():
        if not is_sendable(name, value):
            raise InvalidRequestError(
                f"The header {name!r} cannot be sent.",
                param="headers",
                hint="Leave out line ends and other control characters.",
            )


def failure_of(error: Exception, provider: str) -> ProviderError:
    """What an error of a connection comes to."""
    if not isinstance(error, ConnectError):
        kind, problem = FAILURES[type(error)]
        return ProviderError(f"{provider} {problem}.", kind=kind)
    problem = next(problem for cls, problem in CONNECT_FAILURES if isinstance(error.__cause__, cls))
    name = errno.errorcode.get(getattr(error.__cause__, "errno", None) or 0) if problem == NO_CONNECTION else None
    return ProviderError(f"{provider} {problem}{f' ({name})' if name else ''}.", kind=FailureKind.UNREACHABLE)


def failure_of_reply(reply: HttpReply, provider: str, *, now: float) -> ProviderError:
    """What a reply that is no success comes to.

    What the provider says is wrong may quote the text of the request. The caller needs it where the request is at
    fault, and then it is the error's `hint`; it is never in the message, which is what logs have.

    Args:
        reply: The reply.
        provider: What errors call the other side.
        now: Seconds since 1970.
    """
    said, code = _explanation(reply.body)
    kind = KIND_OF_CODE.get(code.lower()) or KIND_OF_STATUS.get(reply.status)
    kind = kind or KIND_OF_HUNDRED.get(reply.status // 100, FailureKind.BAD_REPLY)
    return ProviderError(
        f"{provider} answered with status {reply.status}.",
        kind=kind,
        upstream_status=reply.status,
        retry_after=retry_after(reply.headers, now),
        hint=said if kind is FailureKind.REFUSED else None,
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a reply asks to wait, as milliseconds, seconds or a date; `None` where it says nothing readable.

    Args:
        headers: Of the reply, with names in small letters.
        now: Seconds since 1970.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            if 0 <= seconds < math.inf:
                return seconds
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    return None


def _explanation(body: bytes) -> tuple[str | None, str]:
    """What the body of a failure says is wrong, in a line of its own, and its code; in any vendor's form."""
    try:
        reply = decode_reply_body(body, dict[str, Any])
    except InternalError:
        return None, ""
    error = reply.get("error")
    detail = error if isinstance(error, dict) else reply
    complaints = detail.get("detail")
    first = complaints[0] if isinstance(complaints, list) and complaints else None
    spellings = (detail.get("message"), error, complaints, first.get("msg") if isinstance(first, dict) else None)
    said = next((text for text in spellings if isinstance(text, str) and text), None)
    if said is not None:
        said = "".join(letter if letter.isprintable() else " " for letter in said[:MAX_HINT])
    code = detail.get("code")
    return said, code if isinstance(code, str) else ""
