"""Errors on the wire: one body in which the clients of most vendors find what they look for, and what a dialect is.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "dimensions", "code": "invalid_dimensions"},
     "message": "...", "detail": "..."}

`error` is OpenAI's, vLLM's and mistral.rs's place; Cohere's clients look at `message`, Voyage's and Jina's at `detail`.
`code` is the stable name of the error (`quernel.errors`), `type` OpenAI's coarser one, which follows from the status.

Source: https://platform.openai.com/docs/guides/error-codes, https://docs.cohere.com/reference/errors,
`handle_error_response` of https://github.com/voyage-ai/voyageai-python.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

from msgspec import Meta, Struct

from quernel.errors import (
    AuthenticationError,
    BodyTooLargeError,
    DeadlineExceededError,
    InsufficientCreditError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuernelError,
    UnavailableError,
)
from quernel.protocols.body import decode_reply_body, encode_body

FIRST_SERVER_STATUS = 500

MAX_MESSAGE, MAX_PARAM = 2000, 200
"""Characters. A message quotes the value at fault, which may be as long as a request."""

TYPES: Mapping[int, str] = {402: "insufficient_quota", 429: "rate_limit_error"}
"""Type of an error by its status, where it is not that of its hundred."""


CLASSES_OF_STATUS: Mapping[int, type[QuernelError]] = {
    cls.status: cls
    for cls in (
        AuthenticationError,
        InsufficientCreditError,
        PermissionDeniedError,
        ModelNotFoundError,
        BodyTooLargeError,
        OverloadedError,
        UnavailableError,
        DeadlineExceededError,
    )
}
"""What a status means where the body has no code of ours."""


class ErrorDetail(Struct, kw_only=True):
    """What is wrong."""

    message: Annotated[str, Meta(description="What is wrong, and what to do about it.")] = ""
    type: Annotated[str | None, Meta(description="OpenAI's class of the error.")] = None
    param: Annotated[Any, Meta(description="The field that it is about; on other systems perhaps an object.")] = None
    code: Annotated[str | int | None, Meta(description="The stable name of the error; elsewhere perhaps a status.")] = (
        None
    )


class ErrorReply(Struct, kw_only=True):
    """An error."""

    error: ErrorDetail | str | None = None
    message: Annotated[str, Meta(description="The message once more.")] = ""
    detail: Annotated[str, Meta(description="The message once more.")] = ""


def error_type(status: int) -> str:
    """OpenAI's `type` for an HTTP status."""
    return TYPES.get(status, "server_error" if status >= FIRST_SERVER_STATUS else "invalid_request_error")


def encode_error_body(message: str, *, status: int, code: str, param: str | None = None) -> bytes:
    """The body for an error that is not in the error tree (no such route, a method that it does not have)."""
    if len(message) > MAX_MESSAGE:
        message = message[:MAX_MESSAGE] + " ..."
    detail = {"message": message, "type": error_type(status), "param": param and param[:MAX_PARAM], "code": code}
    return encode_body({"error": detail, "message": message, "detail": message})


def encode_error(error: QuernelError) -> bytes:
    """The body for an error; its status is `error.status`."""
    return encode_error_body(str(error), status=error.status, code=error.code, param=error.param)


class ErrorEncoder(Protocol):
    """What writes an error's body."""

    def __call__(self, message: str, *, status: int, code: str, param: str | None = None) -> bytes:
        """The body; `status` and `code` are ours, whatever the dialect makes of them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDialect:
    """How errors are answered on some routes.

    Attributes:
        shape: Shape of the body.
        status: The status for an error of this status and code of ours.
        encode: Its body.
        encode_of: Its body for what a gateway has written down under an id; `None` where a body has no place for that.
    """

    shape: type[Struct]
    status: Callable[[int, str], int]
    encode: ErrorEncoder
    encode_of: Callable[[str], ErrorEncoder] | None = None

    def of_generation(self, generation_id: str) -> "ErrorDialect":
        """The same for a request that a gateway has written down under this id."""
        return self if self.encode_of is None else replace(self, encode=self.encode_of(generation_id))


UNION = ErrorDialect(shape=ErrorReply, status=lambda status, code: status, encode=encode_error_body)
"""The body above, with the status of the error: for every route that does not say otherwise."""


def decode_error(status: int, body: bytes) -> QuernelError:
    """The error that another server's reply is: of the class whose code it has, else of one that fits the status."""
    try:
        reply = decode_reply_body(body, ErrorReply)
    except InternalError:
        reply = ErrorReply()
    detail = reply.error if isinstance(reply.error, ErrorDetail) else ErrorDetail(message=reply.error or "")
    message = detail.message or reply.message or reply.detail or f"The server answered with status {status}."
    classes = {cls.code: cls for cls in _tree(QuernelError)}
    cls = classes.get(detail.code) if isinstance(detail.code, str) else None
    return (cls or _class_for(status))(message, param=detail.param if isinstance(detail.param, str) else None)


def _class_for(status: int) -> type[QuernelError]:
    return CLASSES_OF_STATUS.get(status, InternalError if status >= FIRST_SERVER_STATUS else InvalidRequestError)


def _tree(root: type[QuernelError]) -> Iterator[type[QuernelError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)
