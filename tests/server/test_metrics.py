"""`GET /metrics`."""

import re

from starlette.testclient import TestClient

from quernel import Embedder
from quernel.server.app import create_app
from quernel.server.metrics import MEASURES
from quernel.testing import FakeEmbeddingModel
from tests.support.checkpoints import make_checkpoint


def value(text, name):
    return float(re.search(rf'^{name}{{model="[^"]*"}} (\S+)$', text, re.MULTILINE)[1])


def test_prefixes_that_are_found_again_are_counted(tmp_path):
    with Embedder(make_checkpoint(tmp_path / "model"), dtype="float32") as model:
        client = TestClient(create_app([model]))
        for text in ("one", "another"):
            body = {"model": "default", "input": text, "input_type": "query"}
            assert client.post("/v1/embeddings", json=body).status_code == 200
        reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert value(reply.text, "quernel_prompts_total") == 2
    assert value(reply.text, "quernel_prefix_cache_misses_total") == 1
    assert value(reply.text, "quernel_prefix_cache_hits_total") == 1
    assert value(reply.text, "quernel_prefix_cache_bytes") > 0
    assert value(reply.text, "quernel_waiting_tokens") == 0


def test_every_metric_is_there_and_a_model_that_counts_nothing_is_left_out():
    reply = TestClient(create_app([FakeEmbeddingModel()])).get("/metrics")
    assert reply.status_code == 200
    assert [line.split()[2] for line in reply.text.splitlines() if line.startswith("# HELP")] == [
        measure.name + ("_total" if measure.kind == "counter" else "") for measure in MEASURES
    ]
