"""Writes a trained model as a folder that is laid out like an official checkpoint.

Everything that reads the official folders must read these: this package, transformers and sentence-transformers. So the
side files are those of Qwen3-Embedding-0.6B and Qwen3-Reranker-0.6B with this model's numbers in them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from quernel.model.config import QUANTISABLE_KEY, Qwen3Config
from quernel.model.qwen3 import Qwen3
from quernel.prompts.templates import ANSWERS, CARD_TEMPLATE, DEFAULT_INSTRUCTION, QUERY_PROMPT
from quernel.train.vocabulary import END_OF_TEXT, SPECIAL_TOKENS, THINK_TOKENS, append_end_token, token_id

END_OF_TURN = "<|im_end|>"

_CHAT_TEMPLATE = (
    '{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first '
    '| default("' + DEFAULT_INSTRUCTION + '") -%}\n'
    '{%- set query_text = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}\n'
    '{%- set document_text = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}\n'
    + CARD_TEMPLATE.head
    + CARD_TEMPLATE.instruction.format(instruction="{{ instruction }}")
    + CARD_TEMPLATE.query.format(query="{{ query_text }}")
    + CARD_TEMPLATE.document.format(document="{{ document_text }}")
    + CARD_TEMPLATE.tail
    + "\n"  # Jinja drops one newline at the end of a template.
)


def write_embedder(folder: Path, model: Qwen3, tokenizer: Tokenizer) -> None:
    """Writes an embedding model.

    Args:
        folder: Made if it is not there; files of the same names are replaced.
        model: Stored in bfloat16, tensor names without a prefix.
        tokenizer: Without an end token; the file gets one.
    """
    _write_common(folder, model, tokenizer, end_id=token_id(tokenizer, END_OF_TEXT), prefix="")
    append_end_token(tokenizer).save(str(folder / "tokenizer.json"), pretty=False)
    _write_json(
        folder / "modules.json",
        _modules(
            ("", "sentence_transformers.models.Transformer"),
            ("1_Pooling", "sentence_transformers.models.Pooling"),
            ("2_Normalize", "sentence_transformers.models.Normalize"),
        ),
    )
    _write_json(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": model.config.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
    )
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": QUERY_PROMPT.format(instruction=DEFAULT_INSTRUCTION), "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def write_reranker(folder: Path, model: Qwen3, tokenizer: Tokenizer) -> None:
    """Writes a reranker. Arguments as for `write_embedder`; tensor names begin with `model.`, the head is the table."""
    _write_common(folder, model, tokenizer, end_id=token_id(tokenizer, END_OF_TURN), prefix="model.")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    _write_json(
        folder / "modules.json",
        _modules(
            ("", "sentence_transformers.base.modules.transformer.Transformer"),
            ("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
        ),
    )
    yes, no = (token_id(tokenizer, answer) for answer in ANSWERS)
    _write_json(folder / "1_LogitScore/config.json", {"true_token_id": yes, "false_token_id": no})
    forward = {"method": "forward", "method_output_name": "logits"}
    _write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    )
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "5.4.0"},
            "activation_fn": "torch.nn.modules.linear.Identity",
            "default_prompt_name": "query",
            "model_type": "CrossEncoder",
            "prompts": {"query": DEFAULT_INSTRUCTION},
        },
    )
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")


def _write_common(folder: Path, model: Qwen3, tokenizer: Tokenizer, *, end_id: int, prefix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    start_id = token_id(tokenizer, END_OF_TEXT)
    _write_json(folder / "config.json", _config(model.config, bos_token_id=start_id, eos_token_id=end_id))
    _write_json(folder / "generation_config.json", {"bos_token_id": start_id, "eos_token_id": end_id})
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer, model.config))
    tensors = {
        f"{prefix}{name}": tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes for the owner alone


def _config(config: Qwen3Config, *, bos_token_id: int, eos_token_id: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "qwen3",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        **({} if config.quantisable else {QUANTISABLE_KEY: False}),
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": int(config.rope_theta),
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def _tokenizer_config(tokenizer: Tokenizer, config: Qwen3Config) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {
        str(token_id(tokenizer, token)): {"content": token, **flags, "special": token in SPECIAL_TOKENS}
        for token in (*SPECIAL_TOKENS, *THINK_TOKENS)
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", END_OF_TURN],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TURN,
        "errors": "replace",
        "model_max_length": config.max_position_embeddings,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _modules(*modules: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(modules)
    ]


def _write_json(path: Path, content: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
