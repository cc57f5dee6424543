"""Requests and replies as JSON lines in a file, for accounts that have turned it on at a gateway that has such a file.

Both have to want it, and a request of which nobody may keep data is never in it. A line has the texts that were asked
and answered, never a key, and of vectors only how many there are. The file is its owner's to read alone.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson

from quernel.errors import SettingsError
from quernel.gateway.chat import ChatReply, ChatStream
from quernel.gateway.usage import Usage
from quernel.protocols.chat import ChatCall
from quernel.protocols.provider_replies import Reply
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("quernel.gateway")

MOST_WAITING = 256
"""Requests that wait to be written. Where more come than the disk takes, some are not captured."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A request that was answered, or failed.

    Attributes:
        row: As it is written down.
        request: What was asked.
        answer: What the provider said; `None` where it failed.
    """

    row: Usage
    request: EmbeddingRequest | RerankRequest | ChatCall = field(repr=False)
    answer: object = field(repr=False)

    def line(self) -> bytes:
        """As the file has it."""
        row = self.row
        shown = {
            "time": datetime.fromtimestamp(row.time / 1000, UTC).isoformat(timespec="milliseconds"),
            "generation": row.id,
            "account": row.account,
            "key": row.key,
            "user": row.user,
            "operation": row.operation,
            "model": row.model,
            "provider": row.provider,
            "status": row.status,
            "code": row.code,
            "request": _request(self.request),
            "reply": _reply(self.answer),
        }
        return orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE, default=_plain)


class Capture:
    """Appends to a file, from a thread of its own.

    Args:
        file: The file. One that is there is continued.

    Raises:
        SettingsError: It cannot be written, is a link, or another gateway writes it.
    """

    def __init__(self, file: Path) -> None:
        self._file = _open(file)
        self._waiting: queue.Queue[Captured | None] = queue.Queue(MOST_WAITING)
        self._num_lost = 0
        self._has_failed = False
        self._writer = threading.Thread(target=self._write_all, name="quernel-capture", daemon=True)
        self._writer.start()

    def add(self, captured: Captured) -> None:
        """Write a request down, soon."""
        try:
            self._waiting.put_nowait(captured)
        except queue.Full:
            self._num_lost += 1
            if self._num_lost == 1:
                logger.warning("The capture file is written too slowly: some requests are not captured.")

    def flush(self) -> None:
        """Wait until all is written."""
        self._waiting.join()

    def close(self) -> None:
        """Write what waits, and let the file go. Safe to call twice."""
        if self._writer.is_alive():
            self._waiting.put(None)
            self._writer.join()
            os.close(self._file)

    def _write_all(self) -> None:
        while (captured := self._waiting.get()) is not None:
            try:
                _write(self._file, captured.line())
            except (OSError, TypeError) as error:  # no room on the disk; a text that is no Unicode
                if not self._has_failed:
                    logger.error("A request could not be captured (%s).", type(error).__name__)
                self._has_failed = True
            finally:
                self._waiting.task_done()


def _open(file: Path) -> int:
    # A link could lead anywhere, and what is captured is not for everybody.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(file, flags, 0o600)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}.", param="capture_file") from error
    try:
        if sys.platform != "win32":
            os.fchmod(descriptor, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SettingsError(
            f"{file} is another's, or another gateway writes it.",
            param="capture_file",
            hint="Give each gateway a file of its own.",
        ) from error
    return descriptor


def _write(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _request(request: EmbeddingRequest | RerankRequest | ChatCall) -> Mapping[str, Any]:
    if isinstance(request, ChatCall):
        return request.fields
    if isinstance(request, RerankRequest):
        return {
            "query": request.query,
            "documents": list(request.documents),
            "instruction": request.instruction,
            "top_n": request.top_n,
        }
    return {
        "inputs": list(request.inputs),
        "instruction": request.instruction,
        "input_type": request.input_type,
        "prompt_name": request.prompt_name,
        "dimensions": request.dimensions,
    }


def _reply(answer: object) -> Mapping[str, Any] | None:
    if isinstance(answer, ChatReply | ChatStream):
        return {"texts": [answer.texts[number] for number in sorted(answer.texts)]}
    result = answer.result if isinstance(answer, Reply) else None
    if isinstance(result, EmbeddingResult):
        count, dimensions = result.vectors.shape
        return {"vectors": count, "dimensions": dimensions}
    if isinstance(result, RerankResult):
        return {"results": [{"index": one.index, "relevance_score": one.relevance_score} for one in result.results]}
    return None


def _plain(value: object) -> object:
    """A field of a request that is passed on as it came, which may have lines of its own."""
    assert isinstance(value, msgspec.Raw), "the rest is plain"
    try:
        return orjson.loads(bytes(value))
    except orjson.JSONDecodeError:
        return bytes(value).decode(errors="replace")
