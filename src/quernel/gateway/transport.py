"""HTTP to providers: one pool of connections a process; a body goes out, a body or a stream comes back.

Whatever goes wrong comes out as a `ProviderError` with its kind. Nothing is followed to another address, kept as a
cookie or read from the environment, and a reply that unfolds to more than was expected is dropped on the way. Errors
name the provider and its status, never the address, a header or a text: aiohttp's own hold the request with its key,
so none of them is chained to ours.

Source: https://docs.aiohttp.org/en/stable/client_advanced.html; RFC 9110, sections 10.2.3 (Retry-After) and 15.
"""

import asyncio
import errno
import io
import math
import re
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp

from quernel._version import __version__
from quernel.errors import FailureKind, InternalError, InvalidRequestError, ProviderError
from quernel.protocols.body import decode_reply_body

CONNECT_SECONDS = 5.0
"""For the connection alone, TLS included: a provider that is away should not use up the time of a request."""

KEEP_ALIVE_SECONDS = 60.0
"""Less than servers keep an idle connection (nginx 75 s, ours 65 s), so that it is mostly we who close it."""

ADDRESS_SECONDS = 60
"""For which a host's addresses are remembered."""

READ_BYTES = 2**18
"""Read at once; a reply of 256 vectors is a megabyte or more."""

LARGE_BYTES = 2**20
"""A larger body is handed to the socket in pieces, so that other requests go on meanwhile."""

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

STALE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""How a connection from the pool fails that the other side has closed."""

REPORTED = (aiohttp.ClientError, OSError)
"""Everything that aiohttp raises for a reason outside; `TimeoutError` is an `OSError`."""

FAILURES: tuple[tuple[type[Exception], FailureKind, str], ...] = (
    (aiohttp.ConnectionTimeoutError, FailureKind.UNREACHABLE, "could not be connected to in time"),
    (TimeoutError, FailureKind.TIMEOUT, "did not answer in time"),
    (aiohttp.ClientConnectorCertificateError, FailureKind.UNREACHABLE, "has a certificate that is not trusted"),
    (aiohttp.ClientConnectorDNSError, FailureKind.UNREACHABLE, "has a host name that is not known"),
    (aiohttp.ClientConnectorError, FailureKind.UNREACHABLE, "cannot be connected to"),
    (aiohttp.ClientPayloadError, FailureKind.UNREACHABLE, "broke off in its reply"),
    (aiohttp.ClientResponseError, FailureKind.BAD_REPLY, "answered what is no HTTP"),
    (Exception, FailureKind.UNREACHABLE, "closed the connection"),
)
"""What an error of aiohttp comes to, the first that fits."""


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
        self, response: aiohttp.ClientResponse, provider: str, *, max_bytes: int, idle_seconds: float | None = None
    ) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._content = response.content
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
                    data = await self._content.readany()
            except REPORTED as error:
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
        proxy: The address of a proxy that requests go through.
        clock: Seconds since 1970, for pauses that a provider asks for by a date.
    """

    def __init__(
        self,
        *,
        max_per_host: int = 256,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_per_host = max_per_host
        self._tls = tls
        self._proxy = proxy
        self._clock = clock
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        for fresh in list(self._sessions):
            await self._sessions.pop(fresh).close()

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
        check_headers(headers)
        try:
            async with asyncio.timeout(timeout):
                response = await self._open(url, body, headers)
                try:
                    stream = await self._accepted(response, provider, max_reply_bytes, None)
                    pieces = [piece async for piece in stream.pieces()]
                    return HttpReply(stream.status, stream.headers, b"".join(pieces))
                finally:
                    response.close()  # one that was read to its end has given its connection back before
        except REPORTED as error:
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
        check_headers(headers)
        failure: ProviderError | None = None
        response: aiohttp.ClientResponse | None = None
        try:
            try:
                async with asyncio.timeout(timeout):
                    # Bytes that wait to be packed together would come late.
                    response = await self._open(url, body, {"accept-encoding": "identity", **headers})
                    stream = await self._accepted(response, provider, max_reply_bytes, idle_timeout)
            except REPORTED as error:
                failure = failure_of(error, provider)
            if failure is not None:
                raise failure
            yield stream
        finally:
            if response is not None:
                response.close()

    async def _open(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The reply to a body, as far as its headers.

        A connection of the pool may have been closed by the other side at the moment that it is used, which says
        nothing of the provider: the request, which is safe to repeat, then goes out once more on a new connection.
        """
        trace = SimpleNamespace(reused=False)
        try:
            return await self._send(url, body, headers, fresh=False, trace=trace)
        except STALE:
            if not trace.reused:
                raise
        return await self._send(url, body, headers, fresh=True, trace=trace)

    async def _send(
        self, url: str, body: bytes, headers: Mapping[str, str], *, fresh: bool, trace: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        data = io.BytesIO(body) if len(body) > LARGE_BYTES else body
        session = self._session(fresh=fresh)
        return await session.post(url, data=data, headers=headers, allow_redirects=False, trace_request_ctx=trace)

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        """What sends: on connections of the pool, or each time on one of its own."""
        session = self._sessions.get(fresh)
        if session is None:
            kept: dict[str, Any] = {"force_close": True} if fresh else {"keepalive_timeout": KEEP_ALIVE_SECONDS}
            session = self._sessions[fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    limit_per_host=self._max_per_host,
                    ttl_dns_cache=ADDRESS_SECONDS,
                    ssl=self._tls or True,
                    **kept,
                ),
                headers=HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                auto_decompress=False,
                read_bufsize=READ_BYTES,
                proxy=self._proxy,
                trace_configs=[_watch_for_reuse()],
            )
        return session

    async def _accepted(
        self, response: aiohttp.ClientResponse, provider: str, max_bytes: int, idle_seconds: float | None
    ) -> HttpStream:
        """The reply as a stream, if it is a success.

        Raises:
            ProviderError: It says what is wrong.
        """
        if 200 <= response.status < 300:
            return HttpStream(response, provider, max_bytes=max_bytes, idle_seconds=idle_seconds)
        stream = HttpStream(response, provider, max_bytes=ERROR_BYTES, idle_seconds=ERROR_SECONDS)
        pieces = []
        with suppress(ProviderError):
            async for piece in stream.pieces():
                pieces.append(piece)
        reply = HttpReply(stream.status, stream.headers, b"".join(pieces))
        raise failure_of_reply(reply, provider, now=self._clock())


def _watch_for_reuse() -> aiohttp.TraceConfig:
    async def note(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.reused = True

    watch = aiohttp.TraceConfig()
    watch.on_connection_reuseconn.append(note)
    return watch


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
    """What an error of aiohttp, or of the system, comes to."""
    kind, problem = next((kind, problem) for cls, kind, problem in FAILURES if isinstance(error, cls))
    # The system's own word for it; its subclasses have numbers of other libraries there.
    reason = errno.errorcode.get(error.errno or 0) if type(error) is aiohttp.ClientConnectorError else None
    return ProviderError(f"{provider} {problem}{f' ({reason})' if reason else ''}.", kind=kind)


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
