import asyncio

import pytest

from quernel.errors import (
    DeadlineExceededError,
    FailureKind,
    InvalidRequestError,
    NonFiniteError,
    OverloadedError,
    ProviderError,
)
from quernel.gateway.attempts import Attempts, Trail
from quernel.gateway.health import HealthTable
from quernel.gateway.money import FREE
from quernel.gateway.providers import Offer, Provider
from quernel.gateway.router import Candidate

HEALTH = HealthTable


def candidates(*slugs, health=None, **more):
    table = health or HealthTable()
    return [
        Candidate(
            provider=Provider(slug=slug, format="openai", **more),
            offer=Offer(model="m"),
            price=FREE,
            health=table.of(slug, "m", "full"),
        )
        for slug in slugs
    ]


class Script:
    """Providers that do what they are told: an answer, an exception, or seconds to take before the answer."""

    def __init__(self, **steps):
        self.steps = {slug: list(step) if isinstance(step, list) else [step] for slug, step in steps.items()}
        self.asked = []
        self.cancelled = []

    async def __call__(self, candidate):
        slug = candidate.provider.slug
        self.asked.append(slug)
        step = self.steps[slug].pop(0) if len(self.steps[slug]) > 1 else self.steps[slug][0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            try:
                await asyncio.sleep(step)
            except asyncio.CancelledError:
                self.cancelled.append(slug)
                raise
        return slug


def failed(kind=FailureKind.FAILED, **more):
    return ProviderError("It failed.", kind=kind, **more)


def ask(script, places, *, trail=None, **settings):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    attempts = Attempts(**{"sleep": sleep, **settings})
    return asyncio.run(attempts.ask(places, script, 10, trail if trail is not None else Trail())), waits


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.REFUSED])
def test_a_failure_of_the_provider_is_followed_by_the_next(kind):
    trail = Trail()
    script = Script(a=failed(kind, upstream_status=503), b="b")
    answer, _ = ask(script, candidates("a", "b"), trail=trail)
    assert answer.value == "b"
    assert answer.candidate.provider.slug == "b"
    assert [(one.provider, one.outcome) for one in trail.attempts] == [("a", kind.value), ("b", "ok")]
    assert trail.shown()[0]["status"] == 503


def test_a_request_at_fault_is_not_sent_to_others():
    script = Script(a=failed(FailureKind.REFUSED), b="b")
    with pytest.raises(InvalidRequestError):
        ask(script, candidates("a", "b"))
    assert script.asked == ["a"]
    local = Script(a=InvalidRequestError("It is too long."), b="b")
    with pytest.raises(InvalidRequestError, match="too long"):
        ask(local, candidates("a", "b"))


def test_a_model_of_this_process_that_fails_is_followed_by_the_next():
    table = HealthTable()
    script = Script(a=NonFiniteError("NaN."), b=OverloadedError("Full."), c="c")
    answer, _ = ask(script, candidates("a", "b", "c", health=table))
    assert answer.value == "c"
    assert table.of("a", "m", "full").last_failure is FailureKind.FAILED
    assert table.of("b", "m", "full").last_failure is FailureKind.RATE_LIMITED


def test_the_last_one_is_asked_again_where_that_can_help():
    script = Script(a=[failed(), failed(FailureKind.UNREACHABLE), "ok"])
    answer, waits = ask(script, candidates("a"))
    assert answer.value == "a"
    assert script.asked == ["a"] * 3
    first, second = waits
    assert 0 <= first <= 0.1
    assert 0 <= second <= 0.2


def test_it_is_not_asked_again_where_that_cannot_help():
    for kind in (FailureKind.CREDENTIALS, FailureKind.BAD_REPLY):
        script = Script(a=failed(kind))
        with pytest.raises(ProviderError):
            ask(script, candidates("a"))
        assert script.asked == ["a"]


def test_a_pause_that_was_asked_for_is_kept_if_there_is_time():
    limited = failed(FailureKind.RATE_LIMITED, retry_after=3.0)
    answer, waits = ask(Script(a=[limited, "ok"]), candidates("a"))
    assert (answer.value, waits) == ("a", [3.0])
    with pytest.raises(OverloadedError) as caught:
        ask(Script(a=limited), candidates("a"), budget_seconds=2.0)
    assert caught.value.retry_after == 3.0


def test_a_provider_that_hangs_is_given_up_and_blamed():
    table = HealthTable()
    script = Script(a=30.0, b="b")
    answer, _ = ask(script, candidates("a", "b", health=table, timeout_seconds=0.02))
    assert answer.value == "b"
    assert script.cancelled == ["a"]
    assert table.of("a", "m", "full").last_failure is FailureKind.TIMEOUT


def test_all_attempts_together_keep_to_the_budget():
    script = Script(a=30.0, b=30.0, c="c")
    with pytest.raises(DeadlineExceededError):
        ask(script, candidates("a", "b", "c"), budget_seconds=0.05)
    assert script.asked == ["a"]


def test_a_slow_first_provider_is_hedged_by_the_second():
    table = HealthTable()
    first = table.of("a", "m", "full")
    for _ in range(20):
        first.begin(0.0)
        first.succeed(0.0, seconds=0.01, tokens=1)
    script = Script(a=30.0, b="b")
    trail = Trail()
    answer, _ = ask(script, candidates("a", "b", health=table), hedge=True, trail=trail)
    assert answer.value == "b"
    assert script.cancelled == ["a"]
    assert {(one.provider, one.outcome) for one in trail.attempts} == {("a", "abandoned"), ("b", "ok")}
    assert first.running == 0
    quick = Script(a="a", b="b")
    assert ask(quick, candidates("a", "b", health=table), hedge=True)[0].value == "a"
    assert quick.asked == ["a"]


def test_when_the_hedged_ones_both_fail_the_third_is_asked():
    table = HealthTable()
    first = table.of("a", "m", "full")
    for _ in range(20):
        first.begin(0.0)
        first.succeed(0.0, seconds=0.01, tokens=1)
    script = Script(a=[failed()], b=[failed()], c="c")
    assert ask(script, candidates("a", "b", "c", health=table), hedge=True)[0].value == "c"


def test_no_more_requests_at_once_than_the_provider_takes():
    running, most = 0, 0

    async def call(candidate):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    async def all_at_once():
        attempts = Attempts()
        places = candidates("a", concurrency=3)
        await asyncio.gather(*(attempts.ask(places, call, 1, Trail()) for _ in range(20)))

    asyncio.run(all_at_once())
    assert most == 3


def test_a_caller_who_leaves_takes_the_attempt_along_and_blames_nobody():
    table = HealthTable()
    script = Script(a=30.0)

    async def leave():
        task = asyncio.create_task(Attempts().ask(candidates("a", health=table, concurrency=1), script, 1, Trail()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    health = table.of("a", "m", "full")
    assert script.cancelled == ["a"]
    assert (health.running, health.last_failure) == (0, None)
