"""Asking providers one after the other until one answers: fallback within a budget of time, retries, hedging."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from quernel.errors import (
    DeadlineExceededError,
    FailureKind,
    InvalidRequestError,
    OverloadedError,
    ProviderError,
    QuernelError,
)
from quernel.gateway.health import Health
from quernel.gateway.providers import Provider
from quernel.gateway.router import Candidate

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.1
"""The most that is waited before the last provider is asked again; doubled each time."""

LEAST_HEDGE_SECONDS = 0.01

ROUNDS = 3
"""How often the last provider is asked, where no other is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One time that a provider was asked.

    Attributes:
        provider: Its slug.
        model: Our name of the model.
        outcome: `ok`, `abandoned`, or how it failed.
        status: What it answered, where that was a failure.
        milliseconds: How long it took.
    """

    provider: str
    model: str
    outcome: str
    status: int | None
    milliseconds: float

    def shown(self) -> dict[str, Any]:
        """As replies and usage rows have it."""
        shown: dict[str, Any] = {
            "provider": self.provider,
            "model": self.model,
            "outcome": self.outcome,
            "ms": round(self.milliseconds, 2),
        }
        return shown if self.status is None else shown | {"status": self.status}


@dataclass(slots=True)
class Trail:
    """What was tried for one request; filled while it runs, so that a failure has it too.

    Attributes:
        attempts: In the order in which they ended.
    """

    attempts: list[Attempt] = field(default_factory=list)

    def shown(self) -> list[dict[str, Any]]:
        """As replies and usage rows have it."""
        return [attempt.shown() for attempt in self.attempts]


class Lasting(ABC):
    """An answer that is still coming. It keeps its place at the provider until it is closed."""

    @abstractmethod
    def when_closed(self, do: Callable[[], Awaitable[None]]) -> None:
        """Have something done when it is closed."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a provider said.

    Attributes:
        value: The answer.
        candidate: Who gave it.
        seconds: How long it took.
    """

    value: T
    candidate: Candidate
    seconds: float


class Attempts:
    """Asks providers.

    Args:
        budget_seconds: The time that all attempts for one request have together.
        hedge: Ask a second provider when the first has taken longer than nineteen of twenty of its answers do.
        clock: Seconds, as the health of providers has them.
        sleep: Waits.
    """

    def __init__(
        self,
        *,
        budget_seconds: float = 60.0,
        hedge: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._budget = budget_seconds
        self._hedge = hedge
        self._clock = clock
        self._sleep = sleep
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def ask(
        self,
        candidates: Sequence[Candidate],
        call: Callable[[Candidate], Awaitable[T]],
        tokens: int,
        trail: Trail,
        *,
        hedge: bool = True,
    ) -> Answer[T]:
        """The first answer of one of these providers, in their order.

        A failure that may be the provider's is followed by the next one; a request that a provider finds fault with
        is not sent to others. The last is asked again where that can help and there is time.

        Args:
            candidates: Providers, the best first.
            call: Asks one.
            tokens: Tokens of the request, for throughput.
            trail: Takes what was tried.
            hedge: Whether a second provider may be asked at the same time, where that is turned on at all.

        Raises:
            InvalidRequestError: A provider finds fault with the request itself.
            OverloadedError: None has room now.
            DeadlineExceededError: None answered in time.
            ProviderError: All failed; the last failure.
        """
        work = _Work(call, tokens, trail, deadline=self._clock() + self._budget)
        failure: ProviderError | None = None
        for place, candidate in enumerate(candidates):
            if failure is not None and self._clock() >= work.deadline:
                break
            rest = candidates[place + 1 :]
            try:
                if self._hedge and hedge and rest:
                    return await self._hedged(candidate, rest[0], work)
                return await self._once(candidate, work)
            except ProviderError as error:
                failure = _unless_refused(error)
        assert failure is not None, "there is at least one candidate"
        return await self._again(candidates[-1], work, failure)

    async def ask_once(self, candidate: Candidate, call: Callable[[Candidate], Awaitable[T]], tokens: int) -> Answer[T]:
        """The answer of this provider and no other, to see how it is.

        Raises:
            InvalidRequestError: It finds fault with the request, and is of this process.
            ProviderError: It failed.
        """
        return await self._once(candidate, _Work(call, tokens, Trail(), deadline=self._clock() + self._budget))

    async def _again(self, candidate: Candidate, work: "_Work[T]", failure: ProviderError) -> Answer[T]:
        """Ask the last provider once more, and perhaps again."""
        most = FIRST_WAIT_SECONDS
        for _ in range(ROUNDS - 1):
            wait = failure.retry_after if failure.retry_after is not None else random.uniform(0, most)
            if failure.kind not in WORTH_A_RETRY or self._clock() + wait >= work.deadline:
                break
            await self._sleep(wait)
            most *= 2
            try:
                return await self._once(candidate, work)
            except ProviderError as error:
                failure = _unless_refused(error)
        raise _final(failure)

    async def _once(self, candidate: Candidate, work: "_Work[T]") -> Answer[T]:
        """Ask one provider, as long as it and the request have time.

        Raises:
            InvalidRequestError: It finds fault with the request, and is of this process.
            ProviderError: Anything else that goes wrong.
        """
        slots = await self._take_slot(candidate.provider, work.deadline)
        health, started = candidate.health, self._clock()
        health.begin(started)
        outcome, status, is_over = "abandoned", None, True
        try:
            async with asyncio.timeout(min(work.deadline - started, candidate.provider.timeout_seconds)):
                value = await work.call(candidate)
        except InvalidRequestError as error:
            outcome, status = FailureKind.REFUSED.value, error.status
            health.fail(self._clock(), FailureKind.REFUSED)
            raise
        except (QuernelError, TimeoutError) as error:
            failure = _as_failure(error, candidate.provider.slug)
            outcome, status = failure.kind.value, failure.upstream_status
            health.fail(self._clock(), failure.kind, retry_after=failure.retry_after)
            raise failure from error
        except BaseException:
            health.abandon()
            raise
        else:
            outcome, now = "ok", self._clock()
            health.succeed(now, seconds=now - started, tokens=work.tokens)
            if isinstance(value, Lasting):
                is_over = False
                health.begin(now)
                value.when_closed(partial(_leave, health, slots))
            return Answer(value, candidate, now - started)
        finally:
            if is_over and slots is not None:
                slots.release()
            work.trail.attempts.append(
                Attempt(
                    provider=candidate.provider.slug,
                    model=candidate.offer.model,
                    outcome=outcome,
                    status=status,
                    milliseconds=(self._clock() - started) * 1000,
                )
            )

    async def _take_slot(self, provider: Provider, deadline: float) -> asyncio.Semaphore | None:
        """A place among the requests that a provider takes at once, to be released; `None` where it takes any number.

        Raises:
            ProviderError: None became free in time.
        """
        if provider.concurrency is None:
            return None
        slots = self._slots.setdefault(provider.slug, asyncio.Semaphore(provider.concurrency))
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await slots.acquire()
        except TimeoutError as error:
            raise ProviderError(f"{provider.slug} has no room.", kind=FailureKind.RATE_LIMITED) from error
        return slots

    async def _hedged(self, first: Candidate, second: Candidate, work: "_Work[T]") -> Answer[T]:
        """The answer of whichever is first; the second is asked only if the first takes unusually long."""
        usual = first.health.latency.quantile(0.95)
        task = asyncio.ensure_future(self._once(first, work))
        tasks = {task}
        try:
            if usual is None:
                return await task
            done, _ = await asyncio.wait(tasks, timeout=max(usual, LEAST_HEDGE_SECONDS))
            if done:
                return task.result()
            tasks.add(asyncio.ensure_future(self._once(second, work)))
            failure: BaseException | None = None
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    failure = one.exception()
                    if failure is None:
                        return one.result()
            assert failure is not None, "a task that is done has a result or an exception"
            raise failure
        finally:
            for one in tasks:
                one.cancel()
            # What was cancelled ends here, so that its attempt is in the trail and its slot is free.
            await asyncio.gather(*tasks, return_exceptions=True)


async def _leave(health: Health, slots: asyncio.Semaphore | None) -> None:
    """Give up the place of an answer that is closed."""
    health.abandon()
    if slots is not None:
        slots.release()


@dataclass(frozen=True, slots=True)
class _Work(Generic[T]):
    call: Callable[[Candidate], Awaitable[T]]
    tokens: int
    trail: Trail
    deadline: float


WORTH_A_RETRY = frozenset({FailureKind.UNREACHABLE, FailureKind.FAILED, FailureKind.RATE_LIMITED})
"""Failures after which the same provider may do better in a moment."""


def _as_failure(error: QuernelError | TimeoutError, slug: str) -> ProviderError:
    """What went wrong at a provider, which may be a model of this process."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, TimeoutError):
        return ProviderError(f"{slug} did not answer in time.", kind=FailureKind.TIMEOUT)
    if isinstance(error, OverloadedError):
        return ProviderError(f"{slug} is full.", kind=FailureKind.RATE_LIMITED, retry_after=error.retry_after)
    return ProviderError(f"{slug} failed ({error.code}).", kind=FailureKind.FAILED, upstream_status=error.status)


def _unless_refused(error: ProviderError) -> ProviderError:
    """A failure after which another provider may be asked.

    Raises:
        InvalidRequestError: The provider finds fault with the request.
    """
    if error.kind is FailureKind.REFUSED:
        raise InvalidRequestError(error.message, hint=error.hint) from error
    return error


def _final(failure: ProviderError) -> QuernelError:
    """What the client is told when all have failed."""
    if failure.kind is FailureKind.TIMEOUT:
        return DeadlineExceededError("No provider answered in time.", hint="Send fewer texts at once, or try again.")
    if failure.kind is not FailureKind.RATE_LIMITED:
        return failure
    full = OverloadedError("All providers are full.", hint="Send the request again later.")
    full.retry_after = failure.retry_after
    return full
