"""GGUF files as bytes: metadata by key, tensors by name. It knows no model.

The `gguf` package knows the types of tensors and dequantises them. Its own reader is not used: it takes 6.5 seconds and
520 MB for the metadata of a Qwen3 file, whose vocabulary and merges are 300,000 strings; this one passes over them.

Source: `docs/gguf.md` of ggml-org/ggml.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quernel.errors import CheckpointError, SettingsError, UnsupportedModelError

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of tensors that PyTorch has too."""

QUANTISED = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0")
"""Types in which blocks of a row share a scale, that can be loaded. They are dequantised in float32.

`Q4_K_M` and the like name files, whose tensors are of several of these types.
"""

MAGIC, VERSIONS = b"GGUF", (2, 3)
LFS_MAGIC = b"version https://git-lfs"
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of metadata by number, the scalar ones with their `struct` formats."""

DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
SLICE_BYTES = 1 << 18
"""How much of a quantised tensor is dequantised at a time: what that takes still fits a processor's cache."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor of a file, unread: shape and type by the names that safetensors' slices use.

    Attributes:
        data: The file's bytes, mapped.
        offset: Where the tensor begins.
        shape: Its shape, rows first.
        dtype: The name of its type, such as `Q8_0`.
        row_bytes: The size of a row; 0 for types that are not known.
    """

    data: npt.NDArray[np.uint8]
    offset: int
    shape: tuple[int, ...]
    dtype: str
    row_bytes: int

    @property
    def num_rows(self) -> int:
        """Rows, of a vector one."""
        return prod(self.shape[:-1])

    def get_shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.shape

    def get_dtype(self) -> str:
        """The name of its type."""
        return self.dtype

    def read(self) -> Tensor:
        """All of it: as it is stored, in the file's mapping, or dequantised to float32."""
        return self[: self.num_rows].view(self.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        """Some rows of a matrix: as they are stored, in the file's mapping, or dequantised to float32."""
        start, stop, _ = rows.indices(self.num_rows)
        begin = self.offset + start * self.row_bytes
        stored = self.data[begin : begin + (stop - start) * self.row_bytes].reshape(stop - start, self.row_bytes)
        if self.dtype not in QUANTISED:
            return torch.from_numpy(stored).view(PLAIN[self.dtype])
        gguf = _package()
        quantisation = gguf.GGMLQuantizationType[self.dtype]
        values = torch.empty(stop - start, self.shape[-1])
        step = max(1, SLICE_BYTES // self.row_bytes)
        for first in range(0, stop - start, step):
            part = gguf.quants.dequantize(stored[first : first + step], quantisation)
            values[first : first + step] = torch.from_numpy(part)
        return values


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A file, mapped: its metadata, each decoded when it is looked up, and its tensors, unread."""

    file: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    @classmethod
    def open(cls, file: Path) -> "GGUFFile":
        """The file, with nothing read but the places of what is in it.

        Raises:
            CheckpointError: It is not a readable GGUF file, or ends early.
            UnsupportedModelError: It is one part of several.
            SettingsError: The `gguf` package is not installed.
        """
        types = _package().GGMLQuantizationType
        try:
            # Copy on write: PyTorch takes no read-only arrays, and nobody writes.
            data = np.memmap(file, dtype=np.uint8, mode="c").view(np.ndarray)
            cursor = _Cursor(data)
            num_tensors, metadata = cursor.header()
            tensors = dict(cursor.tensors(num_tensors, metadata, types))
            num_parts = int(metadata.get("split.count", 1))
        except (OSError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise CheckpointError(
                f"{file.name} is not a readable GGUF file: {error}.",
                param=str(file),
                hint="It is a Git LFS pointer: run `git lfs pull`."
                if _begins(file, LFS_MAGIC)
                else "It is broken or not downloaded completely; download it again.",
            ) from error
        if num_parts > 1:
            raise UnsupportedModelError(
                f"{file.name} is one of {num_parts} parts of a model.",
                param="model",
                hint="Join them with llama.cpp's tool: llama-gguf-split --merge FIRST-PART.gguf MODEL.gguf.",
            )
        return cls(file, metadata, tensors)


class _Metadata(Mapping[str, Any]):
    """Metadata by key, decoded when they are looked up."""

    def __init__(self, places: Mapping[str, tuple[int, int]], data: npt.NDArray[np.uint8]) -> None:
        self._places = places
        self._data = data

    def __getitem__(self, key: str) -> Any:
        kind, offset = self._places[key]
        return _Cursor(self._data, offset).value(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Cursor:
    """A place in the file that moves as it is read. Raises ValueError and struct.error where that is impossible."""

    def __init__(self, data: npt.NDArray[np.uint8], offset: int = 0) -> None:
        self._data = data
        self._bytes = data.data
        self._offset = offset

    def header(self) -> tuple[int, _Metadata]:
        """From the beginning of the file: the number of its tensors, and its metadata, each within the file."""
        magic = bytes(self._bytes[: len(MAGIC)])
        self._offset = len(MAGIC)
        version = self._number("I")
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError(f"it begins with {magic!r}, version {version}, not {MAGIC!r}, version 2 or 3")
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        places = {}
        for _ in range(num_keys):
            key, kind = self._string(), self._number("I")
            places[key] = kind, self._offset
            self._skip(kind)
        return num_tensors, _Metadata(places, self._data)

    def tensors(self, count: int, metadata: Mapping[str, Any], types: Any) -> Iterator[tuple[str, GGUFTensor]]:
        """From the end of the metadata: the tensors by name, each within the file."""
        described = []
        for _ in range(count):
            name, num_dimensions = self._string(), self._number("I")
            if not 1 <= num_dimensions <= MAX_DIMENSIONS:
                raise ValueError(f"{name} has {num_dimensions} dimensions")
            shape = tuple(self._number("Q") for _ in range(num_dimensions))[::-1]
            described.append((name, shape, self._number("I"), self._number("Q")))
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if alignment < 8 or alignment % 8:
            raise ValueError(f"tensors are aligned to {alignment} bytes")
        begin = -(-self._offset // alignment) * alignment
        seen = set()
        for name, shape, number, place in described:
            offset, (dtype, row_bytes) = begin + place, _row_bytes(name, shape, number, types)
            if offset % 8 or offset + prod(shape[:-1]) * row_bytes > len(self._data):
                raise ValueError(f"{name} {list(shape)} lies at byte {offset:,} of {len(self._data):,}")
            if name in seen:
                raise ValueError(f"it holds two tensors {name}")
            seen.add(name)
            yield name, GGUFTensor(self._data, offset, shape, dtype, row_bytes)

    def value(self, kind: int) -> Any:
        """The value here, of the type of this number."""
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._number(_scalar_format(kind))
        item, count = self._number("I"), self._number("Q")
        if item == STRING:
            return [self._string() for _ in range(count)]
        layout = f"<{count}{_scalar_format(item)}"
        return list(struct.unpack_from(layout, self._bytes, self._offset))

    def _skip(self, kind: int) -> None:
        if kind == STRING:
            self._offset += 8 + self._length()
        elif kind != ARRAY:
            self._offset += struct.calcsize(_scalar_format(kind))
        else:
            item, count = self._number("I"), self._number("Q")
            if item == STRING:
                self._skip_strings(count)
            else:
                self._offset += count * struct.calcsize(_scalar_format(item))
        if self._offset > len(self._data):
            raise ValueError(f"it ends at byte {len(self._data):,}, within the metadata")

    def _skip_strings(self, count: int) -> None:
        """The one loop of which speed matters: 300,000 times for each opening of a Qwen3 file."""
        data, offset, unpack = self._bytes, self._offset, struct.Struct("<Q").unpack_from
        for _ in range(count):
            offset += 8 + unpack(data, offset)[0]
        self._offset = offset

    def _number(self, layout: str) -> Any:
        (number,) = struct.unpack_from(f"<{layout}", self._bytes, self._offset)
        self._offset += struct.calcsize(layout)
        return number

    def _length(self) -> int:
        (length,) = struct.unpack_from("<Q", self._bytes, self._offset)
        if length > len(self._data) - self._offset - 8:
            raise ValueError(f"a string of {length:,} bytes lies at byte {self._offset:,} of {len(self._data):,}")
        return int(length)

    def _string(self) -> str:
        begin = self._offset + 8
        self._offset = begin + self._length()
        return str(self._bytes[begin : self._offset], "utf-8", "replace")


def _scalar_format(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"it has metadata of type {kind}")
    return SCALARS[kind]


def _row_bytes(name: str, shape: tuple[int, ...], number: int, types: Any) -> tuple[str, int]:
    """The name of a type by its number, and the bytes of a row; 0 for types younger than the `gguf` package."""
    try:
        kind = types(number)
    except ValueError:
        return f"type {number}", 0
    block, block_bytes = _package().GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"{name} {list(shape)} does not divide into the blocks of {block} of {kind.name}")
    return kind.name, shape[-1] // block * block_bytes


def _begins(file: Path, magic: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(magic)) == magic
    except OSError:
        return False


def _package() -> ModuleType:
    """The `gguf` package, an extra."""
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise SettingsError(
            "GGUF files need the gguf package, which is not installed.",
            param="model",
            hint='Install it: pip install "quernel[gguf]".',
        ) from error
    return gguf
