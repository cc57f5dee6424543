"""Groups for the reranker: a query, its document, and documents that an embedding model confuses with it.

Negatives come from the same block of rows, so nothing is mined ahead of time. A document that is more similar to the
query than the positive is, by a margin, is left out: it may answer too.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from quernel.prompts.templates import CARD_TEMPLATE, DEFAULT_INSTRUCTION
from quernel.train.batches import Sampler, Texts, pack
from quernel.train.corpus import Corpus


class GroupSampler:
    """Draws groups for ever.

    Args:
        sampler: Draws the blocks; only sources whose queries ask.
        corpus: The texts.
        tokenizer: Spells the prompts; the corpus' own.
        embed: The embedding model, to find what is confusable.
        queries: Groups in a batch.
        negatives: Negatives in a group; blocks of sources that have fewer are skipped.
        pool: They are drawn from so many nearest documents: with the nearest alone, similarity would count against.
        max_document_tokens: Documents are cut to so many tokens.
        seed: Fixes which of the pool are drawn.
        margin: Documents nearer to the query than its positive by more than this are no negatives.
    """

    def __init__(
        self,
        sampler: Sampler,
        corpus: Corpus,
        tokenizer: Tokenizer,
        embed: Callable[[Texts], Tensor],
        *,
        queries: int,
        negatives: int,
        pool: int,
        max_document_tokens: int,
        seed: int,
        margin: float = 0.1,
    ) -> None:
        self._sampler, self._corpus, self._tokenizer, self._embed = sampler, corpus, tokenizer, embed
        self._queries, self._negatives, self._pool = queries, negatives, pool
        self._rng = np.random.default_rng(seed)
        self._max_document_tokens, self._margin = max_document_tokens, margin
        self._head = self._encode(CARD_TEMPLATE.head)
        self._tail = self._encode(CARD_TEMPLATE.tail)

    def draw(self, block_size: int = 256) -> tuple[Texts, Tensor]:
        """Prompts, group after group with the positive first, and their labels `[queries, 1 + negatives]`."""
        prompts: list[list[int]] = []
        while len(prompts) < self._queries * (1 + self._negatives):
            block = self._sampler.draw(block_size)
            if len(block.numbers) <= self._pool:
                continue
            # One block fills a quarter of the batch, so that a batch mixes sources.
            wanted = max(1, self._queries // 4)
            for row, negatives in self._confusable(block.queries, block.documents, block.groups)[:wanted]:
                if len(prompts) == self._queries * (1 + self._negatives):
                    break
                documents = [int(block.numbers[index, 1]) for index in (row, *negatives)]
                prompts += self._render(int(block.numbers[row, 0]), documents)
        labels = torch.zeros(self._queries, 1 + self._negatives)
        labels[:, 0] = 1
        return pack(prompts), labels

    @torch.no_grad()
    def _confusable(self, queries: Texts, documents: Texts, groups: Tensor) -> list[tuple[int, list[int]]]:
        """For each row whose pool is full: its number, and the numbers of the negatives drawn from the pool."""
        scores = F.normalize(self._embed(queries), dim=-1) @ F.normalize(self._embed(documents), dim=-1).T
        excluded = groups.unsqueeze(0) == groups.unsqueeze(1)
        excluded |= scores > scores.diagonal().unsqueeze(1) + self._margin
        nearest = scores.masked_fill(excluded, -torch.inf).topk(self._pool, dim=1)
        full = nearest.values.isfinite().all(dim=1).nonzero().flatten().tolist()
        drawn = [self._rng.choice(self._pool, self._negatives, replace=False) for _ in full]
        return [
            (row, nearest.indices[row][torch.from_numpy(places)].tolist())
            for row, places in zip(full, drawn, strict=True)
        ]

    def _render(self, query: int, documents: list[int]) -> list[list[int]]:
        """One prompt for each document. Stored texts lack the space that a field begins with, so they are respelled."""
        instruction = CARD_TEMPLATE.instruction.format(instruction=DEFAULT_INSTRUCTION)
        shared = (
            self._head + self._encode(instruction) + self._encode(CARD_TEMPLATE.query.format(query=self._text(query)))
        )
        return [
            shared
            + self._encode(CARD_TEMPLATE.document.format(document=self._text(document)))[: self._max_document_tokens]
            + self._tail
            for document in documents
        ]

    def _text(self, number: int) -> str:
        tokens = self._corpus.tokens[self._corpus.starts[number] : self._corpus.starts[number + 1]]
        return str(self._tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=False))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
