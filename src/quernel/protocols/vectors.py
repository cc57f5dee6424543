"""How vectors are written in a reply: in fewer bits or not, as JSON numbers or as base64 of their bytes.

The arithmetic of the smaller kinds depends on nothing but the vector itself and its length D, never on the other
vectors of a request: equal texts give equal codes, and codes of different requests can be compared. A vector is scaled
to length 1 before.

- `int8`: `round(127 * x / c)` between -127 and 127, with the fixed range `c = min(1, 8 / sqrt(D))`. A number of a unit
  vector is about `1 / sqrt(D)` large, so `c` is eight times that; the largest of Qwen3's are about four. At 1024
  dimensions a step is 1/508. The range is symmetric and the same for every number, so dot products of codes are those
  of the vectors, times `(127 / c)^2`.
- `uint8`: the same plus 128, so 128 is zero.
- `ubinary`: one bit for each number, 1 where it is above zero; eight to a byte, the first in the highest bit. Bits that
  are left over in the last byte are 0.
- `binary`: the bytes of `ubinary` minus 128, as signed numbers (offset binary).

Source: https://docs.voyageai.com/docs/flexible-dimensions-and-quantization and https://docs.cohere.com/docs/embeddings
for the kinds and the bits; `quantize_embeddings` of https://github.com/huggingface/sentence-transformers has the same
bits, but takes the range of int8 from the vectors that it is given.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from quernel.errors import InternalError
from quernel.types import Vectors

WIRE_FLOAT = np.dtype("<f4")
"""Little-endian float32, whatever the machine: what OpenAI's clients read from base64."""

RANGE_IN_DEVIATIONS = 8.0
"""The range of int8, in units of what a number of a unit vector is on average."""

LARGEST_CODE = 127
MIDDLE_CODE = 128
BITS_PER_BYTE = 8

WireVector: TypeAlias = str | list[float]
"""One vector as a reply holds it."""

RawVector: TypeAlias = bytes | list[float]
"""One vector as msgspec reads it where it may turn base64 into bytes itself, in a quarter of the time."""

Codes: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
"""Vectors in whichever kind of numbers, one a row."""


class VectorEncoding(StrEnum):
    """How a vector is written: JSON numbers, or base64 of its bytes (half the size, a fifth of the time)."""

    FLOAT = "float"
    BASE64 = "base64"


class OutputDtype(StrEnum):
    """The numbers that a vector is made of: float32, or a quarter or a thirty-second of its bits."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


NUMPY_TYPES: Mapping[OutputDtype, np.dtype[Any]] = {
    OutputDtype.FLOAT: WIRE_FLOAT,
    OutputDtype.INT8: np.dtype(np.int8),
    OutputDtype.UINT8: np.dtype(np.uint8),
    OutputDtype.BINARY: np.dtype(np.int8),
    OutputDtype.UBINARY: np.dtype(np.uint8),
}
"""What the bytes of a vector are."""


def _to_int8(vectors: Vectors) -> npt.NDArray[np.int8]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units = vectors / np.where(lengths > 0, lengths, 1)
    scaled = np.rint(units * (LARGEST_CODE / int8_range(vectors.shape[-1])))
    return np.clip(scaled, -LARGEST_CODE, LARGEST_CODE).astype(np.int8)


def _to_uint8(vectors: Vectors) -> npt.NDArray[np.uint8]:
    return (_to_int8(vectors).astype(np.int16) + MIDDLE_CODE).astype(np.uint8)


def _to_ubinary(vectors: Vectors) -> npt.NDArray[np.uint8]:
    return np.packbits(vectors > 0, axis=-1)


def _to_binary(vectors: Vectors) -> npt.NDArray[np.int8]:
    return (_to_ubinary(vectors).astype(np.int16) - MIDDLE_CODE).astype(np.int8)


def _signs(packed: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    bits = np.unpackbits(packed.astype(np.uint8), axis=-1).astype(np.float32)
    signs: npt.NDArray[np.float32] = (2 * bits - 1) / np.float32(math.sqrt(bits.shape[-1]))
    return signs


QUANTISERS: Mapping[OutputDtype, Callable[[Vectors], Codes]] = {
    OutputDtype.FLOAT: lambda vectors: np.asarray(vectors, dtype=np.float32),
    OutputDtype.INT8: _to_int8,
    OutputDtype.UINT8: _to_uint8,
    OutputDtype.BINARY: _to_binary,
    OutputDtype.UBINARY: _to_ubinary,
}

DEQUANTISERS: Mapping[OutputDtype, Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]] = {
    OutputDtype.FLOAT: lambda numbers: numbers,
    OutputDtype.INT8: lambda codes: codes * (int8_range(codes.shape[-1]) / LARGEST_CODE),
    OutputDtype.UINT8: lambda codes: (codes - MIDDLE_CODE) * (int8_range(codes.shape[-1]) / LARGEST_CODE),
    OutputDtype.BINARY: lambda codes: _signs(codes + MIDDLE_CODE),
    OutputDtype.UBINARY: _signs,
}


def int8_range(dimensions: int) -> float:
    """The largest number of a unit vector that int8 can tell: `c` above."""
    return min(1.0, RANGE_IN_DEVIATIONS / math.sqrt(dimensions))


def quantise(vectors: Vectors, dtype: OutputDtype) -> Codes:
    """Vectors `[N, D]` as numbers of `dtype`: `[N, D]`, or `[N, ceil(D / 8)]` for the binary kinds."""
    return QUANTISERS[dtype](vectors)


def dequantise(codes: npt.NDArray[Any], dtype: OutputDtype) -> Vectors:
    """Vectors that numbers of `dtype` stand for.

    Of int8 they are a step off at most (more where a number was outside the range); of the binary kinds they are the
    signs, as unit vectors, with a number for each bit.
    """
    return np.asarray(DEQUANTISERS[dtype](codes.astype(np.float32)), dtype=np.float32)


def _encode_numbers(codes: Codes) -> Sequence[Any]:
    # A view of each row; orjson writes it without making Python numbers, if it is contiguous and in native order.
    return list(np.ascontiguousarray(codes, dtype=codes.dtype.newbyteorder("=")))


def _encode_base64(codes: Codes) -> Sequence[Any]:
    rows = np.ascontiguousarray(codes, dtype=codes.dtype.newbyteorder("<"))
    return [base64.b64encode(row.data).decode("ascii") for row in rows]


ENCODERS: Mapping[VectorEncoding, Callable[[Codes], Sequence[Any]]] = {
    VectorEncoding.FLOAT: _encode_numbers,
    VectorEncoding.BASE64: _encode_base64,
}


def encode_vectors(vectors: Vectors, encoding: VectorEncoding, dtype: OutputDtype = OutputDtype.FLOAT) -> Sequence[Any]:
    """The rows of `[N, D]` vectors, each as `quernel.protocols.body.encode_body` takes it."""
    return ENCODERS[encoding](quantise(vectors, dtype))


def decode_vectors(rows: Sequence[WireVector | RawVector], dtype: OutputDtype = OutputDtype.FLOAT) -> Vectors:
    """Vectors float32 `[N, D]` from the rows of a reply, each in whichever encoding it is.

    Raises:
        InternalError: A row is no base64 of numbers of `dtype`, or the rows differ in length.
    """
    try:
        decoded = [row if isinstance(row, list) else np.frombuffer(_bytes(row), NUMPY_TYPES[dtype]) for row in rows]
        return dequantise(np.array(decoded, dtype=np.float32).reshape(len(rows), -1), dtype)
    except ValueError as error:
        raise InternalError(f"The server's vectors cannot be read: {error}.") from error


def _bytes(row: str | bytes) -> bytes:
    try:
        return row if isinstance(row, bytes) else msgspec.convert(row, bytes)
    except msgspec.ValidationError as error:
        raise InternalError(f"The server's vectors are not base64: {error}.") from error
