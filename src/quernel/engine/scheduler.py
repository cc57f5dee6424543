"""What is computed next, in batches of bounded size: small requests soon, large ones in turn. No torch, no threads.

The engine's thread is the only one that takes batches; the engine holds the lock.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from quernel.engine.config import EngineConfig
from quernel.engine.segments import SharedRuns
from quernel.errors import OverloadedError
from quernel.types import TokenPath, Vectors


class HiddenStates(Future[Vectors]):
    """The promise of a job's results, float32 `[N, C]`, and where its time went, which is known when it is kept.

    Attributes:
        queue_seconds: Until the first prompt was handed out.
        inference_seconds: From then on.
    """

    queue_seconds: float = 0.0
    inference_seconds: float = 0.0


class Job:
    """The prompts of one caller, and the promise of their results.

    Args:
        paths: The prompts.

    Attributes:
        future: Gets the results, or an error. Cancelling it drops what is not computed yet.
        num_tokens: Tokens of all prompts, shared ones counted each time.
        num_taken: Prompts that were handed out, from the front.
        added: When it was queued.
        started: When its first prompt was handed out.
        waiting_since: When it began to wait for its turn.
    """

    def __init__(self, paths: Sequence[TokenPath]) -> None:
        self.paths = paths
        self.future = HiddenStates()
        self.num_tokens = sum(map(num_tokens, paths))
        self.num_taken = 0
        self.added = 0.0
        self.started = 0.0
        self.waiting_since = 0.0
        self._num_missing = len(paths)
        self._rows: Vectors | None = None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more: cancelled, or failed already."""
        return self.future.done()

    def deliver(self, index: int, row: Vectors, now: float) -> None:
        """Take the result of one prompt, float32 `[C]`; the last one completes the job."""
        if self._rows is None:
            self._rows = np.empty((len(self.paths), len(row)), dtype=np.float32)
        self._rows[index] = row
        self._num_missing -= 1
        if not self._num_missing and self.future.set_running_or_notify_cancel():
            self.future.queue_seconds = self.started - self.added
            self.future.inference_seconds = now - self.started
            self.future.set_result(self._rows)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error instead, unless the job is done or cancelled."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt in a batch: the `index`-th of its job."""

    job: Job
    index: int

    @property
    def path(self) -> TokenPath:
        """Its tokens."""
        return self.job.paths[self.index]


@dataclass(slots=True)
class Running:
    """A batch that runs.

    Attributes:
        batch: Its prompts.
        started: When it began.
        interrupted_seconds: How long others have run in its middle.
    """

    batch: Sequence[Item]
    started: float
    interrupted_seconds: float = 0.0


UNMEASURED_BATCH_TOKENS = 8_192
"""Tokens in a batch where nobody has said or measured how many."""


class Scheduler:
    """A bounded queue of jobs, handed out as batches of at most `max_batch_tokens`.

    Two lanes. Jobs of at most `max_interactive_tokens` come first, in the order of arrival, and may interrupt a batch
    of others. Larger jobs take turns: one that is not through after a batch goes to the end, and waits anew. A large
    job that has waited `max_wait_seconds` for its turn goes before everything, so a stream of small ones cannot hold
    it up for ever.

    Times are seconds on any clock that the caller likes, as long as it is one.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.max_batch_tokens = config.max_batch_tokens or UNMEASURED_BATCH_TOKENS
        self._interactive: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self.num_waiting_tokens = 0

    def __bool__(self) -> bool:
        return bool(self._interactive or self._bulk)

    def add(self, job: Job, now: float) -> None:
        """Queue all prompts of a job.

        Raises:
            OverloadedError: They do not fit into the queue. (A job too large for any queue is taken when it is empty.)
        """
        if self and self.num_waiting_tokens + job.num_tokens > self._config.max_queue_tokens:
            raise OverloadedError(
                f"{self.num_waiting_tokens} tokens wait already, and this request's {job.num_tokens} do not fit into a "
                f"queue of {self._config.max_queue_tokens}.",
                hint="Try again soon, or send fewer texts at once.",
            )
        self.num_waiting_tokens += job.num_tokens
        job.added = job.waiting_since = now
        lane = self._interactive if job.num_tokens <= self._config.max_interactive_tokens else self._bulk
        lane.append(job)

    def next_batch(self, now: float) -> list[Item]:
        """The next prompts to compute; empty when none wait. Prompts of abandoned jobs are dropped."""
        self._drop_abandoned()
        overdue = self._bulk and now - self._bulk[0].waiting_since >= self._config.max_wait_seconds
        if self._interactive and not overdue:
            return self._take(self._interactive, now)
        batch = self._take(self._bulk, now)
        if self._bulk and self._bulk[0].num_taken:
            self._bulk[0].waiting_since = now
            self._bulk.rotate(-1)
        return batch

    def next_interruption(self, running: "Running", now: float) -> list[Item]:
        """The prompts to compute now, in the middle of the batch that runs; none where it holds small jobs too.

        A batch whose jobs have waited too long gets at least half of the time.
        """
        if not self._interactive or any(
            item.job.num_tokens <= self._config.max_interactive_tokens for item in running.batch
        ):
            return []
        overdue = now - min(item.job.waiting_since for item in running.batch) >= self._config.max_wait_seconds
        if overdue and running.interrupted_seconds > (now - running.started) / 2:
            return []
        self._drop_abandoned()
        return self._take(self._interactive, now)

    def clear(self) -> list[Job]:
        """Empty the queue; the jobs that were in it."""
        jobs = [*self._interactive, *self._bulk]
        self._interactive.clear()
        self._bulk.clear()
        self.num_waiting_tokens = 0
        return jobs

    def _take(self, lane: deque[Job], now: float) -> list[Item]:
        """A batch from the front of a lane. Runs that it shares count once; a prompt over the budget runs alone."""
        batch: list[Item] = []
        shared = SharedRuns()
        while lane:
            job = lane[0]
            if not job.num_taken:
                job.started = now
            while job.num_taken < len(job.paths):
                path = job.paths[job.num_taken]
                if batch and shared.num_tokens + shared.cost(path) > self.max_batch_tokens:
                    return batch
                shared.add(path)
                batch.append(Item(job, job.num_taken))
                job.num_taken += 1
                self.num_waiting_tokens -= num_tokens(path)
            lane.popleft()
        return batch

    def _drop_abandoned(self) -> None:
        for lane in (self._interactive, self._bulk):
            for job in [job for job in lane if job.abandoned]:
                lane.remove(job)
                self.num_waiting_tokens -= sum(map(num_tokens, job.paths[job.num_taken :]))


def num_tokens(path: TokenPath) -> int:
    """Tokens of a prompt."""
    return sum(map(len, path))
