"""Random checkpoint folders in the form of the official files, small enough for any test."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from quernel.types import ModelKind
from tests.support.tokenizers import SPECIAL_TOKENS, tiny_tokenizer_json

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
RERANK_TEMPLATE = (
    '{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first | '
    f'default("{DEFAULT_INSTRUCTION}") -%}}\n'
    '{%- set query_text = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}\n'
    '{%- set document_text = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}\n'
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
    "<Instruct>: {{ instruction }}\n"
    "<Query>: {{ query_text }}\n"
    "<Document>: {{ document_text }}<|im_end|>\n"
    "<|im_start|>assistant\n"
    "<think>\n\n</think>\n\n\n"
)
"""The official rerankers' `chat_template.jinja`; the template engine drops the last newline."""


def make_checkpoint(
    folder: Path,
    *,
    kind: ModelKind | Literal["embedding", "reranker"] = "embedding",
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    mlp: int = 96,
    vocab: int | None = None,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    prefix: str | None = None,
    config_form: Literal[4, 5] = 4,
    side_files: bool = True,
    seed: int = 0,
    max_positions: int = 512,
) -> Path:
    """A complete model folder with random weights: configuration, tensors, tokenizer and side files.

    Weights are scaled so that activations stay near size 1 and a reranker's logits near 1, whatever the shape; norm
    weights differ from 1, so that a norm left out or applied twice shows.

    Args:
        folder: Where the files go; made if it does not exist.
        kind: Embedding model or reranker: which tensors, tokenizer and side files are written.
        hidden_size: Width of the residual stream.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key/value heads.
        head_dim: Width of a head.
        mlp: Width inside the MLP.
        vocab: Rows of the embedding table; as many as the tokenizer has ids where it is None.
        tied: Whether the head is the embedding table. An untied reranker stores `lm_head.weight`, in the last shard
            alone where there are several (as Reranker-8B); an untied embedding model stores none (as Embedding-8B).
        dtype: The type that the tensors are stored in.
        shards: Weight files; more than one come with an index.
        prefix: What stands before tensor names; as in the official files (none, or `model.` for rerankers) if None.
        config_form: The major version of transformers whose way of writing `config.json` is followed; 5 also writes
            the side files as sentence-transformers 6 does.
        side_files: Whether there are sentence-transformers files.
        seed: Of the weights.
        max_positions: The longest input that the configuration promises.

    Returns:
        `folder`.
    """
    kind = ModelKind(kind)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads(tiny_tokenizer_json(appends_end=kind is ModelKind.EMBEDDING))
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    end_id = ids[SPECIAL_TOKENS[0]]
    config: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": mlp,
        "max_position_embeddings": max_positions,
        "max_window_layers": layers,
        "model_type": "qwen3",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab or len(ids),
    }
    dtype_name = str(dtype).removeprefix("torch.")
    if config_form == 4:
        config |= {
            "rope_scaling": None,
            "rope_theta": 1_000_000,
            "torch_dtype": dtype_name,
            "transformers_version": "4.51.3",
        }
    else:
        config |= {
            "rope_parameters": {"rope_theta": 1_000_000, "rope_type": "default"},
            "layer_types": ["full_attention"] * layers,
            "pad_token_id": None,
            "dtype": dtype_name,
            "transformers_version": "5.0.0",
        }
    write_json(folder / "config.json", config)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer))

    prefix = ("model." if kind is ModelKind.RERANKER else "") if prefix is None else prefix
    tensors = {
        prefix + name: tensor.to(dtype)
        for name, tensor in random_tensors(
            hidden_size=hidden_size,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            mlp=mlp,
            vocab=config["vocab_size"],
            seed=seed,
        ).items()
    }
    head: dict[str, Tensor] = {}
    if kind is ModelKind.RERANKER and not tied:
        generator = torch.Generator().manual_seed(seed + 1)
        head["lm_head.weight"] = (torch.randn(config["vocab_size"], hidden_size, generator=generator) * 0.1).to(dtype)
    write_tensors(folder, tensors, head, shards=shards)

    if kind is ModelKind.RERANKER:
        (folder / "chat_template.jinja").write_text(RERANK_TEMPLATE, encoding="utf-8")
    if side_files and kind is ModelKind.EMBEDDING:
        _write_embedding_side_files(folder, hidden_size, newer=config_form == 5)
    elif side_files:
        _write_reranker_side_files(folder, yes_id=ids["yes"], no_id=ids["no"])
    return folder


def random_tensors(
    *, hidden_size: int, layers: int, heads: int, kv_heads: int, head_dim: int, mlp: int, vocab: int, seed: int = 0
) -> dict[str, Tensor]:
    """The decoder's tensors in float32, in the order of the official files, without prefix."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float | None = None) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * (scale or 1 / math.sqrt(columns))

    def norm(size: int) -> Tensor:
        return 0.5 + torch.rand(size, generator=generator)

    tensors = {"embed_tokens.weight": matrix(vocab, hidden_size, 0.1)}
    for index in range(layers):
        layer = {
            "input_layernorm": norm(hidden_size),
            "mlp.down_proj": matrix(hidden_size, mlp),
            "mlp.gate_proj": matrix(mlp, hidden_size),
            "mlp.up_proj": matrix(mlp, hidden_size),
            "post_attention_layernorm": norm(hidden_size),
            "self_attn.k_norm": norm(head_dim),
            "self_attn.k_proj": matrix(kv_heads * head_dim, hidden_size),
            "self_attn.o_proj": matrix(hidden_size, heads * head_dim),
            "self_attn.q_norm": norm(head_dim),
            "self_attn.q_proj": matrix(heads * head_dim, hidden_size),
            "self_attn.v_proj": matrix(kv_heads * head_dim, hidden_size),
        }
        tensors |= {f"layers.{index}.{name}.weight": tensor for name, tensor in layer.items()}
    tensors["norm.weight"] = norm(hidden_size)
    return tensors


def write_tensors(
    folder: Path, tensors: dict[str, Tensor], head: dict[str, Tensor] | None = None, *, shards: int = 1
) -> None:
    """`tensors` as one file, or as `shards` files with an index; `head` then stands alone in the last."""
    head = head or {}
    if shards == 1:
        save_file(tensors | head, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    num_parts = shards - 1 if head else shards
    bounds = [len(names) * part // num_parts for part in range(num_parts + 1)]
    parts = [{name: tensors[name] for name in names[a:b]} for a, b in pairwise(bounds)]
    parts += [head] if head else []
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total_size = sum(tensor.nbytes for part in parts for tensor in part.values())
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    )


def write_json(path: Path, content: Any) -> None:
    """`content` as the official repositories write JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Set top-level keys of a JSON file; a key set to `None` is written as null."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def _tokenizer_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    end, _, turn_end = SPECIAL_TOKENS
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: token[key] for key in keys} for token in tokenizer["added_tokens"]
        },
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": turn_end,  # as the official files, though the trained end is the other
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": end,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _modules(*modules: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]


def _write_embedding_side_files(folder: Path, hidden_size: int, *, newer: bool) -> None:
    prompts = {"query": f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:", "document": ""}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    if newer:
        modules = _modules(
            ("", "sentence_transformers.base.modules.transformer.Transformer"),
            ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
            ("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"),
        )
        pooling = {"embedding_dimension": hidden_size, "pooling_mode": "lasttoken", "include_prompt": True}
        settings |= {"model_type": "SentenceTransformer"}
        write_json(
            folder / "2_Normalize/config.json",
            {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
        )
    else:
        modules = _modules(
            ("", "sentence_transformers.models.Transformer"),
            ("1_Pooling", "sentence_transformers.models.Pooling"),
            ("2_Normalize", "sentence_transformers.models.Normalize"),
        )
        pooling = {
            "word_embedding_dimension": hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        }
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling/config.json", pooling)
    write_json(folder / "config_sentence_transformers.json", settings)


def _write_reranker_side_files(folder: Path, *, yes_id: int, no_id: int) -> None:
    write_json(
        folder / "modules.json",
        _modules(
            ("", "sentence_transformers.base.modules.transformer.Transformer"),
            ("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
        ),
    )
    write_json(folder / "1_LogitScore/config.json", {"true_token_id": yes_id, "false_token_id": no_id})
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "logits"},
                "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
            },
            "module_output_name": "causal_logits",
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"pytorch": "2.10.0", "sentence_transformers": "5.4.0"},
            "activation_fn": "torch.nn.modules.linear.Identity",
            "default_prompt_name": "query",
            "model_type": "CrossEncoder",
            "prompts": {"query": DEFAULT_INSTRUCTION},
        },
    )
