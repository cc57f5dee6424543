"""The tokenizer of a GGUF file, rebuilt from its metadata, with the ids of the `tokenizer.json` it was made from.

The file holds tokens and merges. That Qwen3's tokenizer is byte-level, composes characters first (NFC) and divides
texts by one pattern stands in no key but `tokenizer.ggml.pre`, as a name.
"""

import logging
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from quernel.errors import TokenizerError
from quernel.prompts.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

KEYS = tuple(f"tokenizer.ggml.{name}" for name in ("tokens", "merges"))

WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where a text is divided before merging.

Source: `tokenizer.json` of Qwen/Qwen3-Embedding-0.6B, revision 97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3.
"""

BYTE_LEVEL_MODEL = "gpt2"
FAMILY_PRE = "qwen2"
"""What `tokenizer.ggml.model` and `tokenizer.ggml.pre` are called for this tokenizer."""

UNKNOWN_PRES = (None, "", "default")
"""What stands in `tokenizer.ggml.pre` where the conversion did not know."""

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
"""Types of tokens that are not made by merging: added ones of two sorts, and rows of the table that no token has.

Source: `TokenType` in `gguf-py/gguf/constants.py` of ggml-org/llama.cpp.
"""


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the metadata of a GGUF file describe.

    Args:
        metadata: By key; only those below `tokenizer.ggml.` are asked, and not which token ends a text.

    Raises:
        TokenizerError: They describe none, or one of another family.
    """
    missing = [key for key in KEYS if not metadata.get(key)]
    if missing:
        raise TokenizerError(
            f"The file's metadata lack {' and '.join(missing)}.",
            param=missing[0],
            hint="Convert the model again, with the tokenizer's files in its folder.",
        )
    _check_family(metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    tokens, merges = metadata[KEYS[0]], [tuple(merge.split(" ", 1)) for merge in metadata[KEYS[1]]]
    types = metadata.get("tokenizer.ggml.token_type") or [0] * len(tokens)
    if len(types) != len(tokens):
        raise TokenizerError(
            f"The file's metadata have {len(tokens)} tokens, but types of {len(types)}.",
            param="tokenizer.ggml.token_type",
        )
    used = {token: number for number, token in enumerate(tokens) if types[number] != UNUSED}
    try:
        reference = tokenizers.Tokenizer(models.BPE(vocab=used, merges=merges))
    except Exception as error:  # `tokenizers` raises nothing narrower.
        raise TokenizerError(
            f"The file's tokens and merges do not fit each other: {error}.", param=KEYS[1], hint="Convert it again."
        ) from error
    reference.normalizer = normalizers.NFC()
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    reference.decoder = decoders.ByteLevel()
    # Types are wrong in some files, where <|im_start|> would fall apart; what merging cannot make was added.
    made = {"".join(merge) for merge in merges}.union(pre_tokenizers.ByteLevel.alphabet())
    reference.add_tokens(
        [
            AddedToken(token, special=types[number] == CONTROL, normalized=False)
            for token, number in used.items()
            if types[number] in (CONTROL, USER_DEFINED) or token not in made
        ]
    )
    return Tokenizer(reference)


def _check_family(model: object, pre: object) -> None:
    if model != BYTE_LEVEL_MODEL:
        raise TokenizerError(
            f"The file's tokenizer is of the kind {model!r}, not {BYTE_LEVEL_MODEL!r} as Qwen3's.",
            param="tokenizer.ggml.model",
        )
    if pre in UNKNOWN_PRES:
        logger.warning("The file does not say how texts are divided (tokenizer.ggml.pre is %r): as Qwen3's.", pre)
    elif pre != FAMILY_PRE:
        raise TokenizerError(
            f"The file's tokenizer divides texts in the way {pre!r}, not {FAMILY_PRE!r} as Qwen3's.",
            param="tokenizer.ggml.pre",
            hint="Convert a Qwen3 embedding model or reranker with a current llama.cpp.",
        )
