"""What is computed next: prompts in the order of arrival, in batches of bounded size. No torch, no threads, no clock.

The engine's thread is the only caller of `next_batch`; the engine holds the lock.
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


class Job:
    """The prompts of one caller, and the promise of their results.

    Args:
        paths: The prompts.

    Attributes:
        future: Gets float32 `[N, C]`, or an error. Cancelling it drops what is not computed yet.
    """

    def __init__(self, paths: Sequence[TokenPath]) -> None:
        self.paths = paths
        self.future: Future[Vectors] = Future()
        self._num_missing = len(paths)
        self._rows: Vectors | None = None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more: cancelled, or failed already."""
        return self.future.done()

    def deliver(self, index: int, row: Vectors) -> None:
        """Take the result of one prompt, float32 `[C]`; the last one completes the job."""
        if self._rows is None:
            self._rows = np.empty((len(self.paths), len(row)), dtype=np.float32)
        self._rows[index] = row
        self._num_missing -= 1
        if not self._num_missing and self.future.set_running_or_notify_cancel():
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


class Scheduler:
    """A bounded queue of prompts, handed out as batches of at most `max_batch_tokens`."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._waiting: deque[Item] = deque()
        self.num_waiting_tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job) -> None:
        """Queue all prompts of a job.

        Raises:
            OverloadedError: They do not fit into the queue. (A job too large for any queue is taken when it is empty.)
        """
        tokens = sum(_num_tokens(path) for path in job.paths)
        if self._waiting and self.num_waiting_tokens + tokens > self._config.max_queue_tokens:
            raise OverloadedError(
                f"{self.num_waiting_tokens} tokens wait already, and this request's {tokens} do not fit into a queue "
                f"of {self._config.max_queue_tokens}.",
                hint="Try again soon, or send fewer texts at once.",
            )
        self.num_waiting_tokens += tokens
        self._waiting.extend(Item(job, index) for index in range(len(job.paths)))

    def next_batch(self) -> list[Item]:
        """The next prompts to compute; empty only when none wait.

        Prompts of abandoned jobs are dropped. Runs shared within the batch count once. A prompt longer than the budget
        runs alone.
        """
        batch: list[Item] = []
        shared = SharedRuns()
        while self._waiting:
            item = self._waiting[0]
            fits = shared.num_tokens + shared.cost(item.path) <= self._config.max_batch_tokens
            if not item.job.abandoned and batch and not fits:
                break
            self._waiting.popleft()
            self.num_waiting_tokens -= _num_tokens(item.path)
            if not item.job.abandoned:
                batch.append(item)
                shared.add(item.path)
        return batch

    def clear(self) -> list[Job]:
        """Empty the queue; the jobs that had prompts in it."""
        jobs = {id(item.job): item.job for item in self._waiting}
        self._waiting.clear()
        self.num_waiting_tokens = 0
        return list(jobs.values())


def _num_tokens(path: TokenPath) -> int:
    return sum(map(len, path))
