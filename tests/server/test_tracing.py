"""Traces: what a collector sees of a request."""

import pytest
from starlette.testclient import TestClient

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from quernel.server import assembly
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.tracing import Traces, open_traces
from quernel.testing import FakeEmbeddingModel


@pytest.fixture
def traced(monkeypatch):
    """A client of a traced application, its model, and what is exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(assembly, "open_traces", lambda endpoint: Traces(provider.get_tracer("test")))
    model = FakeEmbeddingModel()
    client = TestClient(
        create_app([model], config=ServerConfig(otlp_endpoint="http://127.0.0.1:1")), raise_server_exceptions=False
    )
    return client, model, exporter


def test_a_request_is_a_span_with_its_stages_inside(traced):
    client, _, exporter = traced
    client.post("/v1/embeddings", json={"input": "one two"}, headers={"x-request-id": "abc"})
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST /v1/embeddings", "tokenization", "queue", "inference"}
    request = spans["POST /v1/embeddings"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["gen_ai.request.model"] == "fake/embedding"
    assert (request.attributes["quernel.tokens"], request.attributes["quernel.request_id"]) == (3, "abc")
    for name in ("tokenization", "queue", "inference"):
        assert spans[name].parent.span_id == request.context.span_id
        assert request.start_time <= spans[name].start_time <= spans[name].end_time <= request.end_time


def test_a_trace_that_came_with_the_request_is_continued(traced):
    client, _, exporter = traced
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    client.get("/health", headers={"traceparent": f"00-{trace}-{parent}-01"})
    (span,) = exporter.get_finished_spans()
    assert format(span.context.trace_id, "032x") == trace
    assert format(span.parent.span_id, "016x") == parent


def test_a_failure_is_an_error_with_its_code(traced):
    client, model, exporter = traced
    model.failure = RuntimeError("a secret")
    client.post("/v1/embeddings", json={"input": "a"})
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "internal_error"
    assert "secret" not in span.to_json()


def test_traces_are_sent_to_a_collector_and_what_was_not_sent_is_at_the_end():
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        config = ServerConfig(otlp_endpoint=f"http://127.0.0.1:{collector.server_port}")
        with TestClient(create_app([FakeEmbeddingModel()], config=config)) as client:
            client.post("/v1/embeddings", json={"input": "a"})
        collector.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"POST /v1/embeddings" in body


def test_without_the_packages_the_setting_is_refused(monkeypatch):
    import sys

    from quernel.errors import SettingsError

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match="not installed"):
        open_traces("http://127.0.0.1:4318")
