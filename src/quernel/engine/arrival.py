"""From the engine's thread to the event loops that wait for it: many results with one call.

`asyncio.wrap_future` wakes the loop once for each result, with a system call on the thread that should be computing. A
batch has many results; here those that come before the loop has looked go with the first. No torch.
"""

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


async def arrival(promise: "Future[T]") -> T:
    """The result of a promise that another thread keeps, or its error. Cancelling the task cancels the promise."""
    loop = asyncio.get_running_loop()
    door = _DOORS.get(loop)
    if door is None:
        door = _DOORS[loop] = Door(loop)
    waiter: asyncio.Future[None] = loop.create_future()
    promise.add_done_callback(lambda _: door.let_in(waiter))
    try:
        await waiter
    except asyncio.CancelledError:
        promise.cancel()
        raise
    try:
        return promise.result()
    except CancelledError:
        raise asyncio.CancelledError from None


class Door:
    """Where one event loop is told of results.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: list[asyncio.Future[None]] = []

    def let_in(self, waiter: "asyncio.Future[None]") -> None:
        """Wake a waiter; from any thread."""
        with self._lock:
            is_first = not self._waiting
            self._waiting.append(waiter)
        if is_first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


_DOORS: "WeakKeyDictionary[asyncio.AbstractEventLoop, Door]" = WeakKeyDictionary()
