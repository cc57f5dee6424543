"""From files to an engine that runs: the weights loaded, the machine's speed measured, the sizes chosen."""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch

from quernel.engine.budget import (
    Budget,
    Workspace,
    choose_batch_tokens,
    free_memory,
    give_back_memory,
    resident_memory,
)
from quernel.engine.config import EngineConfig
from quernel.engine.engine import Engine, OnBatch
from quernel.engine.runner import ModelRunner
from quernel.engine.worker import Worker, run_aside
from quernel.model.config import Qwen3Config
from quernel.model.cuda import enable_fast_path
from quernel.model.dtypes import resolve_device, resolve_dtype, working_dtype
from quernel.model.linear import choose_linear
from quernel.model.qwen3 import Qwen3
from quernel.model.weights import load_model, stored_dtype

CPU_CHUNK_ROWS = 512
"""Rows that go through a layer together on a CPU: what they need still fits its last cache, and more are no faster."""

SMALL_OPERATIONS = 1_000_000_000
"""Operations of a batch, times the CPU's cores, below which it runs on one of them. A team of threads would save a
millisecond or two, and take the cores that the server needs for longer than that, since it waits for more work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What is to run, and where.

    Attributes:
        source: A folder with weights, or a GGUF file.
        config: The model's shape.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        dtype: `auto` (what the machine computes well), `float32`, `bfloat16`, `float16`, or `int8` on a CPU.
        settings: Sizes of batches and queue.
    """

    source: Path
    config: Qwen3Config
    device: str
    dtype: str
    settings: EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What was chosen for an engine when it was started.

    Attributes:
        budget: How much it computes at once, and what that takes of memory.
        device: Where it runs.
        dtype: The type of its weights.
    """

    budget: Budget
    device: str
    dtype: str


def start_engine(spec: EngineSpec, on_batch: OnBatch | None = None, *, is_alone: bool = False) -> tuple[Engine, Start]:
    """Load a model and start its engine, which takes turns with all others of this process on the same device.

    Args:
        spec: What is to run.
        on_batch: Called on the engine's thread after the results of a batch were handed out.
        is_alone: Whether nothing else of this process computes, and something beside it needs cores, as a server does.

    Raises:
        ModelLoadError: The weights cannot be read or used.
        SettingsError: A setting does not fit this machine or this model.
    """
    device = resolve_device(spec.device)
    dtype = run_aside(partial(resolve_dtype, spec.dtype, device, stored_dtype(spec.source)))
    if dtype is torch.int8:
        spec.config.check_quantisable()
    chunk_rows = CPU_CHUNK_ROWS if device.type == "cpu" else None

    def load(dtype: torch.dtype) -> Qwen3:
        linear = choose_linear(dtype, device)
        return load_model(spec.source, spec.config, dtype=dtype, device=device, linear=linear)

    process_bytes = resident_memory()
    model = run_aside(partial(load, dtype))
    give_back_memory()  # what packing the weights took
    has_float32_range = dtype in (torch.float32, torch.int8)
    runner = ModelRunner(
        model,
        graphs=enable_fast_path(model),
        load_wide=None if has_float32_range else partial(load, torch.float32),
        prefix_cache_bytes=spec.settings.prefix_cache_mib << 20,
        chunk_rows=chunk_rows,
        small_operations=SMALL_OPERATIONS // torch.get_num_threads() if is_alone else 0,
    )
    budget = _plan(
        runner,
        spec,
        weights_bytes=model.num_bytes,
        dtype=dtype,
        device=device,
        chunk_rows=chunk_rows,
        process_bytes=process_bytes,
    )
    settings = replace(spec.settings, max_batch_tokens=budget.max_batch_tokens)
    engine = Engine(runner, settings, _worker_of(device), on_batch=on_batch)
    return engine, Start(budget=budget, device=str(device), dtype=str(dtype).removeprefix("torch."))


@cache
def _worker_of(device: torch.device) -> Worker[Engine]:
    """The thread that computes there, for all models."""
    return Worker()


def _plan(
    runner: ModelRunner,
    spec: EngineSpec,
    *,
    weights_bytes: int,
    dtype: torch.dtype,
    device: torch.device,
    chunk_rows: int | None,
    process_bytes: int,
) -> Budget:
    """How much to compute at once: what is set, else what the measured speed and the free memory allow."""
    config, settings = spec.config, spec.settings
    workspace = Workspace.of(config, working_dtype(dtype).itemsize)
    tokens, speed = settings.max_batch_tokens, 0.0
    if tokens is None:
        rows = min(CPU_CHUNK_ROWS, config.max_position_embeddings)
        speed = _worker_of(device).call(partial(runner.measure_speed, rows))
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
        tokens = choose_batch_tokens(workspace, chunk_rows, speed, free)
    return Budget(
        max_batch_tokens=tokens,
        tokens_per_second=speed,
        process_bytes=process_bytes,
        weights_bytes=weights_bytes,
        workspace_bytes=workspace.bytes(tokens, chunk_rows),
        prefix_cache_bytes=settings.prefix_cache_mib << 20,
    )
