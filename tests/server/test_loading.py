"""Models that come and go while the server answers."""

import threading
import time

import httpx
import pytest

from quernel.errors import CheckpointError
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.models import ModelSpec, RequestDefaults
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import ModelKind
from tests.server.test_life import eventually

ADMIN = {"authorization": "Bearer admin"}
CONFIG = ServerConfig(admin_key="admin", port=0, shutdown_grace_seconds=1)
EMBED = {"input": "a"}


class Shelf:
    """What can be loaded: names that begin with "broken" fail, those with "slow" wait until they are let go."""

    def __init__(self):
        self.go = threading.Event()
        self.opened, self.closed = [], []

    def __call__(self, spec):
        if spec.source.startswith("slow"):
            assert self.go.wait(10)
        if spec.source.startswith("broken"):
            raise CheckpointError("The weights are broken.", hint="Download them again.")
        if spec.source.startswith("crash"):
            raise RuntimeError("a secret")
        cls = FakeRerankModel if "rerank" in spec.source else FakeEmbeddingModel
        model = cls(spec.source)
        model.close = lambda: self.closed.append(spec.source)
        self.opened.append(model)
        return model


@pytest.fixture
def shelf():
    shelf = Shelf()
    yield shelf
    shelf.go.set()


def statuses(url):
    return {model["id"]: model["status"] for model in httpx.get(url + "/v1/models").json()["data"]}


def post(url, path, body, headers=ADMIN):
    return httpx.post(url + path, json=body, headers=headers, timeout=10)


def test_the_server_answers_while_its_models_load(shelf):
    specs = [ModelSpec(source="a/quick"), ModelSpec(source="slow/one", kind=ModelKind.RERANKER)]
    with running(create_app(specs=specs, load=shelf, config=CONFIG), CONFIG) as url:
        eventually(lambda: statuses(url) == {"a/quick": "loaded", "slow/one": "loading"})
        assert httpx.get(url + "/health").status_code == 200
        assert httpx.get(url + "/ready").status_code == 503
        assert post(url, "/v1/embeddings", EMBED).status_code == 200
        reply = post(url, "/v1/rerank", {"query": "a", "documents": ["b"]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_not_ready")
        assert "slow/one is being loaded" in reply.json()["message"]
        assert reply.headers["retry-after"]
        shelf.go.set()
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)
    assert shelf.closed == ["a/quick", "slow/one"]


def test_ready_means_that_the_model_has_answered_once(shelf):
    with running(create_app(specs=[ModelSpec(source="a/b")], load=shelf)) as url:
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)
        assert len(shelf.opened[0].requests) == 1


def test_a_model_that_fails_to_load_does_not_keep_another_from_serving(shelf, caplog):
    seen = []
    specs = [ModelSpec(source="broken/one"), ModelSpec(source="a/good"), ModelSpec(source="crash/two")]
    app = create_app(specs=specs, load=shelf, config=CONFIG, on_loaded=seen.extend)
    with running(app, CONFIG) as url:
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)
        assert statuses(url) == {"broken/one": "failed", "a/good": "loaded", "crash/two": "failed"}
        assert post(url, "/v1/embeddings", EMBED).json()["model"] == "a/good"
        reply = post(url, "/v1/embeddings", EMBED | {"model": "broken/one"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_not_ready")
        errors = {model["id"]: model["error"] for model in httpx.get(url + "/v1/models").json()["data"]}
        assert errors["broken/one"] == "The weights are broken. Download them again."
        assert "secret" not in errors["crash/two"]
    assert [place.name for place in seen] == ["broken/one", "a/good", "crash/two"]
    assert any("The weights are broken" in line for line in caplog.messages)


def test_a_model_is_loaded_and_unloaded_over_http(shelf):
    app = create_app([FakeEmbeddingModel("first/model")], load=shelf, config=CONFIG)
    with running(app, CONFIG) as url:
        body = {"model": "a/second", "aliases": ["text-embedding-3-small"], "dimensions": 40}
        reply = post(url, "/v1/models/load", body)
        assert (reply.status_code, reply.json()["status"]) == (200, "loaded")
        vector = post(url, "/v1/embeddings", EMBED | {"model": "text-embedding-3-small"}).json()
        assert (vector["model"], len(vector["data"][0]["embedding"])) == ("a/second", 40)
        assert post(url, "/v1/models/load", body).status_code == 200, "it is there already"

        reply = post(url, "/v1/models/unload", {"model_id": "a/second"})
        assert reply.json() == {"model_id": "a/second", "status": "unloaded", "error": None}
        assert shelf.closed == ["a/second"]
        assert post(url, "/v1/models/status", {"model_id": "a/second"}).json()["status"] == "unloaded"
        reply = post(url, "/v1/embeddings", EMBED | {"model": "a/second"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_not_ready")

        reply = post(url, "/v1/models/reload", {"model_id": "text-embedding-3-small"})
        assert reply.json()["status"] == "loaded"
        assert post(url, "/v1/embeddings", EMBED | {"model": "a/second"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "broken/x"}, 400, "invalid_checkpoint"),
        ({"model": "crash/x"}, 500, "internal_error"),
        ({"model": "other/one", "aliases": ["first/model"]}, 400, "invalid_settings"),
        ({"model": "other/one", "name": "default"}, 400, "invalid_settings"),
        ({"model": "other/one", "kind": "chat"}, 400, "invalid_settings"),
        ({}, 400, "invalid_request"),
        ({"model": "a", "flavour": 1}, 400, "invalid_request"),
    ],
)
def test_a_load_that_fails_changes_nothing(shelf, body, status, code):
    app = create_app([FakeEmbeddingModel("first/model")], load=shelf, config=CONFIG)
    with running(app, CONFIG) as url:
        reply = post(url, "/v1/models/load", body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
        assert statuses(url) == {"first/model": "loaded"}


def test_a_model_that_turns_out_to_have_a_name_that_is_taken_is_let_go(shelf):
    def load(spec):
        model = shelf(spec)
        model._info = FakeEmbeddingModel("first/model").info
        return model

    app = create_app([FakeEmbeddingModel("first/model")], load=load, config=CONFIG)
    with running(app, CONFIG) as url:
        reply = post(url, "/v1/models/load", {"model": "/some/folder"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_settings")
        assert shelf.closed == ["/some/folder"]
        assert statuses(url) == {"first/model": "loaded"}


def test_unloading_waits_for_requests_under_way(shelf):
    with running(create_app(specs=[ModelSpec(source="a/b")], load=shelf, config=CONFIG), CONFIG) as url:
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)
        shelf.opened[0].delay_seconds = 0.5
        answers = []
        request = threading.Thread(target=lambda: answers.append(post(url, "/v1/embeddings", EMBED)))
        request.start()
        eventually(lambda: len(shelf.opened[0].requests) == 2)
        started = time.monotonic()
        post(url, "/v1/models/unload", {"model": "a/b"})
        assert time.monotonic() - started > 0.2
        request.join()
        assert [answer.status_code for answer in answers] == [200]


def test_a_server_that_was_given_its_models_loads_no_others():
    with running(create_app([FakeEmbeddingModel()], config=CONFIG), CONFIG) as url:
        assert post(url, "/v1/models/load", {"model": "a/b"}).status_code == 403


def test_a_model_is_served_under_a_name_of_ones_own(shelf):
    specs = [ModelSpec(source="/data/model-v7", name="search", aliases=("ada-002",))]
    with running(create_app(specs=specs, load=shelf)) as url:
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)
        for name in ("search", "ADA-002", "/data/model-v7", "default"):
            assert httpx.post(url + "/v1/embeddings", json=EMBED | {"model": name}).json()["model"] == "search"
        listed = httpx.get(url + "/v1/models").json()["data"][0]
        assert (listed["id"], listed["aliases"], listed["kind"]) == ("search", ["ada-002"], "embedding")
        assert httpx.get(url + "/v1/models/ada-002").json()["id"] == "search"


def test_settings_of_a_model_complete_what_requests_leave_open(shelf):
    defaults = RequestDefaults(instruction="Find code", dimensions=32)
    specs = [ModelSpec(source="a/b", defaults=defaults), ModelSpec(source="a/rerank", defaults=defaults)]
    with running(create_app(specs=specs, load=shelf)) as url:
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)
        embedding, reranker = shelf.opened

        def asked(path="/v1/embeddings", headers=None, **body):
            assert httpx.post(url + path, json=body, headers=headers).status_code == 200
            return (embedding if "input" in body else reranker).requests[-1]

        plain = asked(input="a")
        assert (plain.instruction, plain.dimensions, plain.input_type) == (None, 32, None)
        assert asked(input="a", input_type="query").instruction == "Find code"
        assert asked(input="a", input_type="document").instruction is None
        assert asked(input="a", instruction="Find bugs").instruction == "Find bugs"
        assert asked(input="a", dimensions=40).dimensions == 40
        assert asked(input="a", input_type="query", prompt_name="NFCorpus").instruction is None
        assert asked("/v1/rerank", query="q", documents=["d"]).instruction == "Find code"
        assert asked("/v1/rerank", query="q", documents=["d"], instruction="x").instruction == "x"
        by_header = asked(input="a", headers={"x-quernel-instruction": "Löse das".encode()})
        assert by_header.instruction == "Löse das"
        assert asked(input="a", headers={"x-quernel-input-type": "query"}).instruction == "Find code"
        both = {"x-quernel-input-type": "document", "x-quernel-instruction": "Find bugs"}
        assert asked(input="a", headers=both).input_type == "document"
        assert asked(input="a", input_type="document", headers={"x-quernel-instruction": "x"}).instruction is None
        ranked = asked("/v1/rerank", query="q", documents=["d"], headers={"x-quernel-instruction": "Find bugs"})
        assert ranked.instruction == "Find bugs"


def test_a_default_prompt_is_for_texts_and_not_for_ids(shelf):
    specs = [ModelSpec(source="a/b", defaults=RequestDefaults(prompt_name="query"))]
    with running(create_app(specs=specs, load=shelf)) as url:
        eventually(lambda: httpx.get(url + "/ready").status_code == 200)
        for texts, expected in (("a", "query"), ([[1, 2]], None)):
            assert httpx.post(url + "/v1/embeddings", json={"input": texts}).status_code == 200
            assert shelf.opened[0].requests[-1].prompt_name == expected


def test_instructions_are_listed_by_name_and_in_full(served):
    names = served.client.get("/v1/models").json()["instructions"]
    full = served.client.get("/v1/instructions").json()["data"]
    assert [task["name"] for task in full] == names
    assert len(names) > 250
    request = {"input": "a", "prompt_name": "nfcorpus"}
    assert served.client.post("/v1/embeddings", json=request).status_code == 200
    reply = served.client.post("/v1/rerank", json={"query": "q", "documents": ["d"], "prompt_name": "NFCorpus"})
    assert reply.status_code == 200
    assert served.reranker.requests[-1].instruction.startswith("Given a question, retrieve relevant documents")
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/v1/rerank", {"query": "q", "documents": ["d"]})):
        reply = served.client.post(path, json=body | {"prompt_name": "no such task"})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt_name")
