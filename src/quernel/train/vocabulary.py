"""The tokenizer of the built-in pair: byte-level BPE with the family's normaliser, pre-tokenizer and special tokens.

It differs from the official file in its merges and in the number of special tokens, nowhere else, so that whatever
reads the official `tokenizer.json` reads this one.
"""

import re
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from quernel.errors import SettingsError
from quernel.prompts.templates import ANSWERS, CARD_TEMPLATE, DEFAULT_INSTRUCTION, QUERY_PROMPT

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
THINK_TOKENS = ("<think>", "</think>")
"""Added, but not marked special: so in the official files, and therefore parsed inside user text as there."""

WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Source: `pre_tokenizer` of Qwen3-Embedding-0.6B's tokenizer.json."""

PROMPTS = (
    QUERY_PROMPT.format(instruction=DEFAULT_INSTRUCTION),
    CARD_TEMPLATE.head.replace("<|im_start|>", "").replace("<|im_end|>", ""),
    CARD_TEMPLATE.instruction.format(instruction=DEFAULT_INSTRUCTION),
    CARD_TEMPLATE.query.format(query=""),
    CARD_TEMPLATE.document.format(document=""),
    "assistant\n",
    "\n\n",
    *ANSWERS,
)
"""Texts whose words all become single tokens: prompts are short, `yes` and `no` can be read, and `<Query` and
`<Document` mark the fields of a reranking prompt as nothing else does."""

PROMPT_REPEATS = 20_000
"""Enough to make a word one of the first merges of any sample that fits in memory."""

_COLON_BEFORE_LETTER = re.compile(r":(?=[^\W\d_])")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with exactly `vocab_size` tokens, the added ones last, `yes` and `no` among the single tokens.

    The colon never merges with a letter: the pre-tokenizer joins `Query:` and the first word of a query into `:word`,
    and without such merges the ids of an instructed query are those of the prompt followed by those of the query.

    Args:
        texts: The sample to count words in; read once.
        vocab_size: Tokens in all, added ones included.

    Raises:
        SettingsError: The sample is too small for so many tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    num_added = len(SPECIAL_TOKENS) + len(THINK_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - num_added,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_prepare(texts), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in THINK_TOKENS])
    if tokenizer.get_vocab_size() != vocab_size:
        raise SettingsError(
            f"The sample gives {tokenizer.get_vocab_size()} tokens, not {vocab_size}.",
            param="vocab_size",
            hint="Give more text or ask for fewer tokens.",
        )
    return tokenizer


def append_end_token(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that ends every text in `<|endoftext|>`, as the embedders' files do and the rerankers' do not."""
    embedder = Tokenizer.from_str(tokenizer.to_str())
    end = tokenizer.token_to_id(END_OF_TEXT)
    embedder.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
            processors.TemplateProcessing(
                single=f"$A {END_OF_TEXT}", pair=f"$A $B {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, end)]
            ),
        ]
    )
    return embedder


def _prepare(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield _COLON_BEFORE_LETTER.sub(": ", text)
    for prompt in PROMPTS:
        for _ in range(PROMPT_REPEATS):
            yield prompt


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token.

    Raises:
        SettingsError: The vocabulary has no such token: its sample was too small for the words of the prompts.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise SettingsError(f"The vocabulary has no token {token!r}.", param="vocab_size", hint="Ask for more tokens.")
    return int(found)
