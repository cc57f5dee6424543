"""Traces: a span for each request that a model answered, with one for each stage inside it.

Spans hold what the log holds, and no text: the route, the status, the model, counts. A `traceparent` that came with the
request is continued. Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from quernel._version import __version__
from quernel.errors import SettingsError
from quernel.server.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

NANOSECONDS = 1_000_000_000
FIRST_SERVER_STATUS = 500


class Traces:
    """Spans of one application.

    Args:
        tracer: What makes them.
        shut_down: Sends what was not sent yet.
    """

    def __init__(self, tracer: "Tracer", shut_down: Callable[[], None] = lambda: None) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()
        self.shut_down = shut_down

    def observe(self, exchange: Exchange, scope: Scope) -> None:
        """The spans of a request that was answered."""
        end = time.time_ns()
        start = end - round(exchange.seconds * NANOSECONDS)
        headers = Headers(scope=scope)
        context = self._propagator.extract({name: value for name, value in headers.items() if name.startswith("trace")})
        route = exchange.route or "none"
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            start_time=start,
            attributes=_attributes(exchange, scope, route),
        )
        if (exchange.status or FIRST_SERVER_STATUS) >= FIRST_SERVER_STATUS:
            span.set_status(self._trace.StatusCode.ERROR)
        inside = self._trace.set_span_in_context(span)
        timing = exchange.timing
        # The stages end with the request, but for what the encoding of the reply took.
        stages = (("tokenization", timing.tokenization), ("queue", timing.queue), ("inference", timing.inference))
        if exchange.num_texts:
            moment = start
            for name, seconds in stages:
                stage = self._tracer.start_span(name, context=inside, start_time=moment)
                moment = min(moment + round(seconds * NANOSECONDS), end)
                stage.end(end_time=moment)
        span.end(end_time=end)


def _attributes(exchange: Exchange, scope: Scope, route: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": scope["method"],
        "http.route": route,
        "http.response.status_code": exchange.status,
        "quernel.request_id": exchange.request_id,
        "quernel.texts": exchange.num_texts,
        "quernel.tokens": exchange.num_tokens,
        "gen_ai.request.model": exchange.model,
        "error.type": exchange.code,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def open_traces(endpoint: str) -> Traces:
    """Traces that are sent to a collector, in batches and beside the requests.

    Args:
        endpoint: Its address without a path, such as `http://127.0.0.1:4318`.

    Raises:
        SettingsError: The packages of `quernel[otel]` are missing.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            f"otlp_endpoint is {endpoint!r}, but OpenTelemetry is not installed.",
            param="otlp_endpoint",
            hint="pip install 'quernel[otel]'.",
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "quernel", "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")))
    return Traces(provider.get_tracer("quernel", __version__), provider.shutdown)
