"""What surrounds every request: its id, its key, the limit of its body, its log line, and errors as replies.

Of what a client sent, only its request id, the method and the path are ever logged: not a text, not an error's message,
not the values in a traceback.
"""

import asyncio
import logging
import math
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quernel.errors import (
    AuthenticationError,
    BodyTooLargeError,
    EngineClosedError,
    InternalError,
    QuernelError,
    UnavailableError,
)
from quernel.protocols.error_body import UNION, ErrorDialect
from quernel.server.exchange import Exchange, exchange_of
from quernel.server.keys import PUBLIC, Keys

logger = logging.getLogger("quernel.server")

Observer: TypeAlias = Callable[[Exchange, Scope], None]
"""Takes note of a request that was answered."""

REQUEST_ID_HEADER = "x-request-id"
SAFE_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
"""A client's own id is kept if it is one of these; others could forge log lines."""

CLIENT_CLOSED = 499
"""The status in the log where the client hung up and nothing was sent (nginx's number)."""

RETRY_AFTER_SECONDS = 1
"""What a client is told to wait where the queue is full or a model not ready; a queue turns over in about that time."""

MAX_RETRY_AFTER_SECONDS = 60
"""The longest that a client is told to wait: OpenAI's give up at more than 120 seconds, the AI SDK's at 60."""

HTTP_CODES: Mapping[int, str] = {
    404: "route_not_found",
    405: "method_not_allowed",
}
"""Code of an error that is about HTTP itself, and so not in the error tree."""


def json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A reply whose body is JSON already."""
    return Response(body, status_code=status, headers=headers, media_type="application/json")


class ExchangeMiddleware:
    """Gives each request an id, asks for its key, bounds its body, and answers what nobody caught with 500.

    Args:
        app: What answers.
        root_path: What a proxy may have left before the path of a route.
        max_body_bytes: Largest body.
        keys: Who may ask.
        dialects: How errors are answered on which path; on others as a union of all.
        observers: Told of every request when it is answered: the log, the metrics, the traces.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        root_path: str,
        max_body_bytes: int,
        keys: Keys,
        dialects: Mapping[str, ErrorDialect],
        observers: Sequence[Observer],
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._dialects = dialects
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path and scope["path"].startswith(self._root_path + "/"):
            scope["path"] = scope["path"].removeprefix(self._root_path)
        headers = Headers(scope=scope)
        exchange = Exchange(_request_id(headers), self._dialects.get(scope["path"], UNION))
        scope.setdefault("state", {})["exchange"] = exchange

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = exchange.request_id
            await send(message)

        async def answer(error: QuernelError) -> None:
            await answer_error(Request(scope), error)(scope, receive, send_with_id)

        try:
            if not (scope["method"] in ("GET", "HEAD") and scope["path"] in PUBLIC):
                self._keys.check(headers)
            await self._app(scope, limited(receive, headers, self._max_body_bytes), send_with_id)
        except AuthenticationError as error:
            await answer(error)
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED
        except asyncio.CancelledError:
            # uvicorn cancels what has outlived the grace at its stop. Raised on, it would be answered as a fault.
            if exchange.status is None:
                await answer(EngineClosedError("The server is stopping.", hint="Send the request again."))
        except Exception as error:  # noqa: BLE001 (the last resort, so that a client gets a reply and the server goes on)
            log_failure(exchange, error)
            if exchange.status is None:
                await answer(_unknown_failure(exchange))
        finally:
            for observe in self._observers:
                observe(exchange, scope)


def limited(receive: Receive, headers: Headers, max_bytes: int) -> Receive:
    """`receive`, refusing a body that is longer than `max_bytes` before more of it is kept.

    Raises (when called):
        BodyTooLargeError: It is.
    """
    declared = headers.get("content-length", "")
    too_large = BodyTooLargeError(
        f"The body is larger than {max_bytes} bytes.", hint="Send the texts in several requests."
    )
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
    message = str(error)
    headers = {}
    if isinstance(error, UnavailableError):
        headers["retry-after"] = str(math.ceil(min(error.retry_after or RETRY_AFTER_SECONDS, MAX_RETRY_AFTER_SECONDS)))
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = "Bearer"
    return error_response(exchange.errors, message, error.status, error.code, param=error.param, headers=headers)


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
    fields: dict[str, object] = {
        "request_id": exchange.request_id,
        "method": scope["method"],
        # Quoted, so that no path can end the line and start another.
        "path": quote(scope["path"]),
        "status": exchange.status,
        "ms": round(exchange.seconds * 1000, 1),
        "model": exchange.model and quote(exchange.model),
        "tokens": exchange.num_tokens or None,
        "code": exchange.code,
    }
    said = {name: value for name, value in fields.items() if value is not None}
    logger.info(" ".join(f"{name}={value}" for name, value in said.items()), extra={"fields": said})


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
    return given if SAFE_REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
