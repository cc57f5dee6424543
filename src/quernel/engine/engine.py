"""The thread that computes, and the door to it: many callers, one queue, batches across all of them."""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from quernel.engine.budget import give_back_memory, resident_memory
from quernel.engine.config import EngineConfig
from quernel.engine.scheduler import HiddenStates, Item, Job, Running, Scheduler
from quernel.engine.worker import Worker
from quernel.errors import EngineClosedError, InternalError, NonFiniteError, OverloadedError
from quernel.types import TokenPath, Vectors

logger = logging.getLogger(__name__)

LONG_BATCH_SECONDS = 0.5
"""After a batch that took longer, giving back what it needed of memory costs nothing that would show."""

OnBatch: TypeAlias = Callable[[], None]
"""Told that the results of a batch were handed out."""


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    """Counts since the start.

    Attributes:
        num_tokens: Tokens computed; shared ones once, cached ones not at all.
        num_prefix_hits: Prefixes that were found in the cache.
        num_prefix_misses: Prefixes that could have been.
        prefix_cache_bytes: What the cache holds now.
        num_recomputed: Prompts whose first result was NaN or infinite and that were computed again in float32.
    """

    num_tokens: int = 0
    num_prefix_hits: int = 0
    num_prefix_misses: int = 0
    prefix_cache_bytes: int = 0
    num_recomputed: int = 0


class Runner(Protocol):
    """What the engine needs of a model: `ModelRunner`, or a fake."""

    @property
    def statistics(self) -> RunnerStatistics:
        """Counts since the start; from any thread."""
        ...

    def steps(self, paths: Sequence[TokenPath]) -> Generator[None, None, Vectors]:
        """Hidden states of the prompts' last tokens, float32 `[N, C]`; between steps another batch may run."""
        ...


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counts since the start.

    Attributes:
        num_batches: Batches run.
        num_prompts: Prompts computed.
        num_waiting_tokens: Tokens in the queue now.
        max_batch_tokens: The most that a batch holds.
        busy_seconds: Time spent in batches.
        resident_bytes: Memory of the process that the engine runs in.
        runner: What the runner counted.
    """

    num_batches: int
    num_prompts: int
    num_waiting_tokens: int
    max_batch_tokens: int
    busy_seconds: float
    resident_bytes: int
    runner: RunnerStatistics


class Engine:
    """Computes prompts for many callers at once.

    It batches whatever waits, without waiting for more: idle, a request starts at once; busy, batches grow. Small
    requests run in the middle of a batch of large ones, between two of its steps.
    Close it (or use it in a `with` block); its thread does not keep the process alive.

    Args:
        runner: Runs one batch.
        config: Sizes of batches and queue.
        worker: The thread that computes, shared with the other engines of the device; one of its own where it is None.
        on_batch: Called on that thread after the results of a batch were handed out.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig | None = None,
        worker: "Worker[Engine] | None" = None,
        *,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._runner = runner
        self._on_batch = on_batch
        self._scheduler = Scheduler(config or EngineConfig())
        self._worker: Worker[Engine] = worker or Worker()
        self._changed = self._worker.changed
        self._closed = False
        self._num_batches = 0
        self._num_prompts = 0
        self._busy_seconds = 0.0
        self._worker.attach(self)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether it takes requests."""
        return not self._closed

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the start."""
        with self._changed:
            return EngineStatistics(
                num_batches=self._num_batches,
                num_prompts=self._num_prompts,
                num_waiting_tokens=self._scheduler.num_waiting_tokens,
                max_batch_tokens=self._scheduler.max_batch_tokens,
                busy_seconds=self._busy_seconds,
                resident_bytes=resident_memory(),
                runner=self._runner.statistics,
            )

    def submit(self, paths: Sequence[TokenPath]) -> HiddenStates:
        """The promise of the prompts' hidden states, float32 `[N, C]`. Cancelling it drops what is not computed yet.

        Callable from any thread.

        Raises:
            OverloadedError: The queue is full.
            EngineClosedError: The engine is closed.
        """
        job = Job(paths)
        with self._changed:
            if self._closed:
                raise EngineClosedError("The engine is closed.", hint="Make a new one, or wait for the restart.")
            try:
                self._scheduler.add(job, time.monotonic())
            except OverloadedError as overloaded:
                overloaded.retry_after = self._seconds_for(self._scheduler.num_waiting_tokens / 2)
                raise
            self._changed.notify_all()
        return job.future

    def _seconds_for(self, num_tokens: float) -> float | None:
        """How long so many tokens take at the speed so far."""
        computed = self._runner.statistics.num_tokens
        return num_tokens * self._busy_seconds / computed if computed else None

    def close(self) -> None:
        """Finish the batch in work, fail what waits with `EngineClosedError`, take no more. Safe to call twice."""
        with self._changed:
            self._closed = True
            waiting = self._scheduler.clear()
        for job in waiting:
            job.fail(EngineClosedError("The engine was closed before this request was computed."))
        self._worker.detach(self)

    def has_work(self) -> bool:
        """Whether anything waits. For the worker, which holds the lock."""
        return bool(self._scheduler)

    def work(self) -> None:
        """Compute one batch. For the worker."""
        with self._changed:
            batch = self._scheduler.next_batch(time.monotonic())
        if batch:
            self._answer(batch)

    def interrupt(self, running: Running, now: float) -> bool:
        """Compute small requests that wait here, in the middle of a batch of this or another engine, if that may be."""
        with self._changed:
            batch = self._scheduler.next_interruption(running, now)
        if batch:
            self._answer(batch)
        return bool(batch)

    def _answer(self, batch: Sequence[Item]) -> None:
        started = time.monotonic()
        self._run(batch)
        if self._on_batch is not None:
            self._on_batch()
        if time.monotonic() - started > LONG_BATCH_SECONDS:
            give_back_memory()

    def _run(self, batch: Sequence[Item]) -> None:
        """Compute a batch; where memory runs out, its halves. A failure reaches only the jobs that are in it."""
        started = time.monotonic()
        try:
            hidden = self._compute(batch)
        except Exception as error:  # whatever torch raises belongs to the callers, and the thread goes on
            if len(batch) > 1:
                logger.warning(
                    "A batch of %d prompts failed (%s); trying its halves.", len(batch), type(error).__name__
                )
                self._run(batch[: len(batch) // 2])
                self._run(batch[len(batch) // 2 :])
                return
            logger.exception("A prompt of %d tokens failed.", sum(map(len, batch[0].path)))
            failure = InternalError(f"The model failed on an input ({type(error).__name__}).", hint="The log has more.")
            failure.__cause__ = error
            batch[0].job.fail(failure)
            return
        if hidden is None:
            return
        broken = set(np.flatnonzero(~np.isfinite(hidden).all(axis=1)).tolist())
        now = time.monotonic()
        with self._changed:
            self._num_batches += 1
            self._num_prompts += len(batch)
            self._busy_seconds += now - started
        for row, item in enumerate(batch):
            if row not in broken:
                item.job.deliver(item.index, hidden[row], now)
            else:
                item.job.fail(
                    NonFiniteError(
                        f"The model's result for input {item.index} is not finite, in float32 too.",
                        param="input",
                        hint="The checkpoint may be damaged: try `quernel verify`.",
                    )
                )

    def _compute(self, batch: Sequence[Item]) -> Vectors | None:
        """The results of a batch; none if in the middle of it nobody waits for them any more.

        Between its steps small requests run, if there are none in the batch itself.
        """
        steps = self._runner.steps([item.path for item in batch])
        running = Running(batch, time.monotonic())
        while True:
            try:
                next(steps)
            except StopIteration as end:
                hidden: Vectors = end.value
                return hidden
            if all(item.job.abandoned for item in batch):
                return None
            for engine in self._worker.engines:
                now = time.monotonic()
                if engine.interrupt(running, now):
                    running.interrupted_seconds += time.monotonic() - now


def wait(hidden: "Future[Vectors]") -> Vectors:
    """The result, or its error; an interrupt (Ctrl-C) drops the work."""
    try:
        return hidden.result()
    except BaseException:
        hidden.cancel()
        raise
