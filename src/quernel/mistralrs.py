"""The embedding part of mistral.rs's Python and Rust interfaces, in this process: change the import, keep the code.

    from quernel.mistralrs import EmbeddingArchitecture, EmbeddingRequest, Runner, Which

    runner = Runner(Which.Embedding("Qwen/Qwen3-Embedding-0.6B", arch=EmbeddingArchitecture.Qwen3Embedding))
    embeddings = runner.send_embedding_request(EmbeddingRequest(["Graphene conductivity"]))

What has a meaning here is obeyed, what cannot change a result is taken and passed over, and what would change one but
is not offered (UQFF files, topologies, other architectures) is refused.

Source: `mistralrs-pyo3` and `mistralrs` 0.9 of https://github.com/EricLBuehler/mistral.rs.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self, cast

from quernel import types
from quernel.embedder import Embedder
from quernel.engine.config import EngineConfig
from quernel.errors import InvalidRequestError, SettingsError, UnsupportedModelError
from quernel.types import EmbeddingInput, Truncate

MAX_TOKEN_ID = 2**32 - 1

INT8_NAMES = ("8", "q8_0", "q8_1", "q8k", "int8")
"""What `in_situ_quant` may be: all of them mean our 8 bits."""


class EmbeddingArchitecture(Enum):
    """Architectures of embedding models that mistral.rs knows."""

    EmbeddingGemma = "embeddinggemma"
    Qwen3Embedding = "qwen3embedding"


class ModelDType(Enum):
    """Types to compute in."""

    Auto = "auto"
    BF16 = "bfloat16"
    F16 = "float16"
    F32 = "float32"


class Which:
    """What a runner runs."""

    @dataclass(frozen=True, kw_only=False)
    class Embedding:
        """An embedding model.

        Attributes:
            model_id: A hub id, a folder, a GGUF file, or a built-in name.
            arch: Its architecture; found out from the files where it is None.
            dtype: The type to compute in.
            hf_cache_path: Folder of downloaded models.
            tokenizer_json: Not offered: the model's own is used.
            topology: Not offered.
            write_uqff: Not offered.
            from_uqff: Not offered.
            imatrix: Not offered.
            calibration_file: Not offered.
        """

        model_id: str
        arch: EmbeddingArchitecture | None = None
        tokenizer_json: str | None = None
        topology: str | None = None
        write_uqff: str | None = None
        from_uqff: str | list[str] | None = None
        dtype: ModelDType = ModelDType.Auto
        hf_cache_path: str | None = None
        imatrix: str | None = None
        calibration_file: str | None = None

        def __post_init__(self) -> None:
            if self.arch is EmbeddingArchitecture.EmbeddingGemma:
                raise UnsupportedModelError(
                    "EmbeddingGemma is not a Qwen3 model.",
                    param="arch",
                    hint="Use EmbeddingArchitecture.Qwen3Embedding.",
                )
            for name in ("tokenizer_json", "topology", "write_uqff", "from_uqff", "imatrix", "calibration_file"):
                _refuse(name, getattr(self, name))


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts, or lists of token ids, to embed.

    Attributes:
        input: A text, a list of texts, the ids of one text, or a list of such id lists.
        truncate_sequence: Whether texts that are too long lose their end; else they are refused.

    Raises:
        ValueError: An empty list, or an id that is none.
        TypeError: Something else than texts and ids.
    """

    input: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
    truncate_sequence: bool = False

    def __post_init__(self) -> None:
        _items(self.input)

    @staticmethod
    def builder() -> "EmbeddingRequestBuilder":
        """A request that is put together piece by piece."""
        return EmbeddingRequestBuilder()


@dataclass
class EmbeddingRequestBuilder:
    """Puts a request together: `EmbeddingRequest.builder().add_prompt("What is graphene?")`."""

    items: list[EmbeddingInput] = field(default_factory=list)
    truncate_sequence: bool = False

    def add_prompt(self, prompt: str) -> Self:
        """Add a text."""
        self.items.append(prompt)
        return self

    def add_prompts(self, prompts: Sequence[str]) -> Self:
        """Add texts."""
        self.items.extend(prompts)
        return self

    def add_tokens(self, tokens: Sequence[int]) -> Self:
        """Add a text as its token ids."""
        self.items.append(tokens)
        return self

    def add_tokens_batch(self, batch: Sequence[Sequence[int]]) -> Self:
        """Add texts as their token ids."""
        self.items.extend(batch)
        return self

    def with_truncate_sequence(self, truncate: bool) -> Self:
        """Whether texts that are too long lose their end."""
        self.truncate_sequence = truncate
        return self

    def build(self) -> EmbeddingRequest:
        """The request.

        Raises:
            ValueError: Nothing was added.
        """
        return EmbeddingRequest(cast("Any", self.items), self.truncate_sequence)  # kinds may be mixed here


class Runner:
    """Runs one embedding model in this process.

    Args:
        which: The model.
        max_seqs: Passed over: batches are sized by tokens.
        no_kv_cache: Keep no keys and values of prefixes between batches.
        prefix_cache_n: 0 keeps none either; other numbers are passed over, since the cache is bounded by bytes.
        token_source: Where the hub's token is: `cache`, `none`, `literal:TOKEN`, `env:VARIABLE`, `path:FILE`.
        in_situ_quant: `8` or `Q8_0` computes in 8 bits; other quantisations are refused.
        num_device_layers: Passed over: a model is on one device.
        seed: Passed over: nothing is drawn.
        options: Those of paged attention (`pa_...`, `paged_attn`), which are passed over; nothing else.

    Raises:
        ModelLoadError: The model cannot be found, read or used.
        SettingsError: An argument is not offered.
    """

    def __init__(
        self,
        which: Which.Embedding,
        *,
        max_seqs: int = 16,
        no_kv_cache: bool = False,
        prefix_cache_n: int = 16,
        token_source: str = "cache",
        in_situ_quant: str | None = None,
        num_device_layers: list[str] | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        if unknown := [name for name in options if not name.startswith(("pa_", "paged_attn", "no_paged_attn"))]:
            raise TypeError(f"Runner() got an unexpected keyword argument {unknown[0]!r}")
        keeps_prefixes = prefix_cache_n > 0 and not no_kv_cache
        dtype = which.dtype.value
        if in_situ_quant is not None:
            if in_situ_quant.lower() not in INT8_NAMES:
                _refuse("in_situ_quant", in_situ_quant, hint="Use '8', or a GGUF file.")
            dtype = "int8"
        self._name = which.model_id
        self._embedder = Embedder(
            which.model_id,
            dtype=dtype,
            engine=EngineConfig() if keeps_prefixes else EngineConfig(prefix_cache_mib=0),
            cache_dir=which.hf_cache_path,
            token=_token(token_source),
        )

    def send_embedding_request(self, request: EmbeddingRequest, model_id: str | None = None) -> list[list[float]]:
        """A vector for each input, in their order.

        Args:
            request: The texts.
            model_id: This runner's model, or None.

        Raises:
            InvalidRequestError: The request does not fit the model, or `model_id` is another one.
        """
        if model_id not in (None, self._name, "default"):
            raise InvalidRequestError(f"This runner has {self._name}, not {model_id}.", param="model_id")
        return _embed(self._embedder, request)

    def close(self) -> None:
        """Stop the engine. Safe to call twice."""
        self._embedder.close()


class EmbeddingModelBuilder:
    """The builder of mistral.rs's Rust interface: `EmbeddingModelBuilder(id).with_logging().build()`.

    Args:
        model_id: A hub id, a folder, a GGUF file, or a built-in name.
    """

    def __init__(self, model_id: str) -> None:
        self._arguments: dict[str, Any] = {"model": model_id}

    def with_dtype(self, dtype: ModelDType) -> Self:
        """The type to compute in."""
        return self._with(dtype=dtype.value)

    def with_auto_isq(self, bits: int) -> Self:
        """Compute in 8 bits; other numbers are refused."""
        return self.with_isq(str(bits))

    def with_isq(self, quantisation: str) -> Self:
        """Compute in 8 bits (`8`, `Q8_0`); others are refused."""
        if quantisation.lower() not in INT8_NAMES:
            _refuse("isq", quantisation, hint="Use '8', or a GGUF file.")
        return self._with(dtype="int8")

    def with_force_cpu(self) -> Self:
        """Compute on the CPU whatever else there is."""
        return self._with(device="cpu")

    def with_device(self, device: str) -> Self:
        """Where to compute: `cpu`, `cuda:0`."""
        return self._with(device=device)

    def with_hf_revision(self, revision: str) -> Self:
        """Branch, tag or commit on the hub."""
        return self._with(revision=revision)

    def with_token_source(self, source: str) -> Self:
        """Where the hub's token is, as for `Runner`."""
        return self._with(token=_token(source))

    def from_hf_cache_path(self, path: str | Path) -> Self:
        """Folder of downloaded models."""
        return self._with(cache_dir=path)

    def with_logging(self) -> Self:
        """Log what is done to stderr."""
        logging.basicConfig(level=logging.INFO)
        return self

    def with_throughput_logging(self) -> Self:
        """Passed over: `/metrics` counts."""
        return self

    def with_max_num_seqs(self, count: int) -> Self:
        """Passed over: batches are sized by tokens."""
        return self

    def build(self) -> "EmbeddingModel":
        """The model, loaded.

        Raises:
            ModelLoadError: It cannot be found, read or used.
        """
        return EmbeddingModel(Embedder(**self._arguments))

    def _with(self, **changes: Any) -> Self:
        self._arguments |= changes
        return self


class EmbeddingModel:
    """What the builder builds.

    Args:
        embedder: The model.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def generate_embeddings(self, request: EmbeddingRequest | EmbeddingRequestBuilder) -> list[list[float]]:
        """A vector for each input, in their order.

        Raises:
            InvalidRequestError: The request does not fit the model.
        """
        built = request.build() if isinstance(request, EmbeddingRequestBuilder) else request
        return _embed(self._embedder, built)

    def generate_embedding(self, prompt: str) -> list[float]:
        """The vector of one text."""
        (vector,) = self.generate_embeddings(EmbeddingRequest(prompt))
        return vector

    def close(self) -> None:
        """Stop the engine. Safe to call twice."""
        self._embedder.close()


def _embed(embedder: Embedder, request: EmbeddingRequest) -> list[list[float]]:
    truncate = Truncate.END if request.truncate_sequence else Truncate.ERROR
    vectors = embedder.embed_sync(types.EmbeddingRequest(inputs=_items(request.input), truncate=truncate)).vectors
    rows: list[list[float]] = vectors.tolist()
    return rows


def _items(given: object) -> list[EmbeddingInput]:
    """The inputs one by one.

    Raises:
        ValueError: None, or an id that is none.
        TypeError: Something else than texts and ids.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Sequence):
        raise TypeError(f"input is {type(given).__name__}, not a text or a list.")
    if not given:
        raise ValueError("input is empty.")
    if all(isinstance(item, int) for item in given):
        return [_ids(given)]
    return [item if isinstance(item, str) else _ids(item) for item in given]


def _ids(given: object) -> list[int]:
    if not isinstance(given, Sequence) or not all(type(item) is int for item in given):
        raise TypeError(f"input holds {given!r}, which is neither a text nor a list of token ids.")
    if not given:
        raise ValueError("input holds an empty list.")
    for token_id in given:
        if not 0 <= token_id <= MAX_TOKEN_ID:
            raise ValueError(f"input holds {token_id}, which is no token id.")
    return list(given)


def _token(source: str) -> str | None:
    """The hub's token from mistral.rs's way to say where it is; None leaves it to `huggingface_hub`."""
    kind, _, place = source.partition(":")
    if kind in ("cache", "none") and not place:
        return None
    if kind == "literal":
        return place
    if kind == "env":
        if place not in os.environ:
            raise SettingsError(f"The variable {place} is not set.", param="token_source")
        return os.environ[place]
    if kind == "path":
        return Path(place).read_text(encoding="utf-8").strip()
    raise SettingsError(
        f"token_source is {source!r}.", param="token_source", hint="Use cache, none, literal:..., env:... or path:..."
    )


def _refuse(name: str, value: object, hint: str = "Leave it out.") -> None:
    if value is not None:
        raise SettingsError(f"{name} is {value!r}, which is not offered here.", param=name, hint=hint)
