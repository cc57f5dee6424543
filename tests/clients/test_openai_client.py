"""The `openai` package, as it is installed, against a real server."""

import asyncio

import numpy as np
import openai
import pytest

from quernel import errors
from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel


@pytest.fixture(scope="module")
def model():
    return FakeEmbeddingModel()


@pytest.fixture(scope="module")
def url(model):
    with running(create_app([model, FakeRerankModel()])) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def embedded(reply):
    return np.array([row.embedding for row in reply.data], dtype=np.float32)


def test_the_default_base64_gives_the_numbers_of_float(client):
    texts = ["Paris is the capital of France.", "", "Bananas are yellow."]
    by_default = client.embeddings.create(model="default", input=texts)
    as_floats = client.embeddings.create(model="default", input=texts, encoding_format="float")
    np.testing.assert_array_equal(embedded(by_default), embedded(as_floats))
    np.testing.assert_allclose(np.linalg.norm(embedded(by_default), axis=1), 1, rtol=1e-6)
    assert by_default.model == "fake/embedding"
    assert by_default.usage.total_tokens == sum((7, 1, 4))


@pytest.mark.parametrize("given", ["text", ["text", "more"], [1, 2, 3], [[1, 2], [3]]])
def test_input_of_all_four_kinds(client, given):
    reply = client.embeddings.create(model="default", input=given, user="someone")
    assert len(reply.data) == (len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1)


def test_dimensions_and_fields_of_quernel(client):
    reply = client.embeddings.create(
        model="fake/embedding", input="word " * 600, dimensions=32, extra_body={"truncate": "end"}
    )
    assert embedded(reply).shape == (1, 32)
    assert reply.truncated == [0]


def test_the_async_client(url):
    async def embed():
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            texts = [f"text {index}" for index in range(32)]
            return await asyncio.gather(
                *(client.embeddings.create(model="default", input=text) for text in texts),
                client.embeddings.create(model="default", input=texts),
            )

    *single, together = asyncio.run(embed())
    np.testing.assert_array_equal(np.concatenate([embedded(reply) for reply in single]), embedded(together))


@pytest.mark.parametrize(
    ("fields", "error", "code", "param"),
    [
        ({"input": []}, openai.BadRequestError, "empty_input", "input"),
        ({"dimensions": 31}, openai.BadRequestError, "invalid_dimensions", "dimensions"),
        ({"input": "word " * 600}, openai.BadRequestError, "input_too_long", "input"),
        ({"input": [5000]}, openai.BadRequestError, "token_id_out_of_range", "input"),
        ({"model": "text-embedding-3-small"}, openai.NotFoundError, "model_not_found", "model"),
        ({"model": "fake/reranker"}, openai.NotFoundError, "model_not_found", "model"),
        ({"extra_body": {"temperature": 1}}, openai.BadRequestError, "invalid_request", "temperature"),
    ],
)
def test_errors_are_of_the_client_s_own_classes(client, fields, error, code, param):
    with pytest.raises(error) as caught:
        client.embeddings.create(**{"model": "default", "input": "a"} | fields)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id
    assert client.embeddings.create(model="default", input="still here").data


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (errors.OverloadedError("The queue is full."), openai.RateLimitError),
        (errors.EngineClosedError("Stopping."), openai.InternalServerError),
        (RuntimeError(), openai.InternalServerError),
    ],
)
def test_failures_are_of_the_client_s_own_classes(client, model, failure, error):
    model.failure = failure
    try:
        with pytest.raises(error):
            client.embeddings.create(model="default", input="a")
    finally:
        model.failure = None


def test_the_client_tries_again_when_the_queue_was_full(url, model, monkeypatch):
    model.failure = errors.OverloadedError("The queue is full.")
    attempts = len(model.requests)
    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", lambda *_, **__: recover())

    def recover():
        model.failure = None

    with openai.OpenAI(base_url=url, api_key="none") as client:
        assert client.embeddings.create(model="default", input="a").data
    assert len(model.requests) == attempts + 2


def test_models_are_listed_and_retrieved(client):
    assert [model.id for model in client.models.list()] == ["fake/embedding", "fake/reranker"]
    assert client.models.retrieve("fake/embedding").id == "fake/embedding"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
