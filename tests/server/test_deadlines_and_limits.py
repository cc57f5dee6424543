"""How long a request may take and how much it may hold."""

import time

import httpx
import pytest

from quernel.errors import OverloadedError
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from tests.server.test_life import eventually

EMBED, RERANK = "/v1/embeddings", "/v1/rerank"


@pytest.mark.parametrize("path", [EMBED, RERANK])
def test_a_request_that_is_out_of_time_is_answered_and_its_work_given_up(served, path):
    model = served.embedding if path == EMBED else served.reranker
    model.delay_seconds = 30
    body = {"input": "a"} if path == EMBED else {"query": "a", "documents": ["b"]}
    started = time.monotonic()
    reply = served.client.post(path, json=body, headers={"x-quernel-timeout": "0.2"})
    assert time.monotonic() - started < 5
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    eventually(lambda: model.cancellations == 1)


def test_the_servers_limit_holds_for_those_who_ask_for_more():
    model = FakeEmbeddingModel(delay_seconds=30)
    config = ServerConfig(request_timeout_seconds=0.2)
    with running(create_app([model], config=config)) as url:
        for headers in ({}, {"x-quernel-timeout": "20"}):
            assert httpx.post(url + EMBED, json={"input": "a"}, headers=headers).status_code == 504


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(served, given):
    reply = served.client.post(EMBED, json={"input": "a"}, headers={"x-quernel-timeout": given})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-quernel-timeout")


def test_an_input_type_that_is_none_is_refused(served):
    reply = served.client.post(EMBED, json={"input": "a"}, headers={"x-quernel-input-type": "image"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-quernel-input-type")


def test_items_are_limited():
    config = ServerConfig(max_texts=3, max_documents=2)
    with running(create_app([FakeEmbeddingModel(), FakeRerankModel()], config=config)) as url:
        assert httpx.post(url + EMBED, json={"input": ["a"] * 3}).status_code == 200
        reply = httpx.post(url + EMBED, json={"input": ["a"] * 4})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input")
        assert "4 texts" in reply.json()["message"]
        reply = httpx.post(url + RERANK, json={"query": "a", "documents": ["b"] * 3})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "documents")
        pairs = {"queries": ["a"] * 3, "documents": ["b"] * 3}
        assert httpx.post(url + "/score", json=pairs).status_code == 400


@pytest.mark.parametrize(("seconds", "expected"), [(None, "1"), (0.2, "1"), (7.2, "8"), (1000.0, "60")])
def test_a_full_queue_says_when_to_come_again(served, seconds, expected):
    failure = OverloadedError("The queue is full.")
    failure.retry_after = seconds
    served.embedding.failure = failure
    reply = served.client.post(EMBED, json={"input": "a"})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_texts": 0},
        {"max_documents": 0},
        {"request_timeout_seconds": 0.0},
        {"tls_cert": "x"},
        {"tls_key": "x"},
        {"root_path": "quernel"},
        {"root_path": "/quernel/"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    from quernel.errors import SettingsError

    with pytest.raises(SettingsError) as caught:
        ServerConfig(**wrong)
    assert caught.value.param in ("tls_cert", "tls_key", *wrong)
