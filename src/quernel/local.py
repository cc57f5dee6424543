"""What `Embedder` and `Reranker` share: a checkpoint found, read and loaded, with its engine running."""

import asyncio
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from quernel.engine.arrival import arrival
from quernel.engine.config import EngineConfig
from quernel.engine.engine import Engine, EngineStatistics, wait
from quernel.engine.process import EngineProcess, RemoteEngine
from quernel.engine.scheduler import HiddenStates
from quernel.engine.start import EngineSpec, start_engine
from quernel.errors import SettingsError, TokenizerError, UnsupportedModelError
from quernel.model.config import Qwen3Config
from quernel.model.files import locate
from quernel.model.gguf import load_raw_config, read_metadata
from quernel.model.side_files import SideFiles, load_side_files
from quernel.prompts.gguf_tokenizer import build_tokenizer
from quernel.prompts.prompt import Prompt
from quernel.prompts.tokenizer import Tokenizer
from quernel.types import ModelInfo, ModelKind, Timing, Token, Vectors

MAX_CHARACTERS_ON_LOOP = 2_000
"""Characters of a request that are tokenized on the event loop itself, in about a quarter of a millisecond. The way to
another thread and back costs more than that, since both wait for the interpreter's lock."""


class LocalModel(ABC):
    """A Qwen3 model on this machine. Any number of threads and tasks may use it at once.

    Args:
        model: A hub id (`owner/name`, `owner/name@revision`), a folder, a GGUF file, or a built-in name; `None` for the
            built-in model of this kind.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        dtype: `auto` (what the machine computes well), `float32`, `bfloat16`, `float16`, or `int8` on a CPU.
        revision: Branch, tag or commit on the hub.
        max_tokens: Longest input; at most (and by default) what the checkpoint promises.
        engine: Sizes of batches and queue.
        cache_dir: Where the hub's files are kept; by default where `huggingface_hub` keeps them.
        token: Access token of the hub.
        offline: Use only what is in the cache.
        process: A process that computes, with the other models that were given it; by default a thread of this one.

    Attributes:
        config: The model's shape.
        budget: How much it computes at once, and what that takes of memory.

    Raises:
        ModelLoadError: The model cannot be found, read or used.
        SettingsError: A setting does not fit this machine or this model.
    """

    kind: ClassVar[ModelKind]
    builtin: ClassVar[str]

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        max_tokens: int | None = None,
        engine: EngineConfig | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        offline: bool = False,
        process: EngineProcess | None = None,
    ) -> None:
        model = self.builtin if model is None else model
        files = locate(
            model, revision=revision, cache_dir=cache_dir, token=token, offline=offline, check=Qwen3Config.load
        )
        source = files.source
        raw_config = load_raw_config(source)
        self.config = config = Qwen3Config.from_dict(raw_config)
        side_files = load_side_files(source, config, raw_config)
        if side_files.kind not in (None, self.kind):
            raise UnsupportedModelError(
                f"{files.name} is of kind {side_files.kind}, not {self.kind}.",
                param="model",
                hint="Use Embedder for embedding models and Reranker for rerankers.",
            )
        tokenizer = build_tokenizer(read_metadata(source)) if files.file else Tokenizer.load(source)
        if tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(
                f"The tokenizer of {files.name} has ids up to {tokenizer.vocab_size - 1}, but the model only "
                f"{config.vocab_size} rows.",
                hint="The tokenizer belongs to another model.",
            )
        limit = _limit(max_tokens, config, side_files)
        self._tokenizer = tokenizer
        self._prepare(source, config, side_files, tokenizer, limit)
        spec = EngineSpec(source=source, config=config, device=device, dtype=dtype, settings=engine or EngineConfig())
        self._engine: Engine | RemoteEngine
        self._engine, start = start_engine(spec) if process is None else process.start(spec)
        self._finalizer = weakref.finalize(self, self._engine.close)
        self.budget = start.budget
        self._info = ModelInfo(
            name=files.name,
            kind=self.kind,
            dimensions=config.hidden_size,
            max_tokens=limit,
            dtype=start.dtype,
            device=start.device,
            num_parameters=config.num_parameters,
            revision=files.revision,
            prompts=tuple(side_files.prompts),
        )

    @abstractmethod
    def _prepare(
        self, source: Path, config: Qwen3Config, side_files: SideFiles, tokenizer: Tokenizer, max_tokens: int
    ) -> None:
        """Set up what this kind of model needs besides the engine: prompts and readout."""

    async def _compute(self, render: Callable[[], list[Prompt]], num_characters: int) -> "Computed":
        """Render prompts, beside the event loop if they are long, and compute them."""
        started = time.perf_counter()
        is_short = num_characters <= MAX_CHARACTERS_ON_LOOP
        prompts = render() if is_short else await asyncio.to_thread(render)
        seconds = time.perf_counter() - started
        promise = self._engine.submit([prompt.path for prompt in prompts])
        return Computed.of(prompts, await arrival(promise), seconds, promise)

    def _compute_sync(self, render: Callable[[], list[Prompt]]) -> "Computed":
        """`_compute`, for code that is not asynchronous."""
        started = time.perf_counter()
        prompts = render()
        seconds = time.perf_counter() - started
        promise = self._engine.submit([prompt.path for prompt in prompts])
        return Computed.of(prompts, wait(promise), seconds, promise)

    @abstractmethod
    def _named_prompt(self, name: str | None) -> str:
        """The prompt of that name; nothing for none."""

    def tokenize(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, prompt_name: str | None = None
    ) -> list[list[Token]]:
        """The tokens of each text, those of the prompt before them included.

        Args:
            texts: Texts.
            add_special_tokens: Whether the end token closes each.
            prompt_name: A prompt of the model that is put before each.

        Raises:
            InvalidRequestError: No prompt of that name, or a text that is not Unicode.
        """
        prompt = self._named_prompt(prompt_name)
        return [self._tokenizer.encode_tokens(prompt + text, add_end=add_special_tokens) for text in texts]

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """The text of each list of token ids.

        Raises:
            TokenIdRangeError: An id that the model does not have.
        """
        for index, row in enumerate(ids):
            self._tokenizer.check_ids(row, f"ids[{index}]")
        return [self._tokenizer.decode(row, skip_special_tokens=skip_special_tokens) for row in ids]

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return self._info

    @property
    def is_running(self) -> bool:
        """Whether its engine takes requests."""
        return self._engine.is_running

    @property
    def statistics(self) -> EngineStatistics:
        """What the engine has done so far; from any thread."""
        return self._engine.statistics

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine; requests that wait fail with `EngineClosedError`. Safe to call twice."""
        self._finalizer()


@dataclass(frozen=True, slots=True)
class Computed:
    """Prompts with what the engine made of them.

    Attributes:
        prompts: The prompts.
        hidden: Hidden states of their last tokens, float32 `[N, C]`.
        timing: Where the time went.
    """

    prompts: Sequence[Prompt]
    hidden: Vectors
    timing: Timing

    @classmethod
    def of(cls, prompts: Sequence[Prompt], hidden: Vectors, tokenization: float, promise: HiddenStates) -> Self:
        """What became of a promise that was kept."""
        timing = Timing(tokenization=tokenization, queue=promise.queue_seconds, inference=promise.inference_seconds)
        return cls(prompts, hidden, timing)


def _limit(max_tokens: int | None, config: Qwen3Config, side_files: SideFiles) -> int:
    """The longest input in tokens: what was asked for, if the checkpoint promises as much."""
    promised = min(config.max_position_embeddings, side_files.max_tokens or config.max_position_embeddings)
    if max_tokens is None:
        return promised
    if not 1 <= max_tokens <= promised:
        raise SettingsError(f"max_tokens is {max_tokens}, but this model reads 1 to {promised}.", param="max_tokens")
    return max_tokens
