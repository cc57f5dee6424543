import httpx
import numpy as np
import pytest

from quernel import errors
from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from tests.server.conftest import MAX_BODY_BYTES

EMBED, RERANK = "/v1/embeddings", "/v1/rerank"
LONG = "word " * 600

TABLE = [
    # path, body, status, code, param, what the message says
    (EMBED, {"input": []}, 400, "empty_input", "input", "no texts"),
    (EMBED, {}, 400, "invalid_request", "input", "missing"),
    (EMBED, {"input": {"a": 1}}, 400, "invalid_request", "input", "object"),
    (EMBED, {"input": ["a", 1]}, 400, "invalid_request", "input[1]", "integer"),
    (EMBED, {"input": ["a"] * 2049}, 400, "invalid_request", "input", "2049"),
    (EMBED, {"input": "a", "dimensions": 0}, 400, "invalid_dimensions", "dimensions", "dimensions is 0"),
    (EMBED, {"input": "a", "dimensions": -1}, 400, "invalid_dimensions", "dimensions", "32 to 64"),
    (EMBED, {"input": "a", "dimensions": 31}, 400, "invalid_dimensions", "dimensions", "32 to 64"),
    (EMBED, {"input": "a", "dimensions": 65}, 400, "invalid_dimensions", "dimensions", "32 to 64"),
    (EMBED, {"input": "a", "dimensions": "64"}, 400, "invalid_request", "dimensions", "str"),
    (EMBED, {"input": "a", "model": "gpt-4"}, 404, "model_not_found", "model", "fake/embedding"),
    (EMBED, {"input": "a", "model": "fake/reranker"}, 404, "model_not_found", "model", "Send it to /v1/rerank."),
    (EMBED, {"input": [1000]}, 400, "token_id_out_of_range", "input", "0 to 999"),
    (EMBED, {"input": [[1], [-1]]}, 400, "token_id_out_of_range", "input", "input[1]"),
    (
        EMBED,
        {"input": ["a", LONG]},
        400,
        "input_too_long",
        "input",
        "input[1] has 601 tokens, but this model reads 512",
    ),
    (EMBED, {"input": "a", "temperature": 0}, 400, "invalid_request", "temperature", "not a field"),
    (EMBED, b"{", 400, "invalid_request", None, "line 1 column 2"),
    (EMBED, b"", 400, "invalid_request", None, "JSON"),
    (RERANK, {"query": "", "documents": ["a"]}, 400, "empty_input", "query", "empty"),
    (RERANK, {"query": "a", "documents": []}, 400, "empty_input", "documents", "empty"),
    (RERANK, {"query": "a"}, 400, "invalid_request", "documents", "missing"),
    (RERANK, {"query": 1, "documents": ["a"]}, 400, "invalid_request", "query", "int"),
    (RERANK, {"query": "a", "documents": ["b"], "top_n": 0}, 400, "invalid_request", "top_n", "top_n is 0"),
    (RERANK, {"query": "a", "documents": ["b"], "model": "x"}, 404, "model_not_found", "model", "fake/reranker"),
    (RERANK, {"query": "a", "documents": ["b"], "model": "embedding"}, 404, "model_not_found", "model", EMBED),
    (RERANK, {"query": "a", "documents": ["b", LONG]}, 400, "input_too_long", "documents", "documents[1]"),
    (EMBED, b" " * (MAX_BODY_BYTES + 1), 413, "body_too_large", None, str(MAX_BODY_BYTES)),
    ("/v1/embedding", {"input": "a"}, 404, "route_not_found", None, "/docs"),
    ("/v1/models", {}, 405, "method_not_allowed", None, "GET"),
]


def assert_error(response, status, code, param=None, says=""):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert says in error["message"]
    assert response.json()["message"] == error["message"]


def send(client, path, body):
    return client.post(path, content=body) if isinstance(body, bytes) else client.post(path, json=body)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[3]} {str(row[1])[:40]}")
def test_a_request_that_cannot_be_answered_says_why_and_the_server_goes_on(served, row):
    path, body, *expected = row
    assert_error(send(served.client, path, body), *expected)
    assert send(served.client, EMBED, {"input": "still here"}).status_code == 200


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (errors.OverloadedError("The queue is full."), 429, "overloaded"),
        (errors.EngineClosedError("The engine is shutting down."), 503, "engine_closed"),
        (errors.NonFiniteError("NaN."), 500, "non_finite_result"),
        (RuntimeError("secret text of a user"), 500, "internal_error"),
        (ValueError("secret text of a user"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("path", [EMBED, RERANK])
def test_a_failure_of_the_model_is_an_error_and_the_server_goes_on(served, path, failure, status, code):
    served.embedding.failure = served.reranker.failure = failure
    body = {"input": "a"} if path == EMBED else {"query": "a", "documents": ["b"]}
    response = send(served.client, path, body)
    assert_error(response, status, code)
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status in (429, 503))
    served.embedding.failure = served.reranker.failure = None
    assert send(served.client, path, body).status_code == 200


def test_a_failure_names_the_request_for_the_log(served):
    served.embedding.failure = RuntimeError()
    response = served.client.post(EMBED, json={"input": "a"}, headers={"x-request-id": "find-me"})
    assert "find-me" in response.json()["error"]["message"]


class BrokenEmbedding(FakeEmbeddingModel):
    """A model that hands out a number that is none, or too few vectors."""

    def __init__(self, spoil):
        super().__init__("broken/embedding")
        self._spoil = spoil

    async def embed(self, request):
        result = await super().embed(request)
        object.__setattr__(result, "vectors", self._spoil(result.vectors))
        return result


class BrokenRerank(FakeRerankModel):
    async def rerank(self, request):
        result = await super().rerank(request)
        object.__setattr__(result.results[-1], "relevance_score", float("nan"))
        return result


def with_value(value):
    def spoil(vectors):
        vectors[-1, 3] = value
        return vectors

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (with_value(np.nan), "non_finite_result"),
        (with_value(np.inf), "non_finite_result"),
        (with_value(-np.inf), "non_finite_result"),
        (lambda vectors: vectors[:-1], "internal_error"),
        (lambda vectors: vectors[:, :-1], "internal_error"),
    ],
    ids=["nan", "inf", "-inf", "a vector missing", "a number missing"],
)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_nothing_but_whole_finite_vectors_leaves_the_server(spoil, code, encoding):
    with running(create_app([BrokenEmbedding(spoil)])) as url:
        body = {"input": ["a", "b"], "dimensions": 40, "encoding_format": encoding}
        assert_error(httpx.post(url + EMBED, json=body), 500, code)


def test_a_score_that_is_not_finite_never_leaves_the_server():
    with running(create_app([BrokenRerank()])) as url:
        response = httpx.post(url + RERANK, json={"query": "a", "documents": ["a", "b"]})
        assert_error(response, 500, "non_finite_result", says="document 1")


@pytest.mark.parametrize(("kind", "path"), [("embedding", EMBED), ("reranker", RERANK)])
def test_a_kind_that_is_not_loaded_is_said_to_be_missing(kind, path):
    with running(create_app([])) as url:
        body = {"input": "a"} if path == EMBED else {"query": "a", "documents": ["b"]}
        assert_error(httpx.post(url + path, json=body), 404, "model_not_found", "model", f"No {kind} model")
