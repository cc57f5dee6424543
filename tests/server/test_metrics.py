"""`GET /metrics`, and the dashboard that shows it."""

import json
import re
from pathlib import Path

from starlette.testclient import TestClient

from quernel import Embedder
from quernel.server.app import create_app
from quernel.server.metrics import MEASURES, PROCESS_MEASURES
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from tests.support.checkpoints import make_checkpoint

DASHBOARD = Path(__file__).parents[2] / "docs/grafana.json"


def value(text, name, **labels):
    said = ",".join(f'{label}="{content}"' for label, content in sorted(labels.items()))
    pattern = rf"^{name}{{{re.escape(said)}}} (\S+)$" if labels else rf'^{name}(?:{{model="[^"]*"}})? (\S+)$'
    return float(re.search(pattern, text, re.MULTILINE)[1])


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
    assert value(reply.text, "quernel_max_batch_tokens") == model.budget.max_batch_tokens
    assert value(reply.text, "quernel_busy_seconds_total") > 0
    for stage in ("tokenization", "queue", "inference"):
        assert value(reply.text, f"quernel_{stage}_seconds_count") == 2
    assert value(reply.text, "quernel_inference_seconds_sum") > 0
    assert value(reply.text, "process_resident_memory_bytes") > 1e7


def test_requests_are_counted_by_route_and_status_and_errors_by_code():
    client = TestClient(create_app([FakeEmbeddingModel(), FakeRerankModel()]))
    client.post("/v1/embeddings", json={"input": ["one two", "word " * 600], "truncate": True})
    client.post("/v1/embeddings", json={"input": []})
    client.post("/v1/rerank", json={"query": "a", "documents": ["b", "c"]})
    client.get("/v1/models/fake/embedding")
    client.get("/no/such/route")
    text = client.get("/metrics").text
    for route, status in (
        ("/v1/embeddings", 200),
        ("/v1/embeddings", 400),
        ("/v1/models/{name:path}", 200),
        ("none", 404),
    ):
        assert value(text, "quernel_requests_total", route=route, status=status) == 1
    assert value(text, "quernel_errors_total", code="empty_input") == 1
    assert value(text, "quernel_errors_total", code="route_not_found") == 1
    assert value(text, "quernel_texts_total", model="fake/embedding") == 2
    assert value(text, "quernel_tokens_total", model="fake/embedding") == 3 + 512
    assert value(text, "quernel_truncated_texts_total", model="fake/embedding") == 1
    assert value(text, "quernel_texts_total", model="fake/reranker") == 2
    assert value(text, "quernel_request_seconds_count", route="/v1/rerank") == 1
    assert value(text, "quernel_model_ready", model="fake/reranker") == 1


def test_every_metric_is_there_from_the_start():
    text = TestClient(create_app([FakeEmbeddingModel()])).get("/metrics").text
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert told >= {measure.full_name for measure in MEASURES} | set(PROCESS_MEASURES)


def test_two_applications_count_for_themselves():
    first, second = (TestClient(create_app([FakeEmbeddingModel()])) for _ in range(2))
    first.post("/v1/embeddings", json={"input": "a"})
    assert 'quernel_texts_total{model="fake/embedding"} 1.0' in first.get("/metrics").text
    assert "quernel_texts_total{" not in second.get("/metrics").text


def test_the_dashboard_shows_every_metric_and_no_other():
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    shown = {name for expression in expressions for name in re.findall(r"(?:quernel|process)_\w+", expression)}
    shown = {re.sub(r"_bucket$", "", name) for name in shown}
    assert shown == {measure.full_name for measure in MEASURES} | set(PROCESS_MEASURES)
