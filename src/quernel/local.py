"""What `Embedder` and `Reranker` share: a checkpoint found, read and loaded, with its engine running."""

import asyncio
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import ClassVar, Self

import torch

from quernel.engine.arrival import arrival
from quernel.engine.budget import Budget, Workspace, choose_batch_tokens, free_memory, resident_memory
from quernel.engine.config import EngineConfig
from quernel.engine.engine import Engine, EngineStatistics, wait
from quernel.engine.runner import ModelRunner
from quernel.engine.scheduler import HiddenStates
from quernel.engine.worker import Worker, run_aside
from quernel.errors import SettingsError, TokenizerError, UnsupportedModelError
from quernel.model.config import Qwen3Config
from quernel.model.cuda import enable_fast_path
from quernel.model.dtypes import resolve_device, resolve_dtype, working_dtype
from quernel.model.files import locate
from quernel.model.gguf import load_raw_config, read_metadata
from quernel.model.linear import choose_linear
from quernel.model.qwen3 import Qwen3
from quernel.model.side_files import SideFiles, load_side_files
from quernel.model.weights import load_model, stored_dtype
from quernel.prompts.gguf_tokenizer import build_tokenizer
from quernel.prompts.prompt import Prompt
from quernel.prompts.tokenizer import Tokenizer
from quernel.types import ModelInfo, ModelKind, Timing, Token, Vectors

CPU_CHUNK_ROWS = 512
"""Rows that go through a layer together on a CPU: what they need still fits its last cache, and more are no faster."""


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
        chosen_device = resolve_device(device)
        chosen_dtype = run_aside(partial(resolve_dtype, dtype, chosen_device, stored_dtype(source)))
        self._info = ModelInfo(
            name=files.name,
            kind=self.kind,
            dimensions=config.hidden_size,
            max_tokens=_limit(max_tokens, config, side_files),
            dtype=str(chosen_dtype).removeprefix("torch."),
            device=str(chosen_device),
            num_parameters=config.num_parameters,
            revision=files.revision,
            prompts=tuple(side_files.prompts),
        )
        self._tokenizer = tokenizer
        self._prepare(source, config, side_files, tokenizer)

        def load(dtype: torch.dtype) -> Qwen3:
            linear = choose_linear(dtype, chosen_device)
            return load_model(source, config, dtype=dtype, device=chosen_device, linear=linear)

        has_float32_range = chosen_dtype in (torch.float32, torch.int8)
        engine = engine or EngineConfig()
        chunk_rows = CPU_CHUNK_ROWS if chosen_device.type == "cpu" else None
        process_bytes = resident_memory()
        model_on_device = run_aside(partial(load, chosen_dtype))
        runner = ModelRunner(
            model_on_device,
            graphs=enable_fast_path(model_on_device),
            load_wide=None if has_float32_range else partial(load, torch.float32),
            prefix_cache_bytes=engine.prefix_cache_mib << 20,
            chunk_rows=chunk_rows,
        )
        self.budget = _plan(
            runner,
            config,
            engine,
            dtype=chosen_dtype,
            device=chosen_device,
            chunk_rows=chunk_rows,
            process_bytes=process_bytes,
        )
        engine = replace(engine, max_batch_tokens=self.budget.max_batch_tokens)
        self._engine = Engine(runner, engine, _worker_of(chosen_device))
        self._finalizer = weakref.finalize(self, self._engine.close)

    @abstractmethod
    def _prepare(self, source: Path, config: Qwen3Config, side_files: SideFiles, tokenizer: Tokenizer) -> None:
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


@cache
def _worker_of(device: torch.device) -> Worker[Engine]:
    """The thread that computes there, for all models."""
    return Worker()


def _plan(
    runner: ModelRunner,
    config: Qwen3Config,
    engine: EngineConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    chunk_rows: int | None,
    process_bytes: int,
) -> Budget:
    """How much to compute at once: what is set, else what the measured speed and the free memory allow."""
    workspace = Workspace.of(config, working_dtype(dtype).itemsize)
    tokens, speed = engine.max_batch_tokens, 0.0
    if tokens is None:
        rows = min(CPU_CHUNK_ROWS, config.max_position_embeddings)
        speed = _worker_of(device).call(partial(runner.measure_speed, rows))
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
        tokens = choose_batch_tokens(workspace, chunk_rows, speed, free)
    table = config.vocab_size * config.hidden_size * working_dtype(dtype).itemsize
    return Budget(
        max_batch_tokens=tokens,
        tokens_per_second=speed,
        process_bytes=process_bytes,
        weights_bytes=config.num_layer_parameters * dtype.itemsize + table,
        workspace_bytes=workspace.bytes(tokens, chunk_rows),
        prefix_cache_bytes=engine.prefix_cache_mib << 20,
    )


def _limit(max_tokens: int | None, config: Qwen3Config, side_files: SideFiles) -> int:
    """The longest input in tokens: what was asked for, if the checkpoint promises as much."""
    promised = min(config.max_position_embeddings, side_files.max_tokens or config.max_position_embeddings)
    if max_tokens is None:
        return promised
    if not 1 <= max_tokens <= promised:
        raise SettingsError(f"max_tokens is {max_tokens}, but this model reads 1 to {promised}.", param="max_tokens")
    return max_tokens
