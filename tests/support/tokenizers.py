"""Tokenizers for tests, in the format and with the rules of the official files: a tiny one, and the official ones.

The tiny one is small enough for random checkpoints. It has the family's normaliser, pre-tokenizer, byte-level symbols
and added tokens, and merges chosen so that the places where a prompt must not be split are wrong here too: `?` joins
the newline after it, `:` joins the letter after it.
"""

import json
import lzma
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

DATA = Path(__file__).parents[1] / "data" / "tokenizers"

NUM_BYTES = 256

MERGES = (
    ("y", "e"),
    ("ye", "s"),
    ("n", "o"),
    ("Ċ", "Ċ"),
    ("Ġ", "Ġ"),
    ("Ġ", "t"),
    ("t", "h"),
    ("Ġt", "h"),
    ("th", "e"),
    ("Ġth", "e"),
    ("i", "n"),
    ("e", "r"),
    ("a", "n"),
    ("o", "n"),
    ("r", "e"),
    ("Ġ", "a"),
    ("Ġ", "c"),
    ("i", "s"),
    ("Ġ", "is"),
    (">", ":"),
    ("?", "Ċ"),
    (".", "Ċ"),
    (":", "W"),
    ("u", "er"),
    ("Q", "uer"),
    ("Quer", "y"),
    ("<", "|"),
    ("|", ">"),
)
"""In order of priority; each makes one token. `Ġ` is the byte of a space, `Ċ` that of a newline."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK_TOKENS = ("<think>", "</think>")
"""Added tokens that are not marked special, as in the official files."""

END_ID = NUM_BYTES + len(MERGES)
VOCAB_SIZE = END_ID + len(SPECIAL_TOKENS) + len(THINK_TOKENS)
"""Tokens in all: 289."""

WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


OFFICIAL_SPECIAL_TOKENS = (
    *SPECIAL_TOKENS,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
OFFICIAL_ADDED_TOKENS = (
    *OFFICIAL_SPECIAL_TOKENS,
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    *THINK_TOKENS,
)
"""Those of the rerankers and the smallest embedder; the other embedders have the first 22."""

OfficialName = Literal["qwen3-embedding-0.6b", "qwen3-embedding-4b-8b", "qwen3-reranker"]


def tiny_tokenizer_json(*, appends_end: bool) -> str:
    """The text of a `tokenizer.json` with `VOCAB_SIZE` tokens.

    Args:
        appends_end: Whether the file ends every text in `<|endoftext|>`, as the embedders' files do.
    """
    symbols = [*_byte_symbols(), *(left + right for left, right in MERGES)]
    content = _tokenizer_content(symbols, MERGES, (*SPECIAL_TOKENS, *THINK_TOKENS), appends_end=appends_end)
    return json.dumps(content, ensure_ascii=False)


def official_tokenizer_json(name: OfficialName, *, indent: int | None = None) -> str:
    """The text of an official `tokenizer.json`; with an indent of 2 it is the published file, byte for byte.

    Args:
        name: Which of the three.
        indent: Spaces a level; without line breaks, and twice as fast, where it is None.
    """
    symbols = _byte_symbols()
    merges = []
    for left, right in struct.iter_unpack("<II", lzma.decompress((DATA / "qwen3-merges.xz").read_bytes())):
        merges.append((symbols[left], symbols[right]))
        symbols.append(symbols[left] + symbols[right])
    added = OFFICIAL_ADDED_TOKENS[:22] if name == "qwen3-embedding-4b-8b" else OFFICIAL_ADDED_TOKENS
    content = _tokenizer_content(symbols, merges, added, appends_end=name != "qwen3-reranker")
    return json.dumps(content, ensure_ascii=False, indent=indent)


def _tokenizer_content(
    symbols: Sequence[str], merges: Iterable[tuple[str, str]], added: Sequence[str], *, appends_end: bool
) -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": WORD_PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(symbols) + position,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in OFFICIAL_SPECIAL_TOKENS,
            }
            for position, token in enumerate(added)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": _end_template(byte_level, len(symbols)) if appends_end else byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {symbol: position for position, symbol in enumerate(symbols)},
            "merges": [list(pair) for pair in merges],
        },
    }


def _end_template(byte_level: dict[str, object], end_id: int) -> dict[str, object]:
    end = SPECIAL_TOKENS[0]
    text = [{"Sequence": {"id": part, "type_id": 0}} for part in "AB"]
    closing = {"SpecialToken": {"id": end, "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [text[0], closing],
        "pair": [*text, closing],
        "special_tokens": {end: {"id": end, "ids": [end_id], "tokens": [end]}},
    }
    return {"type": "Sequence", "processors": [byte_level, template]}


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte, in the order of the official vocabulary.

    Source: `bytes_to_unicode` of openai/gpt-2, `src/encoder.py`.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = NUM_BYTES - len(printable)
    return [chr(byte) for byte in printable] + [chr(NUM_BYTES + position) for position in range(others)]
