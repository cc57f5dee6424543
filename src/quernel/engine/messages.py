"""What an engine's process and its parent say to each other, and how it is sent. No torch."""

import logging
import pickle
import threading
from collections import deque
from typing import Any, BinaryIO, Generic, NamedTuple, TypeAlias, TypeVar

from quernel.types import Vectors


class Request(NamedTuple):
    """From parent to child, in lists. `do` is one of the child's methods; the answer has the same number."""

    number: int
    do: str
    arguments: tuple[Any, ...]


class Answer(NamedTuple):
    """From child to parent."""

    number: int
    value: Any
    error: BaseException | None = None


class Computed(NamedTuple):
    """The value of an answer to `submit`: hidden states `[N, C]`, and where the time went."""

    hidden: Vectors
    queue_seconds: float
    inference_seconds: float


Message: TypeAlias = Answer | logging.LogRecord
"""From child to parent, in lists."""

M = TypeVar("M")


class Outbox(Generic[M]):
    """Messages on their way, in their order, from any thread.

    Args:
        stream: Where they go, as pickled lists.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: deque[M] = deque()
        self._writing = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: M) -> None:
        """Have a message sent with the next `flush`."""
        self._waiting.append(message)

    def flush(self) -> None:
        """Send what there is.

        Raises:
            OSError: Nobody reads any more.
            ValueError: The stream was closed.
        """
        with self._writing:
            messages = []
            while self._waiting:
                messages.append(self._waiting.popleft())
            if messages:
                pickle.dump(messages, self._stream, protocol=pickle.HIGHEST_PROTOCOL)
                self._stream.flush()
