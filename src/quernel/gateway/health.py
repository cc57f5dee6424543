"""How providers are doing: latency and throughput that old requests count less and less in, and circuit breakers.

Nothing here does anything by itself: whoever asks a provider tells what came of it, and the time is passed in.
"""

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from quernel.errors import FailureKind

HALF_LIFE_SECONDS = 600.0
"""After so long an observation counts half."""

SMALLEST, GROWTH, NUM_BUCKETS = 1e-4, 1.2, 160
"""Buckets of a histogram, each a fifth wider: from 0.1 ms, where seconds are measured, to 400 M tokens a second."""

LARGEST_WEIGHT = 2.0**40
MOST_HALF_LIVES = 1000
"""A float holds 2^1000 and not much more; what is so old has faded anyhow."""

MANY_FAILURES = 3
"""Failures in a row that open a breaker."""

SHARE_OF_FAILURES, LEAST_WEIGHT = 0.5, 8.0
"""A breaker also opens where of so many recent requests such a share failed."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0

BLAMED = frozenset(FailureKind) - {FailureKind.REFUSED}
"""Failures that are the provider's. A request that it finds fault with says nothing of its health."""


class Histogram:
    """A distribution of positive numbers in which old observations fade."""

    def __init__(self) -> None:
        self._weights = [0.0] * NUM_BUCKETS
        self._total = 0.0
        self._since: float | None = None

    def observe(self, value: float, now: float) -> None:
        """Take a number in.

        Args:
            value: The number.
            now: Seconds by any clock that does not go back.
        """
        # Instead of fading all that is there, what comes in counts more; from time to time all is scaled down.
        weight = self._unit(now)
        if weight > LARGEST_WEIGHT:
            self._weights = [old / weight for old in self._weights]
            self._total, self._since, weight = self._total / weight, now, 1.0
        place = 0 if value <= SMALLEST else min(int(math.log(value / SMALLEST, GROWTH)) + 1, NUM_BUCKETS - 1)
        self._weights[place] += weight
        self._total += weight

    def count(self, now: float) -> float:
        """How many observations there are, each faded."""
        return self._total / self._unit(now)

    def quantile(self, share: float) -> float | None:
        """The number that so large a share lies below, to a fifth of it; `None` where nothing was observed."""
        wanted = share * self._total
        if not wanted:
            return None
        below = accumulate(self._weights)
        place = next((place for place, weight in enumerate(below) if weight >= wanted), NUM_BUCKETS - 1)
        return float(SMALLEST * GROWTH ** (place - 0.5)) if place else SMALLEST

    def _unit(self, now: float) -> float:
        if self._since is None:
            self._since = now
        return float(2.0 ** min((now - self._since) / HALF_LIFE_SECONDS, MOST_HALF_LIVES))


class BreakerState(StrEnum):
    """Whether a provider is asked."""

    CLOSED = "closed"
    """It is."""
    OPEN = "open"
    """It is not, until a pause is over."""
    PROBING = "probing"
    """One request may try it."""


class Health:
    """How one model at one provider is doing.

    Attributes:
        latency: Seconds to the answer.
        throughput: Tokens in a second of one request.
        running: Requests that it is answering for us.
        drifted: Why its vectors are not those of the model; empty where they are.
        canary_cosine: How like the model's its vectors of the fixed texts were last; `None` before that was looked at.
        last_failure: How it failed last.
    """

    def __init__(self) -> None:
        self.latency = Histogram()
        self.throughput = Histogram()
        self.running = 0
        self.drifted = ""
        self.canary_cosine: float | None = None
        self.last_failure: FailureKind | None = None
        self._outcomes = Histogram()
        self._failed = Histogram()
        self._in_a_row = 0
        self._opened_until: float | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """Whether it may be asked."""
        if self._opened_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._opened_until or self._probing else BreakerState.PROBING

    def opens_in(self, now: float) -> float:
        """Seconds until it may be tried again; zero where it may now."""
        return max((self._opened_until or now) - now, 0.0)

    def begin(self, now: float) -> None:
        """Take note that it is asked."""
        self.running += 1
        if self.state(now) is BreakerState.PROBING:
            self._probing = True

    def succeed(self, now: float, *, seconds: float, tokens: int) -> None:
        """Take note of an answer."""
        self.running -= 1
        self.latency.observe(seconds, now)
        if tokens and seconds > 0:
            self.throughput.observe(tokens / seconds, now)
        self._outcomes.observe(1.0, now)
        self._in_a_row = 0
        self._opened_until = None
        self._pause = FIRST_PAUSE_SECONDS
        self._probing = False

    def fail(self, now: float, kind: FailureKind, *, retry_after: float | None = None) -> None:
        """Take note of a failure; a provider that asks for a pause gets it."""
        self.running -= 1
        self._probing = False
        if kind not in BLAMED:
            return
        self.last_failure = kind
        self._outcomes.observe(1.0, now)
        self._failed.observe(1.0, now)
        self._in_a_row += 1
        if retry_after is not None:
            self._opened_until = now + min(retry_after, LONGEST_PAUSE_SECONDS)
        elif self._is_too_much(now):
            self._opened_until = now + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def abandon(self) -> None:
        """Take note that nobody waits for its answer any more, which says nothing of it."""
        self.running -= 1
        self._probing = False

    def uptime(self, now: float) -> float | None:
        """The share of recent requests that it answered; `None` where there were none."""
        total = self._outcomes.count(now)
        return None if total < 1e-9 else 1.0 - min(self._failed.count(now) / total, 1.0)

    def _is_too_much(self, now: float) -> bool:
        if self._opened_until is not None or self._in_a_row >= MANY_FAILURES:
            return True
        total = self._outcomes.count(now)
        return total >= LEAST_WEIGHT and self._failed.count(now) >= SHARE_OF_FAILURES * total


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What is shown of a model at a provider.

    Attributes:
        state: Of its breaker.
        latency_p50: Seconds; `None` before there was traffic.
        latency_p95: Seconds.
        throughput: Median tokens in a second of one request.
        uptime: The share of recent requests that it answered.
        requests: How many those are, faded.
        running: Requests under way.
        drifted: Why its vectors are not those of the model.
        canary_cosine: How like the model's its vectors of the fixed texts were last.
        last_failure: How it failed last.
    """

    state: BreakerState
    latency_p50: float | None
    latency_p95: float | None
    throughput: float | None
    uptime: float | None
    requests: float
    running: int
    drifted: str
    canary_cosine: float | None
    last_failure: FailureKind | None


class HealthTable:
    """The health of every model at every provider.

    Args:
        shared: Where it is known whether a provider's vectors are those of the model; by default here.
    """

    def __init__(self, shared: "HealthTable | None" = None) -> None:
        self._shared = shared
        self._table: dict[tuple[str, str, str], Health] = {}

    def of(self, provider: str, model: str, weights: str) -> Health:
        """That of one."""
        health = self._table.setdefault((provider, model.lower(), weights), Health())
        if self._shared is not None:
            health.drifted = self._shared.of(provider, model, weights).drifted
        return health

    def running(self) -> Counter[str]:
        """How many requests each provider is answering for us, by its slug."""
        running: Counter[str] = Counter()
        for (provider, _, _), health in self._table.items():
            running[provider] += health.running
        return running

    def condition(self, provider: str, model: str, weights: str, now: float) -> Condition:
        """What is shown of one."""
        health = self.of(provider, model, weights)
        return Condition(
            state=health.state(now),
            latency_p50=health.latency.quantile(0.5),
            latency_p95=health.latency.quantile(0.95),
            throughput=health.throughput.quantile(0.5),
            uptime=health.uptime(now),
            requests=health.latency.count(now),
            running=health.running,
            drifted=health.drifted,
            canary_cosine=health.canary_cosine,
            last_failure=health.last_failure,
        )
