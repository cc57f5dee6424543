import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quernel.types import InputType, Truncate


def vectors(response):
    assert response.status_code == 200, response.text
    return np.array([row["embedding"] for row in response.json()["data"]], dtype=np.float32)


def test_floats_and_base64_are_the_same_numbers(served):
    body = {"input": ["a b", "", "c"]}
    floats = vectors(served.client.post("/v1/embeddings", json=body))
    coded = served.client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded["data"]]
    np.testing.assert_array_equal(np.stack(decoded), floats)
    np.testing.assert_allclose(np.linalg.norm(floats, axis=1), 1, rtol=1e-6)


def test_a_reply_has_the_shape_of_openai(served):
    reply = served.client.post("/v1/embeddings", json={"input": ["one two", "three"], "model": "default"}).json()
    assert reply["object"] == "list"
    assert [(row["object"], row["index"]) for row in reply["data"]] == [("embedding", 0), ("embedding", 1)]
    assert reply["model"] == "fake/embedding"
    assert reply["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert reply["num_tokens"] == [3, 2]
    assert "truncated" not in reply


def test_every_option_reaches_the_model(served):
    served.client.post(
        "/v1/embeddings",
        json={
            "input": ["a"],
            "instruction": "Find it.",
            "input_type": "query",
            "dimensions": 32,
            "normalize": False,
            "truncate": "start",
            "user": "someone",
        },
    )
    (request,) = served.embedding.requests
    assert list(request.inputs) == ["a"]
    assert (request.instruction, request.input_type) == ("Find it.", InputType.QUERY)
    assert (request.dimensions, request.normalize, request.truncate) == (32, False, Truncate.START)


@pytest.mark.parametrize("empty", ["", [""], [[]]])
def test_an_empty_text_is_the_end_token_alone(served, empty):
    response = served.client.post("/v1/embeddings", json={"input": empty})
    assert vectors(response).shape == (1, 64)
    assert response.json()["usage"]["total_tokens"] == 1


def test_token_ids_of_one_text_are_one_vector(served):
    one = vectors(served.client.post("/v1/embeddings", json={"input": [1, 2, 3]}))
    several = vectors(served.client.post("/v1/embeddings", json={"input": [[1, 2, 3], [4]]}))
    assert one.shape == (1, 64)
    np.testing.assert_array_equal(several[0], one[0])


def test_a_cut_is_reported_in_body_and_header(served):
    long = "word " * 600
    response = served.client.post("/v1/embeddings", json={"input": ["a", long, long], "truncate": True})
    assert response.json()["truncated"] == [1, 2]
    assert response.headers["x-quernel-truncated"] == "2"


@pytest.mark.parametrize(
    "name", [None, "default", "DEFAULT", "fake/embedding", "Fake/Embedding", "embedding", "EMBEDDING"]
)
def test_a_model_is_found_by_any_of_its_names(served, name):
    body = {"input": "a"} if name is None else {"input": "a", "model": name}
    assert served.client.post("/v1/embeddings", json=body).json()["model"] == "fake/embedding"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_the_content_type_does_not_matter(served, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    response = served.client.post("/v1/embeddings", content=b'{"input": "a"}', headers=headers)
    assert response.status_code == 200


def test_rerank_orders_by_relevance(served):
    body = {"query": "capital of france", "documents": ["bananas", "france has a capital", {"text": "of france"}]}
    reply = served.client.post("/v1/rerank", json=body).json()
    scores = [row["relevance_score"] for row in reply["results"]]
    assert [row["index"] for row in reply["results"]][-1] == 0
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert (reply["object"], reply["model"]) == ("list", "fake/reranker")
    assert reply["usage"]["total_tokens"] == sum(reply["num_tokens"]) > 0
    assert reply["meta"]["api_version"] == {"version": "1"}


def test_rerank_options_reach_the_model_and_the_reply(served):
    body = {
        "model": "reranker",
        "query": "a b",
        "documents": ["a b", "a", "c d e"],
        "top_n": 2,
        "return_documents": True,
        "raw_scores": True,
        "instruction": "Prefer short ones.",
        "truncation": True,
        "max_tokens_per_doc": 2,
    }
    response = served.client.post("/v1/rerank", json=body, headers={"x-request-id": "mine"})
    assert response.json()["results"] == [
        {"index": 0, "relevance_score": 4.0, "document": {"text": "a b"}},
        {"index": 1, "relevance_score": 0.0, "document": {"text": "a"}},
    ]
    assert response.json()["id"] == "mine"
    assert response.json()["truncated"] == [2]
    (request,) = served.reranker.requests
    assert (request.instruction, request.truncate) == ("Prefer short ones.", Truncate.END)


def test_models_are_listed_and_described(served):
    listed = served.client.get("/v1/models").json()["data"]
    assert [(model["id"], model["kind"]) for model in listed] == [
        ("fake/embedding", "embedding"),
        ("fake/reranker", "reranker"),
    ]
    assert listed[0]["dimensions"] == 64
    assert served.client.get("/v1/models/fake/embedding").json() == listed[0]
    assert served.client.get("/v1/models/reranker").json() == listed[1]


def test_many_requests_at_once_each_get_their_own_answer(served):
    served.embedding.delay_seconds = 0.05
    texts = [f"text number {index}" for index in range(64)]

    def embed(text):
        return vectors(served.client.post("/v1/embeddings", json={"input": text}))[0]

    alone = vectors(served.client.post("/v1/embeddings", json={"input": texts}))
    with ThreadPoolExecutor(16) as pool:
        together = np.stack(list(pool.map(embed, texts)))
    np.testing.assert_array_equal(together, alone)


def test_the_front_page_leads_to_the_documentation(served):
    response = served.client.get("/", follow_redirects=True)
    assert response.url.path == "/docs"
    assert response.headers["content-type"].startswith("text/html")
