"""Model folders as GGUF files, as llama.cpp's conversion writes them, and the quantisations that gguf only reads."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import load_file, save_file

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LAST, RANK = 3, 4
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
RERANK_TEMPLATE = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)

Tensors = dict[str, np.ndarray]


def write_gguf(
    folder: Path,
    file: Path,
    *,
    type_name: str = "F32",
    head: bool = True,
    metadata: Mapping[str, Any] | None = None,
    edit: Callable[[Tensors], object] = lambda tensors: None,
) -> Path:
    """The model in `folder` as one GGUF file.

    Args:
        folder: A model folder from `make_checkpoint`. A reranker gets what a current conversion gives it.
        file: Where it goes.
        type_name: The type of the matrices; vectors stay in float32.
        head: Whether a reranker gets `cls.output.weight` and its labels.
        metadata: Keys to change, by their whole names; those set to `None` are left out.
        edit: Changes the tensors, by their GGUF names, before they are converted.

    Returns:
        `file`.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    stored = {}
    for shard in sorted(folder.glob("*.safetensors")):
        stored |= {name.removeprefix("model."): tensor.float().numpy() for name, tensor in load_file(shard).items()}
    tensors = {_gguf_name(name): tensor for name, tensor in stored.items()}
    said = model_metadata(config) | tokenizer_metadata(tokenizer, num_rows=config["vocab_size"])
    is_reranker = (folder / "chat_template.jinja").exists()
    if is_reranker and head:
        vocab, table = tokenizer["model"]["vocab"], tensors.pop("output.weight", tensors["token_embd.weight"])
        tensors["cls.output.weight"] = table[[vocab["yes"], vocab["no"]]]
        said |= {
            "qwen3.pooling_type": RANK,
            "qwen3.classifier.output_labels": ["yes", "no"],
            "tokenizer.chat_template.rerank": RERANK_TEMPLATE,
        }
    elif not is_reranker:
        said["qwen3.pooling_type"] = LAST
    edit(tensors)
    write_file(file, said | dict(metadata or {}), tensors, type_name=type_name)
    return file


def write_file(file: Path, metadata: Mapping[str, Any], tensors: Tensors, *, type_name: str = "F32") -> None:
    """A GGUF file of these metadata (those that are not `None`) and tensors."""
    writer = GGUFWriter(file, str(metadata.get("general.architecture")))
    writer.kv_data[0].clear()
    for key, value in metadata.items():
        if value is not None:
            _add(writer, key, value)
    for name, tensor in tensors.items():
        kind = GGMLQuantizationType[type_name if tensor.ndim > 1 else "F32"]
        writer.add_tensor(name, quantise(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a conversion writes of `config.json`."""
    return {
        "general.architecture": "qwen3",
        "general.type": "model",
        "qwen3.block_count": config["num_hidden_layers"],
        "qwen3.context_length": config["max_position_embeddings"],
        "qwen3.embedding_length": config["hidden_size"],
        "qwen3.feed_forward_length": config["intermediate_size"],
        "qwen3.attention.head_count": config["num_attention_heads"],
        "qwen3.attention.head_count_kv": config["num_key_value_heads"],
        "qwen3.rope.freq_base": float(config["rope_theta"]),
        "qwen3.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "qwen3.attention.key_length": config["head_dim"],
        "qwen3.attention.value_length": config["head_dim"],
        "general.quantization_version": 2,
    }


def tokenizer_metadata(tokenizer: Mapping[str, Any], *, num_rows: int | None = None) -> dict[str, Any]:
    """What a conversion writes of `tokenizer.json`.

    Args:
        tokenizer: The parsed file.
        num_rows: Rows of the embedding table; those without a token get one that is marked unused.
    """
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens = [*tokenizer["model"]["vocab"], *(added[number] for number in sorted(added))]
    types = [CONTROL if "|" in added.get(i, "") else USER_DEFINED if i in added else NORMAL for i in range(len(tokens))]
    unused = max((num_rows or 0) - len(tokens), 0)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens + [f"[PAD{len(tokens) + position}]" for position in range(unused)],
        "tokenizer.ggml.token_type": types + [UNUSED] * unused,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": min(added),
        "tokenizer.ggml.padding_token_id": min(added),
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_bos_token": False,
    }


def quantise(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Values as they are stored in a type; for the types of k-quants, which gguf does not write, as ggml lays them out.

    Source: `block_q4_K`, `block_q5_K` and `block_q6_K` in `ggml/src/ggml-common.h`, and `dequantize_row_*` in
    `ggml/src/ggml-quants.c`, of ggml-org/llama.cpp.
    """
    by_hand = {"Q4_K": lambda blocks: _k_blocks(blocks, 4), "Q5_K": lambda blocks: _k_blocks(blocks, 5)}
    by_hand["Q6_K"] = _q6_blocks
    if kind.name not in by_hand:
        return gguf.quants.quantize(np.ascontiguousarray(values, dtype=np.float32), kind)
    blocks = by_hand[kind.name](values.reshape(-1, 256).astype(np.float32))
    return blocks.reshape(*values.shape[:-1], -1)


def dequantised_folder(file: Path, folder: Path) -> None:
    """Put what the file's tensors are worth, as the gguf package reads them, into the safetensors file of `folder`."""
    path = folder / "model.safetensors"
    names = {_gguf_name(name.removeprefix("model.")): name for name in load_file(path)}
    worth = {tensor.name: dequantise(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors}
    save_file({official: torch.from_numpy(worth[name]) for name, official in names.items()}, path)


def dequantise(stored: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Stored values as the gguf package understands them, float32."""
    return np.array(gguf.quants.dequantize(stored, kind))


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{NAMES[stem]}.weight"
    _, number, part = stem.split(".", 2)
    return f"blk.{number}.{NAMES[part]}.weight"


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _k_blocks(blocks: np.ndarray, bits: int) -> np.ndarray:
    """Blocks of 256: two halves, 12 bytes of 6-bit scales and minima of 8 parts, high bits (if 5), low nibbles."""
    parts = blocks.reshape(-1, 8, 32)
    minima = np.maximum(-parts.min(axis=2), 0)
    scales = (parts.max(axis=2) + minima) / (2**bits - 1)
    d, m = (np.float16(x.max(axis=1, keepdims=True) / 63) for x in (scales, minima))
    six_scales, six_minima = (
        np.clip(np.round(x / np.maximum(np.float32(s), 1e-9)), 0, 63).astype(np.uint8)
        for x, s in ((scales, d), (minima, m))
    )
    step = np.maximum(np.float32(d) * six_scales, 1e-9)[..., None]
    low = (np.float32(m) * six_minima)[..., None]
    quants = np.clip(np.round((parts + low) / step), 0, 2**bits - 1).astype(np.uint8)
    packed = np.concatenate(
        [
            six_scales[:, :4] | (six_scales[:, 4:] >> 4 << 6),
            six_minima[:, :4] | (six_minima[:, 4:] >> 4 << 6),
            (six_scales[:, 4:] & 15) | (six_minima[:, 4:] & 15) << 4,
        ],
        axis=1,
    )
    pairs = quants.reshape(-1, 4, 2, 32)
    nibbles = ((pairs[:, :, 0] & 15) | (pairs[:, :, 1] & 15) << 4).reshape(-1, 128)
    high = [np.bitwise_or.reduce((quants >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1)] if bits == 5 else []
    return np.concatenate([d.view(np.uint8), m.view(np.uint8), packed, *high, nibbles], axis=1)


def _q6_blocks(blocks: np.ndarray) -> np.ndarray:
    """Blocks of 256: low nibbles, pairs of high bits, 16 scales, one scale of those."""
    parts = blocks.reshape(-1, 16, 16)
    scales = np.abs(parts).max(axis=2) / 31
    d = np.float16(scales.max(axis=1, keepdims=True) / 127)
    eight = np.clip(np.round(scales / np.maximum(np.float32(d), 1e-9)), 0, 127).astype(np.int8)
    step = np.maximum(np.float32(d) * eight, 1e-9)[..., None]
    quants = (np.clip(np.round(parts / step), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    nibbles = np.stack(
        [(quants[:, :, 0] & 15) | (quants[:, :, 2] & 15) << 4, (quants[:, :, 1] & 15) | (quants[:, :, 3] & 15) << 4],
        axis=2,
    )
    high = sum((quants[:, :, part] >> 4) << (2 * part) for part in range(4))
    return np.concatenate(
        [nibbles.reshape(-1, 128), high.reshape(-1, 64), eight.view(np.uint8), d.view(np.uint8)], axis=1
    )
