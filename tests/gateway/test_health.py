import random

import pytest

from quernel.errors import FailureKind
from quernel.gateway.health import (
    FIRST_PAUSE_SECONDS,
    GROWTH,
    HALF_LIFE_SECONDS,
    MANY_FAILURES,
    BreakerState,
    Health,
    HealthTable,
    Histogram,
)


@pytest.mark.parametrize("typical", [0.05, 30_000, 5_000_000])
def test_quantiles_of_seconds_and_of_tokens_a_second_are_right_to_a_bucket(typical):
    draw = random.Random(0)
    numbers = sorted(typical * draw.lognormvariate(0, 1) for _ in range(5000))
    histogram = Histogram()
    for number in numbers:
        histogram.observe(number, now=0.0)
    for share in (0.05, 0.5, 0.95, 0.99):
        exact = numbers[int(share * len(numbers))]
        assert exact / GROWTH <= histogram.quantile(share) <= exact * GROWTH


def test_old_observations_fade_by_half():
    histogram = Histogram()
    for _ in range(100):
        histogram.observe(1.0, now=0.0)
    assert histogram.count(HALF_LIFE_SECONDS) == pytest.approx(50)
    for _ in range(60):
        histogram.observe(0.01, now=HALF_LIFE_SECONDS)
    assert histogram.quantile(0.5) == pytest.approx(0.01, rel=GROWTH - 1)


def test_a_histogram_survives_years():
    histogram = Histogram()
    for day in range(0, 1000, 10):
        histogram.observe(0.5, now=day * 86_400.0)
    assert histogram.count(990 * 86_400.0) == pytest.approx(1.0)
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=GROWTH - 1)


def test_an_empty_histogram_knows_nothing():
    assert Histogram().quantile(0.5) is None


def fail(health, now, kind=FailureKind.FAILED, **more):
    health.begin(now)
    health.fail(now, kind, **more)


def succeed(health, now):
    health.begin(now)
    health.succeed(now, seconds=0.1, tokens=10)


def test_failures_in_a_row_open_the_breaker_and_a_success_closes_it():
    health = Health()
    for _ in range(MANY_FAILURES - 1):
        fail(health, 0.0)
    assert health.state(0.0) is BreakerState.CLOSED
    fail(health, 0.0)
    assert health.state(0.0) is BreakerState.OPEN
    assert health.opens_in(1.0) == FIRST_PAUSE_SECONDS - 1
    assert health.state(FIRST_PAUSE_SECONDS) is BreakerState.PROBING
    succeed(health, FIRST_PAUSE_SECONDS)
    assert health.state(FIRST_PAUSE_SECONDS) is BreakerState.CLOSED


def test_one_request_probes_and_the_others_stay_away():
    health = Health()
    for _ in range(MANY_FAILURES):
        fail(health, 0.0)
    health.begin(FIRST_PAUSE_SECONDS)
    assert health.state(FIRST_PAUSE_SECONDS) is BreakerState.OPEN
    health.abandon()
    assert health.state(FIRST_PAUSE_SECONDS) is BreakerState.PROBING


def test_a_failed_probe_doubles_the_pause():
    health = Health()
    for _ in range(MANY_FAILURES):
        fail(health, 0.0)
    fail(health, FIRST_PAUSE_SECONDS)
    assert health.state(2.5 * FIRST_PAUSE_SECONDS) is BreakerState.OPEN
    assert health.state(3 * FIRST_PAUSE_SECONDS) is BreakerState.PROBING


def test_half_of_many_failing_opens_the_breaker():
    health = Health()
    now = 0.0
    while health.state(now) is BreakerState.CLOSED and now < 100:
        succeed(health, now)
        fail(health, now)
        now += 1
    assert health.state(now) is BreakerState.OPEN
    assert now >= 4  # eight requests are the least that say anything


def test_a_provider_that_asks_for_a_pause_gets_it():
    health = Health()
    fail(health, 0.0, FailureKind.RATE_LIMITED, retry_after=7.0)
    assert health.state(6.9) is BreakerState.OPEN
    assert health.state(7.0) is BreakerState.PROBING


def test_a_request_at_fault_says_nothing_of_its_provider():
    health = Health()
    for _ in range(20):
        fail(health, 0.0, FailureKind.REFUSED)
    assert health.state(0.0) is BreakerState.CLOSED
    assert health.uptime(0.0) is None


def test_uptime_is_the_share_of_answers():
    table = HealthTable()
    health = table.of("one", "Some/Model", "full")
    for _ in range(9):
        succeed(health, 0.0)
    fail(health, 0.0)
    condition = table.condition("one", "some/model", "full", 0.0)
    assert condition.uptime == pytest.approx(0.9)
    assert condition.throughput == pytest.approx(100, rel=GROWTH - 1)
    assert condition.running == 0
