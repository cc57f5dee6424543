"""HTTP/1.1 to providers: what replies mean, how connections end, and that the pool never loses a place."""

import asyncio
import gc
import socket
import ssl
import struct
from collections import deque
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import pytest
import trustme
import uvloop

from quernel.errors import FailureKind, ProviderError
from quernel.gateway import http1
from quernel.gateway.http1 import (
    BrokenError,
    ClosedError,
    ConnectError,
    Connection,
    Place,
    Pool,
    ReplyError,
    Target,
    head_of,
    parse_target,
)
from quernel.gateway.transport import Transport

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

SECONDS = 10
"""After which a test hangs."""

SMALL = 2**13
"""A socket's buffer, for servers that should be slow."""

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

LARGE = bytes(range(256)) * 2**13 + b"the end"
"""More than the sockets of both sides hold together."""


class Peer:
    """The provider's side of a connection."""

    def __init__(self, server, reader, writer):
        self.server = server
        self.reader = reader
        self.writer = writer

    async def head(self):
        """The head of a request."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self):
        """A whole request."""
        head = await self.head()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        self.server.requests.append((head, await self.reader.readexactly(length)))

    async def send(self, data, size=2**16):
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            self.server.num_sent += len(data[start : start + size])
            await self.writer.drain()
            await asyncio.sleep(0)

    async def closed(self):
        """Until the client closes."""
        with suppress(ConnectionError):
            while await self.reader.read(2**16):
                pass
        self.server.num_closed += 1

    def close(self):
        self.writer.close()

    def reset(self):
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def answers(*replies, size=2**16):
    """A script that answers requests, the last reply again and again."""

    async def script(peer):
        left = deque(replies)
        with suppress(asyncio.IncompleteReadError):
            while True:
                await peer.request()
                await peer.send(left[0], size)
                if len(left) > 1:
                    left.popleft()
        peer.server.num_closed += 1

    return script


def ends(reply, how=Peer.close):
    """A script that answers a request and closes."""

    async def script(peer):
        await peer.request()
        await peer.send(reply)
        how(peer)

    return script


async def silent(peer):
    await peer.request()
    await peer.closed()


@dataclass
class Server:
    """Plays to each connection the next of its scripts, and the last one to the rest."""

    place: Place = None
    num_connections: int = 0
    num_closed: int = 0
    num_sent: int = 0

    def __post_init__(self):
        self.requests = []

    @property
    def url(self):
        host = f"[{self.place.host}]" if ":" in self.place.host else self.place.host
        return f"{'https' if self.place.is_tls else 'http'}://{host}:{self.place.port}/v1/embeddings"

    @property
    def head(self):
        """Of a request without a body."""
        return head_of(parse_target(self.url), {}, 0)


@asynccontextmanager
async def serving(*scripts, tls=None, buffer=None, host="127.0.0.1"):
    server, left = Server(), deque(scripts)
    tasks, writers = [], []

    async def play(reader, writer):
        writers.append(writer)
        script = left.popleft() if len(left) > 1 else left[0]
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(Peer(server, reader, writer))

    def accept(reader, writer):
        server.num_connections += 1
        tasks.append(asyncio.ensure_future(play(reader, writer)))

    listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    listening = await asyncio.start_server(accept, sock=listener, ssl=tls, limit=SMALL)
    server.place = Place(host, listener.getsockname()[1], is_tls=tls is not None)
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.005)
    for error in ended:
        if isinstance(error, Exception):
            raise error


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls(authority):
    """A server's context, and a client's that trusts it."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


NO_TLS = (None, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@pytest.fixture(params=LOOPS)
def run(request):
    """Does `work(server, pool)`; an error that a callback swallowed fails the test, and so does anything left open."""

    def call(work, *scripts, tls=NO_TLS, max_per_place=4, **options):
        swallowed = []

        async def guarded():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: swallowed.append(context))
            async with asyncio.timeout(SECONDS), serving(*scripts, tls=tls[0], **options) as server:
                pool = Pool(max_per_place=max_per_place, tls=tls[1])
                try:
                    return await work(server, pool)
                finally:
                    pool.close()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            result = runner.run(guarded())
        assert not swallowed
        return result

    return call


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes
    connection: Connection


async def ask(pool, server, body=b"{}"):
    """What comes to a request."""
    connection = await pool.take(server.place)
    try:
        await connection.send(head_of(parse_target(server.url), {}, len(body)), body)
        pieces = []
        while piece := await connection.read():
            pieces.append(piece)
        return Reply(connection.status, connection.headers, b"".join(pieces), connection)
    finally:
        pool.give_back(server.place, connection)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def settled(count):
    """A number that no longer grows."""
    before, same = None, 0
    while same < 20:
        same = same + 1 if count() == before else 0
        before = count()
        await asyncio.sleep(0.002)
    return before


REPLIES = {
    "with a length": (OK, b"hi", True),
    "of nothing": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", True),
    "without a body": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "in chunks": (CHUNKED + b"2\r\nhi\r\n4;a=b\r\n you\r\n0\r\n\r\n", b"hi you", True),
    "in chunks of nothing": (CHUNKED + b"0\r\n\r\n", b"", True),
    "with trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nx-more: yes\r\n\r\n", b"hi", True),
    "after 100 Continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"hi", True),
    "after hints": (b"HTTP/1.1 103 Early Hints\r\nx-more: yes\r\n\r\n" * 2 + OK, b"hi", True),
    "that offers another protocol": (
        OK.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"),
        b"hi",
        True,
    ),
    "with a header of nothing": (OK.replace(b"\r\n\r\n", b"\r\nx-nothing:\r\n\r\n"), b"hi", True),
    "without a reason": (OK.replace(b" OK", b""), b"hi", True),
    "that is the last": (OK.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n"), b"hi", False),
    "of HTTP/1.0": (OK.replace(b"1.1", b"1.0"), b"hi", False),
    "of HTTP/1.0 that is not the last": (
        OK.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        b"hi",
        True,
    ),
}


@pytest.mark.parametrize("size", [2**16, 1], ids=["whole", "by the byte"])
@pytest.mark.parametrize(("reply", "body", "is_kept"), REPLIES.values(), ids=REPLIES)
def test_a_reply_is_read_to_its_end_and_its_connection_kept_if_it_may_be(run, reply, body, is_kept, size):
    async def work(server, pool):
        for _ in range(2):
            read = await ask(pool, server)
            assert read.body == body
            assert read.status == (204 if b" 204 " in reply else 200)
            assert "x-more" not in read.headers
            assert read.connection.is_open == is_kept
        assert server.num_connections == (1 if is_kept else 2)

    run(work, answers(reply, size=size))


def test_names_of_headers_are_in_small_letters_and_values_without_spaces_around(run):
    async def work(server, pool):
        headers = (await ask(pool, server)).headers
        assert headers == {"content-length": "2", "x-a": "b c", "x-latin": "\xe9"}

    run(work, answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: \t b c \t\r\nX-Latin: \xe9\r\n\r\nhi"))


def test_nothing_of_a_reply_is_left_for_the_next(run):
    async def work(server, pool):
        replies = [await ask(pool, server) for _ in range(3)]
        assert [reply.status for reply in replies] == [503, 204, 200]
        assert [reply.body for reply in replies] == [b"busy", b"", b"hi"]
        assert ["retry-after" in reply.headers for reply in replies] == [True, False, False]
        assert server.num_connections == 1

    busy = b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 4\r\n\r\nbusy"
    run(work, answers(busy, b"HTTP/1.1 204 No Content\r\n\r\n", OK))


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_body_may_end_with_its_connection(run, tls, is_tls):
    async def work(server, pool):
        read = await ask(pool, server)
        assert (read.status, read.body) == (200, LARGE)
        assert not read.connection.is_open
        assert (await ask(pool, server)).body == b"hi"

    run(work, ends(b"HTTP/1.1 200 OK\r\n\r\n" + LARGE), answers(OK), tls=tls if is_tls else NO_TLS)


FLOOD = 2 * http1.HEAD_BYTES

REFUSED = {
    "another protocol": b"220 mail ready\r\n\r\n",
    "another version": OK.replace(b"1.1", b"3.1"),
    "a status below all": OK.replace(b"200", b"099"),
    "a change of the protocol": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    "a change of the protocol to none": b"HTTP/1.1 101 Switching\r\n\r\n",
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n"),
    "a length and chunks": OK.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"),
    "a length that is none": OK.replace(b": 2", b": 2x"),
    "a length below nothing": OK.replace(b": 2", b": -2"),
    "a length beyond all": OK.replace(b": 2", b": 99999999999999999999999"),
    "a chunk of no length": CHUNKED + b"x\r\nhi\r\n",
    "a reason without end": b"HTTP/1.1 200 " + b"x" * FLOOD,
    "a header without end": b"HTTP/1.1 200 OK\r\nx: " + b"x" * FLOOD,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (FLOOD // 6),
    "hints without end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * (FLOOD // 28),
    "an extension without end": CHUNKED + b"2;" + b"x" * FLOOD,
    "extensions without end": CHUNKED + (b"1;" + b"x" * 100 + b"\r\nx\r\n") * (FLOOD // 100),
    "trailers without end": CHUNKED + b"2\r\nhi\r\n0\r\n" + b"x: y\r\n" * (FLOOD // 6),
}


@pytest.mark.parametrize("reply", REFUSED.values(), ids=REFUSED)
def test_what_is_no_reply_or_has_no_end_is_refused_and_the_connection_closed(run, reply):
    async def script(peer):
        await peer.request()
        with suppress(ConnectionError):
            await peer.send(reply)
        await peer.closed()

    async def work(server, pool):
        with pytest.raises(ReplyError):
            await ask(pool, server)
        await until(lambda: server.num_closed == 1)

    run(work, script)


@pytest.mark.parametrize(
    ("reply", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * (http1.HEAD_BYTES - 100) + b"\r\ncontent-length: 2\r\n\r\nhi", 2),
        (CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n", 50_000),
    ],
    ids=["a large head", "small chunks"],
)
def test_what_is_only_unusual_is_read(run, reply, length):
    async def work(server, pool):
        assert len((await ask(pool, server)).body) == length

    run(work, answers(reply))


CUT = {
    "before the head": (b"", ClosedError),
    "in the head": (OK[:20], ClosedError),
    "after 100 Continue": (b"HTTP/1.1 100 Continue\r\n\r\n", ClosedError),
    "in a body with a length": (OK[:-1], BrokenError),
    "before a body with a length": (OK[:-2], BrokenError),
    "in a chunk": (CHUNKED + b"5\r\nhi", BrokenError),
    "between chunks": (CHUNKED + b"2\r\nhi\r\n", BrokenError),
    "before the last line": (CHUNKED + b"2\r\nhi\r\n0\r\n", BrokenError),
}


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize(("reply", "error"), CUT.values(), ids=CUT)
def test_a_reply_that_breaks_off_is_an_error(run, tls, reply, error, is_tls):
    async def work(server, pool):
        with pytest.raises(error) as caught:
            await ask(pool, server)
        assert not getattr(caught.value, "is_stale", False)

    run(work, ends(reply), tls=tls if is_tls else NO_TLS)


def test_a_reset_is_not_the_end_of_a_body(run):
    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await until(lambda: peer.server.has_head)
        peer.reset()

    async def work(server, pool):
        server.has_head = False
        connection = await pool.take(server.place)
        await connection.send(server.head, b"")
        assert await connection.read() == b"hi"
        server.has_head = True
        with pytest.raises(BrokenError):
            await connection.read()
        pool.give_back(server.place, connection)

    run(work, script)


def test_of_two_replies_to_a_request_the_first_is_taken_and_no_other_follows(run):
    async def work(server, pool):
        assert (await ask(pool, server)).body == b"hi"
        assert (await ask(pool, server)).body == b"you"
        assert server.num_connections == 2

    you = OK.replace(b": 2", b": 3").replace(b"hi", b"you")
    run(work, answers(OK + OK.replace(b"hi", b"no")), answers(you))


@pytest.mark.parametrize("more", [b"\r\n", b"x", OK], ids=["a line", "a byte", "a reply"])
def test_bytes_that_nobody_asked_for_close_an_idle_connection(run, more):
    async def script(peer):
        await peer.request()
        await peer.send(OK)
        await until(lambda: peer.server.is_idle)
        await peer.send(more)
        await peer.closed()

    async def work(server, pool):
        server.is_idle = False
        first = await ask(pool, server)
        assert first.connection.is_open
        server.is_idle = True
        await until(lambda: server.num_closed == 1)
        assert not first.connection.is_open
        assert (await ask(pool, server)).body == b"hi"
        assert server.num_connections == 2

    run(work, script, answers(OK))


@pytest.mark.parametrize("how", [Peer.close, Peer.reset])
def test_a_new_connection_that_is_closed_at_once_is_an_error_and_no_wait(run, how):
    async def script(peer):
        how(peer)

    async def work(server, pool):
        connection = await pool.take(server.place)
        await until(lambda: not connection.is_open)
        with pytest.raises(ClosedError) as caught:
            await connection.send(server.head, b"")
        assert not caught.value.is_stale
        pool.give_back(server.place, connection)

    run(work, script)


def test_a_reply_that_comes_before_its_request_is_none(run):
    async def script(peer):
        await peer.send(OK)
        await peer.closed()

    async def work(server, pool):
        connection = await pool.take(server.place)
        await until(lambda: not connection.is_open)
        with pytest.raises(ClosedError):
            await connection.send(server.head, b"")
        pool.give_back(server.place, connection)

    run(work, script)


def test_a_connection_that_was_closed_while_it_was_idle_is_stale(run):
    async def work(server, pool):
        await ask(pool, server)
        connection = await pool.take(server.place)
        with pytest.raises(ClosedError) as caught:
            await connection.send(server.head, b"")
        assert caught.value.is_stale
        pool.give_back(server.place, connection)

    async def script(peer):
        await peer.request()
        await peer.send(OK)
        await peer.head()
        peer.close()

    run(work, script)


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_large_body_arrives_whole_at_a_server_that_reads_slowly(run, tls, is_tls):
    async def script(peer):
        await peer.head()
        body = bytearray()
        while len(body) < len(LARGE):
            body += await peer.reader.read(2**15)
            await asyncio.sleep(0.0005)
        peer.server.requests.append(bytes(body))
        await peer.send(OK)
        await answers(OK)(peer)

    async def work(server, pool):
        assert (await ask(pool, server, LARGE)).body == b"hi"
        assert server.requests == [LARGE]
        assert (await ask(pool, server)).body == b"hi"
        assert server.num_connections == 1

    run(work, script, tls=tls if is_tls else NO_TLS, buffer=SMALL)


TOO_LARGE = {
    "with a length": b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig",
    "in chunks": b"HTTP/1.1 413 Too Large\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n",
    "to the end": b"HTTP/1.1 413 Too Large\r\n\r\nbig",
}


@pytest.mark.parametrize("size", [http1.SEND_BYTES, 2**30], ids=["in pieces", "at once"])
@pytest.mark.parametrize("reply", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_reply_before_the_end_of_a_body_that_nobody_reads_is_read_and_its_connection_not_kept(
    run, monkeypatch, reply, size
):
    monkeypatch.setattr(http1, "SEND_BYTES", size)

    async def script(peer):
        await peer.head()
        await asyncio.sleep(0.02)  # until there is no more room for the body
        await peer.send(reply)
        if reply == TOO_LARGE["to the end"]:
            peer.writer.write_eof()
        await asyncio.sleep(SECONDS)

    async def work(server, pool):
        read = await ask(pool, server, LARGE * 8)
        assert (read.status, read.body) == (413, b"big")
        assert not read.connection.is_open
        assert (await ask(pool, server)).body == b"hi"
        assert server.num_connections == 2

    run(work, script, answers(OK), buffer=SMALL)


def test_a_reply_before_the_end_of_a_body_that_is_read_all_the_same_is_not_kept_either(run):
    async def script(peer):
        await peer.head()
        await peer.send(TOO_LARGE["with a length"])
        await peer.closed()

    async def work(server, pool):
        assert (await ask(pool, server, LARGE)).status == 413
        await until(lambda: server.num_closed == 1)

    run(work, script, buffer=SMALL)


@pytest.mark.parametrize("how", [Peer.close, Peer.reset])
def test_a_connection_that_is_closed_in_the_middle_of_a_body_is_an_error(run, how):
    async def script(peer):
        await peer.head()
        await peer.reader.read(1)
        how(peer)

    async def work(server, pool):
        with pytest.raises(ClosedError):
            await ask(pool, server, LARGE)

    run(work, script, buffer=SMALL)


class Wire(asyncio.Transport):
    """A transport on which nothing happens by itself."""

    def __init__(self):
        super().__init__()
        self.num_written = 0
        self.is_aborted = False

    def write(self, data):
        self.num_written += len(data)

    def abort(self):
        self.is_aborted = True

    def is_closing(self):
        return self.is_aborted


def test_a_large_body_is_sent_on_only_while_there_is_room(run):
    async def work(server, pool):
        connection, wire = Connection(), Wire()
        connection.connection_made(wire)
        sending = asyncio.ensure_future(connection.send(b"", LARGE))
        connection.pause_writing()
        assert await settled(lambda: wire.num_written) == http1.SEND_BYTES
        connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await settled(lambda: wire.num_written) == http1.SEND_BYTES, "a hint is no room"
        connection.resume_writing()
        await until(lambda: wire.num_written == len(LARGE))
        connection.data_received(OK)
        await sending
        assert await connection.read() == b"hi"
        assert await connection.read() == b""

    run(work, silent)


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_reader_that_pauses_stops_the_other_side_and_then_reads_to_the_right_end(run, tls, is_tls):
    whole = LARGE * 8
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(whole), whole)

    async def work(server, pool):
        connection = await pool.take(server.place)
        await connection.send(server.head, b"")
        sent = await settled(lambda: server.num_sent)
        assert sent < len(whole)
        first = await connection.read()
        assert http1.READ_BYTES < len(first) < 4 * http1.READ_BYTES
        pieces = [first]
        while piece := await connection.read():
            pieces.append(piece)
            await asyncio.sleep(0)
        assert b"".join(pieces) == whole
        assert max(map(len, pieces)) < 4 * http1.READ_BYTES
        pool.give_back(server.place, connection)
        assert (await ask(pool, server)).body == b"hi"
        assert server.num_connections == 1

    run(work, answers(reply, OK), tls=tls if is_tls else NO_TLS)


def test_a_connection_whose_reply_nobody_read_is_not_kept(run):
    async def work(server, pool):
        connection = await pool.take(server.place)
        await connection.send(server.head, b"")
        await until(lambda: connection.is_complete)
        pool.give_back(server.place, connection)
        await until(lambda: server.num_closed == 1)

    run(work, answers(OK))


def test_closing_the_pool_wakes_a_request_that_waits_for_its_reply(run):
    async def work(server, pool):
        waiting = asyncio.ensure_future(ask(pool, server))
        await until(lambda: server.requests)
        pool.close()
        with pytest.raises(BrokenError):
            await waiting

    run(work, silent)


def test_closing_the_pool_closes_what_is_idle(run):
    async def work(server, pool):
        await ask(pool, server)
        pool.close()
        await until(lambda: server.num_closed == 1)

    run(work, answers(OK))


def test_closing_the_pool_is_not_the_end_of_a_body(run):
    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await peer.closed()

    async def work(server, pool):
        connection = await pool.take(server.place)
        await connection.send(server.head, b"")
        assert await connection.read() == b"hi"
        pool.close()
        with pytest.raises(BrokenError):
            await connection.read()
        pool.give_back(server.place, connection)

    run(work, script)


def test_a_request_that_waits_for_a_connection_sends_nothing_when_the_pool_is_closed(run):
    async def work(server, pool):
        first, second = (asyncio.ensure_future(ask(pool, server)) for _ in range(2))
        await until(lambda: server.requests)
        pool.close()
        with pytest.raises(BrokenError):
            await first
        with pytest.raises(ClosedError):
            await second
        await asyncio.sleep(0.01)
        assert len(server.requests) == 1

    run(work, silent, max_per_place=1)


def test_a_connection_that_is_made_while_the_pool_is_closed_is_closed(run, monkeypatch):
    async def work(server, pool):
        found, released = asyncio.Event(), asyncio.Event()
        look_up = resolving(server)
        server.place = server.place._replace(host="provider.example")

        async def late(*arguments, **options):
            found.set()
            await released.wait()
            return await look_up(*arguments, **options)

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", late)
        asked = asyncio.ensure_future(ask(pool, server))
        await found.wait()
        pool.close()
        released.set()
        with pytest.raises(ClosedError):
            await asked
        assert not server.requests

    run(work, answers(OK))


def resolving(*servers):
    """A look-up that finds these servers for every name; uvloop looks addresses up by it too."""
    look_up = asyncio.get_running_loop().getaddrinfo

    async def getaddrinfo(host, *arguments, **options):
        if not host.endswith((".example", "localhost")):
            return await look_up(host, *arguments, **options)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.place.port))
            for server in servers
        ]

    return getaddrinfo


def test_the_connection_that_was_used_last_is_used_first_and_an_old_one_not_at_all(run, monkeypatch):
    async def work(server, pool):
        first, second = [await pool.take(server.place) for _ in range(2)]
        for connection in (first, second):
            await connection.send(server.head, b"")
            assert await connection.read() == b"hi"
            assert await connection.read() == b""
            pool.give_back(server.place, connection)
        assert (await ask(pool, server)).connection is second
        monkeypatch.setattr(http1, "KEEP_ALIVE_SECONDS", 0)
        await asyncio.sleep(0.002)
        assert (await ask(pool, server)).connection not in (first, second)
        assert not first.is_open
        assert not second.is_open
        await until(lambda: server.num_closed == 2)
        assert server.num_connections == 3

    run(work, answers(OK))


async def give_up(pool, server):
    """A request that is cancelled when it has been sent."""
    asked = asyncio.ensure_future(ask(pool, server))
    await until(lambda: server.requests)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def give_up_in_the_middle(pool, server):
    async def read():
        connection = await pool.take(server.place)
        try:
            await connection.send(server.head, b"")
            server.has_head = True
            while await connection.read():
                pass
        finally:
            pool.give_back(server.place, connection)

    server.has_head = False
    asked = asyncio.ensure_future(read())
    await until(lambda: server.has_head)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def give_up_waiting(pool, server):
    """A request that is cancelled while another has the only connection, which is given up after it."""
    first, second = (asyncio.ensure_future(ask(pool, server)) for _ in range(2))
    await until(lambda: server.requests)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def give_up_at_once(pool, server):
    """Two requests of which one is cancelled in the moment in which the other gives its connection back."""
    first, second = (asyncio.ensure_future(ask(pool, server)) for _ in range(2))
    await until(lambda: server.requests)
    first.cancel()
    second.cancel()
    ended = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in ended)


async def fail(pool, server):
    with pytest.raises((ClosedError, BrokenError)):
        await ask(pool, server)


async def nothing(peer):
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await peer.closed()


@pytest.mark.parametrize(
    ("way", "script"),
    [
        (give_up, silent),
        (give_up_in_the_middle, nothing),
        (give_up_waiting, silent),
        (give_up_at_once, silent),
        (fail, ends(b"")),
        (fail, ends(OK[:-1])),
        (fail, ends(b"", Peer.reset)),
    ],
)
def test_every_way_out_of_a_request_leaves_room_for_the_next(run, way, script):
    async def work(server, pool):
        await way(pool, server)
        for _ in range(3):
            assert (await ask(pool, server)).body == b"hi"

    run(work, script, answers(OK), max_per_place=1)


def test_every_way_not_to_connect_leaves_room_for_the_next(run, monkeypatch):
    async def work(server, pool):
        loop = asyncio.get_running_loop()
        finding, finding_nobody = resolving(server), resolving(nobody())
        server.place = server.place._replace(host="provider.example")

        async def unknown(*arguments, **options):
            raise socket.gaierror(socket.EAI_NONAME, "not known")

        async def never(*arguments, **options):
            await asyncio.sleep(SECONDS)

        async def broken(*arguments, **options):
            raise RuntimeError("File descriptor 7 is used by transport")

        for failing in (unknown, broken, finding_nobody):
            monkeypatch.setattr(loop, "getaddrinfo", failing)
            with pytest.raises(ConnectError):
                await ask(pool, server)
        monkeypatch.setattr(loop, "getaddrinfo", never)
        asked = asyncio.ensure_future(ask(pool, server))
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        monkeypatch.setattr(http1, "CONNECT_SECONDS", 0.01)
        with pytest.raises(ConnectError) as caught:
            await ask(pool, server)
        assert isinstance(caught.value.__cause__, TimeoutError)
        monkeypatch.setattr(http1, "CONNECT_SECONDS", 5)
        monkeypatch.setattr(loop, "getaddrinfo", finding)
        assert (await ask(pool, server)).body == b"hi"

    run(work, answers(OK), max_per_place=1)


def test_a_certificate_that_is_not_trusted_leaves_room_for_the_next(run, tls):
    async def work(server, pool):
        for _ in range(3):
            with pytest.raises(ConnectError) as caught:
                await ask(pool, server)
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)

    run(work, answers(OK), tls=(tls[0], ssl.create_default_context()), max_per_place=1)


@pytest.mark.parametrize("is_tls", [False, True])
def test_requests_that_are_cancelled_at_any_moment_leave_nothing(run, tls, is_tls):
    async def work(server, pool):
        for turns in (*range(24), *range(24, 96, 4)):
            asked = [asyncio.ensure_future(ask(pool, server)) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        async with asyncio.timeout(5):
            assert [reply.body for reply in await asyncio.gather(*(ask(pool, server) for _ in range(4)))] == [b"hi"] * 4

    run(work, answers(OK), tls=tls if is_tls else NO_TLS, max_per_place=2)
    gc.collect()  # a socket that nobody closed is a warning now


@dataclass
class Nobody:
    """A place where nobody listens."""

    place: Place


def nobody():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Nobody(Place("127.0.0.1", listener.getsockname()[1], is_tls=False))


@contextmanager
def black_hole():
    """A place that never answers: its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        try:
            yield Nobody(Place("127.0.0.1", listener.getsockname()[1], is_tls=False))
        finally:
            for one in waiting:
                one.close()


def test_a_host_whose_first_address_is_dead_is_reached_by_its_second(run, monkeypatch):
    monkeypatch.setattr(http1, "NEXT_ADDRESS_SECONDS", 0.01)

    async def work(server, pool):
        with black_hole() as hole:
            for dead in (nobody(), hole):
                monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolving(dead, server))
                connection = await pool.take(Place("two.example", 80, is_tls=False), fresh=True)
                await connection.send(server.head, b"")
                assert await connection.read() == b"hi"
                connection.close()

    run(work, answers(OK))


@pytest.mark.parametrize(
    ("url", "place", "authority", "path"),
    [
        ("http://a.example/v1", ("a.example", 80, False), "a.example", "/v1"),
        ("http://a.example:80/v1", ("a.example", 80, False), "a.example", "/v1"),
        ("https://A.example:443", ("a.example", 443, True), "a.example", "/"),
        ("https://a.example:80/", ("a.example", 80, True), "a.example:80", "/"),
        ("http://a.example:8080/v1/x;y=1", ("a.example", 8080, False), "a.example:8080", "/v1/x;y=1"),
        ("https://[::1]/v1", ("::1", 443, True), "[::1]", "/v1"),
        ("http://[2001:db8::1]:8080", ("2001:db8::1", 8080, False), "[2001:db8::1]:8080", "/"),
    ],
)
def test_an_address_says_where_to_connect_to_and_what_the_host_is(url, place, authority, path):
    assert parse_target(url) == Target(Place(*place), authority, path)
    head = head_of(parse_target(url), {"x-a": "b"}, 7)
    assert head == f"POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-length: 7\r\nx-a: b\r\n\r\n".encode()


def test_a_literal_address_is_connected_to_and_said_with_its_port(run):
    async def work(server, pool):
        assert (await ask(pool, server)).body == b"hi"
        ((head, _),) = server.requests
        return server.place.port, head

    port, head = run(work, answers(OK))
    assert head.startswith(b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % port)
    try:
        port, head = run(work, answers(OK), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert b"\r\nhost: [::1]:%d\r\n" % port in head


def test_a_name_is_what_a_certificate_is_checked_for(run, tls, monkeypatch):
    async def work(server, pool):
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolving(nobody(), server))
        connection = await pool.take(Place("localhost", 443, is_tls=True))
        await connection.send(server.head, b"")
        assert await connection.read() == b"hi"
        connection.close()
        with pytest.raises(ConnectError) as caught:
            await pool.take(Place("other.example", 443, is_tls=True))
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)

    run(work, answers(OK), tls=tls)


def test_no_connection_outlives_its_use(run):
    async def work(server, pool):
        await give_up(pool, server)
        for _ in range(4):
            with suppress(OSError, ReplyError):
                await ask(pool, server)
        pool.close()

    run(work, silent, ends(OK[:-1]), ends(b""), ends(b"x"), answers(OK))
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Connection)]


def test_a_transport_never_loses_a_place_for_a_connection(run):
    async def work(server, pool):
        transport = Transport(max_per_host=1)
        limits = {"provider": "acme", "timeout": 5.0, "max_reply_bytes": 10}
        for kind in (FailureKind.UNREACHABLE, FailureKind.UNREACHABLE, FailureKind.BAD_REPLY, FailureKind.BAD_REPLY):
            with pytest.raises(ProviderError) as caught:
                await transport.post(server.url, b"{}", {}, **limits)
            assert caught.value.kind is kind
        with pytest.raises(ProviderError):
            await transport.post(server.url, b"{}", {}, **{**limits, "timeout": 0.02})
        asked = asyncio.ensure_future(transport.post(server.url, b"{}", {}, **limits))
        await until(lambda: len(server.requests) == 6)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        with pytest.raises(KeyError):
            async with transport.stream(server.url, b"{}", {}, **limits, idle_timeout=5.0):
                raise KeyError
        assert (await transport.post(server.url, b"{}", {}, **limits)).body == b"hi"
        await transport.close()
        with pytest.raises(ProviderError):
            await transport.post(server.url, b"{}", {}, **limits)

    large = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n" + b"x" * 20
    run(work, ends(b""), ends(OK[:-1]), ends(b"x"), answers(large), silent, silent, answers(OK))
