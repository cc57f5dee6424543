"""A model card: the facts of one checkpoint, and how a configuration implies its size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quernel.types import ModelKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The facts of one checkpoint.

    Attributes:
        name: Hub id or built-in name.
        kind: Embedding model or reranker.
        num_parameters: Stored parameters.
        num_layers: Transformer layers.
        dimensions: Length of its full vectors; for a reranker its hidden size.
        max_tokens: Longest input that its authors promise.
        weights_bytes: Length of its weight files together.
        license: SPDX identifier.
        revision: The commit at which the facts were read; `None` for what comes with the package.
        source: Where they were read.
    """

    name: str
    kind: ModelKind
    num_parameters: int
    num_layers: int
    dimensions: int
    max_tokens: int
    weights_bytes: int
    license: str
    revision: str | None
    source: str

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ModelCard":
        """A card from its file."""
        return cls(**{**raw, "kind": ModelKind(raw["kind"])})

    @property
    def is_builtin(self) -> bool:
        """Whether the checkpoint comes with the package."""
        return self.revision is None


def count_parameters(config: Mapping[str, Any], *, head_is_stored: bool) -> int:
    """Parameters of a Qwen3 checkpoint, as its `config.json` implies.

    Args:
        config: The content of `config.json`.
        head_is_stored: Whether the files hold an output matrix besides the embedding table. `tie_word_embeddings` does
            not tell: the 8B embedding model says false and stores none.
    """
    hidden, head_size = config["hidden_size"], config["head_dim"]
    query_size = config["num_attention_heads"] * head_size
    key_size = config["num_key_value_heads"] * head_size
    attention = hidden * (query_size + 2 * key_size) + query_size * hidden + 2 * head_size
    layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    table = config["vocab_size"] * hidden
    return int(table * (2 if head_is_stored else 1) + config["num_hidden_layers"] * layer + hidden)
