"""JSON bodies: bytes to a typed struct with errors that name the field, and replies to bytes.

Foreign exceptions of the JSON libraries end here. This file knows no particular field.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec
import orjson

from quernel.errors import InternalError, InvalidRequestError

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

_VALIDATION = re.compile(r"^(?P<complaint>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
"""A message of msgspec: what is wrong, and perhaps where (`$.input[3]`)."""

_FIELD = re.compile(r"^Object (?P<problem>contains unknown|missing required) field `(?P<field>.*)`$", re.DOTALL)


def decode_request_body(body: bytes, shape: type[S]) -> S:
    """The body of a request as `shape`.

    Raises:
        InvalidRequestError: Not JSON (with the line and column), or not of this shape (with the field as `param`).
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), shape) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The body is not valid JSON: {_syntax(body, error)}.") from error
    except RecursionError as error:
        raise InvalidRequestError("The body is nested too deeply.") from error


def field_names(body: bytes) -> frozenset[str]:
    """The fields at the top of a body, for a route that must see which request it is; none where it is no object."""
    try:
        return frozenset(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()


def decode_reply_body(body: bytes, shape: type[T]) -> T:
    """The body of another server's reply as `shape`; fields that it does not declare are passed over.

    Raises:
        InternalError: Not JSON, or not of this shape.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InternalError(f"The server's reply cannot be read: {error}.") from error


def encode_body(reply: Any) -> bytes:
    """A reply as JSON. Numbers of NumPy arrays go straight to text and never become Python floats.

    An array's NaN would come out as `null`: whoever makes the reply checks the numbers before.
    """
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY, default=msgspec.to_builtins)


def _syntax(body: bytes, error: Exception) -> str:
    """What is wrong with the JSON and where; orjson gives line and column, which msgspec does not."""
    try:
        body.decode()
        orjson.loads(body)
    except UnicodeDecodeError as located:
        return f"byte {located.start} is not UTF-8"
    except orjson.JSONDecodeError as located:
        return str(located)
    return str(error)


def _refusal(message: str, shape: type[msgspec.Struct]) -> InvalidRequestError:
    """The error of ours that says what a validation error of msgspec says."""
    matched = _VALIDATION.match(message)
    assert matched is not None, "every part of the pattern is optional"
    complaint, path = matched["complaint"], matched["path"] or ""
    field = _FIELD.match(complaint)
    if field is None:
        choices = _choices(shape, path) if complaint.startswith("Invalid enum value") else ()
        hint = f"Use one of: {', '.join(choices)}." if choices else None
        complaint = complaint[:1].lower() + complaint[1:]
        return InvalidRequestError(f"{path or 'The body'}: {complaint}.", param=path or None, hint=hint)
    place = f"{path}.{field['field']}" if path else field["field"]
    if field["problem"] == "missing required":
        return InvalidRequestError(f"{place} is missing.", param=place)
    near = get_close_matches(field["field"], _names(shape), n=1)
    hint = f"Did you mean {near[0]}?" if near else "Unknown fields are refused rather than ignored; leave it out."
    return InvalidRequestError(f"{place} is not a field of this request.", param=place, hint=hint)


def _choices(shape: type[msgspec.Struct], name: str) -> Sequence[str]:
    """What a field of words accepts, for the one kind of complaint of msgspec that does not say it."""
    described = msgspec.inspect.type_info(shape)
    assert isinstance(described, msgspec.inspect.StructType), "a struct is described as one"
    accepted = next((field.type for field in described.fields if field.encode_name == name), None)
    if isinstance(accepted, msgspec.inspect.Metadata):
        accepted = accepted.type
    options = accepted.types if isinstance(accepted, msgspec.inspect.UnionType) else (accepted,)
    enums = (option.cls for option in options if isinstance(option, msgspec.inspect.EnumType))
    return [str(member.value) for enum in enums for member in enum]


def _names(shape: type[msgspec.Struct]) -> Iterator[str]:
    return (field.encode_name for field in msgspec.structs.fields(shape))
