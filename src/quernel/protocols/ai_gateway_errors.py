"""Errors as `@ai-sdk/gateway` expects them: `{"error": {"message", "type", "param", "code"}, "generationId"?}`.

The client chooses the class of its error by `type`, and since version 3 tells its user the `generationId`. A body of
another form becomes a `GatewayResponseError`, which tells its user nothing.

Source: `packages/gateway/src/errors/create-gateway-error.ts` of https://github.com/vercel/ai, version 4.0.146. Earlier
ones do not know `not_found` (before 4) and `failed_dependency` (before 3), and take them for internal errors.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct

from quernel.protocols.body import encode_body
from quernel.protocols.error_body import MAX_MESSAGE, MAX_PARAM, ErrorDialect


class GatewayErrorDetail(Struct, kw_only=True):
    """What is wrong."""

    message: Annotated[str, Meta(description="What is wrong, and what to do about it.")]
    type: Annotated[str, Meta(description="What the client chooses the class of its error by.")]
    param: Annotated[
        str | dict[str, str] | None,
        Meta(description="The field that it is about; of an unknown model `modelId`, of a refusal by a rule `ruleId`."),
    ] = None
    code: Annotated[str, Meta(description="The stable name of the error.")]


class GatewayErrorReply(Struct, kw_only=True, rename="camel"):
    """An error."""

    error: GatewayErrorDetail
    generation_id: Annotated[str | None, Meta(description="The generation that failed.")] = None


INVALID, INTERNAL, NOT_FOUND = "invalid_request_error", "internal_server_error", "not_found"
MODEL_NOT_FOUND, FORBIDDEN = "model_not_found", "forbidden"

ERROR_TYPES: Mapping[int, str] = {
    400: INVALID,
    401: "authentication_error",
    402: "insufficient_funds",
    403: FORBIDDEN,
    404: NOT_FOUND,
    405: INVALID,
    413: INVALID,
    415: INVALID,
    422: INVALID,
    424: "failed_dependency",
    429: "rate_limit_exceeded",
}
"""Types by status; others are `internal_server_error`. The clients have no class for 402, and take Vercel's type of it
for an internal error with that status, which they do not retry."""

OBJECT_PARAMS: Mapping[str, str] = {MODEL_NOT_FOUND: "modelId", FORBIDDEN: "ruleId"}
"""Types whose `param` is an object with this key. It holds the neutral error's `param`, which is to name the model or
the rule, since on these routes no field of the body does."""

MODEL_FIELD = "model"
"""What a neutral error's `param` says that is about the model without naming it."""


def encode_gateway_error(
    message: str, *, status: int, code: str, param: str | None = None, generation_id: str | None = None
) -> bytes:
    """The body for an error.

    Args:
        message: What is wrong. Of a 401 the clients show a text of their own.
        status: The status of the reply.
        code: The stable name of the error.
        param: The field that it is about; of an unknown model its name, of a refusal by a rule the name of the rule.
        generation_id: The generation that failed, which the clients put after the message too.
    """
    kind = MODEL_NOT_FOUND if code == MODEL_NOT_FOUND else ERROR_TYPES.get(status, INTERNAL)
    key = OBJECT_PARAMS.get(kind)
    named = None if param is None or (key and param == MODEL_FIELD) else param[:MAX_PARAM]
    detail = {
        "message": message[:MAX_MESSAGE],
        "type": kind,
        "param": {key: named} if key and named is not None else named,
        "code": code,
    }
    return encode_body({"error": detail} | ({"generationId": generation_id} if generation_id else {}))


AI_GATEWAY_ERRORS = ErrorDialect(
    shape=GatewayErrorReply,
    status=lambda status, code: status,
    encode=encode_gateway_error,
    encode_of=lambda generation_id: partial(encode_gateway_error, generation_id=generation_id),
)
"""How errors are answered on these routes: with the status of the error."""
