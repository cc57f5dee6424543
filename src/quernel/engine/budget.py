"""How many tokens to compute at once, and what memory that takes: from the model's shape and the machine's speed.

More tokens in a batch save work that they share, and on an accelerator fill it; but all of a batch is answered when all
of it is done. So a batch is as much as a moment can compute, within what memory allows. No torch.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quernel.model.config import Qwen3Config

TARGET_SECONDS = 2.0
"""How long a batch may take."""

LEAST_TOKENS, MOST_TOKENS = 512, 16_384
"""Fewer are computed no faster by the token; more gain nothing anywhere."""

MEMORY_SHARE = 4
"""One in so many bytes that are free may be used to compute."""

FIXED_BYTES = 48 << 20
"""What libraries take to compute, whatever the size: their threads' buffers and what allocators keep."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What the engine takes of a machine.

    Attributes:
        max_batch_tokens: Tokens computed in one batch.
        tokens_per_second: The speed that was measured; 0 where the size of batches was set.
        process_bytes: What the process held before the model: Python, torch, other models.
        weights_bytes: The weights, with all of the embedding table.
        workspace_bytes: What computing a full batch needs besides, at most.
        prefix_cache_bytes: What the prefix cache may hold besides.
    """

    max_batch_tokens: int
    tokens_per_second: float
    process_bytes: int
    weights_bytes: int
    workspace_bytes: int
    prefix_cache_bytes: int

    def __str__(self) -> str:
        speed = f" at {self.tokens_per_second:,.0f} tokens/s" if self.tokens_per_second else ""
        process, weights, workspace, cache = (
            f"{size / 2**20:,.0f} MiB"
            for size in (self.process_bytes, self.weights_bytes, self.workspace_bytes, self.prefix_cache_bytes)
        )
        return (
            f"batches of up to {self.max_batch_tokens:,} tokens{speed}; memory: process {process}, weights {weights}, "
            f"workspace up to {workspace}, prefix cache up to {cache}"
        )


@dataclass(frozen=True, slots=True)
class Workspace:
    """What computing takes of memory besides the weights.

    Attributes:
        bytes_per_token: For each token of a batch, all the time: the stream, and keys and values of one layer.
        bytes_per_row: For each row that goes through a layer at once.
    """

    bytes_per_token: int
    bytes_per_row: int

    @classmethod
    def of(cls, config: Qwen3Config, itemsize: int) -> "Workspace":
        """Of a model whose working type has so many bytes."""
        queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
        # The stream is there twice while a layer's chunks are joined; keys and values are buffered. Token ids are
        # Python's.
        per_token = itemsize * (2 * config.hidden_size + 2 * keys) + 4 * config.head_dim + 200
        # At the widest: the norm, the gate and the product of an MLP; or queries in float32 while they are turned.
        mlp = itemsize * (2 * config.hidden_size + 3 * config.intermediate_size)
        attention = itemsize * (2 * config.hidden_size + 2 * queries + 2 * keys) + 4 * 3 * queries
        return cls(per_token, max(mlp, attention))

    def bytes(self, batch_tokens: int, chunk_rows: int | None) -> int:
        """For a batch of so many tokens, of which `chunk_rows` at a time go through a layer."""
        rows = min(batch_tokens, chunk_rows or batch_tokens)
        return FIXED_BYTES + batch_tokens * self.bytes_per_token + rows * self.bytes_per_row


def choose_batch_tokens(workspace: Workspace, chunk_rows: int | None, tokens_per_second: float, free_bytes: int) -> int:
    """As many as take `TARGET_SECONDS`, and as memory allows; a multiple of `LEAST_TOKENS`, which is the least."""
    wanted = min(tokens_per_second * TARGET_SECONDS, MOST_TOKENS)
    tokens = max(int(wanted) // LEAST_TOKENS, 1) * LEAST_TOKENS
    while tokens > LEAST_TOKENS and workspace.bytes(tokens, chunk_rows) > free_bytes // MEMORY_SHARE:
        tokens -= LEAST_TOKENS
    return tokens


def resident_memory() -> int:
    """Bytes of this process that are in memory now; 0 where the system does not say."""
    pages = _lines("/proc/self/statm")
    return int(pages[0].split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def give_back_memory() -> None:
    """Return to the system what was freed but kept for later, where the C library can: some 250 MB after a few batches.

    Source: `malloc_trim(3)`, glibc. It takes a few milliseconds.
    """
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        return None
    return trim


_MALLOC_TRIM = _find_malloc_trim()


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has available, or a container has left."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) << 10)
    allowed, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if allowed and used and allowed[0].isdigit():
        limits.append(int(allowed[0]) - int(used[0]))
    return max(0, min(limits))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
