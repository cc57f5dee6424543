"""How many tokens a request has, before any provider is asked: what makes its cost exact and its budget hard.

With the model's tokenizer the count is the one that the model will read. Without it there is a bound: a byte-level
tokenizer, as the family's is, makes at most one token of a byte. What was held beyond the true count is let go when the
provider has said it.
"""

import asyncio
import unicodedata
from pathlib import Path
from typing import Protocol

from quernel.errors import SettingsError
from quernel.instructions import find_instruction
from quernel.prompts.embedding import EmbeddingPrompts
from quernel.prompts.reranking import RerankPrompts
from quernel.prompts.templates import CARD_TEMPLATE, DEFAULT_INSTRUCTION, QUERY_PROMPT
from quernel.prompts.tokenizer import Tokenizer
from quernel.types import EmbeddingRequest, InputType, ModelKind, RerankRequest, Truncate

MAX_CHARACTERS_ON_LOOP = 2_000
"""Characters of a request that are counted on the event loop itself; more would keep others waiting."""

SPECIAL_TOKENS = 40
"""More than the special tokens of any prompt of the family."""


class TokenCounter(Protocol):
    """Counts the tokens of requests to one model.

    Attributes:
        is_exact: Whether the counts are those of the model, or only no less.
    """

    is_exact: bool

    def count(self, request: EmbeddingRequest | RerankRequest) -> int:
        """Tokens that the model reads for a request: prompts, texts and end tokens.

        Raises:
            InvalidRequestError: The request does not fit the model.
        """
        ...


class PromptCounter:
    """Counts with a model's tokenizer and prompts.

    Args:
        prompts: Those of the model.
    """

    is_exact = True

    def __init__(self, prompts: EmbeddingPrompts | RerankPrompts) -> None:
        self._prompts = prompts

    @classmethod
    def load(cls, folder: Path, kind: ModelKind, max_tokens: int) -> "PromptCounter":
        """Of a model of the family, from the folder that holds its `tokenizer.json`.

        Raises:
            SettingsError: There is none.
            TokenizerError: It cannot be used.
        """
        if not (folder / "tokenizer.json").is_file():
            raise SettingsError(f"{folder} holds no tokenizer.json.", param="tokenizer")
        tokenizer = Tokenizer.load(folder)
        if kind is ModelKind.RERANKER:
            return cls(RerankPrompts(tokenizer, max_tokens=max_tokens))
        return cls(EmbeddingPrompts(tokenizer, max_tokens=max_tokens, prompts={}))

    def count(self, request: EmbeddingRequest | RerankRequest) -> int:
        """Tokens that the model reads for a request, exactly. Errors as `TokenCounter`."""
        prompts = self._prompts.render(request)  # type: ignore[arg-type]
        return sum(prompt.num_tokens for prompt in prompts)


class ByteCounter:
    """Bounds the tokens of a model whose tokenizer is not here.

    Args:
        max_tokens: The most that the model reads of one text.
    """

    is_exact = False

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens

    def count(self, request: EmbeddingRequest | RerankRequest) -> int:
        """The most tokens that the model can read for a request."""
        if isinstance(request, RerankRequest):
            around = sum(map(_bytes, (CARD_TEMPLATE.head, CARD_TEMPLATE.tail, request.query)))
            around += _bytes(request.instruction or DEFAULT_INSTRUCTION) + SPECIAL_TOKENS
            return sum(self._bound(around + _bytes(document), request) for document in request.documents)
        prompt = _bytes_of_prompt(request)
        sizes = (_bytes(text) if isinstance(text, str) else len(text) for text in request.inputs)
        return sum(self._bound(prompt + size + 1, request) for size in sizes)

    def _bound(self, size: int, request: EmbeddingRequest | RerankRequest) -> int:
        # A text that may not be cut is refused if it is longer, and then costs nothing.
        return min(size, self._max_tokens) if request.truncate is not Truncate.ERROR else size


async def count_beside(counter: TokenCounter, request: EmbeddingRequest | RerankRequest) -> int:
    """What a counter says, on another thread where it takes its time.

    Raises:
        InvalidRequestError: As the counter.
    """
    if isinstance(request, RerankRequest):
        characters = len(request.query) * len(request.documents) + sum(map(len, request.documents))
    else:
        characters = sum(map(len, request.inputs))
    if characters <= MAX_CHARACTERS_ON_LOOP:
        return counter.count(request)
    return await asyncio.to_thread(counter.count, request)


def _bytes_of_prompt(request: EmbeddingRequest) -> int:
    """Of the longest prompt that the request may get."""
    if request.instruction is not None:
        instructions = [request.instruction]
    elif request.prompt_name is not None:
        task = find_instruction(request.prompt_name)
        instructions = [DEFAULT_INSTRUCTION, *(() if task is None else (task.query, task.document or ""))]
    elif request.input_type is InputType.QUERY:
        instructions = [DEFAULT_INSTRUCTION]
    else:
        return 0
    return max(_bytes(QUERY_PROMPT.format(instruction=instruction)) for instruction in instructions)


def _bytes(text: str) -> int:
    """Of a text as it is, or as tokenizers of the family normalise it, which may make one character three."""
    normal = unicodedata.normalize("NFC", text)
    return max(len(form.encode("utf-8", "surrogatepass")) for form in (text, normal))
