"""How vectors are written in a reply: as JSON numbers, or as base64 of their bytes."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np

from quernel.errors import InternalError
from quernel.types import Vectors

WIRE_FLOAT = np.dtype("<f4")
"""Little-endian float32, whatever the machine: what OpenAI's clients read from base64."""

WireVector: TypeAlias = str | list[float]
"""One vector as a reply holds it."""


class VectorEncoding(StrEnum):
    """How a vector is written: JSON numbers, or base64 of its bytes (half the size, a fifth of the time)."""

    FLOAT = "float"
    BASE64 = "base64"


def _encode_floats(vectors: Vectors) -> Sequence[Any]:
    # A view of each row; orjson writes it without making Python floats, if it is contiguous and in native order.
    return list(np.ascontiguousarray(vectors, dtype=np.float32))


def _encode_base64(vectors: Vectors) -> Sequence[Any]:
    rows = np.ascontiguousarray(vectors, dtype=WIRE_FLOAT)
    return [base64.b64encode(row.data).decode("ascii") for row in rows]


ENCODERS: Mapping[VectorEncoding, Callable[[Vectors], Sequence[Any]]] = {
    VectorEncoding.FLOAT: _encode_floats,
    VectorEncoding.BASE64: _encode_base64,
}


def encode_vectors(vectors: Vectors, encoding: VectorEncoding) -> Sequence[Any]:
    """The rows of `[N, D]` vectors, each as `quernel.protocols.body.encode_body` takes it."""
    return ENCODERS[encoding](vectors)


def decode_vectors(rows: Sequence[WireVector]) -> Vectors:
    """Vectors float32 `[N, D]` from the rows of a reply, each in whichever encoding it is.

    Raises:
        InternalError: A row is no base64 of float32, or the rows differ in length.
    """
    try:
        decoded = [np.frombuffer(_bytes(row), WIRE_FLOAT) if isinstance(row, str) else row for row in rows]
        return np.array(decoded, dtype=np.float32).reshape(len(rows), -1)
    except ValueError as error:
        raise InternalError(f"The server's vectors cannot be read: {error}.") from error


def _bytes(row: str) -> bytes:
    try:
        return base64.b64decode(row, validate=True)
    except binascii.Error as error:
        raise InternalError(f"The server's vectors are not base64: {error}.") from error
