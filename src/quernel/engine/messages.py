"""What an engine's process and its parent say to each other. No torch."""

import logging
from typing import Any, NamedTuple, TypeAlias

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
