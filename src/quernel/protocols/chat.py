"""Chat completions as OpenAI has them, as far as a gateway reads them: where they go, and what they come to.

A request goes on as it came, every field that is not named here byte for byte. Of a reply only what was written and
what the provider counted is read. Streams are server-sent events, one JSON object each, with `[DONE]` at the end.

Source: https://platform.openai.com/docs/api-reference/chat/create, .../chat/streaming (`stream_options.include_usage`);
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from quernel.errors import InternalError, InvalidRequestError
from quernel.protocols.body import decode_reply_body, decode_request_body
from quernel.protocols.error_body import encode_error_body
from quernel.protocols.fields import RoutingField, RoutingFields

STREAM_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
DONE_DATA = b"[DONE]"

EVENT_END = re.compile(rb"\r?\n\r?\n|\r\r")
LINE_END = re.compile(rb"\r\n|\n|\r")

OURS = frozenset({"user", "provider", "providerOptions"})
"""Fields of a request that are for the gateway and go no further."""

TEXT_PARTS = frozenset({"text", "refusal"})
"""Parts of a message whose bytes are no fewer than their tokens. An image is more than its address."""

WRITTEN = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
"""Where a message has what the model wrote."""

LABELS = frozenset({"id", "type", "index", "format"})
"""What stands beside it and was not written by the model."""

Tokens = Annotated[int, Meta(ge=1)]
Choices = Annotated[int, Meta(ge=1, le=128)]


class StreamOptionsBody(Struct, kw_only=True):
    """What a stream has besides its texts."""

    include_usage: Annotated[bool | None, Meta(description="End with a chunk that says how many tokens it was.")] = None


class ChatBody(Struct, kw_only=True):
    """Messages to answer in words. Fields that are not listed here are passed on to the provider."""

    model: Annotated[str, Meta(description="A name of `/v1/models` that is of the kind `chat`.")]
    messages: Annotated[list[Raw], Meta(description="The conversation, as OpenAI has it.")]
    stream: Annotated[bool | None, Meta(description="Send the answer as it is written, as server-sent events.")] = None
    stream_options: StreamOptionsBody | None = None
    max_tokens: Annotated[Tokens | None, Meta(description="The most tokens of an answer; so much is reserved.")] = None
    max_completion_tokens: Annotated[Tokens | None, Meta(description="OpenAI's newer name of `max_tokens`.")] = None
    n: Annotated[Choices | None, Meta(description="Answers to write.")] = None
    user: Annotated[Any, Meta(description="For whom the caller asks; usage is filed under it.")] = None
    provider: RoutingField = None
    provider_options: RoutingField = msgspec.field(default=None, name="providerOptions")
    models: Annotated[Any, Meta(description="Refused: see `providerOptions.gateway.models`.")] = None


class ChatUsage(Struct, kw_only=True, frozen=True):
    """What a provider counted."""

    prompt_tokens: Annotated[int, Meta(ge=0)]
    completion_tokens: Annotated[int, Meta(ge=0)]


class ChatReplyBody(Struct, kw_only=True):
    """Answers, as the provider wrote them."""

    choices: list[dict[str, Any]]
    usage: ChatUsage | None = None
    id: str = ""
    object: Literal["chat.completion"] = "chat.completion"
    model: Annotated[str, Meta(description="The provider's name of the model.")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """A request together with what a gateway has to know of it.

    Attributes:
        model: The name that was asked for.
        is_stream: Whether the answer is sent as it is written.
        wants_usage: Whether the caller wants the chunk that says how many tokens it was.
        max_output_tokens: The most tokens of an answer; `None` where the caller leaves it to the model.
        num_choices: Answers to write.
        num_bytes: Of the body, which are no fewer than its tokens where it `is_text`.
        is_text: Whether the messages are nothing but text.
        routing: What it says to a gateway.
        fields: What goes on to the provider.
    """

    model: str
    is_stream: bool = False
    wants_usage: bool = False
    max_output_tokens: int | None = None
    num_choices: int = 1
    num_bytes: int
    is_text: bool = True
    routing: RoutingFields = RoutingFields()
    fields: Mapping[str, Raw] = field(repr=False)


def decode_chat_request(body: bytes) -> ChatCall:
    """What a client asks for.

    Raises:
        InvalidRequestError: Not JSON, no model or messages, or a wrong type of a field that is read here.
    """
    wire = decode_request_body(body, ChatBody)
    if wire.models is not None:
        # A provider that is a gateway itself would answer with one of these, at a price that is not the model's.
        raise InvalidRequestError(
            "models is not passed on.", param="models", hint="Name other models in providerOptions.gateway.models."
        )
    fields = msgspec.json.decode(body, type=dict[str, Raw])
    limits = [most for most in (wire.max_tokens, wire.max_completion_tokens) if most is not None]
    return ChatCall(
        model=wire.model,
        is_stream=bool(wire.stream),
        wants_usage=wire.stream_options is not None and bool(wire.stream_options.include_usage),
        max_output_tokens=max(limits, default=None),
        num_choices=wire.n or 1,
        num_bytes=len(body),
        is_text=all(map(_is_text, wire.messages)),
        routing=RoutingFields(provider_options=wire.provider_options, provider=wire.provider, user=wire.user),
        fields={name: value for name, value in fields.items() if name not in OURS},
    )


def encode_chat_request(call: ChatCall, model: str) -> bytes:
    """The body for a provider, under its own name of the model. A stream is told to say how many tokens it was."""
    fields: dict[str, Any] = {**call.fields, "model": model}
    if call.is_stream:
        given = msgspec.json.decode(call.fields.get("stream_options", b"null"), type=dict[str, Raw] | None)
        fields["stream_options"] = {**(given or {}), "include_usage": True}
    return msgspec.json.encode(fields)


class _Part(Struct):
    type: str = ""


class _Message(Struct):
    content: str | list[_Part] | None = None


def _is_text(message: Raw) -> bool:
    """Whether a message is nothing but text, as far as that can be seen."""
    try:
        content = msgspec.json.decode(message, type=_Message).content
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return not isinstance(content, list) or all(part.type in TEXT_PARTS for part in content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a reply, or a piece of one, holds.

    Attributes:
        texts: What was written, by the number of the answer.
        usage: What the provider counted; `None` where it does not say.
        is_end: Whether an answer ends here.
        is_usage: Whether it is there only to say the usage.
        failure: The status of a failure that it is instead; `None` where it is none.
    """

    texts: Mapping[int, str] = field(default_factory=dict, repr=False)
    usage: ChatUsage | None = None
    is_end: bool = False
    is_usage: bool = False
    failure: int | None = None

    @property
    def num_bytes(self) -> int:
        """Of the texts."""
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in self.texts.values())


class _Choice(Struct):
    index: int = 0
    message: Any = None
    delta: Any = None
    finish_reason: Any = None


class _Reply(Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


FAILED = 500
"""The status of a failure that has none."""


def decode_chat_reply(body: bytes) -> Written:
    """What a whole reply, or the data of one event of a stream, holds.

    Raises:
        InternalError: It cannot be read.
    """
    reply = decode_reply_body(body, _Reply)
    if reply.error is not None:
        return Written(failure=_status(reply.error))
    if reply.choices is None and reply.usage is None:
        raise InternalError("The server's reply has no choices.")
    choices = reply.choices or []
    usage = _usage(reply.usage)
    return Written(
        texts={choice.index: "".join(_texts(choice.delta or choice.message)) for choice in choices},
        usage=usage,
        is_end=any(choice.finish_reason is not None for choice in choices),
        is_usage=usage is not None and not choices,
    )


def _usage(value: object) -> ChatUsage | None:
    try:
        return msgspec.convert(value, ChatUsage)
    except msgspec.ValidationError:
        return None


def _status(error: object) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else FAILED


def _texts(message: object) -> Iterator[str]:
    """What the model wrote in a message."""
    if isinstance(message, dict):
        for name in WRITTEN:
            yield from _strings(message.get(name))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _strings(element)
    elif isinstance(value, dict):
        for name, element in value.items():
            if name not in LABELS:
                yield from _strings(element)


class EventReader:
    """Divides a stream of bytes into server-sent events. One that is not complete at its end is none."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that a piece completes, each with the blank line at its end."""
        # The blank line may have begun in the piece before.
        searched = max(len(self._buffer) - 3, 0)
        self._buffer += piece
        events = []
        start = 0
        while (end := EVENT_END.search(self._buffer, max(searched, start))) is not None:
            events.append(bytes(self._buffer[start : end.end()]))
            start = end.end()
        del self._buffer[:start]
        return events


def event_data(event: bytes) -> bytes | None:
    """The data of an event; `None` where it has none, as a comment that keeps the connection open."""
    lines: Sequence[bytes] = LINE_END.split(event)
    values = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(values) if values else None


def encode_event(data: bytes) -> bytes:
    """An event of one line."""
    return b"data: " + data + b"\n\n"


def encode_error_event(message: str, *, status: int, code: str, param: str | None = None) -> bytes:
    """The event that tells a client, in the middle of an answer, that there will be no more of it."""
    return encode_event(encode_error_body(message, status=status, code=code, param=param))
