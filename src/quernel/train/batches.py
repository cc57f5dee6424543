"""Batches of pairs, drawn source by source: which rows, which prompts, which spans of tokens.

A block holds pairs of one source, so that its in-batch negatives are of the same kind as its positives. Everything is
decided by one seeded generator. It knows token numbers and prompts, and nothing of models.

Shapes:
    N   pairs of a block                      T   tokens of all texts of one side
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from quernel.prompts.templates import DEFAULT_INSTRUCTION, QUERY_PROMPT
from quernel.train.corpus import Corpus, Int32s, gather_spans

CROPS = "crops"
"""The name of the made-up source whose pairs are two spans of one text."""

DEFAULT_TASK = DEFAULT_INSTRUCTION
"""What most queries carry at run time."""


@dataclass(frozen=True)
class Texts:
    """Packed texts, each with its prompt and its end token.

    Attributes:
        token_ids: int64 `[T]`.
        bounds: Where each text begins, and the end: int64 `[N + 1]`.
    """

    token_ids: Tensor
    bounds: Tensor

    @property
    def num_texts(self) -> int:
        """`N`."""
        return len(self.bounds) - 1


@dataclass(frozen=True)
class Block:
    """Pairs of one source.

    Attributes:
        source: Its name.
        queries: The asking side, `N` texts.
        documents: The answering side, `N` texts.
        groups: Rows of one group are never negatives of each other, int64 `[N]`.
        numbers: Numbers of the query and of the document in the corpus, int64 `[N, 2]`; which vectors of a teacher
            belong to them.
    """

    source: str
    queries: Texts
    documents: Texts
    groups: Tensor
    numbers: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What is drawn how often, and in which form.

    Attributes:
        retrieval: Share of each source whose queries ask and whose documents answer.
        symmetric: Share of each source whose two sides are of one kind.
        crops: Share of pairs of spans of one text.
        instructed: Probability that a query of a retrieval source carries an instruction.
        default_task: Probability that this instruction is the default one and not the row's own.
        symmetric_instructed: Probability that a block of a symmetric source carries its instruction, on both sides.
    """

    retrieval: Mapping[str, float]
    symmetric: Mapping[str, float]
    crops: float = 0.0
    instructed: float = 0.7
    default_task: float = 0.65
    symmetric_instructed: float = 0.15

    @property
    def shares(self) -> dict[str, float]:
        """Share of every source, crops among them."""
        shares = {**self.retrieval, **self.symmetric}
        return {**shares, CROPS: self.crops} if self.crops else shares


class Sampler:
    """Draws blocks from a corpus for ever.

    Args:
        corpus: The rows.
        tokenizer: Spells the prompts; the corpus' own.
        mixture: Shares and prompts; sources that the corpus lacks are left out.
        end_token: Appended to every text.
        max_query_tokens: Queries are cut to so many tokens, prompt and end token not counted.
        max_document_tokens: Documents, likewise.
        seed: Fixes every draw.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        mixture: Mixture,
        *,
        end_token: int,
        max_query_tokens: int,
        max_document_tokens: int,
        seed: int,
    ) -> None:
        self._corpus = corpus
        self._mixture = mixture
        self._rng = np.random.default_rng(seed)
        self._max_query_tokens = max_query_tokens
        self._max_document_tokens = max_document_tokens
        present = {name: share for name, share in mixture.shares.items() if name in corpus.spans or name == CROPS}
        self._sources = list(present)
        self._probabilities = np.array(list(present.values())) / sum(present.values())
        self._orders: dict[str, Int32s] = {}
        self._long_texts = np.flatnonzero(corpus.lengths >= 48).astype(np.int32)
        # Prompts and the end token become texts of the same store: a text with its prompt is three spans.
        prompts = [query_prompt(task) for task in (DEFAULT_TASK, *corpus.task_names)]
        extra = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
        extra += [[], [end_token]]
        stops = np.cumsum([len(ids) for ids in extra]) + len(corpus.tokens)
        self._tokens = np.concatenate([corpus.tokens, *(np.asarray(ids, dtype=np.uint16) for ids in extra)])
        self._extra_starts = np.concatenate(([len(corpus.tokens)], stops))
        self._no_prompt, self._end = len(prompts), len(prompts) + 1

    def draw(self, num_pairs: int) -> Block:
        """The next block: at most `num_pairs` pairs of a source drawn by its share, fewer where it is small."""
        source = self._sources[self._rng.choice(len(self._sources), p=self._probabilities)]
        return self._crops(num_pairs) if source == CROPS else self._rows(source, num_pairs)

    def plain(self, texts: Int32s) -> Texts:
        """Texts without a prompt, cut like documents."""
        no_prompt = np.full(len(texts), self._no_prompt)
        return self._texts(self._corpus.starts[texts], self._cut(texts, self._max_document_tokens), no_prompt)

    def _rows(self, source: str, num_pairs: int) -> Block:
        corpus, rng = self._corpus, self._rng
        rows = self._next_rows(source, num_pairs)
        own = corpus.tasks[rows].astype(np.int64) + 1  # 0 is the default task
        if source in self._mixture.retrieval:
            prompts = np.where(rng.random(len(rows)) < self._mixture.default_task, 0, own)
            prompts = np.where(rng.random(len(rows)) < self._mixture.instructed, prompts, self._no_prompt)
            document_prompts = np.full(len(rows), self._no_prompt)
        else:
            instructed = rng.random() < self._mixture.symmetric_instructed
            prompts = document_prompts = own if instructed else np.full(len(rows), self._no_prompt)
        queries, documents = corpus.queries[rows], corpus.positives[rows]
        return Block(
            source,
            self._texts(corpus.starts[queries], self._cut(queries, self._max_query_tokens), prompts),
            self._texts(corpus.starts[documents], self._cut(documents, self._max_document_tokens), document_prompts),
            torch.from_numpy(corpus.groups[rows].astype(np.int64)),
            np.stack((queries, documents), axis=1).astype(np.int64),
        )

    def _crops(self, num_pairs: int) -> Block:
        """A short span of a long text against another span of it, which may not overlap the first."""
        corpus, rng = self._corpus, self._rng
        texts = rng.choice(self._long_texts, min(num_pairs, len(self._long_texts)), replace=False)
        lengths = np.minimum(corpus.lengths[texts], 2 * self._max_document_tokens)
        short = rng.integers(6, 20, len(texts))
        cut = rng.integers(short, lengths - 20)  # the query ends here, the document begins; or the other way round
        query_starts = corpus.starts[texts] + cut - short
        document_starts = corpus.starts[texts] + cut
        document_lengths = np.minimum(lengths - cut, self._max_document_tokens)
        instructed = rng.random(len(texts)) < self._mixture.instructed
        prompts = np.where(instructed, 0, self._no_prompt)
        return Block(
            CROPS,
            self._texts(query_starts, short, prompts),
            self._texts(document_starts, document_lengths, np.full(len(texts), self._no_prompt)),
            torch.from_numpy(texts.astype(np.int64)),
            np.full((len(texts), 2), corpus.num_texts, dtype=np.int64),
        )

    def _next_rows(self, source: str, num_pairs: int) -> Int32s:
        """The next rows of a source in an order that is shuffled anew whenever it runs out."""
        first, stop = self._corpus.spans[source]
        left = self._orders.get(source, np.empty(0, np.int32))
        if len(left) < min(num_pairs, stop - first):
            left = self._rng.permutation(np.arange(first, stop, dtype=np.int32))
        self._orders[source] = left[num_pairs:]
        return left[:num_pairs]

    def _cut(self, texts: Int32s, max_tokens: int) -> npt.NDArray[np.int64]:
        return np.minimum(self._corpus.lengths[texts], max_tokens)

    def _texts(
        self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], prompts: npt.NDArray[np.integer]
    ) -> Texts:
        """Prompt, span and end token of each text, packed."""
        extra = self._extra_starts
        span_starts = np.stack((extra[prompts], starts, np.full_like(starts, extra[self._end])), axis=1)
        span_lengths = np.stack((extra[prompts + 1] - extra[prompts], lengths, np.ones_like(lengths)), axis=1)
        token_ids, bounds = gather_spans(self._tokens, span_starts.ravel(), span_lengths.ravel())
        return Texts(torch.from_numpy(token_ids), torch.from_numpy(bounds[::3].copy()))


def query_prompt(task: str) -> str:
    """What precedes a query, its colon included (the vocabulary never merges the colon with the query)."""
    return QUERY_PROMPT.format(instruction=task)


def join(texts: Sequence[Texts]) -> Texts:
    """Several packed batches as one."""
    offsets = np.cumsum([0, *(len(part.token_ids) for part in texts)])
    starts = [part.bounds[:-1] + int(offset) for part, offset in zip(texts, offsets, strict=False)]
    return Texts(torch.cat([part.token_ids for part in texts]), torch.cat((*starts, torch.tensor([int(offsets[-1])]))))


def pack(texts: Sequence[Sequence[int]]) -> Texts:
    """Texts that are token ids already, prompts and end tokens included."""
    lengths = [len(ids) for ids in texts]
    bounds = torch.tensor([0, *np.cumsum(lengths).tolist()])
    return Texts(torch.tensor([token for ids in texts for token in ids]), bounds)
