"""Models without weights, for tests of whatever uses one: deterministic, instant, and able to fail, wait and remember.

    model = FakeEmbeddingModel()
    app = create_app([model, FakeRerankModel()])
    ...
    assert model.requests[0].dimensions == 32

They refuse what real models refuse, with the same errors. A token is a word here, and the end token one more.
"""

import asyncio
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from quernel.errors import InputTooLongError, InvalidRequestError, TokenIdRangeError
from quernel.instructions import find_instruction
from quernel.types import (
    EmbeddingInput,
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelInfo,
    ModelKind,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Truncate,
    Vectors,
    check_dimensions,
)

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class _Fake:
    """What both fakes share.

    Attributes:
        delay_seconds: How long each request takes.
        failure: Raised instead of answering, if it is set.
        requests: Every request so far.
        cancellations: How many were cancelled while they waited.
    """

    def __init__(self, info: ModelInfo, delay_seconds: float, failure: Exception | None) -> None:
        self._info = info
        self.delay_seconds = delay_seconds
        self.failure = failure
        self.cancellations = 0

    @property
    def info(self) -> ModelInfo:
        """What the model says that it is."""
        return self._info

    async def _take_time(self) -> None:
        try:
            await asyncio.sleep(self.delay_seconds)
        except asyncio.CancelledError:
            self.cancellations += 1
            raise
        if self.failure is not None:
            raise self.failure

    def _cut(self, tokens: list[str], truncate: Truncate, place: str) -> tuple[list[str], bool]:
        """The tokens that the model reads of a text, without its end token, and whether that is less than all."""
        room = self.info.max_tokens - 1
        if len(tokens) <= room:
            return tokens, False
        if truncate is Truncate.ERROR:
            raise InputTooLongError(
                f"{place} has {len(tokens) + 1} tokens, but this model reads {self.info.max_tokens}.",
                param=place.partition("[")[0],
                hint="Shorten it, or set truncate to 'end' or 'start'.",
            )
        return (tokens[:room] if truncate is Truncate.END else tokens[-room:] if room else []), True


class FakeEmbeddingModel(_Fake):
    """An embedding model whose vectors are drawn from a hash of the prompt: equal prompts, equal vectors.

    Args:
        name: Its name.
        dimensions: Length of its full vectors.
        max_tokens: Longest input, the end token included.
        vocab_size: Token ids are below it.
        delay_seconds: How long each request takes.
        failure: Raised instead of answering.
    """

    def __init__(
        self,
        name: str = "fake/embedding",
        *,
        dimensions: int = 64,
        max_tokens: int = 512,
        vocab_size: int = 1000,
        delay_seconds: float = 0.0,
        failure: Exception | None = None,
    ) -> None:
        info = _info(name, ModelKind.EMBEDDING, dimensions, max_tokens, prompts=("query", "document"))
        super().__init__(info, delay_seconds, failure)
        self.vocab_size = vocab_size
        self.requests: list[EmbeddingRequest] = []

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Vectors for the request's inputs, in their order.

        Raises:
            InvalidRequestError: `dimensions`, a token id, a prompt name or the length of an input does not fit.
        """
        self.requests.append(request)
        dimensions = check_dimensions(request.dimensions, self.info.dimensions)
        head = self._head(request)
        cuts = [
            self._cut(head + self._tokens(text, index), request.truncate, f"input[{index}]")
            for index, text in enumerate(request.inputs)
        ]
        await self._take_time()
        return EmbeddingResult(
            vectors=np.stack([self._vector(tokens, dimensions, request.normalize) for tokens, _ in cuts]),
            num_tokens=tuple(len(tokens) + 1 for tokens, _ in cuts),
            truncated=tuple(was_cut for _, was_cut in cuts),
            model=self.info.name,
        )

    def _head(self, request: EmbeddingRequest) -> list[str]:
        """The words before each text."""
        if request.instruction is not None:
            return request.instruction.split()
        if request.prompt_name is not None and request.prompt_name not in self.info.prompts:
            task = find_instruction(request.prompt_name)
            if task is None:
                raise InvalidRequestError(f"There is no prompt {request.prompt_name!r}.", param="prompt_name")
            return (task.document or "").split() if request.input_type is InputType.DOCUMENT else task.query.split()
        is_query = request.input_type is InputType.QUERY or request.prompt_name == "query"
        return DEFAULT_INSTRUCTION.split() if is_query else []

    def _tokens(self, text: EmbeddingInput, index: int) -> list[str]:
        if isinstance(text, str):
            return text.split()
        for token in text:
            if not 0 <= token < self.vocab_size:
                raise TokenIdRangeError(
                    f"input[{index}] holds the token id {token}, but this model has 0 to {self.vocab_size - 1}.",
                    param="input",
                )
        return [f"#{token}" for token in text]

    def _vector(self, tokens: Sequence[str], dimensions: int, normalize: bool | None) -> Vectors:
        seed = hashlib.sha256("\0".join((self.info.name, *tokens)).encode()).digest()
        full = np.random.default_rng(int.from_bytes(seed)).standard_normal(self.info.dimensions)
        cut = full[:dimensions]
        vector: Vectors = (cut if normalize is False else cut / np.linalg.norm(cut)).astype(np.float32)
        return vector


class FakeRerankModel(_Fake):
    """A reranker that scores the share of the query's words that a document has.

    Args:
        name: Its name.
        max_tokens: Longest instruction, query and document together, the end token included.
        delay_seconds: How long each request takes.
        failure: Raised instead of answering.
    """

    def __init__(
        self,
        name: str = "fake/reranker",
        *,
        max_tokens: int = 512,
        delay_seconds: float = 0.0,
        failure: Exception | None = None,
    ) -> None:
        super().__init__(_info(name, ModelKind.RERANKER, 64, max_tokens), delay_seconds, failure)
        self.requests: list[RerankRequest] = []

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """The request's documents, best first.

        Raises:
            InputTooLongError: A document is too long, and `truncate` does not allow a cut.
        """
        self.requests.append(request)
        query = request.query.lower().split()
        head = (request.instruction or DEFAULT_INSTRUCTION).split() + query
        cuts = []
        for index, document in enumerate(request.documents):
            words = document.lower().split()
            kept = words[: request.max_tokens_per_document]
            tokens, was_cut = self._cut(head + kept, request.truncate, f"documents[{index}]")
            cuts.append((tokens, was_cut or len(kept) < len(words)))
        await self._take_time()
        ranked = [_ranked(index, query, tokens[len(head) :]) for index, (tokens, _) in enumerate(cuts)]
        ranked.sort(key=lambda document: -document.relevance_score)
        return RerankResult(
            results=tuple(ranked[: request.top_n]),
            num_tokens=tuple(len(tokens) + 1 for tokens, _ in cuts),
            truncated=tuple(was_cut for _, was_cut in cuts),
            model=self.info.name,
        )


def _ranked(index: int, query: Sequence[str], document: Sequence[str]) -> RankedDocument:
    share = len(set(query) & set(document)) / max(len(set(query)), 1)
    logit = 8.0 * share - 4.0
    return RankedDocument(index=index, relevance_score=1.0 / (1.0 + math.exp(-logit)), logit=logit)


def _info(name: str, kind: ModelKind, dimensions: int, max_tokens: int, prompts: tuple[str, ...] = ()) -> ModelInfo:
    return ModelInfo(
        name=name,
        kind=kind,
        dimensions=dimensions,
        max_tokens=max_tokens,
        dtype="float32",
        device="cpu",
        num_parameters=0,
        prompts=prompts,
    )
