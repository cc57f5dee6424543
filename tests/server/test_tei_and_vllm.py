"""TEI's and vLLM's routes over HTTP, with a real tokenizer where one is asked."""

import httpx
import numpy as np
import pytest

from quernel import Embedder
from quernel.server.app import create_app
from quernel.server.serve import running
from tests.support.checkpoints import make_checkpoint

LONG = "word " * 600


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("model") / "model")
    with Embedder(folder, dtype="float32") as model, running(create_app([model])) as url:
        yield model, url


def test_tei_embed_answers_a_bare_list_with_times(served):
    reply = served.client.post("/embed", json={"inputs": ["one two", "three"], "dimensions": 32})
    assert reply.status_code == 200
    assert np.array(reply.json()).shape == (2, 32)
    assert (reply.headers["x-compute-characters"], reply.headers["x-compute-tokens"]) == ("12", "5")
    for name in ("x-compute-type", "x-compute-time", "x-total-time", "x-queue-time", "x-inference-time"):
        assert name in reply.headers


def test_tei_cuts_by_default_and_says_so_in_a_header(served):
    reply = served.client.post("/embed", json={"inputs": LONG})
    assert (reply.status_code, reply.headers["x-quernel-truncated"]) == (200, "1")
    reply = served.client.post("/embed", json={"inputs": LONG, "truncate": False})
    assert (reply.status_code, reply.json()["error_type"]) == (422, "Validation")


def test_teis_root_is_whatever_the_body_says(served):
    assert len(served.client.post("/", json={"inputs": "a"}).json()) == 1
    ranked = served.client.post("/", json={"query": "b", "texts": ["a", "b"], "return_text": True}).json()
    assert [row["text"] for row in ranked] == ["b", "a"]
    assert served.client.post("/", json={}).status_code == 422


def test_rerank_speaks_the_dialect_of_its_body(served):
    theirs = served.client.post("/rerank", json={"query": "b", "texts": ["a", "b"]})
    assert [row["index"] for row in theirs.json()] == [1, 0]
    assert "x-compute-time" in theirs.headers
    ours = served.client.post("/rerank", json={"query": "b", "documents": ["a", "b"]})
    assert [row["index"] for row in ours.json()["results"]] == [1, 0]
    assert served.client.post("/rerank", json={"query": "b", "texts": []}).json()["error_type"] == "Empty"
    assert served.client.post("/rerank", json={"query": "b", "documents": []}).json()["error"]["code"] == "empty_input"


@pytest.mark.parametrize(
    ("failure", "status", "kind"), [("OverloadedError", 429, "Overloaded"), ("InternalError", 424, "Backend")]
)
def test_failures_in_teis_words(served, failure, status, kind):
    from quernel import errors

    served.embedding.failure = getattr(errors, failure)("Sorry.")
    reply = served.client.post("/embed", json={"inputs": "a"})
    assert (reply.status_code, reply.json()["error_type"]) == (status, kind)


def test_similarity(served):
    body = {"inputs": {"source_sentence": "a b", "sentences": ["a b", "c"]}}
    same, other = served.client.post("/similarity", json=body).json()
    assert same == pytest.approx(1.0)
    assert other < 0.9


def test_tokens_and_back(real):
    model, url = real
    text = "Hello, world <|im_end|> again"
    (tokens,) = httpx.post(url + "/tokenize", json={"inputs": text}).json()
    end = tokens[-1]["id"]
    assert tokens[-1] == {"id": end, "text": "<|endoftext|>", "special": True, "start": None, "stop": None}
    assert "".join(text[token["start"] : token["stop"]] for token in tokens[:-1]) == text
    assert [token["text"] for token in tokens if token["special"]] == ["<|im_end|>", "<|endoftext|>"]
    ids = [token["id"] for token in tokens]
    assert httpx.post(url + "/decode", json={"ids": ids}).json() == [text.replace("<|im_end|>", "")]
    both = httpx.post(url + "/decode", json={"ids": [ids], "skip_special_tokens": False}).json()
    assert both == [text + "<|endoftext|>"]
    by_ids = httpx.post(url + "/v1/embeddings", json={"input": [ids]}).json()["data"][0]["embedding"]
    assert by_ids == pytest.approx(model.embed_documents([text])[0].tolist(), abs=1e-6)


def test_tokenize_shows_the_prompt_too_and_can_leave_the_end_out(real):
    _, url = real
    body = {"inputs": ["a", "b"], "add_special_tokens": False, "prompt_name": "query"}
    first, second = httpx.post(url + "/tokenize", json=body).json()
    assert "".join(token["text"] for token in first).startswith("Instruct: Given a web search query")
    assert first[:-1] == second[:-1]
    assert first[-1]["text"] == "a"
    assert httpx.post(url + "/tokenize", json={"inputs": "a", "prompt_name": "x"}).status_code == 422


def test_ids_that_the_model_does_not_have_are_not_decoded(real):
    _, url = real
    reply = httpx.post(url + "/decode", json={"ids": [5, 10**6]})
    assert (reply.status_code, reply.json()["error_type"]) == (422, "Validation")


def test_a_model_without_a_tokenizer_here_says_so(served):
    assert "tokenizer" in served.client.post("/tokenize", json={"inputs": "a"}).json()["error"]


def test_info(real):
    model, url = real
    info = httpx.get(url + "/info").json()
    assert info["model_id"] == model.info.name
    assert info["model_type"] == {"embedding": {"pooling": "last_token"}}
    assert info["max_input_length"] == model.info.max_tokens
    assert info["max_batch_tokens"] == model.statistics.max_batch_tokens
    assert info["max_client_batch_size"] == 2048


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_scores_in_the_order_of_the_documents(served, path):
    body = {"queries": "b", "documents": ["a", "b", "c"], "model": "default"}
    reply = served.client.post(path, json=body).json()
    assert [row["index"] for row in reply["data"]] == [0, 1, 2]
    scores = [row["score"] for row in reply["data"]]
    assert scores[1] > scores[0] == scores[2]
    assert reply["usage"]["total_tokens"] > 0
    pairs = served.client.post(path, json={"text_1": ["a", "b"], "text_2": ["a", "a"]}).json()["data"]
    assert [row["score"] for row in pairs] == [scores[1], scores[0]]
    raw = served.client.post(path, json=body | {"use_activation": False}).json()["data"]
    assert [row["score"] for row in raw] == [-4.0, 4.0, -4.0]


def test_pooling(served):
    reply = served.client.post("/pooling", json={"input": ["a", "b"], "dimensions": 32}).json()
    assert [row["object"] for row in reply["data"]] == ["pooling", "pooling"]
    expected = served.client.post("/v1/embeddings", json={"input": ["a", "b"], "dimensions": 32}).json()
    assert [row["data"] for row in reply["data"]] == [row["embedding"] for row in expected["data"]]


@pytest.mark.parametrize("path", ["/embeddings", "/v1/embeddings"])
def test_embeddings_are_where_clients_look(served, path):
    assert served.client.post(path, json={"input": "a", "truncate_prompt_tokens": -1}).status_code == 200


def test_ping_is_health(served):
    assert served.client.get("/ping").json() == served.client.get("/health").json()
