"""How a server starts, what it logs, how it lets go of clients that left, and how it stops."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from quernel.errors import SettingsError
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.models import ModelSpec
from quernel.server.serve import bind, running, url_of
from quernel.testing import FakeEmbeddingModel
from tests.server.conftest import MAX_BODY_BYTES

SECRET = "xyzzy-user-text"


def eventually(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_a_busy_port_is_refused_before_anything_is_loaded_even_while_the_other_server_loads():
    with bind(ServerConfig(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError, match=f"{port} is in use") as caught:
            bind(ServerConfig(port=port))
    assert caught.value.param == "port"
    assert caught.value.hint


def test_a_port_is_free_again_at_once():
    config = ServerConfig(port=0, shutdown_grace_seconds=1)
    with bind(config) as listener:
        port = listener.getsockname()[1]
    again = ServerConfig(port=port, shutdown_grace_seconds=1)
    for _ in range(2):
        with running(create_app([]), again) as url:
            assert httpx.get(url + "/health").status_code == 200


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_a_host_that_is_not_this_machine_is_refused(host):
    with pytest.raises(SettingsError) as caught:
        bind(ServerConfig(host=host, port=0))
    assert caught.value.param == "host"


@pytest.mark.parametrize(
    "wrong", [{"port": -1}, {"port": 70_000}, {"max_body_bytes": 0}, {"shutdown_grace_seconds": -1}]
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(SettingsError) as caught:
        ServerConfig(**wrong)
    assert caught.value.param in wrong


def test_ready_follows_the_models_while_health_follows_the_process():
    go = threading.Event()

    def load(spec):
        go.wait(10)
        return FakeEmbeddingModel()

    with running(create_app(specs=[ModelSpec(source="a/b")], load=load)) as url:
        response = httpx.get(url + "/ready")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
        assert response.headers["retry-after"]
        assert httpx.get(url + "/health").status_code == 200
        go.set()
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)


def test_a_server_without_models_is_never_ready():
    with running(create_app([])) as url:
        assert httpx.get(url + "/ready").status_code == 503


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/embeddings", {"input": "a"}), ("/v1/rerank", {"query": "a", "documents": ["b"]})]
)
def test_a_client_that_hangs_up_cancels_its_work(served, path, body):
    model = served.embedding if "input" in body else served.reranker
    model.delay_seconds = 30
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(served.url + path, json=body, timeout=0.3)
    eventually(lambda: model.cancellations == 1)
    model.delay_seconds = 0
    assert served.client.post(path, json=body).status_code == 200


def test_a_client_that_hangs_up_in_the_middle_of_its_body_hurts_nobody(served):
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert served.client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    assert served.embedding.requests[0].inputs == ["a"]


def test_a_body_without_a_declared_length_is_bounded_too(served):
    def chunks():
        for _ in range(3):
            yield b" " * (MAX_BODY_BYTES // 2)

    response = served.client.post("/v1/embeddings", content=chunks())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("declared", ["nonsense", "-1"])
def test_a_length_that_is_no_number_is_refused(served, declared):
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {declared}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert served.client.get("/health").status_code == 200


def test_a_request_keeps_its_own_id(served):
    response = served.client.get("/health", headers={"x-request-id": "abc-123"})
    assert response.headers["x-request-id"] == "abc-123"


@pytest.mark.parametrize("forged", ["a b", "x" * 200, "id=1;status=200"])
def test_an_id_that_could_forge_a_log_line_is_replaced(served, forged):
    response = served.client.get("/health", headers={"x-request-id": forged})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_a_log_line_has_the_numbers(served, caplog):
    with caplog.at_level(logging.INFO, "quernel.server"):
        served.client.post("/v1/embeddings", json={"input": "one two"}, headers={"x-request-id": "abc"})
        eventually(lambda: caplog.messages)
    pattern = r"request_id=abc method=POST path=/v1/embeddings status=200 ms=\d+\.\d model=fake/embedding tokens=3"
    assert re.fullmatch(pattern, caplog.messages[0])


@pytest.mark.parametrize(
    "body",
    [
        {"input": SECRET},
        {"input": SECRET, "model": SECRET},
        {"input": SECRET, "truncate": SECRET},
        {"input": SECRET, SECRET: 1},
        {"input": SECRET + " word" * 600},
        {"input": SECRET, "instruction": SECRET},
    ],
)
@pytest.mark.parametrize("failure", [None, RuntimeError(SECRET)])
def test_no_text_of_a_user_is_ever_logged(served, caplog, body, failure):
    served.embedding.failure = failure
    with caplog.at_level(logging.DEBUG):
        served.client.post("/v1/embeddings", json=body)
        eventually(lambda: any("method=POST" in line for line in caplog.messages))
    ours = [record for record in caplog.records if record.name.startswith(("quernel", "uvicorn"))]
    assert ours
    assert not any(SECRET in logging.Formatter().format(record) for record in ours)


def test_a_fault_of_ours_is_logged_with_its_place_and_its_request(served, caplog):
    served.embedding.failure = RuntimeError(SECRET)
    served.client.post("/v1/embeddings", json={"input": "a"}, headers={"x-request-id": "abc"})
    fault = next(line for line in caplog.messages if "failed with" in line)
    assert "request_id=abc failed with RuntimeError" in fault
    assert "testing.py" in fault


def test_without_an_access_log_only_faults_are_logged(caplog):
    model = FakeEmbeddingModel()
    with caplog.at_level(logging.INFO), running(create_app([model], config=ServerConfig(access_log=False))) as url:
        httpx.post(url + "/v1/embeddings", json={"input": "a"})
        model.failure = RuntimeError()
        httpx.post(url + "/v1/embeddings", json={"input": "a"})
    lines = [record.getMessage() for record in caplog.records if record.name == "quernel.server"]
    assert len(lines) == 1
    assert "failed with" in lines[0]


@pytest.mark.parametrize("path", ["/a%0astatus=200", "/v1/models/x%0d%0ay"])
def test_a_path_cannot_start_a_new_log_line(served, caplog, path):
    with caplog.at_level(logging.INFO, "quernel.server"):
        served.client.get(path)
        eventually(lambda: caplog.messages)
    assert "\n" not in caplog.messages[0]


def test_a_stop_lets_requests_finish():
    model = FakeEmbeddingModel(delay_seconds=0.5)
    answers = []
    with running(create_app([model]), ServerConfig(port=0, shutdown_grace_seconds=5)) as url:
        request = threading.Thread(
            target=lambda: answers.append(httpx.post(url + "/v1/embeddings", json={"input": "a"}))
        )
        request.start()
        eventually(lambda: model.requests)
    request.join()
    assert [answer.status_code for answer in answers] == [200]


def test_a_stop_does_not_wait_longer_than_its_grace():
    model = FakeEmbeddingModel(delay_seconds=60)
    answers = []
    with running(create_app([model]), ServerConfig(port=0, shutdown_grace_seconds=0)) as url:
        request = threading.Thread(
            target=lambda: answers.append(httpx.post(url + "/v1/embeddings", json={"input": "a"}))
        )
        request.start()
        eventually(lambda: model.requests)
        started = time.monotonic()
    request.join()
    assert time.monotonic() - started < 5
    assert model.cancellations == 1
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(503, "engine_closed")]


SERVER = """
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.serve import bind, run, url_of
from quernel.testing import FakeEmbeddingModel

config = ServerConfig(port=0)
listener = bind(config)
print(url_of(listener), flush=True)
run(create_app([FakeEmbeddingModel()], config=config), config, listener=listener)
print("closed", flush=True)
"""


@contextmanager
def server_process():
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_and_its_caller_goes_on(number):
    with server_process() as (process, url):
        # The socket listens before the server runs: the request waits instead of being refused.
        assert httpx.post(url + "/v1/embeddings", json={"input": "a"}, timeout=20).status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "closed\n"), err
    assert "path=/v1/embeddings status=200" in err


def test_the_url_of_an_ipv6_socket_has_brackets():
    try:
        listener = bind(ServerConfig(host="::1", port=0))
    except SettingsError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")
