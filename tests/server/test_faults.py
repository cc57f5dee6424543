"""What goes wrong in operation, against real server processes."""

import asyncio
import json
import os
import re
import resource
import signal
import socket
import threading
import time
from collections import Counter

import httpx
import numpy as np
import pytest

from quernel import Embedder
from quernel.protocols.openai import decode_embedding_response
from tests.server.test_life import eventually
from tests.support.processes import lines_of, serving

EMBED = "/v1/embeddings"
TEXT = "The quick brown fox jumps over the lazy dog near the river bank."


def embed(url, text=TEXT, **options):
    return httpx.post(url + EMBED, json={"input": text}, timeout=60, **options)


def metric(url, name):
    lines = httpx.get(url + "/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for all faults that it survives; at the end it must still stop as it should."""
    log = tmp_path_factory.mktemp("faults") / "log"
    with serving(log, "--max-body-bytes", "20000000") as server:
        yield server
        assert server.stop() == 0
    assert not lines_of(log, "Traceback")


@pytest.fixture(scope="module")
def expected():
    with Embedder() as model:
        return model.embed_documents([TEXT])[0]


@pytest.fixture(autouse=True)
def still_right(request, expected):
    """After each fault the server answers as before."""
    yield
    if "server" in request.fixturenames:
        url = request.getfixturevalue("server").url
        vector = np.array(embed(url).json()["data"][0]["embedding"])
        assert float(vector @ expected) > 0.9999


def test_clients_that_hang_up_in_the_middle_of_500_requests_leave_nothing_behind(server):
    body = json.dumps({"input": [f"{index} {TEXT}" * 16 for index in range(16)]}).encode()
    head = f"POST {EMBED} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    connections = []
    for index in range(500):
        connection = socket.create_connection((host, int(port)), timeout=30)
        # A third hang up in the middle of the body, the others in the middle of the work.
        connection.sendall(head.encode() + (body[:100] if index % 3 == 0 else body))
        connections.append(connection)
    eventually(lambda: metric(server.url, "quernel_requests_running") > 10, 30)
    for connection in connections:
        connection.close()
    eventually(lambda: metric(server.url, "quernel_requests_running") == 0, 30)
    eventually(lambda: metric(server.url, "quernel_waiting_tokens") == 0, 30)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"input": "\xff\xfe"}', 400),
        (b'{"input": "half', 400),
        (b'{"input": "a", "dimensions": NaN}', 400),
        (b'{"input": [NaN]}', 400),
        (b'{"input": "a", "dimensions": 1e400}', 400),
        (b'{"input": [1e20]}', 400),
        (b"\x00" * 1000, 400),
        (b"", 400),
        (b"null", 400),
    ],
    ids=["open", "deep", "not UTF-8", "cut", "NaN", "NaN id", "infinite", "huge id", "zeros", "empty", "null"],
)
def test_bodies_that_are_none_are_refused(server, body, status):
    reply = httpx.post(server.url + EMBED, content=body, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, "invalid_request")


def test_2_048_texts_of_300_000_tokens_are_one_request(server, expected):
    texts = [f"{index} {TEXT * 10}" for index in range(2047)] + [TEXT]
    reply = httpx.post(server.url + EMBED, json={"input": texts, "encoding_format": "base64"}, timeout=300)
    assert reply.status_code == 200
    result = decode_embedding_response(reply.content)
    assert sum(result.num_tokens) > 300_000
    assert result.vectors.shape[0] == 2048
    assert float(result.vectors[-1] @ expected) > 0.9999


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_100_megabytes_is_refused_and_not_kept(server, declared):
    before = server.resident_bytes

    def chunks():
        for _ in range(100):
            yield b" " * 1_000_000

    headers = {"content-length": "100000000"} if declared else {}
    try:
        reply = httpx.post(server.url + EMBED, content=chunks(), headers=headers, timeout=30)
    except (httpx.WriteError, httpx.RemoteProtocolError):
        pass  # The server has answered and hung up while the body was still being sent.
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert server.resident_bytes - before < 60_000_000


def test_10_000_connections_that_send_nothing_more_do_not_keep_others_out(server):
    wanted = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted + 1000:
        pytest.skip(f"this machine lets a process open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 1000, hard))
    host, port = server.url.removeprefix("http://").split(":")
    before = server.resident_bytes

    async def hold():
        gate = asyncio.Semaphore(200)
        writers = []

        async def one():
            async with gate:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n")
                writers.append(writer)

        await asyncio.gather(*(one() for _ in range(wanted)))
        started = time.monotonic()
        async with httpx.AsyncClient() as client:
            reply = await client.post(server.url + EMBED, json={"input": TEXT}, timeout=30)
        seconds = time.monotonic() - started
        for writer in writers:
            writer.close()
        return reply.status_code, seconds

    try:
        status, seconds = asyncio.run(hold())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert status == 200
    assert seconds < 10
    assert server.resident_bytes - before < 500_000_000


def test_sigterm_under_load_loses_no_request_that_was_accepted(tmp_path):
    log = tmp_path / "log"
    outcomes = Counter()
    stop = threading.Event()

    def ask(url):
        while not stop.is_set():
            try:
                reply = embed(url, TEXT * 4, headers={"connection": "close"})
                outcomes[reply.status_code] += 1
            except httpx.TransportError:
                outcomes["not accepted"] += 1
                return

    with serving(log) as server:
        clients = [threading.Thread(target=ask, args=(server.url,)) for _ in range(20)]
        for client in clients:
            client.start()
        eventually(lambda: outcomes[200] > 50, 60)
        assert server.stop() == 0
        stop.set()
        for client in clients:
            client.join()
    assert set(outcomes) <= {200, "not accepted"}
    # What the server says that it has answered, clients have got.
    assert len(lines_of(log, f"path={EMBED}", "status=200")) == outcomes[200]
    assert not lines_of(log, f"path={EMBED}", "status=5")


def test_a_server_that_was_killed_comes_back_on_its_port(tmp_path, expected):
    with serving(tmp_path / "log") as first:
        assert embed(first.url).status_code == 200
        first.process.kill()
        first.process.wait()
        port = int(first.url.rpartition(":")[2])
        with serving(tmp_path / "log", port=port) as second:
            vector = np.array(embed(second.url).json()["data"][0]["embedding"])
            assert float(vector @ expected) > 0.9999
            assert second.stop() == 0


def test_1_000_requests_over_the_limit_of_the_queue_are_told_to_come_again(tmp_path):
    with serving(tmp_path / "log", "--max-queue-tokens", "16000", "--no-access-log") as server:
        before = server.resident_bytes

        body = json.dumps({"input": TEXT * 100}).encode()
        head = f"POST {EMBED} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        host, port = server.url.removeprefix("http://").split(":")

        async def ask():
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode() + body)
            reply = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            return reply.decode()

        async def flood():
            return await asyncio.gather(*(ask() for _ in range(1000)))

        replies = asyncio.run(flood())
        statuses = Counter(reply[9:12] for reply in replies)
        assert set(statuses) == {"200", "429"}
        assert statuses["200"] >= 10  # so many fit
        for reply in replies:
            if reply.startswith("HTTP/1.1 429"):
                seconds = re.search(r"retry-after: (\d+)", reply)[1]
                assert 1 <= int(seconds) <= 60
                assert '"code":"overloaded"' in reply
        assert server.resident_bytes - before < 300_000_000
        assert embed(server.url).status_code == 200
        assert server.stop() == 0


def test_a_model_that_fails_to_load_beside_one_that_serves(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{}")
    arguments = ["-m", f"embedding={tmp_path / 'broken'}", "-m", "quernel/tiny-reranker"]
    with serving(tmp_path / "log", *arguments) as server:
        models = {model["id"]: model["status"] for model in httpx.get(server.url + "/v1/models").json()["data"]}
        assert sorted(models.values()) == ["failed", "loaded"]
        assert httpx.get(server.url + "/ready").status_code == 200
        body = {"query": "a", "documents": ["a", "b"]}
        assert httpx.post(server.url + "/v1/rerank", json=body, timeout=30).status_code == 200
        assert embed(server.url).status_code == 503
        assert server.stop() == 0
    assert lines_of(tmp_path / "log", "could not be loaded")


JUMPING_CLOCK = """
import itertools, time
real, jumps = time.time, itertools.cycle([0, 86_400, -86_400, 3_600, -7_200])
time.time = lambda: real() + next(jumps)
"""


def test_jumps_of_the_clock_change_nothing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    arguments = ["--request-timeout-seconds", "30"]
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with serving(tmp_path / "log", *arguments, environment={"PYTHONPATH": paths}) as server:
        for index in range(20):
            assert embed(server.url, f"{TEXT} {index}").status_code == 200
        reply = embed(server.url, [f"{TEXT} {index}" for index in range(200)])
        assert reply.status_code == 200
        assert server.stop() == 0


def engine_of(server):
    """The process that computes for a server."""
    children = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    with open(children, encoding="ascii") as file:
        (pid,) = map(int, file.read().split())
    return pid


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_engine_that_is_killed_comes_back_while_the_server_answers(tmp_path, expected):
    with serving(tmp_path / "log") as server:
        replies = []

        def ask(number):
            texts = [f"{number}, {place}: {TEXT * 100}" for place in range(64)]
            replies.append(httpx.post(server.url + EMBED, json={"input": texts}, timeout=60))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: metric(server.url, "quernel_waiting_tokens") > 0)
        os.kill(engine_of(server), signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert {reply.status_code for reply in replies} <= {200, 503}
        refused = [reply for reply in replies if reply.status_code == 503]
        assert refused
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert httpx.get(server.url + "/health", timeout=10).status_code == 200
        eventually(lambda: httpx.get(server.url + "/ready", timeout=10).status_code == 200, 60)
        np.testing.assert_allclose(decode_embedding_response(embed(server.url).content).vectors[0], expected, atol=1e-2)
        assert lines_of(server.log, "SIGKILL")


def test_an_engine_ends_with_its_server(tmp_path):
    with serving(tmp_path / "log") as server:
        engine = engine_of(server)
        assert is_alive(engine)
        server.process.kill()
        eventually(lambda: not is_alive(engine))
    with serving(tmp_path / "log") as server:
        engine = engine_of(server)
        assert server.stop() == 0
        assert not is_alive(engine)


def test_a_server_may_compute_in_its_own_process(tmp_path, expected):
    with serving(tmp_path / "log", "--no-engine-process") as server:
        children = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
        with open(children, encoding="ascii") as file:
            assert not file.read().split()
        np.testing.assert_allclose(decode_embedding_response(embed(server.url).content).vectors[0], expected, atol=1e-2)
