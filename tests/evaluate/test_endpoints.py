import asyncio

import numpy as np
import pytest

from quernel.errors import ModelNotFoundError
from quernel.evaluate.endpoints import RemoteEmbeddingModel, RemoteRerankModel, split_endpoint
from quernel.evaluate.run import Settings, evaluate_embedding, evaluate_reranker
from quernel.evaluate.tasks import find_tasks, read_task
from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingRequest, InputType


@pytest.fixture
def here():
    return FakeEmbeddingModel()


@pytest.fixture
def url(here):
    with running(create_app([here, FakeRerankModel()])) as url:
        yield url


def test_a_model_behind_a_server_has_the_figures_of_the_model(url, here, retrieval):
    task = read_task(find_tasks(retrieval)[0])
    there = RemoteEmbeddingModel(url)
    found, run = evaluate_embedding(there, task, Settings())
    expected, _ = evaluate_embedding(here, task, Settings())
    assert found[0].figures[0].items.tolist() == expected[0].figures[0].items.tolist()
    reranker = RemoteRerankModel(url)
    assert evaluate_reranker(reranker, task, run, Settings(), first=found[0]).num_texts == 10
    there.close()
    reranker.close()


@pytest.mark.parametrize(
    ("prompts", "sent", "kind"),
    [
        ("fields", "hello", InputType.QUERY),
        ("qwen3", "Instruct: find\nQuery:hello", None),
        ("none", "hello", None),
    ],
)
def test_how_an_endpoint_is_told_what_a_text_is(url, here, prompts, sent, kind):
    model = RemoteEmbeddingModel(url, prompts=prompts)
    request = EmbeddingRequest(inputs=["hello"], input_type=InputType.QUERY, instruction="find")
    result = asyncio.run(model.embed(request))
    assert list(here.requests[-1].inputs) == [sent]
    assert here.requests[-1].input_type is kind
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-6)
    model.close()


def test_addresses():
    assert split_endpoint("http://a:1#m") == ("http://a:1", "m")
    assert split_endpoint("https://a") == ("https://a", None)
    with pytest.raises(ModelNotFoundError):
        split_endpoint("a:1")
