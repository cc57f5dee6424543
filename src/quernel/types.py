"""The narrow waist: neutral requests and results, and the two protocols that everything above and below speaks.

The local engine, HTTP clients, gateway upstreams and test fakes implement `EmbeddingModel` and `RerankModel`; servers,
the gateway, search and evaluation see nothing else. This file knows no wire format, no tensor library and no template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from quernel.errors import EmptyInputError, InvalidDimensionsError, InvalidRequestError

Vectors: TypeAlias = npt.NDArray[np.float32]
"""Embeddings, one a row: float32 `[N, D]`."""

EmbeddingInput: TypeAlias = str | Sequence[int]
"""One text, or one text as token ids of the model's own tokenizer (without the end token, or with it)."""

TokenPath: TypeAlias = tuple[tuple[int, ...], ...]
"""One prompt as the engine takes it: runs of token ids, each extending the one before. Prompts whose first runs are
equal share their computation; the result is that of the runs joined. No run is empty."""

MIN_DIMENSIONS = 32
"""The smallest Matryoshka dimension of the family (model cards: "user-defined output dimensions ranging from 32")."""


class Truncate(StrEnum):
    """What happens to an input that is longer than the model reads."""

    ERROR = "error"
    """Refuse it, and say how long it is."""
    END = "end"
    """Drop its end (the usual meaning of truncation)."""
    START = "start"
    """Drop its start."""

    @classmethod
    def _missing_(cls, value: object) -> "Truncate":
        raise InvalidRequestError(f"truncate is {value!r}.", param="truncate", hint="Use 'error', 'end' or 'start'.")


class InputType(StrEnum):
    """Whether a text asks or answers; the model reads the two in different prompts."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time of one request went, in seconds; zeros from a model that does not say.

    Attributes:
        tokenization: From texts to token ids.
        queue: Until the first of its prompts was computed.
        inference: From then until the last was.
    """

    tokenization: float = 0.0
    queue: float = 0.0
    inference: float = 0.0

    def longest(self, other: "Timing") -> "Timing":
        """The longer of each stage, for work that was done at the same time."""
        return Timing(
            tokenization=max(self.tokenization, other.tokenization),
            queue=max(self.queue, other.queue),
            inference=max(self.inference, other.inference),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of a text.

    Attributes:
        id: Its id.
        text: The characters it stands for; those of a part of a character are U+FFFD.
        special: Whether it is one of the tokenizer's added special tokens.
        start: Its first character in the text; `None` where it is not of the text.
        stop: The character after its last.
    """

    id: int
    text: str
    special: bool = False
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to turn into vectors.

    How the prompt of each text is chosen, in this order:

    1. `instruction`: every text becomes a query with that instruction (for symmetric tasks too: clustering, similarity,
       classification and bitext want the instruction on every text).
    2. `input_type` query: the model's default instruction. `document`: the text alone.
    3. `prompt_name`: the prompt of that name in the model's own files.
    4. Otherwise: the text alone.

    A `prompt_name` that the model's files do not have may be a task of `quernel.instructions`. Its sentence is then the
    instruction of every text that is not a document, and of documents too in the few tasks that have one for them.

    Attributes:
        inputs: One or more texts or token-id lists. An empty text is valid: it is the end token alone.
        instruction: The task, as one sentence, best in English. Not with `input_type` document, nor with token ids.
        input_type: Query or document.
        prompt_name: A prompt named in the model's files (`query`, `document`, ...), or a task.
        dimensions: Length of the vectors, from 32 to the model's own; `None` for all of it.
        normalize: Scale the vectors to length 1, after cutting them to `dimensions`; `None` for what the model's files
            say (the official ones say yes).
        truncate: What to do with inputs longer than the model reads.
    """

    inputs: Sequence[EmbeddingInput]
    instruction: str | None = None
    input_type: InputType | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    truncate: Truncate = Truncate.ERROR

    def __post_init__(self) -> None:
        _refuse_single_text("input", self.inputs)
        if not self.inputs:
            raise EmptyInputError(
                "input holds no texts.", param="input", hint="Send at least one text; an empty string is allowed."
            )
        if self.instruction is not None and self.input_type is InputType.DOCUMENT:
            raise InvalidRequestError(
                "instruction was given together with input_type 'document', but documents carry no instruction.",
                param="instruction",
                hint="Leave out input_type to put the instruction on every text, or leave out instruction.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingResult:
    """Vectors in the order of the request's inputs.

    Attributes:
        vectors: float32 `[N, dimensions]`.
        num_tokens: Tokens the model read for each input: prompt, text and end token.
        truncated: For each input, whether it was cut.
        model: The name of the model that made the vectors.
        timing: Where the time went.
    """

    vectors: Vectors
    num_tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    model: str
    timing: Timing = Timing()


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """A query and the documents to order by their relevance to it.

    Attributes:
        query: What is asked.
        documents: One or more texts; an empty text is allowed.
        instruction: What counts as relevant, as one sentence; `None` for the model's default.
        top_n: Keep only the best so many; `None` for all.
        truncate: What to do where instruction, query and document together are longer than the model reads.
            Only the document is ever cut.
        max_tokens_per_document: Cut each document to so many tokens at its end, whatever `truncate` says.
    """

    query: str
    documents: Sequence[str]
    instruction: str | None = None
    top_n: int | None = None
    truncate: Truncate = Truncate.ERROR
    max_tokens_per_document: int | None = None

    def __post_init__(self) -> None:
        _refuse_single_text("documents", self.documents)
        if not self.query:
            raise EmptyInputError("query is empty.", param="query", hint="Send the text that documents are ranked for.")
        if not self.documents:
            raise EmptyInputError("documents is an empty list.", param="documents", hint="Send at least one document.")
        if self.top_n is not None and self.top_n < 1:
            raise InvalidRequestError(
                f"top_n is {self.top_n}.", param="top_n", hint="Send 1 or more, or leave it out for all documents."
            )
        if self.max_tokens_per_document is not None and self.max_tokens_per_document < 1:
            raise InvalidRequestError(
                f"max_tokens_per_document is {self.max_tokens_per_document}.",
                param="max_tokens_per_document",
                hint="Send 1 or more, or leave it out.",
            )


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document's place.

    Attributes:
        index: Its position in the request's `documents`.
        relevance_score: `sigmoid(logit)`, between 0 and 1.
        logit: logit("yes") - logit("no"), the model's raw score.
    """

    index: int
    relevance_score: float
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankResult:
    """Documents, best first; equal scores keep the request's order.

    Attributes:
        results: The best `top_n` documents.
        num_tokens: For each document of the request, in its order: tokens of its whole prompt.
        truncated: For each document of the request, in its order: whether it was cut.
        model: The name of the model that scored.
        timing: Where the time went.
    """

    results: tuple[RankedDocument, ...]
    num_tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    model: str
    timing: Timing = Timing()


class ModelKind(StrEnum):
    """What a model does."""

    EMBEDDING = "embedding"
    RERANKER = "reranker"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a loaded model.

    Attributes:
        name: The name it is served under (`Qwen/Qwen3-Embedding-0.6B`, `quernel/tiny-embedding`).
        kind: Embedding model or reranker.
        dimensions: Length of its full vectors; for a reranker its hidden size.
        max_tokens: Longest input it reads, prompt and end token included.
        dtype: The type it computes in (`float32`, `bfloat16`, `float16`).
        device: Where it computes (`cpu`, `cuda:0`).
        num_parameters: Stored parameters.
        revision: The commit of the files, where it is known.
        prompts: Names of the prompts in its files.
    """

    name: str
    kind: ModelKind
    dimensions: int
    max_tokens: int
    dtype: str
    device: str
    num_parameters: int
    revision: str | None = None
    prompts: tuple[str, ...] = ()


@runtime_checkable
class EmbeddingModel(Protocol):
    """Anything that turns texts into vectors."""

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        ...

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Vectors for the request's inputs, in their order.

        Raises:
            InvalidRequestError: The request does not fit this model.
            UnavailableError: The model cannot take it now.
        """
        ...


@runtime_checkable
class RerankModel(Protocol):
    """Anything that orders documents by relevance to a query."""

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        ...

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """The request's documents, best first.

        Raises:
            InvalidRequestError: The request does not fit this model.
            UnavailableError: The model cannot take it now.
        """
        ...


@runtime_checkable
class TokenizingModel(Protocol):
    """A model whose tokenizer can be asked; remote ones may not offer it."""

    def tokenize(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, prompt_name: str | None = None
    ) -> list[list[Token]]:
        """The tokens of each text.

        Args:
            texts: Texts.
            add_special_tokens: Whether the end token closes each.
            prompt_name: A prompt of the model that is put before each.

        Raises:
            InvalidRequestError: No prompt of that name, or a text that is not Unicode.
        """
        ...

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """The text of each list of token ids.

        Raises:
            TokenIdRangeError: An id that the model does not have.
        """
        ...


def check_dimensions(dimensions: int | None, full: int) -> int:
    """The number of dimensions to return: `dimensions` if the model offers it, else an error.

    Args:
        dimensions: What was asked for; `None` for all.
        full: What the model has.

    Raises:
        InvalidDimensionsError: Not between 32 (or `full`, if that is less) and `full`.
    """
    if dimensions is None:
        return full
    lowest = min(MIN_DIMENSIONS, full)
    if not lowest <= dimensions <= full:
        raise InvalidDimensionsError(
            f"dimensions is {dimensions}, but this model gives {lowest} to {full}.",
            param="dimensions",
            hint=f"Leave it out for {full}.",
        )
    return dimensions


def _refuse_single_text(field: str, texts: object) -> None:
    """A `str` is a sequence of one-letter texts to Python; nobody means that."""
    if isinstance(texts, str):
        raise InvalidRequestError(f"{field} is a single text.", param=field, hint="Put it into a list.")
