"""What a step minimises: from rows to prompts, from their vectors or logits to a loss, and its gradients.

Shapes:
    N   rows of a batch                       K   hard negatives of a row
    C   width of a vector                     M   documents of a row, positive first
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quernel.errors import SettingsError
from quernel.prompts.embedding import EmbeddingPrompts
from quernel.prompts.reranking import RerankPrompts
from quernel.train.contrastive import Terms, cached_gradients, qwen3_contrastive
from quernel.train.encode import Encoder, divide
from quernel.train.examples import Example, JudgedPair, Row, places_of
from quernel.train.losses import cosent, distillation
from quernel.train.mixture import Batch
from quernel.train.settings import Table
from quernel.types import EmbeddingRequest, InputType, RerankRequest, TokenPath, Truncate, Vectors

JUDGED_TEMPERATURE = 0.05

Losses = Mapping[str, float]
"""The parts of a loss by name, `loss` the sum."""

Teach = Callable[[Sequence[str], InputType, str | None], Vectors]
"""A teacher's unit vectors of texts that are queries (with an instruction) or documents."""


class Objective(Protocol):
    """A loss with its gradients."""

    def __call__(self, batch: Batch[Row]) -> tuple[Losses, int]:
        """Add the gradients of a batch to those of the parameters; the loss, and how many tokens were read."""
        ...


@dataclass(frozen=True, kw_only=True)
class EmbeddingLoss(Table):
    """What the loss of an embedding model is made of.

    Attributes:
        temperature: Of the contrast.
        margin: Negatives that pass their positive by more are left out; below 0 none is.
        negatives: Hard negatives of a row, at most.
        query_query: Whether other queries are negatives.
        document_document: Whether other documents are negatives of the positive document.
        dimensions: Lengths to which vectors are cut, with the weight of each; the full length alone where empty.
        distillation: Weight of the teacher's vectors.
        scores: Weight of the teacher's scores, where rows have them.
        score_temperature: Of the teacher's scores.
    """

    temperature: float = 0.02
    margin: float = 0.1
    negatives: int = 7
    query_query: bool = True
    document_document: bool = True
    dimensions: Mapping[str, float] = field(default_factory=dict)
    distillation: float = 0.0
    scores: float = 0.0
    score_temperature: float = 1.0


class EmbeddingObjective:
    """The contrastive loss of the paper at several lengths, judged pairs, and what a teacher says.

    Args:
        encode: The model.
        prompts: Its prompts.
        loss: What counts how much.
        max_tokens_at_once: Of a part whose activations are held; the batch may be of any size.
        teach: The teacher, if there is one.
    """

    def __init__(
        self,
        encode: Encoder,
        prompts: EmbeddingPrompts,
        loss: EmbeddingLoss,
        *,
        max_tokens_at_once: int,
        teach: Teach | None = None,
    ) -> None:
        self._encode, self._prompts, self._loss = encode, prompts, loss
        self._max_tokens_at_once, self._teach = max_tokens_at_once, teach
        if loss.distillation and teach is None:
            raise SettingsError("loss.distillation is set, but there is no teacher.", param="distillation")

    def __call__(self, batch: Batch[Row]) -> tuple[Losses, int]:
        """Add the gradients of a batch."""
        if isinstance(batch.rows[0], JudgedPair):
            return self._judged([row for row in batch.rows if isinstance(row, JudgedPair)])
        return self._contrast([row for row in batch.rows if isinstance(row, Example)], batch.seed)

    def _judged(self, rows: Sequence[JudgedPair]) -> tuple[Losses, int]:
        texts = [text for row in rows for text in (row.first, row.second)]
        instructions = [row.instruction for row in rows for _ in range(2)]
        scores = torch.tensor([row.score for row in rows], device=self._encode.device)

        def loss(vectors: Tensor) -> Mapping[str, Tensor]:
            def at(first: Tensor, second: Tensor) -> Tensor:
                return cosent(first, second, scores, temperature=JUDGED_TEMPERATURE)

            return {"judged": self._at_lengths(at, vectors[0::2], vectors[1::2])}

        return self._backward(self._paths(texts, instructions), loss)

    def _contrast(self, rows: Sequence[Example], seed: int) -> tuple[Losses, int]:
        draw = np.random.default_rng(seed)
        groups = [_documents(row, self._loss.negatives, draw) for row in rows]
        documents = [group.texts[index] for group in groups for index in group.chosen]
        paths = self._paths([row.query for row in rows], [row.instruction for row in rows], is_query=True)
        paths += self._paths(documents, [None] * len(documents))
        place = np.cumsum([0, *(len(group.chosen) for group in groups)])
        same = _never_negatives(rows, [documents[start] for start in place[:-1]]).to(self._encode.device)
        rows_of_negatives, counted = _negatives(documents, place)
        taught = self._taught(rows, documents)
        has_scores = self._loss.scores > 0 and all(group.scores is not None for group in groups)

        def loss(vectors: Tensor) -> Mapping[str, Tensor]:
            asked, answers = vectors[: len(rows)], vectors[len(rows) :]
            positives = answers[torch.from_numpy(place[:-1]).to(vectors.device)]
            sides = [asked, positives]
            if counted.shape[1]:
                sides.append(answers[rows_of_negatives.to(vectors.device)])

            def contrast(queries: Tensor, positives: Tensor, negatives: Tensor | None = None) -> Tensor:
                return qwen3_contrastive(
                    queries,
                    positives,
                    same,
                    negatives,
                    counted.to(vectors.device),
                    temperature=self._loss.temperature,
                    margin=None if self._loss.margin < 0 else self._loss.margin,
                    terms=Terms(query_query=self._loss.query_query, document_document=self._loss.document_document),
                )

            losses = {"contrast": self._at_lengths(contrast, *sides)}
            if taught is not None:
                losses["distillation"] = self._loss.distillation * distil(F.normalize(vectors, dim=-1), taught)
            if has_scores:
                cosines = [
                    F.normalize(answers[start:stop], dim=-1) @ F.normalize(asked[number], dim=-1)
                    for number, (start, stop) in enumerate(itertools.pairwise(place.tolist()))
                ]
                taught_scores = [group.scores or () for group in groups]
                losses["scores"] = self._loss.scores * score_distillation(
                    [cosine / self._loss.temperature for cosine in cosines],
                    taught_scores,
                    temperature=self._loss.score_temperature,
                )
            return losses

        return self._backward(paths, loss)

    def _at_lengths(self, loss: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
        """The weighted mean of a loss over lengths, each cut to it and then scaled to length 1."""
        full = vectors[0].shape[-1]
        lengths = {int(size): weight for size, weight in self._loss.dimensions.items()} or {full: 1.0}
        total = sum(lengths.values())
        losses = [
            weight / total * loss(*(F.normalize(part[..., :size], dim=-1) for part in vectors))
            for size, weight in lengths.items()
        ]
        return torch.stack(losses).sum()

    def _taught(self, rows: Sequence[Example], documents: Sequence[str]) -> Tensor | None:
        if self._teach is None or not self._loss.distillation:
            return None
        answers = self._teach(documents, InputType.DOCUMENT, None)
        queries = np.empty((len(rows), answers.shape[1]), dtype=np.float32)
        for instruction, numbers in places_of([row.instruction for row in rows]).items():
            queries[numbers] = self._teach([rows[number].query for number in numbers], InputType.QUERY, instruction)
        return torch.from_numpy(np.concatenate([queries, answers])).to(self._encode.device)

    def _paths(
        self, texts: Sequence[str], instructions: Sequence[str | None], *, is_query: bool = False
    ) -> list[TokenPath]:
        """The prompts of texts; those of queries without an instruction have the model's own."""
        kind = InputType.QUERY if is_query else InputType.DOCUMENT
        found: dict[int, TokenPath] = {}
        for instruction, numbers in places_of(instructions).items():
            request = EmbeddingRequest(
                inputs=[texts[number] for number in numbers],
                input_type=kind,
                instruction=instruction,
                truncate=Truncate.END,
            )
            found.update(zip(numbers, (prompt.path for prompt in self._prompts.render(request)), strict=True))
        return [found[number] for number in range(len(texts))]

    def _backward(
        self, paths: Sequence[TokenPath], loss: Callable[[Tensor], Mapping[str, Tensor]]
    ) -> tuple[Losses, int]:
        return backward(self._encode, paths, lambda hidden: hidden, loss, self._max_tokens_at_once)


@dataclass(frozen=True, kw_only=True)
class RerankLoss(Table):
    """What the loss of a reranker is made of.

    Attributes:
        negatives: Of a row, at most.
        listwise: Weight of the cross-entropy over the documents of a row, beside that of yes and no.
        scores: Weight of a teacher's scores, where rows have them.
        score_temperature: Of the teacher's scores.
    """

    negatives: int = 7
    listwise: float = 0.0
    scores: float = 0.0
    score_temperature: float = 1.0


class RerankObjective:
    """Yes for documents that answer, no for others; perhaps which of them answers best, and what a teacher says.

    Args:
        encode: The model.
        prompts: Its prompts.
        head: Gives the row whose product with a hidden state is the logit, `[C]`.
        loss: What counts how much.
        max_tokens_at_once: Of a part whose activations are held.

    Source: arXiv 2506.05176, equation 2, with the two answers alone in the softmax.
    """

    def __init__(
        self,
        encode: Encoder,
        prompts: RerankPrompts,
        head: Callable[[], Tensor],
        loss: RerankLoss,
        *,
        max_tokens_at_once: int,
    ) -> None:
        self._encode, self._prompts, self._head, self._loss = encode, prompts, head, loss
        self._max_tokens_at_once = max_tokens_at_once

    def __call__(self, batch: Batch[Row]) -> tuple[Losses, int]:
        """Add the gradients of a batch."""
        rows = [row for row in batch.rows if isinstance(row, Example)]
        draw = np.random.default_rng(batch.seed)
        groups = [_documents(row, self._loss.negatives, draw) for row in rows]
        paths: list[TokenPath] = []
        for row, group in zip(rows, groups, strict=True):
            request = RerankRequest(
                query=row.query,
                documents=[group.texts[index] for index in group.chosen],
                instruction=row.instruction,
                truncate=Truncate.END,
            )
            paths += [prompt.path for prompt in self._prompts.render(request)]
        counts = [len(group.chosen) for group in groups]
        labels = torch.tensor(
            [float(place == 0) for count in counts for place in range(count)], device=self._encode.device
        )
        has_scores = self._loss.scores > 0 and all(group.scores is not None for group in groups)

        def loss(logits: Tensor) -> Mapping[str, Tensor]:
            lists = torch.split(logits[:, 0], counts)
            losses = {"yes_no": F.binary_cross_entropy_with_logits(logits[:, 0], labels)}
            if self._loss.listwise:
                chosen = torch.stack([part.logsumexp(dim=0) - part[0] for part in lists])
                losses["listwise"] = self._loss.listwise * chosen.mean()
            if has_scores:
                losses["scores"] = self._loss.scores * score_distillation(
                    lists, [group.scores or () for group in groups], temperature=self._loss.score_temperature
                )
            return losses

        def read(hidden: Tensor) -> Tensor:
            return hidden @ self._head().unsqueeze(1)

        return backward(self._encode, paths, read, loss, self._max_tokens_at_once)


def backward(
    encode: Encoder,
    paths: Sequence[TokenPath],
    read: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor], Mapping[str, Tensor]],
    max_tokens_at_once: int,
) -> tuple[Losses, int]:
    """Add the gradients of a loss over all prompts, whose activations are held a part at a time.

    Args:
        encode: The model.
        paths: The prompts.
        read: What the loss takes of hidden states, row by row.
        loss: Its parts by name.
        max_tokens_at_once: Of a part.

    Returns:
        The loss's parts, and the tokens of all prompts.
    """
    parts = divide(paths, max_tokens_at_once)
    order = torch.tensor([number for part in parts for number in part], device=encode.device).argsort()
    found: dict[str, Tensor] = {}

    def whole(vectors: Tensor) -> Tensor:
        found.update(loss(vectors[order]))
        return torch.stack(list(found.values())).sum()

    def embed(part: Sequence[int]) -> Tensor:
        return read(encode([paths[number] for number in part]))

    total = cached_gradients(parts, embed, whole)
    num_tokens = sum(sum(map(len, path)) for path in paths)
    return {"loss": total, **{name: float(value.detach()) for name, value in found.items()}}, num_tokens


@dataclass(frozen=True)
class _Group:
    """The documents that were drawn of a row: numbers in `texts`, the positive first, and a teacher's scores."""

    texts: Sequence[str]
    chosen: Sequence[int]
    scores: tuple[float, ...] | None


def _documents(row: Example, num_negatives: int, draw: np.random.Generator) -> _Group:
    texts = (*row.positives, *row.negatives)
    positive = int(draw.integers(len(row.positives)))
    negatives = draw.permutation(len(row.negatives))[:num_negatives] + len(row.positives)
    chosen = [positive, *negatives.tolist()]
    return _Group(texts, chosen, tuple(row.scores[index] for index in chosen) if row.scores else None)


def _never_negatives(rows: Sequence[Example], positives: Sequence[str]) -> Tensor:
    """Pairs of rows with one positive or one label, bool `[N, N]`."""
    names = {text: number for number, text in enumerate(dict.fromkeys(positives))}
    texts = torch.tensor([names[text] for text in positives])
    labels = {label: number for number, label in enumerate(dict.fromkeys(row.label for row in rows))}
    marks = torch.tensor([-1 - place if row.label is None else labels[row.label] for place, row in enumerate(rows)])
    same: Tensor = (texts.unsqueeze(0) == texts.unsqueeze(1)) | (marks.unsqueeze(0) == marks.unsqueeze(1))
    return same


def _negatives(documents: Sequence[str], place: np.ndarray) -> tuple[Tensor, Tensor]:
    """Which document is the k-th negative of each row, int64 `[N, K]`, and whether it counts, bool `[N, K]`."""
    width = int(np.diff(place).max()) - 1
    numbers = np.zeros((len(place) - 1, width), dtype=np.int64)
    counted = np.zeros((len(place) - 1, width), dtype=np.bool_)
    for row, (start, stop) in enumerate(itertools.pairwise(place.tolist())):
        for column, number in enumerate(range(start + 1, stop)):
            numbers[row, column] = number
            counted[row, column] = documents[number] != documents[start]
    return torch.from_numpy(numbers), torch.from_numpy(counted)


def distil(vectors: Tensor, taught: Tensor) -> Tensor:
    """Distance from a teacher's unit vectors; of their similarities alone where the teacher's are of another length."""
    if vectors.shape == taught.shape:
        return distillation(vectors, taught)
    return 10 * (vectors @ vectors.T - taught @ taught.T).square().mean()


def score_distillation(logits: Sequence[Tensor], scores: Sequence[Sequence[float]], *, temperature: float) -> Tensor:
    """How far the order of each row's documents is from a teacher's: the mean cross-entropy of the two softmaxes.

    Args:
        logits: Of each row's documents, `[M]`.
        scores: The teacher's.
        temperature: Divides the teacher's.
    """
    losses = []
    for own, said in zip(logits, scores, strict=True):
        target = (torch.tensor(said, dtype=own.dtype, device=own.device) / temperature).softmax(dim=0)
        losses.append(-(target * own.log_softmax(dim=0)).sum())
    return torch.stack(losses).mean()
