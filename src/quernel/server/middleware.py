"""What surrounds every request: its id, the limit of its body, its log line, and errors as replies.

Of what a client sent, only its request id, the method and the path are ever logged: not a text, not an error's message,
not the values in a traceback.
"""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quernel.errors import EngineClosedError, InternalError, QuernelError, UnavailableError
from quernel.protocols.error_body import UNION, ErrorDialect
from quernel.types import ModelInfo

logger = logging.getLogger("quernel.server")

REQUEST_ID_HEADER = "x-request-id"
SAFE_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
"""A client's own id is kept if it is one of these; others could forge log lines."""

CLIENT_CLOSED = 499
"""The status in the log where the client hung up and nothing was sent (nginx's number)."""

RETRY_AFTER_SECONDS = 1
"""What a client is told to wait where the queue is full or a model not ready; a queue turns over in about that time."""

HTTP_CODES: Mapping[int, str] = {
    404: "route_not_found",
    405: "method_not_allowed",
    413: "body_too_large",
}
"""Code of an error that is about HTTP itself, and so not in the error tree."""


@dataclass(slots=True)
class Exchange:
    """One request and its reply, as the log sees them.

    Attributes:
        request_id: The client's id for it, or ours.
        errors: How its errors are answered.
        num_tokens: Tokens that a model read for it.
        num_truncated: Texts that were cut for it.
        model: The model that read them.
        code: Code of the error that was answered.
        status: Status that was answered.
    """

    request_id: str
    errors: ErrorDialect = UNION
    num_tokens: int | None = None
    num_truncated: int = 0
    model: ModelInfo | None = None
    code: str | None = None
    status: int | None = None
    started: float = field(default_factory=time.perf_counter)

    def count(self, model: ModelInfo, num_tokens: Sequence[int], truncated: Sequence[bool]) -> None:
        """Add what a model read."""
        self.model = model
        self.num_tokens = (self.num_tokens or 0) + sum(num_tokens)
        self.num_truncated += sum(truncated)


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    return cast("Exchange", request.state.exchange)


def json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A reply whose body is JSON already."""
    return Response(body, status_code=status, headers=headers, media_type="application/json")


class ExchangeMiddleware:
    """Gives each request an id, bounds its body, logs it, and answers what nobody caught with 500.

    Args:
        app: What answers.
        max_body_bytes: Largest body.
        log_requests: Whether to log each request; errors of ours are logged in any case.
        dialects: How errors are answered on which path; on others as a union of all.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, log_requests: bool, dialects: Mapping[str, ErrorDialect]
    ) -> None:
        self._app = app
        self._dialects = dialects
        self._max_body_bytes = max_body_bytes
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = Exchange(_request_id(headers), self._dialects.get(scope["path"], UNION))
        scope.setdefault("state", {})["exchange"] = exchange

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = exchange.request_id
            await send(message)

        try:
            await self._app(scope, limited(receive, headers, self._max_body_bytes), send_with_id)
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED
        except asyncio.CancelledError:
            # uvicorn cancels what has outlived the grace at its stop. Raised on, it would be answered as a fault.
            if exchange.status is None:
                stopped = EngineClosedError("The server is stopping.", hint="Send the request again.")
                await answer_error(Request(scope), stopped)(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001 (the last resort, so that a client gets a reply and the server goes on)
            log_failure(exchange, error)
            if exchange.status is None:
                await answer_error(Request(scope), _unknown_failure(exchange))(scope, receive, send_with_id)
        finally:
            if self._log_requests:
                log_exchange(exchange, scope)


def limited(receive: Receive, headers: Headers, max_bytes: int) -> Receive:
    """`receive`, refusing a body that is longer than `max_bytes` before more of it is kept.

    Raises (when called):
        HTTPException: 413.
    """
    declared = headers.get("content-length", "")
    too_large = HTTPException(413, f"The body is larger than {max_bytes} bytes. Send the texts in several requests.")
    received = 0

    async def receive_within_limit() -> Message:
        nonlocal received
        if declared.isdecimal() and int(declared) > max_bytes:
            raise too_large
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return receive_within_limit


def answer_error(request: Request, error: Exception) -> Response:
    """The reply to an error of ours."""
    assert isinstance(error, QuernelError)
    exchange = exchange_of(request)
    exchange.code = error.code
    retry = {"retry-after": str(RETRY_AFTER_SECONDS)} if isinstance(error, UnavailableError) else None
    return error_response(exchange.errors, str(error), error.status, error.code, param=error.param, headers=retry)


def error_response(
    dialect: ErrorDialect,
    message: str,
    status: int,
    code: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The reply to an error, as the dialect has it."""
    body = dialect.encode(message, status=status, code=code, param=param)
    return json_response(body, status=dialect.status(status, code), headers=headers)


async def on_quernel_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for the error tree."""
    assert isinstance(error, QuernelError)
    if error.status >= 500 and not isinstance(error, UnavailableError):
        log_failure(exchange_of(request), error)
    return answer_error(request, error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for its own exceptions: no such route, a method that the route does not have, 413."""
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(error.status_code, "http_error")
    exchange = exchange_of(request)
    exchange.code = code
    message = error.detail
    if error.status_code == 404:
        message = f"There is no route {request.url.path}. See /docs for those there are."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.url.path} does not answer {request.method}. Use {allowed}."
    return error_response(exchange.errors, message, error.status_code, code, headers=error.headers)


EXCEPTION_HANDLERS: Mapping[Any, Callable[[Request, Exception], Any]] = {
    QuernelError: on_quernel_error,
    HTTPException: on_http_error,
}


def log_exchange(exchange: Exchange, scope: Scope) -> None:
    """One line for a request."""
    fields = {
        "request_id": exchange.request_id,
        "method": scope["method"],
        # Quoted, so that no path can end the line and start another.
        "path": quote(scope["path"]),
        "status": exchange.status,
        "ms": f"{(time.perf_counter() - exchange.started) * 1000:.1f}",
        "tokens": exchange.num_tokens,
        "code": exchange.code,
    }
    logger.info(" ".join(f"{name}={value}" for name, value in fields.items() if value is not None))


def log_failure(exchange: Exchange, error: Exception) -> None:
    """Where a fault of ours came from: class and frames of the error, not its message, which may hold a user's text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request_id=%s failed with %s\n%s", exchange.request_id, type(error).__qualname__, frames)


def _unknown_failure(exchange: Exchange) -> InternalError:
    return InternalError(
        "The server failed on this request.", hint=f"Its log says where, under request id {exchange.request_id}."
    )


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if SAFE_REQUEST_ID.fullmatch(given) else uuid4().hex
