"""The systems that `peers.py` compares: each loads the same checkpoint and turns the same token ids into unit vectors.

    python benchmarks/peer_systems.py serve NAME FOLDER FD      one system, commanded over an inherited socket
    python benchmarks/peer_systems.py checkpoint LAYERS FOLDER  a random checkpoint
    python benchmarks/peer_systems.py export FILE FOLDER        the file that a system reads instead of the checkpoint

`peers.py` starts all three; nothing here is told what is compared with what. A system's libraries are imported when it
is loaded, so that its process holds no other's memory. Every library keeps its own defaults, threads included.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 32
"""Texts in a padded batch: the default of sentence-transformers, given to all that pad."""
MAX_PADDED_TOKENS = 16_384
"""In a batch of an exported graph, with padding: 32 texts of 2,048 tokens do not fit 24 GiB there."""
PAD_ID = 151_643
LAST_POOLING = 3
OPENVINO_FILE = "openvino/model.xml"
ONNX_FILE = "onnx/model.onnx"

TokenPath = tuple[tuple[int, ...], ...]
Vectors = npt.NDArray[np.float32]
Batch = tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.int64]]


class System(ABC):
    """A loaded model. `prepare` is not timed, `run` is."""

    paths: Sequence[TokenPath]
    texts: list[list[int]]

    def prepare(self, paths: Sequence[TokenPath]) -> None:
        """Take the texts of the runs to come."""
        self.paths = paths
        self.texts = [list(chain.from_iterable(path)) for path in paths]

    @abstractmethod
    def run(self) -> Vectors:
        """Their vectors, `[N, C]`."""


class Quernel(System):
    """The engine of an `Embedder`; it alone is told which tokens begin alike, as its prompts tell it."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from quernel.embedder import Embedder
        from quernel.engine.engine import Engine
        from quernel.engine.runner import ModelRunner

        self._embedder = Embedder(folder, dtype=dtype, device="cpu")
        engine = self._embedder._engine
        assert isinstance(engine, Engine)  # not in another process
        assert isinstance(engine._runner, ModelRunner)
        self._engine, self._prefix_cache = engine, engine._runner.prefix_cache

    def run(self) -> Vectors:
        from quernel.model.heads import truncate_and_normalise

        self._prefix_cache.clear()  # or a repetition would find what the one before computed
        hidden = self._engine.submit(list(self.paths)).result()
        vectors: Vectors = truncate_and_normalise(hidden, hidden.shape[1], True)
        return vectors


class SentenceTransformers(System):
    """`SentenceTransformer.encode` itself; only the tokenizer's call is replaced, by one that looks up the ids."""

    def __init__(self, folder: Path, dtype: str) -> None:
        library = importlib.import_module("sentence_transformers")
        # Its own choice is the checkpoint's bfloat16, even where a CPU has no arithmetic for it.
        self._model = library.SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
        tokenizer = self._model.tokenizer

        def look_up(_: Any, text: Sequence[str], **options: Any) -> Any:
            ids = [self.texts[int(name.rstrip("."))] for name in text]
            return tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")

        tokenizer.__class__ = type("TokenizerOfIds", (type(tokenizer),), {"__call__": look_up})

    def prepare(self, paths: Sequence[TokenPath]) -> None:
        super().prepare(paths)
        # `encode` sorts by characters; so many that the order is that of the tokens, the best it could find.
        self._names = [str(index).ljust(8 + len(text), ".") for index, text in enumerate(self.texts)]

    def run(self) -> Vectors:
        return normalise(self._model.encode(self._names, show_progress_bar=False))  # bfloat16 comes as float32, rounded


class Transformers(System):
    """The model card's code: batches in the order of arrival, padded on the left, the last position read."""

    def __init__(self, folder: Path) -> None:
        library = importlib.import_module("transformers")
        self._model = library.AutoModel.from_pretrained(folder, dtype="float32").eval()

    def run(self) -> Vectors:
        import torch

        rows = []
        with torch.inference_mode():
            for _, ids, mask in padded_batches(self.texts, sort=False, left=True):
                hidden = self._model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
                rows.append(hidden.last_hidden_state[:, -1].numpy())
        return normalise(np.concatenate(rows))


class OpenVino(System):
    """The exported graph in float32 on the CPU; sorted and padded as sentence-transformers does, batches limited."""

    def __init__(self, folder: Path) -> None:
        library = importlib.import_module("openvino")
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        self._model = library.Core().compile_model(folder / OPENVINO_FILE, "CPU", options)

    def run(self) -> Vectors:
        return run_sorted(self.texts, lambda ids, last: self._model([ids, last])[0])


class OnnxRuntime(System):
    """The exported graph on the CPU provider; sorted and padded as sentence-transformers does, batches limited."""

    def __init__(self, folder: Path) -> None:
        library = importlib.import_module("onnxruntime")
        self._session = library.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])

    def run(self) -> Vectors:
        return run_sorted(self.texts, lambda ids, last: self._session.run(None, {"ids": ids, "last": last})[0])


class LlamaCpp(System):
    """`Llama.embed` itself, with last pooling; only the tokenizer's call is replaced, by one that looks up the ids."""

    def __init__(self, folder: Path, file: str) -> None:
        self._library = importlib.import_module("llama_cpp")
        self._file = str(folder / file)
        self._num_tokens = 0
        self._model: Any = None

    def prepare(self, paths: Sequence[TokenPath]) -> None:
        super().prepare(paths)
        # A text must fit one batch, and memory grows with the batch: its default, or the longest text.
        num_tokens = max(512, *map(len, self.texts))
        if num_tokens != self._num_tokens:
            self._model = None
            self._model = self._library.Llama(
                self._file,
                embedding=True,
                pooling_type=LAST_POOLING,
                n_ctx=num_tokens,
                n_batch=num_tokens,
                n_ubatch=num_tokens,
                verbose=False,
            )
            self._model.tokenize = lambda name: self.texts[int(name)]
            self._num_tokens = num_tokens

    def run(self) -> Vectors:
        names = [str(index) for index in range(len(self.texts))]
        return normalise(np.array(self._model.embed(names, truncate=False), dtype=np.float32))


def padded_batches(
    texts: Sequence[list[int]], *, sort: bool, left: bool, max_tokens: int | None = None
) -> Iterator[Batch]:
    """Indices, ids and mask of each batch; sorted means the longest first. A batch has at least one text."""
    left_over = sorted(range(len(texts)), key=lambda index: -len(texts[index])) if sort else list(range(len(texts)))
    while left_over:
        size = BATCH_SIZE
        if max_tokens is not None:
            size = min(size, max(1, max_tokens // len(texts[left_over[0]])))
        part, left_over = left_over[:size], left_over[size:]
        width = max(len(texts[index]) for index in part)
        ids = np.full((len(part), width), PAD_ID, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(part):
            length = len(texts[index])
            columns = slice(width - length, width) if left else slice(length)
            ids[row, columns] = texts[index]
            mask[row, columns] = 1
        yield part, ids, mask


def run_sorted(
    texts: Sequence[list[int]], run: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Vectors]
) -> Vectors:
    """Vectors from a graph of ids and last positions, in the order of the texts."""
    rows: list[Any] = [None] * len(texts)
    for part, ids, mask in padded_batches(texts, sort=True, left=False, max_tokens=MAX_PADDED_TOKENS):
        for index, row in zip(part, run(ids, mask.sum(axis=1) - 1), strict=True):
            rows[index] = row
    return normalise(np.stack(rows))


def normalise(rows: npt.NDArray[Any]) -> Vectors:
    """Rows of length 1."""
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@dataclass(frozen=True)
class Entry:
    """How to have a system.

    Attributes:
        title: In tables and pictures.
        module: What must be installed.
        distribution: Whose version is reported.
        load: From the checkpoint's folder.
        file: What it reads beside or instead of the checkpoint.
        weight_bytes: Of a parameter, about, in memory.
    """

    title: str
    module: str
    distribution: str
    load: Callable[[Path], System]
    file: str | None = None
    weight_bytes: float = 4.0

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


def quernel(dtype: str, weight_bytes: float) -> Entry:
    return Entry(f"Quernel {dtype}", "quernel", "quernel", lambda folder: Quernel(folder, dtype), None, weight_bytes)


def sentence_transformers(title: str, dtype: str, weight_bytes: float) -> Entry:
    module, distribution = "sentence_transformers", "sentence-transformers"
    return Entry(title, module, distribution, lambda folder: SentenceTransformers(folder, dtype), None, weight_bytes)


def llama_cpp(kind: str, weight_bytes: float) -> Entry:
    file = f"gguf/{kind}/model.gguf"
    title, distribution = f"llama.cpp {kind}", "llama-cpp-python"
    return Entry(title, "llama_cpp", distribution, lambda folder: LlamaCpp(folder, file), file, weight_bytes)


SYSTEMS = {
    "quernel-float32": quernel("float32", 4.0),
    "quernel-bfloat16": quernel("bfloat16", 2.0),
    "quernel-int8": quernel("int8", 1.5),
    "sentence-transformers": sentence_transformers("sentence-transformers", "float32", 4.0),
    "sentence-transformers-bfloat16": sentence_transformers("sentence-transformers bf16", "bfloat16", 2.0),
    "transformers": Entry("transformers, in order", "transformers", "transformers", Transformers),
    "openvino": Entry("OpenVINO f32", "openvino", "openvino", OpenVino, OPENVINO_FILE),
    "onnxruntime": Entry("ONNX Runtime f32", "onnxruntime", "onnxruntime", OnnxRuntime, ONNX_FILE),
    "llama.cpp-q8_0": llama_cpp("Q8_0", 1.1),
    "llama.cpp-f16": llama_cpp("F16", 2.0),
    "llama.cpp-f32": llama_cpp("F32", 4.0),
}


def export_checkpoint(folder: Path, layers: int) -> None:
    """The random model with the official side files and a tokenizer file of the official size."""
    from parity_full_size import make_checkpoint

    sys.path.insert(0, str(ROOT))
    from tests.support.tokenizers import official_tokenizer_json

    make_checkpoint(folder, layers)
    shutil.copytree(ROOT / "tests" / "data" / "configs" / "Qwen3-Embedding-0.6B", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": layers, "max_window_layers": layers}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "tokenizer.json").write_text(official_tokenizer_json("qwen3-embedding-0.6b"), encoding="utf-8")
    tokenizer = {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "model_max_length": 131_072,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def build_graph(folder: Path) -> tuple[Any, Any]:
    """A module from ids and last positions to those positions' hidden states, for tracing, and inputs to trace it with.

    Padding is on the right, where causal attention never looks: the graph needs no mask but the causal one.
    """
    import torch
    import transformers

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: float, **options: Any) -> Any:
        # Spelled with repeated keys, which every converter knows; transformers' own way has shapes in its conditions.
        key, value = (part.repeat_interleave(module.num_key_value_groups, dim=1) for part in (key, value))
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return output.transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("graph", attend)
    model = transformers.AutoModel.from_pretrained(folder, dtype="float32", attn_implementation="graph").eval()

    class LastHidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, last: Any) -> Any:
            hidden = self.model(input_ids=ids, attention_mask={"full_attention": None}, use_cache=False)[0]
            return hidden[torch.arange(ids.shape[0]), last]

    return LastHidden(), (torch.randint(0, 1000, (3, 7)), torch.tensor([6, 4, 2]))


def export_openvino(folder: Path, target: Path) -> None:
    import torch

    library = importlib.import_module("openvino")
    graph, example = build_graph(folder)
    with torch.inference_mode():
        shapes = [library.PartialShape([-1, -1]), library.PartialShape([-1])]
        converted = library.convert_model(graph, example_input=example, input=shapes)
    library.save_model(converted, target, compress_to_fp16=False)


def export_onnx(folder: Path, target: Path) -> None:
    import torch

    graph, example = build_graph(folder)
    with torch.inference_mode():
        torch.onnx.export(
            graph,
            example,
            str(target),
            input_names=["ids", "last"],
            output_names=["hidden"],
            dynamic_axes={"ids": {0: "texts", 1: "tokens"}, "last": {0: "texts"}},
            opset_version=17,
            dynamo=False,
        )


def export_gguf(folder: Path, target: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.support.gguf import write_gguf

    write_gguf(folder, target, type_name=target.parent.name)


def export(file: str, folder: Path) -> None:
    """Write `folder/file` and what lies beside it; under another name first, so that what is there is complete."""
    writers = {".xml": export_openvino, ".onnx": export_onnx, ".gguf": export_gguf}
    target = folder / file
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        beside = Path(partial) / target.parent.name
        beside.mkdir()
        writers[target.suffix](folder, beside / target.name)
        target.parent.parent.mkdir(exist_ok=True)
        beside.rename(target.parent)


def reset_peak() -> None:
    """Begin the peak of resident memory anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Highest resident memory since `reset_peak`, else since the start."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def serve(name: str, folder: Path, connection: Connection) -> None:
    """Load, then obey: a list of paths prepares, `True` runs and answers, `None` ends.

    Every answer is a string where it failed. Between commands the process waits in `recv`.
    """
    with contextlib.suppress(OSError):
        # If memory runs out, the system that asked for too much goes, not the one that keeps the record.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    try:
        system = SYSTEMS[name].load(folder)
    except Exception as error:  # noqa: BLE001 - whatever a library raises is that system's result
        connection.send(describe(error))
        return
    connection.send(None)
    while message := receive(connection):
        try:
            if message is True:
                start = time.perf_counter()
                vectors = system.run()
                connection.send((time.perf_counter() - start, peak_bytes(), vectors))
            else:
                system.prepare(message)
                reset_peak()
                connection.send(None)
        except Exception as error:  # noqa: BLE001 - as above
            connection.send(describe(error))


def receive(connection: Connection) -> Any:
    """The next command; none where the parent is gone."""
    try:
        return connection.recv()
    except EOFError:
        return None


def describe(error: Exception) -> str:
    """Kind and first line."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def main() -> None:
    """What the parent asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, what in (("serve", "name"), ("checkpoint", "layers"), ("export", "file")):
        wanted = commands.add_parser(command)
        wanted.add_argument(what, type=int if what == "layers" else str)
        wanted.add_argument("folder", type=Path)
        if command == "serve":
            wanted.add_argument("fd", type=int)
    arguments = parser.parse_args()
    if arguments.command == "serve":
        serve(arguments.name, arguments.folder, Connection(arguments.fd))
    elif arguments.command == "checkpoint":
        export_checkpoint(arguments.folder, arguments.layers)
    else:
        export(arguments.file, arguments.folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # libraries' own threads may not end


if __name__ == "__main__":
    main()
