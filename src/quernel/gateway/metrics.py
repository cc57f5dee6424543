"""What `/metrics` tells of a gateway, besides what it tells of every server: providers, money and the database.

Labels are providers and models as the configuration calls them, and words of this package: never an account, a key, an
address, or what a request calls a model. What is known anyhow is read where it is when somebody asks. The rest is
counted here in plain numbers, since each step of a counter of `prometheus_client` takes a lock.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from quernel.errors import InsufficientCreditError, LimitExceededError
from quernel.gateway.attempts import Attempt
from quernel.gateway.database import Database
from quernel.gateway.health import BreakerState, Health, HealthTable
from quernel.gateway.money import PICOS_PER_DOLLAR, Picos
from quernel.gateway.registry import Registry
from quernel.gateway.usage import Usage
from quernel.server.metrics import SECONDS, Measure

GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper ends of the buckets of groups of writes."""

Labels: TypeAlias = tuple[str, ...]


class Distribution:
    """Numbers, counted in buckets.

    Args:
        bounds: Upper ends of the buckets, the smallest first; there is one more, without an end.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, number: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, number)] += 1
        self.sum += number

    def buckets(self) -> list[tuple[str, float]]:
        """Upper end of each bucket, and how many numbers are not above it."""
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(ends, accumulate(self._counts), strict=True))


Reading: TypeAlias = tuple[Labels, float | Distribution]
"""Values of the labels, and what is so labelled."""


class Counts:
    """What a gateway has done since it was opened, as far as it is kept nowhere else.

    All is counted and read in the thread of the event loop, but for `note_group`.

    Attributes:
        attempts: How often a provider was asked, by provider, model, outcome and whose key was used.
        seconds: How long good answers took, by provider and model.
        fallbacks: Answers that were not the first candidate's, by provider and model.
        broken: Answers that broke off while they were streamed, by provider and model.
        tokens: Tokens of answers, by provider, model and direction.
        charged: What they were charged, by provider and model.
        refusals: Requests that money or limits did not allow, by model and code.
        lost: What could not be written down and is not tried again.
        group_sizes: How many operations the database wrote at once.
        write_seconds: How long that took.
    """

    def __init__(self) -> None:
        self.attempts: defaultdict[Labels, int] = defaultdict(int)
        self.seconds: defaultdict[Labels, Distribution] = defaultdict(lambda: Distribution(SECONDS))
        self.fallbacks: defaultdict[Labels, int] = defaultdict(int)
        self.broken: defaultdict[Labels, int] = defaultdict(int)
        self.tokens: defaultdict[Labels, int] = defaultdict(int)
        self.charged: defaultdict[Labels, Picos] = defaultdict(int)
        self.refusals: defaultdict[Labels, int] = defaultdict(int)
        self.lost = 0
        self.group_sizes = Distribution(GROUP_SIZES)
        self.write_seconds = Distribution(SECONDS)

    def note_attempts(self, model: str, attempts: Iterable[Attempt], own: Collection[str]) -> None:
        """Count how providers were asked for a request.

        Args:
            model: The model.
            attempts: What was tried.
            own: Providers that were asked with the customer's key.
        """
        for attempt in attempts:
            provider = attempt.provider
            self.attempts[provider, model, attempt.outcome, "byok" if provider in own else "system"] += 1
            if attempt.outcome == "ok":
                self.seconds[provider, model].observe(attempt.milliseconds / 1000)

    def note_answer(self, row: Usage, charged: Picos) -> None:
        """Count an answer that is paid for."""
        self.charged[row.provider, row.model] += charged
        self.tokens[row.provider, row.model, "input"] += row.tokens
        if row.output_tokens:
            self.tokens[row.provider, row.model, "output"] += row.output_tokens

    def note_failure(self, model: str, error: BaseException) -> None:
        """Count a request that failed, if money or limits are why."""
        if isinstance(error, InsufficientCreditError | LimitExceededError):
            self.refusals[model, error.code] += 1

    def note_group(self, size: int, seconds: float) -> None:
        """Count operations that the database wrote at once; in its writer's thread alone."""
        self.group_sizes.observe(size)
        self.write_seconds.observe(seconds)


class Watched(Protocol):
    """What is read of a gateway."""

    counts: Counts
    database: Database
    registry: Registry
    health: HealthTable
    clock: Callable[[], float]

    @property
    def health_tables(self) -> Sequence[HealthTable]:
        """How providers are doing with our keys, and with those of each account that has its own."""
        ...


Read: TypeAlias = Callable[[Watched], Iterable[Reading]]
"""What a metric says of a gateway at this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayMeasure(Measure):
    """A metric that only gateways have, and its source.

    Attributes:
        read: Takes it from a gateway, whenever it is asked for.
    """

    read: Read


def _counted(pick: Callable[[Counts], Mapping[Labels, float | Distribution]]) -> Read:
    """What was counted, by its labels."""
    return lambda gateway: pick(gateway.counts).items()


def _single(pick: Callable[[Watched], float | Distribution]) -> Read:
    """A number that is divided by nothing."""
    return lambda gateway: [((), pick(gateway))]


def _of_health(pick: Callable[[Health], float | None]) -> Read:
    """A number of each model at each provider, where it is known."""

    def read(gateway: Watched) -> Iterator[Reading]:
        for labels, health in _healths(gateway):
            number = pick(health)
            if number is not None:
                yield labels, number

    return read


def _breakers(gateway: Watched) -> Iterator[Reading]:
    now = gateway.clock()
    for labels, health in _healths(gateway):
        found = health.state(now)
        for state in BreakerState:
            yield (*labels, state.value), state is found


def _healths(gateway: Watched) -> Iterator[tuple[Labels, Health]]:
    for provider, offer, model in gateway.registry.offered():
        # One that is switched off is not tried by canaries either, so a fault of it would be shown for ever. Requests
        # are for names, so what is offered by an alias is asked nothing.
        if provider.enabled and offer.model.lower() == model.name.lower():
            health = gateway.health.of(provider.slug, offer.model, offer.weights)
            yield (provider.slug, model.name, offer.weights), health


def _running(gateway: Watched) -> Iterator[Reading]:
    running: Counter[str] = Counter()
    for table in gateway.health_tables:
        running.update(table.running())
    for provider in gateway.registry.providers:
        yield (provider.slug,), running[provider.slug]


GATEWAY_MEASURES = (
    GatewayMeasure(
        name="quernel_provider_requests",
        kind="counter",
        about="Times that a provider was asked, by how that ended: `ok`, `abandoned` (the client hung up, or another "
        "was faster), or how it failed; with the gateway's key (`system`) or the customer's (`byok`). Canaries are not "
        "counted.",
        labels=("provider", "model", "outcome", "credential"),
        read=_counted(lambda counts: counts.attempts),
    ),
    GatewayMeasure(
        name="quernel_provider_seconds",
        kind="histogram",
        about="From asking a provider to its answer, or to the beginning of one that is streamed; where it ended `ok`.",
        labels=("provider", "model"),
        read=_counted(lambda counts: counts.seconds),
    ),
    GatewayMeasure(
        name="quernel_provider_fallbacks",
        kind="counter",
        about="Answers of a provider that was not the first candidate: those before it failed, or were slower where "
        "requests are hedged.",
        labels=("provider", "model"),
        read=_counted(lambda counts: counts.fallbacks),
    ),
    GatewayMeasure(
        name="quernel_provider_broken_answers",
        kind="counter",
        about="Answers that broke off while they were streamed, which began `ok`.",
        labels=("provider", "model"),
        read=_counted(lambda counts: counts.broken),
    ),
    GatewayMeasure(
        name="quernel_provider_requests_running",
        kind="gauge",
        about="Requests that a provider is answering, canaries among them.",
        labels=("provider",),
        read=_running,
    ),
    GatewayMeasure(
        name="quernel_provider_breaker",
        kind="gauge",
        about="1 for the state that a provider's breaker is in, 0 for the others: `closed` (it is asked), `open` (it "
        "is paused after failures), `probing` (one request may try it).",
        labels=("provider", "model", "weights", "state"),
        read=_breakers,
    ),
    GatewayMeasure(
        name="quernel_provider_drifted",
        kind="gauge",
        about="1 for a provider that is left out because its answers to the fixed texts are not the model's.",
        labels=("provider", "model", "weights"),
        read=_of_health(lambda health: bool(health.drifted)),
    ),
    GatewayMeasure(
        name="quernel_provider_canary_cosine",
        kind="gauge",
        about="How like the model's a provider's vectors of the fixed texts were last; of the least alike.",
        labels=("provider", "model", "weights"),
        read=_of_health(lambda health: health.canary_cosine),
    ),
    GatewayMeasure(
        name="quernel_provider_tokens",
        kind="counter",
        about="Tokens of answers as they are billed, read (`input`) or written (`output`).",
        labels=("provider", "model", "direction"),
        read=_counted(lambda counts: counts.tokens),
    ),
    GatewayMeasure(
        name="quernel_charged_dollars",
        kind="counter",
        about="What accounts were charged for answers since the start, to watch it: the ledger is what is exact.",
        labels=("provider", "model"),
        read=lambda gateway: ((labels, picos / PICOS_PER_DOLLAR) for labels, picos in gateway.counts.charged.items()),
    ),
    GatewayMeasure(
        name="quernel_refusals",
        kind="counter",
        about="Requests that failed for want of money (`insufficient_credits`) or at a limit of their key or account "
        "(`rate_limit_exceeded`).",
        labels=("model", "code"),
        read=_counted(lambda counts: counts.refusals),
    ),
    GatewayMeasure(
        name="quernel_database_operations_waiting",
        kind="gauge",
        about="Operations that the database has yet to write.",
        labels=(),
        read=_single(lambda gateway: gateway.database.num_waiting),
    ),
    GatewayMeasure(
        name="quernel_database_group_size",
        kind="histogram",
        about="Operations that the database wrote in one transaction.",
        labels=(),
        read=_single(lambda gateway: gateway.counts.group_sizes),
    ),
    GatewayMeasure(
        name="quernel_database_write_seconds",
        kind="histogram",
        about="From the beginning of such a transaction until it was on disk, or had failed for good.",
        labels=(),
        read=_single(lambda gateway: gateway.counts.write_seconds),
    ),
    GatewayMeasure(
        name="quernel_database_failed_writes",
        kind="counter",
        about="Operations (holds, charges, usage, upkeep) that the database did not write, after all attempts. Who "
        "waited for one was told.",
        labels=(),
        read=_single(lambda gateway: gateway.database.num_failed),
    ),
    GatewayMeasure(
        name="quernel_lost_records",
        kind="counter",
        about="What is not written down of requests and not tried again, as nobody waited for it: usage, charges of "
        "answers that were given up, and that a hold is let go, which then stays until the gateway stops.",
        labels=(),
        read=_single(lambda gateway: gateway.counts.lost),
    ),
)

FAMILIES: Mapping[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class GatewayMetrics(Collector):
    """The metrics of a gateway, read when somebody asks.

    Args:
        gateway: The gateway.
    """

    def __init__(self, gateway: Watched) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        for measure in GATEWAY_MEASURES:
            family = FAMILIES[measure.kind](measure.name, measure.about, labels=measure.labels)
            for labels, found in measure.read(self._gateway):
                if isinstance(found, Distribution):
                    family.add_metric(labels, found.buckets(), found.sum)
                else:
                    family.add_metric(labels, float(found))
            yield family
