"""A provider that does what a script says: answers well, late, wrongly or not at all.

    with provider("openai", script=[rate_limited(2), ok]) as served:
        ...
        assert served.requests[0].headers["authorization"] == "Bearer key"

It speaks HTTP by hand, on a port of its own and in a thread of its own, since no framework would break off in a reply.
Vectors and scores are those of `quernel.testing`, by the name of the model that is asked for, so that all providers of
a model agree. When the script is at its end, every answer is a good one.
"""

import asyncio
import contextlib
import gzip
import itertools
import json
import math
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from quernel.errors import QuernelError
from quernel.protocols import ai_gateway, cohere, openai, rerank, tei
from quernel.protocols.error_body import encode_error
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingRequest

SECONDS = 10

REASON = "Scripted"


@dataclass
class Recorded:
    """A request as it came."""

    path: str
    headers: dict
    body: bytes
    connection: int

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Call:
    """A request that was understood, the right answer to it, and how that is written."""

    request: object
    result: object
    write: Callable
    recorded: Recorded
    models: dict

    def answer(self, result=None):
        return Answer(body=self.write(result or self.result))

    @property
    def texts(self):
        if self.request is None:
            return [self.recorded.body.decode()]
        return self.request.inputs if isinstance(self.request, EmbeddingRequest) else self.request.documents


@dataclass(frozen=True)
class Answer:
    """What is sent back, and how.

    `cut` ends the connection after so many bytes of the body; `pieces` are sent one by one instead of a body, with
    `gap` seconds before each.
    """

    status: int = 200
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    cut: int | None = None
    pieces: tuple = ()
    gap: float = 0.0
    raw: bytes | None = None
    hang_up: bool = False
    reset: bool = False


# What a script is made of: functions from a call to an answer.


def ok(call):
    return call.answer()


def slow(seconds, then=ok):
    return lambda call: replace(then(call), delay=seconds)


def failing(status, headers=None, *, code=None):
    """A failure whose message repeats the key and a text of the request, as some providers' do."""

    def step(call):
        key = call.recorded.headers.get("authorization", "")
        message = f"Cannot read {call.texts[0]!r} of {key}"
        body = {"error": {"message": message, "type": "error", "code": code}}
        return Answer(status=status, headers=headers or {}, body=json.dumps(body).encode())

    return step


def rate_limited(seconds=None):
    return failing(429, {} if seconds is None else {"retry-after": str(seconds)})


def redirected(url):
    return lambda call: Answer(status=307, headers={"location": url})


def sends(body, *, content_type="application/json", headers=None, status=200):
    """These bytes, whatever was asked."""
    return lambda call: Answer(status=status, body=body, headers={"content-type": content_type, **(headers or {})})


def hung_up(call):
    """The connection is closed instead of an answer."""
    return Answer(hang_up=True)


def reset(call):
    """The connection is reset instead of an answer."""
    return Answer(reset=True)


def garbled(call):
    """Something that is no HTTP."""
    return Answer(raw=b"220 mail ready\r\n\r\n")


def broken_off(call):
    """The connection is closed in the middle of a good answer."""
    whole = call.answer()
    return replace(whole, cut=len(whole.body) // 2)


def malformed(call):
    return replace(call.answer(), body=call.answer().body[:-1])


def packed(call):
    """A good answer, compressed."""
    return Answer(body=gzip.compress(call.answer().body), headers={"content-encoding": "gzip"})


def bomb(num_bytes):
    """An answer of spaces that is a thousand times as large as what is sent."""
    return sends(gzip.compress(b" " * num_bytes), headers={"content-encoding": "gzip"})


def events(*pieces, gap=0.0, content_type="text/event-stream"):
    """A body in these pieces."""
    return lambda call: Answer(pieces=pieces, gap=gap, headers={"content-type": content_type})


def _edits(change_vectors, change_ranks):
    def step(call):
        result = call.result
        if isinstance(call.request, EmbeddingRequest):
            return call.answer(replace(result, vectors=change_vectors(result.vectors)))
        return call.answer(replace(result, results=tuple(change_ranks(list(result.results)))))

    return step


def _with(vectors, value):
    changed = vectors.copy()
    changed[-1] = value
    return changed


def _first_twice(ranks):
    return [ranks[0], replace(ranks[1], index=ranks[0].index), *ranks[2:]]


one_less = _edits(lambda vectors: vectors[:-1], lambda ranks: ranks[:-1])
shorter = _edits(lambda vectors: vectors[:, :-1], lambda ranks: ranks)
zeros = _edits(lambda vectors: _with(vectors, 0.0), lambda ranks: ranks)
longer = _edits(lambda vectors: vectors * 3, lambda ranks: ranks)
not_a_number = _edits(
    lambda vectors: _with(vectors, np.nan),
    lambda ranks: [*ranks[:-1], replace(ranks[-1], relevance_score=math.nan, logit=math.nan)],
)
out_of_range = _edits(lambda vectors: vectors, lambda ranks: [*ranks[:-1], replace(ranks[-1], index=99)])


def doubled(call):
    """Two rows say that they are of the same text."""
    return _edit_rows(call, lambda rows: rows[1].update(index=rows[0]["index"]))


def shuffled(call):
    """Rows in the opposite order, each with its right place."""
    return _edit_rows(call, lambda rows: rows.reverse())


def _edit_rows(call, edit):
    reply = json.loads(call.answer().body)
    rows = (
        [reply]
        if isinstance(reply, list)
        else [reply[name] for name in ("data", "results", "ranking") if name in reply]
    )
    for one in rows:
        edit(one)
    return Answer(body=json.dumps(reply).encode())


def ignoring_dimensions(call):
    """Vectors of full length, whatever was asked for."""
    model = call.models["embedding"]
    whole = replace(call.request, dimensions=None)
    return call.answer(replace(call.result, vectors=_run(model.embed(whole)).vectors))


def _run(coroutine):
    """The result of a fake's coroutine, which waits for nothing."""
    try:
        coroutine.send(None)
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a fake waited")


def changed(edit):
    """A good answer whose JSON `edit` has changed in place."""

    def step(call):
        reply = json.loads(call.answer().body)
        edit(reply)
        return Answer(body=json.dumps(reply).encode())

    return step


def _openai(recorded):
    call = openai.decode_embedding_request(recorded.body)
    return call, lambda result: openai.encode_embedding_response(result, call)


def _jina_rerank(recorded):
    call = rerank.decode_rerank_request(recorded.body)
    return call, lambda result: rerank.encode_rerank_response(result, call, request_id="r")


def _cohere(recorded):
    call = cohere.decode_embed_request(recorded.body)
    return call, lambda result: cohere.encode_embed_response(result, call, request_id="r")


def _cohere_rerank(recorded):
    call = cohere.decode_rerank_request(recorded.body)
    return call, lambda result: cohere.encode_rerank_response(result, call, request_id="r")


def _tei(recorded):
    return tei.decode_embed_request(recorded.body), tei.encode_embed_response


def _tei_rerank(recorded):
    call = tei.decode_rerank_request(recorded.body)
    return call, lambda result: tei.encode_rerank_response(result, call)


def _gateway(recorded):
    model = recorded.headers[ai_gateway.MODEL_HEADER]
    call = ai_gateway.decode_embedding_request(recorded.body, model=model, version="4")
    return call, lambda result: ai_gateway.encode_embedding_reply(result, version="4", metadata={"cost": "0.25"})


def _gateway_rerank(recorded):
    model = recorded.headers[ai_gateway.MODEL_HEADER]
    call = ai_gateway.decode_reranking_request(recorded.body, model=model, version="4")
    return call, lambda result: ai_gateway.encode_reranking_reply(result, version="4", metadata={"cost": "0.25"})


DIALECTS = {
    "quernel": ("/v1", {"/v1/embeddings": _openai, "/v1/rerank": _jina_rerank}),
    "openai": ("/v1", {"/v1/embeddings": _openai}),
    "jina": ("/v1", {"/v1/embeddings": _openai, "/v1/rerank": _jina_rerank}),
    "voyage": ("/v1", {"/v1/embeddings": _openai, "/v1/rerank": _jina_rerank}),
    "cohere": ("", {"/v2/embed": _cohere, "/v2/rerank": _cohere_rerank}),
    "tei": ("", {"/embed": _tei, "/rerank": _tei_rerank}),
    "ai-gateway": ("/v4/ai", {"/v4/ai/embedding-model": _gateway, "/v4/ai/reranking-model": _gateway_rerank}),
}
"""Where a format is mounted, and how its requests are read and answered."""


class FaultyProvider:
    """A provider on this machine.

    Args:
        wire_format: What it speaks.
        script: What it does with each request in turn.
        model: The name whose vectors it gives, whatever it is asked for; by default the name that is asked for.
        dimensions: Length of its full vectors; where models differ, that of each by its name.
        max_tokens: Longest text that it reads.
        tls: For https.

    Attributes:
        origin: Its address, without a path.
        url: Its address, as a configuration has it.
        requests: What came, in order.
        connections: How many were opened.
        max_in_flight: The most requests that it was answering at once.
    """

    def __init__(self, wire_format, script=(), *, model=None, dimensions=64, max_tokens=512, tls=None):
        self._mount, self._routes = DIALECTS[wire_format]
        self._script = iter(script)
        self._model, self._dimensions, self._max_tokens, self._tls = model, dimensions, max_tokens, tls
        self._models = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if tls else "http"
        self.origin = f"{scheme}://localhost:{self._listener.getsockname()[1]}"
        self.url = self.origin + self._mount
        self._count = itertools.count(1)
        self._loop = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._started = threading.Event()
        self.requests = []
        self.connections = 0
        self.in_flight = self.max_in_flight = 0

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(SECONDS)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._running = set()
        server = await asyncio.start_server(self._serve, sock=self._listener, ssl=self._tls, limit=2**24)
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._running.add(task)
        self.connections += 1
        number = next(self._count)
        try:
            # Cancelled is what it is when the provider stops.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer, number):
                    pass
        finally:
            self._running.discard(task)
            writer.close()

    async def _exchange(self, reader, writer, number):
        """Read a request and answer it; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        recorded = Recorded(first.split()[1], headers, body, number)
        self.requests.append(recorded)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            answer = await self._answer(recorded)
            await asyncio.sleep(answer.delay)
            return await self._send(answer, writer)
        finally:
            self.in_flight -= 1

    async def _answer(self, recorded):
        read = self._routes.get(recorded.path)
        if read is None:
            # A chat, say: the script may still have an answer that does not depend on the request.
            step = next(self._script, failing(404))
            return step(Call(None, None, lambda result: b"{}", recorded, self._models))
        step = next(self._script, ok)
        try:
            call, write = read(recorded)
            request = call.request
            result = await self._ask(request, self._model or call.model)
        except QuernelError as error:
            return Answer(status=error.status, body=encode_error(error))
        return step(Call(request, result, write, recorded, self._models))

    async def _ask(self, request, name):
        if isinstance(request, EmbeddingRequest):
            dimensions = self._dimensions if isinstance(self._dimensions, int) else self._dimensions[name]
            model = FakeEmbeddingModel(name or "fake/embedding", dimensions=dimensions, max_tokens=self._max_tokens)
            self._models["embedding"] = model
            return await model.embed(request)
        return await FakeRerankModel(name or "fake/reranker", max_tokens=self._max_tokens).rerank(request)

    async def _send(self, answer, writer):
        if answer.reset:
            # With no time to linger the system sends a reset instead of an end.
            plain = writer.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if answer.hang_up or answer.reset:
            return False
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            return False
        chunked = bool(answer.pieces)
        frame = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(answer.body))}
        headers = {"content-type": "application/json", **answer.headers, **frame}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        first = f"HTTP/1.1 {answer.status} {REASON}\r\n{head}\r\n".encode()
        if chunked:
            writer.write(first)
            await writer.drain()
            for piece in answer.pieces:
                await asyncio.sleep(answer.gap)
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        else:
            # At once: the rest would wait for the other side to acknowledge the head, which takes it 40 ms.
            writer.write(first + answer.body[: answer.cut])
        await writer.drain()
        return answer.cut is None


def provider(wire_format, script=(), **options):
    """A provider that is running; see `FaultyProvider`."""
    return FaultyProvider(wire_format, script, **options)
