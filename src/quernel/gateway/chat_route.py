"""Chat completions over HTTP: a request to the gateway, and its answer to the client, whole or as it is written."""

import asyncio
from contextlib import aclosing

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quernel.errors import DeadlineExceededError, QuernelError
from quernel.gateway.asker import (
    GENERATION_HEADER,
    PROVIDER_HEADER,
    ask_of,
    limit_headers,
    reply_headers,
    until_billed,
)
from quernel.gateway.handlers import gateway_of
from quernel.gateway.service import BilledStream, Receipt
from quernel.protocols.chat import STREAM_TYPE, decode_chat_request, encode_error_event
from quernel.server.exchange import Exchange, exchange_of
from quernel.server.inference import Watch, time_left
from quernel.server.middleware import json_response

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Proxies on the way are not to keep pieces back."""


async def chat_completions(request: Request, body: bytes) -> Response:
    """An answer in words, as OpenAI has it."""
    call = decode_chat_request(body)
    exchange = exchange_of(request)
    exchange.routing = call.routing
    ask, gateway = ask_of(request), gateway_of(request)
    if call.is_stream:
        stream = await until_billed(request, ask, gateway.stream_chat(ask, call.model, call))
        return StreamedReply(request, stream)
    billed = await until_billed(request, ask, gateway.chat(ask, call.model, call))
    _note(exchange, billed.receipt)
    return json_response(billed.result.body, headers=reply_headers(billed.receipt, exchange.seconds))


class StreamedReply(Response):
    """A reply that is sent as it is written.

    Args:
        request: The request.
        stream: The answer.
    """

    media_type = STREAM_TYPE

    def __init__(self, request: Request, stream: BilledStream) -> None:
        served = stream.served
        headers = {
            **STREAM_HEADERS,
            GENERATION_HEADER: served.ask.generation,
            PROVIDER_HEADER: served.provider,
            **({} if served.admission is None else limit_headers(served.admission.remaining)),
        }
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._request = request
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            ClientDisconnect: The client hung up; it pays for what was written until then.
        """
        exchange = exchange_of(self._request)
        task = asyncio.current_task()
        assert task is not None, "a request has a task"
        watch = Watch(receive, task)
        failure: QuernelError | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await self._send_events(send)
            except QuernelError as error:
                failure, exchange.code = error, error.code
                await _send_piece(send, _error_event(error))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not watch.disconnected:
                raise
            task.uncancel()
            raise ClientDisconnect from None
        finally:
            watch.stop()
            await self._stream.close(failure)
            if self._stream.receipt is not None:
                _note(exchange, self._stream.receipt)

    async def _send_events(self, send: Send) -> None:
        """Send events until the last, or until the request's time is over.

        Raises:
            QuernelError: There is no more of the answer.
        """
        try:
            async with asyncio.timeout(time_left(self._request)):
                async with aclosing(self._stream.events()) as events:
                    async for event in events:
                        await _send_piece(send, event)
        except TimeoutError as error:
            raise DeadlineExceededError("The time for this request is over.", hint="Allow more time.") from error


async def _send_piece(send: Send, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})


def _error_event(error: QuernelError) -> bytes:
    return encode_error_event(str(error), status=error.status, code=error.code, param=error.param)


def _note(exchange: Exchange, receipt: Receipt) -> None:
    """Take down what a request came to, for the log and the metrics."""
    exchange.model = receipt.model
    exchange.num_texts += 1
    exchange.num_tokens += receipt.tokens
