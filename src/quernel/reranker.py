"""Local relevance."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from quernel.errors import InvalidRequestError
from quernel.local import Computed, LocalModel
from quernel.model.config import Qwen3Config
from quernel.model.heads import load_score_row, relevance, sigmoid
from quernel.model.side_files import SideFiles
from quernel.prompts.prompt import Prompt
from quernel.prompts.reranking import RerankPrompts
from quernel.prompts.tokenizer import Tokenizer
from quernel.types import (
    ModelKind,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Truncate,
)


class Reranker(LocalModel):
    """A Qwen3 reranker on this machine. Any number of threads and tasks may use it at once.

    Implements `quernel.types.RerankModel`: `await reranker.rerank(request)`. `rank` is the same for code that does not
    wait.

        reranker = Reranker("Qwen/Qwen3-Reranker-0.6B")
        for hit in reranker.rank("capital of France", ["Bananas are yellow.", "Paris is the capital of France."]):
            print(hit.index, hit.relevance_score)

    A query and what stands before it are computed once for all documents; the score is the difference of the `yes` and
    `no` logits, in float32, through a sigmoid.

    Arguments and errors of the constructor are those of `quernel.local.LocalModel`.
    """

    kind = ModelKind.RERANKER
    builtin = "quernel/tiny-reranker"

    def _prepare(
        self, folder: Path, config: Qwen3Config, side_files: SideFiles, tokenizer: Tokenizer, max_tokens: int
    ) -> None:
        self._prompts = RerankPrompts(tokenizer, max_tokens=max_tokens, default_instruction=side_files.instruction)
        yes_id, no_id = side_files.answer_ids or self._prompts.answer_ids()
        self._score_row = load_score_row(folder, config, yes_id, no_id).numpy()

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """The request's documents, best first. Cancelling the task drops what is not computed yet.

        Raises:
            InvalidRequestError: The request does not fit this model.
            UnavailableError: The queue is full, or the engine closed.
        """
        return self._result(
            request, await self._compute(partial(self._render, request), sum(map(len, request.documents)))
        )

    def rerank_sync(self, request: RerankRequest) -> RerankResult:
        """`rerank`, for code that is not asynchronous."""
        return self._result(request, self._compute_sync(partial(self._render, request)))

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
    ) -> tuple[RankedDocument, ...]:
        """The documents, best first; each with its `index` in `documents` and its `relevance_score` from 0 to 1.

        Args:
            query: What is asked.
            documents: One or more texts.
            instruction: What counts as relevant, as one sentence; the default (web search) where it is None.
            top_n: Keep the best so many; all where it is None.
            truncate: What happens to a document that is too long: `error`, `end` or `start`.

        Raises:
            InvalidRequestError: An argument does not fit this model.
        """
        request = RerankRequest(
            query=query, documents=documents, instruction=instruction, top_n=top_n, truncate=Truncate(truncate)
        )
        return self.rerank_sync(request).results

    @property
    def prompts(self) -> RerankPrompts:
        """How it makes prompts of requests, and so how many tokens they have."""
        return self._prompts

    def _render(self, request: RerankRequest) -> list[Prompt]:
        return self._prompts.render(request)

    def _named_prompt(self, name: str | None) -> str:
        if name is None:
            return ""
        raise InvalidRequestError(
            f"prompt_name is {name!r}, but a reranker has no prompts.", param="prompt_name", hint="Leave it out."
        )

    def _result(self, request: RerankRequest, computed: Computed) -> RerankResult:
        logits = relevance(computed.hidden, self._score_row)
        scores = sigmoid(logits)
        best_first = np.argsort(-logits, kind="stable")[: request.top_n]
        return RerankResult(
            results=tuple(RankedDocument(int(i), float(scores[i]), float(logits[i])) for i in best_first),
            num_tokens=tuple(prompt.num_tokens for prompt in computed.prompts),
            truncated=tuple(prompt.truncated for prompt in computed.prompts),
            model=self.info.name,
            timing=computed.timing,
        )
