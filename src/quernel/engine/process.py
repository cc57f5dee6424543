"""Engines in a process of their own, and the door to it.

What a server does for a request is Python, and so is a good part of what an engine does for a batch of a small model.
In one process they take turns at the interpreter's lock; in two they run at once. And an engine that dies, as when the
system takes back memory, takes only its own process with it: what it was computing fails, what comes meanwhile is told
to try again, and the models are loaded anew.

Parent and child are one program that sends itself pickled messages, over the child's standard input and output. No
torch here, so that a child can be started before the parent has loaded it.
"""

import asyncio
import itertools
import logging
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from quernel.engine.engine import EngineStatistics
from quernel.engine.messages import Answer, Message, Outbox, Request
from quernel.engine.scheduler import HiddenStates
from quernel.errors import EngineClosedError, ModelLoadError, QuernelError
from quernel.types import TokenPath

if TYPE_CHECKING:
    from quernel.engine.start import EngineSpec, Start

logger = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 60.0
"""The most that is waited before a process that dies again and again is started again; the first time not at all."""

STEADY_SECONDS = 60.0
"""A process that has lived so long is one that works."""

STATISTICS_SECONDS = 1.0
"""How long counts are waited for: a process that hangs may not stop the server's event loop."""

AT_ONCE = 4
"""Requests in a message, at most, on an event loop: more cost less each, but the engine would wait for the first."""

CLOSE_SECONDS = 10.0
"""How long the process may take to end when it is told to."""


class EngineProcess:
    """A process in which engines run. It is started at once, and again whenever it dies.

    Close it (or use it in a `with` block); it does not outlive this process.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()  # to start and end processes and engines; told of a new process
        self._engines: list[RemoteEngine] = []
        self._is_closing = threading.Event()
        self._pause_seconds = 0.0
        self._child = Child(self._revive)

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, spec: "EngineSpec") -> "tuple[RemoteEngine, Start]":
        """Load a model there and start its engine.

        Raises:
            ModelLoadError: The weights cannot be read or used, or the process died of it.
            SettingsError: A setting does not fit this machine or this model.
            EngineClosedError: This is closed.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._is_closing.is_set() or not self._child.has_ended)
            if self._is_closing.is_set():
                raise EngineClosedError("The engine's process is closed.")
            engine = RemoteEngine(spec, self._forget)
            try:
                start = engine.start_in(self._child)
            except EngineClosedError as error:
                raise ModelLoadError(
                    f"The engine's process ended while it loaded {spec.source.name}.",
                    hint="Most often memory ran out: use a smaller model or type, or unload another.",
                ) from error
            self._engines.append(engine)
            return engine, start

    def close(self) -> None:
        """End the process; what it has not computed fails with `EngineClosedError`. Safe to call twice."""
        self._is_closing.set()
        with self._turn:
            self._turn.notify_all()
            self._child.end()

    def _forget(self, engine: "RemoteEngine") -> None:
        with self._turn:
            if engine in self._engines:
                self._engines.remove(engine)

    def _revive(self, dead: "Child") -> None:
        """Start another process in the place of one that died, with the same engines. On a thread of its own."""
        is_steady = time.monotonic() - dead.started > STEADY_SECONDS
        pause = 0.0 if is_steady else self._pause_seconds
        self._pause_seconds = min(max(1.0, 2 * pause), LONGEST_PAUSE_SECONDS)
        if self._is_closing.is_set():
            return
        logger.error("The engine's process ended (%s); it is started again in %.0f s.", dead.ending, pause)
        self._is_closing.wait(pause)
        with self._turn:
            if self._is_closing.is_set():
                return
            self._child = Child(self._revive)
            self._turn.notify_all()
            for engine in self._engines:
                try:
                    engine.start_in(self._child)
                except QuernelError as error:
                    logger.error("%s could not be loaded again: %s", engine.spec.source.name, error)
                else:
                    logger.info("%s is loaded again.", engine.spec.source.name)


class RemoteEngine:
    """An engine in another process; it has the methods of `Engine`.

    Args:
        spec: What runs in it.
        on_close: Told when it is closed.
    """

    def __init__(self, spec: "EngineSpec", on_close: "Callable[[RemoteEngine], None]") -> None:
        self.spec = spec
        self._on_close = on_close
        self._place: tuple[Child, int] | None = None
        self._last: EngineStatistics

    @property
    def is_running(self) -> bool:
        """Whether it computes now: not while its process is started again."""
        place = self._place
        return place is not None and not place[0].has_ended

    def start_in(self, child: "Child") -> "Start":
        """Start it in a process, in which it has a number from then on.

        Raises:
            QuernelError: It could not be started.
        """
        promise: Future[tuple[Start, EngineStatistics]] = Future()
        number = child.send("start", (self.spec,), promise)
        start, self._last = promise.result()
        self._place = child, number
        return start

    def submit(self, paths: Sequence[TokenPath]) -> HiddenStates:
        """As `Engine.submit`; that the queue is full is said by the promise.

        Raises:
            EngineClosedError: It is closed, or its process is being started again.
        """
        child, engine = self._connected()
        promise = HiddenStates()
        number = child.send("submit", (engine, tuple(paths)), promise, at_once=False)
        promise.add_done_callback(partial(_pass_cancellation, child, number))
        return promise

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since its process was started; the last known ones where it is gone, or does not answer soon."""
        with suppress(EngineClosedError, TimeoutError):
            child, engine = self._connected()
            promise: Future[EngineStatistics] = Future()
            child.send("statistics", (engine,), promise)
            self._last = promise.result(STATISTICS_SECONDS)
        return self._last

    def close(self) -> None:
        """As `Engine.close`."""
        self._on_close(self)
        try:
            child, engine = self._connected()
            promise: Future[None] = Future()
            child.send("close", (engine,), promise)
            promise.result()
        except EngineClosedError:
            pass  # With the process the engine is gone too.
        self._place = None

    def _connected(self) -> "tuple[Child, int]":
        place = self._place
        if place is None:
            raise EngineClosedError("The engine is closed.", hint="Load the model again.")
        return place


def _pass_cancellation(child: "Child", number: int, promise: "Future[Any]") -> None:
    if promise.cancelled():
        child.drop(number)


def gone(message: str) -> EngineClosedError:
    """What is said where there is no process to compute."""
    error = EngineClosedError(message, hint="Try again in a moment.")
    error.retry_after = 1.0
    return error


class Child:
    """One process, as its parent sees it.

    Args:
        on_end: Told, on a thread of its own, that the process has ended, when everybody who waited knows.

    Attributes:
        started: When.
        has_ended: Whether it has.
        ending: How, in words.
    """

    def __init__(self, on_end: "Callable[[Child], None]") -> None:
        self.started = time.monotonic()
        self.ending = "it has not"
        self._on_end = on_end
        self._asking = threading.Lock()  # so that no promise comes after the last have been told
        self._numbers = itertools.count()
        self._promises: dict[int, Future[Any]] = {}
        self._flushed_by: asyncio.AbstractEventLoop | None = None
        self.has_ended = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "quernel.engine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._stdin, self._stdout = cast("BinaryIO", self._process.stdin), cast("BinaryIO", self._process.stdout)
        self._outbox: Outbox[Request] = Outbox(self._stdin)
        self._thread = threading.Thread(target=self._receive, name="quernel-engine-answers", daemon=True)
        self._thread.start()

    def send(self, do: str, arguments: tuple[Any, ...], promise: "Future[Any]", *, at_once: bool = True) -> int:
        """Ask for something; the promise gets the answer. Returns the number of the request.

        Args:
            do: What; a method of the child's.
            arguments: Its arguments.
            promise: Gets the answer.
            at_once: Whether it is written now. Else, on an event loop, when the loop is through with what is ready,
                together with a few others: a message costs as much as several requests in one.

        Raises:
            EngineClosedError: The process has ended.
        """
        with self._asking:
            if self.has_ended:
                raise gone("The engine's process has ended, and is being started again.")
            number = next(self._numbers)
            self._promises[number] = promise
        self._outbox.put(Request(number, do, arguments))
        self._flush() if at_once else self._flush_soon()
        return number

    def drop(self, number: int) -> None:
        """Nobody waits for that answer any more."""
        if self._promises.pop(number, None) is not None:
            self._outbox.put(Request(number, "drop", ()))
            self._flush_soon()

    def _flush_soon(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
            return
        if len(self._outbox) >= AT_ONCE:
            self._flush()
        elif self._flushed_by is not loop:
            self._flushed_by = loop
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushed_by = None
        with suppress(OSError, ValueError):  # that it has ended is told to everybody by the thread that reads
            self._outbox.flush()

    def end(self) -> None:
        """End the process, and wait for it. Safe to call twice."""
        with suppress(OSError):  # what was still to be written has no reader
            self._stdin.close()
        self._process.terminate()  # heard only while it loads its libraries; then it reads that there is no more to do
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _receive(self) -> None:
        """Hand out answers until the process ends."""
        while True:
            try:
                messages: list[Message] = pickle.load(self._stdout)
            except (EOFError, OSError, pickle.UnpicklingError):
                break
            for message in messages:
                if isinstance(message, logging.LogRecord):
                    named = logging.getLogger(message.name)
                    if named.isEnabledFor(message.levelno):
                        named.handle(message)
                else:
                    self._keep(message)
        code = self._process.wait()
        self.ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        with self._asking:
            self.has_ended = True
            promises, self._promises = self._promises, {}
        self._stdout.close()
        with suppress(OSError):  # what was still to be written has no reader
            self._stdin.close()
        for promise in promises.values():
            if promise.set_running_or_notify_cancel():
                promise.set_exception(gone(f"The engine's process ended ({self.ending}) before this was computed."))
        threading.Thread(target=self._on_end, args=(self,), name="quernel-engine-restart", daemon=True).start()

    def _keep(self, answer: Answer) -> None:
        """Keep a promise."""
        promise = self._promises.pop(answer.number, None)
        if promise is None or not promise.set_running_or_notify_cancel():
            return
        if answer.error is not None:
            promise.set_exception(answer.error)
        elif isinstance(promise, HiddenStates):
            hidden, promise.queue_seconds, promise.inference_seconds = answer.value
            promise.set_result(hidden)
        else:
            promise.set_result(answer.value)
