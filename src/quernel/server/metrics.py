"""What `/metrics` tells: one table of what the engines have counted, in the text format of Prometheus."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from quernel.engine.engine import EngineStatistics

METRICS_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric of each model.

    Attributes:
        name: Its name; a counter's gets `_total` behind it.
        kind: Whether it only grows.
        about: What it counts.
        read: Takes it from the statistics.
    """

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    read: Callable[[EngineStatistics], float]


MEASURES = (
    Measure("quernel_batches", "counter", "Batches computed.", lambda s: s.num_batches),
    Measure("quernel_prompts", "counter", "Prompts computed.", lambda s: s.num_prompts),
    Measure(
        "quernel_tokens_computed",
        "counter",
        "Tokens computed: shared ones once, cached ones not at all.",
        lambda s: s.runner.num_tokens,
    ),
    Measure("quernel_waiting_tokens", "gauge", "Tokens in the queue.", lambda s: s.num_waiting_tokens),
    Measure(
        "quernel_prefix_cache_hits",
        "counter",
        "Prefixes (instructions, a reranker's head and queries) that were found in the cache.",
        lambda s: s.runner.num_prefix_hits,
    ),
    Measure(
        "quernel_prefix_cache_misses",
        "counter",
        "Prefixes that were looked for and computed.",
        lambda s: s.runner.num_prefix_misses,
    ),
    Measure(
        "quernel_prefix_cache_bytes", "gauge", "Memory that the cache holds.", lambda s: s.runner.prefix_cache_bytes
    ),
    Measure(
        "quernel_prompts_recomputed",
        "counter",
        "Prompts whose first result was NaN or infinite and that were computed again in float32.",
        lambda s: s.runner.num_recomputed,
    ),
)
"""Every metric. `docs/reference/metrics.md` is made of it."""


def render_metrics(models: Iterable[object]) -> bytes:
    """The metrics of those models that run in this process.

    Args:
        models: Anything; what has no `info` and `statistics` has no engine, and is left out.
    """
    registry = CollectorRegistry()
    registry.register(_Collector([model for model in models if hasattr(model, "statistics")]))
    return generate_latest(registry)


class _Collector:
    def __init__(self, models: Iterable[object]) -> None:
        self._read = [(model.info.name, model.statistics) for model in models]  # type: ignore[attr-defined]

    def collect(self) -> Iterator[Metric]:
        for measure in MEASURES:
            family = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
            metric: Metric = family(measure.name, measure.about, labels=["model"])
            for name, statistics in self._read:
                metric.add_metric([name], measure.read(statistics))  # type: ignore[attr-defined]
            yield metric
