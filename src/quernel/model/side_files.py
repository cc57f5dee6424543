"""What a model's folder says besides shape and weights: embedding model or reranker, prompts, pooling, limits.

Mostly the files of sentence-transformers, in the forms that its versions 2 to 6 write. What they ask for beyond what
the family does (another pooling, a dense layer) is refused, not ignored: the vectors would be wrong.

A GGUF file has no side files, and of its metadata little is believed. Which token ends a text is wrong in many of them
and how vectors are pooled in some, those whose conversion did not know the model; both are the family's here, always.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quernel.errors import ConfigError, UnsupportedModelError
from quernel.model.config import Qwen3Config, load_json
from quernel.model.gguf import LAST_POOLING, POOLING_KEY, RANK_POOLING, TEMPLATE_KEY, GGUFModel
from quernel.types import ModelKind

logger = logging.getLogger(__name__)

CHAINS: Mapping[tuple[str, ...], ModelKind | None] = {
    ("Transformer", "Pooling", "Normalize"): ModelKind.EMBEDDING,
    ("Transformer", "Pooling"): ModelKind.EMBEDDING,
    ("Transformer", "LogitScore"): ModelKind.RERANKER,
    ("Transformer",): None,
}
"""The sequences of modules in `modules.json` that can be run, and what each makes of the model."""

MODEL_TYPES = {"SentenceTransformer": ModelKind.EMBEDDING, "CrossEncoder": ModelKind.RERANKER}
"""`model_type` in `config_sentence_transformers.json`."""

LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The flags of older `1_Pooling/config.json` files and the modes that they mean.

Source: `sentence_transformers/sentence_transformer/modules/pooling.py`, version 6.
"""

LAST_TOKEN = "lasttoken"

UNSAID_POOLING = (None, 0)
"""What a GGUF file asks for where the conversion knew of no pooling."""

GGUF_TEMPLATE = re.compile(
    r".*<Instruct>: (?P<instruction>[^\n]*)\n<Query>: \{query\}\n<Document>: \{document\}<\|im_end\|>.*", re.DOTALL
)
"""A reranker's template in a GGUF file, with the instruction written out.

Source: `Qwen3Model.set_gguf_parameters` in `conversion/qwen.py` of ggml-org/llama.cpp.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFiles:
    """What the side files say. The defaults are what holds for a folder without any.

    Attributes:
        kind: What the model does; `None` where the folder does not tell, and whoever loads it has to say.
        prompts: Texts to put before an input, by name. A reranker's are instructions.
        default_prompt_name: The prompt for inputs for which none is chosen.
        normalize: Whether vectors are scaled to length 1.
        max_tokens: A limit below that of `config.json`, if one is set.
        answer_ids: Token ids of a reranker's answers, (yes, no).
        instruction: A reranker's default instruction.
    """

    kind: ModelKind | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    normalize: bool = True
    max_tokens: int | None = None
    answer_ids: tuple[int, int] | None = None
    instruction: str | None = None


def load_side_files(source: Path, config: Qwen3Config, raw_config: Mapping[str, Any]) -> SideFiles:
    """What the model's files say about using it.

    Args:
        source: The model's folder, or a GGUF file.
        config: Its configuration.
        raw_config: `config.json` as it was parsed.

    Raises:
        ConfigError: A side file is broken, or contradicts the configuration or itself.
        UnsupportedModelError: The files ask for something that Qwen3 embedding models and rerankers do not do.
    """
    if source.is_file():
        return _read_gguf(source)
    folder = source
    settings = _load_if_present(folder / "config_sentence_transformers.json")
    modules = _load_modules(folder)
    chain_kind = None
    if modules:
        names = tuple(modules)
        if names not in CHAINS:
            raise UnsupportedModelError(
                f"modules.json asks for {', '.join(names)}, which is not how Qwen3 embedding models or rerankers work.",
                param="modules.json",
                hint=f"Supported: {'; '.join(', '.join(chain) for chain in CHAINS)}.",
            )
        if modules["Transformer"]:
            raise UnsupportedModelError(
                f"modules.json has the transformer in the folder {modules['Transformer']!r}, not at the top.",
                param="modules.json",
            )
        chain_kind = CHAINS[names]
    if "Pooling" in modules:
        _check_pooling(folder / modules["Pooling"] / "config.json", config)
    answer_ids = None
    if "LogitScore" in modules:
        answer_ids = _answer_ids(folder / modules["LogitScore"] / "config.json", config)
    kind = chain_kind or _declared_kind(settings, raw_config) or _guessed_kind(folder, raw_config)
    prompts, default_prompt_name = _prompts(settings)
    return SideFiles(
        kind=kind,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        normalize="Normalize" in modules or chain_kind is not ModelKind.EMBEDDING,
        max_tokens=_max_tokens(folder, is_limiting=bool(modules)),
        answer_ids=answer_ids,
        instruction=prompts[default_prompt_name] if default_prompt_name and kind is ModelKind.RERANKER else None,
    )


def _read_gguf(path: Path) -> SideFiles:
    """What is believed of a GGUF file's metadata: what the model is, and a reranker's instruction."""
    file = GGUFModel.open(path)
    pooling, template = file.metadata.get(POOLING_KEY), file.metadata.get(TEMPLATE_KEY)
    if pooling not in (*UNSAID_POOLING, LAST_POOLING, RANK_POOLING):
        logger.warning("%s asks for pooling type %s; Qwen3 models are read at the last token, as here.", path, pooling)
    written = None
    if template is not None:
        written = GGUF_TEMPLATE.fullmatch(template)
        if written is None:
            logger.warning("%s has a reranking template of its own; the one of Qwen3 rerankers is used.", path)
    return SideFiles(kind=file.kind, instruction=written["instruction"] if written else None)


def _load_if_present(path: Path) -> dict[str, Any]:
    return load_json(path) if path.exists() else {}


def _load_modules(folder: Path) -> dict[str, str]:
    """The folder of each module in `modules.json` by its class name, in order; nothing if there is no such file."""
    path = folder / "modules.json"
    if not path.exists():
        return {}
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(modules, list):
            raise TypeError(f"a {type(modules).__name__}")
        ordered = sorted(modules, key=lambda module: int(module["idx"]))
        return {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in ordered}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a list of modules: {type(error).__name__}: {error}.", param=str(path)
        ) from error


def _check_pooling(path: Path, config: Qwen3Config) -> None:
    """Refuse any pooling but that of the last token, prompt included."""
    pooling = load_json(path)
    flagged = [mode for flag, mode in LEGACY_POOLING.items() if pooling.get(flag)]
    modes = pooling.get("pooling_mode", flagged or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if modes != [LAST_TOKEN]:
        raise UnsupportedModelError(
            f"{path.parent.name}/config.json asks for pooling {' + '.join(map(repr, modes))}; Qwen3 embedding models "
            f"use {LAST_TOKEN!r}.",
            param="pooling_mode",
        )
    if not pooling.get("include_prompt", True):
        raise UnsupportedModelError(
            f"{path.parent.name}/config.json leaves the prompt out of the pooling (include_prompt is false).",
            param="include_prompt",
        )
    dimension = pooling.get("embedding_dimension", pooling.get("word_embedding_dimension", config.hidden_size))
    if dimension != config.hidden_size:
        raise ConfigError(
            f"{path.parent.name}/config.json pools {dimension!r} dimensions, but config.json has hidden_size "
            f"{config.hidden_size}.",
            param="embedding_dimension",
        )


def _declared_kind(settings: Mapping[str, Any], raw_config: Mapping[str, Any]) -> ModelKind | None:
    architectures = raw_config.get("architectures") or ()
    if "Qwen3ForSequenceClassification" in architectures:
        return ModelKind.RERANKER
    model_type = settings.get("model_type")
    if model_type is not None:
        if model_type not in MODEL_TYPES:
            raise UnsupportedModelError(
                f"config_sentence_transformers.json describes a {model_type!r}.",
                param="model_type",
                hint=f"Supported: {', '.join(MODEL_TYPES)}.",
            )
        return MODEL_TYPES[model_type]
    return ModelKind.EMBEDDING if "Qwen3Model" in architectures else None


def _guessed_kind(folder: Path, raw_config: Mapping[str, Any]) -> ModelKind | None:
    """What names and the chat template suggest. `Qwen3ForCausalLM` alone says nothing: both kinds are stored so."""
    # In the hub's cache a snapshot is called by its commit, and the repository by the folder two above.
    name = folder.parent.parent.name if folder.parent.name == "snapshots" else folder.resolve().name
    names = f"{name} {raw_config.get('_name_or_path') or ''}".lower()
    if "rerank" in names or "<Document>" in _chat_template(folder):
        return ModelKind.RERANKER
    return ModelKind.EMBEDDING if "embed" in names else None


def _chat_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8", errors="replace")
    return str(_load_if_present(folder / "tokenizer_config.json").get("chat_template") or "")


def _prompts(settings: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ConfigError("config_sentence_transformers.json: prompts is not an object of texts.", param="prompts")
    if default is not None and default not in prompts:
        raise ConfigError(
            f"config_sentence_transformers.json: default_prompt_name is {default!r}, but the prompts are "
            f"{', '.join(prompts) or 'none'}.",
            param="default_prompt_name",
        )
    return {name: text or "" for name, text in prompts.items()}, default


def _max_tokens(folder: Path, *, is_limiting: bool) -> int | None:
    """The lowest limit that sentence-transformers would read: older versions write it themselves, 6 to the tokenizer.

    Args:
        folder: The model's folder.
        is_limiting: Whether the folder is one of sentence-transformers; if not, the tokenizer's figure limits nobody.
    """
    written = [_load_if_present(folder / "sentence_bert_config.json").get("max_seq_length")]
    if is_limiting:
        written.append(_load_if_present(folder / "tokenizer_config.json").get("model_max_length"))
    limits = [limit for limit in written if limit is not None]
    # Tokenizers without a limit say 1e30.
    if not all(isinstance(limit, int | float) and limit >= 1 for limit in limits):
        raise ConfigError(f"The side files limit inputs to {limits} tokens.", param="max_seq_length")
    return int(min(limits)) if limits else None


def _answer_ids(path: Path, config: Qwen3Config) -> tuple[int, int]:
    """Token ids of the answers (yes, no) in a `LogitScore` module's configuration."""
    settings = load_json(path)
    named = f"{path.parent.name}/config.json"
    if settings.get("false_token_id") is None:
        raise UnsupportedModelError(
            f"{named} scores by one token (false_token_id is missing); Qwen3 rerankers compare two.",
            param="false_token_id",
        )

    def token_id(key: str) -> int:
        value = settings.get(key)
        if not isinstance(value, int) or not 0 <= value < config.vocab_size:
            raise ConfigError(
                f"{named}: {key} is {value!r}, not a token id of a vocabulary of {config.vocab_size}.", param=key
            )
        return value

    return token_id("true_token_id"), token_id("false_token_id")
