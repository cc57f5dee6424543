"""The thread that computes on a device, for all engines there.

Two threads that compute at once would each bring a team of threads as large as the machine, and the teams would wait
for each other in every product. So all models of a device take turns on one thread. No torch.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound="Turns")


class Turns(Protocol):
    """What takes turns on a worker: an engine."""

    def has_work(self) -> bool:
        """Whether anything waits to be computed. The worker holds the lock."""

    def work(self) -> None:
        """Compute one batch."""


class Worker(Generic[E]):
    """A thread that gives engines their turns, one batch each. It ends when it has none.

    Attributes:
        changed: The lock of everything that engines share with their callers; notified when there is work.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._engines: deque[E] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._busy_with: E | None = None
        self._thread: threading.Thread | None = None

    @property
    def engines(self) -> tuple[E, ...]:
        """Those that take turns."""
        return tuple(self._engines)

    def attach(self, engine: E) -> None:
        """Let an engine take its turns."""
        with self.changed:
            self._engines.append(engine)
            self._start()

    def detach(self, engine: E) -> None:
        """Let it take no more turns, and wait for the end of the one that it has. Safe to call twice."""
        with self.changed:
            if engine in self._engines:
                self._engines.remove(engine)
            thread, is_last = self._thread, not self._engines
            self.changed.notify_all()
            if thread is None or thread is threading.current_thread():
                return
            self.changed.wait_for(lambda: self._busy_with is not engine)
        if is_last:
            thread.join()

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns, or raises, on the thread, between two batches."""
        result, run = _promise(function)
        with self.changed:
            self._calls.append(run)
            self._start()
            self.changed.notify_all()
        return result.result()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="quernel-engine", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self.changed:
                self._busy_with = None
                self.changed.notify_all()
                self.changed.wait_for(self._has_work_or_end)
                if self._calls:
                    call, engine = self._calls.popleft(), None
                elif self._engines:
                    engine = next(engine for engine in self._engines if engine.has_work())
                    self._engines.remove(engine)
                    self._engines.append(engine)
                    self._busy_with = engine
                else:
                    self._thread = None
                    return
            if engine is None:
                call()
            else:
                engine.work()

    def _has_work_or_end(self) -> bool:
        return bool(self._calls) or not self._engines or any(engine.has_work() for engine in self._engines)


def run_aside(function: Callable[[], T]) -> T:
    """What a function returns, or raises, on a thread of its own, which is gone afterwards.

    For work with tensors outside of a worker: OpenMP keeps a team for each thread that has ever computed, and with more
    teams than cores each of them is slower to wake (1.6 times the time of a short query on two cores).
    """
    result, run = _promise(function)
    thread = threading.Thread(target=run, name="quernel-load", daemon=True)
    thread.start()
    found = result.result()
    thread.join()
    return found


def _promise(function: Callable[[], T]) -> "tuple[Future[T], Callable[[], None]]":
    """The promise of what a function gives, and what keeps it."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            result.set_exception(error)

    return result, run
