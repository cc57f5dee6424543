"""Local text to vectors."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from quernel.local import Computed, LocalModel
from quernel.model.config import Qwen3Config
from quernel.model.heads import truncate_and_normalise
from quernel.model.side_files import SideFiles
from quernel.prompts.embedding import EmbeddingPrompts
from quernel.prompts.prompt import Prompt
from quernel.prompts.tokenizer import Tokenizer
from quernel.types import (
    EmbeddingInput,
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelKind,
    Truncate,
    Vectors,
    check_dimensions,
)


class Embedder(LocalModel):
    """A Qwen3 embedding model on this machine. Any number of threads and tasks may use it at once.

    Implements `quernel.types.EmbeddingModel`: `await embedder.embed(request)`. The other methods are the same for code
    that does not wait.

        embedder = Embedder("Qwen/Qwen3-Embedding-0.6B")
        documents = embedder.embed_documents(["Paris is the capital of France.", "Bananas are yellow."])
        scores = embedder.embed_query("capital of France") @ documents.T

    Arguments and errors of the constructor are those of `quernel.local.LocalModel`.
    """

    kind = ModelKind.EMBEDDING
    builtin = "quernel/tiny-embedding"

    def _prepare(
        self, folder: Path, config: Qwen3Config, side_files: SideFiles, tokenizer: Tokenizer, max_tokens: int
    ) -> None:
        self._prompts = EmbeddingPrompts(
            tokenizer,
            max_tokens=max_tokens,
            prompts=side_files.prompts,
            default_prompt_name=side_files.default_prompt_name,
        )
        self._normalize = side_files.normalize

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Vectors for the request's inputs, in their order. Cancelling the task drops what is not computed yet.

        Raises:
            InvalidRequestError: The request does not fit this model.
            UnavailableError: The queue is full, or the engine closed.
        """
        return self._result(request, await self._compute(partial(self._render, request), sum(map(len, request.inputs))))

    def embed_sync(self, request: EmbeddingRequest) -> EmbeddingResult:
        """`embed`, for code that is not asynchronous."""
        return self._result(request, self._compute_sync(partial(self._render, request)))

    def embed_queries(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
        normalize: bool | None = None,
    ) -> Vectors:
        """Vectors of texts that ask, float32 `[N, dimensions]`.

        Args:
            texts: The queries, without any prompt.
            instruction: The task, as one sentence; the model's default (web search) where it is None.
            dimensions: Length of the vectors, from 32 up; all of it where it is None.
            truncate: What happens to a text that is too long: `error`, `end` or `start`.
            normalize: Whether vectors have length 1; as the model's files say where it is None.

        Raises:
            InvalidRequestError: An argument does not fit this model.
        """
        return self.embed_sync(
            EmbeddingRequest(
                inputs=texts,
                instruction=instruction,
                input_type=InputType.QUERY,
                dimensions=dimensions,
                truncate=Truncate(truncate),
                normalize=normalize,
            )
        ).vectors

    def embed_documents(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        dimensions: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
        normalize: bool | None = None,
    ) -> Vectors:
        """Vectors of texts that answer, float32 `[N, dimensions]`. Arguments and errors as `embed_queries`."""
        return self.embed_sync(
            EmbeddingRequest(
                inputs=texts,
                input_type=InputType.DOCUMENT,
                dimensions=dimensions,
                truncate=Truncate(truncate),
                normalize=normalize,
            )
        ).vectors

    def embed_query(
        self,
        text: EmbeddingInput,
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
    ) -> Vectors:
        """The vector of one query, float32 `[dimensions]`. Arguments and errors as `embed_queries`."""
        row: Vectors = self.embed_queries([text], instruction=instruction, dimensions=dimensions, truncate=truncate)[0]
        return row

    @property
    def prompts(self) -> EmbeddingPrompts:
        """How it makes prompts of requests, and so how many tokens they have."""
        return self._prompts

    def _render(self, request: EmbeddingRequest) -> list[Prompt]:
        check_dimensions(request.dimensions, self.info.dimensions)
        return self._prompts.render(request)

    def _named_prompt(self, name: str | None) -> str:
        return self._prompts.named_prompt(name)

    def _result(self, request: EmbeddingRequest, computed: Computed) -> EmbeddingResult:
        normalize = self._normalize if request.normalize is None else request.normalize
        dimensions = check_dimensions(request.dimensions, self.info.dimensions)
        return EmbeddingResult(
            vectors=truncate_and_normalise(computed.hidden, dimensions, normalize),
            num_tokens=tuple(prompt.num_tokens for prompt in computed.prompts),
            truncated=tuple(prompt.truncated for prompt in computed.prompts),
            model=self.info.name,
            timing=computed.timing,
        )
