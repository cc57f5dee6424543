"""The `cohere` package, as it is installed, against a real server."""

import numpy as np
import pytest

from quernel import errors
from quernel.protocols.vectors import OutputDtype, quantise
from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import InputType

cohere = pytest.importorskip("cohere", reason="the cohere package is not installed (dependency group `clients`)")

DOCUMENTS = ["Bananas are yellow.", "Paris is the capital of France."]
LONG = "word " * 600


@pytest.fixture(scope="module")
def model():
    return FakeEmbeddingModel()


@pytest.fixture(scope="module")
def url(model):
    with running(create_app([model, FakeRerankModel()])) as url:
        yield url


@pytest.fixture
def client(url):
    with cohere.ClientV2(api_key="none", base_url=url) as client:
        yield client


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_rerank_of_both_versions(url, version):
    with getattr(cohere, version)(api_key="none", base_url=url) as client:
        reply = client.rerank(model="default", query="capital of France", documents=DOCUMENTS, top_n=1)
    assert [row.index for row in reply.results] == [1]
    assert 0 < reply.results[0].relevance_score < 1
    assert reply.meta.billed_units.search_units == 1
    assert reply.meta.api_version.version == ("1" if version == "Client" else "2")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # cohere's own, of pydantic
def test_embeddings_of_version_1(url, model):
    with cohere.Client(api_key="none", base_url=url) as client:
        plain = client.embed(model="default", texts=DOCUMENTS, input_type="search_document")
        typed = client.embed(
            model="default", texts=DOCUMENTS, input_type="search_document", embedding_types=["float", "int8"]
        )
    assert np.array(plain.embeddings).shape == (2, model.info.dimensions)
    np.testing.assert_array_equal(typed.embeddings.float_, plain.embeddings)
    assert plain.meta.api_version.version == "1"


def test_documents_come_back_from_version_1(url):
    with cohere.Client(api_key="none", base_url=url) as client:
        reply = client.rerank(model="default", query="capital of France", documents=DOCUMENTS, return_documents=True)
    assert [row.document.text for row in reply.results] == DOCUMENTS[::-1]


def test_every_kind_of_numbers(client):
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    reply = client.embed(model="default", texts=DOCUMENTS, input_type="search_document", embedding_types=kinds)
    vectors = np.array(reply.embeddings.float_, dtype=np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    for dtype in ("int8", "uint8", "binary", "ubinary"):
        assert getattr(reply.embeddings, dtype) == quantise(vectors, OutputDtype(dtype)).tolist()
    assert len(reply.embeddings.base64) == 2
    assert reply.texts == DOCUMENTS
    assert reply.meta.billed_units.input_tokens == 11


def test_options_reach_the_model(client, model):
    client.embed(model="default", texts=["a"], input_type="search_query", output_dimension=32)
    assert (model.requests[-1].input_type, model.requests[-1].dimensions) == (InputType.QUERY, 32)


def test_a_long_text_is_cut_and_reported(client):
    reply = client.embed(model="default", texts=["a", LONG], input_type="search_document")
    assert reply.truncated == [1]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"texts": []}, "BadRequestError"),
        ({"truncate": "NONE", "texts": [LONG]}, "BadRequestError"),
        ({"output_dimension": 31}, "BadRequestError"),
        ({"model": "embed-v4.0"}, "NotFoundError"),
    ],
)
def test_errors_are_of_the_client_s_own_classes(client, fields, error):
    with pytest.raises(getattr(cohere, error)) as caught:
        client.embed(**{"model": "default", "texts": ["a"], "input_type": "search_query"} | fields)
    assert caught.value.body["message"]


def test_an_overloaded_server_is_too_many_requests(client, model):
    model.failure = errors.OverloadedError("The queue is full.")
    try:
        with pytest.raises(cohere.TooManyRequestsError):
            client.embed(model="default", texts=["a"], input_type="search_query", request_options={"max_retries": 0})
    finally:
        model.failure = None
