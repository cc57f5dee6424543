"""No text of a user is in the database of a gateway, its journals, the temp folder, the log, the metrics or the traces.

Every route that asks a model is asked with a marked text wherever one can stand: well, wrongly, beyond limits, without
money, with clients that hang up and with providers that repeat the text in their errors. Then all that the gateway
wrote is searched, while it runs and after it has stopped.
"""

import json
import logging
import re
import socket
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from urllib.parse import urlsplit

import httpx
import pytest
from tests.server.bodies import body_of
from tests.support import chats
from tests.support import provider as script
from tests.support.gateway import CATALOGUE, EMBEDDER, RERANKER, offer
from tests.support.provider import Answer, provider

from quernel.gateway import attempts
from quernel.gateway.accounts import create_account, find_account
from quernel.gateway.app import create_gateway_app
from quernel.gateway.config import GatewayConfig
from quernel.gateway.ids import now_ms
from quernel.gateway.keys import KeySettings, Scope, create_key
from quernel.gateway.limits import parse_limits
from quernel.gateway.opening import Tables, open_gateway
from quernel.gateway.routes import CHAT, SDK, SHARED
from quernel.server.config import ServerConfig
from quernel.server.serve import running

TEXT = "canary-text-9f3a"
MARK = re.compile(rb"canary.text.9f3a|63616e6172792d746578742d39663361|Y2FuYXJ5LXRleHQ", re.IGNORECASE)
"""The text, whatever stands for its dashes; in hexadecimal, as a log shows bytes; and the beginning of its base64."""

LOGGERS = ("", "quernel", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "uvicorn", "asyncio")

WITHOUT_MODEL = frozenset({"/", "/embed", "/rerank", "/similarity"})
"""Routes of TEI, which serves one model."""


class Recorder(logging.Handler):
    """Keeps all that any logger says, with its arguments and tracebacks."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))
        self.lines = []

    def emit(self, record):
        # The client of this test is the one that may know the text.
        if not record.name.startswith(("httpx", "httpcore")):
            self.lines.append(f"{self.format(record)} {getattr(record, 'fields', '')}")


@pytest.fixture
def log():
    """What all loggers say, at the level of the least."""
    recorder, root = Recorder(), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.addHandler(recorder)
    yield recorder
    root.removeHandler(recorder)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@dataclass
class Behaviour:
    """What the providers do now, with whatever they are asked."""

    step: object = None
    seen: int = 0

    def __call__(self, call):
        self.seen += TEXT.encode() in call.recorded.body
        if self.step is not None:
            return self.step(call)
        if call.recorded.path.endswith("/chat/completions"):
            is_stream = call.recorded.json.get("stream")
            return (chats.streamed(TEXT, " again") if is_stream else chats.whole(f"{TEXT} again"))(call)
        return call.answer()


def quoted(text):
    """The body of an error that says this."""
    return json.dumps({"error": {"message": text, "code": 500}}).encode()


def echoed(status):
    """An error whose message is the request."""
    return lambda call: Answer(
        status=status, body=json.dumps({"error": {"message": call.recorded.body.decode()}}).encode()
    )


def repeated(call):
    """The request as the reply."""
    return Answer(body=call.recorded.body)


def echoed_stream(call):
    """A stream that begins with the text and ends with an error that quotes it."""
    return Answer(
        pieces=(chats.chunk(TEXT), chats.event({"error": {"message": TEXT, "code": 500}})), headers=chats.STREAM
    )


FAULTS = {
    "they find fault with it": echoed(400),
    "they refuse the key": echoed(401),
    "they are full": echoed(429),
    "they fail": echoed(500),
    "they repeat it": repeated,
    "they say an error in a stream": echoed_stream,
    "they break off": chats.broken_off(chats.chunk(TEXT)),
    "they hang up": script.hung_up,
}


def requests_of(text):
    """A good request for each route that asks a model: path, headers, body."""
    for endpoint in SHARED:
        if endpoint.method == "POST":
            body = body_of(endpoint.path, text)
            model = RERANKER if {"query", "queries", "text_1"} & set(body) else EMBEDDER
            named = {} if endpoint.path in WITHOUT_MODEL else {"model": model}
            yield endpoint.path, {}, body | named
    for endpoint in SDK:
        if endpoint.path.endswith("embedding-model"):
            values = {"values": [text, f"{text} more"], "input": [text]}
            wanted = "input" if endpoint.path.startswith("/v1/") else "values"
            yield endpoint.path, {"ai-model-id": EMBEDDER}, {wanted: values[wanted]}
        elif endpoint.path.endswith("reranking-model"):
            documents = {"type": "text", "values": [text, "other"]}
            yield endpoint.path, {"ai-model-id": RERANKER}, {"query": text, "documents": documents}
    for stream in (False, True):
        messages = [{"role": "system", "content": text}, {"role": "user", "content": [{"type": "text", "text": text}]}]
        yield CHAT.path, {}, {"model": chats.CHAT, "messages": messages, "stream": stream, "stop": text}


def wrong_bodies(body):
    """The same request with something wrong, and the marked text at the place."""
    name = next(iter(body))
    yield json.dumps(body | {TEXT: TEXT, "top_n": TEXT, "stream_options": TEXT})
    yield json.dumps(body | {name: {TEXT: TEXT}})
    yield json.dumps(body | {"model": TEXT})
    yield json.dumps(body | {"provider": {"only": [TEXT]}, "providerOptions": {"gateway": {"order": TEXT}}})
    yield json.dumps(body)[:-2] + TEXT
    yield json.dumps(body).replace(TEXT, TEXT + "\\ud800")
    yield json.dumps(body).replace(TEXT, f"{TEXT} " * 5_000)


@contextmanager
def opened(folder, behaviour):
    """A gateway over providers that behave so, with all its switches but capture's on."""
    with (
        provider("quernel", repeat(behaviour), model=None) as models,
        provider("openai", repeat(behaviour)) as chat,
        provider("openai", repeat(script.sends(b"{}"))) as collector,
    ):
        tables = Tables(
            providers=[
                offer("acme", models.url, format="quernel", models=(EMBEDDER, RERANKER)),
                chats.offer("talker", chat.url),
            ],
            catalogue=[*CATALOGUE, *chats.CATALOGUE],
        )
        settings = GatewayConfig(capture_file=folder / "captured.jsonl", demo_usd_a_day="0", canary_seconds=0.2)
        parts = open_gateway(settings, database=f"sqlite:///{folder}/books/gateway.db", tables=tables)
        config = ServerConfig(port=0, shutdown_grace_seconds=1, otlp_endpoint=collector.origin, max_body_bytes=2**20)
        with running(create_gateway_app(parts, config=config), config) as url:
            yield parts, url, collector


def keys_of(parts):
    """Keys that can do everything, too little, and no more; and one of an account without money."""

    def make(connection):
        account = find_account(connection, "operator").id
        poor = create_account(connection, "poor", now=now_ms()).id
        limits = {
            "few": {"minute": {"requests": 0}},
            "short": {"minute": {"tokens": 1}},
            "spent": {"day": {"usd": "0"}},
        }
        scopes = {"reader": {Scope.READ}, "watcher": {Scope.METRICS}}
        made = {name: (account, KeySettings(scopes=frozenset(scope))) for name, scope in scopes.items()}
        made["good"] = (account, KeySettings())
        made |= {name: (account, KeySettings(limits=parse_limits(one, place=name))) for name, one in limits.items()}
        made["poor"] = (poor, KeySettings())
        made["bound"] = (account, KeySettings(models=("another/model",)))
        made["zdr"] = (account, KeySettings(zdr=True))
        keys = {name: parts.mint.new() for name in made}
        for name, (owner, settings) in made.items():
            create_key(connection, keys[name], owner, name, settings, created_by="test", now=now_ms())
        return {name: key.text for name, key in keys.items()}

    return parts.database.write_now(make)


def hang_up(url, key, path, headers, body):
    """Send a request, wait until it is on its way, and go."""
    place = urlsplit(url)
    content = json.dumps(body).encode()
    fields = {"host": "x", "authorization": f"Bearer {key}", "content-length": len(content), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        time.sleep(0.12)


def ask_everything(parts, url, behaviour):
    """All requests, good and bad; how many were answered, by status."""
    keys, statuses = keys_of(parts), {}
    marked = {"x-quernel-instruction": TEXT, "user-agent": TEXT, "cookie": TEXT, "x-forwarded-for": TEXT}
    with httpx.Client(base_url=url, timeout=60, headers=marked | {"content-type": "application/json"}) as client:

        def post(path, content, *, key="good", **headers):
            # Each request finds the providers as if they had never failed.
            parts.gateway.health.__init__()
            secret = {"authorization": f"Bearer {keys.get(key, key)}"}
            reply = client.post(path, content=content, headers=secret | headers)
            statuses[reply.status_code] = statuses.get(reply.status_code, 0) + 1
            return reply

        for number, (path, headers, body) in enumerate(requests_of(TEXT)):
            content = json.dumps(body)
            behaviour.step = None
            reply = post(path, content, **headers, **{"idempotency-key": f"k{number}"})
            assert reply.status_code == 200, (path, reply.text)
            for key in (*keys, "wrong", f"quernel_{TEXT}"):
                post(path, content, key=key, **headers)
            for wrong in wrong_bodies(body):
                post(path, wrong.encode(), **headers)
            post(path, content, **headers | {"x-quernel-timeout": "0.000001"})
            post(path, content, **headers | {"ai-model-id": TEXT})
            for fault in FAULTS.values():
                behaviour.step = fault
                post(path, content, **headers)
            behaviour.step = script.slow(1.0, lambda call: Answer(status=500))
            hang_up(url, keys["good"], path, headers, body)
        behaviour.step = chats.streamed(*[TEXT] * 100, gap=0.05)
        parts.gateway.health.__init__()
        stream = {"model": chats.CHAT, "messages": [{"role": "user", "content": TEXT}], "stream": True}
        with client.stream(
            "POST", CHAT.path, json=stream, headers={"authorization": f"Bearer {keys['good']}"}
        ) as reply:
            next(reply.iter_raw())
        for path in ("/v1/models", "/v1/generation", "/v1/report", "/v1/credits", "/v1/instructions", "/health"):
            client.get(path, params={"q": TEXT}, headers={"authorization": f"Bearer {keys['reader']}"})
        metrics = client.get("/metrics", headers={"authorization": f"Bearer {keys['watcher']}"}).raise_for_status()
    return statuses, metrics.content


def search(folder, **more):
    """The sinks in which the text is, with what stands around it; and how many bytes were searched."""
    sinks = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} | more
    found = {name: MARK.search(content) for name, content in sinks.items()}
    around = {
        name: sinks[name][max(match.start() - 300, 0) : match.end() + 100] for name, match in found.items() if match
    }
    return around, {name: len(content) for name, content in sinks.items()}


def test_no_text_of_a_user_is_kept_anywhere(tmp_path, log, monkeypatch):
    for name in ("tmp", "books"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(attempts, "FIRST_WAIT_SECONDS", 0.001)
    behaviour = Behaviour()
    with opened(tmp_path, behaviour) as (parts, url, collector):
        statuses, metrics = ask_everything(parts, url, behaviour)
        while parts.gateway.is_writing:
            time.sleep(0.01)
        around, sizes = search(tmp_path, metrics=metrics)
        assert not around
        assert sizes["books/gateway.db-wal"] > 10_000, "the journal was there to be searched"
        rows = parts.database.read_now(lambda connection: connection.exec_driver_sql("SELECT * FROM usage").all())
    traces = b"".join(request.body for request in collector.requests)
    around, sizes = search(tmp_path, log="\n".join(log.lines).encode(), traces=traces)
    assert not around
    # What the search is worth: everything was asked, of everybody, and everything was said.
    assert behaviour.seen > 200
    assert {200, 400, 401, 402, 403, 404, 429, 502, 504} <= set(statuses), statuses
    assert {row.status for row in rows} >= {200, 400, 402, 429, 502, 504}
    assert sizes["books/gateway.db"] > 50_000
    assert sizes["captured.jsonl"] == 0, "nobody asked for capture"
    names = {line.split(" ", 1)[0] for line in log.lines}
    assert {"quernel.server", "quernel.gateway", "sqlalchemy.engine.Engine", "asyncio"} <= names
    assert any("INSERT INTO instances" in line for line in log.lines), "statements were logged"
