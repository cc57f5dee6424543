"""The model's own tokenizer: text to token ids, twice.

`encode` is the reference: token strings inside a text (`<|im_end|>`, `<think>`) become those tokens. `encode_plain` is
for text that must not act: there they stay the characters they are. Neither appends anything; what ends a prompt is
for the prompts to say, since tokenizer files disagree about it.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from quernel.errors import InvalidRequestError, TokenIdRangeError, TokenizerError
from quernel.types import Token, TokenPath

END_TOKEN = "<|endoftext|>"
"""The token that the embedders were trained to be read at. `eos_token` of `tokenizer_config.json` and `eos_token_id` of
`config.json` name `<|im_end|>` in most of the family's files, so neither is asked."""

TOKENIZER_FILE = "tokenizer.json"

_EXCERPT_CHARACTERS = 12


class Tokenizer:
    """Text to token ids as the model's `tokenizer.json` has it."""

    def __init__(self, reference: tokenizers.Tokenizer) -> None:
        reference.no_truncation()  # Files saved by sentence-transformers carry a limit of their own.
        reference.no_padding()
        self._reference = reference

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer of a model folder.

        Raises:
            TokenizerError: No `tokenizer.json` there, or not a readable one.
        """
        file = folder / TOKENIZER_FILE
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise TokenizerError(
                f"{file} does not exist.",
                param=TOKENIZER_FILE,
                hint="Copy it from the model's repository, or write it with transformers: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(
                f"{file} cannot be read: {error}.", param=TOKENIZER_FILE, hint="Download the file again."
            ) from error
        return cls._parse(text, name=str(file))

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that the text of a `tokenizer.json` describes.

        Raises:
            TokenizerError: The text describes none.
        """
        return cls._parse(text, name=TOKENIZER_FILE)

    @classmethod
    def _parse(cls, text: str, *, name: str) -> "Tokenizer":
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # `tokenizers` raises nothing narrower.
            raise TokenizerError(
                f"{name} is not a tokenizer file: {error}.", param=TOKENIZER_FILE, hint="Download the file again."
            ) from error

    @cached_property
    def vocab_size(self) -> int:
        """The highest token id, added tokens included, plus one."""
        return max(self._reference.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def end_id(self) -> int:
        """The id of `<|endoftext|>`.

        Raises:
            TokenizerError: There is no such token.
        """
        return self.token_id(END_TOKEN)

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same vocabulary without added tokens; it shares the model, so it costs neither time nor memory."""
        plain = tokenizers.Tokenizer(self._reference.model)
        plain.normalizer = self._reference.normalizer
        plain.pre_tokenizer = self._reference.pre_tokenizer
        return plain

    def encode(self, text: str) -> list[int]:
        """Ids as the reference has them: token strings in the text are tokens, nothing is appended.

        Raises:
            InvalidRequestError: The text is not valid Unicode.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, as `encode` gives them."""
        return _encode(self._reference, texts)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of the text as plain characters: no id of an added token, special or not.

        Raises:
            InvalidRequestError: The text is not valid Unicode.
        """
        return self.encode_plain_batch([text])[0]

    def encode_plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, as `encode_plain` gives them."""
        return _encode(self._plain, texts)

    def encode_split_batch(self, texts: Sequence[str], *, at: int) -> list[TokenPath]:
        """Ids of each text, as `encode` gives them, in two runs that meet before character `at`.

        Whatever the text holds, the runs joined are the ids of the text: it is encoded whole and divided after. Where
        a token lies across the place, or one run would be empty, there is one run (none for a text without tokens).

        Args:
            texts: Texts.
            at: A character position.
        """
        encodings = _batch(self._reference, texts, with_positions=True)
        return [_split(encoding, at) for encoding in encodings]

    def encode_tokens(self, text: str, *, add_end: bool) -> list[Token]:
        """The tokens of a text as `encode` divides it, with the characters that each stands for.

        Args:
            text: A text.
            add_end: Whether the end token closes it, unless it ends in one.

        Raises:
            InvalidRequestError: The text is not valid Unicode.
        """
        (encoding,) = _batch(self._reference, [text], with_positions=True)
        tokens = [
            Token(id=id, text=self.decode([id]), special=id in self._special_ids, start=start, stop=stop)
            for id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        if add_end and (not tokens or tokens[-1].id != self.end_id):
            tokens.append(Token(id=self.end_id, text=END_TOKEN, special=True))
        return tokens

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self._reference.get_added_tokens_decoder()
        return frozenset(id for id, token in added.items() if token.special)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return str(self._reference.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def check_ids(self, ids: Sequence[int], place: str) -> None:
        """Refuse what is no token id of this tokenizer.

        Args:
            ids: Of one text.
            place: The field that they are in, for the message.

        Raises:
            TokenIdRangeError: One of them is none.
        """
        size = self.vocab_size
        # The types of thousands of ids are checked at once; `type` and not `isinstance`, for True is an int too.
        if not ids or (set(map(type, ids)) == {int} and 0 <= min(ids) <= max(ids) < size):
            return
        wrong = next(token for token in ids if type(token) is not int or not 0 <= token < size)
        raise TokenIdRangeError(
            f"{place} holds {wrong!r}, but the model's token ids are integers from 0 to {size - 1}.",
            param=place.partition("[")[0],
            hint="Encode the text with the model's own tokenizer, or send the text.",
        )

    def token_id(self, token: str) -> int:
        """The id of a token, added or not.

        Raises:
            TokenizerError: The vocabulary has no such token.
        """
        found = self._reference.token_to_id(token)
        if found is None:
            raise TokenizerError(
                f"The tokenizer has no token {token!r}.",
                param=TOKENIZER_FILE,
                hint="Use the tokenizer.json of the Qwen3 embedding model or reranker that this model was made from.",
            )
        return int(found)


def _encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in _batch(tokenizer, texts, with_positions=False)]


def _batch(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], *, with_positions: bool) -> list[tokenizers.Encoding]:
    """One call for all texts; without character positions it is a quarter faster. One text is not worth its threads."""
    encode = tokenizer.encode_batch if with_positions else tokenizer.encode_batch_fast
    try:
        if len(texts) == 1:
            return [tokenizer.encode(texts[0], add_special_tokens=False)]
        return list(encode(list(texts), add_special_tokens=False))
    except TypeError:  # What `tokenizers` makes of a string that has no UTF-8 form.
        for text in texts:
            _require_unicode(text)
        raise


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(error.start - _EXCERPT_CHARACTERS, 0) : error.start + _EXCERPT_CHARACTERS]
        raise InvalidRequestError(
            f"A text holds half of a surrogate pair, U+{ord(text[error.start]):04X}, in {around!a}.",
            param="input",
            hint="Send valid Unicode: both halves of the pair, or the text without it.",
        ) from error


def _split(encoding: tokenizers.Encoding, at: int) -> TokenPath:
    ids = tuple(encoding.ids)
    token = encoding.char_to_token(at)
    span = encoding.token_to_chars(token) if token else None
    if token is None or span is None or span[0] != at:
        return (ids,) if ids else ()
    return ids[:token], ids[token:]
