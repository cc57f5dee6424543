"""Quernel runs the Qwen3 Embedding and Reranker models: exact, fast, from Python, the command line and HTTP.

    from quernel import Embedder, Reranker

    embedder = Embedder()                                   # the built-in model; or "Qwen/Qwen3-Embedding-0.6B"
    vectors = embedder.embed_documents(["Paris is the capital of France.", "Bananas are yellow."])
    query = embedder.embed_query("capital of France")

Names are loaded on first use, so that importing the package is quick and needs no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from quernel._version import __version__

if TYPE_CHECKING:
    from quernel.embedder import Embedder
    from quernel.errors import QuernelError
    from quernel.reranker import Reranker
    from quernel.types import (
        EmbeddingRequest,
        EmbeddingResult,
        InputType,
        RankedDocument,
        RerankRequest,
        RerankResult,
        Truncate,
    )

__all__ = [
    "Embedder",
    "EmbeddingRequest",
    "EmbeddingResult",
    "InputType",
    "QuernelError",
    "RankedDocument",
    "RerankRequest",
    "RerankResult",
    "Reranker",
    "Truncate",
    "__version__",
]

_HOMES = {
    "Embedder": "quernel.embedder",
    "Reranker": "quernel.reranker",
    "QuernelError": "quernel.errors",
} | dict.fromkeys(
    (
        "EmbeddingRequest",
        "EmbeddingResult",
        "InputType",
        "RankedDocument",
        "RerankRequest",
        "RerankResult",
        "Truncate",
    ),
    "quernel.types",
)


for _variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    # What torch keeps of products of shapes that it has seen, 1,024 of each by default. Packed batches hardly ever have
    # the same number of rows twice, so it would keep gigabytes and find nothing. It is read when torch is loaded.
    os.environ.setdefault(_variable, "128")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quernel' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
