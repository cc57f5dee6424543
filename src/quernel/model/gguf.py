"""A model in one GGUF file, read so that the file can stand where a folder stands.

What the file says of the arithmetic (sizes, rope, norms) is believed, for nothing else says it. What it says of the end
token and the pooling is not, for conversions get those wrong; see `quernel.model.side_files`.

Source: names, and that the rows of q and k are stored as they are (other architectures permute them), are in
`gguf-py/gguf/constants.py` and `conversion/qwen.py` of ggml-org/llama.cpp.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from quernel.errors import CheckpointError, ConfigError, UnsupportedModelError
from quernel.model.config import load_json
from quernel.model.gguf_format import GGUFFile, GGUFTensor
from quernel.types import ModelKind

ARCHITECTURE = "qwen3"

CONFIG_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""Keys of `config.json`, and where the same stands in the metadata, after `qwen3.`."""

OUTSIDE_LAYERS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "cls.output": "score",
}
IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of tensors, and what the official files call them; in a layer after `blk.0.` and `layers.0.`."""

UNTIED_SIZE = 4096
"""From this width on the family's head is a tensor of its own; a file without it has no head, not a tied one.

Source: `tie_word_embeddings` in `config.json` of the six models: false for 8B alone.
"""

POOLING_KEY = f"{ARCHITECTURE}.pooling_type"
LAST_POOLING, RANK_POOLING = 3, 4
"""What `POOLING_KEY` is for an embedding model and for a reranker.

Source: `PoolingType` in `gguf-py/gguf/constants.py`.
"""

LABELS_KEY = f"{ARCHITECTURE}.classifier.output_labels"
TEMPLATE_KEY = "tokenizer.chat_template.rerank"


def read_metadata(file: Path) -> Mapping[str, Any]:
    """The metadata of a GGUF file by their keys, each decoded when it is looked up.

    Raises:
        CheckpointError: It is not a readable GGUF file.
        UnsupportedModelError: It is one part of several.
        SettingsError: The `gguf` package is not installed.
    """
    return GGUFFile.open(file).metadata


def load_raw_config(source: Path) -> dict[str, Any]:
    """`config.json` of a folder; of a GGUF file, what its metadata come to in that form.

    Raises:
        ConfigError: `config.json` or a key of the metadata is missing or broken.
        CheckpointError: The GGUF file cannot be read.
        UnsupportedModelError: The GGUF file is not of a Qwen3 decoder, or one part of several.
        SettingsError: The `gguf` package is not installed.
    """
    return GGUFModel.open(source).raw_config() if source.is_file() else load_json(source / "config.json")


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """A file with its tensors by the names of the official files.

    It is read like what `safetensors.safe_open` gives: `keys`, `get_slice`, `get_tensor`.
    """

    file: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    @classmethod
    def open(cls, file: Path) -> "GGUFModel":
        """The model in a file, with nothing read but the places of what is in it.

        Raises:
            CheckpointError: It is not a readable GGUF file, or ends early.
            UnsupportedModelError: It is one part of several.
            SettingsError: The `gguf` package is not installed.
        """
        opened = GGUFFile.open(file)
        tensors = {_official_name(name): tensor for name, tensor in opened.tensors.items()}
        return cls(file, opened.metadata, tensors)

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self.tensors)

    def get_slice(self, name: str) -> GGUFTensor:
        """A tensor, unread."""
        return self.tensors[name]

    def get_tensor(self, name: str) -> Tensor:
        """A tensor: as it is stored, in the file's mapping, or dequantised to float32."""
        return self.tensors[name].read()

    @property
    def kind(self) -> ModelKind | None:
        """What the model does, as its head, its metadata and its names tell; `None` where they do not.

        Names come before the pooling that is asked for: early conversions of the rerankers ask for that of embeddings.
        """
        pooling = self.metadata.get(POOLING_KEY)
        names = " ".join(str(self.metadata.get(key, "")) for key in ("general.name", "general.basename"))
        names = f"{names} {self.file.name}".lower()
        is_marked = "score.weight" in self.tensors or TEMPLATE_KEY in self.metadata or pooling == RANK_POOLING
        if is_marked or "rerank" in names:
            return ModelKind.RERANKER
        return ModelKind.EMBEDDING if pooling == LAST_POOLING or "embed" in names else None

    def raw_config(self) -> dict[str, Any]:
        """What `config.json` would say.

        A head is said to be tied only where a file says that it is a reranker's: otherwise an embedding model without
        metadata would rerank, at random.

        Raises:
            ConfigError: A key that it needs is missing.
            CheckpointError: There is no embedding table.
            UnsupportedModelError: Not of a Qwen3 decoder, or of a variant with other arithmetic.
        """
        architecture = self.metadata.get("general.architecture")
        if architecture != ARCHITECTURE:
            raise UnsupportedModelError(
                f"{self.file.name} holds a model of architecture {architecture!r}, which is not a Qwen3 embedding "
                "model or reranker.",
                param="general.architecture",
                hint=f"Supported: {ARCHITECTURE!r}.",
            )
        said: dict[str, Any] = {key: self.metadata.get(f"{ARCHITECTURE}.{place}") for key, place in CONFIG_KEYS.items()}
        if missing := [f"{ARCHITECTURE}.{CONFIG_KEYS[key]}" for key, value in said.items() if value is None]:
            raise ConfigError(f"The metadata of {self.file.name} lack {', '.join(missing)}.", param=missing[0])
        self._refuse_other_arithmetic(said["head_dim"])
        if "embed_tokens.weight" not in self.tensors:
            raise CheckpointError(
                f"{self.file.name} holds no token_embd.weight.",
                param=str(self.file),
                hint="It is not a whole model; adapters must be merged first.",
            )
        table = self.tensors["embed_tokens.weight"]
        has_head = "lm_head.weight" in self.tensors
        return said | {
            "model_type": architecture,
            "vocab_size": table.shape[0],
            "tie_word_embeddings": self.kind is ModelKind.RERANKER and not has_head and table.shape[-1] < UNTIED_SIZE,
            "id2label": dict(enumerate(self.metadata.get(LABELS_KEY) or ())),
        }

    def _refuse_other_arithmetic(self, head_dim: int) -> None:
        def said(key: str, usual: Any) -> Any:
            return self.metadata.get(f"{ARCHITECTURE}.{key}", usual)

        refusals = {
            f"rope scaling {said('rope.scaling.type', 'none')!r}": said("rope.scaling.type", "none") != "none",
            "rope on a part of each head": said("rope.dimension_count", head_dim) != head_dim,
            "values of another width than keys": said("attention.value_length", head_dim) != head_dim,
            "a sliding window": bool(said("attention.sliding_window", 0)),
            "attention in both directions": not said("attention.causal", True),
        }
        for feature, is_present in refusals.items():
            if is_present:
                raise UnsupportedModelError(
                    f"The metadata of {self.file.name} ask for {feature}, which no Qwen3 embedding model has.",
                    param="model",
                )


def _official_name(name: str) -> str:
    """The name of a tensor in the official files; its own if it is none of theirs."""
    stem, dot, suffix = name.rpartition(".")
    in_layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if in_layer and in_layer[2] in IN_LAYERS:
        return f"layers.{in_layer[1]}.{IN_LAYERS[in_layer[2]]}{dot}{suffix}"
    return f"{OUTSIDE_LAYERS.get(stem, stem)}{dot}{suffix}"
