"""The `voyageai` package, as it is installed, against a real server."""

import numpy as np
import pytest

from quernel.protocols.vectors import OutputDtype, quantise
from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import InputType, Truncate

voyageai = pytest.importorskip("voyageai", reason="the voyageai package is not installed (dependency group `clients`)")
requestor = pytest.importorskip("voyageai.api_resources.api_requestor", reason="see above")

TEXTS = ["Bananas are yellow.", "Paris is the capital of France."]


@pytest.fixture(scope="module")
def model():
    return FakeEmbeddingModel()


@pytest.fixture(scope="module")
def client(model):
    with running(create_app([model, FakeRerankModel()])) as url:
        yield voyageai.Client(api_key="none", base_url=f"{url}/v1", max_retries=1)
        requestor._thread_context.session.close()  # The package keeps it open for as long as the thread lives.


def test_vectors(client, model):
    reply = client.embed(TEXTS, model="default", input_type="query", output_dimension=32)
    assert np.array(reply.embeddings).shape == (2, 32)
    assert reply.total_tokens > 0
    request = model.requests[-1]
    assert (request.input_type, request.dimensions, request.truncate) == (InputType.QUERY, 32, Truncate.END)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
def test_every_kind_of_numbers(client, dtype):
    vectors = np.array(client.embed(TEXTS, model="default").embeddings, dtype=np.float32)
    reply = client.embed(TEXTS, model="default", output_dtype=dtype)
    assert reply.embeddings == quantise(vectors, OutputDtype(dtype)).tolist()


def test_rerank(client):
    reply = client.rerank("capital of France", TEXTS, model="default", top_k=1)
    assert [(row.index, row.document) for row in reply.results] == [(1, TEXTS[1])]
    assert reply.total_tokens > 0


@pytest.mark.parametrize(
    "fields", [{"output_dimension": 31}, {"texts": ["word " * 600], "truncation": False}, {"texts": []}]
)
def test_errors_are_of_the_client_s_own_classes(client, fields):
    with pytest.raises(voyageai.error.InvalidRequestError):
        client.embed(**{"texts": TEXTS, "model": "default"} | fields)
