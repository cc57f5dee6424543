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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quernel.errors import (
    AuthenticationError,
    BodyTooLargeError,
    EngineClosedError,
    InsufficientCreditError,
    InternalError,
    QuernelError,
    UnavailableError,
)
from quernel.protocols.error_body import UNION, ErrorDialect
from quernel.server.exchange import Exchange, exchange_of

logger = logging.getLogger("quernel.server")

Handler: TypeAlias = Callable[[Request, bytes], Awaitable[Response]]
"""Answers a request with its body."""

Gate: TypeAlias = Callable[[Scope, Exchange], Awaitable[None]]
"""Lets a request in and notes who asks, or raises."""

Observer: TypeAlias = Callable[[Exchange, Scope], None]
"""Takes note of a request that was answered."""

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID = REQUEST_ID_HEADER.encode()
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

    Routes whose path is a plain text are answered right here, which halves what a short request costs; the rest, such
    as paths with parameters and paths that there are not, is left to Starlette.

    Args:
        app: What answers the rest.
        root_path: What a proxy may have left before the path of a route.
        max_body_bytes: Largest body.
        gate: Lets requests in.
        dialects: How errors are answered on which path; on others as a union of all.
        handlers: What answers which method and path.
        observers: Told of every request when it is answered: the log, the metrics, the traces.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        root_path: str,
        max_body_bytes: int,
        gate: Gate,
        dialects: Mapping[str, ErrorDialect],
        handlers: Mapping[tuple[str, str], Handler],
        observers: Sequence[Observer],
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._dialects = dialects
        self._handlers = handlers
        self._gate = gate
        self._max_body_bytes = max_body_bytes
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path and scope["path"].startswith(self._root_path + "/"):
            scope["path"] = scope["path"].removeprefix(self._root_path)
        method, path = scope["method"], scope["path"]
        exchange = Exchange(_request_id(header(scope, REQUEST_ID)), self._dialects.get(path, UNION))
        state = scope.setdefault("state", {})
        state["exchange"], state["max_body_bytes"] = exchange, self._max_body_bytes
        request_id = (REQUEST_ID, exchange.request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"].append(request_id)
            await send(message)

        async def answer(error: QuernelError) -> None:
            await answer_error(Request(scope), error)(scope, receive, send_with_id)

        try:
            await self._gate(scope, exchange)
            handler = self._handlers.get((method, path))
            if handler is None:
                await self._app(scope, receive, send_with_id)
            else:
                exchange.route = path
                reply = await respond(handler, Request(scope, receive))
                await reply(scope, receive, send_with_id)
        except QuernelError as error:
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


def route(method: str, path: str, handler: Handler) -> Route:
    """A route of Starlette's that answers as `ExchangeMiddleware` does."""

    async def handle(request: Request) -> Response:
        exchange_of(request).route = path
        return await respond(handler, request)

    return Route(path, handle, methods=[method])


async def respond(handler: Handler, request: Request) -> Response:
    """What a handler answers; an error of ours as the reply that it is.

    Raises:
        ClientDisconnect: The client hung up.
    """
    try:
        body = await read_body(request) if request.method in WITH_BODY else b""
        request.state.body = body
        return await handler(request, body)
    except QuernelError as error:
        if error.status >= 500 and not isinstance(error, UnavailableError):
            log_failure(exchange_of(request), error)
        return answer_error(request, error)


async def read_body(request: Request) -> bytes:
    """The body, as long as it is not larger than the server takes; of one that is, no more than that is kept.

    Raises:
        BodyTooLargeError: It is larger.
        ClientDisconnect: The client hung up in the middle.
    """
    most: int = request.state.max_body_bytes
    declared = header(request.scope, b"content-length") or b""
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    parts, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that name, which is in lower case."""
    for found, value in scope["headers"]:
        if found == name:
            content: bytes = value
            return content
    return None


def _too_large(most: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {most} bytes.", hint="Send the texts in several requests.")


def answer_error(request: Request, error: QuernelError) -> Response:
    """The reply to an error of ours."""
    exchange = exchange_of(request)
    exchange.code = error.code
    headers = dict(exchange.reply_headers)
    if isinstance(error, UnavailableError):
        seconds = min(error.retry_after or RETRY_AFTER_SECONDS, MAX_RETRY_AFTER_SECONDS)
        headers |= {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
    if isinstance(error, InsufficientCreditError):
        headers["x-should-retry"] = "false"
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = "Bearer"
    return error_response(exchange.errors, str(error), error.status, error.code, param=error.param, headers=headers)


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


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for its own exceptions: no such route, a method that the route does not have."""
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


EXCEPTION_HANDLERS: Mapping[Any, Callable[[Request, Exception], Any]] = {HTTPException: on_http_error}


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


def _request_id(given: bytes | None) -> str:
    text = (given or b"").decode("latin-1")
    return text if SAFE_REQUEST_ID.fullmatch(text) else os.urandom(16).hex()
