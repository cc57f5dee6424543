"""The shape of a Qwen3 model, as `config.json` states it. Files only: no tensors, no network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quernel.errors import ConfigError, SettingsError, UnsupportedModelError

ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen3Model", "Qwen3ForSequenceClassification")
"""What `architectures` may say: the official files, the bare model, and reranker conversions with a `score` head."""


QUANTISATION_KEY, QUANTISABLE_KEY = "quantization_config", "quantizable"

SYMMETRIC_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}

INT8_CONFIG: Mapping[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**SYMMETRIC_INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**SYMMETRIC_INT8, "strategy": "token", "dynamic": True},
            "output_activations": None,
        }
    },
    "ignore": ["lm_head", "score"],
    "kv_cache_scheme": None,
}
"""What `config.json` says of a checkpoint in 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Config:
    """The numbers that fix a Qwen3 model's arithmetic. Names are those of `config.json`.

    Attributes:
        vocab_size: Rows of the embedding table.
        hidden_size: Width of the residual stream, and of an embedding.
        intermediate_size: Width inside the MLP.
        num_hidden_layers: Decoder layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key/value heads; consecutive query heads share one.
        head_dim: Width of one head. Its own setting: the 0.6B model projects 1024 to 16 x 128.
        max_position_embeddings: Longest input in tokens.
        rope_theta: Base of the rotary angles.
        rms_norm_eps: Added to the mean square before the root.
        tie_word_embeddings: Whether the language-model head is the embedding table.
        dtype: The type the files say they are stored in, if they say.
        quantisable: Whether the layers may be computed in 8 bits: `quantizable` in `config.json`, a word of ours.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    dtype: str | None = None
    quantisable: bool = True

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"config.json: {name} is {value!r}, not a positive whole number.", param=name)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"config.json: {self.num_attention_heads} query heads cannot share {self.num_key_value_heads} "
                "key/value heads evenly.",
                param="num_key_value_heads",
            )
        if self.head_dim % 2:
            raise ConfigError(f"config.json: head_dim is {self.head_dim}; rotary halves need an even one.")

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of the layers' matrices: a token costs two operations for each."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    def num_operations(self, num_tokens: int, num_reads: int) -> int:
        """Operations of the layers' products for so many tokens, of which so many are read.

        Of the last layer keys and values are computed for all tokens, and everything else for those that are read.
        """
        layer = self.num_layer_parameters // self.num_hidden_layers
        keys_and_values = 2 * self.hidden_size * self.num_key_value_heads * self.head_dim
        below = layer * (self.num_hidden_layers - 1) * num_tokens
        return 2 * (below + keys_and_values * num_tokens + (layer - keys_and_values) * num_reads)

    @property
    def num_parameters(self) -> int:
        """Stored parameters without a separate head: the embedding table, the layers and the final norm."""
        norms = self.num_hidden_layers * (2 * self.hidden_size + 2 * self.head_dim)
        return (self.vocab_size + 1) * self.hidden_size + self.num_layer_parameters + norms

    @classmethod
    def load(cls, folder: Path) -> "Qwen3Config":
        """The configuration in `folder/config.json`.

        Raises:
            ConfigError: The file is missing or broken, or a number in it is.
            UnsupportedModelError: It describes something other than a Qwen3 decoder as the family uses it.
        """
        return cls.from_dict(load_json(folder / "config.json"))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Qwen3Config":
        """The configuration in the parsed `config.json` of transformers 4 (`rope_theta`) or 5 (`rope_parameters`).

        Raises:
            ConfigError: A number is missing or wrong.
            UnsupportedModelError: Not Qwen3, or a variant with other arithmetic (biases, sliding window, scaled rope).
        """
        architectures = raw.get("architectures") or []
        model_type = raw.get("model_type")
        if model_type != "qwen3" or not all(name in ARCHITECTURES for name in architectures):
            named = ", ".join(map(str, architectures)) or "no architecture"
            raise UnsupportedModelError(
                f"config.json describes model_type {model_type!r} ({named}), which is not a Qwen3 embedding model or "
                "reranker.",
                param="architectures",
                hint=f"Supported: model_type 'qwen3' with {', '.join(ARCHITECTURES)}.",
            )
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        rope_type = rope.get("rope_type") or rope.get("type") or "default"
        layer_types = raw.get("layer_types") or []
        refusals = {
            f"rope scaling {rope_type!r}": rope_type != "default",
            "a sliding window": bool(raw.get("use_sliding_window")) or "sliding_attention" in layer_types,
            "attention biases": bool(raw.get("attention_bias")),
            f"activation {raw.get('hidden_act')!r}": raw.get("hidden_act", "silu") != "silu",
        }
        for feature, present in refusals.items():
            if present:
                raise UnsupportedModelError(f"config.json asks for {feature}, which no Qwen3 embedding model has.")
        _check_quantisation(raw)
        required = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        )
        missing = [name for name in required if name not in raw]
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(missing)}.", param=missing[0])
        try:
            rope_theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 1e6)
            rms_norm_eps = float(raw.get("rms_norm_eps", 1e-6))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.json: rope_theta or rms_norm_eps is not a number ({error}).") from error
        return cls(
            **{name: raw[name] for name in required},
            num_key_value_heads=raw.get("num_key_value_heads", raw["num_attention_heads"]),
            head_dim=raw.get("head_dim") or 128,  # transformers' default for qwen3, never hidden_size / heads
            rope_theta=rope_theta,
            rms_norm_eps=rms_norm_eps,
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            dtype=raw.get("dtype") or raw.get("torch_dtype"),
            quantisable=raw.get(QUANTISABLE_KEY) is not False,
        )

    def check_quantisable(self) -> None:
        """Refuse 8 bits for a model that does not bear them.

        Raises:
            SettingsError: It says so.
        """
        if not self.quantisable:
            raise SettingsError(
                "int8 is not for this model: in 8 bits its answers would be noise, as its config.json says.",
                param="dtype",
                hint="Compute it in 'auto'; other models may be in 8 bits beside it.",
            )


def _check_quantisation(raw_config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is quantised in another form than ours.

    Raises:
        UnsupportedModelError: It is.
    """
    said = raw_config.get(QUANTISATION_KEY)
    if said is None:
        return
    groups = said.get("config_groups") or {}
    ours = INT8_CONFIG["config_groups"]["group_0"]
    fits = [
        all(
            (group.get(part) or {}).get(key) == value
            for part in ("weights", "input_activations")
            for key, value in ours[part].items()
        )
        for group in groups.values()
    ]
    if said.get("format") != INT8_CONFIG["format"] or not fits or not all(fits):
        method = said.get("quant_method", "an unknown method")
        raise UnsupportedModelError(
            f"The weights are quantised by {method} ({said.get('format', 'no format')}), which cannot be computed.",
            param=QUANTISATION_KEY,
            hint="Take the original checkpoint; `quernel quantize` writes it in 8 bits. GGUF files can be read, too.",
        )


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's side file.

    Raises:
        ConfigError: The file is missing, unreadable, not JSON, or not an object.
    """
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist.", param=str(path), hint="Is this the folder of a model, downloaded completely?"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.", param=str(path)) from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path} holds a {type(parsed).__name__}, not an object.", param=str(path))
    return parsed
