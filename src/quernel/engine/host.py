"""The process that `quernel.engine.process` starts, from inside: `python -m quernel.engine`."""

import gc
import logging
import logging.handlers
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, BinaryIO

from quernel.engine.engine import Engine, EngineStatistics
from quernel.engine.messages import Answer, Computed, Message, Outbox, Request
from quernel.engine.scheduler import HiddenStates
from quernel.engine.start import EngineSpec, Start, start_engine
from quernel.errors import EngineClosedError, InternalError, QuernelError
from quernel.types import TokenPath, Vectors

logger = logging.getLogger(__name__)


class Host:
    """The process from inside: reads requests on its main thread until there can be no more.

    Args:
        requests: Where they come from.
        answers: Where answers go.
    """

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._engines: dict[int, Engine] = {}
        self._promises: dict[int, HiddenStates] = {}
        self._outbox: Outbox[Message] = Outbox(answers)

    def serve(self) -> None:
        """Answer until the parent closes its end, or is gone."""
        while True:
            try:
                requests: list[Request] = pickle.load(self._requests)
            except (EOFError, pickle.UnpicklingError):
                return
            for request in requests:
                self._do(request)

    def _do(self, request: Request) -> None:
        match request.do:
            case "submit":
                self._submit(request.number, *request.arguments)
            case "drop":
                self._drop(request.number)
            case "statistics":
                self._answer(request.number, partial(self._statistics, *request.arguments))
            case "start":
                self._aside(request.number, partial(self._start, request.number, *request.arguments))
            case "close":
                self._aside(request.number, partial(self._close, *request.arguments))

    def send(self, message: Message) -> None:
        """Send one message, and those before it."""
        self._outbox.put(message)
        self._flush()

    def _flush(self) -> None:
        try:
            self._outbox.flush()
        except BrokenPipeError:
            os._exit(0)  # The parent is gone.

    def _aside(self, number: int, work: Callable[[], Any]) -> None:
        """Answer with what a function gives, on a thread of its own, since it takes its time."""
        threading.Thread(target=self._answer, args=(number, work), daemon=True).start()

    def _answer(self, number: int, work: Callable[[], Any]) -> None:
        try:
            answer = Answer(number, work())
        except (QuernelError, MemoryError) as error:
            answer = Answer(number, None, error)
        except Exception as error:  # that of a library, which the parent may not be able to read
            logger.exception("The engine's process failed.")
            answer = Answer(
                number,
                None,
                InternalError(f"The engine's process failed ({type(error).__name__}).", hint="The log has more."),
            )
        self.send(answer)

    def _start(self, number: int, spec: EngineSpec) -> tuple[Start, EngineStatistics]:
        engine, start = start_engine(spec, self._flush, is_alone=True)
        self._engines[number] = engine
        gc.collect()
        gc.freeze()  # Weights and modules stay; a collection need not look through them again and again.
        return start, engine.statistics

    def _engine(self, number: int) -> Engine:
        engine = self._engines.get(number)
        if engine is None:
            raise EngineClosedError("The engine is closed.")
        return engine

    def _statistics(self, engine: int) -> EngineStatistics:
        return self._engine(engine).statistics

    def _close(self, engine: int) -> None:
        self._engine(engine).close()
        self._flush()  # what waited has failed
        del self._engines[engine]

    def _submit(self, number: int, engine: int, paths: Sequence[TokenPath]) -> None:
        try:
            promise = self._engine(engine).submit(paths)
        except QuernelError as error:
            self.send(Answer(number, None, error))
            return
        self._promises[number] = promise
        promise.add_done_callback(partial(self._kept, number))
        if promise.done():  # before it was known here, so that nobody has sent it
            self._flush()

    def _kept(self, number: int, promise: "Future[Vectors]") -> None:
        """Have an answer sent at the end of its batch."""
        assert isinstance(promise, HiddenStates)
        self._promises.pop(number, None)
        if promise.cancelled():
            return
        error = promise.exception()
        value = None
        if error is None:
            value = Computed(promise.result(), promise.queue_seconds, promise.inference_seconds)
        self._outbox.put(Answer(number, value, error))

    def _drop(self, number: int) -> None:
        promise = self._promises.get(number)
        if promise is not None:
            promise.cancel()


class LogSender(logging.handlers.QueueHandler):
    """Sends log records to the parent, whose log they belong to."""

    def __init__(self, host: Host) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._host = host

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one."""
        self._host.send(record)


def main() -> None:
    """Be the process, until the parent is done."""
    for number in (signal.SIGINT, signal.SIGTERM):  # They are the parent's, which ends this process when it is through.
        signal.signal(number, signal.SIG_IGN)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints is no answer.
    host = Host(requests, answers)
    logging.basicConfig(level=logging.INFO, handlers=[LogSender(host)])
    host.serve()
    os._exit(0)  # Whatever is still computed has nobody to go to.
