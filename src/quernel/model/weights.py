"""Weight files into modules: what a folder of safetensors, or a GGUF file, holds, checked against what the model needs.

Files are memory-mapped, and tensors are read one at a time. The embedding table stays in the mapping: only the rows of
tokens that occur are ever read from disk. The matrices of the layers become maps (`quernel.model.linear`) in whatever
form the machine multiplies fastest; where that is the plain one in the stored type, they stay in the mapping too. What
a GGUF file has quantised is computed like anything else, in the type that is chosen: the smaller file is not a smaller
model.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quernel.errors import CheckpointError
from quernel.model.config import Qwen3Config
from quernel.model.dtypes import working_dtype
from quernel.model.files import GGUF_SUFFIX
from quernel.model.gguf import GGUFModel
from quernel.model.gguf_format import QUANTISED
from quernel.model.linear import QuantisedWeight, Weight, choose_linear
from quernel.model.qwen3 import Qwen3

STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16} | dict.fromkeys(
    QUANTISED, torch.bfloat16
)
"""Types of stored tensors that can be loaded, by their names in the files; for the quantised ones of GGUF files, the
least type that computes what they have kept of the values."""

INT8 = "I8"
"""The stored type of weights in 8 bits. Each has its scales beside it, in a tensor of its name and `SCALE_SUFFIX`."""

SCALE_SUFFIX = "_scale"

MATRIX_SUFFIX = "_proj.weight"
"""How the names of the layers' matrices end."""

EMBEDDING = "embed_tokens.weight"

PREFIX = "model."
"""What may stand before a tensor's name: the rerankers' files have it, the embedding models' do not."""

HEADS = ("lm_head.weight", "score.weight")
"""Tensors that are not part of the decoder. `quernel.model.heads` reads what it needs of them; nobody else does."""

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

OTHER_SUFFIXES = (".bin", ".gguf", ".pt", ".pth", ".safetensors")
"""Of weights that may be in a folder without being weights that can be loaded."""

NUM_NAMED = 4
"""How many tensors of each fault an error names."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a file, unread.

    Attributes:
        file: The file.
        name: Its name there.
        shape: Its shape.
        dtype: The name of its type there.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors in a model's weight files, unread, by name without `model.`."""

    source: Path
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, source: Path) -> "Checkpoint":
        """What the headers of the weight files list.

        The files of a folder are `model.safetensors`, else those that the index names, else every `*.safetensors` file.

        Args:
            source: A folder, or a GGUF file.

        Raises:
            CheckpointError: There are no files, one is missing or broken, or two hold the same tensor.
        """
        tensors: dict[str, StoredTensor] = {}
        for file in [source] if source.is_file() else _weight_files(source):
            for stored in _read_header(file):
                name = stored.name.removeprefix(PREFIX)
                if name in tensors:
                    raise CheckpointError(
                        f"{tensors[name].name} is in {tensors[name].file.name} and {stored.name} in {file.name}.",
                        param=str(source),
                        hint="A tensor may be stored once; is there a file too many in the folder?",
                    )
                tensors[name] = stored
        return cls(source, tensors)

    @property
    def stored_dtype(self) -> torch.dtype | None:
        """The type that most of the values of the layers are stored in; `None` if it is none that can be loaded."""
        sizes: Counter[str] = Counter()
        for name, stored in self.tensors.items():
            sizes[stored.dtype] += prod(stored.shape) if name != EMBEDDING else 1
        return (STORED_DTYPES | {INT8: torch.int8}).get(max(sizes, key=lambda dtype: sizes[dtype])) if sizes else None

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Weight]]:
        """Each of the named tensors as it is stored, in a memory map of its file, or dequantised from GGUF.

        Each has a mapping of its own, so what is not kept does not stay resident.

        Raises:
            CheckpointError: A file can no longer be read.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        for file, held in by_file.items():
            gguf = GGUFModel.open(file) if file.suffix == GGUF_SUFFIX else None  # it takes long to open
            for name in held:
                with nullcontext(gguf) if gguf else _opened(file) as handle:
                    tensor = handle.get_tensor(self.tensors[name].name)
                if self.tensors[name].dtype == INT8:
                    yield name, QuantisedWeight(tensor, self._scales(name))
                else:
                    yield name, tensor

    def _scales(self, name: str) -> Tensor:
        stored = self.tensors[name + SCALE_SUFFIX]
        with _opened(stored.file) as handle:
            scales: Tensor = handle.get_tensor(stored.name)
        return scales.float().flatten()

    def read_rows(self, name: str, rows: Collection[int]) -> Tensor:
        """Some rows of a matrix as they are stored, `[len(rows), columns]`; the others are not read from disk.

        Raises:
            CheckpointError: The file can no longer be read.
        """
        stored = self.tensors[name]
        with _opened(stored.file) as handle:
            matrix = handle.get_slice(stored.name)
            return torch.cat([matrix[row : row + 1] for row in rows])

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a checkpoint that does not hold exactly the tensors in `expected` (and, if it likes, heads).

        Args:
            expected: Shapes by name.

        Raises:
            CheckpointError: Says which tensors are missing, unexpected, or of another shape or type than can be loaded.
        """
        both = [(name, self.tensors[name], shape) for name, shape in expected.items() if name in self.tensors]
        scales = {
            name + SCALE_SUFFIX: shape[:1]
            for name, stored, shape in both
            if stored.dtype == INT8 and name.endswith(MATRIX_SUFFIX)
        }
        expected = {**expected, **scales}
        both += [(name, self.tensors[name], shape) for name, shape in scales.items() if name in self.tensors]
        faults = {
            "missing": [f"{name} {list(shape)}" for name, shape in expected.items() if name not in self.tensors],
            "unexpected": [
                f"{stored.name} {list(stored.shape)} in {stored.file.name}"
                for name, stored in self.tensors.items()
                if name not in expected and name not in HEADS
            ],
            "misshapen": [
                f"{stored.name} {list(stored.shape)} in {stored.file.name}, not {list(shape)}"
                for name, stored, shape in both
                if stored.shape != shape and not (name in scales and stored.shape == (*shape, 1))
            ],
            "of a type that cannot be loaded": [
                f"{stored.name} {stored.dtype} in {stored.file.name}"
                for name, stored, _ in both
                if stored.dtype not in STORED_DTYPES and name + SCALE_SUFFIX not in scales
            ],
        }
        found = [f"{len(names)} {fault}: {_some(names)}." for fault, names in faults.items() if names]
        if found:
            config = "the metadata" if self.source.is_file() else "config.json"
            raise CheckpointError(
                f"The weights in {self.source} do not fit {config}. Tensors {' '.join(found)}",
                param=str(self.source),
                hint=f"Do all files come from the same model? Types that can be loaded: {', '.join(STORED_DTYPES)}.",
            )


def load_model(
    source: Path,
    config: Qwen3Config,
    *,
    dtype: torch.dtype,
    device: torch.device,
    linear: Callable[[Weight], nn.Module] | None = None,
) -> Qwen3:
    """The model with its weights in `dtype` on `device`, ready to run and without gradients.

    Memory: the embedding table's own pages where the CPU can read its type, and the maps. While a matrix becomes one,
    it is resident besides. `tests/model/test_memory.py` measures it.

    Args:
        source: A folder that holds the weight files, or a GGUF file.
        config: Its configuration.
        dtype: The type to compute in; int8 computes in float32 what is not a product with a weight.
        device: Where to compute.
        linear: Makes the maps of the layers out of their weights; plain ones in `dtype` where it is None.

    Raises:
        CheckpointError: The files are missing or broken, or hold other tensors than the configuration asks for.
    """
    make_map = linear or choose_linear(dtype, torch.device("meta"))
    wanted = working_dtype(dtype)
    with torch.device("meta"):
        model = Qwen3(config)
    expected = _shapes(model)
    checkpoint = Checkpoint.open(source)
    checkpoint.check(expected)
    for name, weight in checkpoint.read(expected):
        # First to the device, then to the type: what travels is the smaller of the two.
        moved = weight.to(device)
        path, _, _ = name.rpartition(".")
        if name.endswith(MATRIX_SUFFIX):
            model.set_submodule(path, make_map(moved))
            continue
        assert isinstance(moved, Tensor), "only matrices of layers are quantised"
        keep = name == EMBEDDING and device.type == "cpu" and moved.itemsize <= wanted.itemsize
        model.get_submodule(path).weight = nn.Parameter(moved if keep else moved.to(wanted))
    return model.requires_grad_(False).eval()


def expected_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a model, by name without `model.`; heads are not among them."""
    with torch.device("meta"):
        return _shapes(Qwen3(config))


def _shapes(model: Qwen3) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def stored_dtype(source: Path) -> torch.dtype | None:
    """The type that a model's weights are stored in, from the files' headers; `None` if it cannot be loaded.

    Raises:
        CheckpointError: The files are missing or broken.
    """
    return Checkpoint.open(source).stored_dtype


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists():
        return [single]
    if index.exists():
        return _indexed_files(index)
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter"))
    if not files:
        others = sorted(file.name for file in folder.glob("*") if file.suffix in OTHER_SUFFIXES)
        found = f" (only {_some(others)})" if others else ""
        raise CheckpointError(
            f"{folder} has no weights in the safetensors format{found}.",
            param=str(folder),
            hint="Download the model completely, or save it with `save_pretrained`; adapters must be merged first.",
        )
    return files


def _indexed_files(index: Path) -> list[Path]:
    """The files that an index names, in order. The headers say what is in them; the index is not asked."""
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index.name} ({_size(index)}) is not an index of weight files: {type(error).__name__}: {error}.",
            param=str(index),
            hint="Download it again.",
        ) from error
    if foreign := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{index.name} names files outside its folder: {_some(foreign)}.", param=str(index))
    files = [index.parent / name for name in names]
    if missing := [file.name for file in files if not file.exists()]:
        raise CheckpointError(
            f"{index.name} names {len(files)} files, but {_some(missing)} cannot be found.",
            param=str(index),
            hint="Download the model completely.",
        )
    return files


def _read_header(file: Path) -> list[StoredTensor]:
    with _opened(file) as handle:
        slices = [(name, handle.get_slice(name)) for name in handle.keys()]  # noqa: SIM118 - not a mapping
        return [StoredTensor(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The memory-mapped file, of either format. Translates what safetensors raises for files that it cannot read."""
    if file.suffix == GGUF_SUFFIX:
        yield GGUFModel.open(file)
        return
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file.name} ({_size(file)}) is not a readable safetensors file: {error}.",
            param=str(file),
            hint="It is a Git LFS pointer: run `git lfs pull`."
            if _is_lfs_pointer(file)
            else "It is broken or not downloaded completely; download it again.",
        ) from error


def _is_lfs_pointer(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(30).startswith(b"version https://git-lfs")
    except OSError:
        return False


def _size(file: Path) -> str:
    try:
        return f"{file.stat().st_size:,} bytes"
    except OSError:
        return "unreadable"


def _some(names: Collection[str]) -> str:
    """The first few of `names`, and how many more there are."""
    first = ", ".join(list(names)[:NUM_NAMED])
    return first if len(names) <= NUM_NAMED else f"{first} and {len(names) - NUM_NAMED} more"
