"""What `/metrics` tells, in the text format of Prometheus: one table, of which reference and dashboard are made.

Labels are routes, statuses, codes of errors and names of models: none comes from a client.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from quernel.engine.engine import EngineStatistics
from quernel.protocols.openai import ModelStatus
from quernel.server.exchange import Exchange
from quernel.server.models import ModelTable, ServedModel

METRICS_TYPE = CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper ends of the buckets of times."""

Observation: TypeAlias = tuple[tuple[str, ...], float]
"""Values of the labels, and what is added or observed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric, which has exactly one of the sources.

    Attributes:
        name: Its name; a counter's gets `_total` behind it.
        kind: Whether it only grows, is what it is now, or is counted in buckets.
        about: What it counts.
        labels: What it is divided by.
        engine: Takes it from what a model's engine has counted, whenever it is asked for.
        place: Takes it from the table of models, whenever it is asked for.
        exchange: Takes it from a request that was answered.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ("model",)
    engine: Callable[[EngineStatistics], float] | None = None
    place: Callable[[ServedModel], float] | None = None
    exchange: Callable[[Exchange], Iterable[Observation]] | None = None

    @property
    def full_name(self) -> str:
        """Its name as Prometheus has it."""
        return self.name + ("_total" if self.kind == "counter" else "")


def _of_model(amount: Callable[[Exchange], float]) -> Callable[[Exchange], Iterable[Observation]]:
    """What a request that a model answered adds, by the model's name."""

    def observe(exchange: Exchange) -> Iterable[Observation]:
        return [((exchange.model,), amount(exchange))] if exchange.model and exchange.num_texts else []

    return observe


def _route(exchange: Exchange) -> str:
    return exchange.route or "none"


MEASURES = (
    Measure(
        name="quernel_requests",
        kind="counter",
        about="Requests answered; status 499 where the client hung up.",
        labels=("route", "status"),
        exchange=lambda e: [((_route(e), str(e.status)), 1)],
    ),
    Measure(
        name="quernel_errors",
        kind="counter",
        about="Requests answered with an error, by its code.",
        labels=("code",),
        exchange=lambda e: [((e.code,), 1)] if e.code else [],
    ),
    Measure(
        name="quernel_request_seconds",
        kind="histogram",
        about="From a request's head to its answer.",
        labels=("route",),
        exchange=lambda e: [((_route(e),), e.seconds)],
    ),
    Measure(
        name="quernel_texts",
        kind="counter",
        about="Texts and documents read.",
        exchange=_of_model(lambda e: e.num_texts),
    ),
    Measure(
        name="quernel_tokens",
        kind="counter",
        about="Tokens of requests: prompts, texts and end tokens, shared ones each time.",
        exchange=_of_model(lambda e: e.num_tokens),
    ),
    Measure(
        name="quernel_truncated_texts",
        kind="counter",
        about="Texts that were cut because they were too long.",
        exchange=_of_model(lambda e: e.num_truncated),
    ),
    Measure(
        name="quernel_tokenization_seconds",
        kind="histogram",
        about="From texts to token ids.",
        exchange=_of_model(lambda e: e.timing.tokenization),
    ),
    Measure(
        name="quernel_queue_seconds",
        kind="histogram",
        about="Waiting until the first of a request's prompts was computed.",
        exchange=_of_model(lambda e: e.timing.queue),
    ),
    Measure(
        name="quernel_inference_seconds",
        kind="histogram",
        about="From then until the last was.",
        exchange=_of_model(lambda e: e.timing.inference),
    ),
    Measure(
        name="quernel_model_ready",
        kind="gauge",
        about="1 for a model that takes requests, 0 for one that is loading, failed or unloaded.",
        place=lambda place: place.status is ModelStatus.LOADED,
    ),
    Measure(
        name="quernel_requests_running",
        kind="gauge",
        about="Requests that a model is working on, or that wait for it.",
        place=lambda place: place.num_running,
    ),
    Measure(name="quernel_batches", kind="counter", about="Batches computed.", engine=lambda s: s.num_batches),
    Measure(name="quernel_prompts", kind="counter", about="Prompts computed.", engine=lambda s: s.num_prompts),
    Measure(
        name="quernel_tokens_computed",
        kind="counter",
        about="Tokens computed: shared ones once, cached ones not at all. Divided by batches and by "
        "quernel_max_batch_tokens it is how full batches are.",
        engine=lambda s: s.runner.num_tokens,
    ),
    Measure(
        name="quernel_max_batch_tokens",
        kind="gauge",
        about="The most tokens that a batch holds.",
        engine=lambda s: s.max_batch_tokens,
    ),
    Measure(
        name="quernel_busy_seconds",
        kind="counter",
        about="Time spent in batches.",
        engine=lambda s: s.busy_seconds,
    ),
    Measure(
        name="quernel_waiting_tokens",
        kind="gauge",
        about="Tokens in the queue.",
        engine=lambda s: s.num_waiting_tokens,
    ),
    Measure(
        name="quernel_prefix_cache_hits",
        kind="counter",
        about="Prefixes (instructions, a reranker's head and queries) that were found in the cache.",
        engine=lambda s: s.runner.num_prefix_hits,
    ),
    Measure(
        name="quernel_prefix_cache_misses",
        kind="counter",
        about="Prefixes that were looked for and computed.",
        engine=lambda s: s.runner.num_prefix_misses,
    ),
    Measure(
        name="quernel_prefix_cache_bytes",
        kind="gauge",
        about="Memory that the cache holds.",
        engine=lambda s: s.runner.prefix_cache_bytes,
    ),
    Measure(
        name="quernel_engine_resident_memory_bytes",
        kind="gauge",
        about="Memory of the process that computes: one for all models, and by default not the server's own.",
        engine=lambda s: s.resident_bytes,
    ),
    Measure(
        name="quernel_prompts_recomputed",
        kind="counter",
        about="Prompts whose first result was NaN or infinite and that were computed again in float32.",
        engine=lambda s: s.runner.num_recomputed,
    ),
)

PROCESS_MEASURES = ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds")
"""What `prometheus_client` adds of the process, of which the dashboard shows these."""


class Metrics:
    """The metrics of one application.

    Args:
        models: Its models.
        others: Asked for more, whenever somebody asks.
    """

    def __init__(self, models: ModelTable, *others: Collector) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        for collector in (_Asked(models), *others):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        self._recorders = [
            (measure.exchange, _recorder(measure, self._registry))
            for measure in MEASURES
            if measure.exchange is not None
        ]

    def observe(self, exchange: Exchange, scope: Scope) -> None:
        """Count a request that was answered."""
        for observe, record in self._recorders:
            for labels, value in observe(exchange):
                record(labels, value)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)


def _recorder(measure: Measure, registry: CollectorRegistry) -> Callable[[tuple[str, ...], float], None]:
    children: dict[tuple[str, ...], Callable[[float], None]] = {}
    if measure.kind == "counter":
        counter = Counter(measure.name, measure.about, measure.labels, registry=registry)
    else:
        histogram = Histogram(measure.name, measure.about, measure.labels, buckets=SECONDS, registry=registry)

    def record(labels: tuple[str, ...], value: float) -> None:
        child = children.get(labels)
        if child is None:  # Looking one up takes as long as all the rest.
            child = counter.labels(*labels).inc if measure.kind == "counter" else histogram.labels(*labels).observe
            children[labels] = child
        child(value)

    return record


class _Asked(Collector):
    """Metrics that are read where they are when somebody asks."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        # Only models of this machine have an engine, perhaps in another process: it is asked once for all its metrics.
        statistics = {place.name: getattr(place.model, "statistics", None) for place in self._models}
        for measure in MEASURES:
            if measure.exchange is None:
                yield self._family(measure, statistics)

    def _family(self, measure: Measure, statistics: Mapping[str, EngineStatistics | None]) -> Metric:
        cls = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
        family: Any = cls(measure.name, measure.about, labels=measure.labels)
        for place in self._models:
            if measure.place is not None:
                family.add_metric([place.name], float(measure.place(place)))
            counted = statistics[place.name]
            if measure.engine is not None and counted is not None:
                family.add_metric([place.name], float(measure.engine(counted)))
        found: Metric = family
        return found
