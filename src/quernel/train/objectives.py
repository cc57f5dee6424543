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
from quernel.train.drawing import BARE, Drawn, Prompt, draw_rows
from quernel.train.encode import Encoder, divide
from quernel.train.examples import JudgedPair, Passage, Row, places_of
from quernel.train.losses import cosent, distillation
from quernel.train.mixture import Batch
from quernel.train.settings import Table
from quernel.types import EmbeddingRequest, InputType, RerankRequest, TokenPath, Truncate, Vectors

JUDGED_TEMPERATURE = 0.05

Losses = Mapping[str, float]
"""The parts of a loss by name, `loss` the sum."""

Teach = Callable[[Sequence[str], InputType, str | None], Vectors]
"""A teacher's unit vectors of texts that are queries (with an instruction) or documents; NaN where it has none."""


class Objective(Protocol):
    """A loss with its gradients."""

    def __call__(self, batches: Sequence[Batch[Row]]) -> tuple[Losses, int]:
        """Add the gradients of a step to those of the parameters; the loss, and how many tokens were read."""
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
        judged: Weight of judged pairs.
        distillation: Weight of the teacher's vectors, of the texts whose vectors it knows, at the same lengths.
        scores: Weight of the teacher's scores, where rows have them.
        score_temperature: Of the teacher's scores.
    """

    temperature: float = 0.02
    margin: float = 0.1
    negatives: int = 7
    query_query: bool = True
    document_document: bool = True
    dimensions: Mapping[str, float] = field(default_factory=dict)
    judged: float = 1.0
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

    def __call__(self, batches: Sequence[Batch[Row]]) -> tuple[Losses, int]:
        """Add the gradients of a step."""
        drawn = [
            one for batch in batches for one in draw_rows(batch.rows, batch.form, self._loss.negatives, batch.seed)
        ]
        contrast = self._contrast(drawn) if drawn else None
        judged = [
            self._judged([row for row in batch.rows if isinstance(row, JudgedPair)])
            for batch in batches
            if isinstance(batch.rows[0], JudgedPair)
        ]
        passages = [row.text for batch in batches for row in batch.rows if isinstance(row, Passage)]
        parts = [*([contrast] if contrast else []), *judged]
        if passages and self._teach is not None:
            parts.append(Part([Text(text, BARE) for text in passages], lambda vectors: {}))
        texts = [text for part in parts for text in part.texts]
        taught = self._taught(texts)

        def loss(vectors: Tensor) -> Mapping[str, Tensor]:
            found: dict[str, Tensor] = {}
            for part, own in zip(parts, torch.split(vectors, [len(part.texts) for part in parts]), strict=True):
                for name, value in part.loss(own).items():
                    found[name] = found[name] + value if name in found else value
            if taught is not None:
                known, wanted = taught
                own = F.normalize(vectors[known], dim=-1)
                alike = own.shape == wanted.shape
                lost = self._at_lengths(distillation, own, wanted) if alike else similarity_loss(own, wanted)
                found["distillation"] = self._loss.distillation * lost
            return found

        return backward(
            self._encode, paths_of(texts, self._prompts), lambda hidden: hidden, loss, self._max_tokens_at_once
        )

    def _judged(self, rows: Sequence[JudgedPair]) -> "Part":
        scores = torch.tensor([row.score for row in rows], device=self._encode.device)
        prompts = [BARE if row.instruction is None else Prompt(asks=True, instruction=row.instruction) for row in rows]

        def at(first: Tensor, second: Tensor) -> Tensor:
            return cosent(first, second, scores, temperature=JUDGED_TEMPERATURE)

        def loss(vectors: Tensor) -> Mapping[str, Tensor]:
            return {"judged": self._loss.judged * self._at_lengths(at, vectors[: len(rows)], vectors[len(rows) :])}

        first = [Text(row.first, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        second = [Text(row.second, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        return Part([*first, *second], loss)

    def _contrast(self, rows: Sequence[Drawn]) -> "Part":
        texts = [Text(row.query, row.prompt, row.documents[0] if row.translation else None) for row in rows]
        documents = [text for row in rows for text in row.documents]
        texts += [Text(text, row.document_prompt) for row in rows for text in row.documents]
        place = np.cumsum([0, *(len(row.documents) for row in rows)])
        same = _never_negatives(rows).to(self._encode.device)
        rows_of_negatives, counted = _negatives(documents, place)
        scored = [number for number, row in enumerate(rows) if row.scores is not None and self._loss.scores > 0]

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
            if scored:
                spans = list(itertools.pairwise(place.tolist()))
                cosines = [
                    F.normalize(answers[slice(*spans[number])], dim=-1) @ F.normalize(asked[number], dim=-1)
                    for number in scored
                ]
                losses["scores"] = self._loss.scores * score_distillation(
                    [cosine / self._loss.temperature for cosine in cosines],
                    [rows[number].scores or () for number in scored],
                    temperature=self._loss.score_temperature,
                )
            return losses

        return Part(texts, loss)

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

    def _taught(self, texts: Sequence["Text"]) -> tuple[Tensor, Tensor] | None:
        """Which texts the teacher has vectors of, and those; None where nobody asks, or it knows none of them."""
        if self._teach is None or not self._loss.distillation:
            return None
        known: list[int] = []
        vectors: list[Vectors] = []
        for prompt, numbers in places_of([text.prompt if text.taught_as is None else BARE for text in texts]).items():
            kind = InputType.QUERY if prompt.asks else InputType.DOCUMENT
            said = self._teach(
                [texts[number].taught_as or texts[number].text for number in numbers], kind, prompt.instruction
            )
            finite = np.isfinite(said).all(axis=1)
            known += np.array(numbers)[finite].tolist()
            vectors.append(said[finite])
        if not known:
            return None
        device = self._encode.device
        return torch.tensor(known, device=device), torch.from_numpy(np.concatenate(vectors)).to(device)


@dataclass(frozen=True, slots=True)
class Text:
    """A text to be embedded.

    Attributes:
        text: Itself.
        prompt: What stands before it.
        taught_as: Another text whose vector, as a document, is the teacher's for this one.
    """

    text: str
    prompt: Prompt
    taught_as: str | None = None


def paths_of(texts: Sequence[Text], prompts: EmbeddingPrompts) -> list[TokenPath]:
    """Texts with what stands before them."""
    found: dict[int, TokenPath] = {}
    for prompt, numbers in places_of([text.prompt for text in texts]).items():
        request = EmbeddingRequest(
            inputs=[texts[number].text for number in numbers],
            input_type=InputType.QUERY if prompt.asks else InputType.DOCUMENT,
            instruction=prompt.instruction,
            truncate=Truncate.END,
        )
        found.update(zip(numbers, (rendered.path for rendered in prompts.render(request)), strict=True))
    return [found[number] for number in range(len(texts))]


@dataclass(frozen=True, slots=True)
class Part:
    """Texts of a step, and what their vectors `[N, C]` cost."""

    texts: Sequence[Text]
    loss: Callable[[Tensor], Mapping[str, Tensor]]


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

    def __call__(self, batches: Sequence[Batch[Row]]) -> tuple[Losses, int]:
        """Add the gradients of a step."""
        rows = [one for batch in batches for one in draw_rows(batch.rows, batch.form, self._loss.negatives, batch.seed)]
        paths: list[TokenPath] = []
        for row in rows:
            request = RerankRequest(
                query=row.query,
                documents=row.documents,
                instruction=row.prompt.instruction,
                truncate=Truncate.END,
            )
            paths += [prompt.path for prompt in self._prompts.render(request)]
        counts = [len(row.documents) for row in rows]
        labels = torch.tensor(
            [float(place == 0) for count in counts for place in range(count)], device=self._encode.device
        )
        scored = [number for number, row in enumerate(rows) if row.scores is not None and self._loss.scores > 0]

        def loss(logits: Tensor) -> Mapping[str, Tensor]:
            lists = torch.split(logits[:, 0], counts)
            losses = {"yes_no": F.binary_cross_entropy_with_logits(logits[:, 0], labels)}
            if self._loss.listwise:
                chosen = torch.stack([part.logsumexp(dim=0) - part[0] for part in lists])
                losses["listwise"] = self._loss.listwise * chosen.mean()
            if scored:
                losses["scores"] = self._loss.scores * score_distillation(
                    [lists[number] for number in scored],
                    [rows[number].scores or () for number in scored],
                    temperature=self._loss.score_temperature,
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


def _never_negatives(rows: Sequence[Drawn]) -> Tensor:
    """Pairs of rows with one positive or one label, bool `[N, N]`."""
    names = {text: number for number, text in enumerate(dict.fromkeys(row.documents[0] for row in rows))}
    texts = torch.tensor([names[row.documents[0]] for row in rows])
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


def similarity_loss(vectors: Tensor, taught: Tensor) -> Tensor:
    """Distance from a teacher's similarities, for a teacher whose unit vectors are of another length."""
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
