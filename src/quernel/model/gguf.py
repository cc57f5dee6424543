"""GGUF files: one file that holds a model, read so that it can stand where a folder stands.

What the file says of the arithmetic (sizes, rope, norms) is believed, for nothing else says it. What it says of the end
token and the pooling is not, for conversions get those wrong; see `quernel.model.side_files`.

The `gguf` package knows the types of tensors and dequantises them. Its own reader is not used: it takes 6.5 seconds and
520 MB for the metadata of a Qwen3 file, whose vocabulary and merges are 300,000 strings; this one passes over them.

Source: the layout is `docs/gguf.md` of ggml-org/ggml. Names, and that q and k are stored as they are (their rows are
permuted for other architectures): `gguf-py/gguf/constants.py` and `conversion/qwen.py` of ggml-org/llama.cpp.
"""

import re
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

from quernel.errors import CheckpointError, ConfigError, SettingsError, UnsupportedModelError
from quernel.model.config import load_json
from quernel.types import ModelKind

QUANTISED = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0")
"""Types in which blocks of a row share a scale, that can be loaded. They are dequantised in float32.

`Q4_K_M` and the like name files, whose tensors are of several of these types.
"""

ARCHITECTURE = "qwen3"

CONFIG_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""Keys of `config.json`, and where the same stands in the metadata, after `qwen3.`."""

OUTSIDE_LAYERS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "cls.output": "score",
}
IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of tensors, and what the official files call them; in a layer after `blk.0.` and `layers.0.`."""

UNTIED_SIZE = 4096
"""From this width on the family's head is a tensor of its own; a file without it has no head, not a tied one.

Source: `tie_word_embeddings` in `config.json` of the six models: false for 8B alone.
"""

POOLING_KEY = f"{ARCHITECTURE}.pooling_type"
LAST_POOLING, RANK_POOLING = 3, 4
"""What `POOLING_KEY` is for an embedding model and for a reranker.

Source: `PoolingType` in `gguf-py/gguf/constants.py`.
"""

LABELS_KEY = f"{ARCHITECTURE}.classifier.output_labels"
TEMPLATE_KEY = "tokenizer.chat_template.rerank"

MAGIC, VERSIONS = b"GGUF", (2, 3)
LFS_MAGIC = b"version https://git-lfs"
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of metadata by number, the scalar ones with their `struct` formats."""

DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
SLICE_BYTES = 1 << 18
"""How much of a quantised tensor is dequantised at a time: what that takes still fits a processor's cache."""


def read_metadata(file: Path) -> Mapping[str, Any]:
    """The metadata of a GGUF file by their keys, each decoded when it is looked up.

    Raises:
        CheckpointError: It is not a readable GGUF file.
        UnsupportedModelError: It is one part of several.
        SettingsError: The `gguf` package is not installed.
    """
    return GGUFFile.open(file).metadata


def load_raw_config(source: Path) -> dict[str, Any]:
    """`config.json` of a folder; of a GGUF file, what its metadata come to in that form.

    Raises:
        ConfigError: `config.json` or a key of the metadata is missing or broken.
        CheckpointError: The GGUF file cannot be read.
        UnsupportedModelError: The GGUF file is not of a Qwen3 decoder, or one part of several.
        SettingsError: The `gguf` package is not installed.
    """
    return GGUFFile.open(source).raw_config() if source.is_file() else load_json(source / "config.json")


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

    def __getitem__(self, rows: slice) -> Tensor:
        """Some rows of a matrix: as they are stored, in the file's mapping, or dequantised to float32."""
        start, stop, _ = rows.indices(self.num_rows)
        begin = self.offset + start * self.row_bytes
        stored = self.data[begin : begin + (stop - start) * self.row_bytes].reshape(stop - start, self.row_bytes)
        if self.dtype not in QUANTISED:
            kept = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[self.dtype]
            return torch.from_numpy(stored).view(kept)
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
    """A file, mapped: its metadata and, by the names of the official files, its tensors.

    It is read like what `safetensors.safe_open` gives: `keys`, `get_slice`, `get_tensor`.
    """

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

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self.tensors)

    def get_slice(self, name: str) -> GGUFTensor:
        """A tensor, unread."""
        return self.tensors[name]

    def get_tensor(self, name: str) -> Tensor:
        """A tensor: as it is stored, in the file's mapping, or dequantised to float32."""
        stored = self.tensors[name]
        return stored[: stored.num_rows].view(stored.shape)

    @property
    def kind(self) -> ModelKind | None:
        """What the model does, as its head, its metadata and its names tell; `None` where they do not.

        Names come before the pooling that is asked for: early conversions of the rerankers ask for that of embeddings.
        """
        pooling = self.metadata.get(POOLING_KEY)
        names = " ".join(str(self.metadata.get(key, "")) for key in ("general.name", "general.basename"))
        names = f"{names} {self.file.name}".lower()
        is_marked = "score.weight" in self.tensors or TEMPLATE_KEY in self.metadata or pooling == RANK_POOLING
        if is_marked or "rerank" in names:
            return ModelKind.RERANKER
        return ModelKind.EMBEDDING if pooling == LAST_POOLING or "embed" in names else None

    def raw_config(self) -> dict[str, Any]:
        """What `config.json` would say.

        A head is said to be tied only where a file says that it is a reranker's: otherwise an embedding model without
        metadata would rerank, at random.

        Raises:
            ConfigError: A key that it needs is missing.
            CheckpointError: There is no embedding table.
            UnsupportedModelError: Not of a Qwen3 decoder, or of a variant with other arithmetic.
        """
        architecture = self.metadata.get("general.architecture")
        if architecture != ARCHITECTURE:
            raise UnsupportedModelError(
                f"{self.file.name} holds a model of architecture {architecture!r}, which is not a Qwen3 embedding "
                "model or reranker.",
                param="general.architecture",
                hint=f"Supported: {ARCHITECTURE!r}.",
            )
        said: dict[str, Any] = {key: self.metadata.get(f"{ARCHITECTURE}.{place}") for key, place in CONFIG_KEYS.items()}
        if missing := [f"{ARCHITECTURE}.{CONFIG_KEYS[key]}" for key, value in said.items() if value is None]:
            raise ConfigError(f"The metadata of {self.file.name} lack {', '.join(missing)}.", param=missing[0])
        self._refuse_other_arithmetic(said["head_dim"])
        if "embed_tokens.weight" not in self.tensors:
            raise CheckpointError(
                f"{self.file.name} holds no token_embd.weight.",
                param=str(self.file),
                hint="It is not a whole model; adapters must be merged first.",
            )
        vocab_size, width = self.tensors["embed_tokens.weight"].shape[0], self.tensors["embed_tokens.weight"].shape[-1]
        has_head = "lm_head.weight" in self.tensors
        return said | {
            "model_type": architecture,
            "vocab_size": vocab_size,
            "tie_word_embeddings": self.kind is ModelKind.RERANKER and not has_head and width < UNTIED_SIZE,
            "id2label": dict(enumerate(self.metadata.get(LABELS_KEY) or ())),
        }

    def _refuse_other_arithmetic(self, head_dim: int) -> None:
        def said(key: str, usual: Any) -> Any:
            return self.metadata.get(f"{ARCHITECTURE}.{key}", usual)

        refusals = {
            f"rope scaling {said('rope.scaling.type', 'none')!r}": said("rope.scaling.type", "none") != "none",
            "rope on a part of each head": said("rope.dimension_count", head_dim) != head_dim,
            "values of another width than keys": said("attention.value_length", head_dim) != head_dim,
            "a sliding window": bool(said("attention.sliding_window", 0)),
            "attention in both directions": not said("attention.causal", True),
        }
        for feature, is_present in refusals.items():
            if is_present:
                raise UnsupportedModelError(
                    f"The metadata of {self.file.name} ask for {feature}, which no Qwen3 embedding model has.",
                    param="model",
                )


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
        """From the end of the metadata: the tensors by their official names, each within the file."""
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
            official = _official_name(name)
            offset, (dtype, row_bytes) = begin + place, _row_bytes(name, shape, number, types)
            if offset % 8 or offset + prod(shape[:-1]) * row_bytes > len(self._data):
                raise ValueError(f"{name} {list(shape)} lies at byte {offset:,} of {len(self._data):,}")
            if official in seen:
                raise ValueError(f"it holds two tensors {name}")
            seen.add(official)
            yield official, GGUFTensor(self._data, offset, shape, dtype, row_bytes)

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


def _official_name(name: str) -> str:
    """The name of a tensor in the official files; its own if it is none of theirs."""
    stem, dot, suffix = name.rpartition(".")
    in_layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if in_layer and in_layer[2] in IN_LAYERS:
        return f"layers.{in_layer[1]}.{IN_LAYERS[in_layer[2]]}{dot}{suffix}"
    return f"{OUTSIDE_LAYERS.get(stem, stem)}{dot}{suffix}"


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
