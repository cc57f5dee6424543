"""HTTP/1.1 to providers, as far as a gateway needs it: a body goes out with POST, and one reply comes back.

A general client was a sixth of all that a request costs the gateway; this one is a third of that. What is hard in HTTP
stays with libraries: llhttp reads replies (by httptools, which uvicorn reads requests with), asyncio does TLS, and
aiohappyeyeballs connects to hosts with several addresses.

A connection has one request at a time and goes back to the pool when its reply was read to the end and allows for it.
Nothing is decided here about failures: they are raised as what they are, and `transport` gives them their kind.

Source: RFC 9112; https://llhttp.org; RFC 8305 (Happy Eyeballs).
"""

import asyncio
import socket
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools

CONNECT_SECONDS = 5.0
"""For the connection alone, TLS included: a provider that is away should not use up the time of a request."""

NEXT_ADDRESS_SECONDS = 0.25
"""After which a host's next address is tried too."""

KEEP_ALIVE_SECONDS = 60.0
"""Less than servers keep an idle connection (nginx 75 s, ours 65 s), so that it is mostly we who close it."""

READ_BYTES = 2**18
"""Kept of a reply that nobody reads; then the other side waits. A reply of 256 vectors is a megabyte or more."""

HEAD_BYTES, FRAME_FACTOR = 2**16, 16
"""The most that a reply may have besides its body: its head, and the frames of its pieces, in bytes and as a factor."""

SEND_BYTES = 2**18
"""Handed to the socket at once, so that other requests go on between the pieces of a large body."""


class ConnectError(OSError):
    """There is no connection to the host; the cause says why."""


class ClosedError(OSError):
    """The other side closed the connection before it had answered.

    Attributes:
        is_stale: Whether the connection had served a request before, and nothing of this reply came: it was closed
            while it was idle, most likely, which says nothing of the provider.
    """

    def __init__(self, *, is_stale: bool) -> None:
        super().__init__("closed")
        self.is_stale = is_stale


class BrokenError(OSError):
    """The connection was closed in the middle of a reply, or by us while we waited for one."""


class ReplyError(ValueError):
    """What came is no HTTP/1.1 reply."""


class Place(NamedTuple):
    """Where connections can be shared."""

    host: str
    port: int
    is_tls: bool


@dataclass(frozen=True, slots=True)
class Target:
    """An address, taken apart.

    Attributes:
        place: Where to connect to.
        authority: What the header `host` says.
        path: The path.
    """

    place: Place
    authority: str
    path: str


@lru_cache(maxsize=1024)
def parse_target(url: str) -> Target:
    """An address that `upstream.check_base_url` has found fine, taken apart."""
    parts = urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    host, port = parts.hostname or "", parts.port or usual
    name = f"[{host}]" if ":" in host else host
    place = Place(host, port, is_tls=parts.scheme == "https")
    return Target(place, name if port == usual else f"{name}:{port}", parts.path or "/")


class Connection(asyncio.Protocol):
    """A connection to a provider: `send`, then `read` until there is nothing more.

    Attributes:
        status: The status of the reply.
        headers: Its headers, with names in small letters.
        is_open: Whether it can be used.
        is_complete: Whether all of the reply is here.
        idle_since: When it was given back to the pool.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._is_full = False
        self._is_used = False
        self._is_cut = False
        self._begin()
        self.is_complete = True  # what comes before a request is no reply to it

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._keeps = False
        self._has_head = False
        self._num_bytes = self._body_bytes = self._waiting_bytes = 0
        self._pieces: list[bytes] = []
        self._failure: Exception | None = None

    async def send(self, head: bytes, body: bytes) -> None:
        """Send a request, and wait for the head of its reply.

        Raises:
            ClosedError: The other side closed the connection.
            BrokenError: We did.
            ReplyError: What came is no reply.
        """
        if not self.is_open:
            raise ClosedError(is_stale=self._is_used)
        self._begin()
        if len(body) <= SEND_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            await self._send_pieces(memoryview(body))
        while not self._has_head:
            await self._wait()
        self._is_used = True

    async def read(self) -> bytes:
        """The next bytes of the reply; none at its end.

        Raises:
            BrokenError: The connection was closed.
            ReplyError: What came is no reply.
        """
        while not self._pieces and not self.is_complete:
            await self._wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        if self._waiting_bytes > READ_BYTES and self.is_open:
            self._transport.resume_reading()
        self._waiting_bytes = 0
        return data

    def close(self) -> None:
        """Let go. Safe to call twice."""
        if not self.is_complete and self._failure is None:
            self._failure = BrokenError("closed by us")
        self.is_open = False
        self._transport.abort()
        self._wake()

    @property
    def is_reusable(self) -> bool:
        """Whether another request can be sent: the last went out whole, and its reply was read to its end."""
        if not (self.is_open and self._keeps and self.is_complete) or self._pieces:
            return False
        return not self._is_cut and self._transport.get_write_buffer_size() == 0

    async def _send_pieces(self, body: memoryview) -> None:
        """Send a large body, unless the reply says before its end that it is not wanted."""
        for start in range(0, len(body), SEND_BYTES):
            if self._has_head or self._failure is not None:
                self._is_cut = True
                return
            self._transport.write(body[start : start + SEND_BYTES])
            await asyncio.sleep(0)
            while self._is_full and not self._has_head:
                await self._wait()

    async def _wait(self) -> None:
        """Until something comes."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The event loop's: there is a connection."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """The event loop's: something came."""
        if self.is_complete:  # nothing was asked for
            self.close()
            return
        self._num_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(ReplyError("no reply of HTTP/1.1"))
            return
        if self._num_bytes - self._body_bytes > HEAD_BYTES + FRAME_FACTOR * self._body_bytes:
            self._fail(ReplyError("a head without an end"))
            return
        if self._waiting_bytes > READ_BYTES and not self.is_complete:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The event loop's: the connection is closed."""
        self.is_open = False
        if self.is_complete or self._failure is not None:
            return
        if not self._has_head:
            self._failure = ClosedError(is_stale=self._is_used and not self._num_bytes)
        elif exc is None and self._ends_with_connection:
            self.is_complete = True
        else:
            self._failure = BrokenError("broken off")
        self._wake()

    def eof_received(self) -> None:
        """The event loop's: nothing more comes, so that what is not sent yet need not be waited for."""
        self.connection_lost(None)
        self._transport.abort()

    def pause_writing(self) -> None:
        """The event loop's: the other side reads more slowly than we send."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The event loop's: it has caught up."""
        self._is_full = False
        self._wake()

    @property
    def _ends_with_connection(self) -> bool:
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def on_message_begin(self) -> None:
        """The parser's: a reply begins."""
        if self.is_complete:
            raise ReplyError("two replies to a request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's: a header, or a trailer, which nobody wants."""
        if not self._has_head:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        """The parser's: the head is here."""
        self.status = self._parser.get_status_code()
        if self.status < 100:
            raise ReplyError("no status")
        self._has_head = self.status >= 200

    def on_body(self, body: bytes) -> None:
        """The parser's: more of the body, unchunked."""
        self._pieces.append(body)
        self._body_bytes += len(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """The parser's: the end."""
        if self.status < 200:  # "100 Continue" and the like: the reply is still to come
            self.headers.clear()
            return
        self._keeps = self._parser.should_keep_alive()
        self.is_complete = True


class Pool:
    """Connections to providers that are kept open; for one event loop.

    Args:
        max_per_place: Connections to one place at once; requests beyond it wait.
        tls: What certificates are checked with.
    """

    def __init__(self, *, max_per_place: int, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._idle: defaultdict[Place, deque[Connection]] = defaultdict(deque)
        self._slots: defaultdict[Place, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max_per_place))
        self._used: set[Connection] = set()
        self._is_closed = False

    async def take(self, place: Place, *, fresh: bool = False) -> Connection:
        """A connection for one request; `give_back` gets it whatever comes of that.

        Args:
            place: Where to.
            fresh: Not one that was used before.

        Raises:
            ConnectError: There is none.
        """
        slots = self._slots[place]
        await slots.acquire()
        try:
            connection = (None if fresh else self._idle_one(place)) or await self._connect(place)
        except BaseException:
            slots.release()
            raise
        self._used.add(connection)
        if self._is_closed:
            connection.close()
        return connection

    def give_back(self, place: Place, connection: Connection) -> None:
        """Keep a connection for other requests if it can have any, and close it otherwise."""
        self._used.discard(connection)
        self._slots[place].release()
        if connection.is_reusable:
            connection.idle_since = time.monotonic()
            self._idle[place].append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        self._is_closed = True
        for connection in (*self._used, *(one for idle in self._idle.values() for one in idle)):
            connection.close()
        self._idle.clear()

    def _idle_one(self, place: Place) -> Connection | None:
        """The connection that was used last: it is the likeliest to be open."""
        idle = self._idle[place]
        oldest = time.monotonic() - KEEP_ALIVE_SECONDS
        while idle and idle[0].idle_since < oldest:
            idle.popleft().close()
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self, place: Place) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
                opened = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)
                tls, name = (self._tls, place.host) if place.is_tls else (None, None)
                _, connection = await loop.create_connection(Connection, sock=opened, ssl=tls, server_hostname=name)
        except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: uvloop's, for some that are an OSError
            raise ConnectError("no connection") from error
        return connection


def head_of(target: Target, headers: Mapping[str, str], length: int) -> bytes:
    """The head of a request. Its headers must have been checked: a line end in one would begin another."""
    first = f"POST {target.path} HTTP/1.1\r\nhost: {target.authority}\r\ncontent-length: {length}\r\n"
    return (first + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode()
