"""A model card: the facts of one checkpoint with its page, and how a configuration implies its size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quernel.catalog.page import ModelPage
from quernel.errors import SettingsError
from quernel.types import ModelKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The facts of one checkpoint of the family.

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
        page: What a visitor wants to know of it.
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
    page: ModelPage | None = field(default=None, compare=False, repr=False)

    @property
    def is_builtin(self) -> bool:
        """Whether the checkpoint comes with the package."""
        return self.revision is None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCard:
    """What somebody wrote down of a model that may be of any family; what is `None` was not said.

    Attributes:
        name: Its name.
        num_parameters: Stored parameters.
        num_layers: Transformer layers.
        weights_bytes: Length of its weight files together.
        license: SPDX identifier, or what its maker calls its terms.
        revision: The commit at which the facts were read.
        source: Where they were read.
        page: What a visitor wants to know of it.
    """

    name: str
    num_parameters: int | None = None
    num_layers: int | None = None
    weights_bytes: int | None = None
    license: str | None = None
    revision: str | None = None
    source: str | None = None
    page: ModelPage | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("num_parameters", "num_layers", "weights_bytes"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise SettingsError(f"{key} is {number}.", param=key, hint="Set 1 or more, or leave it out.")


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
